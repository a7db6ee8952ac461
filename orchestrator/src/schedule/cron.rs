//! Cron expressions: which times on the face of a clock they mean. What a zone makes of these times is [`super::clock_change`]'s business.
//!
//! The dialect is croner's: five fields or six with seconds first (a seventh is the year), names, `L`, `W`, `LW`, `#`, `?` and nicknames; with both
//! day fields set either is enough (a day-of-week field that begins with `+` asks for both); Sunday is 0 or 7. See
//! `docs/decisions/0002-croner-for-cron.md`.
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime};
use croner::Cron;

/// The times a cron expression means.
#[derive(Clone)]
pub(super) struct Pattern {
    expression: String,
    cron: Cron,
    fixed: bool,
}

impl Pattern {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong with it, with the name of the field where that is known.
    pub(super) fn new(expression: &str) -> Result<Self, String> {
        let given = if expression.trim().eq_ignore_ascii_case("@midnight") { "@daily" } else { expression };
        let cron = Cron::from_str(given).map_err(|error| explain(given, &error))?;
        // 30 February parses, and never comes.
        if cron.find_next_occurrence(&DateTime::UNIX_EPOCH, true).is_err() {
            return Err("it never ticks".to_owned());
        }
        Ok(Self { expression: expression.to_owned(), fixed: fixed(given), cron })
    }

    /// The expression as written.
    pub(super) fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether it names fixed times of day: single seconds, minutes and hours, or lists of them.
    ///
    /// An expression with `*`, a range or a step there means "so often" and follows the clock on the wall whatever that does.
    pub(super) fn fixed(&self) -> bool {
        self.fixed
    }

    /// The first time at or after `wall`.
    pub(super) fn next(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        // UTC has no gaps: here it is the face of a clock and no zone.
        self.cron.find_next_occurrence(&wall.and_utc(), true).ok().map(|found| found.naive_utc())
    }

    /// The last time at or before `wall`.
    pub(super) fn previous(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        self.cron.find_previous_occurrence(&wall.and_utc(), true).ok().map(|found| found.naive_utc())
    }
}

/// Whether the fields of the time of day are numbers only. A nickname such as `@daily` stands for such numbers, but for `@hourly`.
fn fixed(expression: &str) -> bool {
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let time_of_day = match fields.len() {
        1 => return !expression.trim().eq_ignore_ascii_case("@hourly"),
        5 => 2,
        _ => 3,
    };
    fields.iter().take(time_of_day).all(|field| !field.contains(['*', '-', '/', '?']))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_names_the_field() {
        let trouble = |text: &str| Pattern::new(text).err().unwrap();
        assert!(trouble("99 * * * *").starts_with("minute `99`: "), "{}", trouble("99 * * * *"));
        assert!(trouble("0 0 * * BLA").starts_with("day of week `BLA`: "), "{}", trouble("0 0 * * BLA"));
        assert_eq!(trouble("0 0 30 2 *"), "it never ticks");
        for text in [
            "* *",
            "",
            "@sometimes",
            "* * * * * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "60 0 0 * * *",
        ] {
            assert!(!trouble(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn fixed_times_are_numbers_and_lists_of_them() {
        for (text, wanted) in [
            ("30 2 * * *", true),
            ("0,30 2,3 * * *", true),
            ("0 30 2 * * *", true),
            ("@daily", true),
            ("@midnight", true),
            ("@hourly", false),
            ("30 * * * *", false),
            ("*/15 2 * * *", false),
            ("30 1-3 * * *", false),
            ("30 */2 * * *", false),
            ("* 30 2 * * *", false),
            ("0 0 2 * * MON *", true),
        ] {
            assert_eq!(Pattern::new(text).unwrap().fixed(), wanted, "{text}");
        }
    }
}
