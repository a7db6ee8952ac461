//! Calendars: on which days a schedule counts.
use std::collections::BTreeSet;

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};

/// Days in the time zone of a schedule. A tick on a day that does not count is no tick: no run starts, and the data interval goes on over it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Calendar {
    /// Only these days count, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<BTreeSet<NaiveDate>>,
    /// These days do not count, whatever else is said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub never: BTreeSet<NaiveDate>,
}

impl Calendar {
    /// Whether every day counts.
    pub fn every_day(&self) -> bool {
        self.only.is_none() && self.never.is_empty()
    }

    /// Whether a day counts.
    pub fn counts(&self, day: NaiveDate) -> bool {
        !self.never.contains(&day) && self.only.as_ref().is_none_or(|only| only.contains(&day))
    }

    /// The first day from `day` on that counts.
    pub(super) fn next(&self, day: NaiveDate) -> Option<NaiveDate> {
        match &self.only {
            Some(only) => only.range(day..).copied().find(|day| !self.never.contains(day)),
            None => std::iter::successors(Some(day), |day| day.checked_add_days(Days::new(1)))
                .find(|day| !self.never.contains(day)),
        }
    }

    /// The last day up to `day` that counts.
    pub(super) fn previous(&self, day: NaiveDate) -> Option<NaiveDate> {
        match &self.only {
            Some(only) => only.range(..=day).rev().copied().find(|day| !self.never.contains(day)),
            None => std::iter::successors(Some(day), |day| day.checked_sub_days(Days::new(1)))
                .find(|day| !self.never.contains(day)),
        }
    }
}

/// Reads the text of a file of dates: one `2026-12-25` a line; what follows `#` is a remark.
///
/// # Errors
/// The number of the first line that is no date, from 1, and its text.
pub fn read_dates(text: &str) -> Result<BTreeSet<NaiveDate>, (usize, String)> {
    let mut dates = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            dates.insert(read_date(line).ok_or_else(|| (index + 1, line.to_owned()))?);
        }
    }
    Ok(dates)
}

/// Reads a date such as `2026-12-25`.
pub fn read_date(text: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}
