//! A table's end, for who only adds to it.
//!
//! A [`Table`] moves its whole snapshot on with every commit: it lists the log and goes over all files. Whoever lands
//! rows commit by commit needs none of that, only the columns, the progress and the next version's number. So a commit
//! through an appender is one put, and no read unless somebody else committed in between.
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use deltalake::logstore::LogStoreRef;

use super::commit::{Commit, Committed, Log};
use super::head::Head;
use super::lake::TableName;
use super::owner::Owner;
use super::snapshot::Table;
use crate::error::Result;

/// The end of a table's log, and the columns of its rows.
pub struct Appender {
    name: TableName,
    log: LogStoreRef,
    owner: Arc<Owner>,
    schema: SchemaRef,
    head: Head,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender")
            .field("name", &self.name)
            .field("version", &self.head.version)
            .finish_non_exhaustive()
    }
}

impl Appender {
    /// Goes on from `table`'s version.
    ///
    /// # Errors
    /// [`TableError::Protocol`](super::TableError::Protocol) if the table asks for more than we can keep.
    pub async fn open(table: &Table) -> Result<Self> {
        table.writable(true)?;
        Ok(Self {
            name: table.name().clone(),
            log: table.log_store(),
            owner: Arc::clone(table.owner()),
            schema: table.schema()?,
            head: table.head().await?,
        })
    }

    /// The table's name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The version this appender knows last: its own last commit, or what it had to follow.
    pub fn version(&self) -> u64 {
        self.head.version
    }

    /// The table's columns in Arrow's types. They cannot change below an appender: who changes them makes its next
    /// commit a conflict.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The progress that `app` committed with its last rows.
    pub fn txn(&self, app: &str) -> Option<i64> {
        self.head.txns.get(app).copied()
    }

    /// Where files of this table are written.
    pub(super) fn log_store(&self) -> &LogStoreRef {
        &self.log
    }

    /// Makes `commit` the table's next version.
    ///
    /// # Errors
    /// As [`Table::commit`]; after any, this appender is of no more use: open the table again and look at its progress.
    pub async fn commit(&mut self, commit: Commit) -> Result<Committed> {
        let log = Log { name: &self.name, store: Arc::clone(&self.log), owner: &self.owner };
        log.put(&mut self.head, commit).await
    }

    #[cfg(test)]
    pub(super) fn left_lying(&mut self, time: std::time::Duration) {
        self.head.seen = self.head.seen.checked_sub(time).unwrap();
    }
}
