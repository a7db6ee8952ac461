//! Writes into the dead-letter table what became of letters: replayed, or refused for another reason now.
//!
//! It is a note for people and for the next replay's speed. Whether a record is in its table is said by that table.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Int32Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use chrono::{DateTime, Utc};
use datafusion::prelude::ident;
use deltalake::kernel::Action;
use serde_json::json;

use super::error::StreamError;
use super::scan::{FILE, Wanted, path_of, scan};
use crate::engine::Engine;
use crate::error::Result;
use crate::failpoint::hit;
use crate::pipeline::{Place, places};
use crate::table::{Commit, FileWriter, Guard, Operation, Table, TableError, WriteOptions};

/// How often others may move the letters' files under our hands.
const TRIES: u32 = 8;

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Its record is in the table, or has nothing to be there.
    Replayed,
    /// It is refused, but for another reason than it says.
    Refused { reason: String, detail: String, schema_id: Option<i32> },
}

/// Marks the open letters named; `files` is where they were seen.
///
/// # Errors
/// [`StreamError::Busy`] if others rewrite the table all the time.
pub(super) async fn mark(
    engine: &Engine,
    table: &mut Table,
    mut files: BTreeSet<String>,
    marks: &HashMap<Place, Mark>,
    now: DateTime<Utc>,
) -> Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    for _ in 0..TRIES {
        table.refresh().await?;
        let here: BTreeSet<String> = table.files()?.into_iter().map(|file| file.path).collect();
        if !files.is_subset(&here) {
            files = locate(engine, table, marks).await?;
        }
        if files.is_empty() {
            return Ok(());
        }
        match rewrite(engine, table, &files, marks, now).await {
            Err(error) if matches!(error.downcast_ref(), Some(TableError::Conflict { .. })) => {}
            done => return done,
        }
    }
    Err(StreamError::Busy { table: table.name().to_string() }.into())
}

/// The files that hold open letters to be marked.
async fn locate(engine: &Engine, table: &Table, marks: &HashMap<Place, Mark>) -> Result<BTreeSet<String>> {
    let columns = ["source", "topic_or_file", "partition", "offset_or_line"].map(str::to_owned).to_vec();
    let filter = Some(ident("replayed_at").is_null());
    let mut rows = scan(engine, table, Wanted { columns, filter, file: true, ..Wanted::default() }).await?;
    let mut files = BTreeSet::new();
    while let Some(batch) = rows.next().await? {
        let file = batch.column(4).as_string::<i32>();
        for (row, place) in places(&batch).enumerate() {
            if marks.contains_key(&place) {
                files.insert(path_of(file.value(row), table));
            }
        }
    }
    Ok(files)
}

async fn rewrite(
    engine: &Engine,
    table: &mut Table,
    files: &BTreeSet<String>,
    marks: &HashMap<Place, Mark>,
    now: DateTime<Utc>,
) -> Result<()> {
    let wanted = Wanted { files: Some(files.iter().cloned().collect()), ..Wanted::default() };
    let mut rows = scan(engine, table, wanted).await?;
    let mut writer = FileWriter::new(table, table.schema()?, WriteOptions::default(), now);
    while let Some(batch) = rows.next().await? {
        let marked = marked(&batch, marks, now).map_err(StreamError::arrow(table.name()))?;
        writer.write(&marked).await?;
    }
    let mut commit = Commit::new(Operation::Amend, Guard::Rearrange, now);
    commit.metrics = json!({ "numUpdatedRows": marks.len() });
    commit.actions.extend(table.removes(|path| !files.contains(path), now)?.into_iter().map(Action::Remove));
    commit.actions.extend(writer.finish().await?.into_iter().map(Action::Add));
    hit("dead_letter.before_mark").await;
    table.commit(commit).await?;
    hit("dead_letter.after_mark").await;
    Ok(())
}

/// The letters with their marks. Letters replayed before keep what they say.
fn marked(
    batch: &RecordBatch,
    marks: &HashMap<Place, Mark>,
    now: DateTime<Utc>,
) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let schema = batch.schema();
    let at = |name: &str| schema.index_of(name);
    let keys = ["source", "topic_or_file", "partition", "offset_or_line"];
    let keys = keys.into_iter().map(at).collect::<std::result::Result<Vec<_>, _>>()?;
    let keys = batch.project(&keys)?;
    let (reason_at, detail_at, id_at, replayed_at) =
        (at("reason")?, at("detail")?, at("schema_id")?, at("replayed_at")?);
    let reasons = batch.column(reason_at).as_string::<i32>();
    let details = batch.column(detail_at).as_string::<i32>();
    let ids = batch.column(id_at).as_primitive::<Int32Type>();
    let times = batch.column(replayed_at).as_primitive::<TimestampMicrosecondType>();
    let (mut reason, mut detail) = (StringBuilder::new(), StringBuilder::new());
    let mut id = Int32Builder::new();
    let mut time = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    for (row, place) in places(&keys).enumerate() {
        let mark = if times.is_null(row) { marks.get(&place) } else { None };
        match mark {
            Some(Mark::Refused { reason: why, detail: more, schema_id }) => {
                reason.append_value(why);
                detail.append_value(more);
                id.append_option(*schema_id);
            }
            Some(Mark::Replayed) | None => {
                reason.append_option(reasons.is_valid(row).then(|| reasons.value(row)));
                detail.append_option(details.is_valid(row).then(|| details.value(row)));
                id.append_option(ids.is_valid(row).then(|| ids.value(row)));
            }
        }
        match mark {
            Some(Mark::Replayed) => time.append_value(now.timestamp_micros()),
            _ => time.append_option(times.is_valid(row).then(|| times.value(row))),
        }
    }
    let mut columns = batch.columns().to_vec();
    let changed: [(usize, ArrayRef); 4] = [
        (reason_at, Arc::new(reason.finish())),
        (detail_at, Arc::new(detail.finish())),
        (id_at, Arc::new(id.finish())),
        (replayed_at, Arc::new(time.finish())),
    ];
    for (index, column) in changed {
        if let Some(place) = columns.get_mut(index) {
            *place = column;
        }
    }
    RecordBatch::try_new(schema, columns)
}

/// The file a row of a scan is in.
pub(super) fn file_of(batch: &RecordBatch, row: usize, table: &Table) -> Option<String> {
    let files = batch.column_by_name(FILE)?.as_string_opt::<i32>()?;
    Some(path_of(files.value(row), table))
}
