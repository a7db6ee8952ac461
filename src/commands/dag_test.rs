//! `tidemill dags test`: a whole DAG in this process, on a history in memory and a clock that skips what would be waited for.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tidemill_orchestrator::dag::{Trigger, parse_instant};
use tidemill_orchestrator::run::Interval;
use tidemill_orchestrator::schedule::Schedule;
use tidemill_orchestrator::testkit::FakeClock;
use tidemill_orchestrator::{
    Clock as _, Dag, Dags, History, KeySpec, KindSpec, MemoryHistory, Outcome, Retry, RunRequest, Scheduler,
    SchedulerConfig, Shape, Task, TaskContext, TaskError, TaskFactory, TaskState,
};
use tokio::sync::mpsc;

use super::Context;
use super::dags::pairs;
use crate::cli::TestDag;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::runner::{Runner, exit_of, failure_of, show};
use crate::tasks::Tasks;

/// The kind that tasks with a fixture get.
const FIXTURE: KindSpec = KindSpec {
    name: "fixture",
    about: "does what a test says",
    keys: &[KeySpec { name: "fixture", shape: Shape::Any, required: true, about: "what", default: None }],
};

/// How often it is looked whether everything waits.
const LOOK: Duration = Duration::from_millis(10);

pub(super) async fn run(context: &Context, house: &Arc<Lakehouse>, runner: &Runner, asked: &TestDag) -> Result<Exit> {
    runner.need(&context.report, &asked.id)?;
    let dag = runner.loaded.dags.find(&asked.id)?;
    let params = dag.read_params(&pairs(&asked.params))?;
    let interval = interval(dag, asked.at.as_deref())?;
    let fixtures = match &asked.fixtures {
        Some(path) => read_fixtures(path, dag)?,
        None => BTreeMap::new(),
    };
    let staged = stage(dag, &fixtures, asked.dry);
    let history = Arc::new(MemoryHistory::default());
    let begin = interval.map_or_else(|| house.clock.now(), |interval| interval.end);
    let clock = Arc::new(FakeClock::new(begin));
    let folder = tempfile::tempdir().map_err(|error| Failure::io(&error, "create", &std::env::temp_dir()))?;
    let mut config = SchedulerConfig::new(
        std::iter::once(staged).collect::<Dags>(),
        Arc::new(Staged { real: Tasks::new(Arc::clone(house), Arc::new(Metrics::default())), specs: specs() }),
        Arc::clone(&history) as Arc<dyn History>,
        Arc::clone(&clock) as Arc<_>,
        house.project.root.clone(),
        folder.path().to_path_buf(),
    );
    config.pools.clone_from(&house.project.settings.pools);
    let scheduler = Scheduler::new(config);
    let (sender, events) = mpsc::channel(1024);
    let request = RunRequest {
        dag: asked.id.clone(),
        params,
        options: Map::from_iter([("drain".to_owned(), Value::Bool(true))]),
        interval,
        by: "dags test".to_owned(),
        events: Some(sender),
        cancel: context.stop.child_token(),
    };
    let shown = tokio::spawn(show(context.report.clone(), events));
    let report = tokio::select! {
        report = scheduler.run_now(request) => report?,
        never = skip_waits(&history, &clock) => never,
    };
    drop(shown.await);
    if context.report.json() {
        context.report.one(&report)?;
    } else {
        for task in &report.tasks {
            context.report.line(&format!("{} {}", task.instance.task, task.instance.state))?;
        }
        context.report.note(format_args!("{}; the clock went on to {}", report.run.state, clock.now().to_rfc3339()));
    }
    failure_of(&report).map_or_else(|| Ok(exit_of(&report)), Err)
}

/// The interval of the DAG's schedule that contains an instant.
fn interval(dag: &Dag, at: Option<&str>) -> Result<Option<Interval>> {
    let Some(text) = at else { return Ok(None) };
    let schedule = dag.triggers.iter().find_map(|trigger| match trigger {
        Trigger::Schedule(trigger) => Some(&trigger.schedule),
        _ => None,
    });
    let zone = schedule.map_or(chrono_tz::Tz::UTC, Schedule::zone);
    let instant = parse_instant(text, zone)
        .ok_or_else(|| Failure::new("X0003", format!("`{text}` is not an instant")).fix("write 2026-01-31"))?;
    let Some(schedule) = schedule else { return Ok(Some(Interval { start: instant, end: instant })) };
    let start = schedule.previous(instant, true);
    Ok(start.zip(schedule.next(instant, false)).map(|(start, end)| Interval { start, end }))
}

/// Moves the clock on whenever everything that is open waits for it.
async fn skip_waits<T>(history: &MemoryHistory, clock: &FakeClock) -> T {
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(view) = history.view(&[]) else { continue };
        let tasks: Vec<_> =
            view.runs.iter().flat_map(|active| &active.tasks).filter(|task| !task.state.ended()).collect();
        if tasks.iter().any(|task| task.state == TaskState::Running) {
            continue;
        }
        let waits = |task: &&&_| -> bool {
            let task: &tidemill_orchestrator::TaskInstance = task;
            matches!(task.state, TaskState::UpForRetry | TaskState::Deferred)
        };
        let next: Option<DateTime<Utc>> = tasks.iter().filter(waits).filter_map(|task| task.retry_at).min();
        if let Some(next) = next.filter(|next| *next > clock.now()) {
            clock.advance(next - clock.now());
        }
    }
}

/// What a fixture file says of each task.
fn read_fixtures(path: &Path, dag: &Dag) -> Result<BTreeMap<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io(&error, "read", path))?;
    let wrong = |what: String| {
        Failure::new("X0003", format!("`{}` cannot be used as fixtures", path.display()))
            .why(what)
            .fix("write `[tasks.NAME]` with `state = \"success\" | \"failed\" | \"skipped\"`, `result` and `summary`")
    };
    let value: Value = tidemill_orchestrator::dag::read_toml(&text).map_err(wrong)?;
    let tasks = value.get("tasks").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, fixture) in &tasks {
        if dag.task(name).is_none() {
            let hint = crate::suggest::hint(name, dag.tasks.iter().map(|task| task.id.as_str()));
            return Err(Failure::new("X0003", format!("DAG `{}` has no task `{name}`", dag.id)).maybe_fix(hint));
        }
        let state = fixture.get("state").and_then(Value::as_str).unwrap_or("success");
        if !["success", "failed", "skipped"].contains(&state) {
            return Err(wrong(format!("the state of `{name}` cannot be `{state}`")));
        }
    }
    Ok(tasks.into_iter().collect())
}

/// The DAG with fixtures in the place of work, and without anything that starts it.
fn stage(dag: &Dag, fixtures: &BTreeMap<String, Value>, dry: bool) -> Dag {
    let mut staged = Dag { triggers: Vec::new(), ..dag.clone() };
    for task in &mut staged.tasks {
        // What decides the way through the DAG is real even when nothing else is.
        let decides = ["branch", "condition", "wait"].contains(&task.kind.as_str());
        let fixture = fixtures.get(&task.id).cloned().or_else(|| (dry && !decides).then(|| json!({})));
        if let Some(fixture) = fixture {
            FIXTURE.name.clone_into(&mut task.kind);
            task.settings = Map::from_iter([("fixture".to_owned(), fixture)]);
        }
    }
    staged
}

fn specs() -> Vec<KindSpec> {
    crate::tasks::specs().into_iter().chain([FIXTURE]).collect()
}

/// The real kinds, and that of fixtures.
struct Staged {
    real: Tasks,
    specs: Vec<KindSpec>,
}

impl TaskFactory for Staged {
    fn kinds(&self) -> &[KindSpec] {
        &self.specs
    }

    fn open(&self, kind: &str, settings: &Value) -> Result<Box<dyn Task>, TaskError> {
        if kind == FIXTURE.name {
            return Ok(Box::new(Fixture(settings["fixture"].clone())));
        }
        self.real.open(kind, settings)
    }
}

/// Does what it was told.
struct Fixture(Value);

#[async_trait]
impl Task for Fixture {
    async fn run(&self, _context: &TaskContext) -> Result<Outcome, TaskError> {
        let text = |name: &str| self.0.get(name).and_then(Value::as_str);
        let summary = text("summary").unwrap_or("by its fixture");
        match text("state") {
            Some("failed") => Err(TaskError::new("D0120", summary, Retry::Never)),
            Some("skipped") => Ok(Outcome::skipped(summary)),
            _ => Ok(Outcome::done(summary).with(self.0.get("result").cloned().unwrap_or_default())),
        }
    }
}
