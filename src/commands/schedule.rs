//! `tidemill schedule`: when the clock will start what, without waiting for it.
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use tidemill_orchestrator::dag::{Trigger, parse_instant};
use tidemill_orchestrator::schedule::{Calendar, ClockChange, Schedule as Ticks};
use tidemill_orchestrator::{Clock as _, Dag, WallClock};

use super::Context;
use crate::cli::{Reach, Schedule};
use crate::failure::{Exit, Failure, Result, dag_problems};
use crate::lakehouse::Lakehouse;
use crate::runner::load;

/// A tick of an expression.
#[derive(Serialize)]
struct Tick {
    /// In its zone, with its offset.
    at: String,
    utc: String,
}

/// A run that the clock will start.
#[derive(Serialize)]
struct Upcoming {
    at: String,
    dag: String,
    interval_start: String,
    interval_end: String,
    trigger: usize,
}

pub(super) fn run(context: &Context, asked: &Schedule) -> Result<Exit> {
    match &asked.cron {
        Some(expression) => expression_ticks(context, asked, expression),
        None => dags(context, asked),
    }
}

fn expression_ticks(context: &Context, asked: &Schedule, expression: &str) -> Result<Exit> {
    let zone = zone(asked.timezone.as_deref().unwrap_or("UTC"))?;
    let clocks = ClockChange { gap: asked.gap.into(), overlap: asked.overlap.into() };
    let calendar = Calendar {
        only: (!asked.include_dates.is_empty()).then(|| asked.include_dates.iter().copied().collect()),
        never: asked.exclude_dates.iter().copied().collect(),
    };
    let schedule = Ticks::cron(expression, zone)
        .map_err(|why| {
            Failure::new("D0010", format!("`{expression}` is not a cron expression"))
                .why(why)
                .fix("five fields: minute hour day-of-month month day-of-week; six put seconds first")
                .exit(Exit::Usage)
        })?
        .with_clocks(clocks)
        .with_calendar(calendar);
    let from = from(asked, zone)?;
    let ticks = until(&schedule, from, asked.next);
    let local = |tick: DateTime<Utc>| tick.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, false);
    if context.report.json() {
        let rows = ticks.map(|tick| Tick { at: local(tick), utc: utc(tick) });
        context.report.rows(&rows.collect::<Vec<_>>())?;
    } else {
        for tick in ticks {
            context.report.line(&local(tick))?;
        }
    }
    Ok(Exit::Done)
}

fn dags(context: &Context, asked: &Schedule) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let loaded = load(&house);
    let problems = dag_problems(&loaded, &house.project.root);
    let chosen: Vec<&Dag> = match &asked.dag {
        Some(id) => match loaded.dags.find(id) {
            Ok(dag) => vec![dag],
            Err(unknown) => return Err(problems.unwrap_or_else(|| unknown.into())),
        },
        None => loaded.dags.iter().map(AsRef::as_ref).collect(),
    };
    let mut starts: Vec<(DateTime<Utc>, Upcoming)> = Vec::new();
    for dag in chosen {
        for (number, trigger) in dag.triggers.iter().enumerate() {
            let Trigger::Schedule(trigger) = trigger else { continue };
            let schedule = &trigger.schedule;
            let from = from(asked, schedule.zone())?.max(trigger.start.unwrap_or(DateTime::<Utc>::MIN_UTC));
            let local =
                |at: DateTime<Utc>| at.with_timezone(&schedule.zone()).to_rfc3339_opts(SecondsFormat::Secs, false);
            for end in until(schedule, from, asked.next) {
                // A run starts at its interval's end; the very first tick begins the first interval and starts nothing.
                let Some(start) = schedule.previous(end, false) else { continue };
                if trigger.start.is_some_and(|first| start < first) {
                    continue;
                }
                let row = Upcoming {
                    at: local(end),
                    dag: dag.id.clone(),
                    interval_start: utc(start),
                    interval_end: utc(end),
                    trigger: number,
                };
                starts.push((end, row));
            }
        }
    }
    starts.sort_by(|(at, row), (other, than)| (at, &row.dag, row.trigger).cmp(&(other, &than.dag, than.trigger)));
    if let Reach::Count(count) = asked.next {
        starts.truncate(count);
    }
    context.report.rows(&starts.into_iter().map(|(_, row)| row).collect::<Vec<_>>())?;
    problems.map_or(Ok(Exit::Done), Err)
}

/// The ticks after `from`, as many or as far as asked for.
fn until(schedule: &Ticks, from: DateTime<Utc>, reach: Reach) -> impl Iterator<Item = DateTime<Utc>> + '_ {
    let (count, end) = match reach {
        Reach::Count(count) => (count, DateTime::<Utc>::MAX_UTC),
        Reach::Span(span) => {
            let span = TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX);
            (usize::MAX, from.checked_add_signed(span).unwrap_or(DateTime::<Utc>::MAX_UTC))
        }
    };
    schedule.ticks(from).take(count).take_while(move |tick| *tick <= end)
}

fn from(asked: &Schedule, zone: Tz) -> Result<DateTime<Utc>> {
    let Some(text) = &asked.from else { return Ok(WallClock.now()) };
    parse_instant(text, zone).ok_or_else(|| {
        Failure::new("X0003", format!("`{text}` is not an instant"))
            .fix("write 2026-01-31, 2026-01-31T11:00:00 (in the time zone) or 2026-01-31T11:00:00Z")
    })
}

fn zone(name: &str) -> Result<Tz> {
    name.parse().map_err(|_| Failure::unknown("time zone", name, chrono_tz::TZ_VARIANTS.iter().map(|tz| tz.name())))
}

fn utc(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
