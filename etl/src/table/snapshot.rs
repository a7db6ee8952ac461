//! A table at one version: its columns, files, progress and history.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use deltalake::delta_datafusion::DeltaScanConfig;
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow as _;
use deltalake::kernel::{Add, Remove};
use deltalake::logstore::{LogStoreRef, get_actions};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::commit::Log;
use super::error::TableError;
use super::head::{Head, read_txns};
use super::lake::TableName;
use super::origin;
use super::owner::Owner;
use crate::error::Result;

/// More versions than this at once, and reading all progress anew is cheaper than reading each entry.
const CATCH_UP: u64 = 64;

/// A column as `tables show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// The name.
    pub name: String,
    /// Arrow's name of the type.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// One data file of a snapshot.
#[derive(Debug, Clone)]
pub struct TableFile {
    /// As the log names it, relative to the table.
    pub path: String,
    /// Bytes.
    pub size: i64,
    /// Rows, if the writer noted them.
    pub rows: Option<usize>,
}

/// One commit as `tables history` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryEntry {
    /// The version it made.
    pub version: u64,
    /// When, UTC.
    pub at: Option<DateTime<Utc>>,
    /// What was done.
    pub operation: String,
    /// Rows, files and bytes, as the writer noted them.
    pub metrics: serde_json::Value,
}

/// A Delta table at one version.
#[derive(Clone)]
pub struct Table {
    name: TableName,
    delta: DeltaTable,
    owner: Arc<Owner>,
    /// All progress as of this version, once somebody has asked for some.
    txns: OnceCell<HashMap<String, i64>>,
    /// When the log was last read.
    seen: Instant,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.name)
            .field("version", &self.delta.version())
            .finish_non_exhaustive()
    }
}

impl Table {
    pub(super) fn new(name: TableName, delta: DeltaTable, owner: Arc<Owner>) -> Self {
        Self { name, delta, owner, txns: OnceCell::new(), seen: Instant::now() }
    }

    /// The name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The version this handle shows.
    pub fn version(&self) -> u64 {
        self.delta.version().unwrap_or_default()
    }

    /// The Delta library's own handle.
    pub fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    pub(super) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    pub(super) fn log(&self) -> Log<'_> {
        Log { name: &self.name, store: self.log_store(), owner: &self.owner }
    }

    /// What a commit after this version has to know.
    pub(super) async fn head(&self) -> Result<Head> {
        let txns = self.txns().await?.clone();
        Ok(Head { version: self.version(), at_ms: self.committed_at(), seen: self.seen, txns })
    }

    /// Moves on to the newest version, of which `head` is known already.
    pub(super) async fn follow(&mut self, head: Head) -> Result<()> {
        self.txns = OnceCell::new();
        self.seen = Instant::now();
        self.delta.update_state().await.map_err(|e| TableError::delta("read", &self.name, e))?;
        self.catch_up(head).await
    }

    async fn txns(&self) -> Result<&HashMap<String, i64>> {
        let read = || async {
            let txns = read_txns(&self.log_store(), self.version()).await;
            txns.map_err(|e| TableError::delta("read the progress of", &self.name, e).into())
        };
        self.txns.get_or_try_init(read).await
    }

    /// Keeps the progress of `head` if the few entries since can be read; else it is read anew when asked for.
    async fn catch_up(&mut self, mut head: Head) -> Result<()> {
        let log = self.log_store();
        if self.version().saturating_sub(head.version) > CATCH_UP {
            return Ok(());
        }
        while head.version < self.version() {
            let failed = |e| TableError::delta("read the log of", &self.name, e);
            let next = head.version + 1;
            let Some(entry) = log.read_commit_entry(next).await.map_err(failed)? else { return Ok(()) };
            head.fold(&get_actions(next, &entry).map_err(failed)?);
        }
        self.txns = OnceCell::new_with(Some(head.txns));
        Ok(())
    }

    pub(crate) fn log_store(&self) -> LogStoreRef {
        self.delta.log_store()
    }

    /// The table's own id, which a table made anew under the same name does not share.
    pub fn id(&self) -> String {
        self.delta.snapshot().map(|state| state.metadata().id().to_owned()).unwrap_or_default()
    }

    /// A digest of what the snapshot holds: the table's id and what its data files stand for. Equal for two versions
    /// between which no row was added or removed, however the rows were moved between files.
    pub(crate) fn contents(&self) -> Result<String> {
        let files = self.files()?;
        Ok(format!("{} {:032x}", self.id(), origin::sum(files.iter().map(|file| file.path.as_str()))))
    }

    /// What [`Table::contents`] will be once these files have come and those that are `gone` went.
    pub(crate) fn contents_with<'p>(
        &self,
        come: impl Iterator<Item = &'p str>,
        gone: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let files = self.files()?;
        let stay = files.iter().map(|file| file.path.as_str()).filter(|path| !gone(path));
        Ok(format!("{} {:032x}", self.id(), origin::sum(stay).wrapping_add(origin::sum(come))))
    }

    pub(crate) fn metadata(&self) -> Result<deltalake::kernel::Metadata> {
        let state = self.delta.snapshot().map_err(|e| TableError::delta("read", &self.name, e))?;
        Ok(state.metadata().clone())
    }

    /// Whether its versions say row by row what they changed.
    pub(crate) fn keeps_changes(&self) -> bool {
        let metadata = self.metadata().ok();
        let property = metadata.and_then(|m| m.configuration().get("delta.enableChangeDataFeed").cloned());
        property.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// When this version was committed, milliseconds since 1970, UTC; 0 if that is not known.
    pub(crate) fn committed_at(&self) -> i64 {
        let at = |state: &deltalake::table::state::DeltaTableState| state.version_timestamp(self.version());
        self.delta.snapshot().ok().and_then(at).unwrap_or(0)
    }

    /// Moves on to the newest version.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the log cannot be read.
    pub async fn refresh(&mut self) -> Result<()> {
        let (before, seen) = (self.version(), Instant::now());
        let known = std::mem::take(&mut self.txns).into_inner();
        self.delta.update_state().await.map_err(|e| TableError::delta("read", &self.name, e))?;
        self.seen = seen;
        match known {
            Some(txns) => self.catch_up(Head { version: before, at_ms: 0, seen, txns }).await,
            None => Ok(()),
        }
    }

    /// The columns in Arrow's types.
    ///
    /// # Errors
    /// [`TableError::Delta`] if a column's type has no form in Arrow.
    pub fn schema(&self) -> Result<SchemaRef> {
        let state = self.delta.snapshot().map_err(|e| TableError::delta("read", &self.name, e))?;
        let schema: arrow::datatypes::Schema = state
            .schema()
            .as_ref()
            .try_into_arrow()
            .map_err(|e: arrow::error::ArrowError| TableError::delta("read", &self.name, e.into()))?;
        Ok(Arc::new(schema))
    }

    /// The columns as a person reads them.
    ///
    /// # Errors
    /// As [`Table::schema`].
    pub fn fields(&self) -> Result<Vec<Field>> {
        let field = |f: &Arc<arrow::datatypes::Field>| Field {
            name: f.name().clone(),
            data_type: type_name(f.data_type()),
            nullable: f.is_nullable(),
        };
        Ok(self.schema()?.fields().iter().map(field).collect())
    }

    /// The progress that `app` committed with its last rows.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the log cannot be read.
    pub async fn txn(&self, app: &str) -> Result<Option<i64>> {
        Ok(self.txns().await?.get(app).copied())
    }

    /// All progress in this version, by identity.
    ///
    /// # Errors
    /// As [`Table::txn`].
    pub async fn progress(&self) -> Result<BTreeMap<String, i64>> {
        Ok(self.txns().await?.iter().map(|(app, version)| (app.clone(), *version)).collect())
    }

    /// The snapshot's data files.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the table has not been loaded.
    pub fn files(&self) -> Result<Vec<TableFile>> {
        let state = self.delta.snapshot().map_err(|e| TableError::delta("read", &self.name, e))?;
        let file = |view: deltalake::kernel::LogicalFileView| TableFile {
            path: view.path().into_owned(),
            size: view.size(),
            rows: view.num_records(),
        };
        Ok(state.log_data().iter().map(file).collect())
    }

    /// The entries that put the snapshot's data files into it.
    pub(crate) fn adds(&self) -> Result<Vec<Add>> {
        let state = self.delta.snapshot().map_err(|e| TableError::delta("read", &self.name, e))?;
        #[expect(deprecated, reason = "what it should be replaced by gives record batches, not entries of the log")]
        let adds = state.log_data().iter().map(|view| view.add_action()).collect();
        Ok(adds)
    }

    /// The entries that take out of the table all files but those to `keep`.
    ///
    /// # Errors
    /// As [`Table::files`].
    pub fn removes(&self, keep: impl Fn(&str) -> bool, now: DateTime<Utc>) -> Result<Vec<Remove>> {
        let state = self.delta.snapshot().map_err(|e| TableError::delta("read", &self.name, e))?;
        let files = state.log_data();
        let removes = files.iter().filter(|view| !keep(view.path().as_ref())).map(|view| {
            let mut remove = view.remove_action(true);
            remove.deletion_timestamp = Some(now.timestamp_millis());
            remove
        });
        Ok(removes.collect())
    }

    /// Rows in the snapshot by the files' own counts; `None` if a file has none.
    ///
    /// # Errors
    /// As [`Table::files`].
    pub fn rows(&self) -> Result<Option<u64>> {
        Ok(self.files()?.iter().map(|file| file.rows.map(|n| n as u64)).sum())
    }

    /// A provider that reads this version, whatever is committed after.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the files cannot be scanned in `session`.
    pub fn provider(&self, session: &SessionState) -> Result<Arc<dyn TableProvider>> {
        self.scan(session, None, None)
    }

    /// A provider over some of the files, and with the file's path as a column where `file_column` names one.
    pub(crate) fn scan(
        &self,
        session: &SessionState,
        files: Option<Vec<String>>,
        file_column: Option<&str>,
    ) -> Result<Arc<dyn TableProvider>> {
        let failed = |e: deltalake::DeltaTableError| TableError::delta("read", &self.name, e);
        let state = self.delta.snapshot().map_err(failed)?;
        let mut config = DeltaScanConfig::new_from_session(session);
        config.schema_force_view_types = false;
        if let Some(column) = file_column {
            config = config.with_file_column_name(column);
        }
        let snapshot = state.snapshot().clone();
        let mut scan = deltalake::delta_datafusion::DeltaScanNext::new(snapshot, config)
            .map_err(|e| failed(deltalake::DeltaTableError::Generic(e.to_string())))?;
        if let Some(files) = files {
            scan = scan.with_file_paths(files);
        }
        self.delta.update_datafusion_session(session).map_err(failed)?;
        Ok(Arc::new(scan))
    }

    /// The newest commits first, at most `limit`.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the log cannot be read.
    pub async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>> {
        let failed = |e: deltalake::DeltaTableError| TableError::delta("read the history of", &self.name, e);
        let infos: Vec<_> = self.delta.history(Some(limit)).try_collect().await.map_err(failed)?;
        let newest = self.version();
        let entry = |(n, info): (usize, deltalake::kernel::CommitInfo)| HistoryEntry {
            version: newest.saturating_sub(n as u64),
            at: info.timestamp.and_then(DateTime::from_timestamp_millis),
            operation: info.operation.unwrap_or_default(),
            metrics: info.info.get("operationMetrics").cloned().unwrap_or(serde_json::Value::Null),
        };
        let mut entries: Vec<_> = infos.into_iter().enumerate().map(entry).collect();
        // Clocks differ and a commit bears the time its work began: a version is never older than the one before it.
        let mut latest = None;
        for entry in entries.iter_mut().rev() {
            entry.at = entry.at.max(latest);
            latest = entry.at;
        }
        Ok(entries)
    }

    /// The newest version committed at or before `at`, where no version is older than the one before it; else the
    /// time of the oldest version known.
    pub(crate) async fn version_as_of(
        &self,
        at: DateTime<Utc>,
    ) -> Result<std::result::Result<u64, Option<DateTime<Utc>>>> {
        let failed = |e: deltalake::DeltaTableError| TableError::delta("read the history of", &self.name, e);
        let mut infos = std::pin::pin!(self.delta.history(None).enumerate());
        let (mut found, mut oldest) = (None, None);
        while let Some((n, info)) = infos.next().await {
            oldest = info.map_err(failed)?.timestamp.and_then(DateTime::from_timestamp_millis);
            if oldest.is_some_and(|committed| committed > at) {
                // This one and all after it came too late.
                found = None;
            } else {
                found = found.or(Some(self.version().saturating_sub(n as u64)));
            }
        }
        Ok(found.ok_or(oldest))
    }
}

/// The type as SQL people know it, where there is such a name.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Timestamp(_, Some(zone)) => format!("timestamp ({zone})"),
        DataType::Timestamp(_, None) => "timestamp without time zone".to_owned(),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map<{}, {}>", type_name(fields[0].data_type()), type_name(fields[1].data_type()))
            }
            other => format!("map<{other}>"),
        },
        DataType::Struct(fields) => {
            let inner: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), type_name(f.data_type()))).collect();
            format!("struct<{}>", inner.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}
