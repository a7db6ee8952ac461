use super::*;
use crate::position::TopicPartition;

/// A table that holds whatever a stream meets: dead letters open and replayed, several commits, two partitions.
async fn lived() -> Sea {
    let sea = Sea::new().await;
    sea.produce(0, 100).await;
    sea.land().await;
    sea.mend().await;
    sea.replay().await;
    sea.produce(100, 200).await;
    sea.land().await;
    let unreadable =
        NewRecord { partition: Some(0), value: Some(Bytes::from_static(b"no frame")), ..NewRecord::default() };
    let tombstone = NewRecord { partition: Some(1), key: Some(Bytes::from_static(b"k")), ..NewRecord::default() };
    sea.around.broker.produce("t", vec![unreadable, tombstone]).await.unwrap();
    sea.land().await;
    sea
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_what_its_topic_says_is_proven_equal() {
    let sea = lived().await;

    let found = sea.verify().await;

    assert_eq!((found.different, &found.differences), (0, &Vec::new()));
    assert!(found.whole_log);
    assert_eq!(found.partitions.len(), 2);
    for part in &found.partitions {
        assert_eq!((part.from, part.to, part.records, part.rows, part.dead), (0, 101, 101, 100, 1));
        assert_eq!((part.gone, part.unverified, part.readable), (0, 0, 0));
        assert_eq!(part.topic_digest, part.table_digest);
        assert_ne!(part.table_digest, format!("{:032x}", 0));
    }
    // The same rows in one file instead of many.
    sea.rewrite("select * from bronze.t order by n desc").await;
    let again = sea.verify().await;
    assert_eq!(again.different, 0);
    assert_eq!(again.partitions, found.partitions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_deleted_is_found() {
    let sea = lived().await;
    sea.rewrite("select * from bronze.t where n <> 57").await;

    let found = sea.verify().await;

    let wrong = Wrong::Missing { expected: 1, found: 0 };
    assert_eq!(found.differences, [Difference { partition: 1, offset: 28, wrong }]);
    assert_eq!(found.different, 1);
    assert_ne!(found.partitions[1].topic_digest, found.partitions[1].table_digest);
    assert_eq!(found.partitions[0].topic_digest, found.partitions[0].table_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_replayed_and_deleted_is_found() {
    let sea = lived().await;
    sea.rewrite("select * from bronze.t where n <> 63").await;

    let found = sea.verify().await;

    let wrong = Wrong::Missing { expected: 1, found: 0 };
    assert_eq!(found.differences, [Difference { partition: 1, offset: 31, wrong }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_there_twice_is_found() {
    let sea = lived().await;
    sea.rewrite("select * from bronze.t union all select * from bronze.t where n = 80").await;

    let found = sea.verify().await;

    let wrong = Wrong::Doubled { expected: 1, found: 2 };
    assert_eq!(found.differences, [Difference { partition: 0, offset: 40, wrong }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_changed_is_found() {
    let sea = lived().await;
    let columns = "n, at, more, event_at, _topic, _partition, _offset, _timestamp, _key, _schema_id";
    sea.rewrite(&format!(
        "select {} from bronze.t",
        columns.replacen("at", "case n when 44 then '2026-01-05T10:00:01' else at end as at", 1)
    ))
    .await;

    let found = sea.verify().await;

    let (topic, table) = ("2026-01-05T10:00:00".to_owned(), "2026-01-05T10:00:01".to_owned());
    let wrong = Wrong::Column { column: "at".to_owned(), topic, table };
    assert_eq!(found.differences, [Difference { partition: 0, offset: 22, wrong }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_nobody_landed_is_found() {
    let sea = lived().await;
    let more = "select n, at, more, event_at, _topic, _partition, cast(5000 as bigint) as _offset, _timestamp, _key, _schema_id \
                from bronze.t where n = 10";
    sea.rewrite(&format!(
        "select n, at, more, event_at, _topic, _partition, _offset, _timestamp, _key, _schema_id from bronze.t union all {more}"
    ))
    .await;

    let found = sea.verify().await;

    assert_eq!(found.differences, [Difference { partition: 0, offset: 5000, wrong: Wrong::Outside }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_gone_is_found() {
    let sea = lived().await;
    sea.rewrite_letters("select * from bronze.dead_letters where reason <> 'not_framed'").await;

    let found = sea.verify().await;

    let wrong = Wrong::NoLetter { reason: "not_framed".to_owned() };
    assert_eq!(found.differences, [Difference { partition: 0, offset: 100, wrong }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_is_not_verifiable_and_not_equal() {
    let sea = lived().await;
    sea.around.broker.delete_before(&TopicPartition::new("t", 0), 30).await.unwrap();
    sea.rewrite("select * from bronze.t where n <> 20").await;

    let found = sea.verify().await;

    assert_eq!(found.different, 0);
    let part = &found.partitions[0];
    assert_eq!((part.gone, part.unverified, part.records, part.rows), (30, 29, 71, 70));
    assert_eq!(part.topic_digest, part.table_digest);
    sea.rewrite("select * from bronze.t union all select * from bronze.t where n = 22").await;
    let doubled = sea.verify().await;
    assert_eq!(doubled.different, 1, "that there are more rows than landed needs no topic: {doubled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_differences_are_counted_and_the_first_are_told() {
    let sea = lived().await;
    sea.rewrite("select * from bronze.t where n >= 100").await;

    let found = sea.verify().await;

    assert_eq!((found.different, found.differences.len()), (100, 20));
    assert_eq!(found.differences[0].offset, 0);
}
