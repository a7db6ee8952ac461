//! Cron expressions in a time zone.
//!
//! The dialect is croner's: five fields or six with seconds first, names, `L`, `W`, `#`, `@daily`; with both day fields set either is enough; Sunday
//! is 0 or 7. See `docs/decisions/0002-croner-for-cron.md`. Around a change of clocks it does what Vixie's cron does: a fixed time in the gap
//! fires right after it, a fixed time that comes twice fires at the first; wildcard hours follow the wall clock.
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use serde::{Deserialize, Serialize};

/// When a cron expression ticks in a time zone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct CronSchedule {
    expression: String,
    zone: Tz,
    cron: Cron,
}

#[derive(Serialize, Deserialize)]
struct Text {
    cron: String,
    timezone: String,
}

impl CronSchedule {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong with it, with the name of the field where that is known.
    pub fn new(expression: &str, zone: Tz) -> Result<Self, String> {
        let cron = Cron::from_str(expression).map_err(|error| explain(expression, &error))?;
        let schedule = Self { expression: expression.to_owned(), zone, cron };
        // 30 February parses, and never comes.
        match schedule.cron.find_next_occurrence(&DateTime::UNIX_EPOCH.with_timezone(&Tz::UTC), true) {
            Ok(_) => Ok(schedule),
            Err(_) => Err("it never ticks".to_owned()),
        }
    }

    /// The expression as written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The time zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first tick after `instant`, or at it if `inclusive`.
    pub fn next(&self, instant: DateTime<Utc>, inclusive: bool) -> Option<DateTime<Utc>> {
        let from = instant.with_timezone(&self.zone);
        self.cron.find_next_occurrence(&from, inclusive).ok().map(|tick| tick.with_timezone(&Utc))
    }

    /// The last tick before `instant`, or at it if `inclusive`.
    pub fn previous(&self, instant: DateTime<Utc>, inclusive: bool) -> Option<DateTime<Utc>> {
        let from = instant.with_timezone(&self.zone);
        self.cron.find_previous_occurrence(&from, inclusive).ok().map(|tick| tick.with_timezone(&Utc))
    }
}

/// croner's message, with the field it is about: it names none, so each field is tried alone.
fn explain(expression: &str, error: &croner::errors::CronError) -> String {
    let message = error.to_string();
    let message = message.split_once(": ").map_or(message.as_str(), |(_, rest)| rest).trim_end_matches('.');
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let names: &[&str] = match fields.len() {
        5 => &["minute", "hour", "day of month", "month", "day of week"],
        6 => &["second", "minute", "hour", "day of month", "month", "day of week"],
        7 => &["second", "minute", "hour", "day of month", "month", "day of week", "year"],
        _ => &[],
    };
    for (index, name) in names.iter().enumerate() {
        let alone: Vec<&str> = (0..names.len()).map(|other| if other == index { fields[index] } else { "*" }).collect();
        if let Err(error) = Cron::from_str(&alone.join(" ")) {
            let message = error.to_string();
            let message = message.split_once(": ").map_or(message.as_str(), |(_, rest)| rest).trim_end_matches('.');
            return format!("{name} `{}`: {message}", fields[index]);
        }
    }
    message.to_owned()
}

impl fmt::Debug for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.expression, self.zone)
    }
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression && self.zone == other.zone
    }
}

impl From<CronSchedule> for Text {
    fn from(schedule: CronSchedule) -> Self {
        Self { cron: schedule.expression, timezone: schedule.zone.name().to_owned() }
    }
}

impl TryFrom<Text> for CronSchedule {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let zone = text.timezone.parse().map_err(|_| format!("unknown time zone `{}`", text.timezone))?;
        Self::new(&text.cron, zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = CronSchedule::new(expression, zone.parse().unwrap()).unwrap();
        let mut at: DateTime<Utc> = from.parse().unwrap();
        (0..count)
            .map(|_| {
                at = schedule.next(at, false).unwrap();
                at.with_timezone(&schedule.zone()).format("%Y-%m-%dT%H:%M:%S%:z").to_string()
            })
            .collect()
    }

    #[test]
    fn eleven_each_day() {
        assert_eq!(
            ticks("0 11 * * *", "UTC", "2026-11-20T10:59:59Z", 2),
            ["2026-11-20T11:00:00+00:00", "2026-11-21T11:00:00+00:00"]
        );
        assert_eq!(ticks("0 11 * * *", "UTC", "2026-11-20T11:00:00Z", 1), ["2026-11-21T11:00:00+00:00"]);
    }

    #[test]
    fn sunday_is_zero_and_seven() {
        for day in ["0", "7", "SUN", "sun"] {
            assert_eq!(
                ticks(&format!("0 0 * * {day}"), "UTC", "2026-11-20T00:00:00Z", 1),
                ["2026-11-22T00:00:00+00:00"],
                "{day}"
            );
        }
        assert_eq!(ticks("0 0 * * 1", "UTC", "2026-11-20T00:00:00Z", 1), ["2026-11-23T00:00:00+00:00"]);
    }

    #[test]
    fn either_day_field_is_enough() {
        // The 13th, and every Friday.
        let days = ticks("0 0 13 * 5", "UTC", "2026-11-01T00:00:00Z", 5);
        assert_eq!(days.iter().map(|day| day.get(8..10).unwrap()).collect::<Vec<_>>(), ["06", "13", "20", "27", "04"]);
    }

    #[test]
    fn month_ends_weekdays_and_nicknames() {
        assert_eq!(
            ticks("0 0 L * *", "UTC", "2028-01-31T00:00:00Z", 2),
            ["2028-02-29T00:00:00+00:00", "2028-03-31T00:00:00+00:00"]
        );
        assert_eq!(ticks("0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", 1), ["2026-03-31T00:00:00+00:00"]);
        assert_eq!(ticks("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00+00:00"]);
        assert_eq!(ticks("0 0 15W * *", "UTC", "2026-11-01T00:00:00Z", 1), ["2026-11-16T00:00:00+00:00"]);
        assert_eq!(ticks("0 0 * * FRI#2", "UTC", "2026-11-01T00:00:00Z", 1), ["2026-11-13T00:00:00+00:00"]);
        assert_eq!(ticks("@monthly", "UTC", "2026-11-20T00:00:00Z", 1), ["2026-12-01T00:00:00+00:00"]);
        assert_eq!(
            ticks("*/20 * * * * *", "UTC", "2026-11-20T00:00:00Z", 2),
            ["2026-11-20T00:00:20+00:00", "2026-11-20T00:00:40+00:00"]
        );
    }

    #[test]
    fn clocks_going_forward_and_back() {
        // New York, 8 March 2026: 02:00 becomes 03:00.
        assert_eq!(
            ticks("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2),
            ["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]
        );
        // 1 November 2026: 01:30 comes twice. A fixed time fires once, an hourly one in both hours.
        assert_eq!(
            ticks("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2),
            ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]
        );
        assert_eq!(
            ticks("30 * * * *", "America/New_York", "2026-11-01T05:00:00Z", 3),
            ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00", "2026-11-01T02:30:00-05:00"]
        );
    }

    #[test]
    fn what_is_wrong_names_the_field() {
        let trouble = |text: &str| CronSchedule::new(text, Tz::UTC).unwrap_err();
        assert!(trouble("99 * * * *").starts_with("minute `99`: "), "{}", trouble("99 * * * *"));
        assert!(trouble("0 0 * * BLA").starts_with("day of week `BLA`: "), "{}", trouble("0 0 * * BLA"));
        assert_eq!(trouble("0 0 30 2 *"), "it never ticks");
        assert!(!trouble("* *").is_empty());
        assert!(!trouble("").is_empty());
    }
}
