//! A history in Postgres: the contract of every store, and several schedulers on it that come and go.
//!
//! `TIDEMILL_TEST_POSTGRES` names a server (`tests/services/up postgres`); without one these tests say so and count as skipped.
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Map;
use tidemill_orchestrator::history::{Change, History, RunFilter};
use tidemill_orchestrator::owner::Owner;
use tidemill_orchestrator::testkit::{SCRIPT, Script, history_contract};
use tidemill_orchestrator::{
    Clock, Dag, Dags, HistoryError, PostgresHistory, RunState, Scheduler, SchedulerConfig, TaskState, WallClock,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The server and a schema of its own for a test. Where there is no server, a line says so, and the file that `TIDEMILL_TEST_SKIPPED` names gets it, too.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "the server of the tests, and what was not tested")]
fn place(test: &str) -> Option<(String, String)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Ok(url) = std::env::var("TIDEMILL_TEST_POSTGRES") else {
        let line = format!("skipped: {test}: needs TIDEMILL_TEST_POSTGRES");
        println!("{line}");
        if let Some(file) = std::env::var_os("TIDEMILL_TEST_SKIPPED") {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
            writeln!(file, "{line}").unwrap();
        }
        return None;
    };
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = WallClock.now().timestamp_micros();
    Some((url, format!("history_{}_{now}_{number}", std::process::id())))
}

#[test]
fn postgres_keeps_the_contract_between_two_connections_and_after_reopening() {
    let Some((url, schema)) = place("postgres_keeps_the_contract") else { return };
    {
        let open = || PostgresHistory::open(&url, &schema).unwrap();
        history_contract(&open(), &open()).unwrap();
    }
    let again = PostgresHistory::open(&url, &schema).unwrap();
    assert_eq!(again.runs(&RunFilter { limit: 99, ..RunFilter::default() }).unwrap().len(), 6);
}

#[test]
fn a_new_schema_opens_for_all_who_come_at_once() {
    let Some((url, schema)) = place("a_new_schema_opens_for_all_who_come_at_once") else { return };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| PostgresHistory::open(&url, &schema).map(drop))).collect();
        for one in all {
            one.join().unwrap().unwrap();
        }
    });
}

#[test]
fn many_writers_share_one_schema() {
    let Some((url, schema)) = place("many_writers_share_one_schema") else { return };
    let at = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (url, schema) = (&url, &schema);
            scope.spawn(move || {
                let history = PostgresHistory::open(url, schema).unwrap();
                for _ in 0..10 {
                    history.enqueue("movies", Map::new(), Map::new(), &format!("thread {thread}"), at).unwrap();
                }
            });
        }
    });
    assert_eq!(PostgresHistory::open(&url, &schema).unwrap().view(&[]).unwrap().runs.len(), 40);
}

#[test]
fn what_cannot_be_opened_says_where_it_is_and_keeps_the_secret() {
    let Some((url, schema)) = place("what_cannot_be_opened_says_where_it_is") else { return };
    for bad in ["postgres://me:hunter2@127.0.0.1:1/db", "postgres://me:hunter2@[", "nonsense"] {
        let error = PostgresHistory::open(bad, "s").err().unwrap();
        assert_eq!(error.code(), "D0103", "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    drop(PostgresHistory::open(&url, &schema).unwrap());
    let (newer, strange) = (format!("UPDATE {schema}.version SET format = 99"), format!("DROP TABLE {schema}.runs"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let say = |text: &str| {
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            let driver = tokio::spawn(connection);
            client.batch_execute(text).await.unwrap();
            drop(client);
            driver.await.unwrap().unwrap();
        });
    };
    let history = PostgresHistory::open(&url, &schema).unwrap();
    say(&newer);
    let found = PostgresHistory::open(&url, &schema).err().unwrap();
    assert!(matches!(found, HistoryError::Newer { found: 99, .. }), "{found}");
    say(&strange);
    assert_eq!(history.view(&[]).err().unwrap().code(), "D0106");
}

#[test]
fn a_connection_that_was_cut_is_made_anew() {
    let Some((url, schema)) = place("a_connection_that_was_cut_is_made_anew") else { return };
    let (one, other) = (PostgresHistory::open(&url, &schema).unwrap(), PostgresHistory::open(&url, &schema).unwrap());
    one.enqueue("movies", Map::new(), Map::new(), "test", WallClock.now()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // Those of this test: the last thing they did names its schema.
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN \
                   (SELECT pid FROM pg_stat_activity WHERE application_name = $1)";
        let cut = client.query(cut, &[&format!("tidemill history {schema}")]).await.unwrap();
        assert_eq!(cut.len(), 2);
    });
    // The first question may find out that the connection is gone; the next has another one.
    let looked = [one.view(&[]), one.view(&[])];
    assert_eq!(looked[1].as_ref().unwrap().runs.len(), 1);
    drop(other.view(&[]));
    other.enqueue("movies", Map::new(), Map::new(), "test", WallClock.now()).unwrap();
    assert_eq!(one.view(&[]).unwrap().runs.len(), 2);
}

/// How many runs the schedulers share.
const RUNS: usize = 24;

const CHAIN: &str = "max_active_runs = 4\nmax_active_tasks = 3\n[tasks.a]\nkind = \"script\"\n[tasks.b]\nkind = \"script\"\nafter = \"a\"\n\
                     [tasks.c]\nkind = \"script\"\nafter = \"a\"\n[tasks.d]\nkind = \"script\"\nafter = [\"b\", \"c\"]\n";

fn dags() -> Dags {
    Dag::parse(Path::new("chain.toml"), CHAIN, SCRIPT).0.into_iter().collect()
}

/// A scheduler as on a host of its own: the others have only its lease.
fn start(url: &str, schema: &str, folder: &Path, script: &Script, number: u32) -> (Owner, JoinHandle<()>) {
    let owner = Owner { host: format!("host {number}"), ..Owner::this_process(&format!("scheduler {number}")) };
    let history = Arc::new(PostgresHistory::open(url, schema).unwrap());
    let logs = folder.join("logs");
    let (script, clock) = (Arc::new(script.clone()), Arc::new(WallClock));
    let mut config = SchedulerConfig::new(dags(), script, history, clock, folder.to_path_buf(), logs);
    config.owner = Some(owner.clone());
    let serve = tokio::spawn(async move {
        Scheduler::new(config).serve(None, CancellationToken::new()).await.unwrap();
    });
    (owner, serve)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn schedulers_come_and_go_and_each_task_is_done_once() {
    let Some((url, schema)) = place("schedulers_come_and_go_and_each_task_is_done_once") else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let history = PostgresHistory::open(&url, &schema).unwrap();
    for _ in 0..RUNS {
        history.enqueue("chain", Map::new(), Map::new(), "test", WallClock.now()).unwrap();
    }
    let mut number = 3;
    let mut at_work: Vec<_> = (0..3).map(|number| start(&url, &schema, folder.path(), &script, number)).collect();
    let ended = || {
        let filter = RunFilter { state: Some(RunState::Success), limit: 99, ..RunFilter::default() };
        history.runs(&filter).unwrap().len()
    };

    // Again and again one of them is gone in the middle of its work, and another one comes.
    let (mut killed, mut seen) = (0, 0);
    for _ in 0..6_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = ended();
        if now == RUNS {
            break;
        }
        if now >= seen + 3 {
            seen = now;
            let (owner, serve) = at_work.remove(0);
            serve.abort();
            assert!(serve.await.is_err_and(|error| error.is_cancelled()));
            // Its lease runs out.
            history.heartbeat(&owner, DateTime::<Utc>::UNIX_EPOCH).unwrap();
            killed += 1;
            at_work.push(start(&url, &schema, folder.path(), &script, number));
            number += 1;
        }
    }
    assert_eq!(ended(), RUNS);
    assert!(killed >= 3, "{killed} were killed");
    for (_, serve) in at_work {
        serve.abort();
    }

    let (mut attempts, mut resumes) = (0, 0);
    for run in history.runs(&RunFilter { limit: 99, ..RunFilter::default() }).unwrap() {
        for attempt in history.attempts(&run.id).unwrap() {
            assert_eq!((attempt.number, attempt.state), (1, TaskState::Success), "{attempt:?}");
            attempts += 1;
            resumes += attempt.resumes as usize;
        }
    }
    assert_eq!(attempts, RUNS * 4, "no retry was spent");
    let started = script.started().len();
    assert!(started <= attempts + resumes, "{started} starts of {attempts} tasks, {resumes} of them again");
    assert!(tidemill_orchestrator::invariant::check(&history).unwrap().is_empty());
    assert_eq!(
        history.apply("somebody", WallClock.now(), &[Change::EndBackfill { backfill: "none".to_owned() }]).unwrap(),
        [false]
    );
}
