//! Puts the next version of a table: rows, removals and progress in one file of the log, or none of them.
//!
//! Delta protocol, "Delta Log Entries": version `n` is the file `_delta_log/{n:020}.json`, made by a put-if-absent.
//! Every failed put means *unknown*: the file may be there, or may yet arrive. So each commit carries an id of its
//! own, and after a failure the log is read: our id there → done; a foreign version there → the [`Guard`] says
//! whether we may follow it; nothing there → put again at the same version, which can only land once.
use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use deltalake::kernel::transaction::{PROTOCOL, TransactionError};
use deltalake::kernel::{Action, CommitInfo, Transaction};
use deltalake::logstore::{CommitOrBytes, get_actions};
use serde_json::{Value, json};
use tracing::{debug, warn};
use uuid::Uuid;

use super::error::TableError;
use super::snapshot::Table;
use crate::error::Result;
use crate::failpoint::hit;

/// The key in `commitInfo` under which a commit finds itself again.
const ID: &str = "tidemillCommit";
/// How often an unknown outcome is looked into before we give up. With the waits below: about six seconds.
const ATTEMPTS: u32 = 6;

/// What the commit is called in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Rows were added.
    Append,
    /// All rows were replaced.
    Overwrite,
    /// Rows were changed by key.
    Upsert,
    /// Columns were added.
    Evolve,
    /// A partition was taken over; no rows.
    Fence,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            // The names that other readers of the log know.
            Self::Append => "STREAMING UPDATE",
            Self::Overwrite => "WRITE",
            Self::Upsert => "MERGE",
            Self::Evolve => "ADD COLUMN",
            Self::Fence => "SET TBLPROPERTIES",
        }
    }
}

/// Which foreign commits a commit may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Rows are only added: any commit that leaves our progress and the columns alone.
    Append,
    /// What we write was computed from the snapshot: none that added or removed rows.
    Exclusive,
}

/// A commit about to be made.
#[derive(Debug)]
pub struct Commit {
    /// Its name in the history.
    pub operation: Operation,
    /// Files added and removed, metadata, change data.
    pub actions: Vec<Action>,
    /// Progress: (identity, next value). What `txns` must still be in the table is `expected`.
    pub txns: Vec<(String, i64)>,
    /// Progress this commit starts from, for each identity of `txns` and for any fence it stands behind.
    pub expected: Vec<(String, Option<i64>)>,
    /// Which foreign commits may be followed.
    pub guard: Guard,
    /// More for the history: ranges, row counts, the run.
    pub info: serde_json::Map<String, Value>,
    /// Rows and files for the history.
    pub metrics: Value,
    /// The moment noted in the history.
    pub now: DateTime<Utc>,
}

/// A commit that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The version it made.
    pub version: u64,
}

impl Table {
    /// Makes `commit` the table's next version and moves this handle on to it.
    ///
    /// # Errors
    /// [`TableError::Fenced`] if somebody else moved the progress; [`TableError::Conflict`] if somebody else changed
    /// rows or columns under an exclusive commit. In both cases nothing was written. A storage failure that stays
    /// unknown after `ATTEMPTS` looks is returned as such: the next start reads the progress and knows.
    pub async fn commit(&mut self, commit: Commit) -> Result<Committed> {
        let name = self.name().clone();
        let state = self.delta().snapshot().map_err(|e| TableError::delta("read", &name, e))?;
        PROTOCOL
            .can_write_to(state)
            .map_err(|e| TableError::Protocol { table: name.to_string(), why: e.to_string() })?;
        hit("commit.begin").await;
        self.check_expected(&commit).await?;

        let id = Uuid::new_v4().to_string();
        let log = self.log_store();
        let mut version = self.version() + 1;
        let mut body = commit.body(&id, version - 1, self.committed_at())?;
        let mut wait = Duration::from_millis(100);
        for attempt in 1..=ATTEMPTS {
            hit("commit.before_put").await;
            let put = log.write_commit_entry(version, CommitOrBytes::LogBytes(body.clone()), Uuid::nil()).await;
            hit("commit.after_put").await;
            let Err(error) = put else {
                debug!(table = %name, version, "committed");
                hit("commit.before_refresh").await;
                self.refresh().await?;
                hit("commit.done").await;
                return Ok(Committed { version });
            };
            let taken = matches!(error, TransactionError::VersionAlreadyExists(_));
            if !taken {
                warn!(table = %name, version, %error, attempt, "outcome of a commit unknown, reading the log");
            }
            // Read on from the version we wanted, as far as there is anything.
            let mut followed = false;
            hit("commit.before_look").await;
            loop {
                let entry = match log.read_commit_entry(version).await {
                    Ok(entry) => entry,
                    Err(read) if attempt == ATTEMPTS => return Err(TableError::delta("commit to", &name, read).into()),
                    Err(_) => None,
                };
                let Some(entry) = entry else { break };
                let actions =
                    get_actions(version, &entry).map_err(|e| TableError::delta("read the log of", &name, e))?;
                if is_ours(&actions, &id) {
                    self.refresh().await?;
                    return Ok(Committed { version });
                }
                commit.may_follow(&name.to_string(), version, &actions)?;
                version += 1;
                followed = true;
            }
            if followed {
                hit("commit.before_follow").await;
                self.refresh().await?;
                self.check_expected(&commit).await?;
                version = self.version() + 1;
                body = commit.body(&id, version - 1, self.committed_at())?;
                continue;
            }
            if attempt == ATTEMPTS {
                let source = deltalake::DeltaTableError::Transaction { source: error };
                return Err(TableError::delta("commit to", &name, source).into());
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        Err(TableError::Conflict { table: name.to_string(), version }.into())
    }

    /// Progress in the table is still what the commit starts from.
    async fn check_expected(&self, commit: &Commit) -> Result<()> {
        for (app, known) in &commit.expected {
            let found = self.txn(app).await?;
            if found != *known {
                let table = self.name().to_string();
                return Err(TableError::Fenced { table, app: app.clone(), known: *known, found }.into());
            }
        }
        Ok(())
    }
}

impl Commit {
    /// An append with its progress.
    pub fn append(now: DateTime<Utc>) -> Self {
        Self::new(Operation::Append, Guard::Append, now)
    }

    /// An empty commit to be filled.
    pub fn new(operation: Operation, guard: Guard, now: DateTime<Utc>) -> Self {
        Self {
            operation,
            actions: Vec::new(),
            txns: Vec::new(),
            expected: Vec::new(),
            guard,
            info: serde_json::Map::new(),
            metrics: Value::Null,
            now,
        }
    }

    fn body(&self, id: &str, read_version: u64, before_ms: i64) -> Result<bytes::Bytes> {
        let mut info: HashMap<String, Value> = self.info.clone().into_iter().collect();
        info.insert(ID.to_owned(), json!(id));
        if !self.metrics.is_null() {
            info.insert("operationMetrics".to_owned(), self.metrics.clone());
        }
        let blind = self.guard == Guard::Append;
        let head = CommitInfo {
            // Versions are found by time: a clock that went back must not make a version look older than the last.
            timestamp: Some(self.now.timestamp_millis().max(before_ms)),
            operation: Some(self.operation.name().to_owned()),
            operation_parameters: Some(HashMap::new()),
            read_version: Some(read_version),
            is_blind_append: Some(blind),
            engine_info: Some(concat!("tidemill/", env!("CARGO_PKG_VERSION")).to_owned()),
            info,
            ..CommitInfo::default()
        };
        let txn = |(app, version): &(String, i64)| {
            Action::Txn(Transaction::new_with_last_update(app, *version, Some(self.now.timestamp_millis())))
        };
        let mut text = Vec::new();
        let actions = std::iter::once(Action::CommitInfo(head)).chain(self.txns.iter().map(txn));
        for action in actions.chain(self.actions.iter().cloned()) {
            serde_json::to_writer(&mut text, &action).map_err(|e| {
                TableError::delta("commit to", &"a table", deltalake::DeltaTableError::Generic(e.to_string()))
            })?;
            text.push(b'\n');
        }
        Ok(text.into())
    }

    /// Whether this commit may come after a foreign version with these entries.
    fn may_follow(&self, table: &str, version: u64, foreign: &[Action]) -> Result<()> {
        let conflict = || Err(TableError::Conflict { table: table.to_owned(), version }.into());
        for action in foreign {
            match action {
                Action::Metadata(_) | Action::Protocol(_) => return conflict(),
                Action::Add(_) | Action::Remove(_) if self.guard == Guard::Exclusive => return conflict(),
                Action::Txn(txn) => {
                    if let Some((app, known)) = self.expected.iter().find(|(app, _)| *app == txn.app_id) {
                        let (table, app) = (table.to_owned(), app.clone());
                        return Err(TableError::Fenced { table, app, known: *known, found: Some(txn.version) }.into());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_ours(actions: &[Action], id: &str) -> bool {
    actions.iter().any(|action| match action {
        Action::CommitInfo(info) => info.info.get(ID).and_then(Value::as_str) == Some(id),
        _ => false,
    })
}
