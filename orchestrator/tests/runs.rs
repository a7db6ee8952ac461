//! Whole runs with the real loop on real SQLite: how they end, what is tried again, and what a crash costs.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidemill_orchestrator::history::{History, RunFilter};
use tidemill_orchestrator::owner::Owner;
use tidemill_orchestrator::testkit::{SCRIPT, Script};
use tidemill_orchestrator::{
    Dag, Dags, RunEvent, RunReport, RunRequest, RunState, Scheduler, SchedulerConfig, SqliteHistory, TaskState,
    WallClock,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn dags(files: &[(&str, &str)]) -> Dags {
    files
        .iter()
        .map(|(id, text)| {
            let (dag, problems) = Dag::parse(Path::new(&format!("{id}.toml")), text, SCRIPT);
            assert!(problems.is_empty(), "{problems:#?}");
            dag.unwrap()
        })
        .collect()
}

/// A scheduler on the history in `folder`; each call is another process as far as the history can tell.
fn scheduler(folder: &Path, script: &Script, dags: Dags) -> Scheduler {
    let history = Arc::new(SqliteHistory::open(&folder.join("history.db")).unwrap());
    let mut config = SchedulerConfig::new(
        dags,
        Arc::new(script.clone()),
        history,
        Arc::new(WallClock),
        folder.to_path_buf(),
        folder.join("logs"),
    );
    config.grace = Duration::from_millis(200);
    config.log_cap = 2_000;
    Scheduler::new(config)
}

fn request(dag: &str, params: &Value) -> RunRequest {
    let params = params.as_object().cloned().unwrap_or_default();
    RunRequest {
        dag: dag.to_owned(),
        params,
        options: Map::new(),
        interval: None,
        by: "test".to_owned(),
        events: None,
        cancel: CancellationToken::new(),
    }
}

fn states(report: &RunReport) -> Vec<(&str, TaskState, u32)> {
    report.tasks.iter().map(|task| (task.instance.task.as_str(), task.instance.state, task.instance.attempt)).collect()
}

/// Waits, with a bound, until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_run_hands_results_on_and_tells_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = r#"
        [params.file]
        type = "string"
        default = "a.txt"
        [tasks.land]
        kind = "script"
        file = "{{ params.file }}"
        result = { rows = 7 }
        [tasks.publish]
        kind = "script"
        after = ["land"]
        rows = "{{ tasks.land.result.rows + 1 }}"
        file = "{{ run.dag }} {{ task.attempt }}"
    "#;
    let scheduler = scheduler(folder.path(), &script, dags(&[("movies", text)]));
    let (sender, mut events) = mpsc::channel(64);
    let report = scheduler
        .run_now(RunRequest { events: Some(sender), ..request("movies", &json!({"file": "b.txt"})) })
        .await
        .unwrap();

    assert_eq!(report.run.state, RunState::Success);
    assert_eq!(states(&report), [("land", TaskState::Success, 1), ("publish", TaskState::Success, 1)]);
    let started = script.started();
    assert_eq!(started[0].3, json!({"file": "b.txt", "result": {"rows": 7}}));
    assert_eq!(started[1].3, json!({"rows": 8, "file": "movies 1"}));
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            RunEvent::RunStarted { tasks, .. } => seen.push(format!("run {}", tasks.join(","))),
            RunEvent::TaskStarted { task, .. } => seen.push(format!("start {task}")),
            RunEvent::TaskEnded { task, state, .. } => seen.push(format!("{task} {state}")),
            RunEvent::RunEnded { state, .. } => seen.push(format!("run {state}")),
            _ => {}
        }
    }
    assert_eq!(
        seen,
        ["run land,publish", "start land", "land success", "start publish", "publish success", "run success"]
    );
    let log = std::fs::read_to_string(report.tasks[0].log.as_ref().unwrap()).unwrap();
    assert!(log.contains("done: did land"), "{log}");
}

#[tokio::test]
async fn a_list_may_be_written_as_one_string_and_the_task_still_sees_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = r#"
        [tasks.one]
        kind = "script"
        tables = "bronze.orders"
        [tasks.rendered]
        kind = "script"
        after = ["one"]
        tables = "bronze.{{ run.dag }}"
        [tasks.many]
        kind = "script"
        after = ["rendered"]
        tables = ["a", "b"]
    "#;
    let scheduler = scheduler(folder.path(), &script, dags(&[("movies", text)]));

    scheduler.run_now(request("movies", &json!({}))).await.unwrap();

    let settings: Vec<Value> = script.started().into_iter().map(|started| started.3).collect();
    assert_eq!(
        settings,
        [json!({"tables": ["bronze.orders"]}), json!({"tables": ["bronze.movies"]}), json!({"tables": ["a", "b"]})]
    );
}

#[tokio::test]
async fn a_run_that_somebody_asks_for_covers_the_latest_interval_of_the_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = "[[triggers]]\nkind = \"cron\"\ncron = \"0 0 * * *\"\n[tasks.a]\nkind = \"script\"\nfile = \"{{ interval.start }} {{ interval.end }}\"\n";
    let scheduler = scheduler(folder.path(), &script, dags(&[("movies", text)]));

    let report = scheduler.run_now(request("movies", &json!({}))).await.unwrap();

    assert_eq!(report.run.state, RunState::Success);
    let midnight = report.run.queued_at.date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
    let instant = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    let wanted = format!("{} {}", instant(midnight - chrono::TimeDelta::days(1)), instant(midnight));
    assert_eq!(script.started()[0].3["file"], wanted);
}

#[tokio::test]
async fn failures_are_tried_again_only_where_that_can_help() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        [defaults]
        retries = 2
        retry_delay = "1ms"
        [tasks.flaky]
        kind = "script"
        act = "flaky:2"
        [tasks.hopeless]
        kind = "script"
        act = "never"
        [tasks.panics]
        kind = "script"
        act = "panic"
        [tasks.slow]
        kind = "script"
        act = "hang"
        timeout = "20ms"
        retries = 0
        [tasks.deaf]
        kind = "script"
        act = "deaf"
        timeout = "20ms"
        retries = 0
        [tasks.blocked]
        kind = "script"
        after = ["flaky", "hopeless"]
        [tasks.nothing]
        kind = "script"
        act = "skip"
        [tasks.cleanup]
        kind = "script"
        after = ["hopeless"]
        trigger_rule = "all_done"
        [tasks.rows]
        kind = "script"
        act = "rows"
        [tasks.chatty]
        kind = "script"
        act = "log:1000"
        [tasks.undefined]
        kind = "script"
        after = "nothing"
        trigger_rule = "all_done"
        file = "{{ tasks.nothing.result.rows }}"
    "#;
    let scheduler = scheduler(folder.path(), &Script::default(), dags(&[("mixed", text)]));
    let report = scheduler.run_now(request("mixed", &json!({}))).await.unwrap();

    assert_eq!(report.run.state, RunState::Failed);
    assert!(report.found_rows);
    let wanted = [
        ("flaky", TaskState::Success, 3),
        ("hopeless", TaskState::Failed, 1),
        ("panics", TaskState::Failed, 3),
        ("slow", TaskState::Failed, 1),
        ("deaf", TaskState::Failed, 1),
        ("blocked", TaskState::UpstreamFailed, 0),
        ("nothing", TaskState::Skipped, 1),
        ("cleanup", TaskState::Success, 1),
        ("rows", TaskState::Failed, 1),
        ("chatty", TaskState::Success, 1),
        ("undefined", TaskState::Failed, 1),
    ];
    assert_eq!(states(&report), wanted);
    let code = |task: &str| {
        report
            .tasks
            .iter()
            .find(|report| report.instance.task == task)
            .unwrap()
            .instance
            .error
            .clone()
            .unwrap()
            .code
            .into_string()
    };
    assert_eq!(["panics", "slow", "deaf", "undefined"].map(code), ["D0111", "D0110", "D0110", "D0112"]);
    let log = std::fs::metadata(report.tasks[9].log.as_ref().unwrap()).unwrap().len();
    assert!(log < 2_200, "the cap holds: {log}");
}

#[tokio::test]
async fn wrong_requests_are_refused_before_anything_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[params.day]\ntype = \"integer\"\n[tasks.a]\nkind = \"script\"\n";
    let scheduler = scheduler(folder.path(), &Script::default(), dags(&[("movies", text)]));
    let mut codes = Vec::new();
    for (dag, params) in [
        ("movie", json!({})),
        ("movies", json!({})),
        ("movies", json!({"day": "x"})),
        ("movies", json!({"day": 1, "dey": 2})),
    ] {
        let error = scheduler.run_now(request(dag, &params)).await.unwrap_err();
        codes.push(format!("{} {error} {}", error.code(), error.fix().unwrap_or_default()));
    }
    assert_eq!(
        codes,
        [
            "D0101 there is no DAG `movie` did you mean `movies`?",
            "D0102 param `day` of DAG `movies` has no default and was not given give it: `--param day=…`",
            "D0102 param `day` of DAG `movies` must be an integer, not `\"x\"` ",
            "D0102 param `dey` of DAG `movies` is not declared did you mean `day`?",
        ]
    );
    assert!(SqliteHistory::open(&folder.path().join("history.db")).unwrap().view(&[]).unwrap().runs.is_empty());
}

#[tokio::test]
async fn somebody_stops_a_run_in_the_foreground() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = "[tasks.a]\nkind = \"script\"\nact = \"hang\"\n[tasks.b]\nkind = \"script\"\nafter = \"a\"\n";
    let scheduler = scheduler(folder.path(), &script, dags(&[("movies", text)]));
    let wanted = request("movies", &json!({}));
    let cancel = wanted.cancel.clone();
    let watch = async {
        until("the task runs", || !script.started().is_empty()).await;
        cancel.cancel();
    };
    let (report, ()) = tokio::join!(scheduler.run_now(wanted), watch);
    let report = report.unwrap();
    assert_eq!(report.run.state, RunState::Cancelled);
    assert_eq!(states(&report), [("a", TaskState::Cancelled, 1), ("b", TaskState::Cancelled, 0)]);
}

#[tokio::test]
async fn a_killed_process_costs_no_retry_and_nothing_done_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let slow = "[tasks.a]\nkind = \"script\"\n[tasks.b]\nkind = \"script\"\nafter = \"a\"\nact = \"hang\"\n[tasks.c]\nkind = \"script\"\nafter = \"b\"\n";
    // The first process is dropped in the middle, as SIGKILL would: nothing is said to the history. Its identity is one no process has.
    let mut dead = Owner::this_process("dead");
    "long ago".clone_into(&mut dead.started);
    {
        let history = Arc::new(SqliteHistory::open(&folder.path().join("history.db")).unwrap());
        let mut config = SchedulerConfig::new(
            dags(&[("movies", slow)]),
            Arc::new(script.clone()),
            history,
            Arc::new(WallClock),
            folder.path().to_path_buf(),
            folder.path().join("logs"),
        );
        config.owner = Some(dead);
        let first = Scheduler::new(config);
        tokio::select! {
            _ = first.run_now(request("movies", &json!({}))) => panic!("it hangs"),
            () = until("b runs", || script.started().len() == 2) => {}
        }
    }
    let history = SqliteHistory::open(&folder.path().join("history.db")).unwrap();
    let run = history.view(&[]).unwrap().runs[0].run.id.clone();
    assert_eq!(history.tasks(&run).unwrap()[1].state, TaskState::Running);

    // The next one serves. The definition in its folder has changed; the run keeps its own, where `b` hangs: so it is asked to stop once more.
    let second = scheduler(folder.path(), &script, dags(&[("movies", &slow.replace("hang", "ok"))]));
    let cancel = CancellationToken::new();
    let watch = async {
        until("b runs again", || script.started().len() == 3).await;
        cancel.cancel();
    };
    let (served, ()) = tokio::join!(second.serve(None, cancel.clone()), watch);
    served.unwrap();
    let started: Vec<(String, u32)> =
        script.started().into_iter().map(|(_, task, attempt, _)| (task, attempt)).collect();
    assert_eq!(
        started,
        [("a".to_owned(), 1), ("b".to_owned(), 1), ("b".to_owned(), 1)],
        "a is done, b has the same number"
    );
    let attempts = history.attempts(&run).unwrap();
    assert_eq!(attempts.iter().map(|attempt| (attempt.number, attempt.resumes)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
    assert!(tidemill_orchestrator::invariant::check(&history).unwrap().is_empty());
    assert_eq!(history.run(&run).unwrap().unwrap().state, RunState::Running, "a shutdown is a pause, too");
}

#[tokio::test]
async fn a_file_starts_one_run_across_restarts_and_a_changed_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = r#"
        [[triggers]]
        kind = "file"
        path = "inbox/Movies*.txt"
        param = "file"
        settle = "10ms"
        [params.file]
        type = "string"
        [tasks.land]
        kind = "script"
        file = "{{ params.file }}"
    "#;
    std::fs::create_dir(folder.path().join("inbox")).unwrap();
    let file = folder.path().join("inbox/Movies.txt");
    std::fs::write(folder.path().join("inbox/other.txt"), "x").unwrap();
    for (content, runs) in [("one", 1), ("one", 1), ("and another", 2)] {
        if runs == 2 || !file.exists() {
            std::fs::write(&file, content).unwrap();
        }
        let scheduler = scheduler(folder.path(), &script, dags(&[("movies", text)]));
        let history = SqliteHistory::open(&folder.path().join("history.db")).unwrap();
        let cancel = CancellationToken::new();
        let watch = async {
            let ended = || {
                history
                    .runs(&RunFilter { state: Some(RunState::Success), limit: 9, ..RunFilter::default() })
                    .unwrap()
                    .len()
            };
            until("its run ends", || ended() == runs).await;
            // Long enough for the folder to be listed twice more.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            assert_eq!(history.runs(&RunFilter { limit: 9, ..RunFilter::default() }).unwrap().len(), runs);
            cancel.cancel();
        };
        let (served, ()) = tokio::join!(scheduler.serve(None, cancel.clone()), watch);
        served.unwrap();
    }
    let files: Vec<Value> = script.started().into_iter().map(|(_, _, _, settings)| settings["file"].clone()).collect();
    assert_eq!(files, ["inbox/Movies.txt", "inbox/Movies.txt"]);
}

#[tokio::test]
async fn requests_of_other_processes_begin_and_two_servers_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = "[[triggers]]\nkind = \"cron\"\ncron = \"0 0 1 1 *\"\n[tasks.a]\nkind = \"script\"\n[tasks.b]\nkind = \"script\"\nafter = \"a\"\n";
    let (one, two) = (
        scheduler(folder.path(), &script, dags(&[("movies", text)])),
        scheduler(folder.path(), &script, dags(&[("movies", text)])),
    );
    let history = SqliteHistory::open(&folder.path().join("history.db")).unwrap();
    let now = tidemill_orchestrator::Clock::now(&WallClock);
    for _ in 0..10 {
        history.enqueue("movies", Map::new(), Map::new(), "test", now).unwrap();
    }
    let unknown = history.enqueue("nothing", Map::new(), Map::new(), "test", now).unwrap();
    let cancel = CancellationToken::new();
    let watch = async {
        let ended = || {
            history
                .runs(&RunFilter { state: Some(RunState::Success), limit: 99, ..RunFilter::default() })
                .unwrap()
                .len()
        };
        until("all end", || ended() == 10).await;
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(one.serve(None, cancel.clone()), two.serve(None, cancel.clone()), watch);
    first.unwrap();
    second.unwrap();
    let mut started: Vec<(String, String)> =
        script.started().into_iter().map(|(run, task, _, _)| (run, task)).collect();
    started.sort();
    started.dedup();
    assert_eq!((started.len(), script.started().len()), (20, 20), "each task once");
    assert!(tidemill_orchestrator::invariant::check(&history).unwrap().is_empty());
    let unknown = history.run(&unknown).unwrap().unwrap();
    assert_eq!((unknown.state, unknown.error.unwrap().code.as_ref()), (RunState::Failed, "D0101"));
}

#[tokio::test]
async fn a_continuous_dag_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let text = "[[triggers]]\nkind = \"continuous\"\n[tasks.a]\nkind = \"script\"\n";
    let scheduler = scheduler(folder.path(), &script, dags(&[("events", text)]));
    let cancel = CancellationToken::new();
    let watch = async {
        until("it ran twice", || script.started().len() >= 2).await;
        cancel.cancel();
    };
    let (served, ()) = tokio::join!(scheduler.serve(None, cancel.clone()), watch);
    served.unwrap();
}
