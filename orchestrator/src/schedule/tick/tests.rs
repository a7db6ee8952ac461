//! Ticks against known answers, and against an oracle that knows nothing but minutes: it looks at each of them.
use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, NaiveDateTime, TimeZone, Timelike, Weekday};

use super::super::clock_change::{GAPS, Gap, OVERLAPS, Overlap};
use super::*;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
}

fn cron(expression: &str, zone: &str) -> Schedule {
    Schedule::cron(expression, zone.parse().unwrap()).unwrap()
}

fn show(schedule: &Schedule, tick: DateTime<Utc>) -> String {
    tick.with_timezone(&schedule.zone()).format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn ticks(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
    schedule.ticks(at(from)).take(count).map(|tick| show(schedule, tick)).collect()
}

/// Expression, zone, from, and the first ticks after it.
type Known = (&'static str, &'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const KNOWN: &[Known] = &[
    ("0 11 * * *", "UTC", "2026-11-20T10:59:59Z", &["2026-11-20T11:00:00+00:00", "2026-11-21T11:00:00+00:00"]),
    ("0 11 * * *", "UTC", "2026-11-20T11:00:00Z", &["2026-11-21T11:00:00+00:00"]),
    ("0 11 * * *", "UTC", "2026-11-20T10:59:59.999Z", &["2026-11-20T11:00:00+00:00"]),
    // Sunday is 0 and 7, also in ranges.
    ("0 0 * * 0", "UTC", "2026-11-20T00:00:00Z", &["2026-11-22T00:00:00+00:00"]),
    ("0 0 * * 7", "UTC", "2026-11-20T00:00:00Z", &["2026-11-22T00:00:00+00:00"]),
    ("0 0 * * sun", "UTC", "2026-11-20T00:00:00Z", &["2026-11-22T00:00:00+00:00"]),
    ("0 0 * * 1", "UTC", "2026-11-20T00:00:00Z", &["2026-11-23T00:00:00+00:00"]),
    ("0 0 * * 5-7", "UTC", "2026-11-20T00:00:00Z", &["2026-11-21T00:00:00+00:00", "2026-11-22T00:00:00+00:00", "2026-11-27T00:00:00+00:00"]),
    ("0 0 * * FRI-SUN", "UTC", "2026-11-20T00:00:00Z", &["2026-11-21T00:00:00+00:00", "2026-11-22T00:00:00+00:00", "2026-11-27T00:00:00+00:00"]),
    ("0 0 * JAN,jul mon", "UTC", "2026-11-20T00:00:00Z", &["2027-01-04T00:00:00+00:00"]),
    // Either day field is enough; `+` asks for both; a step of a star is not a star.
    ("0 0 13 * 5", "UTC", "2026-11-01T00:00:00Z", &["2026-11-06T00:00:00+00:00", "2026-11-13T00:00:00+00:00", "2026-11-20T00:00:00+00:00", "2026-11-27T00:00:00+00:00", "2026-12-04T00:00:00+00:00", "2026-12-11T00:00:00+00:00", "2026-12-13T00:00:00+00:00"]),
    ("0 0 13 * +5", "UTC", "2026-03-14T00:00:00Z", &["2026-11-13T00:00:00+00:00", "2027-08-13T00:00:00+00:00"]),
    ("0 0 1,15 * 3", "UTC", "2010-01-25T00:00:00Z", &["2010-01-27T00:00:00+00:00", "2010-02-01T00:00:00+00:00", "2010-02-03T00:00:00+00:00"]),
    // Month ends and leap years.
    ("0 0 L * *", "UTC", "2028-01-31T00:00:00Z", &["2028-02-29T00:00:00+00:00", "2028-03-31T00:00:00+00:00"]),
    ("0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", &["2026-03-31T00:00:00+00:00", "2026-05-31T00:00:00+00:00"]),
    ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]),
    ("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00+00:00"]),
    ("0 0 L 2 *", "UTC", "2099-03-01T00:00:00Z", &["2100-02-28T00:00:00+00:00"]),
    ("59 23 31 12 *", "UTC", "2026-12-31T23:59:00Z", &["2027-12-31T23:59:00+00:00"]),
    // The nearest weekday stays within the month.
    ("0 0 15W * *", "UTC", "2026-11-01T00:00:00Z", &["2026-11-16T00:00:00+00:00", "2026-12-15T00:00:00+00:00"]),
    ("0 0 1W * *", "UTC", "2026-07-31T00:00:00Z", &["2026-08-03T00:00:00+00:00", "2026-09-01T00:00:00+00:00"]),
    ("0 0 31W * *", "UTC", "2026-01-01T00:00:00Z", &["2026-01-30T00:00:00+00:00", "2026-03-31T00:00:00+00:00", "2026-05-29T00:00:00+00:00"]),
    ("0 0 LW * *", "UTC", "2026-01-01T00:00:00Z", &["2026-01-30T00:00:00+00:00", "2026-02-27T00:00:00+00:00", "2026-03-31T00:00:00+00:00"]),
    ("0 0 * * FRI#2", "UTC", "2026-11-01T00:00:00Z", &["2026-11-13T00:00:00+00:00", "2026-12-11T00:00:00+00:00"]),
    ("0 0 * * 1#5", "UTC", "2026-01-01T00:00:00Z", &["2026-03-30T00:00:00+00:00", "2026-06-29T00:00:00+00:00"]),
    ("0 0 * * 0#1", "UTC", "2026-11-20T00:00:00Z", &["2026-12-06T00:00:00+00:00"]),
    ("0 0 * * 7#1", "UTC", "2026-11-20T00:00:00Z", &["2026-12-06T00:00:00+00:00"]),
    ("0 0 * * 5L", "UTC", "2026-11-01T00:00:00Z", &["2026-11-27T00:00:00+00:00", "2026-12-25T00:00:00+00:00"]),
    ("0 0 ? * MON#1", "UTC", "2026-11-03T00:00:00Z", &["2026-12-07T00:00:00+00:00"]),
    ("0 15 10 ? * 6L 2027", "UTC", "2026-11-03T00:00:00Z", &["2027-01-30T10:15:00+00:00"]),
    // Seconds, steps, lists, nicknames.
    ("*/20 * * * * *", "UTC", "2026-11-20T00:00:00Z", &["2026-11-20T00:00:20+00:00", "2026-11-20T00:00:40+00:00", "2026-11-20T00:01:00+00:00"]),
    ("5-40/17 7 * * *", "UTC", "2026-11-20T07:00:00Z", &["2026-11-20T07:05:00+00:00", "2026-11-20T07:22:00+00:00", "2026-11-20T07:39:00+00:00", "2026-11-21T07:05:00+00:00"]),
    ("0 */7 * * *", "UTC", "2026-11-20T00:00:00Z", &["2026-11-20T07:00:00+00:00", "2026-11-20T14:00:00+00:00", "2026-11-20T21:00:00+00:00", "2026-11-21T00:00:00+00:00"]),
    ("@monthly", "UTC", "2026-11-20T00:00:00Z", &["2026-12-01T00:00:00+00:00"]),
    ("@weekly", "UTC", "2026-11-20T00:00:00Z", &["2026-11-22T00:00:00+00:00"]),
    ("@yearly", "UTC", "2026-11-20T00:00:00Z", &["2027-01-01T00:00:00+00:00"]),
    ("@hourly", "UTC", "2026-11-20T00:59:59Z", &["2026-11-20T01:00:00+00:00"]),
    ("@midnight", "Europe/Berlin", "2026-11-20T00:00:00Z", &["2026-11-21T00:00:00+01:00"]),
    // Clocks, by default: once, at the first instant after a gap, and when a time comes first.
    ("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", &["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]),
    ("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]),
    // What is not a fixed time follows the clock.
    ("30 * * * *", "America/New_York", "2026-11-01T05:00:00Z", &["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "2026-11-01T02:30:00-05:00"]),
    ("30 * * * *", "America/New_York", "2026-03-08T06:00:00Z", &["2026-03-08T01:30:00-05:00", "2026-03-08T03:30:00-04:00"]),
    ("0 */2 * * *", "America/New_York", "2026-03-08T05:00:00Z", &["2026-03-08T04:00:00-04:00", "2026-03-08T06:00:00-04:00"]),
    ("*/30 0-2 * * *", "America/New_York", "2026-11-01T05:15:00Z", &["2026-11-01T01:30:00-04:00", "2026-11-01T01:00:00-05:00", "2026-11-01T01:30:00-05:00", "2026-11-01T02:00:00-05:00"]),
    // Midnight that does not come (São Paulo), half an hour (Lord Howe), a whole day (Samoa).
    ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00-03:00", &["2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"]),
    ("0 0 9 10 * *", "America/Sao_Paulo", "2018-10-17T05:00:00-04:00", &["2018-11-10T09:00:00-02:00"]),
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", &["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"]),
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", &["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"]),
    ("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00-10:00", &["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]),
    ("0 9 * * *", "Asia/Kathmandu", "2026-11-20T00:00:00Z", &["2026-11-20T09:00:00+05:45"]),
    ("0 9 * * *", "Pacific/Chatham", "2026-09-26T12:00:00Z", &["2026-09-27T09:00:00+13:45"]),
];

#[test]
fn known_answers() {
    for (expression, zone, from, wanted) in KNOWN {
        assert_eq!(ticks(&cron(expression, zone), from, wanted.len()), *wanted, "{expression} {zone} from {from}");
    }
}

/// What the schedulers that people come from do around the same night.
#[test]
fn every_policy_has_its_answer() {
    let with =
        |expression: &str, zone: &str, gap, overlap| cron(expression, zone).with_clocks(ClockChange { gap, overlap });
    for (gap, wanted) in [
        (Gap::Skip, "2026-03-09T02:30:00-04:00"),
        (Gap::Next, "2026-03-08T03:00:00-04:00"),
        (Gap::Offset, "2026-03-08T03:30:00-04:00"),
    ] {
        let schedule = with("30 2 * * *", "America/New_York", gap, Overlap::First);
        assert_eq!(ticks(&schedule, "2026-03-07T12:00:00Z", 1), [wanted], "{gap:?}");
    }
    for (overlap, wanted) in [
        (Overlap::First, ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]),
        (Overlap::Second, ["2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"]),
        (Overlap::Both, ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"]),
    ] {
        let schedule = with("30 1 * * *", "America/New_York", Gap::Next, overlap);
        assert_eq!(ticks(&schedule, "2026-10-31T12:00:00Z", 2), wanted, "{overlap:?}");
    }
    // Lists are fixed times: in a gap they are one tick at its end, or each moved.
    let list = with("0,30 2,3 * * *", "America/New_York", Gap::Next, Overlap::First);
    assert_eq!(
        ticks(&list, "2026-03-08T00:00:00-05:00", 3),
        ["2026-03-08T03:00:00-04:00", "2026-03-08T03:30:00-04:00", "2026-03-09T02:00:00-04:00"]
    );
    let moved = with("15,45 2 * * *", "America/New_York", Gap::Offset, Overlap::First);
    assert_eq!(
        ticks(&moved, "2026-03-08T00:00:00-05:00", 3),
        ["2026-03-08T03:15:00-04:00", "2026-03-08T03:45:00-04:00", "2026-03-09T02:15:00-04:00"]
    );
    assert_eq!(
        ticks(&moved, "2026-03-08T03:20:00-04:00", 1),
        ["2026-03-08T03:45:00-04:00"],
        "from within the moved hour"
    );
    // Wildcards follow the clock whatever the policy.
    for (_, overlap) in OVERLAPS {
        let hourly = with("0 * * * *", "America/New_York", Gap::Skip, *overlap);
        assert_eq!(
            ticks(&hourly, "2012-11-04T00:00:00-04:00", 3),
            ["2012-11-04T01:00:00-04:00", "2012-11-04T01:00:00-05:00", "2012-11-04T02:00:00-05:00"]
        );
    }
}

#[test]
fn an_inclusive_search_finds_where_it_begins_and_back_is_the_way_there() {
    let schedule = cron("30 2 * * *", "America/New_York");
    let gap = at("2026-03-08T03:00:00-04:00");
    assert_eq!(schedule.next(gap, true), Some(gap));
    assert_eq!(schedule.previous(gap, true), Some(gap));
    assert_eq!(schedule.previous(gap, false), Some(at("2026-03-07T02:30:00-05:00")));
    assert_eq!(schedule.previous(gap + TimeDelta::milliseconds(1), false), Some(gap));
    assert_eq!(schedule.next(gap - TimeDelta::milliseconds(1), false), Some(gap));
    assert_eq!(cron("0 0 1 1 * * 2020", "UTC").next(at("2026-01-01T00:00:00Z"), false), None, "a year that is over");
}

#[test]
fn every_so_often_is_counted_from_its_origin() {
    let origin = at("2026-11-20T00:10:00Z");
    let schedule = Schedule::every(Duration::from_mins(90), origin, Tz::UTC).unwrap();
    assert_eq!(ticks(&schedule, "2026-11-20T00:10:00Z", 2), ["2026-11-20T01:40:00+00:00", "2026-11-20T03:10:00+00:00"]);
    assert_eq!(schedule.next(origin, true), Some(origin));
    assert_eq!(schedule.next(at("2026-11-19T23:00:00Z"), false), Some(origin), "also before it");
    assert_eq!(schedule.previous(origin, false), Some(at("2026-11-19T22:40:00Z")));
    assert_eq!(schedule.previous(at("2026-11-20T00:10:01Z"), false), Some(origin));
    assert!(Schedule::every(Duration::from_millis(900), origin, Tz::UTC).is_err());
    assert!(Schedule::every(Duration::MAX, origin, Tz::UTC).is_err());
    assert_eq!(
        ticks(
            &Schedule::every(Duration::from_hours(24), at("2026-03-07T00:00:00-05:00"), Tz::America__New_York).unwrap(),
            "2026-03-07T12:00:00-05:00",
            2
        ),
        ["2026-03-08T00:00:00-05:00", "2026-03-09T01:00:00-04:00"],
        "it counts seconds, not days"
    );
}

#[test]
fn days_that_do_not_count_are_passed_over_both_ways() {
    let day = |text: &str| text.parse::<NaiveDate>().unwrap();
    let holidays = Calendar { only: None, never: [day("2026-12-24"), day("2026-12-25")].into() };
    let schedule = cron("0 9 * * 1-5", "Europe/Berlin").with_calendar(holidays);
    assert_eq!(ticks(&schedule, "2026-12-23T00:00:00Z", 2), ["2026-12-23T09:00:00+01:00", "2026-12-28T09:00:00+01:00"]);
    assert_eq!(schedule.previous(at("2026-12-28T00:00:00Z"), true), Some(at("2026-12-23T09:00:00+01:00")));
    let trading =
        Calendar { only: Some([day("2026-12-24"), day("2027-06-01")].into()), never: [day("2027-06-01")].into() };
    let schedule = cron("0,30 23 * * *", "Pacific/Kiritimati").with_calendar(trading.clone());
    assert_eq!(
        ticks(&schedule, "2026-01-01T00:00:00Z", 9),
        ["2026-12-24T23:00:00+14:00", "2026-12-24T23:30:00+14:00"],
        "and then never"
    );
    assert_eq!(schedule.previous(at("2030-01-01T00:00:00Z"), false), Some(at("2026-12-24T23:30:00+14:00")));
    let everything = Calendar { only: Some([day("2026-12-24")].into()), never: [day("2026-12-24")].into() };
    assert_eq!(cron("* * * * *", "UTC").with_calendar(everything).next(at("2026-01-01T00:00:00Z"), false), None);
    let minutely = cron("* * * * *", "Pacific/Pago_Pago").with_calendar(trading);
    assert_eq!(ticks(&minutely, "2026-01-01T00:00:00Z", 1), ["2026-12-24T00:00:00-11:00"]);
}

#[test]
fn what_is_pinned_comes_back_and_what_was_pinned_before_is_understood() {
    let old: Schedule = serde_json::from_str(r#"{"cron":"0 11 * * *","timezone":"Europe/Berlin"}"#).unwrap();
    assert_eq!(old, cron("0 11 * * *", "Europe/Berlin"));
    assert_eq!(
        serde_json::to_string(&old).unwrap(),
        r#"{"cron":"0 11 * * *","timezone":"Europe/Berlin"}"#,
        "the revision of such a DAG stays"
    );
    let calendar = Calendar { only: None, never: ["2026-12-25".parse().unwrap()].into() };
    for schedule in [
        old.clone().with_clocks(ClockChange { gap: Gap::Offset, overlap: Overlap::Both }).with_calendar(calendar),
        Schedule::every(Duration::from_mins(5), at("2026-11-20T00:00:00Z"), Tz::UTC).unwrap(),
    ] {
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule, "{text}");
        assert_ne!(schedule, old);
    }
}

// ---- The oracle.

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        u32::try_from((z ^ (z >> 31)) % u64::from(sides.max(1))).unwrap()
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(u32::try_from(of.len()).unwrap()) as usize]
    }

    /// A field of numbers, as cron writes it.
    fn field(&mut self, low: u32, high: u32) -> String {
        let span = high - low + 1;
        let number = |dice: &mut Self| low + dice.roll(span);
        match self.roll(8) {
            0 | 1 => "*".to_owned(),
            2 => format!("*/{}", 1 + self.roll(span)),
            3 => {
                let (a, b) = (number(self), number(self));
                format!("{}-{}", a.min(b), a.max(b))
            }
            4 => {
                let (a, b) = (number(self), number(self));
                format!("{}-{}/{}", a.min(b), a.max(b), 1 + self.roll(5))
            }
            5 => format!("{},{},{}", number(self), number(self), number(self)),
            _ => number(self).to_string(),
        }
    }

    fn expression(&mut self) -> String {
        let day = match self.roll(9) {
            0 => "L".to_owned(),
            1 => format!("{}W", 1 + self.roll(31)),
            2 => "LW".to_owned(),
            3 => format!("{},L", 1 + self.roll(28)),
            4..6 => "*".to_owned(),
            _ => self.field(1, 31),
        };
        let weekday = match self.roll(9) {
            0 => format!("{}#{}", self.roll(8), 1 + self.roll(5)),
            1 => format!("{}L", self.roll(8)),
            2 => format!("{}#1,{}#3,{}", self.roll(8), self.roll(8), self.roll(7)),
            3..6 => "*".to_owned(),
            _ => self.field(0, 7),
        };
        let month = if self.roll(3) == 0 { self.field(1, 12) } else { "*".to_owned() };
        format!("{} {} {day} {month} {weekday}", self.field(0, 59), self.field(0, 23))
    }
}

/// Whether a number is in a field, read from the text each time.
fn within(field: &str, low: u32, high: u32, number: u32) -> bool {
    field.split(',').any(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (from.parse().unwrap_or(99), to.parse().unwrap_or(0)),
            None => (range.parse().unwrap_or(99), range.parse().unwrap_or(0)),
        };
        (from..=to).contains(&number) && (number - from).is_multiple_of(step.parse::<u32>().unwrap())
    })
}

fn last_of(date: NaiveDate) -> u32 {
    (28..=31).rev().find(|day| date.with_day(*day).is_some()).unwrap()
}

fn day_of_month(field: &str, date: NaiveDate) -> bool {
    let last = last_of(date);
    let workday = |day: u32| !matches!(date.with_day(day).unwrap().weekday(), Weekday::Sat | Weekday::Sun);
    field.split(',').any(|part| match part {
        "L" => date.day() == last,
        "LW" => date.day() == (1..=last).rev().find(|day| workday(*day)).unwrap(),
        _ => match part.strip_suffix('W') {
            Some(day) => {
                let day: u32 = day.parse().unwrap();
                // The nearest by distance; of two equally near none exists, as a week-end has two days.
                day <= last
                    && date.day()
                        == (1..=last).filter(|other| workday(*other)).min_by_key(|other| other.abs_diff(day)).unwrap()
            }
            None => within(part, 1, 31, date.day()),
        },
    })
}

fn day_of_week(field: &str, date: NaiveDate) -> bool {
    let weekday = date.weekday().num_days_from_sunday();
    let is = |number: &str| number.parse::<u32>().unwrap() % 7 == weekday;
    field.split(',').any(|part| {
        if let Some((day, nth)) = part.split_once('#') {
            is(day) && date.day().div_ceil(7) == nth.parse::<u32>().unwrap()
        } else if let Some(day) = part.strip_suffix('L') {
            is(day) && date.day() + 7 > last_of(date)
        } else {
            within(part, 0, 7, weekday) || weekday == 0 && within(part, 0, 7, 7)
        }
    })
}

fn means(expression: &str, wall: NaiveDateTime) -> bool {
    let fields: Vec<&str> = expression.split(' ').collect();
    let date = wall.date();
    let days = match (fields[2], fields[4]) {
        ("*", "*") => true,
        (day, "*") => day_of_month(day, date),
        ("*", weekday) => day_of_week(weekday, date),
        (day, weekday) => day_of_month(day, date) || day_of_week(weekday, date),
    };
    days && within(fields[0], 0, 59, wall.minute())
        && within(fields[1], 0, 23, wall.hour())
        && within(fields[3], 1, 12, date.month())
}

/// All ticks in `[from, to)`, from looking at each minute of it and of the two days before, at what the clock on the wall shows.
fn look(
    expression: &str,
    zone: Tz,
    clocks: ClockChange,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> BTreeSet<DateTime<Utc>> {
    let fixed = !expression.split(' ').take(2).any(|field| field.contains(['*', '-', '/']));
    let minute = TimeDelta::minutes(1);
    let mut ticks = BTreeSet::new();
    let mut shown: BTreeMap<NaiveDateTime, DateTime<Utc>> = BTreeMap::new();
    let mut now = from - TimeDelta::days(2);
    let mut before: Option<NaiveDateTime> = None;
    while now < to + TimeDelta::days(2) {
        let wall = zone.from_utc_datetime(&now.naive_utc()).naive_local();
        let mut missing = before.map_or(wall, |before| before + minute);
        let begin = missing;
        while missing < wall {
            if fixed && means(expression, missing) {
                match clocks.gap {
                    Gap::Skip => {}
                    Gap::Next => drop(ticks.insert(now)),
                    Gap::Offset => drop(ticks.insert(now + (missing - begin))),
                }
            }
            missing += minute;
        }
        let first = shown.insert(wall, now);
        if means(expression, wall) {
            if fixed && let Some(first) = first {
                if clocks.overlap == Overlap::Second {
                    ticks.remove(&first);
                }
                if clocks.overlap != Overlap::First {
                    ticks.insert(now);
                }
            } else {
                ticks.insert(now);
            }
        }
        before = Some(wall);
        now += minute;
    }
    ticks.retain(|tick| *tick >= from && *tick < to);
    ticks
}

/// Zones and days on which something happens to their clocks.
const CHANGES: &[(&str, &str)] = &[
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("Europe/London", "2026-10-25"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("Asia/Beirut", "2022-03-27"),
    ("Asia/Tehran", "2021-03-22"),
    ("Asia/Tehran", "2021-09-21"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("Asia/Kathmandu", "1986-01-01"),
    ("America/St_Johns", "2006-04-02"),
    ("America/St_Johns", "2006-10-29"),
    ("America/Caracas", "2007-12-09"),
    ("America/Caracas", "2016-05-01"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Africa/Casablanca", "2026-03-22"),
    ("Antarctica/Troll", "2026-03-29"),
    ("Antarctica/Troll", "2026-10-25"),
    ("Atlantic/Azores", "2026-03-29"),
    ("Pacific/Chatham", "2026-09-26"),
    ("Pacific/Chatham", "2026-04-04"),
    ("Asia/Pyongyang", "2015-08-14"),
    ("Asia/Pyongyang", "2018-05-04"),
    ("America/Havana", "2026-11-01"),
    ("Asia/Gaza", "2011-08-01"),
    ("Europe/Dublin", "2026-10-25"),
    ("America/Toronto", "1919-03-31"),
    ("UTC", "2026-02-28"),
    ("Asia/Kolkata", "2024-02-28"),
];

#[test]
fn random_schedules_tick_where_the_oracle_looks() {
    let mut dice = Dice(20_261_124);
    let mut compared = 0;
    for round in 0..150 {
        let (zone, day) = dice.pick(CHANGES);
        let zone: Tz = zone.parse().unwrap();
        let clocks = ClockChange { gap: dice.pick(GAPS).1, overlap: dice.pick(OVERLAPS).1 };
        let mut expression = dice.expression();
        if dice.roll(2) == 0 {
            // Near the change, where it matters.
            expression = format!("{},{} {},{} * * *", dice.roll(60), dice.roll(60), dice.roll(4), dice.roll(24));
        }
        let Ok(schedule) = Schedule::cron(&expression, zone) else {
            // What never ticks is refused; the oracle would have to look at all of time to agree.
            continue;
        };
        let schedule = schedule.with_clocks(clocks);
        let from = at(&format!("{day}T00:00:00Z")) - TimeDelta::hours(30 + i64::from(dice.roll(12)));
        let to = from + TimeDelta::hours(80);
        let wanted = look(&expression, zone, clocks, from, to);
        let what = format!("round {round}: `{expression}` {zone} {clocks:?} from {from}");
        let mut found = BTreeSet::new();
        let mut next = schedule.next(from, true);
        while let Some(tick) = next.filter(|tick| *tick < to) {
            assert!(found.insert(tick), "{what}: twice");
            next = schedule.next(tick, false);
        }
        assert_eq!(found, wanted, "{what}");
        let mut back = BTreeSet::new();
        let mut previous = schedule.previous(to, false);
        while let Some(tick) = previous.filter(|tick| *tick >= from) {
            assert!(back.insert(tick), "{what}: twice");
            previous = schedule.previous(tick, false);
        }
        assert_eq!(back, wanted, "{what}, backwards");
        // From any instant, not only from ticks.
        for _ in 0..20 {
            let somewhere = from + TimeDelta::seconds(i64::from(dice.roll(80 * 3_600)));
            let after = wanted.range((std::ops::Bound::Excluded(somewhere), std::ops::Bound::Unbounded)).next();
            if let Some(after) = after {
                assert_eq!(schedule.next(somewhere, false), Some(*after), "{what} after {somewhere}");
            }
            let until = wanted.range(..=somewhere).next_back();
            if let Some(until) = until {
                assert_eq!(schedule.previous(somewhere, true), Some(*until), "{what} until {somewhere}");
            }
        }
        compared += wanted.len();
    }
    assert!(compared > 2_000, "hardly anything was compared: {compared}");
}

/// Months of a year at once: month lengths, weekdays and leap days without any clock.
#[test]
fn random_days_are_those_the_oracle_finds() {
    let mut dice = Dice(7);
    for _ in 0..150 {
        let expression = format!("0 0 {}", dice.expression().splitn(3, ' ').nth(2).unwrap());
        let Ok(schedule) = Schedule::cron(&expression, Tz::UTC) else { continue };
        let start =
            NaiveDate::from_ymd_opt(1999 + i32::try_from(dice.roll(103)).unwrap(), 1 + dice.roll(12), 1).unwrap();
        let days: Vec<NaiveDate> =
            start.iter_days().take(800).filter(|day| means(&expression, day.and_time(NaiveTime::MIN))).collect();
        let found: Vec<NaiveDate> =
            std::iter::successors(schedule.next(start_of(start), true), |tick| schedule.next(*tick, false))
                .map(|tick| tick.date_naive())
                .take_while(|day| *day < start + TimeDelta::days(800))
                .collect();
        assert_eq!(found, days, "`{expression}` from {start}");
    }
}
