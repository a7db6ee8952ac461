//! What is particular to the file; the contract is in `testkit::topic_contract`.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::position::{Bounds, TopicPartition};
use crate::record::NewRecord;
use crate::source::{Budget, Polled};
use crate::testkit::topic_contract;
use crate::topic::{Assignment, Broker};

const BUDGET: Budget = Budget { rows: 10_000, bytes: 16 << 20, linger: Duration::from_millis(50) };

fn open(path: &Path) -> EmbeddedTopics {
    EmbeddedTopics::open(path, Arc::new(|| 1_700_000_000_000)).unwrap()
}

fn all(topic: &str, partitions: i32, to: i64) -> Vec<Assignment> {
    (0..partitions).map(|p| Assignment { partition: TopicPartition::new(topic, p), from: 0, to: Some(to) }).collect()
}

fn record(value: impl Into<Bytes>) -> NewRecord {
    NewRecord { partition: Some(0), value: Some(value.into()), ..NewRecord::default() }
}

async fn count(broker: &EmbeddedTopics, topic: &str) -> usize {
    let end = broker.bounds(topic).await.unwrap()[0].end;
    let mut source = broker.source(&all(topic, 1, end)).await.unwrap();
    let mut count = 0;
    while let Polled::Records(records) = source.poll(BUDGET).await.unwrap() {
        count += records.len();
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    let folder = tempfile::tempdir().unwrap();
    topic_contract(&open(&folder.path().join("deep/er/topics.db"))).await;
}

#[tokio::test]
async fn a_reopened_file_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("topics.db");
    let broker = open(&path);
    broker.create("orders", 2).await.unwrap();
    broker.produce("orders", vec![record("a"), record("b")]).await.unwrap();
    drop(broker);

    let broker = open(&path);

    assert_eq!(broker.bounds("orders").await.unwrap()[0], Bounds { earliest: 0, end: 2 });
    assert_eq!(broker.produce("orders", vec![record("c")]).await.unwrap(), [(0, 2)]);
    assert_eq!(count(&broker, "orders").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_open_one_file_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("topics.db");
    // Opened at the same moment, as two processes would.
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || open(&path))
        })
        .collect();
    let brokers: Vec<_> = openers.into_iter().map(|opener| opener.join().unwrap()).collect();
    brokers[0].create("orders", 1).await.unwrap();
    let waiting = Assignment { partition: TopicPartition::new("orders", 0), from: 0, to: Some(400) };
    let mut source = brokers[3].source(&[waiting]).await.unwrap();

    let writers: Vec<_> = brokers
        .iter()
        .cloned()
        .map(|broker| {
            tokio::spawn(async move {
                for n in 0..100 {
                    broker.produce("orders", vec![record(n.to_string())]).await.unwrap();
                }
            })
        })
        .collect();
    let mut read = 0;
    loop {
        match source.poll(BUDGET).await.unwrap() {
            Polled::Records(records) => read += records.len(),
            Polled::Idle => {}
            Polled::End => break,
        }
    }

    assert_eq!(read, 400);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_layout_and_a_foreign_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let now: Clock = Arc::new(|| 0);
    let refused = |path: &Path| EmbeddedTopics::open(path, Arc::clone(&now)).err().unwrap();
    let newer = folder.path().join("newer.db");
    drop(open(&newer));
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(&text, "x".repeat(10_000)).unwrap();
    let under_a_file = text.join("topics.db");

    assert_eq!(refused(&newer).to_string(), "topics file has layout 99, this version reads up to 1");
    assert_eq!(refused(&foreign).code(), "B0015");
    assert_eq!(refused(&text).code(), "B0015");
    assert_eq!(refused(&under_a_file).code(), "B0014");
    let tables: i64 = rusqlite::Connection::open(&foreign)
        .unwrap()
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1, "a foreign file stays as it is");
}

/// The first layout, written by the first version. It must load for ever.
#[tokio::test]
async fn layout_1_still_loads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("topics.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(include_str!("layout_1.sql")).unwrap();

    let broker = open(&path);

    assert_eq!(broker.topics().await.unwrap()[0].name, "orders");
    assert_eq!(broker.bounds("orders").await.unwrap()[0], Bounds { earliest: 1, end: 3 });
    let from = Assignment { partition: TopicPartition::new("orders", 0), from: 1, to: Some(3) };
    let Polled::Records(records) = broker.source(&[from]).await.unwrap().poll(BUDGET).await.unwrap() else {
        panic!("no records")
    };
    assert_eq!(records[0].key.as_deref(), Some(&b"k1"[..]));
    assert_eq!(records[0].headers, [("h".to_owned(), Bytes::from_static(b"v"))]);
    assert_eq!(records[1].value, None);
    assert_eq!(broker.publisher("movies").await.unwrap().progress(), Some("{\"version\":3}"));
}

#[tokio::test]
async fn a_step_bigger_than_memory_goes_through_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder.path().join("topics.db"));
    broker.create("big", 1).await.unwrap();
    let value = Bytes::from(vec![1_u8; 1 << 20]);
    let mut publisher = broker.publisher("big").await.unwrap();
    let stage = |n: usize| vec![record(value.clone()); n];

    for _ in 0..4 {
        publisher.stage("big", stage(5)).await.unwrap();
    }
    assert_eq!(broker.bounds("big").await.unwrap()[0].end, 0);
    publisher.abort().await.unwrap();
    for _ in 0..3 {
        publisher.stage("big", stage(5)).await.unwrap();
    }
    publisher.stage("big", vec![record("last")]).await.unwrap();
    publisher.commit("done").await.unwrap();
    assert_eq!(count(&broker, "big").await, 16);

    // Left behind by a holder that died, or was fenced: never comes in.
    publisher.stage("big", stage(10)).await.unwrap();
    let mut newer = broker.publisher("big").await.unwrap();
    assert_eq!(publisher.stage("big", stage(10)).await.unwrap_err().code(), "B0004");
    newer.commit("again").await.unwrap();
    assert_eq!(count(&broker, "big").await, 16);
}

#[tokio::test]
async fn one_refused_write_does_not_cost_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder.path().join("topics.db"));
    broker.create("orders", 1).await.unwrap();
    let mut older = broker.publisher("p").await.unwrap();
    older.stage("orders", vec![record("refused")]).await.unwrap();
    let _newer = broker.publisher("p").await.unwrap();

    let writes = futures::future::join_all((0..50).map(|_| broker.produce("orders", vec![record("kept")])));
    let (refused, written) = tokio::join!(older.commit("x"), writes);

    assert_eq!(refused.unwrap_err().code(), "B0004");
    assert!(written.iter().all(Result::is_ok));
    assert_eq!(count(&broker, "orders").await, 50);
}

#[tokio::test]
async fn times_are_found_across_the_sparse_index() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder.path().join("topics.db"));
    broker.create("t", 1).await.unwrap();
    // A saw: each hundred records jump back, so a plain binary search would miss.
    let time = |n: i64| n - if n % 100 == 50 { 1_000 } else { 0 };
    let records = (0..20_000).map(|n| NewRecord { timestamp_ms: Some(time(n)), ..record("x") }).collect();
    broker.produce("t", records).await.unwrap();

    for wanted in [-2_000, 0, 49, 50, 4_095, 4_096, 9_950, 19_999, 20_000] {
        let first = (0..20_000).find(|n| time(*n) >= wanted).unwrap_or(20_000);
        assert_eq!(broker.offsets_at("t", wanted).await.unwrap(), [first], "at {wanted}");
    }
    broker.delete_before(&TopicPartition::new("t", 0), 10_000).await.unwrap();
    assert_eq!(broker.offsets_at("t", 5).await.unwrap(), [10_000]);
    assert_eq!(broker.offsets_at("t", 15_000).await.unwrap(), [15_000]);
}

#[tokio::test]
async fn a_small_budget_still_reaches_every_partition() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder.path().join("topics.db"));
    broker.create("t", 4).await.unwrap();
    let records = (0..400).map(|n| NewRecord { partition: Some(n % 4), ..record("x") }).collect();
    broker.produce("t", records).await.unwrap();
    let mut source = broker.source(&all("t", 4, 100)).await.unwrap();
    let mut read = [0_usize; 4];

    for _ in 0..40 {
        let Polled::Records(records) = source.poll(Budget { rows: 1, ..BUDGET }).await.unwrap() else {
            panic!("no record")
        };
        assert_eq!(records.len(), 1);
        read[usize::try_from(records[0].partition.partition).unwrap()] += 1;
    }

    assert_eq!(read, [10; 4]);
}
