//! What a table needs done in the background, as a pure function of how it stands.
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The least that a log keeps, whatever is set: handles that were not used for a while look again after ten minutes.
pub const LEAST_LOG_RETENTION: Duration = Duration::from_hours(1);

/// Which small files are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// A file below this many bytes is small.
    pub small_bytes: u64,
    /// Files are put together up to about this many bytes.
    pub target_bytes: u64,
    /// Fewer files than this of about one size are left alone.
    pub min_files: usize,
    /// A file younger than this is left alone: whoever just wrote it may still be at work.
    pub min_age: Duration,
}

/// How a table is kept in shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether anything is done by itself.
    pub enabled: bool,
    /// Versions between two checkpoints of the log.
    pub checkpoint_every: u64,
    /// Small files.
    pub compaction: Compaction,
    /// How long the log keeps versions: as far as one can look back. What the table itself says goes first.
    pub log_retention: Duration,
    /// Time between two clean-ups of the log.
    pub clean_every: Duration,
    /// How long files that no version names any more are kept.
    pub vacuum_retention: Duration,
    /// Time between two vacuums by itself.
    pub vacuum_every: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            checkpoint_every: 50,
            compaction: Compaction {
                small_bytes: 32 << 20,
                target_bytes: 128 << 20,
                min_files: 8,
                min_age: Duration::from_mins(2),
            },
            log_retention: Duration::from_hours(30 * 24),
            clean_every: Duration::from_hours(1),
            vacuum_retention: Duration::from_hours(7 * 24),
            vacuum_every: Duration::from_hours(24),
        }
    }
}

/// How a table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Its newest version.
    pub version: u64,
    /// The version of its newest checkpoint.
    pub checkpoint: Option<u64>,
    /// Groups of small files that could each become one.
    pub groups: usize,
    /// When its log was last cleaned up, or it was first looked at.
    pub cleaned: DateTime<Utc>,
    /// When it was last vacuumed, or first looked at.
    pub vacuumed: DateTime<Utc>,
}

/// Something to do to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    /// Put small files together.
    Optimize,
    /// Write a checkpoint of the log.
    Checkpoint,
    /// Delete versions that are older than the log is kept.
    CleanLog,
    /// Delete files that no version names.
    Vacuum,
}

/// What to do now, in this order.
///
/// Files come before the checkpoint, which is smaller then; the log is cleaned after it, as far as a checkpoint allows.
pub fn decide(condition: &Condition, policy: &Policy, now: DateTime<Utc>) -> Vec<Chore> {
    if !policy.enabled {
        return Vec::new();
    }
    let due = |last: DateTime<Utc>, every: Duration| now - last >= TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
    let behind = condition.checkpoint.map_or(condition.version, |at| condition.version.saturating_sub(at));
    let chores = [
        (Chore::Optimize, condition.groups > 0),
        (Chore::Checkpoint, behind >= policy.checkpoint_every.max(1)),
        (Chore::CleanLog, due(condition.cleaned, policy.clean_every)),
        (Chore::Vacuum, due(condition.vacuumed, policy.vacuum_every)),
    ];
    chores.into_iter().filter_map(|(chore, wanted)| wanted.then_some(chore)).collect()
}

/// A data file as a candidate for compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub written: DateTime<Utc>,
}

/// Groups of small files, each to become one, as indices into `files`; a group's files are in the order they were
/// written.
///
/// Files of about one size (within a factor of eight) go together, so that a file is rewritten a few times in its life
/// and not with every handful of new ones; there are never more than `min_files` small files of one size for long.
pub fn groups(files: &[Candidate], compaction: &Compaction, now: DateTime<Utc>) -> Vec<Vec<usize>> {
    let age = TimeDelta::from_std(compaction.min_age).unwrap_or(TimeDelta::MAX);
    let small = |file: &Candidate| file.size < compaction.small_bytes.min(compaction.target_bytes);
    let mut order: Vec<usize> =
        (0..files.len()).filter(|index| small(&files[*index]) && now - files[*index].written >= age).collect();
    let tier = |index: usize| files[index].size.max(1).ilog2() / 3;
    order.sort_by_key(|index| (tier(*index), files[*index].written, &files[*index].path));
    let mut groups = Vec::new();
    let mut group: Vec<usize> = Vec::new();
    let mut bytes = 0;
    let mut close = |group: &mut Vec<usize>, bytes: &mut u64, full: bool| {
        let ready = std::mem::take(group);
        *bytes = 0;
        if ready.len() >= if full { 2 } else { compaction.min_files.max(2) } {
            groups.push(ready);
        }
    };
    for index in order {
        if group.first().is_some_and(|first| tier(*first) != tier(index)) {
            close(&mut group, &mut bytes, false);
        }
        if bytes + files[index].size > compaction.target_bytes {
            close(&mut group, &mut bytes, true);
        }
        bytes += files[index].size;
        group.push(index);
    }
    close(&mut group, &mut bytes, false);
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).unwrap()
    }

    fn file(n: u32, size: u64, age_s: i64) -> Candidate {
        Candidate { path: format!("part-{n:04}"), size, written: now() - TimeDelta::seconds(age_s) }
    }

    fn condition() -> Condition {
        Condition { version: 49, checkpoint: None, groups: 0, cleaned: now(), vacuumed: now() }
    }

    #[test]
    fn nothing_is_done_before_it_is_due() {
        let policy = Policy::default();

        assert_eq!(decide(&condition(), &policy, now()), []);
        let behind = Condition { version: 149, checkpoint: Some(100), ..condition() };
        assert_eq!(decide(&behind, &policy, now()), []);
    }

    #[test]
    fn all_that_is_due_is_done_in_order() {
        let policy = Policy::default();
        let due = Condition { version: 150, checkpoint: Some(100), groups: 3, ..condition() };
        let tomorrow = now() + TimeDelta::hours(24);

        let chores = [Chore::Optimize, Chore::Checkpoint, Chore::CleanLog, Chore::Vacuum];
        assert_eq!(decide(&due, &policy, tomorrow), chores);
        assert_eq!(decide(&due, &Policy { enabled: false, ..policy }, tomorrow), []);
    }

    #[test]
    fn few_young_or_large_files_are_left_alone() {
        let compaction = Compaction { min_files: 4, ..Policy::default().compaction };
        let files = [file(1, 900, 500), file(2, 900, 500), file(3, 900, 500), file(4, 900, 60), file(5, 64 << 20, 500)];

        assert_eq!(groups(&files, &compaction, now()), Vec::<Vec<usize>>::new());
        let older =
            [file(1, 900, 500), file(2, 900, 700), file(3, 900, 600), file(4, 900, 800), file(5, 64 << 20, 500)];
        assert_eq!(groups(&older, &compaction, now()), [vec![3, 1, 2, 0]]);
    }

    #[test]
    fn a_group_ends_at_the_target_size() {
        let compaction =
            Compaction { small_bytes: 1 << 20, target_bytes: 1 << 20, min_files: 3, min_age: Duration::ZERO };
        let files: Vec<Candidate> = (0..10).map(|n| file(n, 300 << 10, 100)).collect();

        assert_eq!(groups(&files, &compaction, now()), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7, 8]]);
    }

    /// The bound that `groups` promises, by playing a stream of equal commits through it.
    #[test]
    fn a_steady_stream_keeps_few_files_and_rewrites_little() {
        let compaction =
            Compaction { small_bytes: 32 << 20, target_bytes: 128 << 20, min_files: 8, min_age: Duration::ZERO };
        let (mut files, mut written, mut most) = (Vec::new(), 0_u64, 0);
        let commits = 100_000;
        for n in 0..commits {
            files.push(file(n, 4_000, -i64::from(n)));
            most = most.max(files.len());
            let at = now() + TimeDelta::seconds(i64::from(n));
            for group in groups(&files, &compaction, at).into_iter().rev() {
                let size: u64 = group.iter().map(|index| files[*index].size).sum();
                written += size;
                let path = format!("made-{n:06}");
                files.push(Candidate { path, size, written: at });
                let mut gone = group;
                gone.sort_unstable();
                for index in gone.into_iter().rev() {
                    files.remove(index);
                }
            }
        }
        let total: u64 = files.iter().map(|file| file.size).sum();
        assert_eq!(total, 4_000 * u64::from(commits));
        assert!(most < 60, "{most} files at once");
        assert!(written < total * 6, "{written} bytes written for {total}");
    }
}
