use super::*;

/// A stream that took local times for UTC, and the same stream as it should have been.
async fn wrong() -> (Sea, Landing) {
    let sea = Sea::new().await;
    sea.produce(0, 100).await;
    sea.land().await;
    let right = Landing { zone: chrono_tz::Asia::Tbilisi, ..sea.landing.clone() };
    (sea, right)
}

async fn again(sea: &Sea, landing: &Landing, from: To, to: To) -> crate::error::Result<(Backfill, Landed)> {
    let progress = Arc::new(Progress::default());
    backfill(&sea.around, landing, (from, to), &progress, &CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_landed_beside_compared_and_swapped_while_the_stream_goes_on() {
    let (sea, right) = wrong().await;
    sea.mend().await;

    let (covers, landed) = again(&sea, &right, To::Offset(10), To::Offset(30)).await.unwrap();

    let span = |partition| Span { partition, from: 10, to: 30 };
    assert_eq!(covers.partitions, [span(0), span(1)]);
    assert_eq!(landed.rows, 40);
    assert_eq!(sea.sums("bronze.t").await[0], 90, "the live table is as it was");
    let found = compare(&sea.around, &sea.engine, &right).await.unwrap();
    let numbers: Vec<_> = found.iter().map(|one| [one.same, one.changed, one.only_live, one.only_shadow]).collect();
    // Four records of partition 1 could not be read then: 23, 33, 43, 53.
    assert_eq!(numbers, [[0, 20, 0, 0], [0, 16, 0, 4]]);
    let first = &found[0].differences[0];
    assert_eq!((first.offset, first.column.as_deref()), (10, Some("event_at")));

    sea.produce(100, 200).await;
    sea.land_as(&right).await;
    let swapped = swap(&sea.around, &sea.engine, &right).await.unwrap();

    assert_eq!((swapped.removed, swapped.added), (36, 40));
    let local = "select count(*) from bronze.t where event_at = timestamp '2026-01-05T06:00:00Z'";
    assert_eq!(sea.number(local).await, 140, "40 swapped and 100 landed after");
    assert_eq!(sea.sums("bronze.t").await[..2], [194, 194]);
    let same = compare(&sea.around, &sea.engine, &right).await.unwrap();
    assert!(same.iter().all(|one| one.same == 20 && one.differences.is_empty()), "{same:?}");
    let twice = swap(&sea.around, &sea.engine, &right).await.unwrap();
    assert_eq!(twice.version, None);
    // Letters whose rows came with the swap are found to be there.
    let done = sea.replay().await;
    assert_eq!((done.rows, done.there), (6, 4));
    assert_eq!(sea.sums("bronze.t").await, [200, 200, sum(0, 200, |_| false)]);

    drop_backfill(&sea.around, &sea.engine, &right).await.unwrap();
    assert_eq!(
        sea.around.lake.tables().await.unwrap().iter().filter(|name| name.table.contains("backfill")).count(),
        0
    );
    assert_eq!(sea.sums("bronze.t").await[0], 200);
    assert_eq!(compare(&sea.around, &sea.engine, &right).await.unwrap_err().code(), "L0309");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_swap_in_it_is_verified() {
    let (sea, right) = wrong().await;
    again(&sea, &right, To::Earliest, To::Latest).await.unwrap();
    assert_ne!(sea.verify_as(&right).await.different, 0, "the live rows are of other settings");

    swap(&sea.around, &sea.engine, &right).await.unwrap();

    let found = sea.verify_as(&right).await;
    assert_eq!((found.different, found.differences), (0, Vec::new()));
    assert_eq!(found.partitions.iter().map(|part| part.rows).sum::<u64>(), 90);
    let shadow = sea.verify_as(&super::super::backfill::shadow(&right)).await;
    assert_eq!(shadow.different, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_shadow_could_not_read_becomes_a_letter_of_the_stream() {
    let (sea, right) = wrong().await;
    // Two records that the live table has, and that cannot be read any more: their time is none.
    let odd = |n: i64| {
        let encoder = JsonEncoder::new(&apache_avro::Schema::parse_str(FIRST).unwrap()).unwrap();
        let mut value = Vec::new();
        frame::write(sea.first, &mut value);
        value.extend(encoder.encode(&json!({ "n": n, "at": "some day" })).unwrap());
        NewRecord { partition: Some(0), value: Some(value.into()), ..NewRecord::default() }
    };
    sea.around.broker.produce("t", vec![odd(1000), odd(1001)]).await.unwrap();
    let blind = Landing { event_time: None, ..right.clone() };
    sea.land_as(&blind).await;
    assert_eq!(sea.sums("bronze.t").await[0], 92);
    again(&sea, &right, To::Offset(50), To::Latest).await.unwrap();

    let swapped = swap(&sea.around, &sea.engine, &right).await.unwrap();

    assert_eq!((swapped.removed, swapped.added), (2, 0));
    let ours = "select count(*) from bronze.dead_letters where source = 's' and reason = 'event_time'";
    assert_eq!(sea.number(ours).await, 2);
    drop_backfill(&sea.around, &sea.engine, &right).await.unwrap();
    assert_eq!(sea.number("select count(*) from bronze.dead_letters where source <> 's'").await, 0);
    assert_eq!(sea.number(ours).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_not_complete_is_not_swapped() {
    let (sea, right) = wrong().await;
    assert_eq!(swap(&sea.around, &sea.engine, &right).await.unwrap_err().code(), "L0309");
    sea.produce(100, 140).await;

    // The shadow is ahead of the live stream.
    again(&sea, &right, To::Offset(40), To::Latest).await.unwrap();
    assert_eq!(swap(&sea.around, &sea.engine, &right).await.unwrap_err().code(), "L0312");
    let other = again(&sea, &right, To::Offset(41), To::Latest).await.unwrap_err();
    assert_eq!(other.code(), "L0310");
    let (_, more) = again(&sea, &right, To::Offset(40), To::Latest).await.unwrap();
    assert_eq!(more.rows, 0, "what is there is not landed again");
    sea.land_as(&right).await;
    swap(&sea.around, &sea.engine, &right).await.unwrap();

    assert_eq!(sea.sums("bronze.t").await, [126, 126, sum(0, 140, |n| n % 10 == 3)]);
}
