//! Rows to Parquet files in a table's folder. A file that no commit names is harmless and vacuumed later.
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use deltalake::kernel::Add;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use uuid::Uuid;

use super::error::TableError;
use super::snapshot::Table;
use super::stats;
use crate::error::Result;

/// How files are cut.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// A new file is begun after about this many bytes of encoded rows.
    pub file_bytes: usize,
    /// A row group is closed after about this many bytes in memory, which bounds what one writer holds.
    pub group_bytes: usize,
    /// The folder below the table: empty, or `_change_data`.
    pub folder: &'static str,
}

impl Default for WriteOptions {
    fn default() -> Self {
        // 128 MiB files read well from object stores; 24 MiB groups keep two writers below 64 MiB.
        Self { file_bytes: 128 << 20, group_bytes: 24 << 20, folder: "" }
    }
}

/// The properties every file of the lake is written with.
pub fn writer_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(1 << 20))
        .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

/// Writes rows into one or more files of a table and hands back their log entries.
pub struct FileWriter {
    table: String,
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    options: WriteOptions,
    now: DateTime<Utc>,
    open: Option<Open>,
    done: Vec<Add>,
    rows: u64,
}

struct Open {
    path: String,
    writer: AsyncArrowWriter<BufWriter>,
}

impl FileWriter {
    /// A writer into `table`; `schema` is the rows' (the table's, or with more columns for change data).
    pub fn new(table: &Table, schema: SchemaRef, options: WriteOptions, now: DateTime<Utc>) -> Self {
        let store = table.log_store().object_store(None);
        Self { table: table.name().to_string(), store, schema, options, now, open: None, done: Vec::new(), rows: 0 }
    }

    /// Adds rows. They are in memory, in a row group being built, or in a file that nobody knows of yet.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let failed = |table: &str, source| TableError::Parquet { doing: "write", table: table.to_owned(), source };
        if self.open.is_none() {
            let name = format!("part-{}.zstd.parquet", Uuid::now_v7());
            let path = if self.options.folder.is_empty() { name } else { format!("{}/{name}", self.options.folder) };
            let sink = BufWriter::new(Arc::clone(&self.store), Path::from(path.as_str()));
            let writer = AsyncArrowWriter::try_new(sink, Arc::clone(&self.schema), Some(writer_properties()))
                .map_err(|e| failed(&self.table, e))?;
            self.open = Some(Open { path, writer });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        self.rows += batch.num_rows() as u64;
        open.writer.write(batch).await.map_err(|e| failed(&self.table, e))?;
        if open.writer.memory_size() > self.options.group_bytes {
            open.writer.flush().await.map_err(|e| failed(&self.table, e))?;
        }
        if open.writer.bytes_written() + open.writer.in_progress_size() > self.options.file_bytes {
            self.roll().await?;
        }
        Ok(())
    }

    /// Closes the file being written, so that the next rows begin a new one.
    pub async fn roll(&mut self) -> Result<()> {
        let Some(Open { path, mut writer }) = self.open.take() else { return Ok(()) };
        let failed = |source| TableError::Parquet { doing: "write", table: self.table.clone(), source };
        let metadata = writer.finish().await.map_err(failed)?;
        let size = i64::try_from(writer.bytes_written()).unwrap_or(i64::MAX);
        self.done.push(Add {
            path,
            partition_values: std::collections::HashMap::new(),
            size,
            modification_time: self.now.timestamp_millis(),
            data_change: true,
            stats: Some(stats::of_file(&self.schema, &metadata)),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        });
        Ok(())
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Closes the last file and returns the log entries of all.
    pub async fn finish(mut self) -> Result<Vec<Add>> {
        self.roll().await?;
        Ok(self.done)
    }
}

/// Writes one batch as one file; `None` for an empty one.
pub async fn write_file(table: &Table, batch: &RecordBatch, now: DateTime<Utc>) -> Result<Option<Add>> {
    let mut writer = FileWriter::new(table, batch.schema(), WriteOptions::default(), now);
    writer.write(batch).await?;
    Ok(writer.finish().await?.pop())
}
