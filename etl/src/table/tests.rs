//! Commits beside each other: what the next one knows, and what it may follow.
mod beside;
mod maintenance;

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use deltalake::kernel::Action;

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
}

fn open(folder: &std::path::Path) -> Lake {
    Lake::open("lake", folder, &S3Settings::default()).unwrap()
}

fn name() -> TableName {
    TableName::new("bronze", "numbers")
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
}

fn numbers(from: i64, to: i64) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(from..to))]).unwrap()
}

/// Adds the numbers `[from, to)` with progress `app`: `from` before, `to` after.
async fn append(table: &mut Appender, app: &str, from: i64, to: i64) -> crate::Result<u64> {
    let mut writer = FileWriter::beside(table, WriteOptions::default(), now());
    writer.write(&numbers(from, to)).await.unwrap();
    let mut commit = Commit::append(now());
    commit.actions = writer.finish().await.unwrap().into_iter().map(Action::Add).collect();
    commit.expected = vec![(app.to_owned(), (from > 0).then_some(from))];
    commit.txns = vec![(app.to_owned(), to)];
    Ok(table.commit(commit).await?.version)
}

async fn appender(lake: &Lake) -> Appender {
    Appender::open(&lake.ensure(&name(), &schema(), &[]).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn an_appender_knows_what_it_and_others_committed() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut first = appender(&lake).await;
    let mut second = appender(&open(folder.path())).await;

    assert_eq!(append(&mut first, "a", 0, 10).await.unwrap(), 1);
    assert_eq!(append(&mut second, "b", 0, 5).await.unwrap(), 2);
    assert_eq!(append(&mut first, "a", 10, 20).await.unwrap(), 3);

    assert_eq!((first.txn("a"), first.txn("b"), first.version()), (Some(20), Some(5), 3));
    assert_eq!((second.txn("a"), second.version()), (Some(10), 2), "it looks only when it commits");
    let table = lake.table(&name()).await.unwrap();
    assert_eq!(table.rows().unwrap(), Some(25));
    assert_eq!((table.txn("a").await.unwrap(), table.txn("c").await.unwrap()), (Some(20), None));
}

#[tokio::test]
async fn who_lost_its_progress_to_another_is_fenced() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let (mut old, mut new) = (appender(&lake).await, appender(&lake).await);
    append(&mut new, "a", 0, 10).await.unwrap();

    let refused = append(&mut old, "a", 0, 7).await.unwrap_err();

    assert_eq!(refused.code(), "T0005");
    assert_eq!(lake.table(&name()).await.unwrap().rows().unwrap(), Some(10));
}

#[tokio::test]
async fn a_handle_keeps_the_progress_it_has_read() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut table = lake.ensure(&name(), &schema(), &[]).await.unwrap();
    assert_eq!(table.txn("a").await.unwrap(), None);
    let mut other = appender(&lake).await;
    for step in 0..5 {
        append(&mut other, "a", step, step + 1).await.unwrap();
    }
    assert_eq!(table.txn("a").await.unwrap(), None, "a snapshot stays what it is");

    table.refresh().await.unwrap();
    assert_eq!((table.version(), table.txn("a").await.unwrap()), (5, Some(5)));
    let mut commit = Commit::append(now());
    commit.expected = vec![("a".to_owned(), Some(5))];
    commit.txns = vec![("a".to_owned(), 6)];
    append(&mut other, "b", 0, 1).await.unwrap();
    assert_eq!(table.commit(commit).await.unwrap().version, 7);

    // More at once than is worth reading one by one.
    for step in 6..86 {
        append(&mut other, "c", step - 6, step - 5).await.unwrap();
    }
    table.refresh().await.unwrap();
    assert_eq!((table.txn("a").await.unwrap(), table.txn("b").await.unwrap()), (Some(6), Some(1)));
    assert_eq!(table.txn("c").await.unwrap(), Some(80));
    let early = lake.table_at(&name(), 3).await.unwrap();
    assert_eq!((early.txn("a").await.unwrap(), early.txn("b").await.unwrap()), (Some(3), None));
}

#[tokio::test]
async fn a_handle_older_than_the_log_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut old = appender(&lake).await;
    append(&mut old, "a", 0, 1).await.unwrap();
    let log = folder.path().join("lake/bronze/numbers/_delta_log");
    std::fs::remove_file(log.join("00000000000000000001.json")).unwrap();
    old.left_lying(std::time::Duration::from_mins(11));

    let refused = append(&mut old, "a", 1, 2).await.unwrap_err();

    assert_eq!(refused.code(), "T0004");
    assert!(!log.join("00000000000000000002.json").exists());
}
