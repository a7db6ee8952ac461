//! A schedule: when it ticks.
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::calendar::Calendar;
use super::clock_change::{self, ClockChange};
use super::cron::Pattern;

/// When the clock starts something.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Schedule {
    beat: Beat,
    zone: Tz,
    clocks: ClockChange,
    calendar: Calendar,
}

#[derive(Clone)]
enum Beat {
    Cron(Box<Pattern>),
    Every { every: Duration, origin: DateTime<Utc> },
}

/// What is kept of a schedule in a pinned definition. Whoever reads one of an earlier version finds `cron` and `timezone` only.
#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<DateTime<Utc>>,
    timezone: String,
    #[serde(default, skip_serializing_if = "usual")]
    clocks: ClockChange,
    #[serde(default, skip_serializing_if = "Calendar::every_day")]
    calendar: Calendar,
}

fn usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// No zone is further from UTC than this.
const FURTHEST: TimeDelta = TimeDelta::hours(15);

impl Schedule {
    /// A schedule by a cron expression.
    ///
    /// # Errors
    /// What is wrong with the expression, with the name of the field where that is known.
    pub fn cron(expression: &str, zone: Tz) -> Result<Self, String> {
        let beat = Beat::Cron(Box::new(Pattern::new(expression)?));
        Ok(Self { beat, zone, clocks: ClockChange::default(), calendar: Calendar::default() })
    }

    /// A schedule that ticks at `origin` and every so often before and after it, whatever clocks do. Fractions of a second are dropped.
    ///
    /// # Errors
    /// If that would be more than once a second, or less than once in a thousand years.
    pub fn every(every: Duration, origin: DateTime<Utc>, zone: Tz) -> Result<Self, String> {
        const LONGEST: u64 = 1_000 * 365 * 86_400;
        let every = Duration::from_secs(every.as_secs());
        if !(1..=LONGEST).contains(&every.as_secs()) {
            return Err("it must be at least a second and at most a thousand years".to_owned());
        }
        let beat = Beat::Every { every, origin: origin.trunc_subsecs(0) };
        Ok(Self { beat, zone, clocks: ClockChange::default(), calendar: Calendar::default() })
    }

    /// The same schedule with another policy for changes of clocks.
    #[must_use]
    pub fn with_clocks(mut self, clocks: ClockChange) -> Self {
        self.clocks = clocks;
        self
    }

    /// The same schedule on the days of a calendar.
    #[must_use]
    pub fn with_calendar(mut self, calendar: Calendar) -> Self {
        self.calendar = calendar;
        self
    }

    /// The time zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The policy for changes of clocks.
    pub fn clocks(&self) -> ClockChange {
        self.clocks
    }

    /// The days that count.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// The first tick after `instant`, or at it if `inclusive`.
    pub fn next(&self, instant: DateTime<Utc>, inclusive: bool) -> Option<DateTime<Utc>> {
        let second = instant.trunc_subsecs(0);
        // Ticks are whole seconds. `trunc_subsecs` goes towards the past, also before 1970.
        let mut from = if inclusive && second == instant { second } else { second + TimeDelta::seconds(1) };
        loop {
            let tick = self.beat_from(from)?;
            let day = self.day(tick);
            if self.calendar.counts(day) {
                return Some(tick);
            }
            // Far from the day nothing is lost by jumping, near it step by step.
            let day = self.calendar.next(day)?;
            from = (start_of(day) - FURTHEST).max(tick + TimeDelta::seconds(1));
        }
    }

    /// The last tick before `instant`, or at it if `inclusive`.
    pub fn previous(&self, instant: DateTime<Utc>, inclusive: bool) -> Option<DateTime<Utc>> {
        let second = instant.trunc_subsecs(0);
        let mut until = if inclusive || second < instant { second } else { second - TimeDelta::seconds(1) };
        loop {
            let tick = self.beat_until(until)?;
            let day = self.day(tick);
            if self.calendar.counts(day) {
                return Some(tick);
            }
            let day = self.calendar.previous(day)?;
            until = (start_of(day) + TimeDelta::days(1) + FURTHEST).min(tick - TimeDelta::seconds(1));
        }
    }

    /// All ticks after `from`, in order.
    pub fn ticks(&self, from: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next(from, false), |tick| self.next(*tick, false))
    }

    fn day(&self, tick: DateTime<Utc>) -> NaiveDate {
        tick.with_timezone(&self.zone).date_naive()
    }

    fn beat_from(&self, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.beat {
            Beat::Cron(pattern) => {
                let policy = pattern.fixed().then_some(self.clocks);
                clock_change::next(self.zone, policy, from, |wall| pattern.next(wall))
            }
            Beat::Every { every, origin } => {
                let every = i64::try_from(every.as_secs()).ok()?;
                let past = (from - *origin).num_seconds();
                let number = -(-past).div_euclid(every);
                origin.checked_add_signed(TimeDelta::try_seconds(number.checked_mul(every)?)?)
            }
        }
    }

    fn beat_until(&self, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.beat {
            Beat::Cron(pattern) => {
                let policy = pattern.fixed().then_some(self.clocks);
                clock_change::previous(self.zone, policy, until, |wall| pattern.previous(wall))
            }
            Beat::Every { every, origin } => {
                let every = i64::try_from(every.as_secs()).ok()?;
                let number = (until - *origin).num_seconds().div_euclid(every);
                origin.checked_add_signed(TimeDelta::try_seconds(number.checked_mul(every)?)?)
            }
        }
    }
}

/// The start of a day as if its zone were UTC.
fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

impl fmt::Display for Schedule {
    /// In words that follow "starts": ``at `0 11 * * *` (UTC)``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.beat {
            Beat::Cron(pattern) => write!(f, "at `{}` ({}", pattern.expression(), self.zone)?,
            Beat::Every { every, .. } => write!(f, "every {every:?} ({}", self.zone)?,
        }
        if let Some(only) = &self.calendar.only {
            write!(f, ", on {} days only", only.len())?;
        }
        if !self.calendar.never.is_empty() {
            write!(f, ", but for {} days", self.calendar.never.len())?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        let beat = match (&self.beat, &other.beat) {
            (Beat::Cron(one), Beat::Cron(other)) => one.expression() == other.expression(),
            (Beat::Every { every, origin }, Beat::Every { every: other, origin: from }) => {
                every == other && origin == from
            }
            _ => false,
        };
        beat && self.zone == other.zone && self.clocks == other.clocks && self.calendar == other.calendar
    }
}

impl From<Schedule> for Text {
    fn from(schedule: Schedule) -> Self {
        let (cron, every, origin) = match schedule.beat {
            Beat::Cron(pattern) => (Some(pattern.expression().to_owned()), None, None),
            Beat::Every { every, origin } => (None, Some(every), Some(origin)),
        };
        let (timezone, clocks, calendar) = (schedule.zone.name().to_owned(), schedule.clocks, schedule.calendar);
        Self { cron, every, origin, timezone, clocks, calendar }
    }
}

impl TryFrom<Text> for Schedule {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let zone = text.timezone.parse().map_err(|_| format!("unknown time zone `{}`", text.timezone))?;
        let schedule = match (text.cron, text.every) {
            (Some(cron), _) => Self::cron(&cron, zone)?,
            (None, Some(every)) => Self::every(every, text.origin.unwrap_or(DateTime::UNIX_EPOCH), zone)?,
            (None, None) => return Err("a schedule has neither `cron` nor `every`".to_owned()),
        };
        Ok(schedule.with_clocks(text.clocks).with_calendar(text.calendar))
    }
}

#[cfg(test)]
mod tests;
