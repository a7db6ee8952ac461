//! Data intervals: the half-open spans between two ticks. A run of an interval starts at its end.
//!
//! The rules are those of Airflow's `CronDataIntervalTimetable`: an interval begins where the last one ended; without catch-up the intervals missed
//! are skipped, except for the latest complete one. A DAG without `start` behaves as if it started at the tick before it was first seen.
use chrono::{DateTime, Utc};

use super::CronSchedule;
use crate::dag::CronTrigger;
use crate::run::Interval;

/// Returns the next interval of a trigger, whether or not it has ended yet. Its run is due at the interval's end.
///
/// `last_end`: where the interval of the last scheduled run ended. `first_seen`: when the DAG's trigger was first seen.
pub fn next(
    trigger: &CronTrigger,
    last_end: Option<DateTime<Utc>>,
    first_seen: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<Interval> {
    let schedule = &trigger.schedule;
    let earliest = match trigger.start {
        Some(start) => schedule.next(start, true)?,
        None => schedule.previous(first_seen, true)?,
    };
    let earliest = if trigger.catch_up { earliest } else { earliest.max(latest_start(schedule, now)?) };
    let start = match last_end {
        // A changed expression: the new intervals begin at a tick of the new one.
        Some(end) => schedule.previous(end, true)?.max(earliest),
        None => earliest,
    };
    Some(Interval { start, end: schedule.next(start, false)? })
}

/// The start of the latest interval that has ended.
fn latest_start(schedule: &CronSchedule, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    schedule.previous(schedule.previous(now, true)?, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Tz;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn trigger(cron: &str, zone: Tz, start: Option<&str>, catch_up: bool) -> CronTrigger {
        CronTrigger { schedule: CronSchedule::new(cron, zone).unwrap(), start: start.map(at), catch_up }
    }

    fn interval(start: &str, end: &str) -> Interval {
        Interval { start: at(start), end: at(end) }
    }

    fn next(trigger: &CronTrigger, last: Option<DateTime<Utc>>, seen: DateTime<Utc>, now: DateTime<Utc>) -> Interval {
        super::next(trigger, last, seen, now).unwrap()
    }

    #[test]
    fn with_catch_up_every_interval_since_the_start_comes_in_order() {
        let daily = trigger("0 11 * * *", Tz::UTC, Some("2026-11-01T00:00:00Z"), true);
        let now = at("2026-11-20T12:00:00Z");
        let mut last = None;
        for day in 1..=19 {
            let next = next(&daily, last, now, now);
            assert_eq!(next.start, at(&format!("2026-11-{day:02}T11:00:00Z")));
            last = Some(next.end);
        }
        assert_eq!(next(&daily, last, now, now), interval("2026-11-20T11:00:00Z", "2026-11-21T11:00:00Z"));
    }

    #[test]
    fn without_catch_up_only_the_latest_complete_interval_is_left() {
        let daily = trigger("0 11 * * *", Tz::UTC, Some("2026-11-01T00:00:00Z"), false);
        let wanted = interval("2026-11-19T11:00:00Z", "2026-11-20T11:00:00Z");
        assert_eq!(next(&daily, None, at("2026-11-20T12:00:00Z"), at("2026-11-20T12:00:00Z")), wanted);
        assert_eq!(
            next(&daily, Some(at("2026-11-05T11:00:00Z")), at("2026-11-01T00:00:00Z"), at("2026-11-20T12:00:00Z")),
            wanted
        );
        // Exactly on the boundary the interval that ends there is complete.
        assert_eq!(next(&daily, None, at("2026-11-20T11:00:00Z"), at("2026-11-20T11:00:00Z")), wanted);
    }

    #[test]
    fn without_a_start_the_first_run_is_at_the_first_tick_after_the_dag_was_seen() {
        let daily = trigger("0 11 * * *", Tz::UTC, None, false);
        let seen = at("2026-11-20T10:00:00Z");
        let first = interval("2026-11-19T11:00:00Z", "2026-11-20T11:00:00Z");
        assert_eq!(next(&daily, None, seen, seen), first);
        assert_eq!(next(&daily, None, seen, at("2026-11-20T11:00:00Z")), first);
    }

    #[test]
    fn a_start_between_ticks_waits_for_the_next_one() {
        let daily = trigger("0 11 * * *", Tz::UTC, Some("2026-11-20T12:00:00Z"), true);
        let now = at("2026-11-20T12:00:00Z");
        assert_eq!(next(&daily, None, now, now), interval("2026-11-21T11:00:00Z", "2026-11-22T11:00:00Z"));
    }

    #[test]
    fn months_and_days_of_23_and_25_hours() {
        let monthly = trigger("0 0 1 * *", Tz::UTC, Some("2026-01-31T00:00:00Z"), true);
        assert_eq!(
            next(&monthly, None, at("2026-01-31T00:00:00Z"), at("2026-06-01T00:00:00Z")),
            interval("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
        );
        let daily = trigger("0 0 * * *", Tz::America__New_York, Some("2026-03-08T05:00:00Z"), true);
        assert_eq!(
            next(&daily, None, at("2026-03-08T05:00:00Z"), at("2026-06-01T00:00:00Z")),
            interval("2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z")
        );
        assert_eq!(
            next(&daily, Some(at("2026-11-01T04:00:00Z")), at("2026-03-08T05:00:00Z"), at("2026-12-01T00:00:00Z")),
            interval("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z")
        );
    }

    #[test]
    fn a_changed_expression_goes_on_from_where_the_old_one_ended() {
        let hourly = trigger("0 * * * *", Tz::UTC, Some("2026-11-01T00:00:00Z"), true);
        assert_eq!(
            next(&hourly, Some(at("2026-11-20T11:30:00Z")), at("2026-11-01T00:00:00Z"), at("2026-11-20T13:00:00Z")),
            interval("2026-11-20T11:00:00Z", "2026-11-20T12:00:00Z")
        );
    }
}
