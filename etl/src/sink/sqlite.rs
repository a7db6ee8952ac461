//! The embedded warehouse: one SQLite file that any SQLite tool reads, also while it is loaded (WAL).
//!
//! Rows are staged in a temporary table, which lives outside the file; the file itself is locked for writing only from
//! the first to the last statement of `commit`. Everything runs on a blocking thread.
//!
//! What columns become (`docs/decisions/0003-sqlite-warehouse-types.md` says why):
//! ```text
//! integers            INTEGER     an unsigned value above 2^63-1 is refused
//! floats              REAL        NaN is the text 'NaN', as SQLite has none
//! decimals            REAL        exact to 15 digits, a value of more is refused; whole ones of at most 18 digits INTEGER
//!   decimals = "text" TEXT        any number of digits, exact
//! booleans            BOOLEAN     0 or 1
//! dates               DATE        2024-02-29
//! timestamps          TIMESTAMP   2024-02-29T12:00:00.000000, with a Z if it is an instant; text order is time order
//! text, bytes         TEXT, BLOB
//! lists, maps, structs JSON       JSON text
//! ```
//! A table of the default schema has its bare name, one of another schema is `schema_table`.
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use async_trait::async_trait;
use chrono::SecondsFormat;
use futures::FutureExt;
use rusqlite::types::ValueRef;
use rusqlite::{ErrorCode, OptionalExtension, ToSql, TransactionBehavior, params};

use super::column::{self, Column, Kind};
use super::{
    Connection, Held, LEDGER, Load, Loaded, Mode, Opening, Sink, SinkError, keys_text, quoted, quoted_list, settled,
    split,
};
use crate::error::Result;

const SINK: &str = "SQLite";
const STAGE: &str = "temp.\"_tidemill_stage\"";
/// How long a writer waits for another one; a load's transaction takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How decimals with a fraction are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decimals {
    /// As numbers that sum and sort, exact to 15 digits; a value of more digits is refused.
    #[default]
    Number,
    /// As text, exact at any size; `ORDER BY` needs a cast then.
    Text,
}

/// Where the file is and how values are kept.
#[derive(Debug, Clone)]
pub struct SqliteSettings {
    /// The file; made if it is not there, with its folder.
    pub path: PathBuf,
    /// The schema whose tables have their bare names.
    pub schema: String,
    /// How decimals are kept.
    pub decimals: Decimals,
}

impl SqliteSettings {
    /// The file at `path`, everything else at its default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), schema: super::DEFAULT_SCHEMA.to_owned(), decimals: Decimals::default() }
    }
}

/// A SQLite file as a sink.
#[derive(Debug)]
pub struct SqliteSink {
    settings: SqliteSettings,
    /// `None` while a call runs on its thread, and after a call was dropped half way: then the next one opens anew.
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: rusqlite::Connection,
    settings: SqliteSettings,
    open: Option<Open>,
}

/// A load between `begin` and `commit`.
#[derive(Debug)]
struct Open {
    load: Load,
    target: String,
    columns: Vec<Column>,
    insert: String,
    rows: u64,
}

pub(super) fn open(connection: Connection) -> Opening {
    async move {
        let mut settings = SqliteSettings::new(connection.location.expose());
        settings.schema = connection.schema;
        for (name, value) in connection.options {
            settings.decimals = match (name.as_str(), value.as_str()) {
                ("decimals", "number") => Decimals::Number,
                ("decimals", "text") => Decimals::Text,
                _ => {
                    let reason = format!("`{name} = \"{value}\"`; known is `decimals`, \"number\" or \"text\"");
                    return Err(SinkError::Settings { sink: SINK, reason }.into());
                }
            };
        }
        Ok(Box::new(SqliteSink::open(settings).await?) as Box<dyn Sink>)
    }
    .boxed()
}

impl SqliteSink {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// [`SinkError::File`] if it cannot be made, is not a SQLite file, or may not be written.
    pub async fn open(settings: SqliteSettings) -> Result<Self> {
        let mut sink = Self { settings, inner: None };
        sink.run(|_| Ok(())).await?;
        Ok(sink)
    }

    /// Runs `work` on a blocking thread with the file open.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Inner) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.take();
        let settings = self.settings.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut inner = match inner {
                Some(inner) => inner,
                None => Inner::open(settings)?,
            };
            let outcome = work(&mut inner);
            Ok::<_, SinkError>((inner, outcome))
        });
        let (inner, outcome) = done.await.map_err(|cause| SinkError::Refused {
            sink: SINK,
            table: self.settings.path.display().to_string(),
            reason: cause.to_string(),
        })??;
        self.inner = Some(inner);
        Ok(outcome?)
    }
}

#[async_trait]
impl Sink for SqliteSink {
    async fn progress(&mut self, source: &str) -> Result<Option<Held>> {
        let source = source.to_owned();
        self.run(move |inner| inner.progress(&source)).await
    }

    async fn begin(&mut self, load: &Load) -> Result<()> {
        let load = load.clone();
        self.run(move |inner| inner.begin(load)).await
    }

    async fn stage(&mut self, batch: RecordBatch) -> Result<()> {
        self.run(move |inner| inner.stage(&batch)).await
    }

    async fn commit(&mut self) -> Result<Loaded> {
        self.run(Inner::commit).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.run(Inner::forget).await
    }
}

/// Turns a new file to WAL. That needs the file alone, and `SQLite` does not call the busy handler for it: of several
/// loads that make the warehouse at once all but one would fail. So this waits by itself, as long as a load would.
fn write_ahead(db: &rusqlite::Connection) -> Result<(), rusqlite::Error> {
    const STEP: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        match db.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if waited < PATIENCE && error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                std::thread::sleep(STEP);
                waited += STEP;
            }
            done => return done,
        }
    }
}

impl Inner {
    fn open(settings: SqliteSettings) -> Result<Self, SinkError> {
        let path = settings.path.clone();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|cause| file_error(&path, cause.to_string()))?;
        }
        let failed = |cause: rusqlite::Error| file_error(&path, cause.to_string());
        let db = rusqlite::Connection::open(&path).map_err(failed)?;
        db.busy_timeout(PATIENCE).map_err(failed)?;
        // A file, not memory: the staging table may be larger than memory.
        db.pragma_update(None, "temp_store", "FILE").map_err(failed)?;
        write_ahead(&db).map_err(failed)?;
        db.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
        db.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {LEDGER} (
               source TEXT NOT NULL PRIMARY KEY, target TEXT NOT NULL UNIQUE COLLATE NOCASE, table_id TEXT NOT NULL,
               version INTEGER NOT NULL, rows INTEGER NOT NULL, keys TEXT NOT NULL, loaded_at TIMESTAMP NOT NULL)"
        ))
        .map_err(failed)?;
        Ok(Self { db, settings, open: None })
    }

    /// The name of a target in the file.
    fn target(&self, table: &str) -> String {
        match split(table) {
            (Some(schema), name) if schema != self.settings.schema => format!("{schema}_{name}"),
            (_, name) => name.to_owned(),
        }
    }

    fn progress(&mut self, source: &str) -> Result<Option<Held>, SinkError> {
        held(&self.db, source).map_err(|cause| self.failed(source, &cause))
    }

    fn begin(&mut self, load: Load) -> Result<(), SinkError> {
        self.forget()?;
        let columns = column::columns(SINK, &load)?;
        let target = self.target(&load.table);
        if target.is_empty() || target.to_lowercase().starts_with("sqlite_") || target.eq_ignore_ascii_case(LEDGER) {
            return Err(SinkError::Unsupported {
                sink: SINK,
                table: load.table,
                column: "*".to_owned(),
                reason: format!("`{target}` is a name that SQLite or Tidemill keeps for itself"),
            });
        }
        let decimals = self.settings.decimals;
        plan(&self.db, &load, &target, &columns, decimals).map_err(|fault| self.told(&load.table, fault))?;

        let declared: Vec<_> = columns
            .iter()
            .map(|column| format!("{} {}", quoted(&column.name), declared(column.kind, decimals)))
            .collect();
        let marks = vec!["?"; columns.len()].join(", ");
        let insert = format!("INSERT INTO {STAGE} VALUES ({marks})");
        self.db
            // One transaction on the temporary database; the file is not locked by it.
            .execute_batch(&format!("CREATE TABLE {STAGE} ({})", declared.join(", ")))
            .map_err(|cause| self.failed(&load.table, &cause))?;
        self.open = Some(Open { load, target, columns, insert, rows: 0 });
        Ok(())
    }

    fn stage(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let Some(open) = &mut self.open else { return Err(not_begun()) };
        let first = open.rows + 1;
        let arrays = column::normal(SINK, &open.load, &open.columns, batch, first)?;
        let decimals = self.settings.decimals;
        let staged = stage_rows(&mut self.db, open, &arrays, batch.num_rows(), first, decimals);
        open.rows += batch.num_rows() as u64;
        let table = open.load.table.clone();
        staged.map_err(|fault| self.told(&table, fault))
    }

    fn commit(&mut self) -> Result<Loaded, SinkError> {
        let Some(open) = self.open.take() else { return Err(not_begun()) };
        let shown = show(&mut self.db, &open, self.settings.decimals);
        let loaded = shown.map_err(|fault| self.told(&open.load.table, fault))?;
        // The rows are shown: what the clean-up meets must not turn that into a failure. `begin` cleans up again.
        if let Err(error) = self.forget() {
            tracing::debug!(%error, "the staging table stays until the next load");
        }
        Ok(loaded)
    }

    fn forget(&mut self) -> Result<(), SinkError> {
        self.open = None;
        self.db.execute_batch(&format!("DROP TABLE IF EXISTS {STAGE}")).map_err(|cause| self.failed("", &cause))
    }

    fn told(&self, table: &str, fault: Fault) -> SinkError {
        match fault {
            Fault::Told(error) => error,
            Fault::Db(cause) => self.failed(table, &cause),
        }
    }

    /// What SQLite's own error means to a person.
    fn failed(&self, table: &str, cause: &rusqlite::Error) -> SinkError {
        let reason = cause.to_string();
        let table = table.to_owned();
        match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SinkError::Busy { sink: SINK, table, reason },
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied,
            ) => file_error(&self.settings.path, reason),
            Some(ErrorCode::ConstraintViolation) if reason.contains(LEDGER) => {
                SinkError::Taken { sink: SINK, target: table.clone(), origin: table, owner: None }
            }
            Some(ErrorCode::ConstraintViolation) if reason.contains("UNIQUE") => SinkError::Key {
                table,
                reason: format!("two rows have the same key ({reason})"),
                fix: "correct `unique_key` of the model, or aggregate by it".to_owned(),
            },
            _ => SinkError::Refused { sink: SINK, table, reason },
        }
    }
}

/// A failure that SQLite reports, or one we can name better.
enum Fault {
    Told(SinkError),
    Db(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Db(cause)
    }
}

impl From<SinkError> for Fault {
    fn from(error: SinkError) -> Self {
        Self::Told(error)
    }
}

fn not_begun() -> SinkError {
    SinkError::Mismatch { table: String::new(), reason: "no load was begun".to_owned() }
}

fn file_error(path: &Path, reason: String) -> SinkError {
    SinkError::File {
        sink: SINK,
        path: path.display().to_string(),
        reason,
        fix: "make sure the folder can be written, the disk has room, and the file is a SQLite file".to_owned(),
    }
}

fn held(db: &rusqlite::Connection, source: &str) -> rusqlite::Result<Option<Held>> {
    db.query_row(
        &format!(
            "SELECT table_id, version, rows FROM {LEDGER} WHERE source = ?1
             AND EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = target COLLATE NOCASE)"
        ),
        [source],
        |row| {
            let rows: i64 = row.get(2)?;
            Ok(Held { table_id: row.get(0)?, version: row.get(1)?, rows: rows.unsigned_abs() })
        },
    )
    .optional()
}

/// The type a column is declared with.
fn declared(kind: Kind, decimals: Decimals) -> &'static str {
    match kind {
        Kind::Boolean => "BOOLEAN",
        Kind::Small | Kind::Integer | Kind::Big => "INTEGER",
        Kind::Decimal { precision, scale: 0 } if precision <= 20 => "INTEGER",
        Kind::Decimal { .. } | Kind::WideDecimal { .. } if decimals == Decimals::Text => "TEXT",
        Kind::Float | Kind::Double | Kind::Decimal { .. } | Kind::WideDecimal { .. } => "REAL",
        Kind::Date => "DATE",
        Kind::Time => "TIME",
        Kind::Timestamp | Kind::Instant => "TIMESTAMP",
        Kind::Text => "TEXT",
        Kind::Bytes => "BLOB",
        Kind::Json => "JSON",
    }
}

/// How the table has to change before the rows can be shown.
#[derive(Debug, Default)]
struct Plan {
    /// The table has to be made.
    fresh: bool,
    /// Columns to add.
    added: Vec<Column>,
    /// Columns of the table that the load lacks; they become NULL.
    left: Vec<String>,
    /// The key the ledger knows differs from the load's.
    rekeyed: bool,
}

fn plan(
    db: &rusqlite::Connection,
    load: &Load,
    target: &str,
    columns: &[Column],
    decimals: Decimals,
) -> Result<Plan, Fault> {
    let mut statement = db.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
    let rows = statement.query_map([target], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let existing: Vec<(String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    let owner: Option<(String, String)> = db
        .query_row(&format!("SELECT source, keys FROM {LEDGER} WHERE target = ?1"), [target], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    if existing.is_empty() {
        return Ok(Plan { fresh: true, ..Plan::default() });
    }
    let taken = |owner| SinkError::Taken { sink: SINK, target: target.to_owned(), origin: load.source.clone(), owner };
    let rekeyed = match owner {
        Some((owner, _)) if owner != load.source => return Err(taken(Some(owner)).into()),
        Some((_, keys)) => keys != keys_text(&load.keys),
        None => {
            let any: bool =
                db.query_row(&format!("SELECT EXISTS (SELECT 1 FROM {})", quoted(target)), [], |row| row.get(0))?;
            if any {
                return Err(taken(None).into());
            }
            true
        }
    };
    let mut added = Vec::new();
    for column in columns {
        let offered = declared(column.kind, decimals);
        match existing.iter().find(|(name, _)| name.eq_ignore_ascii_case(&column.name)) {
            None => added.push(column.clone()),
            Some((_, held)) if held.eq_ignore_ascii_case(offered) => {}
            Some((_, held)) => {
                return Err(SinkError::TypeChanged {
                    sink: SINK,
                    table: target.to_owned(),
                    column: column.name.clone(),
                    held: held.clone(),
                    offered: offered.to_owned(),
                }
                .into());
            }
        }
    }
    let left = existing
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)))
        .collect();
    Ok(Plan { fresh: false, added, left, rekeyed })
}

/// Moves the staged rows into the table and writes the ledger row, in one transaction.
fn show(db: &mut rusqlite::Connection, open: &Open, decimals: Decimals) -> Result<Loaded, Fault> {
    let Open { load, target, columns, .. } = open;
    if !load.keys.is_empty() && load.mode == Mode::Replace {
        // Finds two rows with one key before the file is locked, and makes the comparison below quick.
        db.execute_batch(&format!(
            "CREATE UNIQUE INDEX temp.\"_tidemill_stage_key\" ON \"_tidemill_stage\" ({})",
            quoted_list(&load.keys)
        ))?;
    }
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(held) = held(&transaction, &load.source)?
        && let Some(loaded) = settled(&held, load)?
    {
        return Ok(loaded);
    }
    let plan = plan(&transaction, load, target, columns, decimals)?;
    let table = format!("main.{}", quoted(target));
    if plan.fresh {
        let declared: Vec<_> = columns
            .iter()
            .map(|column| format!("{} {}", quoted(&column.name), declared(column.kind, decimals)))
            .collect();
        transaction.execute_batch(&format!("CREATE TABLE {table} ({})", declared.join(", ")))?;
    }
    for column in &plan.added {
        let declared = declared(column.kind, decimals);
        transaction.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {} {declared}", quoted(&column.name)))?;
    }
    let mut deleted = 0;
    let by_key = !load.keys.is_empty();
    let key_index = format!("main.{}", quoted(&format!("_tidemill_key_{target}")));
    if plan.rekeyed {
        transaction.execute_batch(&format!("DROP INDEX IF EXISTS {key_index}"))?;
    }
    if load.mode == Mode::Replace && (plan.rekeyed || !by_key) {
        deleted = transaction.execute(&format!("DELETE FROM {table}"), [])?;
    }
    if by_key && (plan.fresh || plan.rekeyed) {
        transaction.execute_batch(&format!(
            "CREATE UNIQUE INDEX {key_index} ON {} ({})",
            quoted(target),
            quoted_list(&load.keys)
        ))?;
    }
    if load.mode == Mode::Replace && by_key {
        let same: Vec<_> = load.keys.iter().map(|key| format!("s.{0} = t.{0}", quoted(key))).collect();
        deleted += transaction.execute(
            &format!(
                "DELETE FROM {table} AS t WHERE NOT EXISTS (SELECT 1 FROM {STAGE} AS s WHERE {})",
                same.join(" AND ")
            ),
            [],
        )?;
    }
    let names = quoted_list(columns.iter().map(|column| &column.name));
    let mut insert =
        format!("INSERT INTO {table} AS t ({names}) SELECT {names} FROM {STAGE} WHERE true ORDER BY rowid");
    if by_key && load.mode != Mode::Append {
        insert += &on_conflict(load, columns, &plan.left);
    }
    let written = transaction.execute(&insert, [])?;
    transaction.execute(
        &format!("INSERT OR REPLACE INTO {LEDGER} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"),
        params![
            load.source,
            target,
            load.table_id,
            load.version,
            i64::try_from(open.rows).unwrap_or(i64::MAX),
            keys_text(&load.keys),
            load.loaded_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        ],
    )?;
    transaction.commit()?;
    Ok(Loaded { rows: open.rows, written: written as u64, deleted: deleted as u64, skipped: false })
}

/// The tail of an insert that changes a row with the same key, and only where it differs.
fn on_conflict(load: &Load, columns: &[Column], left: &[String]) -> String {
    let keys = quoted_list(&load.keys);
    let mut sets = Vec::new();
    let mut differs = Vec::new();
    for column in columns.iter().filter(|column| !column.key) {
        let name = quoted(&column.name);
        sets.push(format!("{name} = excluded.{name}"));
        differs.push(format!("t.{name} IS NOT excluded.{name}"));
    }
    for name in left.iter().map(|name| quoted(name)) {
        sets.push(format!("{name} = NULL"));
        differs.push(format!("t.{name} IS NOT NULL"));
    }
    if sets.is_empty() {
        return format!(" ON CONFLICT ({keys}) DO NOTHING");
    }
    format!(" ON CONFLICT ({keys}) DO UPDATE SET {} WHERE {}", sets.join(", "), differs.join(" OR "))
}

fn stage_rows(
    db: &mut rusqlite::Connection,
    open: &Open,
    arrays: &[ArrayRef],
    rows: usize,
    first: u64,
    decimals: Decimals,
) -> Result<(), Fault> {
    let transaction = db.transaction()?;
    {
        let mut insert = transaction.prepare_cached(&open.insert)?;
        for row in 0..rows {
            for (at, (column, array)) in open.columns.iter().zip(arrays).enumerate() {
                let cell = cell(column.kind, array, row, decimals).map_err(|(reason, fix)| SinkError::Value {
                    sink: SINK,
                    table: open.load.table.clone(),
                    column: column.name.clone(),
                    row: first + row as u64,
                    reason,
                    fix: fix.to_owned(),
                })?;
                insert.raw_bind_parameter(at + 1, cell)?;
            }
            insert.raw_execute()?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// One value as SQLite takes it.
enum Cell<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Made(String),
    Bytes(&'a [u8]),
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Integer(number) => ValueRef::Integer(*number),
            Cell::Real(number) => ValueRef::Real(*number),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
            Cell::Made(text) => ValueRef::Text(text.as_bytes()),
            Cell::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The value of one row, or why it has none and what to do.
fn cell(kind: Kind, array: &ArrayRef, row: usize, decimals: Decimals) -> Result<Cell<'_>, (String, &'static str)> {
    if array.is_null(row) {
        return Ok(Cell::Null);
    }
    let shown = |text: Option<String>| {
        text.map(Cell::Made).ok_or_else(|| {
            ("the time is out of the range of a calendar".to_owned(), "filter or correct it in the model")
        })
    };
    match kind {
        Kind::Boolean => Ok(Cell::Integer(i64::from(array.as_boolean().value(row)))),
        Kind::Small => Ok(Cell::Integer(array.as_primitive::<Int16Type>().value(row).into())),
        Kind::Integer => Ok(Cell::Integer(array.as_primitive::<Int32Type>().value(row).into())),
        Kind::Big => Ok(Cell::Integer(array.as_primitive::<Int64Type>().value(row))),
        Kind::Float => Ok(real(array.as_primitive::<Float32Type>().value(row).into())),
        Kind::Double => Ok(real(array.as_primitive::<Float64Type>().value(row))),
        Kind::Decimal { .. } => {
            let text = array.as_primitive::<Decimal128Type>().value_as_string(row);
            decimal(text, declared(kind, decimals))
        }
        Kind::WideDecimal { .. } => decimal(array.as_string::<i32>().value(row).to_owned(), declared(kind, decimals)),
        Kind::Date => {
            shown(array.as_primitive::<Date32Type>().value_as_date(row).map(|date| date.format("%Y-%m-%d").to_string()))
        }
        Kind::Time => shown(
            array
                .as_primitive::<Time64MicrosecondType>()
                .value_as_time(row)
                .map(|time| time.format("%H:%M:%S%.6f").to_string()),
        ),
        Kind::Timestamp | Kind::Instant => {
            let format = if kind == Kind::Instant { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%S%.6f" };
            shown(
                array
                    .as_primitive::<TimestampMicrosecondType>()
                    .value_as_datetime(row)
                    .map(|time| time.format(format).to_string()),
            )
        }
        Kind::Text | Kind::Json => Ok(Cell::Text(array.as_string::<i32>().value(row))),
        Kind::Bytes => Ok(Cell::Bytes(array.as_binary::<i32>().value(row))),
    }
}

/// SQLite turns NaN into NULL; the text keeps the two apart.
fn real(number: f64) -> Cell<'static> {
    if number.is_nan() { Cell::Made("NaN".to_owned()) } else { Cell::Real(number) }
}

/// A decimal in the form its column was declared with.
fn decimal(text: String, declared: &str) -> Result<Cell<'static>, (String, &'static str)> {
    const FIX: &str = "set `decimals = \"text\"` for this connection, or round or cast the column in the model";
    match declared {
        "TEXT" => Ok(Cell::Made(text)),
        "INTEGER" => text
            .parse()
            .map(Cell::Integer)
            .map_err(|_| (format!("{text} is larger than SQLite's integers"), "cast the column to text in the model")),
        _ => {
            // A double holds every decimal of 15 significant digits and gives it back; zeros at either end do not count.
            let digits = text.trim_start_matches('-').replace('.', "");
            let digits = digits.trim_start_matches('0');
            let significant = if text.contains('.') { digits.trim_end_matches('0').len() } else { digits.len() };
            match text.parse() {
                Ok(number) if significant <= 15 => Ok(Cell::Real(number)),
                _ => Err((format!("{text} has more than the 15 digits that SQLite's numbers keep"), FIX)),
            }
        }
    }
}
