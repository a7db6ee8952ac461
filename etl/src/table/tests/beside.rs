//! Everything at once on one table, through two lakes as two processes would have them: nothing lost, nothing doubled.
//!
//! Two appenders, an upsert by key, somebody who replaces the whole table with what it holds, and two who compact,
//! checkpoint and clean. Each keeps a record of what was committed; at the end the table is exactly that.
use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use futures::TryStreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::super::maintain::{Compaction, Policy};
use super::*;
use crate::engine::{Engine, EngineSettings};

const STEPS: i64 = 16;
/// Rounds of who gets into the others' way: an end, so that the upsert gets through at last.
const ROUNDS: usize = 8;

fn columns() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("k"), column("v")]))
}

fn pairs(rows: impl Iterator<Item = (i64, i64)>) -> RecordBatch {
    let (keys, values): (Vec<_>, Vec<_>) = rows.unzip();
    RecordBatch::try_new(columns(), vec![Arc::new(Int64Array::from(keys)), Arc::new(Int64Array::from(values))]).unwrap()
}

fn engine(lake: &Lake, folder: &std::path::Path) -> Engine {
    let settings = EngineSettings {
        memory_limit: 64 << 20,
        spill_dir: folder.join("spill"),
        target_partitions: 1,
        base: folder.to_path_buf(),
    };
    Engine::new(lake.clone(), settings).unwrap()
}

async fn pause(random: &mut StdRng) {
    let wait = random.random_range(0..15);
    tokio::time::sleep(Duration::from_millis(wait)).await;
}

/// Appends `k` from `base` on, one commit per step, and returns what is in the table of it.
async fn appending(lake: Lake, app: &str, base: i64, seed: u64) -> BTreeMap<i64, i64> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = BTreeMap::new();
    let open = async || {
        let table = lake.ensure(&name(), &columns(), &[]).await.unwrap();
        Appender::open(&table).await.unwrap()
    };
    let mut end = open().await;
    for step in 0..STEPS {
        let count = random.random_range(1..20);
        let rows: Vec<(i64, i64)> = (0..count).map(|n| (base + step * 100 + n, 0)).collect();
        let mut writer = FileWriter::beside(&end, WriteOptions::default(), now());
        writer.write(&pairs(rows.iter().copied())).await.unwrap();
        let mut commit = Commit::append(now());
        commit.actions = writer.finish().await.unwrap().into_iter().map(Action::Add).collect();
        commit.expected = vec![(app.to_owned(), end.txn(app))];
        commit.txns = vec![(app.to_owned(), step + 1)];
        // Only adds: whatever the others do, it is never refused.
        end.commit(commit).await.unwrap();
        done.extend(rows);
        pause(&mut random).await;
    }
    done
}

async fn upserting(lake: Lake, folder: &std::path::Path, seed: u64) -> BTreeMap<i64, i64> {
    let engine = engine(&lake, folder);
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = BTreeMap::new();
    for step in 1..=STEPS / 2 {
        let keys: std::collections::BTreeSet<i64> = (0..8).map(|_| 1_000_000 + random.random_range(0..30)).collect();
        loop {
            let mut table = lake.ensure(&name(), &columns(), &[]).await.unwrap();
            let batch = pairs(keys.iter().map(|key| (*key, step)));
            let file = write_file(&table, &batch, now()).await.unwrap().unwrap();
            let staged = Staged { files: vec![file], rows: keys.len() as u64, rising: true, order: None };
            match upsert(&engine, &mut table, staged, "k", serde_json::Map::new(), now()).await {
                Ok(_) => break,
                Err(refused) => assert_eq!(refused.code(), "T0004"),
            }
            pause(&mut random).await;
        }
        done.extend(keys.into_iter().map(|key| (key, step)));
        pause(&mut random).await;
    }
    done
}

/// All rows of a table, read through the engine.
async fn all(table: &Table, engine: &Engine) -> Vec<(i64, i64)> {
    let session = engine.bare_session();
    let context = session.context();
    let provider = table.provider(&context.state()).unwrap();
    let frame = context.read_table(provider).unwrap();
    let batches: Vec<RecordBatch> = frame.execute_stream().await.unwrap().try_collect().await.unwrap();
    let column = |batch: &RecordBatch, name: &str| {
        batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
    };
    batches.iter().flat_map(|batch| column(batch, "k").into_iter().zip(column(batch, "v"))).collect()
}

/// Replaces all files by one with the same rows, as an overwrite whose rows were computed from the snapshot.
async fn replacing(lake: Lake, folder: &std::path::Path, seed: u64) -> u64 {
    let engine = engine(&lake, folder);
    let mut random = StdRng::seed_from_u64(seed);
    let mut count = 0;
    for _ in 0..ROUNDS {
        pause(&mut random).await;
        let mut table = lake.ensure(&name(), &columns(), &[]).await.unwrap();
        let rows = all(&table, &engine).await;
        let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, now());
        commit.actions = table.removes(|_| false, now()).unwrap().into_iter().map(Action::Remove).collect();
        commit.actions.extend(write_file(&table, &pairs(rows.into_iter()), now()).await.unwrap().map(Action::Add));
        match table.commit(commit).await {
            Ok(_) => count += 1,
            Err(refused) => assert_eq!(refused.code(), "T0004"),
        }
    }
    count
}

async fn keeping(lake: Lake, seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let compaction = Compaction { min_files: 2, min_age: Duration::ZERO, ..Policy::default().compaction };
    let mut count = 0;
    for _ in 0..ROUNDS * 2 {
        pause(&mut random).await;
        let table = lake.ensure(&name(), &columns(), &[]).await.unwrap();
        let done = optimize(&table, &compaction, now() + chrono::TimeDelta::hours(1), &CancellationToken::new()).await;
        count += done.unwrap().added;
        if random.random_ratio(1, 4) {
            checkpoint(&lake.table(&name()).await.unwrap()).await.unwrap();
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_whatever_runs_beside_it() {
    let seed = std::process::id().into();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()), open(folder.path()));
    one.ensure(&name(), &columns(), &[]).await.unwrap();
    let place = folder.path();

    let (first, second, third, replaced, compacted, more) = tokio::join!(
        appending(one.clone(), "a", 0, seed),
        appending(two.clone(), "b", 500_000, seed + 1),
        upserting(one.clone(), place, seed + 2),
        replacing(two.clone(), place, seed + 3),
        keeping(one.clone(), seed + 4),
        keeping(two.clone(), seed + 5),
    );

    assert!(compacted + more > 0, "no compaction got through beside {replaced} overwrites, seed {seed}");
    let wanted: Vec<(i64, i64)> = first.into_iter().chain(second).chain(third).collect();
    let table = two.table(&name()).await.unwrap();
    let mut found = all(&table, &engine(&two, place)).await;
    found.sort_unstable();
    assert_eq!(found, wanted, "seed {seed}");
    assert_eq!((table.txn("a").await.unwrap(), table.txn("b").await.unwrap()), (Some(STEPS), Some(STEPS)));
}
