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
use deltalake::logstore::{CommitOrBytes, LogStoreRef, get_actions};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use super::error::TableError;
use super::head::Head;
use super::lake::TableName;
use super::owner::Owner;
use super::snapshot::Table;
use crate::error::Result;
use crate::failpoint::hit;
use crate::invariant::hold;

/// The key in `commitInfo` under which a commit finds itself again.
const ID: &str = "tidemillCommit";
/// How often an unknown outcome is looked into before we give up. With the waits below: about six seconds.
const ATTEMPTS: u32 = 6;
/// After this long without a look, a head may be older than the log. Far below the least that clean-up keeps.
const STALE: Duration = Duration::from_mins(10);
/// The property by which a table forgets the progress of identities that were quiet for a while.
const FORGETS: &str = "delta.setTransactionRetentionDuration";

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
    /// Small files became larger ones; the same rows.
    Optimize,
    /// An older version's rows and progress were put back.
    Restore,
    /// Rows were changed or taken out by a person's command.
    Amend,
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
            Self::Optimize => "OPTIMIZE",
            Self::Restore => "RESTORE",
            Self::Amend => "UPDATE",
        }
    }
}

/// Which foreign commits a commit may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Rows are only added: any commit that leaves our progress and the columns alone.
    Append,
    /// What we write was computed from the snapshot: none that added or removed rows, or moved those we remove.
    Exclusive,
    /// The same rows in other files: any commit that leaves the columns and the files we remove alone.
    Rearrange,
    /// The table's whole state is replaced: none at all.
    Alone,
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

/// Where a commit goes.
pub(super) struct Log<'a> {
    /// The table.
    pub(super) name: &'a TableName,
    /// Its log.
    pub(super) store: LogStoreRef,
    /// Who orders the commits of this process.
    pub(super) owner: &'a Owner,
}

impl Table {
    /// Makes `commit` the table's next version and moves this handle on to it.
    ///
    /// # Errors
    /// [`TableError::Fenced`] if somebody else moved the progress; [`TableError::Conflict`] if somebody else changed
    /// rows or columns under an exclusive commit. In both cases nothing was written. A storage failure that stays
    /// unknown after `ATTEMPTS` looks is returned as such: the next start reads the progress and knows.
    pub async fn commit(&mut self, commit: Commit) -> Result<Committed> {
        self.writable(!commit.txns.is_empty())?;
        let mut head = self.head().await?;
        let done = self.log().put(&mut head, commit).await?;
        hit("commit.before_refresh").await;
        self.follow(head).await?;
        hit("commit.done").await;
        Ok(done)
    }

    /// Whether we can keep what the table asks of its writers, and it keeps the progress we write.
    pub(super) fn writable(&self, progress: bool) -> Result<()> {
        let state = self.delta().snapshot().map_err(|e| TableError::delta("read", self.name(), e))?;
        let refused = |why: String| TableError::Protocol { table: self.name().to_string(), why };
        PROTOCOL.can_write_to(state).map_err(|e| refused(e.to_string()))?;
        // A checkpoint may leave out progress older than this: what it stood for would be done again.
        if progress && state.metadata().configuration().contains_key(FORGETS) {
            return Err(refused(format!("`{FORGETS}` makes it forget progress")).into());
        }
        Ok(())
    }
}

impl Log<'_> {
    /// Puts `commit` after `head`, or after what others put meanwhile if it may follow that; `head` is then its version.
    pub(super) async fn put(&self, head: &mut Head, commit: Commit) -> Result<Committed> {
        commit.only_forward();
        hit("commit.begin").await;
        let _turn = self.owner.turn().await;
        let name = self.name.to_string();
        if matches!(commit.guard, Guard::Rearrange) && self.owner.busy() {
            return Err(TableError::Busy { table: name }.into());
        }
        self.still_there(head).await?;
        commit.check(&name, head)?;
        let id = Uuid::new_v4().to_string();
        let mut body = commit.body(&id, head.version, head.at_ms)?;
        let mut wait = Duration::from_millis(100);
        let mut unknown = 0;
        loop {
            let version = head.version + 1;
            hit("commit.before_put").await;
            let put = self.store.write_commit_entry(version, CommitOrBytes::LogBytes(body.clone()), Uuid::nil()).await;
            hit("commit.after_put").await;
            let Err(error) = put else {
                debug!(table = name, version, "committed");
                break;
            };
            if !matches!(error, TransactionError::VersionAlreadyExists(_)) {
                warn!(table = name, version, %error, unknown, "outcome of a commit unknown, reading the log");
            }
            // Read on from the version we wanted, as far as there is anything.
            let mut followed = false;
            let mut ours = false;
            hit("commit.before_look").await;
            loop {
                let next = head.version + 1;
                let entry = match self.store.read_commit_entry(next).await {
                    Ok(entry) => entry,
                    Err(read) if unknown + 1 >= ATTEMPTS => {
                        return Err(TableError::delta("commit to", &name, read).into());
                    }
                    Err(_) => None,
                };
                let Some(entry) = entry else { break };
                let actions = get_actions(next, &entry).map_err(|e| TableError::delta("read the log of", &name, e))?;
                if is_ours(&actions, &id) {
                    ours = true;
                    break;
                }
                commit.may_follow(&name, next, &actions)?;
                head.fold(&actions);
                followed = true;
            }
            if ours {
                break;
            }
            if followed {
                hit("commit.before_follow").await;
                // Somebody got on: as long as that is so, trying again comes to an end.
                commit.check(&name, head)?;
                body = commit.body(&id, head.version, head.at_ms)?;
                continue;
            }
            unknown += 1;
            if unknown >= ATTEMPTS {
                let source = deltalake::DeltaTableError::Transaction { source: error };
                return Err(TableError::delta("commit to", &name, source).into());
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        commit.settle(head);
        Ok(Committed { version: head.version })
    }

    /// A handle left lying may be older than the log: then its next version is free, because it was cleaned up.
    async fn still_there(&self, head: &Head) -> Result<()> {
        if head.seen.elapsed() < STALE {
            return Ok(());
        }
        let entry = self.store.read_commit_entry(head.version).await;
        match entry.map_err(|e| TableError::delta("read the log of", self.name, e))? {
            Some(_) => Ok(()),
            None => Err(TableError::Conflict { table: self.name.to_string(), version: head.version }.into()),
        }
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

    /// What lands a topic moves on from where it started. Other progress need not be a number that rises.
    fn only_forward(&self) {
        if self.operation != Operation::Append || !self.info.contains_key("landing") {
            return;
        }
        for (app, next) in &self.txns {
            let from = self.expected.iter().find(|(expected, _)| expected == app).and_then(|(_, from)| *from);
            hold("P4", from.is_none_or(|from| from <= *next), || format!("`{app}` goes from {from:?} to {next}"));
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

    /// Progress in the table is still what the commit starts from.
    fn check(&self, table: &str, head: &Head) -> Result<()> {
        for (app, known) in &self.expected {
            let found = head.txns.get(app).copied();
            if found != *known {
                return Err(
                    TableError::Fenced { table: table.to_owned(), app: app.clone(), known: *known, found }.into()
                );
            }
        }
        Ok(())
    }

    /// Moves `head` on to this commit, which is in the log.
    fn settle(self, head: &mut Head) {
        head.version += 1;
        head.seen = Instant::now();
        head.at_ms = self.now.timestamp_millis().max(head.at_ms);
        head.txns.extend(self.txns);
    }

    /// Whether this commit may come after a foreign version with these entries.
    fn may_follow(&self, table: &str, version: u64, foreign: &[Action]) -> Result<()> {
        let conflict = || Err(TableError::Conflict { table: table.to_owned(), version }.into());
        let removed = |path: &str| self.actions.iter().any(|own| matches!(own, Action::Remove(r) if r.path == path));
        for action in foreign {
            let (path, rows_change) = match action {
                Action::Metadata(_) | Action::Protocol(_) => return conflict(),
                Action::Txn(txn) => {
                    if let Some((app, known)) = self.expected.iter().find(|(app, _)| *app == txn.app_id) {
                        let (table, app) = (table.to_owned(), app.clone());
                        return Err(TableError::Fenced { table, app, known: *known, found: Some(txn.version) }.into());
                    }
                    continue;
                }
                Action::Add(add) => (&add.path, add.data_change),
                Action::Remove(remove) => (&remove.path, remove.data_change),
                _ => continue,
            };
            let clash = match self.guard {
                Guard::Append => false,
                Guard::Exclusive => rows_change || removed(path),
                Guard::Rearrange => removed(path),
                Guard::Alone => true,
            };
            if clash {
                return conflict();
            }
        }
        if self.guard == Guard::Alone { conflict() } else { Ok(()) }
    }
}

fn is_ours(actions: &[Action], id: &str) -> bool {
    actions.iter().any(|action| match action {
        Action::CommitInfo(info) => info.info.get(ID).and_then(Value::as_str) == Some(id),
        _ => false,
    })
}
