//! How fast the scheduler is where tasks do nothing: everything measured is its own work, durable, on real SQLite.
//!
//! `cargo bench -p tidemill-orchestrator [-- PART… NUMBER…]`; parts: `fan` (independent tasks), `chain`, `map`, `runs` (many runs of one task), and
//! `past` (the same with so many runs in the history). Each figure is the median and the worst of five.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and may fail")]
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Map;
use tempfile::TempDir;
use tidemill_orchestrator::history::{History, RunFilter};
use tidemill_orchestrator::testkit::{SCRIPT, Script};
use tidemill_orchestrator::{
    Clock, Dag, Dags, RunRequest, RunState, Scheduler, SchedulerConfig, SqliteHistory, WallClock,
};
use tokio_util::sync::CancellationToken;

const TIMES: usize = 5;

#[tokio::main]
async fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    if wanted("fan") {
        for count in numbers(&asked, &[200, 1_000, 5_000, 20_000]) {
            for slots in [32, 256] {
                let took = repeat(|| one_run(fan(count), slots, None)).await;
                rate(&format!("run of {count} tasks, {slots} slots"), count, &took);
            }
        }
    }
    if wanted("chain") {
        let took = repeat(|| one_run(chain(40), 32, None)).await;
        plain("chain of 40", &took);
    }
    if wanted("map") {
        for count in [100, 5_000] {
            let took = repeat(|| one_run(map(count), 32, None)).await;
            plain(&format!("map of {count}"), &took);
        }
    }
    if wanted("runs") {
        let took = repeat(|| many_runs(500, None)).await;
        rate("runs of one task", 500, &took);
    }
    if wanted("past") {
        past(&numbers(&asked, &[1_000, 1_000_000])).await;
    }
    FOLDERS.lock().unwrap().clear();
}

/// The same with few and with many runs behind it.
async fn past(counts: &[usize]) {
    for count in counts {
        let folder = folder();
        let full = folder.join("full.db");
        let begin = Instant::now();
        fill(&full, i64::try_from(*count).unwrap());
        println!("{count} past runs made in {:.1?}, {} MB", begin.elapsed(), full.metadata().unwrap().len() >> 20);
        let (name, path) = (format!("{count} past runs"), Some(full.as_path()));
        let took = repeat(|| one_run(fan(1), 32, path)).await;
        plain(&format!("{name}: trigger to end of one task"), &took);
        let took = repeat(|| one_run(fan(1_000), 32, path)).await;
        rate(&format!("{name}: run of 1000 tasks"), 1_000, &took);
        let took = repeat(|| async move {
            let history = SqliteHistory::open(path.unwrap()).unwrap();
            let ask = |filter: &RunFilter| history.runs(filter).unwrap().len();
            let begin = Instant::now();
            ask(&RunFilter { limit: 50, ..RunFilter::default() });
            ask(&RunFilter { dag: Some("bench".to_owned()), limit: 50, ..RunFilter::default() });
            ask(&RunFilter { state: Some(RunState::Failed), limit: 50, ..RunFilter::default() });
            ask(&RunFilter { dag: Some("bench".to_owned()), state: Some(RunState::Failed), limit: 50 });
            begin.elapsed()
        })
        .await;
        plain(&format!("{name}: four lists of 50 runs"), &took);
        let took = repeat(|| async move {
            let history = SqliteHistory::open(path.unwrap()).unwrap();
            let begin = Instant::now();
            history.view(&["bench".to_owned()]).unwrap();
            history.owners().unwrap();
            begin.elapsed()
        })
        .await;
        plain(&format!("{name}: what `why` and the loop read"), &took);
    }
}

/// The numbers that were asked for, or the usual ones.
fn numbers(asked: &[String], usual: &[usize]) -> Vec<usize> {
    let numbers: Vec<usize> = asked.iter().filter_map(|word| word.parse().ok()).collect();
    if numbers.is_empty() { usual.to_vec() } else { numbers }
}

async fn repeat<F: Future<Output = Duration>>(mut once: impl FnMut() -> F) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..TIMES {
        took.push(once().await);
    }
    took.sort();
    took
}

fn plain(name: &str, took: &[Duration]) {
    println!("{name:<44} {:>9.1?} median {:>9.1?} worst", took[took.len() / 2], took[took.len() - 1]);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole tasks a second")]
fn rate(name: &str, count: usize, took: &[Duration]) {
    let per_second = |took: Duration| (count as f64 / took.as_secs_f64()) as u64;
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{name:<44} {:>9.1?} median {:>9.1?} worst, {}/s", median, worst, per_second(median));
}

fn dag(text: &str) -> Dags {
    let (dag, problems) = Dag::parse(Path::new("bench.toml"), text, SCRIPT);
    assert!(problems.is_empty(), "{problems:#?}");
    dag.into_iter().collect()
}

fn fan(count: usize) -> Dags {
    let mut text = String::new();
    for number in 0..count {
        writeln!(text, "[tasks.t{number:05}]\nkind = \"script\"").unwrap();
    }
    dag(&text)
}

fn chain(count: usize) -> Dags {
    let mut text = "[tasks.t0]\nkind = \"script\"\n".to_owned();
    for number in 1..count {
        writeln!(text, "[tasks.t{number}]\nkind = \"script\"\nafter = \"t{}\"", number - 1).unwrap();
    }
    dag(&text)
}

fn map(count: usize) -> Dags {
    let items: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    dag(&format!("[tasks.each]\nkind = \"script\"\nmap = [{}]\n", items.join(",")))
}

fn scheduler(folder: &Path, dags: Dags, slots: usize, history: &Arc<SqliteHistory>) -> Scheduler {
    let mut config = SchedulerConfig::new(
        dags,
        Arc::new(Script::default()),
        Arc::clone(history) as Arc<dyn History>,
        Arc::new(WallClock),
        folder.to_path_buf(),
        folder.join("logs"),
    );
    config.slots = slots;
    Scheduler::new(config)
}

/// Folders that stay until the end: a file system that is taking back thousands of files is slow to make new ones.
static FOLDERS: Mutex<Vec<TempDir>> = Mutex::new(Vec::new());

fn folder() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    FOLDERS.lock().unwrap().push(folder);
    path
}

async fn one_run(dags: Dags, slots: usize, path: Option<&Path>) -> Duration {
    let folder = folder();
    let history = Arc::new(SqliteHistory::open(path.unwrap_or(&folder.join("history.db"))).unwrap());
    let scheduler = scheduler(&folder, dags, slots, &history);
    let request = RunRequest {
        dag: "bench".to_owned(),
        params: Map::new(),
        options: Map::new(),
        interval: None,
        by: "bench".to_owned(),
        events: None,
        cancel: CancellationToken::new(),
    };
    let begin = Instant::now();
    let report = scheduler.run_now(request).await.unwrap();
    let took = begin.elapsed();
    assert_eq!(report.run.state, RunState::Success);
    took
}

async fn many_runs(count: usize, path: Option<&Path>) -> Duration {
    let folder = folder();
    let history = Arc::new(SqliteHistory::open(path.unwrap_or(&folder.join("history.db"))).unwrap());
    let dags = dag("max_active_runs = 1000\n[tasks.one]\nkind = \"script\"\n");
    let scheduler = scheduler(&folder, dags, 32, &history);
    for _ in 0..count {
        history.enqueue("bench", Map::new(), Map::new(), "bench", WallClock.now()).unwrap();
    }
    let cancel = CancellationToken::new();
    let begin = Instant::now();
    let ended = async {
        let filter = RunFilter { state: Some(RunState::Success), limit: count, ..RunFilter::default() };
        while history.runs(&filter).unwrap().len() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = begin.elapsed();
        cancel.cancel();
        took
    };
    let (served, took) = tokio::join!(scheduler.serve(None, cancel.clone()), ended);
    served.unwrap();
    took
}

/// Writes past runs as a year of them leaves them: of a hundred DAGs, each run with three tasks and their attempts.
fn fill(path: &Path, count: i64) {
    drop(SqliteHistory::open(path).unwrap());
    let sql = rusqlite::Connection::open(path).unwrap();
    sql.execute_batch("PRAGMA synchronous = off; BEGIN;").unwrap();
    sql.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
         INSERT INTO runs (id, dag, state, cause_json, params_json, options_json, queued_at, started_at, ended_at) \
         SELECT printf('dag%02d-%d', i % 100, i), CASE i % 100 WHEN 0 THEN 'bench' ELSE printf('dag%02d', i % 100) END, \
                CASE i % 50 WHEN 0 THEN 'failed' ELSE 'success' END, '{\"kind\":\"manual\",\"by\":\"bench\"}', '{}', '{}', \
                i * 1000000, i * 1000000 + 1000, i * 1000000 + 900000 FROM n",
        [count],
    )
    .unwrap();
    sql.execute_batch(
        "WITH t (task, place) AS (VALUES ('a', 0), ('b', 1), ('c', 2)) \
         INSERT INTO task_instances (run, position, task, state, attempt, started_at, ended_at, summary, result_json) \
         SELECT r.number, t.place, t.task, r.state, 1, r.started_at, r.ended_at, 'did it', 'null' FROM runs r, t; \
         WITH t (task) AS (VALUES ('a'), ('b'), ('c')) \
         INSERT INTO attempts (run, task, number, state, owner, started_at, ended_at, resumes) \
         SELECT r.number, t.task, 1, r.state, 'bench', r.started_at, r.ended_at, 0 FROM runs r, t; \
         COMMIT; PRAGMA wal_checkpoint(TRUNCATE);",
    )
    .unwrap();
}
