//! Rows that wait for their commit: in memory while they are few, else in Parquet parts that no commit names.
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use deltalake::kernel::Add;

use super::batch::{Bad, Batch};
use super::error::FilesError;
use crate::error::Result;
use crate::pipeline::{DeadLetter, DeadLetters, FileLetters};
use crate::table::{FileWriter, Lake, TableName, WriteOptions, project, remove_files, type_name};

/// Letters of one file that are held in memory.
const LETTERS: usize = 10_000;

/// Where rows are staged.
#[derive(Clone)]
pub(super) struct Ground<'a> {
    pub(super) lake: &'a Lake,
    pub(super) table: &'a TableName,
    pub(super) dead: &'a DeadLetters,
    pub(super) options: WriteOptions,
    /// Rows of one file beyond this many bytes get parts of their own.
    pub(super) small: usize,
    pub(super) now: DateTime<Utc>,
}

/// Parts of the table that grow by batches whose columns may become more.
pub(super) struct Parts {
    /// The table's columns, and those that the rows add.
    pub(super) columns: SchemaRef,
    writer: Option<FileWriter>,
    done: Vec<Add>,
}

impl Parts {
    pub(super) fn new(columns: SchemaRef) -> Self {
        Self { columns, writer: None, done: Vec::new() }
    }

    /// Takes the columns of `schema` that are not there yet.
    pub(super) fn widen(&mut self, schema: &Schema, file: &str) -> Result<()> {
        let mut fields: Vec<FieldRef> = self.columns.fields().iter().cloned().collect();
        for field in schema.fields() {
            match self.columns.field_with_name(field.name()) {
                Ok(there) if there.data_type().equals_datatype(field.data_type()) => {}
                Ok(there) => {
                    return Err(FilesError::Column {
                        file: file.to_owned(),
                        column: field.name().clone(),
                        found: type_name(field.data_type()),
                        table_type: type_name(there.data_type()),
                    }
                    .into());
                }
                Err(_) => fields.push(Arc::new(field.as_ref().clone().with_nullable(true))),
            }
        }
        if fields.len() > self.columns.fields().len() {
            self.columns = Arc::new(Schema::new(fields));
        }
        Ok(())
    }

    async fn write(&mut self, ground: &Ground<'_>, rows: &RecordBatch) -> Result<()> {
        if self.writer.as_ref().is_some_and(|writer| *writer.schema() != self.columns) {
            self.close().await?;
        }
        let rows = project(rows, &self.columns, ground.table)?;
        let mut writer = if let Some(writer) = self.writer.take() {
            writer
        } else {
            let columns = Arc::clone(&self.columns);
            FileWriter::ahead_of(ground.lake, ground.table, columns, ground.options.clone(), ground.now)?
        };
        let written = writer.write(&rows).await;
        self.writer = Some(writer);
        written
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.done.extend(writer.finish().await?);
        }
        Ok(())
    }

    /// The log entries of all parts.
    pub(super) async fn finish(mut self) -> Result<Vec<Add>> {
        self.close().await?;
        Ok(self.done)
    }

    pub(super) async fn discard(self, ground: &Ground<'_>) {
        if let Some(writer) = self.writer {
            writer.discard().await;
        }
        if let Ok(log) = ground.lake.log_store(ground.table) {
            remove_files(&log.object_store(None), &self.done).await;
        }
    }
}

/// One file's rows and letters, all of them or none.
pub(super) struct Staged {
    /// In memory, while they are few.
    batches: Vec<RecordBatch>,
    bytes: usize,
    pub(super) parts: Parts,
    big: bool,
    letters: Vec<DeadLetter>,
    letter_bytes: usize,
    letter_parts: Option<FileWriter>,
    letters_written: u64,
    /// Of all letters, in their order.
    letters_digest: Box<blake3::Hasher>,
    /// Rows.
    pub(super) rows: u64,
    /// Letters.
    pub(super) dead: u64,
}

impl Staged {
    pub(super) fn new(columns: SchemaRef) -> Self {
        Self {
            batches: Vec::new(),
            bytes: 0,
            parts: Parts::new(columns),
            big: false,
            letters: Vec::new(),
            letter_bytes: 0,
            letter_parts: None,
            letters_written: 0,
            letters_digest: Box::default(),
            rows: 0,
            dead: 0,
        }
    }

    /// Takes a batch of the file `shown`.
    pub(super) async fn add(&mut self, ground: &Ground<'_>, batch: Batch, stream: &str, shown: &str) -> Result<()> {
        self.parts.widen(&batch.rows.schema(), shown)?;
        self.rows += batch.rows.num_rows() as u64;
        if batch.rows.num_rows() > 0 {
            self.bytes += batch.rows.get_array_memory_size();
            self.batches.push(batch.rows);
        }
        self.big |= self.bytes > ground.small;
        if self.big {
            for rows in std::mem::take(&mut self.batches) {
                self.parts.write(ground, &rows).await?;
            }
        }
        for bad in batch.dead {
            self.letter(bad, stream, shown);
        }
        if self.letters.len() > LETTERS || self.letter_bytes > ground.small {
            let mut writer = match self.letter_parts.take() {
                Some(writer) => writer,
                None => ground.dead.writer(ground.options.clone(), ground.now)?,
            };
            let rows = ground.dead.batch(&self.letters, ground.now)?;
            let written = writer.write(&rows).await;
            self.letter_parts = Some(writer);
            written?;
            self.letters_written += self.letters.len() as u64;
            self.letters.clear();
            self.letter_bytes = 0;
        }
        Ok(())
    }

    /// Takes a bad row, or one letter for the whole file.
    pub(super) fn letter(&mut self, bad: Bad, stream: &str, shown: &str) {
        self.dead += 1;
        self.letter_bytes += bad.raw.len() + bad.detail.len();
        self.letters_digest.update(&bad.at.to_le_bytes()).update(bad.reason.as_bytes());
        self.letters.push(DeadLetter {
            source: stream.to_owned(),
            topic_or_file: shown.to_owned(),
            partition: None,
            offset_or_line: bad.at,
            schema_id: None,
            reason: bad.reason.to_owned(),
            detail: bad.detail,
            raw: bad.raw,
            ..DeadLetter::default()
        });
    }

    pub(super) async fn discard(self, ground: &Ground<'_>) {
        self.parts.discard(ground).await;
        if let Some(writer) = self.letter_parts {
            writer.discard().await;
        }
    }

    /// Moves everything into the group that is committed together.
    pub(super) async fn join(self, ground: &Ground<'_>, group: &mut Group, file: Remembered) -> Result<()> {
        group.parts.widen(&self.parts.columns, &file.app)?;
        if self.big {
            group.bytes += ground.options.file_bytes;
            group.parts.done.extend(self.parts.finish().await?);
        } else {
            group.bytes += self.bytes;
            for rows in &self.batches {
                group.parts.write(ground, rows).await?;
            }
        }
        if self.dead > 0 {
            let written = match self.letter_parts {
                Some(writer) => writer.finish().await?,
                None => Vec::new(),
            };
            group.letters.push(FileLetters {
                app: file.app.clone(),
                reading: reading(file.fingerprint, *self.letters_digest),
                letters: self.letters,
                written: (written, self.letters_written),
            });
        }
        group.rows += self.rows;
        group.files.push(file);
        Ok(())
    }
}

/// A number for the letters that one reading of one content gave: with other settings the same file may give others.
fn reading(fingerprint: i64, mut letters: blake3::Hasher) -> i64 {
    letters.update(&fingerprint.to_le_bytes());
    let digest = letters.finalize();
    let (head, _) = digest.as_bytes().split_at(8);
    i64::from_le_bytes(head.try_into().unwrap_or_default()) & i64::MAX
}

/// A file as the table remembers it.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    /// `{stream}/{name}`.
    pub(super) app: String,
    /// What the table has of it now.
    pub(super) known: Option<i64>,
    pub(super) fingerprint: i64,
}

/// Files that are committed together.
pub(super) struct Group {
    pub(super) parts: Parts,
    pub(super) files: Vec<Remembered>,
    pub(super) letters: Vec<FileLetters>,
    pub(super) rows: u64,
    /// About how many bytes of rows wait.
    pub(super) bytes: usize,
}

impl Group {
    pub(super) fn new(columns: SchemaRef) -> Self {
        Self { parts: Parts::new(columns), files: Vec::new(), letters: Vec::new(), rows: 0, bytes: 0 }
    }
}
