//! The loop over the files of a listing: stage one, and commit when enough wait.
use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use deltalake::kernel::Action;
use object_store::ObjectStoreExt as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::{Bad, Origin};
use super::error::FilesError;
use super::fetch::Source;
use super::list::{Listed, Listing, Order, list};
use super::read::{self, Encoding, Format, Plan, by_name};
use super::stage::{Ground, Group, Remembered, Staged};
use super::target::{EVENT_AT, FILE, LINE, OnUnknown, ROW, Target, column_name};
use crate::error::{Error, Result};
use crate::format::csv::Dialect;
use crate::pipeline::DeadLetters;
use crate::table::{Commit, Lake, S3Settings, Table, TableError, TableName, WriteOptions, evolve, remove_files};

/// How often others may get in the way, with nothing gained, before it is given up.
const ROUNDS: usize = 5;

/// What is done with a file that has changed since it was landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnChange {
    /// It is reported, and nothing of it is landed.
    #[default]
    Stop,
    /// What was landed stands.
    Ignore,
    /// All its rows are landed again, beside the old ones.
    Append,
}

/// What is done with a file that cannot be read at all, or not to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadFile {
    /// It is reported, nothing of it is landed, and it is tried again by the next run.
    #[default]
    Stop,
    /// It is one dead letter without bytes, and done with.
    DeadLetter,
}

/// How CSV files are written.
#[derive(Debug, Clone)]
pub struct CsvOptions {
    /// Between cells; `None`: a tab in `.tsv` files, else a comma.
    pub delimiter: Option<u8>,
    /// Around cells; `None`: nothing.
    pub quote: Option<u8>,
    /// Before a quote within quotes; `None`: it is doubled.
    pub escape: Option<u8>,
    /// Whether the first record names the columns. Without it they are the declared ones by position, or `column_1`, ….
    pub header: bool,
    /// Cells that are NULL unless they are in quotes.
    pub nulls: Vec<String>,
    /// How bytes are read as text.
    pub encoding: Encoding,
}

impl Default for CsvOptions {
    fn default() -> Self {
        let Dialect { quote, escape, .. } = Dialect::default();
        Self { delimiter: None, quote, escape, header: true, nulls: vec![String::new()], encoding: Encoding::Utf8 }
    }
}

/// What files may cost.
#[derive(Debug, Clone)]
pub struct FileLimits {
    /// Bytes of rows held in memory at a time, about.
    pub memory: usize,
    /// A row of more bytes is a dead letter.
    pub max_row: usize,
    /// Rows that the types of new columns are taken from; 0: all of the file.
    pub infer_rows: usize,
    /// Small files that share one commit at most.
    pub commit_files: usize,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self { memory: 256 << 20, max_row: 16 << 20, infer_rows: 10_000, commit_files: 1000 }
    }
}

/// What to land, where, and how.
pub struct Files<'a> {
    /// The lake.
    pub lake: &'a Lake,
    /// The dead-letter table.
    pub dead: &'a DeadLetters,
    /// The stable name under which the table remembers files.
    pub stream: String,
    /// A file, a folder or a pattern; a path or a URL.
    pub place: String,
    /// The folder that names are remembered from; `None`: the part of `place` before its first pattern.
    pub root: Option<String>,
    /// Where relative paths start.
    pub base: &'a FsPath,
    /// How S3 is reached.
    pub s3: &'a S3Settings,
    /// The table.
    pub table: TableName,
    /// What the files hold; `None`: by their names.
    pub format: Option<Format>,
    /// Columns whose types are not inferred.
    pub columns: Vec<(String, DataType)>,
    /// For CSV files.
    pub csv: CsvOptions,
    /// The column that gives `event_at`.
    pub event_time: Option<String>,
    /// The zone of times without one.
    pub zone: Tz,
    /// The order.
    pub order: Order,
    /// Files that changed.
    pub on_change: OnChange,
    /// Fields that no column has.
    pub on_unknown: OnUnknown,
    /// Files that cannot be read.
    pub on_bad_file: OnBadFile,
    /// What it may cost.
    pub limits: FileLimits,
    /// Where packed Parquet files are unpacked to.
    pub spool: PathBuf,
    /// Called as files are read: (bytes done, bytes in all).
    pub progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
    /// Ends it early: files that are whole are committed, the one at hand is not.
    pub stop: CancellationToken,
    /// The moment noted in the history.
    pub now: DateTime<Utc>,
}

/// What was landed.
#[derive(Debug, Default)]
pub struct LandedFiles {
    /// Files landed, those that became one dead letter included.
    pub files: u64,
    /// Files that were landed before.
    pub known: u64,
    /// Files that changed since and were left alone (`on_change = "ignore"`).
    pub ignored: u64,
    /// Rows.
    pub rows: u64,
    /// Dead letters.
    pub dead: u64,
    /// Commits.
    pub commits: u64,
    /// Files that could not be landed, in order; the others were.
    pub problems: Vec<Error>,
}

/// Lands every file that the table does not have yet, each in one commit.
///
/// # Errors
/// What stops all files: a place that cannot be listed, a storage that fails, a full disk. Files that are at fault
/// themselves are in [`LandedFiles::problems`], and the others are landed.
pub async fn land_files(work: &Files<'_>) -> Result<LandedFiles> {
    let mut landed = LandedFiles::default();
    let (mut rounds, mut done) = (0, 0);
    loop {
        let outcome = Round::new(work, &mut landed).await?.run().await;
        match outcome {
            Err(error) if is_race(&error) && rounds < ROUNDS => {
                // Another run landed one of them first: what is left is looked at again. As long as it gets on it is
                // no quarrel.
                let now = landed.known + landed.files;
                rounds = if now > done { 0 } else { rounds + 1 };
                done = now;
            }
            Err(error) => return Err(error),
            Ok(()) => return Ok(landed),
        }
    }
}

fn is_race(error: &Error) -> bool {
    matches!(error.downcast_ref::<TableError>(), Some(TableError::Fenced { .. } | TableError::Conflict { .. }))
}

struct Round<'a, 'b> {
    work: &'a Files<'a>,
    ground: Ground<'a>,
    listing: Listing,
    known: BTreeMap<String, i64>,
    target: Target,
    group: Group,
    landed: &'b mut LandedFiles,
}

impl<'a, 'b> Round<'a, 'b> {
    async fn new(work: &'a Files<'a>, landed: &'b mut LandedFiles) -> Result<Self> {
        let listing = list(&work.place, work.root.as_deref(), work.base, work.s3, work.order).await?;
        let table = work.lake.try_table(&work.table).await?;
        let (known, columns) = match &table {
            None => (BTreeMap::new(), Arc::new(Schema::empty())),
            Some(table) => (table.progress().await?, table.schema()?),
        };
        landed.known = 0;
        landed.ignored = 0;
        landed.problems.clear();
        let memory = work.limits.memory;
        let ground = Ground {
            lake: work.lake,
            table: &work.table,
            dead: work.dead,
            // Three groups are in memory at a time: one filling, two being encoded. A quarter is for small files.
            options: WriteOptions { group_bytes: (memory / 8).max(1 << 20), ..WriteOptions::default() },
            small: memory / 4,
            now: work.now,
        };
        let target = Target::new(Some(&columns), &work.columns, work.on_unknown, work.event_time.is_some())?;
        Ok(Self { work, ground, listing, known, target, group: Group::new(columns), landed })
    }

    async fn run(mut self) -> Result<()> {
        let mut todo = Vec::new();
        for file in std::mem::take(&mut self.listing.files) {
            let app = app(self.work, &file);
            let fingerprint = file.fingerprint(self.listing.local);
            let known = self.known.get(&app).copied();
            match known {
                Some(known) if known == fingerprint => self.landed.known += 1,
                Some(_) if self.work.on_change == OnChange::Ignore => self.landed.ignored += 1,
                Some(_) if self.work.on_change == OnChange::Stop => {
                    let (file, table) = (file.shown, self.work.table.to_string());
                    self.landed.problems.push(FilesError::Changed { file, table }.into());
                }
                _ => todo.push((file, Remembered { app, known, fingerprint })),
            }
        }
        // Those of an earlier round are ours.
        self.landed.known = self.landed.known.saturating_sub(self.landed.files);
        let total: u64 = todo.iter().map(|(file, _)| file.meta.size).sum();
        let mut done = 0;
        for (file, remembered) in todo {
            if self.work.stop.is_cancelled() {
                self.flush().await?;
                return Err(FilesError::Stopped { place: self.work.place.clone() }.into());
            }
            let size = file.meta.size;
            let report = |read: u64| (self.work.progress)(done + read.min(size), total);
            let mut staged = Staged::new(Arc::clone(&self.group.parts.columns));
            if let Err(error) = self.stage(&file, &mut staged, &report).await {
                staged.discard(&self.ground).await;
                staged = Staged::new(Arc::clone(&self.group.parts.columns));
                if !at_fault(&error) {
                    // What is whole is not lost for it.
                    self.flush().await?;
                    return Err(error);
                }
                if self.work.on_bad_file == OnBadFile::Stop {
                    self.landed.problems.push(error);
                    done += size;
                    continue;
                }
                let detail = error.why().map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
                let reason = error.downcast_ref::<FilesError>().map_or("file_damaged", FilesError::word);
                staged.letter(Bad { at: 0, reason, detail, raw: Vec::new() }, &self.work.stream, &file.shown);
            }
            staged.parts.widen(&self.own_columns(&file), &file.shown)?;
            staged.join(&self.ground, &mut self.group, remembered).await?;
            self.target = Target::new(
                Some(&self.group.parts.columns),
                &self.work.columns,
                self.work.on_unknown,
                self.work.event_time.is_some(),
            )?;
            done += size;
            let full = self.group.bytes >= self.ground.options.file_bytes;
            if full || self.group.files.len() >= self.work.limits.commit_files {
                self.flush().await?;
            }
        }
        self.flush().await
    }

    /// Reads one file into `staged`.
    async fn stage(&mut self, file: &Listed, staged: &mut Staged, report: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let work = self.work;
        let (packing, named, tabs) = by_name(&file.name);
        let format = work.format.or(named).ok_or_else(|| FilesError::Format { file: file.shown.clone() })?;
        let plan = Plan {
            target: self.target.clone(),
            origin: Origin {
                name: file.name.clone(),
                shown: file.shown.clone(),
                counter: counter(format),
                event_time: work.event_time.clone(),
                zone: work.zone,
            },
            dialect: Dialect {
                delimiter: work.csv.delimiter.unwrap_or(if tabs { b'\t' } else { b',' }),
                quote: work.csv.quote,
                escape: work.csv.escape,
            },
            header: work.csv.header,
            names: work.columns.iter().map(|(name, _)| column_name(name)).collect(),
            nulls: work.csv.nulls.clone(),
            encoding: work.csv.encoding,
            infer_rows: work.limits.infer_rows,
            max_row: work.limits.max_row,
            // Values read as JSON take some ten times their text.
            batch_bytes: (work.limits.memory / 128).clamp(64 << 10, 4 << 20),
        };
        let source = Source {
            store: Arc::clone(&self.listing.store),
            meta: file.meta.clone(),
            read: Arc::new(AtomicU64::new(0)),
            kept: Arc::default(),
        };
        let read = Arc::clone(&source.read);
        let (sender, mut receiver) = mpsc::channel(1);
        let (local, spool) = (self.listing.local, work.spool.clone());
        let reader = tokio::task::spawn_blocking(move || {
            let mut send = |batch| sender.blocking_send(batch).is_ok();
            read::read(&source, packing, format, local, &spool, plan, &mut send)
        });
        while let Some(batch) = receiver.recv().await {
            if work.stop.is_cancelled() {
                return Err(FilesError::Stopped { place: work.place.clone() }.into());
            }
            staged.add(&self.ground, batch, &work.stream, &file.shown).await?;
            report(read.load(Ordering::Relaxed));
        }
        match reader.await {
            Ok(outcome) => outcome?,
            Err(panic) => {
                let why = format!("what reads it gave up on it: {panic}");
                return Err(FilesError::Damaged { file: file.shown.clone(), why }.into());
            }
        }
        if self.listing.local {
            let failed = |source| FilesError::Storage { doing: "read", place: file.shown.clone(), source };
            let now = self.listing.store.head(&file.meta.location).await.map_err(failed)?;
            if now.size != file.meta.size || now.last_modified != file.meta.last_modified {
                return Err(FilesError::Moving { file: file.shown.clone() }.into());
            }
        }
        Ok(())
    }

    /// The columns that every file brings, even one without rows.
    fn own_columns(&self, file: &Listed) -> Schema {
        let format = self.work.format.or(by_name(&file.name).1).unwrap_or(Format::Csv);
        let mut fields = Vec::new();
        if self.work.event_time.is_some() {
            let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
            fields.push(Field::new(EVENT_AT, utc, true));
        }
        fields.push(Field::new(FILE, DataType::Utf8, true));
        fields.push(Field::new(counter(format), DataType::Int64, true));
        Schema::new(fields)
    }

    /// Commits the files that wait: dead letters first, then rows and txns.
    async fn flush(&mut self) -> Result<()> {
        let columns = Arc::clone(&self.group.parts.columns);
        let group = std::mem::replace(&mut self.group, Group::new(Arc::clone(&columns)));
        if group.files.is_empty() {
            return Ok(());
        }
        let Group { parts, files, letters, rows, .. } = group;
        let adds = parts.finish().await?;
        let dead = self.work.dead.keep_files(letters, self.work.now).await?;
        let mut table = self.work.lake.ensure(&self.work.table, &columns, &[]).await?;
        let mut round = 1;
        loop {
            let outcome = async {
                evolve(&mut table, &columns, self.work.now).await?;
                let mut commit = Commit::append(self.work.now);
                commit.actions = adds.iter().cloned().map(Action::Add).collect();
                commit.txns = files.iter().map(|file| (file.app.clone(), file.fingerprint)).collect();
                commit.expected = files.iter().map(|file| (file.app.clone(), file.known)).collect();
                commit.info.insert("files".to_owned(), json!({ "stream": self.work.stream, "count": files.len() }));
                commit.metrics = json!({ "numOutputRows": rows, "numAddedFiles": adds.len() });
                table.commit(commit).await
            };
            match outcome.await {
                Ok(_) => break,
                Err(error) => {
                    let conflict = matches!(error.downcast_ref::<TableError>(), Some(TableError::Conflict { .. }));
                    if conflict && round < ROUNDS {
                        // Columns were added beside ours: the parts are as good as before.
                        round += 1;
                        table.refresh().await?;
                        continue;
                    }
                    if is_race(&error) {
                        discard(&table, &adds).await;
                    }
                    return Err(error);
                }
            }
        }
        self.landed.commits += 1;
        self.landed.files += files.len() as u64;
        self.landed.rows += rows;
        self.landed.dead += dead;
        Ok(())
    }
}

async fn discard(table: &Table, adds: &[deltalake::kernel::Add]) {
    remove_files(&table.log_store().object_store(None), adds).await;
}

fn app(work: &Files<'_>, file: &Listed) -> String {
    format!("{}/{}", work.stream, file.name)
}

fn counter(format: Format) -> &'static str {
    match format {
        Format::Csv | Format::JsonLines => LINE,
        Format::Parquet | Format::Avro => ROW,
    }
}

/// Whether the file itself is at fault.
fn at_fault(error: &Error) -> bool {
    error.downcast_ref::<FilesError>().is_some_and(FilesError::of_the_file)
}
