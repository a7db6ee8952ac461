//! Small files into larger ones: the same rows, in one commit per group, beside whatever else is committed.
//!
//! A group's files are read one after the other in the order they were written and streamed into the new file, so rows
//! of one topic-partition stay in the order of their offsets. One small file and the writer's open row groups are all that
//! is in memory. Nothing of it holds up anybody: only the commit takes a turn, and it may follow whatever left
//! the group's files and the columns alone ([`Guard::Rearrange`]). If it may not, the new file is deleted.
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use deltalake::kernel::{Action, Add};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::appender::Appender;
use super::commit::{Commit, Guard, Operation};
use super::error::TableError;
use super::evolve::project;
use super::maintain::{Candidate, Compaction, groups};
use super::origin;
use super::snapshot::Table;
use super::write::{FileWriter, WriteOptions};
use crate::error::{Error, Result};

/// Rows read at a time.
const BATCH: usize = 8192;

/// What an optimization did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Optimized {
    /// The last version it made; `None` if nothing was worth it.
    pub version: Option<u64>,
    /// Files taken out of the table.
    pub removed: u64,
    /// Files put in for them.
    pub added: u64,
    /// Rows moved.
    pub rows: u64,
    /// Groups of files left as they are, because somebody else changed them meanwhile.
    pub given_up: u64,
}

/// What can be put together in a table, in the form that [`groups`] takes.
///
/// # Errors
/// [`TableError::Protocol`] if the table is laid out in a way that we do not write.
pub(super) fn candidates(table: &Table) -> Result<Vec<(Candidate, Add)>> {
    let refused = |why: &str| TableError::Protocol { table: table.name().to_string(), why: why.to_owned() };
    let metadata = table.metadata()?;
    if !metadata.partition_columns().is_empty() {
        return Err(refused("it is partitioned, and only tables without partitions are optimized").into());
    }
    if metadata.configuration().get("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
        return Err(refused("its columns are mapped to other names, and such tables are not optimized").into());
    }
    let candidate = |add: Add| {
        let candidate = Candidate {
            path: add.path.clone(),
            size: u64::try_from(add.size).unwrap_or(0),
            written: DateTime::from_timestamp_millis(add.modification_time).unwrap_or_default(),
        };
        (candidate, add)
    };
    // A file with deleted rows is more than its rows.
    Ok(table.adds()?.into_iter().filter(|add| add.deletion_vector.is_none()).map(candidate).collect())
}

/// Puts small files of `table` together. The handle stays at the version it had.
///
/// # Errors
/// [`TableError::Protocol`] if the table is laid out in a way that we do not write; a failure of the storage. Groups
/// done until then are committed.
pub async fn optimize(
    table: &Table,
    compaction: &Compaction,
    now: DateTime<Utc>,
    stop: &CancellationToken,
) -> Result<Optimized> {
    table.writable(false)?;
    let files = candidates(table)?;
    let (candidates, adds): (Vec<_>, Vec<_>) = files.into_iter().unzip();
    let mut done = Optimized::default();
    let mut end = Appender::open(table).await?;
    for group in groups(&candidates, compaction, now) {
        if stop.is_cancelled() {
            break;
        }
        let group: Vec<&Add> = group.into_iter().map(|index| &adds[index]).collect();
        match together(table, &mut end, &group, compaction, now).await {
            Ok((version, rows, added)) => {
                done.version = Some(version);
                done.rows += rows;
                done.added += added;
                done.removed += group.len() as u64;
            }
            Err(error) if matches!(error.code(), "T0004" | "T0011") => {
                debug!(table = %table.name(), files = group.len(), "left as they are: somebody was quicker");
                done.given_up += 1;
                end = Appender::open(table).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

async fn together(
    table: &Table,
    end: &mut Appender,
    group: &[&Add],
    compaction: &Compaction,
    now: DateTime<Utc>,
) -> Result<(u64, u64, u64)> {
    let options = WriteOptions {
        // The group was cut to the target; its files' footers and poorer compression should not make it two.
        file_bytes: usize::try_from(compaction.target_bytes.saturating_mul(2)).unwrap_or(usize::MAX),
        workers: 1,
        stands_for: Some(origin::sum(group.iter().map(|add| add.path.as_str()))),
        ..WriteOptions::default()
    };
    let mut writer = FileWriter::beside(end, options, now);
    for add in group {
        copy(table, end.schema(), add, &mut writer).await?;
    }
    let rows = writer.rows();
    let mut added = writer.finish().await?;
    // As old as the youngest row in it, so that the order of files stays that of their rows.
    let written = group.iter().map(|add| add.modification_time).max().unwrap_or_default();
    for add in &mut added {
        add.data_change = false;
        add.modification_time = written;
    }
    let mut commit = Commit::new(Operation::Optimize, Guard::Rearrange, now);
    commit.metrics = json!({ "numRemovedFiles": group.len(), "numAddedFiles": added.len(), "numOutputRows": rows });
    let mut removes = table.removes(|path| !group.iter().any(|add| add.path == path), now)?;
    for remove in &mut removes {
        remove.data_change = false;
    }
    commit.actions = removes.into_iter().map(Action::Remove).collect();
    commit.actions.extend(added.iter().cloned().map(Action::Add));
    let count = added.len() as u64;
    match end.commit(commit).await {
        Ok(committed) => Ok((committed.version, rows, count)),
        Err(error) => {
            // Certainly not in the log, so certainly nobody's.
            if matches!(error.code(), "T0004" | "T0011") {
                discard(table, &added).await;
            }
            Err(error)
        }
    }
}

async fn discard(table: &Table, files: &[Add]) {
    let store = table.log_store().object_store(None);
    for file in files {
        if let Err(error) = store.delete(&Path::from(file.path.as_str())).await {
            debug!(%error, file = file.path, "file left behind");
        }
    }
}

/// Streams one file's rows into `writer`, in the table's columns.
async fn copy(table: &Table, schema: &SchemaRef, add: &Add, writer: &mut FileWriter) -> Result<()> {
    let failed =
        |source| Error::from(TableError::Parquet { doing: "read a file of", table: table.name().to_string(), source });
    // Small files only: one request, and no more in memory than `small_bytes`.
    let store = table.log_store().object_store(None);
    let unread = |e| TableError::storage("read a file of", table.name(), e);
    let bytes = store.get(&Path::from(add.path.as_str())).await.map_err(unread)?.bytes().await.map_err(unread)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(failed)?;
    let expected = builder.metadata().file_metadata().num_rows();
    let batches = builder.with_batch_size(BATCH).build().map_err(failed)?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch.map_err(|e| failed(e.into()))?;
        rows += batch.num_rows();
        writer.write(&project(&batch, schema, table.name())?).await?;
        // Decoding is work without a wait: others get their turn between batches.
        tokio::task::yield_now().await;
    }
    if i64::try_from(rows).ok() == Some(expected) {
        return Ok(());
    }
    let why = format!("`{}` has {expected} rows, and {rows} came out", add.path);
    Err(failed(parquet::errors::ParquetError::General(why)))
}
