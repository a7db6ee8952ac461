//! Which offsets a table says it has: the ranges named in its commits, walked from the first to the last.
//!
//! Each commit of a landing notes under `landing.ranges` what it took of each partition: `from` (inclusive) and `to`
//! (exclusive), and `gap` where retention had deleted it. Resets, swaps and restores note what they changed.
use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::pipeline::Landing;
use crate::table::{Table, TableError};

/// The half-open range `[from, to)` of offsets.
pub(super) type Span = (i64, i64);

/// What the commits say of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// What was landed and is still there: each range once for each time it was landed.
    pub(super) landed: Vec<Span>,
    /// What retention had deleted before it was read.
    pub(super) gaps: Vec<Span>,
    /// Where the next range has to begin.
    pub(super) next: Option<i64>,
    /// Ranges that do not follow the one before.
    pub(super) breaks: Vec<Break>,
}

/// A range of a commit that does not begin where the one before ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Break {
    /// The version of the commit.
    pub version: u64,
    /// Where it should have begun.
    pub expected: i64,
    /// Where it begins.
    pub from: i64,
}

impl Lane {
    /// How often a row of this offset should be there.
    pub(super) fn times(&self, offset: i64) -> u64 {
        self.landed.iter().filter(|(from, to)| (*from..*to).contains(&offset)).count() as u64
    }

    /// The first offset landed.
    pub(super) fn start(&self) -> Option<i64> {
        self.landed.iter().map(|(from, _)| *from).min()
    }

    fn land(&mut self, version: u64, from: i64, to: i64, gap: bool) {
        if let Some(expected) = self.next
            && expected != from
        {
            self.breaks.push(Break { version, expected, from });
        }
        self.next = Some(to);
        let spans = if gap { &mut self.gaps } else { &mut self.landed };
        match spans.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => spans.push((from, to)),
        }
    }

    /// Takes `[from, to)` out of what is there.
    fn take(&mut self, from: i64, to: i64) {
        let cut = |(a, b): Span| [(a, b.min(from)), (a.max(to), b)].into_iter().filter(|(a, b)| a < b);
        self.landed = self.landed.iter().copied().flat_map(cut).collect();
        self.gaps = self.gaps.iter().copied().flat_map(cut).collect();
    }
}

/// What one commit says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Landed { partition: i32, from: i64, to: i64, gap: bool },
    Moved { partition: i32, to: i64, truncated: bool },
    Swapped { partition: i32, from: i64, to: i64 },
    Restored { version: u64 },
}

#[derive(Deserialize)]
struct Range {
    partition: i32,
    #[serde(default)]
    from: Option<i64>,
    to: i64,
    #[serde(default)]
    gap: bool,
    #[serde(default)]
    truncated: bool,
}

/// What the table's commits say, by partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) lanes: BTreeMap<i32, Lane>,
    /// Whether the log goes back to the table's beginning. If not, what it had before is not known.
    pub(super) whole: bool,
}

/// Reads the commits of `table` that are about `landing`.
pub(super) async fn told(table: &Table, landing: &Landing) -> Result<Told> {
    let failed = |e| TableError::delta("read the history of", table.name(), e);
    let mut infos = std::pin::pin!(table.delta().history(None));
    let mut version = table.version();
    let mut said: Vec<(u64, Said)> = Vec::new();
    let mut oldest = None;
    while let Some(info) = infos.try_next().await.map_err(failed)? {
        let restore = info.info.get("restored").and_then(Value::as_u64);
        // Newest first, and within a commit last first: the whole is turned around below.
        let mut ours = of_commit(&info.info, landing);
        ours.extend(restore.map(|version| Said::Restored { version }));
        said.extend(ours.into_iter().rev().map(|one| (version, one)));
        oldest = Some(version);
        version = version.saturating_sub(1);
    }
    said.reverse();
    Ok(Told { lanes: fold(&said, u64::MAX), whole: oldest.is_none_or(|oldest| oldest == 0) })
}

fn of_commit(info: &std::collections::HashMap<String, Value>, landing: &Landing) -> Vec<Said> {
    let ranges = |key: &str, list: &str| -> Vec<Range> {
        let Some(note) = info.get(key) else { return Vec::new() };
        let text = |name: &str| note.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("stream") != landing.stream || text("topic") != landing.topic {
            return Vec::new();
        }
        note.get(list).and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default()
    };
    let mut said = Vec::new();
    for Range { partition, from, to, gap, .. } in ranges("landing", "ranges") {
        said.extend(from.map(|from| Said::Landed { partition, from, to, gap }));
    }
    for Range { partition, to, truncated, .. } in ranges("reset", "partitions") {
        said.push(Said::Moved { partition, to, truncated });
    }
    for Range { partition, from, to, .. } in ranges("swap", "partitions") {
        said.extend(from.map(|from| Said::Swapped { partition, from, to }));
    }
    said
}

/// What is there after all that was said up to and with `version`.
fn fold(said: &[(u64, Said)], version: u64) -> BTreeMap<i32, Lane> {
    let mut lanes: BTreeMap<i32, Lane> = BTreeMap::new();
    for (at, one) in said.iter().take_while(|(at, _)| *at <= version) {
        match *one {
            Said::Landed { partition, from, to, gap } => {
                lanes.entry(partition).or_default().land(*at, from, to, gap);
            }
            Said::Moved { partition, to, truncated } => {
                let lane = lanes.entry(partition).or_default();
                if truncated {
                    lane.take(to, i64::MAX);
                }
                lane.next = Some(to);
            }
            Said::Swapped { partition, from, to } => {
                let lane = lanes.entry(partition).or_default();
                lane.take(from, to);
                lane.landed.push((from, to));
                // The last span is the one that grows.
                lane.landed.sort_unstable();
            }
            // A restore to a later version cannot be.
            Said::Restored { version } if version < *at => lanes = fold(said, version),
            Said::Restored { .. } => {}
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landed(from: i64, to: i64) -> Said {
        Said::Landed { partition: 0, from, to, gap: false }
    }

    fn lane(said: &[Said]) -> Lane {
        let said: Vec<(u64, Said)> = (1..).zip(said.iter().cloned()).collect();
        fold(&said, u64::MAX).remove(&0).unwrap()
    }

    #[test]
    fn ranges_that_follow_each_other_are_one() {
        let gap = Said::Landed { partition: 0, from: 9, to: 12, gap: true };
        let lane = lane(&[landed(3, 5), landed(5, 9), gap, landed(12, 20)]);
        assert_eq!(lane.landed, [(3, 9), (12, 20)]);
        assert_eq!((lane.gaps.as_slice(), lane.next, lane.start()), ([(9, 12)].as_slice(), Some(20), Some(3)));
        assert_eq!([2, 3, 9, 12, 20].map(|offset| lane.times(offset)), [0, 1, 0, 1, 0]);
        assert!(lane.breaks.is_empty());
    }

    #[test]
    fn a_range_missing_or_landed_twice_is_told() {
        let found = lane(&[landed(0, 5), landed(6, 9), landed(8, 10)]);
        let breaks = [Break { version: 2, expected: 5, from: 6 }, Break { version: 3, expected: 9, from: 8 }];
        assert_eq!(found.breaks, breaks);
        assert_eq!(found.times(8), 2);
    }

    #[test]
    fn a_reset_lands_twice_unless_it_truncates() {
        let back = |truncated| Said::Moved { partition: 0, to: 2, truncated };
        let kept = lane(&[landed(0, 5), back(false), landed(2, 7)]);
        assert_eq!([1, 2, 4, 5].map(|offset| kept.times(offset)), [1, 2, 2, 1]);
        let cut = lane(&[landed(0, 5), back(true), landed(2, 7)]);
        assert_eq!([1, 2, 4, 5, 7].map(|offset| cut.times(offset)), [1, 1, 1, 1, 0]);
        assert!(kept.breaks.is_empty() && cut.breaks.is_empty());
    }

    #[test]
    fn what_was_swapped_is_there_once() {
        let back = Said::Moved { partition: 0, to: 2, truncated: false };
        let swap = Said::Swapped { partition: 0, from: 1, to: 4 };
        let lane = lane(&[landed(0, 5), back, landed(2, 7), swap, landed(7, 9)]);
        assert_eq!([0, 1, 2, 3, 4, 5, 8].map(|offset| lane.times(offset)), [1, 1, 1, 1, 2, 1, 1]);
    }

    #[test]
    fn a_restore_brings_back_what_was_there_then() {
        let lane = lane(&[landed(0, 5), landed(5, 9), Said::Restored { version: 1 }, landed(5, 7)]);
        assert_eq!((lane.landed.as_slice(), lane.next), ([(0, 7)].as_slice(), Some(7)));
        assert!(lane.breaks.is_empty());
    }
}
