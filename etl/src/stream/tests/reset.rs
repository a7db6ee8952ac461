use super::*;
use crate::table::TableError;

async fn reset_to(sea: &Sea, only: Option<i32>, to: To, truncate: bool) -> (Vec<Move>, Reset) {
    let moves = plan_reset(&sea.around, &sea.landing, only, to).await.unwrap();
    let done = reset(&sea.around, &sea.engine, &sea.landing, &moves, truncate).await.unwrap();
    (moves, done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_truncates_doubles_nothing() {
    let sea = Sea::new().await;
    sea.produce(0, 100).await;
    sea.land().await;

    let (moves, done) = reset_to(&sea, Some(1), To::Offset(20), true).await;

    assert_eq!(moves, [Move { partition: 1, from: Some(50), to: 20, again: 30, skipped: 0 }]);
    // Partition 1 has the odd numbers; each fifth of them is a dead letter.
    assert_eq!(done.removed, 24);
    assert_eq!(sea.sums("bronze.t").await[0], 66);
    let landed = sea.land().await;
    assert_eq!((landed.rows, landed.dead), (24, 0), "letters that are there are not kept again");
    assert_eq!(sea.sums("bronze.t").await, [90, 90, sum(0, 100, |n| n % 10 == 3)]);
    assert_eq!(sea.open_letters().await, 10);
    assert_eq!(sea.verify().await.different, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_does_not_truncate_reads_rows_a_second_time() {
    let sea = Sea::new().await;
    sea.produce(0, 40).await;
    sea.land().await;

    reset_to(&sea, None, To::Earliest, false).await;
    sea.land().await;

    assert_eq!(sea.sums("bronze.t").await, [72, 36, 2 * sum(0, 40, |n| n % 10 == 3)]);
    assert_eq!(sea.open_letters().await, 4);
    assert_eq!(sea.verify().await.different, 0, "the commits say that it was landed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_may_begin_at_the_end_or_at_a_time() {
    let sea = Sea::new().await;
    sea.produce(0, 40).await;
    let at = DateTime::from_timestamp_millis(1_600_000_000_030).unwrap();

    let (moves, _) = reset_to(&sea, None, To::At(at), false).await;
    assert_eq!(
        moves.iter().map(|one| (one.from, one.to, one.skipped)).collect::<Vec<_>>(),
        [(None, 15, 15), (None, 15, 15)]
    );
    reset_to(&sea, Some(0), To::Latest, false).await;
    sea.land().await;

    // Of partition 1: 31, 33, 35, 37, 39 without 33.
    assert_eq!(sea.sums("bronze.t").await, [4, 4, 31 + 35 + 37 + 39]);
    let outside = plan_reset(&sea.around, &sea.landing, None, To::Offset(21)).await.unwrap_err();
    assert_eq!(outside.code(), "L0306");
    let nowhere = plan_reset(&sea.around, &sea.landing, Some(2), To::Latest).await.unwrap_err();
    assert_eq!(nowhere.code(), "L0307");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_that_runs_is_fenced_by_a_reset() {
    let sea = Arc::new(Sea::new().await);
    sea.produce(0, 40).await;
    let beside = Arc::clone(&sea);
    let progress = Arc::new(Progress::default());
    let seen = Arc::clone(&progress);
    let running = tokio::spawn(async move {
        let landing = Landing { drain: false, ..beside.landing.clone() };
        land(&beside.around, &landing, &progress, &CancellationToken::new()).await
    });
    while seen.rows.load(Ordering::Relaxed) < 36 {
        tokio::task::yield_now().await;
    }

    reset_to(&sea, None, To::Offset(10), true).await;
    sea.produce(40, 60).await;

    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(TableError::Fenced { .. })), "{error:?}");
    sea.land().await;
    assert_eq!(sea.sums("bronze.t").await, [54, 54, sum(0, 60, |n| n % 10 == 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_was_replayed_before_a_truncate_is_a_letter_again() {
    let sea = Sea::new().await;
    sea.produce(0, 20).await;
    sea.land().await;
    sea.mend().await;
    sea.replay().await;
    assert_eq!(sea.sums("bronze.t").await[0], 20);

    // 3 and 13 were replayed, then taken out, and are landed now that they can be read.
    reset_to(&sea, None, To::Earliest, true).await;
    assert_eq!(sea.sums("bronze.t").await[0], 0);
    sea.land().await;

    assert_eq!(sea.sums("bronze.t").await, [20, 20, sum(0, 20, |_| false)]);
    assert_eq!(sea.replay().await, Replayed::default());
    assert_eq!(sea.verify().await.different, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_the_stream_reads_again_itself_are_left_to_it() {
    let sea = Sea::new().await;
    sea.produce(0, 20).await;
    sea.land().await;
    sea.mend().await;

    reset_to(&sea, None, To::Earliest, true).await;
    let done = sea.replay().await;
    assert_eq!((done.letters, done.rows, done.ahead), (2, 0, 2));
    sea.land().await;
    let done = sea.replay().await;

    assert_eq!((done.rows, done.there), (0, 2));
    assert_eq!(sea.sums("bronze.t").await, [20, 20, sum(0, 20, |_| false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standing_tells_lag_in_records_and_seconds() {
    let sea = Sea::new().await;
    sea.produce(0, 20).await;
    sea.land().await;
    sea.now.store(1_600_000_100_000, Ordering::Relaxed);
    sea.produce(20, 30).await;

    let found = standing(&sea.around, &sea.landing).await.unwrap();

    assert_eq!(found.len(), 2);
    for part in found {
        assert_eq!((part.earliest, part.next, part.end, part.lag), (0, Some(10), 15, 5));
        assert_eq!((part.delay_s, part.epoch), (Some(99), 1));
    }
}
