//! A catalogue file into a table, by key.
//!
//! The file streams through once: parsed, written as Parquet files that no commit names yet, and brought into the
//! table in one commit ([`crate::table::upsert`]). Item numbers of a sound catalogue rise; where they do not, one may
//! come twice, and the file is staged again with the line of each item, so that the last one wins. Values that cannot
//! be used go to the dead letters first, each once, however often the file is run.
use std::path::Path as FsPath;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::engine::Engine;
use crate::error::{Explain, Result, Retry};
use crate::format::item::{ItemReader, Progress, ReadOptions, Rejected, Tally, item_schema};
use crate::pipeline::{DeadLetter, DeadLetters};
use crate::table::{FileWriter, S3Settings, Staged, Table, TableName, UpsertOutcome, WriteOptions, upsert};

/// The columns of the table, in order; the file's line is not one of them.
const COLUMNS: [&str; 9] = [
    "item_id",
    "title",
    "genre",
    "product_group",
    "list_price",
    "list_price_currency",
    "trade_in_value",
    "release_date",
    "attributes",
];
const LINE: &str = "line";
/// Dead letters held before they are committed.
const LETTERS: usize = 10_000;

/// A failure to find the file. What is wrong inside it is [`crate::format::item::ItemError`].
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Neither a path nor a URL that this build can read.
    #[error("read `{file}`")]
    Location {
        /// As written.
        file: String,
        /// Why not.
        why: String,
    },
    /// Somebody asked to stop.
    #[error("finish reading `{file}`: it was asked to stop")]
    Stopped {
        /// The file.
        file: String,
    },
}

impl Explain for IngestError {
    fn code(&self) -> &'static str {
        match self {
            Self::Location { .. } => "F0401",
            Self::Stopped { .. } => "F0402",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Location { .. } => Retry::Never,
            Self::Stopped { .. } => Retry::Later,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Location { why, .. } => Some(why.clone()),
            Self::Stopped { .. } => None,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Location { .. } => {
                Some("give a path below the project, an absolute path, or a URL such as s3://bucket/key".to_owned())
            }
            Self::Stopped { .. } => Some("run it again: nothing was committed".to_owned()),
        }
    }
}

/// What an ingest works with.
pub struct Ingest<'a> {
    /// The engine, and through it the lake.
    pub engine: &'a Engine,
    /// The table.
    pub table: TableName,
    /// A path, or a URL.
    pub file: String,
    /// Where relative paths start.
    pub base: &'a FsPath,
    /// How S3 is reached.
    pub s3: &'a S3Settings,
    /// The dead-letter table.
    pub dead: &'a DeadLetters,
    /// Who is asking: the `source` of the dead letters.
    pub source: String,
    /// Called as the file is read: (bytes done, bytes in all).
    pub progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
    /// Ends it early, with nothing committed.
    pub stop: CancellationToken,
    /// The moment noted in the history.
    pub now: DateTime<Utc>,
}

/// What an ingest did.
#[derive(Debug, Clone, Serialize)]
pub struct Ingested {
    /// Items in the file.
    pub items: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Keys that were new.
    pub inserted: u64,
    /// Keys whose row changed.
    pub updated: u64,
    /// Keys whose row was the same.
    pub unchanged: u64,
    /// Items that a later item of the same number replaced.
    pub replaced: u64,
    /// Values that could not be used: NULL in the table, kept in the dead letters.
    pub rejected: u64,
    /// Lines that are neither a header nor an attribute.
    pub junk_lines: u64,
    /// The first of them, as `line: text`.
    pub junk_samples: Vec<String>,
    /// The table's version after it.
    pub version: u64,
}

struct Input {
    store: Arc<dyn ObjectStore>,
    path: Path,
    shown: String,
    identity: String,
}

/// Runs the ingest.
///
/// # Errors
/// A missing, empty or binary file; a full disk; a conflict with another writer. Nothing is committed then but dead
/// letters, which the next run does not repeat.
pub async fn ingest(work: &Ingest<'_>) -> Result<Ingested> {
    let input = find(work).await?;
    let schema = Schema::new(
        COLUMNS
            .iter()
            .map(|name| item_schema().field_with_name(name).cloned().map(|f| f.with_nullable(true)))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| IngestError::Location { file: input.shown.clone(), why: e.to_string() })?,
    );
    let lake = work.engine.lake();
    let _computing = lake.compute(&work.table).await;
    let mut table = lake.ensure(&work.table, &schema, &[("delta.enableChangeDataFeed", "true")]).await?;

    let mut reading = stage(work, &input, &table, false).await?;
    if !reading.staged.rising {
        discard(&table, &reading.staged).await;
        reading = stage(work, &input, &table, true).await?;
    }
    let mut info = serde_json::Map::new();
    info.insert("ingest".to_owned(), json!({ "file": input.shown, "items": reading.tally.items }));
    let outcome = upsert(work.engine, &mut table, reading.staged, "item_id", info, work.now).await?;
    let UpsertOutcome { version: _, inserted, updated, unchanged, replaced } = outcome;
    Ok(Ingested {
        items: reading.tally.items,
        bytes: reading.bytes,
        inserted,
        updated,
        unchanged,
        replaced,
        rejected: reading.rejected,
        junk_lines: reading.tally.junk_lines,
        junk_samples: reading.tally.junk.iter().map(|junk| format!("{}: {}", junk.line, junk.text)).collect(),
        version: table.version(),
    })
}

struct Reading {
    staged: Staged,
    tally: Tally,
    bytes: u64,
    rejected: u64,
}

async fn stage(work: &Ingest<'_>, input: &Input, table: &Table, with_line: bool) -> Result<Reading> {
    let report = Arc::clone(&work.progress);
    let mut names: Vec<&str> = COLUMNS.to_vec();
    if with_line {
        names.push(LINE);
    }
    let all = item_schema();
    let options = ReadOptions {
        projection: Some(names.iter().filter_map(|name| all.index_of(name).ok()).collect()),
        progress: Some(Arc::new(move |at: Progress| report(at.done, at.total))),
        ..ReadOptions::default()
    };
    let mut reader =
        ItemReader::open(Arc::clone(&input.store), input.path.clone(), input.shown.clone(), options).await?;
    let fields: Vec<_> = reader.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let mut writer = FileWriter::new(table, Arc::clone(&schema), WriteOptions::default(), work.now);
    let mut rising = true;
    let mut last = i64::MIN;
    let mut letters = Vec::new();
    let mut rejected = 0;
    while let Some(batch) = reader.next().await? {
        if work.stop.is_cancelled() {
            return Err(IngestError::Stopped { file: input.shown.clone() }.into());
        }
        rising &= rises(&batch.rows, &mut last);
        if !rising && !with_line {
            // It will be staged again; no need to go on.
            break;
        }
        rejected += batch.rejected.len() as u64;
        letters.extend(batch.rejected.into_iter().map(|bad| letter(work, input, bad)));
        if letters.len() >= LETTERS {
            bury(work, input, &mut letters).await?;
        }
        let rows = RecordBatch::try_new(Arc::clone(&schema), batch.rows.columns().to_vec())
            .map_err(|e| IngestError::Location { file: input.shown.clone(), why: e.to_string() })?;
        writer.write(&rows).await?;
    }
    bury(work, input, &mut letters).await?;
    let rows = writer.rows();
    let files = writer.finish().await?;
    let order = with_line.then(|| LINE.to_owned());
    let staged = Staged { files, rows, rising, order };
    Ok(Reading { staged, tally: reader.tally().clone(), bytes: reader.progress().total, rejected })
}

fn rises(rows: &RecordBatch, last: &mut i64) -> bool {
    let Some(ids) = rows.column(0).as_primitive_opt::<Int64Type>() else { return false };
    for row in 0..ids.len() {
        let id = ids.value(row);
        if id <= *last {
            return false;
        }
        *last = id;
    }
    true
}

async fn discard(table: &Table, staged: &Staged) {
    let store = table.log_store().object_store(None);
    for file in &staged.files {
        if let Err(error) = store.delete(&Path::from(file.path.as_str())).await {
            tracing::debug!(%error, file = file.path, "staged file left behind");
        }
    }
}

fn letter(work: &Ingest<'_>, input: &Input, bad: Rejected) -> DeadLetter {
    DeadLetter {
        source: work.source.clone(),
        topic_or_file: input.shown.clone(),
        partition: None,
        offset_or_line: i64::try_from(bad.line).unwrap_or(i64::MAX),
        schema_id: None,
        reason: bad.field.to_lowercase(),
        detail: format!("item {}: {}: {}", bad.item_id, bad.field, bad.reason),
        raw: bad.raw.into_bytes(),
        ..DeadLetter::default()
    }
}

async fn bury(work: &Ingest<'_>, input: &Input, letters: &mut Vec<DeadLetter>) -> Result<()> {
    let Some(last) = letters.iter().map(|letter| letter.offset_or_line).max() else { return Ok(()) };
    // Lines rise, so "the next line" is progress as an offset is.
    let progress = [(format!("ingest/{}/{}", work.table, input.identity), last.saturating_add(1))];
    work.dead.keep(letters, &progress, |letter| (0, letter.offset_or_line), work.now).await?;
    letters.clear();
    Ok(())
}

/// The storage and path of the file, and what tells this file from another of the same name.
async fn find(work: &Ingest<'_>) -> Result<Input> {
    let file = &work.file;
    let failed = |why: String| IngestError::Location { file: file.clone(), why };
    let (store, path): (Arc<dyn ObjectStore>, Path) = if file.contains("://") {
        let url = Url::parse(file).map_err(|e| failed(e.to_string()))?;
        let (store, path) =
            object_store::parse_url_opts(&url, crate::table::options(work.s3)).map_err(|e| failed(e.to_string()))?;
        (Arc::from(store), path)
    } else {
        let full = work.base.join(file);
        if full.is_dir() {
            return Err(failed("it is a folder".to_owned()).into());
        }
        let full = full.canonicalize().unwrap_or(full);
        let path = Path::from_absolute_path(&full).map_err(|e| failed(e.to_string()))?;
        (Arc::new(object_store::local::LocalFileSystem::new()), path)
    };
    let identity = match store.head(&path).await {
        Ok(meta) => format!("{path}@{}-{}", meta.size, meta.last_modified.timestamp_millis()),
        // The reader says what is wrong, in its own words.
        Err(_) => path.to_string(),
    };
    Ok(Input { store, path, shown: file.clone(), identity })
}
