//! What every broker must do, run for the embedded topics and for Apache Kafka.
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;
use crate::position::{Bounds, Offset, TopicPartition};
use crate::record::{NewRecord, Record};
use crate::source::{Budget, Polled, Source};
use crate::topic::{Assignment, Broker, BrokerError, partition_of};

/// No case should need this long; a broker that hangs must fail the test.
const PATIENCE: Duration = Duration::from_mins(2);
const BUDGET: Budget = Budget { rows: 1_000, bytes: 4 << 20, linger: Duration::from_millis(200) };

/// Runs every case of the contract. Topics get fresh names, so that a broker can be used twice.
pub async fn topic_contract(broker: &dyn Broker) {
    let cases = async {
        topics_are_made_once(broker).await;
        order_is_kept_within_a_partition(broker).await;
        reading_resumes_at_a_position(broker).await;
        a_bounded_read_ends(broker).await;
        an_endless_read_waits_and_goes_on(broker).await;
        keys_choose_partitions_as_java_does(broker).await;
        everything_in_a_record_comes_back(broker).await;
        big_records_pass_and_the_budget_holds(broker).await;
        many_partitions_are_all_read(broker).await;
        offsets_are_found_by_time(broker).await;
        a_deleted_position_is_a_gap(broker).await;
        a_position_past_the_end_is_refused(broker).await;
        unknown_topics_and_partitions_are_refused(broker).await;
        a_dropped_poll_loses_nothing(broker).await;
        staged_records_are_invisible_until_the_commit(broker).await;
        progress_outlives_the_publisher(broker).await;
        an_aborted_step_leaves_nothing(broker).await;
        a_newer_publisher_fences_the_older(broker).await;
    };
    tokio::time::timeout(PATIENCE, cases).await.expect("the broker hangs");
}

fn fresh(name: &str) -> String {
    format!("contract-{name}-{}", uuid::Uuid::new_v4().simple())
}

fn record(value: impl Into<Bytes>) -> NewRecord {
    NewRecord { value: Some(value.into()), ..NewRecord::default() }
}

fn numbered(range: std::ops::Range<u32>) -> Vec<NewRecord> {
    range.map(|n| NewRecord { partition: Some(0), ..record(n.to_string()) }).collect()
}

fn from(topic: &str, partition: i32, from: Offset, to: Option<Offset>) -> Assignment {
    Assignment { partition: TopicPartition::new(topic, partition), from, to }
}

async fn topic_of(broker: &dyn Broker, name: &str, partitions: i32) -> String {
    let topic = fresh(name);
    assert!(broker.create(&topic, partitions).await.unwrap());
    topic
}

/// Reads until the end, checking that offsets rise.
async fn drain(source: &mut dyn Source) -> Vec<Record> {
    let mut all = Vec::new();
    let mut last: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    loop {
        match source.poll(BUDGET).await.unwrap() {
            Polled::Records(records) => {
                assert!(!records.is_empty(), "records without a record");
                for record in records {
                    let before = last.insert(record.partition.as_ref().clone(), record.offset);
                    assert!(before.is_none_or(|before| before < record.offset), "offsets must rise");
                    all.push(record);
                }
            }
            Polled::Idle => {}
            Polled::End => return all,
        }
    }
}

/// Reads all that is there of a topic.
async fn read_all(broker: &dyn Broker, topic: &str) -> Vec<Record> {
    let bounds = broker.bounds(topic).await.unwrap();
    let all: Vec<_> = bounds.iter().zip(0..).map(|(b, p)| from(topic, p, b.earliest, Some(b.end))).collect();
    drain(broker.source(&all).await.unwrap().as_mut()).await
}

fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8_lossy(r.value.as_deref().unwrap_or(b"-")).into_owned()).collect()
}

async fn failure(source: &mut dyn Source) -> Error {
    loop {
        match source.poll(BUDGET).await {
            Err(error) => return error,
            Ok(Polled::Idle) => {}
            Ok(other) => panic!("expected a failure, got {other:?}"),
        }
    }
}

async fn topics_are_made_once(broker: &dyn Broker) {
    let topic = topic_of(broker, "once", 3).await;

    assert!(!broker.create(&topic, 5).await.unwrap());

    let topics = broker.topics().await.unwrap();
    let found: Vec<_> = topics.iter().filter(|t| t.name == topic).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].partitions, 3);
    assert!(topics.is_sorted_by(|a, b| a.name <= b.name));
    assert!(!topics.iter().any(|t| t.name.starts_with("__") || t.name.starts_with("_tidemill.")));
    assert_eq!(broker.bounds(&topic).await.unwrap(), vec![Bounds { earliest: 0, end: 0 }; 3]);
    for bad in ["", "a b", "__mine", "_tidemill.mine"] {
        assert_eq!(broker.create(bad, 1).await.unwrap_err().code(), "B0006", "{bad}");
    }
}

async fn order_is_kept_within_a_partition(broker: &dyn Broker) {
    let topic = topic_of(broker, "order", 1).await;

    let first = broker.produce(&topic, numbered(0..1500)).await.unwrap();
    let second = broker.produce(&topic, numbered(1500..3000)).await.unwrap();
    assert!(broker.produce(&topic, vec![]).await.unwrap().is_empty());

    let given: Vec<(i32, Offset)> = first.into_iter().chain(second).collect();
    assert_eq!(given, (0..3000).map(|n| (0, n)).collect::<Vec<_>>());
    let read = read_all(broker, &topic).await;
    assert_eq!(values(&read), (0..3000).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(read.iter().map(|r| r.offset).collect::<Vec<_>>(), (0..3000).collect::<Vec<_>>());
}

async fn reading_resumes_at_a_position(broker: &dyn Broker) {
    let topic = topic_of(broker, "resume", 1).await;
    broker.produce(&topic, numbered(0..100)).await.unwrap();
    let mut next = 0;
    let mut read = Vec::new();

    while next < 100 {
        let mut source = broker.source(&[from(&topic, 0, next, None)]).await.unwrap();
        if let Polled::Records(records) = source.poll(Budget { rows: 7, ..BUDGET }).await.unwrap() {
            assert!(records.len() <= 7);
            next = records.last().unwrap().offset + 1;
            read.extend(records);
        }
    }

    assert_eq!(values(&read), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn a_bounded_read_ends(broker: &dyn Broker) {
    let topic = topic_of(broker, "bounded", 2).await;
    broker.produce(&topic, numbered(0..50)).await.unwrap();

    let mut some = broker.source(&[from(&topic, 0, 10, Some(20)), from(&topic, 1, 0, Some(0))]).await.unwrap();
    let read = drain(some.as_mut()).await;
    assert_eq!(values(&read), (10..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(matches!(some.poll(BUDGET).await.unwrap(), Polled::End), "an end stays an end");

    let mut none = broker.source(&[from(&topic, 0, 50, Some(50))]).await.unwrap();
    assert!(drain(none.as_mut()).await.is_empty());
}

async fn an_endless_read_waits_and_goes_on(broker: &dyn Broker) {
    let topic = topic_of(broker, "endless", 1).await;
    let mut source = broker.source(&[from(&topic, 0, 0, None)]).await.unwrap();
    assert!(matches!(source.poll(BUDGET).await.unwrap(), Polled::Idle));

    for round in 0..5_u32 {
        broker.produce(&topic, numbered(round..round + 1)).await.unwrap();
        let read = loop {
            match source.poll(BUDGET).await.unwrap() {
                Polled::Records(records) => break records,
                Polled::Idle => {}
                Polled::End => panic!("an endless read ended"),
            }
        };
        assert_eq!(values(&read), vec![round.to_string()]);
    }
}

async fn keys_choose_partitions_as_java_does(broker: &dyn Broker) {
    let topic = topic_of(broker, "keys", 7).await;
    let keys = ["21", "foobar", "a-little-bit-long-string", "", "abc", "user-17", "ü"];
    let records =
        keys.iter().map(|key| NewRecord { key: Some(Bytes::copy_from_slice(key.as_bytes())), ..record("x") }).collect();

    let given = broker.produce(&topic, records).await.unwrap();

    for (key, (partition, _)) in keys.iter().zip(&given) {
        assert_eq!(*partition, partition_of(key.as_bytes(), 7), "key `{key}`");
    }
    let without = broker.produce(&topic, vec![record("x"); 50]).await.unwrap();
    assert!(without.iter().all(|(partition, _)| (0..7).contains(partition)));
    assert_eq!(read_all(broker, &topic).await.len(), 57);
}

async fn everything_in_a_record_comes_back(broker: &dyn Broker) {
    let topic = topic_of(broker, "everything", 1).await;
    let headers = vec![
        ("trace".to_owned(), Bytes::from_static(b"1")),
        ("trace".to_owned(), Bytes::from_static(&[0, 255])),
        ("empty".to_owned(), Bytes::new()),
    ];
    let whole = NewRecord {
        partition: Some(0),
        timestamp_ms: Some(1_234_567_890_123),
        key: Some(Bytes::from_static(&[0, 1, 2])),
        value: Some(Bytes::from_static(&[0, 0, 0, 0, 1, 255])),
        headers: headers.clone(),
    };
    let tombstone = NewRecord { value: None, headers: vec![], ..whole.clone() };
    let empty = NewRecord { key: Some(Bytes::new()), value: Some(Bytes::new()), ..NewRecord::default() };
    let nothing = NewRecord::default();

    broker.produce(&topic, vec![whole.clone(), tombstone, empty, nothing]).await.unwrap();

    let read = read_all(broker, &topic).await;
    assert_eq!(read.len(), 4);
    assert_eq!((&read[0].key, &read[0].value), (&whole.key, &whole.value));
    assert_eq!((read[0].timestamp_ms, &read[0].headers), (1_234_567_890_123, &headers));
    assert_eq!((read[1].key.as_deref(), read[1].value.as_deref()), (Some(&[0, 1, 2][..]), None));
    assert!(read[1].headers.is_empty());
    assert_eq!((read[2].key.as_deref(), read[2].value.as_deref()), (Some(&b""[..]), Some(&b""[..])));
    assert_eq!((&read[3].key, &read[3].value), (&None, &None));
    assert!(read[2].timestamp_ms > 0, "who gives no time gets the moment of writing");
}

async fn big_records_pass_and_the_budget_holds(broker: &dyn Broker) {
    let topic = topic_of(broker, "big", 1).await;
    let big = Bytes::from(vec![7_u8; 900_000]);
    for _ in 0..4 {
        broker.produce(&topic, vec![record(big.clone()), record("small")]).await.unwrap();
    }
    let mut source = broker.source(&[from(&topic, 0, 0, Some(8))]).await.unwrap();
    let mut read = Vec::new();

    loop {
        match source.poll(Budget { bytes: 1_000_000, ..BUDGET }).await.unwrap() {
            Polled::Records(records) => {
                let bytes: usize = records.iter().filter_map(|r| r.value.as_ref()).map(Bytes::len).sum();
                assert!(bytes < 2_000_000, "{bytes} bytes for a budget of one million");
                read.extend(records);
            }
            Polled::Idle => {}
            Polled::End => break,
        }
    }

    assert_eq!(read.len(), 8);
    assert!(read.iter().step_by(2).all(|r| r.value.as_ref() == Some(&big)));
}

async fn many_partitions_are_all_read(broker: &dyn Broker) {
    let topic = topic_of(broker, "many", 40).await;
    let records = (0..4000_i32).map(|n| NewRecord { partition: Some(n % 40), ..record(n.to_string()) }).collect();
    broker.produce(&topic, records).await.unwrap();

    let read = read_all(broker, &topic).await;

    assert_eq!(read.len(), 4000);
    for partition in 0..40 {
        let lane: Vec<_> = read.iter().filter(|r| r.partition.partition == partition).cloned().collect();
        let wanted: Vec<_> = (0..100).map(|n| (n * 40 + partition).to_string()).collect();
        assert_eq!(values(&lane), wanted, "partition {partition}");
    }
}

async fn offsets_are_found_by_time(broker: &dyn Broker) {
    let topic = topic_of(broker, "time", 2).await;
    // Times go back and forth: 1000, 3000, 2000, 4000.
    let times = [1_000, 3_000, 2_000, 4_000];
    let at = |ms: i64| NewRecord { partition: Some(0), timestamp_ms: Some(ms), ..record("x") };
    broker.produce(&topic, times.map(at).to_vec()).await.unwrap();

    for (ms, wanted) in [(0, 0), (1_000, 0), (1_001, 1), (2_000, 1), (3_001, 3), (4_000, 3), (4_001, 4)] {
        assert_eq!(broker.offsets_at(&topic, ms).await.unwrap(), vec![wanted, 0], "at {ms}");
    }
}

async fn a_deleted_position_is_a_gap(broker: &dyn Broker) {
    let topic = topic_of(broker, "gap", 1).await;
    broker.produce(&topic, numbered(0..100)).await.unwrap();

    let earliest = broker.delete_before(&TopicPartition::new(&topic, 0), 40).await.unwrap();

    assert_eq!(earliest, 40);
    assert_eq!(broker.bounds(&topic).await.unwrap(), vec![Bounds { earliest: 40, end: 100 }]);
    let mut old = broker.source(&[from(&topic, 0, 10, None)]).await.unwrap();
    for _ in 0..2 {
        let error = failure(old.as_mut()).await;
        match error.downcast_ref() {
            Some(BrokerError::Gap { topic: t, partition: 0, wanted: 10, earliest: 40 }) => assert_eq!(t, &topic),
            other => panic!("expected a gap, got {other:?}"),
        }
    }
    let mut kept = broker.source(&[from(&topic, 0, 40, Some(100))]).await.unwrap();
    assert_eq!(values(&drain(kept.as_mut()).await), (40..100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(broker.delete_before(&TopicPartition::new(&topic, 0), 1_000).await.unwrap(), 100);
    assert_eq!(broker.produce(&topic, numbered(0..1)).await.unwrap(), vec![(0, 100)], "offsets never start again");
}

async fn a_position_past_the_end_is_refused(broker: &dyn Broker) {
    let topic = topic_of(broker, "past", 1).await;
    broker.produce(&topic, numbered(0..5)).await.unwrap();

    let mut source = broker.source(&[from(&topic, 0, 9, None)]).await.unwrap();

    assert_eq!(failure(source.as_mut()).await.code(), "B0003");
}

async fn unknown_topics_and_partitions_are_refused(broker: &dyn Broker) {
    let (topic, absent) = (topic_of(broker, "known", 2).await, fresh("absent"));

    assert_eq!(broker.bounds(&absent).await.unwrap_err().code(), "B0001");
    assert_eq!(broker.offsets_at(&absent, 0).await.unwrap_err().code(), "B0001");
    assert_eq!(broker.produce(&absent, vec![record("x")]).await.unwrap_err().code(), "B0001");
    assert_eq!(broker.source(&[from(&absent, 0, 0, None)]).await.err().unwrap().code(), "B0001");
    assert_eq!(broker.source(&[from(&topic, 2, 0, None)]).await.err().unwrap().code(), "B0005");
    let to_nowhere = NewRecord { partition: Some(2), ..record("x") };
    assert_eq!(broker.produce(&topic, vec![record("x"), to_nowhere]).await.unwrap_err().code(), "B0005");
    assert!(read_all(broker, &topic).await.is_empty(), "a refused batch leaves nothing");
    assert!(!broker.topics().await.unwrap().iter().any(|t| t.name == absent), "asking must not make a topic");
}

async fn a_dropped_poll_loses_nothing(broker: &dyn Broker) {
    let topic = topic_of(broker, "dropped", 1).await;
    broker.produce(&topic, numbered(0..500)).await.unwrap();
    let mut source = broker.source(&[from(&topic, 0, 0, Some(500))]).await.unwrap();
    let mut read = Vec::new();

    loop {
        tokio::select! {
            biased;
            polled = source.poll(Budget { rows: 10, ..BUDGET }) => match polled.unwrap() {
                Polled::Records(records) => read.extend(records),
                Polled::Idle => {}
                Polled::End => break,
            },
            () = tokio::task::yield_now() => {}
        }
    }

    assert_eq!(values(&read), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn staged_records_are_invisible_until_the_commit(broker: &dyn Broker) {
    let (one, two) = (topic_of(broker, "step-one", 1).await, topic_of(broker, "step-two", 2).await);
    let mut publisher = broker.publisher(&fresh("publisher")).await.unwrap();
    assert_eq!(publisher.progress(), None);

    publisher.stage(&one, numbered(0..10)).await.unwrap();
    publisher.stage(&two, numbered(10..20)).await.unwrap();
    assert!(read_all(broker, &one).await.is_empty());
    let mut endless = broker.source(&[from(&one, 0, 0, None)]).await.unwrap();
    assert!(matches!(endless.poll(BUDGET).await.unwrap(), Polled::Idle), "staged is not committed");
    publisher.commit("one").await.unwrap();

    assert_eq!(publisher.progress(), Some("one"));
    assert_eq!(values(&read_all(broker, &one).await), (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(values(&read_all(broker, &two).await), (10..20).map(|n| n.to_string()).collect::<Vec<_>>());
    // Markers may take offsets; the next step follows, in order, with nothing between.
    publisher.stage(&one, numbered(20..25)).await.unwrap();
    publisher.commit("two").await.unwrap();
    let wanted: Vec<_> = (0..10).chain(20..25).map(|n: u32| n.to_string()).collect();
    assert_eq!(values(&read_all(broker, &one).await), wanted);
    let mut read = Vec::new();
    while read.len() < 15 {
        if let Polled::Records(records) = endless.poll(BUDGET).await.unwrap() {
            read.extend(records);
        }
    }
    assert_eq!(values(&read), wanted);
}

async fn progress_outlives_the_publisher(broker: &dyn Broker) {
    let (topic, name) = (topic_of(broker, "progress", 1).await, fresh("publisher"));
    for step in 0..3_u32 {
        let mut publisher = broker.publisher(&name).await.unwrap();
        let before = (step > 0).then(|| format!("step {}", step - 1));
        assert_eq!(publisher.progress(), before.as_deref());

        publisher.stage(&topic, numbered(step..step + 1)).await.unwrap();
        publisher.commit(&format!("step {step}")).await.unwrap();
    }

    let mut publisher = broker.publisher(&name).await.unwrap();
    publisher.commit("empty step").await.unwrap();

    assert_eq!(broker.publisher(&name).await.unwrap().progress(), Some("empty step"));
    assert_eq!(broker.publisher(&fresh("other")).await.unwrap().progress(), None);
    assert_eq!(values(&read_all(broker, &topic).await), ["0", "1", "2"]);
}

async fn an_aborted_step_leaves_nothing(broker: &dyn Broker) {
    let (topic, name) = (topic_of(broker, "abort", 1).await, fresh("publisher"));
    let mut publisher = broker.publisher(&name).await.unwrap();
    publisher.abort().await.unwrap();

    publisher.stage(&topic, numbered(0..5)).await.unwrap();
    publisher.abort().await.unwrap();
    assert!(read_all(broker, &topic).await.is_empty());
    publisher.stage(&topic, numbered(5..8)).await.unwrap();
    publisher.commit("after").await.unwrap();
    // Never committed: gone with its holder.
    publisher.stage(&topic, numbered(8..9)).await.unwrap();
    drop(publisher);

    assert_eq!(broker.publisher(&name).await.unwrap().progress(), Some("after"));
    assert_eq!(values(&read_all(broker, &topic).await), ["5", "6", "7"]);
}

async fn a_newer_publisher_fences_the_older(broker: &dyn Broker) {
    let (topic, name) = (topic_of(broker, "fence", 1).await, fresh("publisher"));
    let mut older = broker.publisher(&name).await.unwrap();
    older.stage(&topic, numbered(0..1)).await.unwrap();
    older.commit("older").await.unwrap();
    older.stage(&topic, numbered(1..2)).await.unwrap();

    let mut newer = broker.publisher(&name).await.unwrap();
    assert_eq!(newer.progress(), Some("older"));
    let refused = older.commit("refused").await.unwrap_err();
    assert_eq!(refused.code(), "B0004", "{refused:?}");

    newer.stage(&topic, numbered(2..3)).await.unwrap();
    newer.commit("newer").await.unwrap();
    let mut staged = older.stage(&topic, numbered(3..4)).await;
    if staged.is_ok() {
        staged = older.commit("refused").await;
    }
    assert_eq!(staged.unwrap_err().code(), "B0004");
    assert_eq!(values(&read_all(broker, &topic).await), ["0", "2"]);
    assert_eq!(broker.publisher(&name).await.unwrap().progress(), Some("newer"));
}
