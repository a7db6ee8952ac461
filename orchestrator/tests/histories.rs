//! One contract for every store, and what is special about a file.
use std::sync::{Arc, Barrier};

use tidemill_orchestrator::history::{Change, History, RunFilter, TaskChange};
use tidemill_orchestrator::run::{RunStep, TaskStep};
use tidemill_orchestrator::testkit::history_contract;
use tidemill_orchestrator::trigger::FileId;
use tidemill_orchestrator::{HistoryError, MemoryHistory, SqliteHistory};

#[test]
fn memory_keeps_the_contract() {
    let history = MemoryHistory::default();
    history_contract(&history, &history).unwrap();
}

#[test]
fn sqlite_keeps_the_contract_between_two_connections_and_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/history.db");
    {
        let (one, two) = (SqliteHistory::open(&path).unwrap(), SqliteHistory::open(&path).unwrap());
        history_contract(&one, &two).unwrap();
    }
    let again = SqliteHistory::open(&path).unwrap();
    assert_eq!(again.runs(&RunFilter { limit: 99, ..RunFilter::default() }).unwrap().len(), 6);
}

#[test]
fn a_history_of_a_newer_version_is_refused_and_another_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    drop(SqliteHistory::open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let newer = SqliteHistory::open(&path).err().unwrap();
    assert!(matches!(newer, HistoryError::Newer { found: 99, .. }), "{newer}");
    assert_eq!(newer.code(), "D0104");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, and long enough to be sure about that".repeat(20)).unwrap();
    assert_eq!(SqliteHistory::open(&text).err().unwrap().code(), "D0103");
}

/// A file as version 0.1.0 wrote it: format 1, with a run that is under way.
#[test]
fn a_history_of_format_1_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../src/history/migrations/0001.sql")).unwrap();
    let definition = r#"{"id":"movies","description":"","tags":[],"max_active_runs":1,"triggers":[{"kind":"file","path":"in/*.txt","param":"file","settle":{"secs":2,"nanos":0}},{"kind":"cron","schedule":{"cron":"0 11 * * *","timezone":"UTC"},"start":null,"catch_up":true}],"params":[{"name":"file","type":"string","default":null,"about":""}],"tasks":[{"id":"land","kind":"script","after":[],"retry":{"retries":2,"delay":{"secs":5,"nanos":0},"max_delay":{"secs":3600,"nanos":0}},"timeout":null,"rule":"all_success","about":"","settings":{"file":"{{ params.file }}"}}]}"#;
    old.execute("INSERT INTO definitions VALUES ('rev', 'movies', ?1, 7)", [definition]).unwrap();
    old.execute_batch(
        r#"INSERT INTO runs VALUES (1, 'r1', 'movies', NULL, 'running', '{"kind":"file","path":"in/a.txt","size":3,"modified":7}', NULL, NULL, '{"file":"in/a.txt"}', '{}', 'rev', 'me', 10, 11, NULL, NULL);
           INSERT INTO runs VALUES (2, 'r2', 'movies', 'cron movies 1 x', 'queued', '{"kind":"cron","trigger":1}', 0, 60000000, '{}', '{}', NULL, NULL, 12, NULL, NULL, NULL);
           INSERT INTO task_instances VALUES (1, 0, 'land', 'running', 1, NULL, 11, NULL, '', 'null', NULL);
           INSERT INTO attempts VALUES (1, 'land', 1, 'running', 'me', 11, NULL, 0, NULL);
           INSERT INTO arrivals VALUES ('movies', 'in/a.txt', 3, 7, 1);
           INSERT INTO schedules VALUES ('movies', 1, 5, 60000000);
           PRAGMA user_version = 1;"#,
    )
    .unwrap();
    drop(old);

    let history = SqliteHistory::open(&path).unwrap();

    let view = history.view(&[]).unwrap();
    let definition = view.runs[0].definition.as_ref().unwrap();
    assert_eq!((definition.tasks[0].retry.retries, definition.triggers.len()), (2, 2));
    assert_eq!((view.runs[1].run.id.as_str(), view.runs[1].run.amended), ("r2", 0));
    let file = |modified| FileId { path: "in/a.txt".to_owned(), size: 3, modified };
    assert_eq!(history.unseen("movies", &[file(7), file(8)]).unwrap(), [file(8)]);
    let end = TaskChange::plain("r1", "land", TaskStep::Succeed, 1);
    let changes = [
        Change::Task(Box::new(end)),
        Change::End { run: "r1".to_owned(), step: RunStep::Succeed, error: None },
        Change::Amend { run: "r1".to_owned(), steps: vec![("land".to_owned(), TaskStep::Clear)] },
    ];
    assert_eq!(history.apply("me", chrono::DateTime::UNIX_EPOCH, &changes).unwrap(), [true; 3]);
}

#[test]
fn a_new_file_opens_for_all_who_come_at_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let together = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    drop(SqliteHistory::open(&path).unwrap());
                });
            }
        });
    }
}

#[test]
fn many_writers_share_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = Arc::new(folder.path().join("history.db"));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let path = Arc::clone(&path);
            std::thread::spawn(move || {
                let history = SqliteHistory::open(&path).unwrap();
                for number in 0..25 {
                    let at = chrono::DateTime::from_timestamp(1_795_000_000 + number, 0).unwrap();
                    history
                        .enqueue(
                            "movies",
                            serde_json::Map::new(),
                            serde_json::Map::new(),
                            &format!("thread {thread}"),
                            at,
                        )
                        .unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(SqliteHistory::open(&path).unwrap().view(&[]).unwrap().runs.len(), 100);
}
