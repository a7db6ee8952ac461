//! What it costs to bring models up to date after 10,000 new rows, by how many rows were there before.
//!
//! `cargo bench -p tidemill-etl --bench models` (1 and 10 million rows; `TIDEMILL_BENCH_ROWS=1000000,50000000` sets others).
//! Rows are in the order of event time, one in a hundred up to two hours late, of 100,000 users and 1,000 items, 200 rows a second.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench that cannot go on has failed, and it prints"
)]
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Decimal128Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use chrono::Utc;
use deltalake::kernel::Action;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tidemill_etl::engine::{Engine, EngineSettings};
use tidemill_etl::model::{Project, build};
use tidemill_etl::table::{Commit, FileWriter, Lake, S3Settings, TableName, WriteOptions};

const NEW: i64 = 10_000;
/// Rows a file of the history has.
const FILE: i64 = 1_000_000;

const MODELS: &[(&str, &str)] = &[
    (
        "sales",
        "SELECT item_id, count(*) AS units, sum(amount) AS total, max(event_at) AS newest FROM {in} GROUP BY item_id",
    ),
    (
        "hourly_users",
        "SELECT date_trunc('hour', event_at) AS hour_start, count(DISTINCT user_id) AS users FROM {in} GROUP BY 1",
    ),
    (
        "sessions",
        "SELECT user_id, window_start, window_end, count(*) AS events, sum(amount) AS total FROM {in} \
         GROUP BY session(event_at, INTERVAL '2 minutes'), user_id",
    ),
    (
        "sliding_sales",
        "SELECT window_start, window_end, item_id, count(*) AS units, sum(amount) AS total FROM {in} \
         GROUP BY hop(event_at, INTERVAL '10 minutes', INTERVAL '1 hour'), item_id",
    ),
    ("dear", "SELECT event_at, user_id, item_id, amount * 2 AS doubled FROM {in} WHERE amount > 50"),
];

fn rows(from: i64, to: i64, random: &mut StdRng) -> RecordBatch {
    let mut at = Vec::new();
    let (mut users, mut items, mut cents) = (Vec::new(), Vec::new(), Vec::new());
    for n in from..to {
        let late = if random.random_range(0..100) == 0 { random.random_range(0..7_200_000_000) } else { 0 };
        at.push(1_700_000_000_000_000 + n * 5_000 - late);
        users.push(random.random_range(0..100_000_i64));
        items.push(random.random_range(0..1_000_i64));
        cents.push(i128::from(random.random_range(1..10_000_i64)));
    }
    RecordBatch::try_from_iter_with_nullable([
        ("event_at", Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")) as _, true),
        ("user_id", Arc::new(Int64Array::from(users)) as _, true),
        ("item_id", Arc::new(Int64Array::from(items)) as _, true),
        ("amount", Arc::new(Decimal128Array::from(cents).with_precision_and_scale(10, 2).unwrap()) as _, true),
    ])
    .unwrap()
}

async fn append(lake: &Lake, name: &TableName, from: i64, to: i64, random: &mut StdRng) {
    let mut table = lake.table(name).await.unwrap();
    let mut commit = Commit::append(Utc::now());
    let mut at = from;
    while at < to {
        let end = (at + FILE).min(to);
        let mut writer = FileWriter::new(&table, table.schema().unwrap(), WriteOptions::default(), Utc::now());
        for begin in (at..end).step_by(50_000) {
            writer.write(&rows(begin, (begin + 50_000).min(end), random)).await.unwrap();
        }
        commit.actions.extend(writer.finish().await.unwrap().into_iter().map(Action::Add));
        at = end;
    }
    table.commit(commit).await.unwrap();
}

async fn measure(folder: &Path, history: i64) {
    let mut random = StdRng::seed_from_u64(7);
    let lake = Lake::open("lake", folder, &S3Settings::default()).unwrap();
    let name = TableName::new("bronze", "events");
    lake.ensure(&name, &rows(0, 0, &mut random).schema(), &[]).await.unwrap();
    append(&lake, &name, 0, history, &mut random).await;
    std::fs::create_dir_all(folder.join("sql")).unwrap();
    for (model, sql) in MODELS {
        let sql = sql.replace("{in}", "{{ source('bronze', 'events') }}");
        let text = format!("{{{{ config(materialized='incremental') }}}}\n{sql}\n");
        std::fs::write(folder.join(format!("sql/{model}.sql")), text).unwrap();
    }
    let project = Project::load(&folder.join("sql"), &serde_json::Map::new()).unwrap();
    let settings = EngineSettings {
        memory_limit: 2 << 30,
        spill_dir: folder.join("spill"),
        target_partitions: 0,
        base: folder.to_path_buf(),
    };
    let engine = Engine::new(lake.clone(), settings).unwrap();
    let mut whole = Vec::new();
    for (model, _) in MODELS {
        let begun = Instant::now();
        build(&engine, &project, &project.models[*model], Utc::now()).await.unwrap();
        whole.push(begun.elapsed());
    }
    let mut times = vec![Vec::new(); MODELS.len()];
    for round in 0..5 {
        let from = history + round * NEW;
        append(&lake, &name, from, from + NEW, &mut random).await;
        for (at, (model, _)) in MODELS.iter().enumerate() {
            let begun = Instant::now();
            let built = build(&engine, &project, &project.models[*model], Utc::now()).await.unwrap();
            assert!(built.full_because.is_none(), "{built:?}");
            times[at].push((begun.elapsed(), built.class));
        }
    }
    for (at, (model, _)) in MODELS.iter().enumerate() {
        times[at].sort();
        let (median, class) = &times[at][times[at].len() / 2];
        let class = class.map(|class| class.to_string()).unwrap_or_default();
        println!(
            "{history:>9} rows, {model:<13} {class:<14} whole {:>8.1?}  after {NEW} rows {median:>8.1?}  {:.1}x",
            whole[at],
            whole[at].as_secs_f64() / median.as_secs_f64()
        );
    }
}

#[tokio::main]
async fn main() {
    let asked = std::env::var("TIDEMILL_BENCH_ROWS").unwrap_or_else(|_| "1000000,10000000".to_owned());
    for history in asked.split(',').filter_map(|n| n.trim().parse().ok()) {
        let folder = tempfile::tempdir().unwrap();
        measure(folder.path(), history).await;
    }
}
