//! Rows that were added to a table into a sink: each once, in batches, and nothing that is there already.
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Load, Mode, Sink, load};
use crate::engine::Engine;
use crate::error::Result;
use crate::table::TableName;

/// What is loaded.
#[derive(Debug, Clone)]
pub struct AppendedLoad {
    /// The lake table, which rows are only added to.
    pub table: TableName,
    /// The target; `None`: one of the same name.
    pub into: Option<String>,
    /// A SELECT over `changes`, the rows that were added; `None`: those as they are.
    pub sql: Option<String>,
    /// Columns that no two rows of the target share the values of.
    pub keys: Vec<String>,
    /// A batch ends before the version of the table that would bring it over so many rows; `None`: one batch.
    pub batch_rows: Option<u64>,
    /// The time to write into the ledger.
    pub loaded_at: DateTime<Utc>,
}

/// What a load of added rows did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AppendedLoaded {
    /// Rows added to the target.
    pub rows: u64,
    /// Transactions it took.
    pub batches: u64,
    /// The table's version that the target shows.
    pub version: u64,
}

/// Adds to the target what the table got since the version in the ledger, batch by batch, each with its ledger row in one
/// transaction. `stop` ends it after the batch under way.
///
/// # Errors
/// [`TableError::NotAppendOnly`](crate::table::TableError) if rows were taken away; what the query or the sink meets. The
/// batches before stay, and the next call goes on behind them.
pub async fn load_appended(
    engine: &Engine,
    sink: &mut dyn Sink,
    work: &AppendedLoad,
    stop: &CancellationToken,
) -> Result<AppendedLoaded> {
    let table = engine.existing(&work.table).await?;
    let source = match &work.into {
        None => work.table.to_string(),
        Some(into) => format!("{} as {into}", work.table),
    };
    let held = sink.progress(&source).await?;
    let same = held.as_ref().filter(|held| held.table_id == table.id());
    let mut after = same.and_then(|held| u64::try_from(held.version).ok());
    // A table made anew takes the place of what the old one left.
    let mut mode = if held.is_some() && same.is_none() { Mode::Replace } else { Mode::Append };
    let mut done = AppendedLoaded { version: after.unwrap_or(0), ..AppendedLoaded::default() };
    while after.is_none_or(|after| after < table.version()) && !stop.is_cancelled() {
        let range = table.appended(after, work.batch_rows).await?;
        // An empty target is made once, so that whoever reads it finds it.
        if range.rows == 0 && after.is_some() {
            break;
        }
        let session = engine.bare_session();
        let added = table.appended_rows(session.context(), &range)?;
        let given = HashMap::from([(TableName::new("public", "added"), added)]);
        let select = work.sql.as_deref().map_or("SELECT * FROM changes", |sql| sql.trim().trim_end_matches(';'));
        let sql = format!("WITH changes AS (SELECT * FROM public.added) SELECT * FROM ({select}) AS loaded");
        let rows = engine.query_with(&sql, given).await?;
        let order = Load {
            table: work.into.clone().unwrap_or_else(|| work.table.to_string()),
            source: source.clone(),
            table_id: table.id(),
            version: i64::try_from(range.version).unwrap_or(i64::MAX),
            schema: std::sync::Arc::clone(&rows.schema),
            keys: work.keys.clone(),
            mode,
            loaded_at: work.loaded_at,
        };
        let loaded = load(sink, &order, rows.into_stream()).await?;
        done.rows += loaded.written;
        done.batches += 1;
        done.version = range.version;
        after = Some(range.version);
        mode = Mode::Append;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use deltalake::kernel::Action;

    use super::*;
    use crate::engine::EngineSettings;
    use crate::sink::{SqliteSettings, SqliteSink};
    use crate::table::{Commit, Lake, S3Settings, Table, write_file};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn rows(from: i64, to: i64) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("n", Arc::new(Int64Array::from_iter_values(from..to)) as _, true)])
            .unwrap()
    }

    async fn append(table: &mut Table, from: i64, to: i64) {
        let mut commit = Commit::append(NOW);
        commit.actions.extend(write_file(table, &rows(from, to), NOW).await.unwrap().map(Action::Add));
        table.commit(commit).await.unwrap();
    }

    fn shown(file: &std::path::Path) -> Vec<(i64, i64)> {
        let db = rusqlite::Connection::open(file).unwrap();
        let mut rows = db.prepare("SELECT n, twice FROM numbers ORDER BY n").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn only_what_is_new_is_added_in_batches_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let name = TableName::new("silver", "t");
        let mut table = lake.ensure(&name, &rows(0, 0).schema(), &[]).await.unwrap();
        for n in 0..5 {
            append(&mut table, n * 10, n * 10 + 10).await;
        }
        let engine = Engine::new(
            lake.clone(),
            EngineSettings {
                memory_limit: 64 << 20,
                spill_dir: folder.path().join("spill"),
                target_partitions: 1,
                base: folder.path().to_path_buf(),
            },
        )
        .unwrap();
        let file = folder.path().join("warehouse.db");
        let mut sink = SqliteSink::open(SqliteSettings::new(&file)).await.unwrap();
        let work = AppendedLoad {
            table: name.clone(),
            into: Some("numbers".to_owned()),
            sql: Some("SELECT n, n * 2 AS twice FROM changes WHERE n <> 3".to_owned()),
            keys: vec!["n".to_owned()],
            batch_rows: Some(20),
            loaded_at: NOW,
        };
        let stop = CancellationToken::new();

        let first = load_appended(&engine, &mut sink, &work, &stop).await.unwrap();
        let again = load_appended(&engine, &mut sink, &work, &stop).await.unwrap();
        append(&mut table, 50, 55).await;
        let third = load_appended(&engine, &mut sink, &work, &stop).await.unwrap();

        assert_eq!((first.rows, first.batches), (49, 3));
        assert_eq!((again.rows, again.batches), (0, 0));
        assert_eq!((third.rows, third.batches), (5, 1));
        let expected: Vec<_> = (0..55).filter(|n| *n != 3).map(|n| (n, n * 2)).collect();
        assert_eq!(shown(&file), expected);

        // Made anew under the same name: its rows take the place of the old ones.
        std::fs::remove_dir_all(folder.path().join("lake/silver/t")).unwrap();
        let mut table = lake.ensure(&name, &rows(0, 0).schema(), &[]).await.unwrap();
        append(&mut table, 100, 102).await;
        load_appended(&engine, &mut sink, &work, &stop).await.unwrap();
        assert_eq!(shown(&file), [(100, 200), (101, 202)]);
    }
}
