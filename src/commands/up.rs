//! `tidemill up`: schedules, arrivals, streams and the status page, until stopped.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidemill_orchestrator::{Clock as _, RunEvent, TaskState, WallClock};
use tokio::sync::mpsc;

use super::Context;
use crate::cli::Up;
use crate::failure::{Exit, Result, dag_problems};
use crate::lakehouse::Lakehouse;
use crate::metrics::{Kind, Metric, Metrics};
use crate::project::Project;
use crate::runner::{Runner, load, show};
use crate::server::{Options, Server};
use crate::status::View;
use crate::triggers::watch_tables;

/// How often DAG files are looked at for changes.
const LOOK: Duration = Duration::from_millis(300);

const RUNS: Metric =
    Metric { name: "tidemill_runs_total", help: "Runs that ended, by DAG and state", kind: Kind::Counter };
const TASK_FAILURES: Metric =
    Metric { name: "tidemill_task_failures_total", help: "Attempts that failed, by DAG task", kind: Kind::Counter };
const LAST_END: Metric = Metric {
    name: "tidemill_run_last_end_timestamp_seconds",
    help: "When the last run of a DAG ended, seconds since 1970",
    kind: Kind::Gauge,
};

pub(super) async fn run(context: &Context, up: &Up) -> Result<Exit> {
    serve(context, context.project()?, up.listen).await
}

/// Serves a project until stopped.
pub(super) async fn serve(context: &Context, project: Project, listen: Option<SocketAddr>) -> Result<Exit> {
    let metrics = Arc::new(Metrics::default());
    let house = Lakehouse::new(project);
    let runner = Runner::open(&house, &metrics)?;
    if let Some(problems) = runner.problems()
        && runner.loaded.dags.is_empty()
    {
        return Err(problems);
    }
    if let Some(problems) = runner.problems() {
        // The others run; a broken one is taken up as soon as its file is mended.
        context.report.failure(&problems);
    }
    // Whatever cannot be reached is better known now than at night.
    house.lake().await?;
    let schemas = house.embedded_registry().await?;
    if schemas.is_some()
        && let Err(failure) = house.registry().await
    {
        // A schema file that does not fit its subject keeps nobody from the other schemas.
        context.report.failure(&failure);
    }
    let settings = &house.project.settings;
    let options = Options {
        name: settings.name.clone(),
        listen: listen.unwrap_or(settings.server.listen),
        token: settings.server.token.clone(),
        grace: settings.server.grace,
        schemas,
    };
    let view = Arc::new(View {
        house: Arc::clone(&house),
        history: Arc::clone(&runner.history),
        scheduler: Arc::clone(&runner.scheduler),
    });
    let server = Server::bind(options, view, Arc::clone(&metrics)).await?;
    context.report.note(format_args!("{} is up at http://{}", settings.name, server.address()));

    let (sender, events) = mpsc::channel(1024);
    let (onward, counted_events) = mpsc::channel(1024);
    let counting = tokio::spawn(count(events, onward, Arc::clone(&metrics)));
    let showing = tokio::spawn(show(context.report.clone(), counted_events));
    let stop = context.stop.clone();
    let scheduler = Arc::clone(&runner.scheduler);
    let schedule = scheduler.serve(Some(sender), stop.clone());
    let (schedule_end, server_end, (), ()) = tokio::join!(
        async {
            let ended = schedule.await;
            stop.cancel();
            ended
        },
        async {
            let ended = server.serve(stop.clone()).await;
            stop.cancel();
            ended
        },
        reload(context, &runner),
        watch_tables(&runner, &context.stop),
    );
    drop(counting.await);
    drop(showing.await);
    schedule_end?;
    server_end?;
    Ok(Exit::Stopped)
}

/// Takes up changed DAG files. A broken one is said once and leaves its last good form in place.
async fn reload(context: &Context, runner: &Runner) {
    let mut known = fingerprint(&runner.house.project.settings.paths.dags);
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = fingerprint(&runner.house.project.settings.paths.dags);
        if now == known {
            continue;
        }
        known = now;
        let loaded = load(&runner.house);
        if let Some(problems) = dag_problems(&loaded, &runner.house.project.root) {
            context.report.failure(&problems);
        } else {
            context.report.note(format_args!("{} DAGs read again", loaded.dags.len()));
            runner.scheduler.reload(loaded.dags);
        }
    }
}

/// Names, sizes and times of the files in a folder.
fn fingerprint(folder: &std::path::Path) -> Vec<(std::path::PathBuf, u64, Option<SystemTime>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok().map(|meta| (entry.path(), meta.len(), meta.modified().ok())))
        .collect();
    files.sort();
    files
}

/// Counts what happens, and passes it on to be shown.
async fn count(mut events: mpsc::Receiver<RunEvent>, shown: mpsc::Sender<RunEvent>, metrics: Arc<Metrics>) {
    while let Some(event) = events.recv().await {
        match &event {
            RunEvent::RunEnded { dag, state, .. } => {
                metrics.add(RUNS, &[("dag", dag), ("state", state.name())], 1.0);
                metrics.set(LAST_END, &[("dag", dag)], WallClock.now().timestamp() as f64);
            }
            RunEvent::TaskEnded { task, state: TaskState::Failed | TaskState::UpForRetry, .. } => {
                metrics.add(TASK_FAILURES, &[("task", task)], 1.0);
            }
            _ => {}
        }
        if shown.send(event).await.is_err() {
            return;
        }
    }
}
