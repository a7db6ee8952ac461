//! An hour of commits at one per second, made as fast as they go: what one costs, and what the table is like after.
//!
//! `cargo bench -p tidemill-etl --bench commits` (3,600 commits; `TIDEMILL_BENCH_COMMITS` sets another number).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on has failed, and it prints"
)]
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::Utc;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::prelude::{SessionContext, col};
use deltalake::kernel::Action;
use tidemill_etl::table::{Appender, Commit, FileWriter, Keeper, Lake, Policies, S3Settings, TableName, WriteOptions};

/// Partitions of the topic: each commit has the offset and the fence of one eighth of them.
const PARTITIONS: i64 = 8;
const ROWS: i64 = 100;

fn schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("_partition"), column("_offset"), column("value")]))
}

fn rows(n: i64) -> RecordBatch {
    let column = |of: fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((n * ROWS..(n + 1) * ROWS).map(of))) as _;
    let batch =
        RecordBatch::try_new(schema(), vec![column(|i| i / ROWS % PARTITIONS), column(|i| i), column(|i| i * 7)]);
    batch.unwrap()
}

async fn commit(writer: FileWriter, n: i64) -> Commit {
    let now = Utc::now();
    let mut writer = writer;
    writer.write(&rows(n)).await.unwrap();
    let mut commit = Commit::append(now);
    commit.actions = writer.finish().await.unwrap().into_iter().map(Action::Add).collect();
    let app = format!("bench/numbers/{}", n % PARTITIONS);
    let before = (n >= PARTITIONS).then(|| (n - PARTITIONS + 1) * ROWS);
    commit.expected = vec![(app.clone(), before)];
    commit.txns = vec![(app, (n + 1) * ROWS)];
    commit
}

/// The time per commit: the file included, and the put alone.
fn show(what: &str, count: i64, whole: Duration, put: Duration) {
    let each = |time: Duration| time / u32::try_from(count).unwrap();
    println!("{what}: {count} commits, {:.2?} each, {:.2?} of it the commit", each(whole), each(put));
}

#[tokio::main]
async fn main() {
    let count = std::env::var("TIDEMILL_BENCH_COMMITS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_600);
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();

    let name = TableName::new("bronze", "by_table");
    let mut table = lake.ensure(&name, &schema(), &[]).await.unwrap();
    let few = count.min(200);
    let (begun, mut put) = (Instant::now(), Duration::ZERO);
    for n in 0..few {
        let commit = commit(FileWriter::new(&table, schema(), WriteOptions::default(), Utc::now()), n).await;
        let at = Instant::now();
        table.commit(commit).await.unwrap();
        put += at.elapsed();
    }
    show("table, whole snapshot kept", few, begun.elapsed(), put);

    // An hour: the age that files need is left out, because the hour takes seconds here.
    let mut policies = Policies::default();
    policies.all.compaction.min_age = Duration::ZERO;
    let keeper = Keeper::new(lake.clone(), policies, Arc::new(Utc::now));
    let name = TableName::new("bronze", "by_appender");
    let mut appender = Appender::open(&lake.ensure(&name, &schema(), &[]).await.unwrap()).await.unwrap();
    let (begun, mut put) = (Instant::now(), Duration::ZERO);
    for n in 0..count {
        let commit = commit(FileWriter::beside(&appender, WriteOptions::default(), Utc::now()), n).await;
        let at = Instant::now();
        let version = appender.commit(commit).await.unwrap().version;
        keeper.committed(&name, version);
        put += at.elapsed();
    }
    show("appender, with a keeper beside it", count, begun.elapsed(), put);
    keeper.close().await;

    let one = TableName::new("bronze", "one_commit");
    let mut table = lake.ensure(&one, &schema(), &[]).await.unwrap();
    let mut writer = FileWriter::new(&table, schema(), WriteOptions::default(), Utc::now());
    for n in 0..count {
        writer.write(&rows(n)).await.unwrap();
    }
    let mut all = Commit::append(Utc::now());
    all.actions = writer.finish().await.unwrap().into_iter().map(Action::Add).collect();
    table.commit(all).await.unwrap();
    let (many, compacted) = (measure(&lake, &name).await, measure(&lake, &one).await);
    println!("{count} commits: {many}; one commit: {compacted}");
}

/// The best of several: what it takes to open a table and to count and sum what is in it.
async fn measure(lake: &Lake, name: &TableName) -> String {
    let (mut opened, mut read) = (Duration::MAX, Duration::MAX);
    let mut files = 0;
    let mut found = 0;
    for _ in 0..5 {
        let at = Instant::now();
        let table = lake.table(name).await.unwrap();
        opened = opened.min(at.elapsed());
        files = table.files().unwrap().len();
        let at = Instant::now();
        let context = SessionContext::new();
        let provider = table.provider(&context.state()).unwrap();
        let sums = [sum(col("value")), sum(col("_offset"))];
        let frame = context.read_table(provider).unwrap();
        found = frame.clone().count().await.unwrap();
        frame.aggregate(Vec::new(), sums.to_vec()).unwrap().collect().await.unwrap();
        read = read.min(at.elapsed());
    }
    format!("{files} files, {found} rows, opened in {opened:.1?}, counted and summed in {read:.1?}")
}
