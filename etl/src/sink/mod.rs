//! Where table versions go. A sink takes one version of a table and shows it together with a ledger row, once.
//!
//! The flow of one load, the same for every kind:
//! 1. [`load`] asks the sink which version it holds. The same version: nothing to do. A newer one: refused.
//! 2. [`Sink::begin`] checks names and types and prepares a staging area that readers cannot see.
//! 3. [`Sink::stage`] takes the rows, batch by batch; memory does not grow with the table.
//! 4. [`Sink::commit`] moves the staged rows into the table and writes the ledger row, in one transaction of the sink.
//!
//! If we die in 1 to 3, the sink is as it was. If we die in 4, the ledger says which of the two it is, and the next
//! load of that version does nothing or all of it.
//!
//! The ledger is the table `_tidemill_ledger`, one row per source:
//! ```text
//! source    text, key   the lake table, e.g. gold.movie_sales
//! target    text        the table of the sink that shows it
//! table_id  text        the id of the lake table; another id means it was made anew and versions start again
//! version   bigint      the version shown
//! rows      bigint      how many rows the load brought
//! keys      text        the unique key as a JSON list
//! loaded_at timestamp   when, by the caller's clock
//! ```
mod appended;
mod blackhole;
mod column;
mod error;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use futures::future::BoxFuture;

pub use self::appended::{AppendedLoad, AppendedLoaded, load_appended};
pub use self::blackhole::BlackholeSink;
pub use self::error::SinkError;
pub use self::memory::{Memory, MemorySink};
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresSettings, PostgresSink, Tls};
pub use self::sqlite::{Decimals, SqliteSettings, SqliteSink};
use crate::error::Result;
use crate::secret::Secret;

/// The schema of models that name none; also where a sink keeps its ledger.
pub const DEFAULT_SCHEMA: &str = "gold";

/// The name of the ledger table in every sink.
pub const LEDGER: &str = "_tidemill_ledger";

/// How the staged rows change the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They become its whole content. With keys, rows that did not change are not written.
    Replace,
    /// They are inserted, or take the place of the row with the same key. Of two with one key the later staged wins.
    Upsert,
    /// They are added.
    Append,
}

/// What is loaded: a table's rows as of one version.
#[derive(Debug, Clone)]
pub struct Load {
    /// The target, `schema.table` or `table`. A sink without schemas maps it to one name.
    pub table: String,
    /// The stable name of the lake table, e.g. `gold.movie_sales`; the ledger's key.
    pub source: String,
    /// The id of the lake table (Delta's metadata id). A table made anew has a new one and starts over.
    pub table_id: String,
    /// The version the rows are as of.
    pub version: i64,
    /// The columns of the staged batches, in order.
    pub schema: SchemaRef,
    /// The unique key, if known; must be there for [`Mode::Upsert`].
    pub keys: Vec<String>,
    /// How the rows change the table.
    pub mode: Mode,
    /// The time to write into the ledger.
    pub loaded_at: DateTime<Utc>,
}

/// What the ledger says about one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The id of the lake table that was loaded.
    pub table_id: String,
    /// The version shown.
    pub version: i64,
    /// How many rows the load of that version brought.
    pub rows: u64,
}

/// What a load did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    /// Rows staged, or, where skipped, the rows the ledger remembers.
    pub rows: u64,
    /// Rows inserted or changed in the target. Fewer than `rows` where a key showed them to be there already.
    pub written: u64,
    /// Rows taken out of the target.
    pub deleted: u64,
    /// True if the sink held this version already and nothing was touched.
    pub skipped: bool,
}

/// Takes versions of tables and shows each once.
///
/// Contract (suite: [`crate::testkit::sink_contract`]):
/// 1. Until `commit` returns, readers see the old content, whole; after it the new content, whole. Never an empty table.
/// 2. The ledger row is written in the same transaction as the rows. A version that is there already is not written
///    again; an older version of the same table is refused.
/// 3. `abort`, a lost connection or a crash leave the old content. `begin` may follow any of them.
/// 4. A column that is new in the load is added. A column whose values would no longer all fit is refused, with its name.
/// 5. Every value is kept exactly or refused with column and row; nothing is cut or rounded, except that times are kept
///    to the microsecond.
/// 6. Memory does not grow with the rows staged (`memory` itself excepted).
#[async_trait]
pub trait Sink: Send {
    /// Returns what the sink holds of `source`, from its ledger; `None` too if the table was dropped since.
    ///
    /// # Errors
    /// The sink cannot be reached or read.
    async fn progress(&mut self, source: &str) -> Result<Option<Held>>;

    /// Starts a load; readers see nothing of it. A load that was begun before and not committed is forgotten.
    ///
    /// # Errors
    /// A name or type that does not fit, missing rights, a target that belongs to something else.
    async fn begin(&mut self, load: &Load) -> Result<()>;

    /// Takes rows; readers see nothing yet.
    ///
    /// # Errors
    /// A value the sink cannot hold, a lost connection. The load is over then; call `abort`.
    async fn stage(&mut self, batch: RecordBatch) -> Result<()>;

    /// Shows everything staged together with the ledger row, or none of it.
    ///
    /// # Errors
    /// As for `begin` and `stage`. After a lost connection the outcome is unknown until `progress` is asked again.
    async fn commit(&mut self) -> Result<Loaded>;

    /// Forgets what is staged.
    ///
    /// # Errors
    /// None that matter to the content: whatever happens, nothing staged is shown.
    async fn abort(&mut self) -> Result<()>;
}

/// Where a sink is and how to get in, as the settings say it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// A name of [`KINDS`].
    pub kind: String,
    /// A path or a URL; may hold a password, so it is never shown.
    pub location: Secret,
    /// The password, if it is not in the URL.
    pub password: Option<Secret>,
    /// The schema of tables that name none, and of the ledger.
    pub schema: String,
    /// What only this kind knows; an unknown name is an error.
    pub options: BTreeMap<String, String>,
}

impl Connection {
    /// A connection of `kind` to `location` with everything else at its default.
    pub fn new(kind: impl Into<String>, location: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            location: Secret::new(location),
            password: None,
            schema: DEFAULT_SCHEMA.to_owned(),
            options: BTreeMap::new(),
        }
    }
}

/// A sink that is being opened.
pub type Opening = BoxFuture<'static, Result<Box<dyn Sink>>>;

/// One kind of sink.
#[derive(Debug, Clone, Copy)]
pub struct SinkKind {
    /// The name in settings.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// Opens it.
    pub open: fn(Connection) -> Opening,
}

/// The one list: settings, `tidemill kinds`, the docs and "did you mean" all read it.
pub const KINDS: &[SinkKind] = &[
    SinkKind {
        name: "sqlite",
        about: "a SQLite file; any SQLite tool can read it while it is loaded",
        open: sqlite::open,
    },
    #[cfg(feature = "postgres")]
    SinkKind { name: "postgres", about: "tables of a Postgres database, by binary COPY", open: postgres::open },
    SinkKind { name: "memory", about: "tables in this process, for tests and demos", open: memory::open },
    SinkKind { name: "blackhole", about: "counts rows and drops them, to measure the rest", open: blackhole::open },
];

/// Opens the sink that `connection` describes.
///
/// # Errors
/// An unknown kind or option; whatever opening that kind can meet.
pub async fn open(connection: Connection) -> Result<Box<dyn Sink>> {
    let Some(kind) = KINDS.iter().find(|kind| kind.name == connection.kind) else {
        return Err(SinkError::UnknownKind { kind: connection.kind }.into());
    };
    (kind.open)(connection).await
}

/// Takes one version of a table into `sink`, unless it is there already.
///
/// `rows` are all rows of the table for [`Mode::Replace`], else the changed ones; they are pulled one batch at a time.
///
/// # Errors
/// What reading `rows` or the sink meets; the sink keeps its old content then.
pub async fn load(sink: &mut dyn Sink, load: &Load, mut rows: SendableRecordBatchStream) -> Result<Loaded> {
    if let Some(held) = sink.progress(&load.source).await?
        && let Some(loaded) = settled(&held, load)?
    {
        return Ok(loaded);
    }
    sink.begin(load).await?;
    while let Some(batch) = rows.next().await {
        let staged = match batch {
            Ok(batch) => sink.stage(batch).await,
            Err(cause) => Err(SinkError::Rows { table: load.table.clone(), cause }.into()),
        };
        if let Err(error) = staged {
            // The first error is the one to tell; what abort meets follows from it.
            if let Err(also) = sink.abort().await {
                tracing::debug!(%also, "abort after a failed load");
            }
            return Err(error);
        }
    }
    sink.commit().await
}

/// What is left to do, given what the ledger holds: `Some` if this version is there, `None` if it is to be loaded.
fn settled(held: &Held, load: &Load) -> Result<Option<Loaded>, SinkError> {
    if held.table_id != load.table_id || held.version < load.version {
        return Ok(None);
    }
    if held.version > load.version {
        return Err(SinkError::Older { table: load.table.clone(), held: held.version, offered: load.version });
    }
    Ok(Some(Loaded { rows: held.rows, skipped: true, ..Loaded::default() }))
}

/// Splits a target into its schema, if it names one, and its table.
fn split(table: &str) -> (Option<&str>, &str) {
    table.split_once('.').map_or((None, table), |(schema, name)| (Some(schema), name))
}

/// An identifier in double quotes, as both SQLite and Postgres read it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Identifiers in double quotes, separated by commas.
fn quoted_list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// The key as the ledger keeps it.
fn keys_text(keys: &[String]) -> String {
    serde_json::Value::from(keys.to_vec()).to_string()
}
