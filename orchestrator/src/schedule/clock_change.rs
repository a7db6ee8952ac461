//! What happens to a schedule when clocks are put forward or back.
//!
//! Times that are fixed ("at 02:30") follow the policy of their schedule. Times that are not ("every half hour") need none: they follow the clock on
//! the wall, so what a gap leaves out does not come, and what comes twice ticks twice.
//!
//! A wall time becomes no, one or two instants. Because near a change a later wall time can be an earlier instant, the searches here look at every
//! wall time that could still give a nearer instant than the best one found, and at no other.
use chrono::offset::LocalResult;
use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// What becomes of a fixed time that a change of clocks leaves out (02:30 where 02:00 becomes 03:00).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// It does not tick that day.
    Skip,
    /// It ticks at the first instant after the gap (03:00). Several such times are one tick.
    #[default]
    Next,
    /// It ticks when the time would have come by the clock as it was before (03:30 on the new one).
    Offset,
}

/// What becomes of a fixed time that comes twice (01:30 where 02:00 becomes 01:00).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It ticks when it comes first.
    #[default]
    First,
    /// It ticks when it comes again.
    Second,
    /// It ticks both times.
    Both,
}

/// All values of [`Gap`] by the name used in DAG files.
pub const GAPS: &[(&str, Gap)] = &[("skip", Gap::Skip), ("next", Gap::Next), ("offset", Gap::Offset)];

/// All values of [`Overlap`] by the name used in DAG files.
pub const OVERLAPS: &[(&str, Overlap)] =
    &[("first", Overlap::First), ("second", Overlap::Second), ("both", Overlap::Both)];

/// The policy of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockChange {
    /// For times that do not come.
    pub gap: Gap,
    /// For times that come twice.
    pub overlap: Overlap,
}

/// No change of clocks moves them further than a day and two hours (Samoa left out a whole day); two such changes are further apart than this.
const AROUND: TimeDelta = TimeDelta::days(2);

/// The first tick at or after `from`, which is a whole second. `next(wall)` is the first time at or after `wall`.
pub(super) fn next(
    zone: Tz,
    policy: Option<ClockChange>,
    from: DateTime<Utc>,
    next: impl Fn(NaiveDateTime) -> Option<NaiveDateTime>,
) -> Option<DateTime<Utc>> {
    let (least, most) = offsets(zone, from - AROUND, from + AROUND);
    let mut wall = next(from.naive_utc() + least)?;
    let mut best: Option<DateTime<Utc>> = None;
    let mut most = most;
    loop {
        for instant in instants(zone, policy, wall).into_iter().flatten() {
            if instant >= from && best.is_none_or(|best| instant < best) {
                best = Some(instant);
                most = offsets(zone, from - AROUND, instant).1;
            }
        }
        let Some(after) = next(wall + TimeDelta::seconds(1)) else { return best };
        if best.is_some_and(|best| after > best.naive_utc() + most) {
            return best;
        }
        wall = after;
    }
}

/// The last tick at or before `until`, which is a whole second. `previous(wall)` is the last time at or before `wall`.
pub(super) fn previous(
    zone: Tz,
    policy: Option<ClockChange>,
    until: DateTime<Utc>,
    previous: impl Fn(NaiveDateTime) -> Option<NaiveDateTime>,
) -> Option<DateTime<Utc>> {
    let (least, most) = offsets(zone, until - AROUND, until + AROUND);
    let mut wall = previous(until.naive_utc() + most)?;
    let mut best: Option<DateTime<Utc>> = None;
    let mut least = least;
    loop {
        for instant in instants(zone, policy, wall).into_iter().flatten() {
            if instant <= until && best.is_none_or(|best| instant > best) {
                best = Some(instant);
                least = offsets(zone, instant - AROUND, until).0;
            }
        }
        let Some(before) = previous(wall - TimeDelta::seconds(1)) else { return best };
        if best.is_some_and(|best| before < best.naive_utc() + least) {
            return best;
        }
        wall = before;
    }
}

/// The instants at which a wall time ticks. `policy`: that of fixed times; absent, the clock on the wall is followed.
fn instants(zone: Tz, policy: Option<ClockChange>, wall: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
    let utc = |at: DateTime<Tz>| Some(at.with_timezone(&Utc));
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(at) => [utc(at), None],
        LocalResult::Ambiguous(first, second) => match policy.map(|policy| policy.overlap) {
            Some(Overlap::First) => [utc(first.min(second)), None],
            Some(Overlap::Second) => [utc(first.max(second)), None],
            Some(Overlap::Both) | None => [utc(first), utc(second)],
        },
        LocalResult::None => match policy.map(|policy| policy.gap) {
            Some(Gap::Skip) | None => [None, None],
            Some(gap) => [over_gap(zone, gap, wall), None],
        },
    }
}

/// Where a wall time that does not come ticks.
fn over_gap(zone: Tz, gap: Gap, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    // Whatever the offset, the gap lies between these two; within it the clock goes from before `wall` to after it.
    let mut low = wall.and_utc().timestamp() - AROUND.num_seconds();
    let mut high = wall.and_utc().timestamp() + AROUND.num_seconds();
    let face = |second: i64| DateTime::from_timestamp(second, 0).map(|at| at.naive_utc() + offset(zone, at));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if face(middle)? > wall { high = middle } else { low = middle }
    }
    let change = DateTime::from_timestamp(high, 0)?;
    match gap {
        Gap::Skip => None,
        Gap::Next => Some(change),
        Gap::Offset => Some((wall - offset(zone, change - TimeDelta::seconds(1))).and_utc()),
    }
}

fn offset(zone: Tz, at: DateTime<Utc>) -> TimeDelta {
    TimeDelta::seconds(i64::from(zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()))
}

/// The smallest and the largest offset of the zone in `[from, to]`, as far as they last for a day.
fn offsets(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> (TimeDelta, TimeDelta) {
    let at_end = offset(zone, to);
    let (mut least, mut most) = (at_end, at_end);
    let mut at = from;
    while at < to {
        let here = offset(zone, at);
        least = least.min(here);
        most = most.max(here);
        at += TimeDelta::days(1);
    }
    (least, most)
}
