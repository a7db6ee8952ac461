//! How fast runs are driven on a real SQLite history: `cargo run --release -p tidemill-orchestrator --example throughput [FOLDER]`.
//! One line of JSON per measurement: what, tasks, seconds, tasks a second. The tasks do nothing, or start `true` as a process of its own.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement, not a part of the product"
)]
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tidemill_orchestrator::history::{Change, History, NewRun};
use tidemill_orchestrator::run::RunStep;
use tidemill_orchestrator::{
    Cause, Dag, Dags, KeySpec, KindSpec, Outcome, RunRequest, RunState, Scheduler, SchedulerConfig, Shape,
    SqliteHistory, Task, TaskContext, TaskError, TaskFactory, WallClock,
};
use tokio_util::sync::CancellationToken;

const KINDS: &[KindSpec] = &[
    KindSpec {
        name: "nothing",
        about: "does nothing",
        keys: &[KeySpec { name: "x", shape: Shape::Any, required: false, about: "", default: None }],
    },
    KindSpec { name: "process", about: "starts `true`", keys: &[] },
];

struct Kinds;

struct Nothing;

struct Process;

impl TaskFactory for Kinds {
    fn kinds(&self) -> &[KindSpec] {
        KINDS
    }

    fn open(&self, kind: &str, _settings: &Value) -> Result<Box<dyn Task>, TaskError> {
        Ok(if kind == "process" { Box::new(Process) } else { Box::new(Nothing) })
    }
}

#[async_trait]
impl Task for Nothing {
    async fn run(&self, _context: &TaskContext) -> Result<Outcome, TaskError> {
        Ok(Outcome::done("").with(json!((0..100).collect::<Vec<u32>>())))
    }
}

#[async_trait]
impl Task for Process {
    async fn run(&self, _context: &TaskContext) -> Result<Outcome, TaskError> {
        let status = tokio::process::Command::new("true").status().await.expect("`true` starts");
        assert!(status.success());
        Ok(Outcome::done(""))
    }
}

fn chain(kind: &str, count: usize) -> String {
    let after = |number: usize| if number == 0 { String::new() } else { format!("after = \"t{}\"\n", number - 1) };
    let tasks = (0..count).map(|number| format!("[tasks.t{number}]\nkind = \"{kind}\"\n{}", after(number)));
    tasks.collect::<Vec<_>>().concat()
}

fn fan(kind: &str, count: usize) -> String {
    (0..count).map(|number| format!("[tasks.t{number}]\nkind = \"{kind}\"\n")).collect::<Vec<_>>().concat()
}

#[tokio::main]
async fn main() {
    let given = std::env::args().nth(1);
    let temporary = tempfile::tempdir().unwrap();
    let folder = given.as_ref().map_or(temporary.path(), |folder| Path::new(folder));
    let dags: Vec<(&str, String, usize)> = vec![
        ("chain of 40, nothing", chain("nothing", 40), 40),
        ("chain of 40, processes", chain("process", 40), 40),
        ("fan of 200, processes", fan("process", 200), 200),
        ("fan of 200, nothing", fan("nothing", 200), 200),
        ("fan of 5000, nothing", fan("nothing", 5_000), 5_000),
        (
            "list of 100",
            "[tasks.list]\nkind = \"nothing\"\n[tasks.each]\nkind = \"nothing\"\nafter = \"list\"\nmap = \"{{ tasks.list.result }}\"\n".to_owned(),
            101,
        ),
    ];
    for past in [0, 100_000] {
        let history = Arc::new(SqliteHistory::open(&folder.join(format!("history-{past}.db"))).unwrap());
        fill(&history, past);
        for (what, text, tasks) in &dags {
            let mut seconds: Vec<f64> = Vec::new();
            for _ in 0..3 {
                seconds.push(one(folder, &history, text).await);
            }
            seconds.sort_by(f64::total_cmp);
            let median = seconds[1];
            let count = u32::try_from(*tasks).unwrap();
            println!(
                "{}",
                json!({"what": what, "past_runs": past, "tasks": tasks, "seconds": median, "worst": seconds[2], "per_second": (f64::from(count) / median).round()})
            );
        }
    }
}

/// Runs that ended long ago.
fn fill(history: &SqliteHistory, past: usize) {
    let at = chrono::DateTime::UNIX_EPOCH;
    for batch in (0..past).collect::<Vec<_>>().chunks(1_000) {
        let changes: Vec<Change> = batch
            .iter()
            .flat_map(|number| {
                let run = format!("past-{number}");
                let new = NewRun {
                    id: run.clone(),
                    dag: "past".to_owned(),
                    key: None,
                    cause: Cause::Manual { by: "bench".to_owned() },
                    interval: None,
                    params: Map::new(),
                    options: Map::new(),
                    owned: true,
                };
                [Change::Create(Box::new(new)), Change::End { run, step: RunStep::Cancel, error: None }]
            })
            .collect();
        history.apply("bench", at, &changes).unwrap();
    }
}

/// Seconds that one run takes.
async fn one(folder: &Path, history: &Arc<SqliteHistory>, text: &str) -> f64 {
    let (dag, problems) = Dag::parse(Path::new("bench.toml"), text, KINDS);
    assert!(problems.is_empty(), "{problems:#?}");
    let config = SchedulerConfig::new(
        dag.into_iter().collect::<Dags>(),
        Arc::new(Kinds),
        Arc::clone(history) as Arc<dyn History>,
        Arc::new(WallClock),
        folder.to_path_buf(),
        folder.join("logs"),
    );
    let scheduler = Scheduler::new(config);
    let begun = Instant::now();
    let request = RunRequest {
        dag: "bench".to_owned(),
        params: Map::new(),
        options: Map::new(),
        interval: None,
        by: "bench".to_owned(),
        events: None,
        cancel: CancellationToken::new(),
    };
    let report = scheduler.run_now(request).await.unwrap();
    assert_eq!(report.run.state, RunState::Success);
    begun.elapsed().as_secs_f64()
}
