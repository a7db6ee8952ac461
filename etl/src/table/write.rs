//! Rows to Parquet files in a table's folder. A file that no commit names is harmless and vacuumed later.
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use deltalake::kernel::Add;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::appender::Appender;
use super::encoding::{properties_for, writer_properties};
use super::error::TableError;
use super::lake::{Lake, TableName};
use super::origin;
use super::snapshot::Table;
use super::stats;
use crate::error::Result;
use crate::failpoint::{hit, hit_blocking};
use crate::invariant::hold;

/// How files are cut.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// A new file is begun after about this many bytes of encoded rows.
    pub file_bytes: usize,
    /// A row group is closed after about this many bytes of rows in memory.
    pub group_bytes: usize,
    /// Row groups encoded at the same time, each on a thread of its own.
    pub workers: usize,
    /// The folder below the table: empty, or `_change_data`.
    pub folder: &'static str,
    /// What the rows stand for, if they were in other files before: see `origin`.
    pub(crate) stands_for: Option<u128>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        // 128 MiB files read well from object stores. Three groups (one filling, two being encoded) of 24 MiB and
        // what they become stay below 150 MiB.
        Self { file_bytes: 128 << 20, group_bytes: 24 << 20, workers: 2, folder: "", stands_for: None }
    }
}

/// Writes rows into one or more files of a table and hands back their log entries.
///
/// Rows are gathered into row groups; a full group is encoded on a thread of its own while the next one fills, and the
/// groups go into the file in the order of their rows.
pub struct FileWriter {
    table: String,
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    options: WriteOptions,
    now: DateTime<Utc>,
    group: Vec<RecordBatch>,
    group_size: usize,
    encoding: VecDeque<JoinHandle<Result<Vec<ArrowColumnChunk>, ParquetError>>>,
    open: Option<Open>,
    done: Vec<Add>,
    rows: u64,
    /// Rows in the files that are done, as their footers say.
    closed: u64,
}

struct Open {
    path: String,
    buffer: Buffer,
    file: SerializedFileWriter<Buffer>,
    groups: Arc<ArrowRowGroupWriterFactory>,
    started: usize,
    sink: BufWriter,
    size: usize,
}

/// Encoded bytes on their way from the Parquet writer to the storage.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl FileWriter {
    /// A writer into `table`; `schema` is the rows' (the table's, or with more columns for change data).
    pub fn new(table: &Table, schema: SchemaRef, options: WriteOptions, now: DateTime<Utc>) -> Self {
        Self::into_store(table.name(), table.log_store().object_store(None), schema, options, now)
    }

    /// A writer of rows in the columns of `appender`'s table.
    pub fn beside(appender: &Appender, options: WriteOptions, now: DateTime<Utc>) -> Self {
        let store = appender.log_store().object_store(None);
        Self::into_store(appender.name(), store, Arc::clone(appender.schema()), options, now)
    }

    /// A writer into the folder of a table that may not be there yet.
    ///
    /// # Errors
    /// [`TableError::Lake`] if the name makes no URL.
    pub fn ahead_of(
        lake: &Lake,
        table: &TableName,
        schema: SchemaRef,
        options: WriteOptions,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        Ok(Self::into_store(table, lake.log_store(table)?.object_store(None), schema, options, now))
    }

    fn into_store(
        table: &TableName,
        store: Arc<dyn ObjectStore>,
        schema: SchemaRef,
        options: WriteOptions,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            table: table.to_string(),
            store,
            schema,
            options,
            now,
            group: Vec::new(),
            group_size: 0,
            encoding: VecDeque::new(),
            open: None,
            done: Vec::new(),
            rows: 0,
            closed: 0,
        }
    }

    fn failed(&self, source: ParquetError) -> TableError {
        TableError::Parquet { doing: "write", table: self.table.clone(), source }
    }

    /// Adds rows. They are in memory, in a row group being encoded, or in a file that nobody knows of yet.
    ///
    /// # Errors
    /// [`TableError::Parquet`] if the storage refuses the bytes, or the rows are not of the writer's schema.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        self.group_size += batch.get_array_memory_size();
        self.group.push(batch.clone());
        if self.group_size >= self.options.group_bytes {
            self.encode().await?;
        }
        Ok(())
    }

    /// Hands the gathered rows to a thread, and takes over what others have finished.
    async fn encode(&mut self) -> Result<()> {
        if self.group.is_empty() {
            return Ok(());
        }
        hit("write.before_encode").await;
        let rows = std::mem::take(&mut self.group);
        self.group_size = 0;
        if self.open.is_none() {
            self.open = Some(self.begin(rows.first()).map_err(|e| self.failed(e))?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let groups = Arc::clone(&open.groups);
        let index = open.started;
        open.started += 1;
        let schema = Arc::clone(&self.schema);
        self.encoding.push_back(tokio::task::spawn_blocking(move || encode_group(&groups, index, &schema, &rows)));
        while self.encoding.len() > self.options.workers {
            self.append_next().await?;
        }
        if self.open.as_ref().is_some_and(|open| open.size >= self.options.file_bytes) {
            self.close().await?;
        }
        Ok(())
    }

    /// Puts the oldest group into the file, and its bytes on their way.
    async fn append_next(&mut self) -> Result<()> {
        let Some(task) = self.encoding.pop_front() else { return Ok(()) };
        let chunks = task.await.map_err(|e| self.failed(ParquetError::External(Box::new(e))))?;
        let chunks = chunks.map_err(|e| self.failed(e))?;
        hit("write.encoded").await;
        let Some(open) = &mut self.open else { return Ok(()) };
        let appended = (|| {
            let mut group = open.file.next_row_group()?;
            for chunk in chunks {
                chunk.append_to_row_group(&mut group)?;
            }
            group.close()
        })();
        appended.map_err(|e| self.failed(e))?;
        self.send().await
    }

    async fn send(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let bytes = open.buffer.take();
        open.size += bytes.len();
        hit("write.before_bytes").await;
        let sent = open.sink.put(bytes.into()).await;
        hit("write.after_bytes").await;
        sent.map_err(|e| self.failed(ParquetError::External(Box::new(e))))?;
        Ok(())
    }

    fn begin(&self, first: Option<&RecordBatch>) -> Result<Open, ParquetError> {
        // The first file of several has all that they stand for.
        let mark = self.options.stands_for.map(|sum| origin::mark(if self.done.is_empty() { sum } else { 0 }));
        let name = format!("part-{}{}.zstd.parquet", Uuid::now_v7(), mark.unwrap_or_default());
        let path = if self.options.folder.is_empty() { name } else { format!("{}/{name}", self.options.folder) };
        let sink = BufWriter::new(Arc::clone(&self.store), Path::from(path.as_str()));
        let buffer = Buffer::default();
        let properties = first.map_or_else(writer_properties, properties_for);
        let writer = ArrowWriter::try_new(buffer.clone(), Arc::clone(&self.schema), Some(properties))?;
        let (file, groups) = writer.into_serialized_writer()?;
        Ok(Open { path, buffer, file, groups: Arc::new(groups), started: 0, sink, size: 0 })
    }

    /// Ends the file being written, so that the next rows begin a new one.
    async fn close(&mut self) -> Result<()> {
        while !self.encoding.is_empty() {
            self.append_next().await?;
        }
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let metadata = open.file.finish().map_err(|e| self.failed(e))?;
        self.closed += u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default();
        let rest = open.buffer.take();
        open.size += rest.len();
        let external = |e: object_store::Error| ParquetError::External(Box::new(e));
        open.sink.put(rest.into()).await.map_err(|e| self.failed(external(e)))?;
        hit("write.before_close").await;
        open.sink.shutdown().await.map_err(|e| self.failed(ParquetError::External(Box::new(e))))?;
        hit("write.after_close").await;
        self.done.push(Add {
            path: open.path,
            partition_values: std::collections::HashMap::new(),
            size: i64::try_from(open.size).unwrap_or(i64::MAX),
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

    /// The columns of its files.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Forgets what was written and removes it from the storage, as far as that can be done now: a file that no commit
    /// names is harmless.
    pub async fn discard(mut self) {
        // A group being encoded has nowhere to go; its thread ends by itself.
        self.encoding.clear();
        if let Some(mut open) = self.open.take()
            && let Err(error) = open.sink.abort().await
        {
            tracing::debug!(%error, file = open.path, "upload left behind");
        }
        remove_files(&self.store, &self.done).await;
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Closes the last file and returns the log entries of all.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub async fn finish(mut self) -> Result<Vec<Add>> {
        self.encode().await?;
        self.close().await?;
        hold("P6", self.rows == self.closed, || format!("{} rows in, {} in the files", self.rows, self.closed));
        Ok(self.done)
    }
}

/// Removes files that no commit names.
pub(crate) async fn remove_files(store: &Arc<dyn ObjectStore>, files: &[Add]) {
    for file in files {
        if let Err(error) = store.delete(&Path::from(file.path.as_str())).await {
            tracing::debug!(%error, file = file.path, "file left behind");
        }
    }
}

/// Encodes one row group; pages stay in memory until the file takes them.
fn encode_group(
    groups: &ArrowRowGroupWriterFactory,
    index: usize,
    schema: &SchemaRef,
    rows: &[RecordBatch],
) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
    hit_blocking("write.encoding");
    let mut columns = groups.create_column_writers(index)?;
    for batch in rows {
        let mut leaves = columns.iter_mut();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, column)? {
                if let Some(writer) = leaves.next() {
                    writer.write(&leaf)?;
                }
            }
        }
    }
    columns.into_iter().map(ArrowColumnWriter::close).collect()
}

/// Writes one batch as one file; `None` for an empty one.
///
/// # Errors
/// As [`FileWriter::write`].
pub async fn write_file(table: &Table, batch: &RecordBatch, now: DateTime<Utc>) -> Result<Option<Add>> {
    let mut writer = FileWriter::new(table, batch.schema(), WriteOptions::default(), now);
    writer.write(batch).await?;
    Ok(writer.finish().await?.pop())
}
