//! Data intervals: the half-open spans between two ticks. A run of an interval starts at its end.
//!
//! The rules are those of Airflow's `CronDataIntervalTimetable`: an interval begins where the last one ended; without catch-up the intervals missed
//! are skipped, except for the latest complete one, and with a limited catch-up except for so many of them. A DAG without `start` behaves as if it started at the tick before it was first seen.
use chrono::{DateTime, Utc};

use super::Schedule;
use crate::dag::ScheduleTrigger;
use crate::run::Interval;

/// Returns the next interval of a trigger, whether or not it has ended yet. Its run is due at the interval's end.
///
/// `last_end`: where the interval of the last scheduled run ended. `first_seen`: when the DAG's trigger was first seen.
pub fn next(
    trigger: &ScheduleTrigger,
    last_end: Option<DateTime<Utc>>,
    first_seen: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<Interval> {
    let schedule = &trigger.schedule;
    let earliest = match trigger.start {
        Some(start) => schedule.next(start, true)?,
        None => schedule.previous(first_seen, true)?,
    };
    let most = if trigger.catch_up { trigger.catch_up_limit } else { Some(1) };
    let earliest = match most {
        Some(most) => earliest.max(latest_starts(schedule, now, most)?),
        None => earliest,
    };
    let start = match last_end {
        // A changed expression: the new intervals begin at a tick of the new one.
        Some(end) => schedule.previous(end, true)?.max(earliest),
        None => earliest,
    };
    Some(Interval { start, end: schedule.next(start, false)? })
}

/// Returns the interval of a run that somebody asked for: the latest one that had ended by then, as Airflow infers it.
pub fn asked_for(schedule: &Schedule, asked_at: DateTime<Utc>) -> Option<Interval> {
    let end = schedule.previous(asked_at, true)?;
    Some(Interval { start: schedule.previous(end, false)?, end })
}

/// The start of the earliest of the latest `most` intervals that have ended; fewer, if there are not so many.
fn latest_starts(schedule: &Schedule, now: DateTime<Utc>, most: u32) -> Option<DateTime<Utc>> {
    let mut start = schedule.previous(now, true)?;
    for _ in 0..most {
        let Some(earlier) = schedule.previous(start, false) else { break };
        start = earlier;
    }
    Some(start)
}

/// The intervals that lie within `[from, to)`, in order, for a backfill: both ends are rounded inwards to ticks.
pub fn between(schedule: &Schedule, from: DateTime<Utc>, to: DateTime<Utc>) -> impl Iterator<Item = Interval> + '_ {
    let mut start = schedule.next(from, true);
    std::iter::from_fn(move || {
        let interval = Interval { start: start?, end: schedule.next(start?, false)? };
        start = Some(interval.end);
        Some(interval).filter(|interval| interval.end <= to)
    })
    .fuse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::Tz;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn trigger(cron: &str, zone: Tz, start: Option<&str>, catch_up: bool) -> ScheduleTrigger {
        ScheduleTrigger {
            schedule: Schedule::cron(cron, zone).unwrap(),
            start: start.map(at),
            catch_up,
            catch_up_limit: None,
        }
    }

    fn interval(start: &str, end: &str) -> Interval {
        Interval { start: at(start), end: at(end) }
    }

    fn next(
        trigger: &ScheduleTrigger,
        last: Option<DateTime<Utc>>,
        seen: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Interval {
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
    fn a_limited_catch_up_makes_up_for_the_latest_intervals_in_order() {
        let daily = ScheduleTrigger {
            catch_up_limit: Some(3),
            ..trigger("0 11 * * *", Tz::UTC, Some("2026-11-01T00:00:00Z"), true)
        };
        let now = at("2026-11-20T12:00:00Z");
        let mut last = None;
        let starts: Vec<String> = (0..4)
            .map(|_| {
                let next = next(&daily, last, now, now);
                last = Some(next.end);
                next.start.format("%d").to_string()
            })
            .collect();
        assert_eq!(starts, ["17", "18", "19", "20"]);
        let all = ScheduleTrigger { catch_up_limit: Some(99), ..daily };
        assert_eq!(next(&all, None, now, now).start, at("2026-11-01T11:00:00Z"), "there are not so many");
    }

    #[test]
    fn a_range_holds_the_intervals_that_lie_in_it_whole() {
        let schedule = Schedule::cron("0 0 * * *", Tz::UTC).unwrap();
        let days = |from: &str, to: &str| {
            between(&schedule, at(from), at(to))
                .map(|interval| interval.start.format("%d").to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(days("2026-11-01T00:00:00Z", "2026-11-04T00:00:00Z"), ["01", "02", "03"]);
        assert_eq!(days("2026-11-01T00:00:01Z", "2026-11-03T23:59:59Z"), ["02"]);
        assert_eq!(days("2026-11-04T00:00:00Z", "2026-11-01T00:00:00Z"), [""; 0]);
        // Ends of months, and a month's last day as the tick.
        let monthly = Schedule::cron("0 0 L * *", Tz::UTC).unwrap();
        let spans: Vec<String> = between(&monthly, at("2027-12-01T00:00:00Z"), at("2028-04-01T00:00:00Z"))
            .map(|interval| format!("{} {}", interval.start.format("%m-%d"), interval.end.format("%m-%d")))
            .collect();
        assert_eq!(spans, ["12-31 01-31", "01-31 02-29", "02-29 03-31"]);
    }

    #[test]
    fn a_run_that_somebody_asks_for_covers_the_latest_interval_that_has_ended() {
        let daily = Schedule::cron("0 0 * * *", Tz::UTC).unwrap();
        let wanted = interval("2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z");
        assert_eq!(asked_for(&daily, at("2026-11-25T01:00:00Z")), Some(wanted));
        assert_eq!(asked_for(&daily, at("2026-11-25T00:00:00Z")), Some(wanted), "what ends now has ended");
        assert_eq!(asked_for(&daily, at("2026-11-25T23:59:59.999Z")), Some(wanted));
        let monthly = Schedule::cron("0 0 1 * *", Tz::UTC).unwrap();
        let wanted = interval("2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
        assert_eq!(asked_for(&monthly, at("2028-03-31T12:00:00Z")), Some(wanted));
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
