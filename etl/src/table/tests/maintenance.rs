//! Each chore on a table of its own: what it changes, and what it must not.
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::super::maintain::{Compaction, Policy};
use super::*;

/// Today by the clock of the file system, which is the one that files are as old as.
#[expect(clippy::disallowed_methods, reason = "the age of a file is by the storage's clock")]
fn today() -> DateTime<Utc> {
    Utc::now()
}

fn all_small() -> Compaction {
    Compaction { min_files: 2, min_age: Duration::ZERO, ..Policy::default().compaction }
}

/// Makes a file that many hours older.
fn age(file: &Path, hours: u64) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the age of a file is by the storage's clock")]
    let now = SystemTime::now();
    file.set_modified(now - Duration::from_hours(hours)).unwrap();
}

fn parquet_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
    files.sort();
    files
}

fn count(files: usize) -> i64 {
    i64::try_from(files).unwrap()
}

/// The table's numbers in the order of its files and rows.
async fn rows(lake: &Lake, table: &Table) -> Vec<i64> {
    use arrow::array::AsArray as _;
    let mut adds = table.adds().unwrap();
    adds.sort_by(|left, right| (left.modification_time, &left.path).cmp(&(right.modification_time, &right.path)));
    let mut numbers = Vec::new();
    for add in adds {
        let store = lake.log_store(table.name()).unwrap().object_store(None);
        let bytes = object_store::ObjectStoreExt::get(store.as_ref(), &add.path.as_str().into()).await.unwrap();
        let bytes = bytes.bytes().await.unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 1024).unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            let column = batch.column_by_name("n").unwrap();
            numbers.extend(column.as_primitive::<arrow::datatypes::Int64Type>().values());
        }
    }
    numbers
}

#[tokio::test]
async fn small_files_become_one_with_the_same_rows_in_the_same_order() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut end = appender(&lake).await;
    for step in 0..20 {
        append(&mut end, "a", step * 10, step * 10 + 10).await.unwrap();
    }
    let before = lake.table(&name()).await.unwrap();

    let done = optimize(&before, &all_small(), now(), &CancellationToken::new()).await.unwrap();

    assert_eq!((done.removed, done.added, done.rows, done.version), (20, 1, 200, Some(21)));
    let after = lake.table(&name()).await.unwrap();
    assert_eq!(rows(&lake, &after).await, (0..200).collect::<Vec<_>>());
    assert_eq!(after.contents().unwrap(), before.contents().unwrap(), "nothing was added or removed");
    assert_eq!((after.rows().unwrap(), after.txn("a").await.unwrap()), (Some(200), Some(200)));
    let entry = folder.path().join("lake/bronze/numbers/_delta_log/00000000000000000021.json");
    let entry = std::fs::read_to_string(entry).unwrap();
    assert_eq!((entry.matches("\"dataChange\":false").count(), entry.matches("\"dataChange\":true").count()), (21, 0));
    append(&mut end, "a", 200, 201).await.unwrap();
    let appended = lake.table(&name()).await.unwrap();
    assert_ne!(appended.contents().unwrap(), before.contents().unwrap());
    // A second time there is nothing to do.
    let again = optimize(&appended, &all_small(), now(), &CancellationToken::new()).await.unwrap();
    assert_eq!(again, Optimized::default());
}

#[tokio::test]
async fn files_from_before_a_column_was_added_have_null_there() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    append(&mut appender(&lake).await, "a", 0, 10).await.unwrap();
    append(&mut appender(&lake).await, "a", 10, 20).await.unwrap();
    let wider =
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("more", DataType::Utf8, true)]));
    let mut table = lake.table(&name()).await.unwrap();
    evolve(&mut table, &wider, now()).await.unwrap();

    let done = optimize(&table, &all_small(), now(), &CancellationToken::new()).await.unwrap();

    assert_eq!((done.removed, done.added, done.rows), (2, 1, 20));
    let after = lake.table(&name()).await.unwrap();
    assert_eq!(rows(&lake, &after).await, (0..20).collect::<Vec<_>>());
    assert!(after.adds().unwrap()[0].stats.as_ref().unwrap().contains("\"more\":20"), "20 nulls");
}

#[tokio::test]
async fn a_compaction_gives_way_to_what_came_first() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut end = appender(&lake).await;
    for step in 0..4 {
        append(&mut end, "a", step, step + 1).await.unwrap();
    }
    let stale = lake.table(&name()).await.unwrap();
    let mut replaced = lake.table(&name()).await.unwrap();
    let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, now());
    commit.actions = replaced.removes(|_| false, now()).unwrap().into_iter().map(Action::Remove).collect();
    commit.actions.push(Action::Add(write_file(&replaced, &numbers(100, 103), now()).await.unwrap().unwrap()));
    replaced.commit(commit).await.unwrap();
    let files = parquet_files(&folder.path().join("lake/bronze/numbers")).len();

    let done = optimize(&stale, &all_small(), now(), &CancellationToken::new()).await.unwrap();

    assert_eq!((done.given_up, done.version), (1, None));
    let after = lake.table(&name()).await.unwrap();
    assert_eq!(rows(&lake, &after).await, [100, 101, 102]);
    assert_eq!(parquet_files(&folder.path().join("lake/bronze/numbers")).len(), files, "its file is gone again");

    // The other way round: whoever computed from files that a compaction took away starts again.
    append(&mut end, "a", 4, 5).await.unwrap();
    let mut stale = lake.table(&name()).await.unwrap();
    optimize(&stale.clone(), &all_small(), now(), &CancellationToken::new()).await.unwrap();
    let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, now());
    commit.actions = stale.removes(|_| false, now()).unwrap().into_iter().map(Action::Remove).collect();
    assert_eq!(stale.commit(commit).await.unwrap_err().code(), "T0004");
    // And nothing is rearranged while somebody computes.
    append(&mut end, "a", 5, 6).await.unwrap();
    let table = lake.table(&name()).await.unwrap();
    let computing = lake.compute(&name()).await;
    assert_eq!(optimize(&table, &all_small(), now(), &CancellationToken::new()).await.unwrap().given_up, 1);
    drop(computing);
    assert_eq!(optimize(&table, &all_small(), now(), &CancellationToken::new()).await.unwrap().given_up, 0);
}

#[tokio::test]
async fn progress_outlives_the_log_it_was_written_in() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut end = appender(&lake).await;
    append(&mut end, "quiet", 0, 7).await.unwrap();
    for step in 0..20 {
        append(&mut end, "a", step, step + 1).await.unwrap();
    }
    let log = folder.path().join("lake/bronze/numbers/_delta_log");
    for version in 0..22 {
        age(&log.join(format!("{version:020}.json")), 48);
    }
    let table = lake.table(&name()).await.unwrap();

    checkpoint(&table).await.unwrap();
    let day = Duration::from_hours(24);
    assert_eq!(
        clean_log(&lake, &table, Duration::from_hours(72), today()).await.unwrap(),
        0,
        "it is kept for three days"
    );
    assert_eq!(clean_log(&lake, &table, day, today()).await.unwrap(), 21);

    assert!(!log.join("00000000000000000020.json").exists());
    let mut table = lake.table(&name()).await.unwrap();
    assert_eq!((table.version(), table.rows().unwrap()), (21, Some(27)));
    assert_eq!((table.txn("quiet").await.unwrap(), table.txn("a").await.unwrap()), (Some(7), Some(20)));
    // Who was there before goes on, who comes after too, and somebody else is still kept out.
    append(&mut end, "a", 20, 21).await.unwrap();
    append(&mut appender(&lake).await, "quiet", 7, 9).await.unwrap();
    assert_eq!(append(&mut appender(&lake).await, "a", 3, 4).await.unwrap_err().code(), "T0005");
    table.refresh().await.unwrap();
    assert_eq!((table.txn("quiet").await.unwrap(), table.txn("a").await.unwrap()), (Some(9), Some(21)));
    assert_eq!(table.rows().unwrap(), Some(30));
}

#[tokio::test]
async fn the_tables_own_word_on_its_log_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let properties = [("delta.logRetentionDuration", "interval 60 days")];
    lake.ensure(&name(), &schema(), &properties).await.unwrap();
    append(&mut appender(&lake).await, "a", 0, 1).await.unwrap();
    let log = folder.path().join("lake/bronze/numbers/_delta_log");
    age(&log.join("00000000000000000000.json"), 48);
    age(&log.join("00000000000000000001.json"), 48);
    let table = lake.table(&name()).await.unwrap();
    checkpoint(&table).await.unwrap();

    assert_eq!(clean_log(&lake, &table, Duration::from_hours(24), today()).await.unwrap(), 0);
}

fn vacuum_after(hours: u64) -> VacuumOptions {
    VacuumOptions { retention: Duration::from_hours(hours), least: Duration::from_hours(24), dry_run: false }
}

#[tokio::test]
async fn a_vacuum_takes_only_what_nobody_can_need() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut end = appender(&lake).await;
    for step in 0..4 {
        append(&mut end, "a", step, step + 1).await.unwrap();
    }
    let place = folder.path().join("lake/bronze/numbers");
    let table = lake.table(&name()).await.unwrap();
    // Written for a commit that never came, two days ago; and one that may yet come.
    let lost = write_file(&table, &numbers(90, 91), now()).await.unwrap().unwrap();
    write_file(&table, &numbers(91, 92), now()).await.unwrap().unwrap();
    let lost = place.join(lost.path);
    age(&lost, 48);
    // Change data of a commit two days ago, and something that is none of our business.
    std::fs::create_dir(place.join("_change_data")).unwrap();
    for file in ["_change_data/old.parquet", "notes.txt"] {
        std::fs::write(place.join(file), "x").unwrap();
        age(&place.join(file), 48);
    }
    // Taken out of the table just now, though old.
    for file in table.files().unwrap() {
        age(&place.join(file.path), 48);
    }
    optimize(&table, &all_small(), today(), &CancellationToken::new()).await.unwrap();
    let table = lake.table(&name()).await.unwrap();
    let first = lake.table_at(&name(), 4).await.unwrap();

    assert_eq!(vacuum(&lake, &table, vacuum_after(23), today()).await.unwrap_err().code(), "T0012");
    let dry = VacuumOptions { dry_run: true, ..vacuum_after(24) };
    let found = vacuum(&lake, &table, dry, today()).await.unwrap();
    assert!(lost.exists());
    let done = vacuum(&lake, &table, vacuum_after(24), today()).await.unwrap();

    assert_eq!(found, done);
    let lost_name = lost.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(done.files, ["_change_data/old.parquet".to_owned(), lost_name]);
    assert!(!lost.exists() && place.join("notes.txt").exists());
    assert_eq!(rows(&lake, &first).await, [0, 1, 2, 3], "the older version can still be read");
    // Two days later nobody looks back any more.
    let later = today() + chrono::TimeDelta::hours(48);
    assert_eq!(vacuum(&lake, &table, vacuum_after(24), later).await.unwrap().files.len(), 5);
    assert_eq!(rows(&lake, &table).await, [0, 1, 2, 3]);
    let gone = restore(&lake, &name(), 4, today()).await.unwrap_err();
    assert_eq!(gone.code(), "T0014");
}

#[tokio::test]
async fn what_checkpoints_forget_is_kept_for_a_longer_retention() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let properties = [("delta.deletedFileRetentionDuration", "interval 1 hours")];
    lake.ensure(&name(), &schema(), &properties).await.unwrap();
    let place = folder.path().join("lake/bronze/numbers");
    // The table was made long ago, by its history and by the storage.
    let first = place.join("_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&first).unwrap();
    let (head, tail) = text.split_once("\"timestamp\":").unwrap();
    let tail = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    std::fs::write(&first, format!("{head}\"timestamp\":1700000000000{tail}")).unwrap();
    age(&first, 24 * 900);
    let mut end = appender(&lake).await;
    append(&mut end, "a", 0, 1).await.unwrap();
    append(&mut end, "a", 1, 2).await.unwrap();
    for file in parquet_files(&place) {
        age(&file, 24 * 30);
    }
    let table = lake.table(&name()).await.unwrap();
    // Two hours ago: the checkpoint does not note the removed files any more.
    let then = today() - chrono::TimeDelta::hours(2);
    optimize(&table, &all_small(), then, &CancellationToken::new()).await.unwrap();
    checkpoint(&lake.table(&name()).await.unwrap()).await.unwrap();
    let table = lake.table(&name()).await.unwrap();

    let done = vacuum(&lake, &table, vacuum_after(24 * 20), today()).await.unwrap();

    assert_eq!(done.files, Vec::<String>::new());
    assert_eq!(rows(&lake, &lake.table_at(&name(), 2).await.unwrap()).await, [0, 1]);
}

#[tokio::test]
async fn a_restore_takes_progress_back_with_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let mut end = appender(&lake).await;
    append(&mut end, "a", 0, 10).await.unwrap();
    append(&mut end, "a", 10, 20).await.unwrap();
    append(&mut end, "b", 0, 5).await.unwrap();
    let mut fence = Commit::new(Operation::Fence, Guard::Append, now());
    fence.txns = vec![("a/epoch".to_owned(), 3)];
    end.commit(fence).await.unwrap();

    let done = restore(&lake, &name(), 1, now()).await.unwrap();

    assert_eq!(done, Restored { version: 5, restored: 1, added: 0, removed: 2 });
    let table = lake.table(&name()).await.unwrap();
    assert_eq!(rows(&lake, &table).await, (0..10).collect::<Vec<_>>());
    let progress: Vec<_> = table.progress().await.unwrap().into_iter().collect();
    let at = |app: &str, version| (app.to_owned(), version);
    assert_eq!(progress, [at("a", 10), at("a/epoch", 4), at("b", 0)]);
    // Who was at work when it happened stops; who starts lands the rest again.
    assert_eq!(append(&mut end, "a", 20, 30).await.unwrap_err().code(), "T0005");
    append(&mut appender(&lake).await, "a", 10, 20).await.unwrap();
    // Forward again, to where it was.
    restore(&lake, &name(), 4, now()).await.unwrap();
    let table = lake.table(&name()).await.unwrap();
    assert_eq!((table.rows().unwrap(), table.txn("b").await.unwrap()), (Some(25), Some(5)));
    assert_eq!(restore(&lake, &name(), 99, now()).await.unwrap_err().code(), "T0013");
}

#[tokio::test]
async fn a_dropped_table_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    append(&mut appender(&lake).await, "a", 0, 10).await.unwrap();

    assert_eq!(drop_table(&lake, &name()).await.unwrap(), 3);

    assert!(lake.tables().await.unwrap().is_empty());
    assert_eq!(drop_table(&lake, &name()).await.unwrap_err().code(), "T0002");
    let mut again = appender(&lake).await;
    assert_eq!((again.version(), again.txn("a")), (0, None));
    append(&mut again, "a", 0, 3).await.unwrap();
    assert_eq!(lake.table(&name()).await.unwrap().rows().unwrap(), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_bounds_files_and_log_while_others_commit() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path());
    let policy = Policy { checkpoint_every: 20, compaction: all_small(), ..Policy::default() };
    let policies = Policies {
        all: Policy { compaction: Compaction { min_files: 8, ..all_small() }, ..policy },
        ..Policies::default()
    };
    let keeper = Keeper::new(lake.clone(), policies, Arc::new(today));
    let mut end = appender(&lake).await;
    let mut step = 0;
    let kept = async {
        loop {
            let version = append(&mut end, "a", step, step + 1).await.unwrap();
            keeper.committed(&name(), version);
            step += 1;
            let log = folder.path().join("lake/bronze/numbers/_delta_log");
            let checkpoints = parquet_files(&log).len();
            let compacted = count(parquet_files(&folder.path().join("lake/bronze/numbers")).len()) > step;
            if step >= 100 && checkpoints >= 2 && compacted {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), kept).await.expect("the keeper works while others commit");
    keeper.close().await;

    let table = lake.table(&name()).await.unwrap();
    let mut found = rows(&lake, &table).await;
    found.sort_unstable();
    assert_eq!(found, (0..step).collect::<Vec<_>>());
    assert!(count(table.files().unwrap().len()) < step, "files were put together");
    assert_eq!(table.txn("a").await.unwrap(), Some(step));
}
