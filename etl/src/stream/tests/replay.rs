use super::*;
use crate::pipeline::DeadLetter;

/// 100 records landed, ten of them dead for want of their schema, which is known now.
async fn mended() -> Sea {
    let sea = Sea::new().await;
    sea.produce(0, 100).await;
    let landed = sea.land().await;
    assert_eq!((landed.rows, landed.dead), (90, 10));
    sea.mend().await;
    sea
}

fn all() -> [i64; 3] {
    [100, 100, sum(0, 100, |_| false)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_after_a_mend_gets_its_row_once() {
    let sea = mended().await;

    let dry = sea.replay_of(&Choice::default(), true).await;
    assert_eq!((dry.letters, dry.rows), (10, 10));
    assert_eq!(sea.sums("bronze.t").await[0], 90, "a dry run changes nothing");
    let done = sea.replay().await;

    assert_eq!((done.letters, done.rows, done.there), (10, 10, 0));
    assert_eq!(sea.sums("bronze.t").await, all());
    assert_eq!(sea.open_letters().await, 0);
    let whole = "select count(*) from bronze.t where _key = 'key ' || n and _schema_id is not null \
                 and _topic = 't' and _partition = n % 2 and _offset = n / 2 \
                 and date_part('epoch', _timestamp) * 1000 = 1600000000000 + n \
                 and (n % 10 <> 3 or more = 'more ' || n)";
    assert_eq!(sea.number(whole).await, 100, "a replayed row is what a landed one would be");
    let again = sea.replay().await;
    assert_eq!(again, Replayed::default());
    assert_eq!(sea.sums("bronze.t").await, all());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_cannot_be_read_stays_with_the_reason_of_now() {
    let sea = Sea::new().await;
    sea.produce(0, 20).await;
    sea.land().await;
    let before = "select count(*) from bronze.dead_letters where reason = 'unknown_schema'";
    assert_eq!(sea.number(before).await, 2);
    // The id turns out to be of another schema, which contradicts the table.
    let other = r#"{ "type": "record", "name": "E", "fields": [ { "name": "n", "type": "string" } ] }"#;
    sea.around.registry.register("other-value", other, Some(LATER)).await.unwrap();

    let done = sea.replay().await;

    assert_eq!((done.letters, done.rows, done.refused.values().sum::<u64>()), (2, 0, 2));
    assert_eq!(sea.number(before).await, 0);
    assert_eq!(sea.number("select count(*) from bronze.dead_letters where reason = 'incompatible_schema'").await, 2);
    assert_eq!(sea.open_letters().await, 2);
    let version = sea.around.lake.table(sea.around.dead.name()).await.unwrap().version();
    sea.replay().await;
    let after = sea.around.lake.table(sea.around.dead.name()).await.unwrap().version();
    assert_eq!(after, version, "what says the same as before is not written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_letters_may_be_replayed_before_others() {
    let sea = mended().await;
    let id = |text: &str| text.parse::<LetterId>().unwrap();

    // Record 13 is the seventh of partition 1.
    let one = sea.replay_of(&Choice { ids: vec![id("t/1/6"), id("t/1/41")], reason: None }, false).await;
    assert_eq!((one.letters, one.rows), (2, 2));
    let none = sea.replay_of(&Choice { ids: vec![id("t/1/6")], reason: None }, false).await;
    assert_eq!(none.letters, 0);
    let none = sea.replay_of(&Choice { ids: Vec::new(), reason: Some("tombstone".to_owned()) }, false).await;
    assert_eq!(none.letters, 0);
    let rest = sea.replay().await;

    assert_eq!((rest.letters, rest.rows), (8, 8));
    assert_eq!(sea.sums("bronze.t").await, all());
    assert!("t/1".parse::<LetterId>().is_err() && "t/x/1".parse::<LetterId>().is_err());
}

/// The state that a crash between the rows' commit and the marks leaves: rows there, letters open.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_rows_and_marks_doubles_nothing() {
    let sea = mended().await;
    let dead = sea.around.lake.table(sea.around.dead.name()).await.unwrap();
    let unmarked = dead.version();
    sea.replay().await;
    // The letters as they were before they were marked.
    sea.rewrite_letters(&format!("select * from bronze.dead_letters version as of {unmarked}")).await;
    assert_eq!(sea.open_letters().await, 10);

    let done = sea.replay().await;

    assert_eq!((done.letters, done.rows, done.there), (10, 0, 10));
    assert_eq!(sea.sums("bronze.t").await, all());
    assert_eq!(sea.open_letters().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replays_at_once_append_each_row_once() {
    let sea = Arc::new(mended().await);
    let beside = Arc::clone(&sea);
    let other = tokio::spawn(async move { beside.replay().await });

    let ours = sea.replay().await;

    let theirs = other.await.unwrap();
    assert_eq!(ours.rows + theirs.rows, 10, "{ours:?} {theirs:?}");
    assert_eq!(sea.sums("bronze.t").await, all());
    assert_eq!(sea.open_letters().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn landing_goes_on_while_letters_are_replayed() {
    let sea = Arc::new(mended().await);
    sea.produce(100, 400).await;
    let beside = Arc::clone(&sea);
    let landing = tokio::spawn(async move { beside.land().await });

    let done = sea.replay().await;

    let landed = landing.await.unwrap();
    assert_eq!((done.rows, landed.rows), (10, 300));
    assert_eq!(sea.sums("bronze.t").await, [400, 400, sum(0, 400, |_| false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_kept_by_an_earlier_version_are_replayed_too() {
    let sea = Sea::new().await;
    // Version 1 of the table had no times, keys, headers and marks.
    let schema = crate::pipeline::dead_letter_schema();
    let old = arrow::datatypes::Schema::new(schema.fields().iter().take(9).cloned().collect::<Vec<_>>());
    let mut table = sea.around.lake.ensure(sea.around.dead.name(), &old, &[]).await.unwrap();
    sea.produce(0, 10).await;
    sea.land().await;
    assert_eq!(table.schema().unwrap().fields().len(), 9);
    table.refresh().await.unwrap();
    assert_eq!(table.schema().unwrap().fields().len(), schema.fields().len());
    sea.rewrite_letters(
        "select source, topic_or_file, partition, offset_or_line, schema_id, reason, detail, raw, seen_at \
                         from bronze.dead_letters",
    )
    .await;
    sea.mend().await;

    let done = sea.replay().await;

    assert_eq!(done.rows, 1);
    let row = "select count(*) from bronze.t where n = 3 and _timestamp is null and _key is null and more = 'more 3'";
    assert_eq!(sea.number(row).await, 1);
    let found = sea.verify().await;
    assert_eq!((found.different, found.differences), (0, Vec::new()), "what was not kept is no difference");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_seen_again_is_kept_once_and_a_new_one_is_not_lost() {
    let sea = Sea::new().await;
    let letter = |offset, reason: &str| DeadLetter {
        source: "s".to_owned(),
        topic_or_file: "t".to_owned(),
        partition: Some(0),
        offset_or_line: offset,
        reason: reason.to_owned(),
        ..DeadLetter::default()
    };
    let keep = async |letters: &[DeadLetter], after: i64| {
        let now = (sea.around.clock)();
        let progress = [("s/t/0".to_owned(), after)];
        sea.around.dead.keep(letters, &progress, |one| (0, one.offset_or_line), now).await.unwrap()
    };
    assert_eq!(keep(&[letter(3, "a"), letter(7, "a")], 10).await, 2);

    // The stream reads 5..10 again: 7 as before, 8 could be read the first time and no longer now.
    assert_eq!(keep(&[letter(7, "a"), letter(8, "b")], 10).await, 1);
    assert_eq!(keep(&[letter(8, "b"), letter(12, "a")], 13).await, 1);

    let kept = "select count(*) n from bronze.dead_letters group by offset_or_line order by 1 desc";
    assert_eq!(sea.number(kept).await, 1);
    assert_eq!(sea.number("select count(*) from bronze.dead_letters").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_keys_unique() {
    let sea = Sea::new().await;
    let unique = Landing { unique_key: vec!["n".to_owned()], ..sea.landing.clone() };
    sea.produce(0, 20).await;
    // 5 comes a second time, and 3 and 13, which cannot be read yet: one of them in a way that can.
    let twice = vec![sea.record(5, sea.first), sea.record(3, LATER), sea.record(13, sea.first)];
    sea.around.broker.produce("t", twice).await.unwrap();
    let landed = sea.land_as(&unique).await;
    assert_eq!((landed.rows, landed.dead), (19, 4));
    sea.mend().await;
    let landings = [unique];
    let done = AtomicU64::new(0);
    let choice = Choice::default();
    let work = Replaying {
        around: &sea.around,
        engine: &sea.engine,
        landings: &landings,
        choice: &choice,
        dry_run: false,
        done: &done,
    };

    let found = replay(&work).await.unwrap();

    // One 3 of two; 5 and 13 were there.
    assert_eq!((found[0].letters, found[0].rows, found[0].refused.get("duplicate")), (4, 1, Some(&3)));
    assert_eq!(sea.sums("bronze.t").await, [20, 20, sum(0, 20, |_| false)]);
    assert_eq!(sea.open_letters().await, 3);
}
