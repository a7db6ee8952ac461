//! `tidemill dags backfill`: runs for a range of time.
use std::collections::BTreeSet;

use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::json;
use tidemill_orchestrator::dag::{ScheduleTrigger, Trigger, parse_instant};
use tidemill_orchestrator::history::{Backfill, Change, RunFilter};
use tidemill_orchestrator::run::{Interval, run_id};
use tidemill_orchestrator::schedule::interval;
use tidemill_orchestrator::{Dag, OrchestratorError, RunState};

use super::Context;
use super::dags::pairs;
use crate::cli::BackfillDag;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::runner::Runner;

/// The most intervals of one backfill.
const MOST: usize = 100_000;

/// One interval of it.
#[derive(Serialize)]
struct Row {
    start: String,
    end: String,
}

pub(super) fn run(context: &Context, house: &Lakehouse, runner: &Runner, asked: &BackfillDag) -> Result<Exit> {
    runner.need(&context.report, &asked.id)?;
    let dag = runner.loaded.dags.find(&asked.id)?;
    let now = house.clock.now();
    if let Some(backfill) = &asked.cancel {
        let change = Change::EndBackfill { backfill: backfill.clone() };
        let done = runner.history.apply("", now, &[change]).map_err(OrchestratorError::from)?;
        if done.first() != Some(&true) {
            return Err(Failure::new("X0003", format!("there is no backfill `{backfill}` that has runs to make")));
        }
        context.report.note("no more runs of it are made; those that run go on to their end");
        return Ok(Exit::Done);
    }
    let trigger = trigger(dag, asked.trigger)?;
    let zone = trigger.schedule.zone();
    let instant = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or_default();
        parse_instant(text, zone).ok_or_else(|| {
            Failure::new("X0003", format!("`{text}` is not an instant")).fix("write 2026-01-31 or 2026-01-31T11:00:00Z")
        })
    };
    let (from, to) = (instant(&asked.from)?, instant(&asked.to)?);
    let mut intervals: Vec<Interval> = interval::between(&trigger.schedule, from, to).take(MOST + 1).collect();
    if intervals.len() > MOST {
        return Err(
            Failure::new("X0003", format!("the range has more than {MOST} intervals")).fix("take a shorter one")
        );
    }
    if asked.missing {
        let filter = RunFilter { dag: Some(dag.id.clone()), state: None, limit: usize::MAX };
        let runs = runner.history.runs(&filter).map_err(OrchestratorError::from)?;
        let open = |state: RunState| state == RunState::Success || !state.ended();
        let covered = runs.iter().filter(|run| open(run.state)).filter_map(|run| run.interval);
        let covered: BTreeSet<_> = covered.map(|interval| (interval.start, interval.end)).collect();
        intervals.retain(|interval| !covered.contains(&(interval.start, interval.end)));
    }
    if asked.reverse {
        intervals.reverse();
    }
    let params = dag.read_params(&pairs(&asked.params))?;
    let rows = || {
        let text =
            |at: chrono::DateTime<chrono::Utc>| at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, false);
        intervals
            .iter()
            .map(|interval| Row { start: text(interval.start), end: text(interval.end) })
            .collect::<Vec<_>>()
    };
    if asked.dry_run || intervals.is_empty() {
        context.report.rows(&rows())?;
        context.report.note(format_args!("{} intervals; nothing was asked for", intervals.len()));
        return Ok(Exit::Done);
    }
    let id = run_id(&format!("{}-backfill", dag.id), now, &std::process::id().to_string());
    let count = intervals.len();
    let backfill = Backfill {
        id: id.clone(),
        dag: dag.id.clone(),
        intervals,
        params,
        at_once: asked.at_once,
        by: "command line".to_owned(),
        made: 0,
    };
    runner.history.apply("", now, &[Change::Backfill(Box::new(backfill))]).map_err(OrchestratorError::from)?;
    if context.report.json() {
        context.report.one(&json!({ "backfill": id, "intervals": count }))?;
    } else {
        context.report.line(&id)?;
    }
    context.report.note(format_args!("{count} intervals; a running `tidemill up` makes their runs"));
    Ok(Exit::Done)
}

fn trigger(dag: &Dag, number: Option<usize>) -> Result<&ScheduleTrigger> {
    let by_clock: Vec<(usize, &ScheduleTrigger)> = dag
        .triggers
        .iter()
        .enumerate()
        .filter_map(|(number, trigger)| match trigger {
            Trigger::Schedule(trigger) => Some((number, trigger.as_ref())),
            _ => None,
        })
        .collect();
    let wrong = |what: &str| Failure::new("X0003", format!("DAG `{}` {what}", dag.id));
    match (number, by_clock.as_slice()) {
        (_, []) => Err(wrong("is not started by the clock, so it has no intervals")),
        (None, [(_, only)]) => Ok(only),
        (None, _) => Err(wrong("has several triggers by the clock").fix("name one with `--trigger`")),
        (Some(number), all) => all
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, trigger)| *trigger)
            .ok_or_else(|| wrong(&format!("has no trigger {number} by the clock"))),
    }
}
