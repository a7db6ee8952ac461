//! Events by core and second that grouping by windows takes: tumbling, hopping 60 s by 1 s, and sessions, over 2 million events
//! of 100 keys, 10,000 for sessions, 500 a second, in the order of time but for one in a hundred.
//!
//! `cargo bench -p tidemill-etl --bench windows` (`TIDEMILL_BENCH_ROWS=10000000` sets another number). The goals are 2, 1 and 0.5
//! million.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on has failed, and it prints"
)]
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use datafusion::arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use deltalake::kernel::Action;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tidemill_etl::engine::{Engine, EngineSettings};
use tidemill_etl::table::{Commit, FileWriter, Lake, S3Settings, TableName, WriteOptions};

const QUERIES: &[(&str, &str)] = &[
    ("tumble 1 m", "k, count(*), sum(n) FROM bronze.events GROUP BY tumble(at, INTERVAL '1 minute'), k"),
    (
        "hop 60 s/1 s",
        "k, count(*), sum(n) FROM bronze.events GROUP BY hop(at, INTERVAL '1 second', INTERVAL '60 seconds'), k",
    ),
    ("session 30 s", "person, count(*), sum(n) FROM bronze.events GROUP BY session(at, INTERVAL '30 seconds'), person"),
];

fn events(from: i64, to: i64, random: &mut StdRng) -> RecordBatch {
    let (mut at, mut keys, mut users, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in from..to {
        let late = if random.random_range(0..100) == 0 { random.random_range(0..7_200_000_000) } else { 0 };
        at.push(1_700_000_000_000_000 + n * 2_000 - late);
        keys.push(random.random_range(0..100_i64));
        users.push(random.random_range(0..10_000_i64));
        numbers.push(random.random_range(0..1_000_i64));
    }
    RecordBatch::try_from_iter_with_nullable([
        ("at", Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")) as _, true),
        ("k", Arc::new(Int64Array::from(keys)) as _, true),
        ("person", Arc::new(Int64Array::from(users)) as _, true),
        ("n", Arc::new(Int64Array::from(numbers)) as _, true),
    ])
    .unwrap()
}

#[tokio::main]
async fn main() {
    let total: i64 = std::env::var("TIDEMILL_BENCH_ROWS").map_or(2_000_000, |rows| rows.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
    let name = TableName::new("bronze", "events");
    let mut random = StdRng::seed_from_u64(7);
    let table = lake.ensure(&name, &events(0, 0, &mut random).schema(), &[]).await.unwrap();
    let mut writer = FileWriter::new(&table, table.schema().unwrap(), WriteOptions::default(), Utc::now());
    for from in (0..total).step_by(50_000) {
        writer.write(&events(from, (from + 50_000).min(total), &mut random)).await.unwrap();
    }
    let mut commit = Commit::append(Utc::now());
    commit.actions.extend(writer.finish().await.unwrap().into_iter().map(Action::Add));
    lake.table(&name).await.unwrap().commit(commit).await.unwrap();
    // One part, so that what is measured is one core's.
    let settings = EngineSettings {
        memory_limit: 2 << 30,
        spill_dir: folder.path().join("spill"),
        target_partitions: 1,
        base: folder.path().to_path_buf(),
    };
    let engine = Engine::new(lake, settings).unwrap();
    for (what, sql) in QUERIES {
        let mut best = f64::INFINITY;
        let mut rows = 0;
        for _ in 0..3 {
            let begun = Instant::now();
            let mut answer = engine.query(&format!("SELECT window_start, window_end, {sql}")).await.unwrap();
            rows = 0;
            while let Some(batch) = answer.next().await.unwrap() {
                rows += batch.num_rows();
            }
            best = best.min(begun.elapsed().as_secs_f64());
        }
        let millions = f64::from(i32::try_from(total).unwrap()) / best / 1e6;
        println!("{what:<13} {total} events, {rows} windows in {best:.2} s: {millions:.2} million a second");
    }
}
