//! One contract for every store, and what is special about a file.
use std::sync::{Arc, Barrier};

use tidemill_orchestrator::history::{History, RunFilter};
use tidemill_orchestrator::testkit::history_contract;
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
    assert_eq!(again.runs(&RunFilter { limit: 99, ..RunFilter::default() }).unwrap().len(), 5);
    assert_eq!(again.attempts("r1").unwrap().len(), 3);
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
