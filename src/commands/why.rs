//! `tidemill why`: the one fact that something waits for.
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use tidemill_orchestrator::history::{ActiveRun, HistoryView, RunFilter};
use tidemill_orchestrator::owner::Owner;
use tidemill_orchestrator::plan::why::{Facts, Why, of_dag, of_run, of_task};
use tidemill_orchestrator::{OrchestratorError, RunState};

use super::Context;
use super::runs::{find, open};
use crate::failure::{Exit, Failure, Result};
use crate::runner::Runner;

pub(super) fn run(context: &Context, what: &str) -> Result<Exit> {
    let runner = open(context)?;
    let (name, task) = match what.rsplit_once('.') {
        Some((name, task)) => (name, Some(task)),
        None => (what, None),
    };
    let now = runner.house.clock.now();
    let here = Owner::this_process("why");
    let schedulers = runner.history.schedulers().map_err(OrchestratorError::from)?;
    let alive: BTreeSet<String> =
        schedulers.iter().filter(|record| !record.gone(&here, now)).map(|record| record.owner.id.clone()).collect();
    let view = runner.history.view(&[]).map_err(OrchestratorError::from)?;
    let dag = runner.loaded.dags.get(name);
    // A DAG's name can be the beginning of another one's runs.
    let is = |active: &&ActiveRun| match dag {
        Some(_) => active.run.dag == name,
        None => active.run.id.starts_with(name),
    };
    let open = view.runs.iter().find(is);
    let usual = usual(&runner, open.map_or(name, |active| active.run.dag.as_str()))?;
    let facts = Facts {
        dags: &runner.loaded.dags,
        view: &view,
        now,
        alive: &alive,
        pools: &runner.house.project.settings.pools,
        usual: &usual,
    };
    let answers = match (open, dag, task) {
        (Some(active), _, Some(task)) => vec![of_task(&facts, active, task)],
        (Some(active), _, None) => of_run(&facts, active),
        (None, Some(dag), task) => {
            if let Some(unknown) = task.filter(|task| dag.task(task).is_none()) {
                return Err(Failure::unknown("task", unknown, dag.tasks.iter().map(|task| task.id.as_str())));
            }
            vec![of_dag(&facts, dag)]
        }
        (None, None, task) => vec![ended(&runner, &facts, &view, name, task)?],
    };
    if context.report.json() {
        context.report.rows(&answers)?;
    } else {
        for why in answers {
            context.report.line(&sentence(&why))?;
        }
    }
    Ok(Exit::Done)
}

/// A run that has ended waits for nothing; that is an answer, too.
fn ended(runner: &Runner, facts: &Facts<'_>, view: &HistoryView, name: &str, task: Option<&str>) -> Result<Why> {
    let dags: Vec<&str> = facts.dags.iter().map(|dag| dag.id.as_str()).collect();
    let run = find(runner, name).map_err(|_| Failure::unknown("DAG or run", name, dags))?;
    let record = runner.history.run(&run).map_err(OrchestratorError::from)?;
    let tasks = runner.history.tasks(&run).map_err(OrchestratorError::from)?;
    let definition = runner.history.definition(&run).map_err(OrchestratorError::from)?;
    let Some(record) = record else { return Err(Failure::unknown("run", name, Vec::<&str>::new())) };
    let mut answer =
        Why { of: run, what: format!("is {}", record.state), holder: None, since: record.ended_at, until: None };
    if let Some(task) = task {
        let Some(known) = tasks.iter().find(|known| known.task == task) else {
            return Err(Failure::unknown("task", task, tasks.iter().map(|known| known.task.as_str())));
        };
        answer.of = format!("{}.{task}", answer.of);
        answer.what = format!("is {}", known.state);
        answer.since = known.ended_at;
    } else if record.state == RunState::Failed && !view.runs.iter().any(|active| active.run.id == answer.of) {
        let first = tasks.iter().find(|task| task.error.is_some()).map(|task| task.task.clone());
        answer.holder = first.filter(|_| definition.is_some());
    }
    Ok(answer)
}

/// How long the last run of a DAG that went well took, and each task of it.
fn usual(runner: &Runner, dag: &str) -> Result<BTreeMap<String, chrono::TimeDelta>> {
    let filter = RunFilter { dag: Some(dag.to_owned()), state: Some(RunState::Success), limit: 1 };
    let Some(run) = runner.history.runs(&filter).map_err(OrchestratorError::from)?.into_iter().next() else {
        return Ok(BTreeMap::new());
    };
    let tasks = runner.history.tasks(&run.id).map_err(OrchestratorError::from)?;
    let mut usual: BTreeMap<String, chrono::TimeDelta> =
        tasks.into_iter().filter_map(|task| Some((task.task, task.ended_at? - task.started_at?))).collect();
    usual.extend(run.started_at.zip(run.ended_at).map(|(start, end)| (String::new(), end - start)));
    Ok(usual)
}

fn sentence(why: &Why) -> String {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let parts = [
        Some(format!("{} {}", why.of, why.what)),
        why.holder.as_ref().map(|holder| format!("held by {holder}")),
        why.since.map(|since| format!("since {}", time(since))),
        why.until.map(|until| format!("expected until {}", time(until))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
