//! The file: opening, its layout, and who may open it how.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::position::Offset;
use crate::topic::BrokerError;

/// Tells the time in milliseconds since 1970, UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// "TIMT"; tells our files from other databases.
const APPLICATION: i64 = 0x5449_4D54;
const LAYOUT: i64 = 1;
/// Bits of a record's id that hold its offset.
const OFFSET_BITS: u32 = 40;
const BUSY: Duration = Duration::from_secs(15);

const SCHEMA: &str = "
CREATE TABLE topics (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL);
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL REFERENCES topics (id), partition INTEGER NOT NULL,
    earliest INTEGER NOT NULL DEFAULT 0, end INTEGER NOT NULL DEFAULT 0,
    newest_ms INTEGER NOT NULL DEFAULT -9223372036854775808, indexed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition));
CREATE TABLE records (id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB);
CREATE TABLE times (
    lane INTEGER NOT NULL, newest_ms INTEGER NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (lane, newest_ms, offset)) WITHOUT ROWID;
CREATE TABLE publishers (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, progress TEXT) WITHOUT ROWID;
CREATE TABLE staged (
    id INTEGER PRIMARY KEY, publisher TEXT NOT NULL, epoch INTEGER NOT NULL, lane INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB);
CREATE INDEX staged_by_step ON staged (publisher, epoch);
";

/// Returns the id of the record at `offset` of `lane`.
pub(super) fn record_id(lane: i64, offset: Offset) -> i64 {
    (lane << OFFSET_BITS) | offset
}

/// Returns the offset in a record's id.
pub(super) fn offset_of(id: i64) -> Offset {
    id & ((1 << OFFSET_BITS) - 1)
}

/// Makes a failure of the file at `path` explain itself.
pub(super) fn failed(path: &Path, doing: &'static str) -> impl Fn(rusqlite::Error) -> BrokerError {
    let path = path.to_path_buf();
    move |error| {
        if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
            return BrokerError::NotTopics { path: path.clone() };
        }
        BrokerError::Store { path: path.clone(), doing, source: Arc::new(error) }
    }
}

/// Opens the file for writing; makes it, its folder and its tables if they are not there.
pub(super) fn open_writer(path: &Path) -> Result<Connection, BrokerError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| BrokerError::Folder { path: folder.to_path_buf(), source: Arc::new(error) })?;
    }
    let mut tries = 0;
    loop {
        match prepare(path) {
            // Turning a new file to WAL needs it alone, and `SQLite` does not wait for that by itself.
            Err(error @ BrokerError::Store { .. }) if tries < 100 && error.is_busy() => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

fn prepare(path: &Path) -> Result<Connection, BrokerError> {
    let failed = failed(path, "opening it");
    let mut connection = Connection::open(path).map_err(&failed)?;
    connection.busy_timeout(BUSY).map_err(&failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Read before anything is written: another program's database stays as it is.
    known(&connection, path)?;
    connection.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL;").map_err(&failed)?;
    connection
        .execute_batch(
            // 16 MiB of cache; the log is copied back each 16 MiB and kept below 64 MiB on disk.
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
             PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(&failed)?;
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    if known(&change, path)? == 0 {
        change.execute_batch(SCHEMA).map_err(&failed)?;
        change.pragma_update(None, "application_id", APPLICATION).map_err(&failed)?;
        change.pragma_update(None, "user_version", LAYOUT).map_err(&failed)?;
    }
    change.commit().map_err(&failed)?;
    Ok(connection)
}

/// Returns the layout of the file, 0 if it is empty; refuses what is not ours or too new.
fn known(connection: &Connection, path: &Path) -> Result<i64, BrokerError> {
    let failed = failed(path, "opening it");
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(&failed);
    let layout = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if number("PRAGMA application_id")? != APPLICATION && (layout != 0 || tables != 0) {
        return Err(BrokerError::NotTopics { path: path.to_path_buf() });
    }
    if layout > LAYOUT {
        return Err(BrokerError::Layout { path: path.to_path_buf(), found: layout, known: LAYOUT });
    }
    Ok(layout)
}

/// Opens the file for reading only.
pub(super) fn open_reader(path: &Path) -> Result<Connection, BrokerError> {
    let failed = failed(path, "opening it");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY).map_err(&failed)?;
    connection.execute_batch("PRAGMA cache_size = -4096;").map_err(&failed)?;
    Ok(connection)
}
