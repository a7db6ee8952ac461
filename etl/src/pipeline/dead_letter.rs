//! The table of what could not become a row: kept whole, with its place and the reason.
//!
//! Layout of `bronze.dead_letters`: `source` (stream or task), `topic_or_file`, `partition` (NULL for files),
//! `offset_or_line`, `schema_id` (NULL without one), `reason` (one word, to count by), `detail` (for a person), `raw`
//! (the bytes), `seen_at` (UTC), `produced_at` (UTC, the record's own time), `key` (bytes), `headers` (JSON: a list of
//! `[name, value in base64]`, NULL without any), `replayed_at` (UTC: when the row was found or put into its table).
//! Tables of earlier versions lack the last four; they get them with the next letter, with NULL in the letters there.
//!
//! A letter is open until it has `replayed_at`. Of one record of one stream there is at most one open letter.
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionContext, ident, lit};
use deltalake::kernel::{Action, Add};
use futures::TryStreamExt as _;
use serde_json::json;
use tokio::sync::Mutex;

use super::error::LandingError;
use crate::error::{Error, Result};
use crate::failpoint::hit;
use crate::record::Record;
use crate::table::{
    Commit, FileWriter, Lake, Table, TableError, TableName, WriteOptions, evolve, remove_files, write_file,
};

/// How often a commit may be lost to another process before it is given up.
const TRIES: u32 = 5;

/// One record or field that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetter {
    /// The stream or task that met it.
    pub source: String,
    /// Where it came from.
    pub topic_or_file: String,
    /// The partition; `None` for files.
    pub partition: Option<i32>,
    /// The offset, or the line from 1.
    pub offset_or_line: i64,
    /// The writer's schema, where the record named one.
    pub schema_id: Option<i32>,
    /// One word to count by.
    pub reason: String,
    /// What is wrong, for a person.
    pub detail: String,
    /// The bytes as they came.
    pub raw: Vec<u8>,
    /// The record's timestamp, milliseconds since 1970, UTC.
    pub timestamp_ms: Option<i64>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's headers, in their order.
    pub headers: Vec<(String, Bytes)>,
}

/// The columns of the dead-letter table.
pub fn dead_letter_schema() -> SchemaRef {
    let column = |name: &str, data_type| Field::new(name, data_type, true);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        column("source", DataType::Utf8),
        column("topic_or_file", DataType::Utf8),
        column("partition", DataType::Int32),
        column("offset_or_line", DataType::Int64),
        column("schema_id", DataType::Int32),
        column("reason", DataType::Utf8),
        column("detail", DataType::Utf8),
        column("raw", DataType::Binary),
        column("seen_at", utc.clone()),
        column("produced_at", utc.clone()),
        column("key", DataType::Binary),
        column("headers", DataType::Utf8),
        column("replayed_at", utc),
    ]))
}

/// Headers as the table keeps them.
pub(crate) fn packed_headers(headers: &[(String, Bytes)]) -> Option<String> {
    let packed: Vec<_> = headers.iter().map(|(name, value)| json!([name, BASE64_STANDARD.encode(value)])).collect();
    (!packed.is_empty()).then(|| serde_json::Value::Array(packed).to_string())
}

/// Headers as the record had them; what is in another form is left out.
pub(crate) fn unpacked_headers(text: &str) -> Vec<(String, Bytes)> {
    let pairs: Vec<(String, String)> = serde_json::from_str(text).unwrap_or_default();
    let unpack = |(name, value): (String, String)| Some((name, BASE64_STANDARD.decode(value).ok()?.into()));
    pairs.into_iter().filter_map(unpack).collect()
}

/// The dead-letter table and its one writer in this process.
#[derive(Clone)]
pub struct DeadLetters {
    lake: Lake,
    name: TableName,
    table: Arc<Mutex<Option<Table>>>,
}

impl DeadLetters {
    /// The table `name`; it is made when the first letter comes.
    pub fn new(lake: Lake, name: TableName) -> Self {
        Self { lake, name, table: Arc::default() }
    }

    /// The lake that the table is in.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// The table's name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// Keeps `letters` exactly once. `progress` names what they belong to: (identity, value after them). A letter before
    /// the table's progress for its identity was seen before: after a crash between two commits, or because a stream
    /// was reset. It is written only if there is no open letter of it, so that nothing is there twice and what could be
    /// read the first time, and no longer now, is not lost.
    ///
    /// `identity_of` says which identity a letter belongs to, by its index in `progress`, and its position there. A
    /// letter of none is always looked for.
    ///
    /// # Errors
    /// [`TableError`] if the table cannot be read, or the commit is lost to another process again and again.
    pub async fn keep(
        &self,
        letters: &[DeadLetter],
        progress: &[(String, i64)],
        identity_of: impl Fn(&DeadLetter) -> (usize, i64),
        now: DateTime<Utc>,
    ) -> Result<u64> {
        if letters.is_empty() {
            return Ok(0);
        }
        let mut tries = TRIES;
        loop {
            let kept = self.try_keep(letters, progress, &identity_of, now).await;
            tries -= 1;
            match kept {
                // No fence guards this table, only progress: one that lost the stream may still have been quicker here,
                // with the same letters. Read again, and keep what it did not.
                Err(error) if tries > 0 && lost(&error) => {}
                kept => return kept,
            }
        }
    }

    async fn try_keep(
        &self,
        letters: &[DeadLetter],
        progress: &[(String, i64)],
        identity_of: &impl Fn(&DeadLetter) -> (usize, i64),
        now: DateTime<Utc>,
    ) -> Result<u64> {
        hit("dead_letter.before_lock").await;
        let mut guard = self.table.lock().await;
        hit("dead_letter.before_open").await;
        let mut table = match guard.take() {
            Some(mut table) => {
                table.refresh().await?;
                table
            }
            None => self.open(now).await?,
        };
        hit("dead_letter.before_progress").await;
        let mut commit = Commit::append(now);
        let mut known = Vec::new();
        for (app, after) in progress {
            let found = table.txn(app).await?;
            known.push(found);
            commit.expected.push((app.clone(), found));
            if found.is_none_or(|found| found < *after) {
                commit.txns.push((app.clone(), *after));
            }
        }
        let is_new = |letter: &&DeadLetter| {
            let (index, position) = identity_of(letter);
            known.get(index).is_some_and(|next| next.is_none_or(|next| position >= next))
        };
        let (mut fresh, seen): (Vec<&DeadLetter>, Vec<&DeadLetter>) = letters.iter().partition(is_new);
        if !seen.is_empty() {
            let there = open_letters(&table, &seen).await?;
            fresh.extend(seen.into_iter().filter(|letter| !there.contains(&letter.place())));
        }
        if !fresh.is_empty() {
            let batch =
                rows(&fresh, now).map_err(|source| LandingError::Arrow { topic: self.name.to_string(), source })?;
            hit("dead_letter.before_write").await;
            commit.actions.extend(write_file(&table, &batch, now).await?.map(Action::Add));
            commit.metrics = json!({ "numOutputRows": fresh.len() });
            hit("dead_letter.before_commit").await;
            table.commit(commit).await?;
            hit("dead_letter.after_commit").await;
        }
        *guard = Some(table);
        Ok(fresh.len() as u64)
    }

    /// The table with all columns it should have; it is made if there is none.
    async fn open(&self, now: DateTime<Utc>) -> Result<Table> {
        let mut table = self.lake.ensure(&self.name, &dead_letter_schema(), &[]).await?;
        widen(&mut table, now).await?;
        Ok(table)
    }
}

/// Adds the columns that a table of an earlier version lacks.
pub(crate) async fn widen(table: &mut Table, now: DateTime<Utc>) -> Result<()> {
    match evolve(table, &dead_letter_schema(), now).await {
        // Somebody else was quicker with the same columns, or we look again.
        Err(error) if matches!(error.downcast_ref(), Some(TableError::Conflict { .. })) => {
            table.refresh().await?;
            evolve(table, &dead_letter_schema(), now).await.map(drop)
        }
        done => done.map(drop),
    }
}

/// Where a letter's record is: stream, topic, partition, offset.
pub(crate) type Place = (String, String, Option<i32>, i64);

impl DeadLetter {
    /// The letter of a topic's record.
    pub(crate) fn of(source: &str, record: &Record, schema_id: Option<i32>, reason: &str, detail: String) -> Self {
        Self {
            source: source.to_owned(),
            topic_or_file: record.partition.topic.clone(),
            partition: Some(record.partition.partition),
            offset_or_line: record.offset,
            schema_id,
            reason: reason.to_owned(),
            detail,
            raw: record.value.as_ref().map(|value| value.to_vec()).unwrap_or_default(),
            timestamp_ms: Some(record.timestamp_ms),
            key: record.key.as_ref().map(|key| key.to_vec()),
            headers: record.headers.clone(),
        }
    }

    fn place(&self) -> Place {
        (self.source.clone(), self.topic_or_file.clone(), self.partition, self.offset_or_line)
    }
}

/// The places among those of `letters` that have an open letter already.
async fn open_letters(table: &Table, letters: &[&DeadLetter]) -> Result<HashSet<Place>> {
    let failed = |e: DataFusionError| TableError::delta("read", table.name(), e.into());
    let lowest = letters.iter().map(|letter| letter.offset_or_line).min().unwrap_or_default();
    let highest = letters.iter().map(|letter| letter.offset_or_line).max().unwrap_or_default();
    let wanted: HashSet<Place> = letters.iter().map(|letter| letter.place()).collect();
    let context = SessionContext::new();
    let near = ident("offset_or_line").between(lit(lowest), lit(highest)).and(ident("replayed_at").is_null());
    let columns = ["source", "topic_or_file", "partition", "offset_or_line"].map(ident);
    let frame = context.read_table(table.provider(&context.state())?).and_then(|frame| frame.filter(near));
    let frame = frame.and_then(|frame| frame.select(columns)).map_err(failed)?;
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    let mut there = HashSet::new();
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        there.extend(places(&batch).filter(|place| wanted.contains(place)));
    }
    Ok(there)
}

/// The places in a batch whose first four columns are those of a place.
pub(crate) fn places(batch: &RecordBatch) -> impl Iterator<Item = Place> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let (source, topic) = (text(0), text(1));
    let partition = batch.column(2).as_primitive::<Int32Type>();
    let offset = batch.column(3).as_primitive::<Int64Type>();
    (0..batch.num_rows()).map(move |row| {
        let partition = partition.is_valid(row).then(|| partition.value(row));
        (source.value(row).to_owned(), topic.value(row).to_owned(), partition, offset.value(row))
    })
}

/// The letters of one file, which are kept together or not at all.
#[derive(Debug)]
pub(crate) struct FileLetters {
    /// What the table remembers the file by.
    pub(crate) app: String,
    /// Which content of the file they are about, and which letters they are.
    pub(crate) reading: i64,
    /// Those in memory.
    pub(crate) letters: Vec<DeadLetter>,
    /// Those in files that no commit names yet, and how many they are.
    pub(crate) written: (Vec<Add>, u64),
}

impl DeadLetters {
    /// A writer of letters that are too many for the memory; what it gives goes into [`FileLetters::written`].
    pub(crate) fn writer(&self, options: WriteOptions, now: DateTime<Utc>) -> Result<FileWriter> {
        FileWriter::ahead_of(&self.lake, &self.name, dead_letter_schema(), options, now)
    }

    /// Letters as rows of the table.
    pub(crate) fn batch(&self, letters: &[DeadLetter], now: DateTime<Utc>) -> Result<RecordBatch> {
        let letters: Vec<&DeadLetter> = letters.iter().collect();
        let failed = |source| LandingError::Arrow { topic: self.name.to_string(), source };
        Ok(rows(&letters, now).map_err(failed)?)
    }

    /// Removes what a [`DeadLetters::writer`] wrote and no commit is going to name.
    pub(crate) async fn discard(&self, written: &[Add]) -> Result<()> {
        remove_files(&self.lake.log_store(&self.name)?.object_store(None), written).await;
        Ok(())
    }

    /// Keeps the letters of these files, in one commit; a file whose letters are there already adds nothing. Where other
    /// letters of a file are there (it was read with other settings before its rows' commit was lost), those in memory are
    /// kept that are not open yet, and all of those in files. Returns how many were new.
    ///
    /// # Errors
    /// As [`DeadLetters::keep`].
    pub(crate) async fn keep_files(&self, files: Vec<FileLetters>, now: DateTime<Utc>) -> Result<u64> {
        if files.is_empty() {
            return Ok(0);
        }
        hit("dead_letter.before_lock").await;
        let mut guard = self.table.lock().await;
        hit("dead_letter.before_open").await;
        let mut table = match guard.take() {
            Some(mut table) => {
                table.refresh().await?;
                table
            }
            None => self.open(now).await?,
        };
        hit("dead_letter.before_progress").await;
        let mut commit = Commit::append(now);
        let mut fresh = Vec::new();
        let mut count = 0;
        for mut file in files {
            let found = table.txn(&file.app).await?;
            if found == Some(file.reading) {
                self.discard(&file.written.0).await?;
                continue;
            }
            if found.is_some() && !file.letters.is_empty() {
                let there = open_letters(&table, &file.letters.iter().collect::<Vec<_>>()).await?;
                file.letters.retain(|letter| !there.contains(&letter.place()));
            }
            count += file.letters.len() as u64 + file.written.1;
            commit.expected.push((file.app.clone(), found));
            commit.txns.push((file.app, file.reading));
            commit.actions.extend(file.written.0.into_iter().map(Action::Add));
            fresh.extend(file.letters);
        }
        if count > 0 {
            let batch = self.batch(&fresh, now)?;
            hit("dead_letter.before_write").await;
            commit.actions.extend(write_file(&table, &batch, now).await?.map(Action::Add));
            commit.metrics = json!({ "numOutputRows": count });
            hit("dead_letter.before_commit").await;
            table.commit(commit).await?;
            hit("dead_letter.after_commit").await;
        }
        *guard = Some(table);
        Ok(count)
    }
}

/// Whether somebody else made the commit that was to be made.
fn lost(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(TableError::Fenced { .. } | TableError::Conflict { .. }))
}

fn rows(letters: &[&DeadLetter], now: DateTime<Utc>) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let mut source = StringBuilder::new();
    let mut place = StringBuilder::new();
    let mut partition = Int32Builder::new();
    let mut offset = Int64Builder::new();
    let mut schema_id = Int32Builder::new();
    let mut reason = StringBuilder::new();
    let mut detail = StringBuilder::new();
    let mut raw = BinaryBuilder::new();
    let instants = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let (mut seen_at, mut produced_at, mut replayed_at) = (instants(), instants(), instants());
    let mut key = BinaryBuilder::new();
    let mut headers = StringBuilder::new();
    for letter in letters {
        source.append_value(&letter.source);
        place.append_value(&letter.topic_or_file);
        partition.append_option(letter.partition);
        offset.append_value(letter.offset_or_line);
        schema_id.append_option(letter.schema_id);
        reason.append_value(&letter.reason);
        detail.append_value(&letter.detail);
        raw.append_value(&letter.raw);
        seen_at.append_value(now.timestamp_micros());
        produced_at.append_option(letter.timestamp_ms.and_then(|ms| ms.checked_mul(1000)));
        key.append_option(letter.key.as_ref());
        headers.append_option(packed_headers(&letter.headers));
        replayed_at.append_null();
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(source.finish()),
        Arc::new(place.finish()),
        Arc::new(partition.finish()),
        Arc::new(offset.finish()),
        Arc::new(schema_id.finish()),
        Arc::new(reason.finish()),
        Arc::new(detail.finish()),
        Arc::new(raw.finish()),
        Arc::new(seen_at.finish()),
        Arc::new(produced_at.finish()),
        Arc::new(key.finish()),
        Arc::new(headers.finish()),
        Arc::new(replayed_at.finish()),
    ];
    RecordBatch::try_new(dead_letter_schema(), columns)
}
