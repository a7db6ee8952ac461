//! The one thread that writes: takes what waits, does it in one transaction, answers after the commit.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::headers;
use super::store::{failed, record_id};
use crate::position::Offset;
use crate::record::NewRecord;
use crate::topic::BrokerError;

/// Requests that may wait; further callers wait outside.
const WAITING: usize = 64;
/// Requests that share one transaction.
const GROUP: usize = 256;
/// Records between two entries of `times`.
const INDEX_EVERY: i64 = 4096;

/// Answers one request once its transaction is committed, or with why it was not.
type Answer = Box<dyn FnOnce(Result<(), &BrokerError>) + Send>;
/// Does one request inside the transaction, or, given a failure, only answers.
type Job = Box<dyn FnOnce(Result<&mut Group<'_>, &BrokerError>) -> Result<Option<Answer>, BrokerError> + Send>;

/// The way to the writing thread. Dropping it ends the thread after what waits is done.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    commits: Arc<watch::Sender<u64>>,
    path: PathBuf,
}

impl Writer {
    /// Starts the thread over an open connection.
    pub(super) fn start(connection: Connection, path: &Path) -> Result<Self, BrokerError> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let commits = Arc::new(watch::Sender::new(0));
        let (file, told) = (path.to_path_buf(), Arc::clone(&commits));
        let thread = std::thread::Builder::new()
            .name("topics".to_owned())
            .spawn(move || run(connection, waiting, &file, &told))
            .map_err(|error| BrokerError::Folder { path: path.to_path_buf(), source: Arc::new(error) })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), commits, path: path.to_path_buf() })
    }

    /// Counts the commits of this process; readers wake when it changes.
    pub(super) fn commits(&self) -> Arc<watch::Sender<u64>> {
        Arc::clone(&self.commits)
    }

    /// Hands `work` to the thread and waits until it is durable. A refusal (the inner error) must come before its
    /// first change, for the rest of its group goes on.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, BrokerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> rusqlite::Result<Result<T, BrokerError>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let path = self.path.clone();
        let job: Job = Box::new(move |group| {
            let group = match group {
                Ok(group) => group,
                Err(failure) => {
                    // A caller that went away wants no answer.
                    drop(tell.send(Err(failure.clone())));
                    return Ok(None);
                }
            };
            match work(group) {
                Ok(done) => Ok(Some(Box::new(move |committed: Result<(), &BrokerError>| {
                    drop(tell.send(committed.map_err(Clone::clone).and(done)));
                }))),
                Err(error) => {
                    let failure = failed(&path, "writing to it")(error);
                    drop(tell.send(Err(failure.clone())));
                    Err(failure)
                }
            }
        });
        let closed = || BrokerError::Store {
            path: self.path.clone(),
            doing: "writing to it: its thread has ended",
            source: Arc::new(rusqlite::Error::InvalidQuery),
        };
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(job).await.map_err(|_| closed())?;
        told.await.map_err(|_| closed())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            drop(thread.join());
        }
    }
}

fn run(mut connection: Connection, mut waiting: mpsc::Receiver<Job>, path: &Path, commits: &watch::Sender<u64>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < GROUP {
            let Ok(job) = waiting.try_recv() else { break };
            jobs.push(job);
        }
        if commit_group(&mut connection, jobs, path) {
            commits.send_modify(|count| *count += 1);
        }
    }
}

/// Does all `jobs` in one transaction and answers them; returns whether it was committed.
fn commit_group(connection: &mut Connection, jobs: Vec<Job>, path: &Path) -> bool {
    let mut jobs = jobs.into_iter();
    let mut answers = Vec::new();
    let outcome = commit_jobs(connection, &mut jobs, &mut answers, path);
    for answer in answers {
        answer(outcome.as_ref().copied());
    }
    if let Err(failure) = &outcome {
        for job in jobs {
            // It only answers, so it cannot fail.
            drop(job(Err(failure)));
        }
    }
    outcome.is_ok()
}

fn commit_jobs(
    connection: &mut Connection,
    jobs: &mut impl Iterator<Item = Job>,
    answers: &mut Vec<Answer>,
    path: &Path,
) -> Result<(), BrokerError> {
    let failed = failed(path, "writing to it");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    let mut group = Group { transaction, lanes: HashMap::new() };
    for job in jobs {
        answers.extend(job(Ok(&mut group))?);
    }
    group.finish().map_err(failed)
}

/// One open transaction and the lanes it touched.
pub(super) struct Group<'c> {
    transaction: Transaction<'c>,
    lanes: HashMap<i64, Lane>,
}

#[derive(Clone, Copy)]
struct Lane {
    end: Offset,
    newest_ms: i64,
    indexed: Offset,
}

/// A record that has its lane and its time.
pub(super) struct Placed {
    pub(super) lane: i64,
    pub(super) timestamp_ms: i64,
    pub(super) record: NewRecord,
}

impl Group<'_> {
    /// Appends records; returns the offset of each, in order.
    pub(super) fn append(&mut self, records: &[Placed]) -> rusqlite::Result<Vec<Offset>> {
        let mut order: Vec<usize> = (0..records.len()).collect();
        // Lane by lane the table grows in runs; the order within a lane stays.
        order.sort_by_key(|at| records[*at].lane);
        let mut offsets = vec![0; records.len()];
        let mut insert = self.transaction.prepare_cached(INSERT)?;
        for at in order {
            let Placed { lane, timestamp_ms, record } = &records[at];
            let entry = lane_of(&self.transaction, &mut self.lanes, *lane)?;
            insert.execute(params![
                record_id(*lane, entry.end),
                timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                headers::pack(&record.headers)
            ])?;
            offsets[at] = entry.end;
            step(&self.transaction, *lane, entry, *timestamp_ms)?;
        }
        Ok(offsets)
    }

    /// Returns whether `epoch` still holds the publisher.
    pub(super) fn holds(&self, publisher: &str, epoch: i64) -> rusqlite::Result<bool> {
        let mut select = self.transaction.prepare_cached("SELECT epoch FROM publishers WHERE name = ?1")?;
        Ok(select.query_row([publisher], |row| row.get::<_, i64>(0)).optional()? == Some(epoch))
    }

    /// Raises the epoch of a publisher, throws away what an older one staged; returns epoch and progress.
    pub(super) fn take_over(&mut self, publisher: &str) -> rusqlite::Result<(i64, Option<String>)> {
        self.transaction.execute("DELETE FROM staged WHERE publisher = ?1", [publisher])?;
        self.transaction.query_row(
            "INSERT INTO publishers (name, epoch, progress) VALUES (?1, 1, NULL)
             ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1 RETURNING epoch, progress",
            [publisher],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Puts records aside until the publisher's step is committed.
    pub(super) fn set_aside(&mut self, publisher: &str, epoch: i64, records: &[Placed]) -> rusqlite::Result<()> {
        let mut insert = self.transaction.prepare_cached(
            "INSERT INTO staged (publisher, epoch, lane, timestamp_ms, key, value, headers)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for Placed { lane, timestamp_ms, record } in records {
            insert.execute(params![
                publisher,
                epoch,
                lane,
                timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                headers::pack(&record.headers)
            ])?;
        }
        Ok(())
    }

    /// Throws away what was put aside.
    pub(super) fn discard(&mut self, publisher: &str, epoch: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM staged WHERE publisher = ?1 AND epoch = ?2";
        self.transaction.execute(sql, params![publisher, epoch]).map(drop)
    }

    /// Appends what was put aside, in its order.
    pub(super) fn bring_in(&mut self, publisher: &str, epoch: i64) -> rusqlite::Result<()> {
        {
            let mut insert = self.transaction.prepare_cached(INSERT)?;
            let mut select = self.transaction.prepare_cached(
                "SELECT lane, timestamp_ms, key, value, headers FROM staged
                 WHERE publisher = ?1 AND epoch = ?2 ORDER BY id",
            )?;
            let mut rows = select.query(params![publisher, epoch])?;
            while let Some(row) = rows.next()? {
                let (lane, timestamp_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
                let entry = lane_of(&self.transaction, &mut self.lanes, lane)?;
                insert.execute(params![
                    record_id(lane, entry.end),
                    timestamp_ms,
                    row.get_ref(2)?.as_blob_or_null()?,
                    row.get_ref(3)?.as_blob_or_null()?,
                    row.get_ref(4)?.as_blob_or_null()?
                ])?;
                step(&self.transaction, lane, entry, timestamp_ms)?;
            }
        }
        self.discard(publisher, epoch)
    }

    /// Notes how far a publisher has come.
    pub(super) fn note(&mut self, publisher: &str, progress: &str) -> rusqlite::Result<()> {
        let mut update = self.transaction.prepare_cached("UPDATE publishers SET progress = ?2 WHERE name = ?1")?;
        update.execute([publisher, progress]).map(drop)
    }

    /// Makes a topic; returns whether it was not there.
    pub(super) fn create(&mut self, topic: &str, partitions: i32) -> rusqlite::Result<bool> {
        let made = self.transaction.execute(
            "INSERT INTO topics (name, partitions) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
            params![topic, partitions],
        )?;
        if made == 0 {
            return Ok(false);
        }
        let id = self.transaction.last_insert_rowid();
        let mut insert = self.transaction.prepare_cached("INSERT INTO lanes (topic, partition) VALUES (?1, ?2)")?;
        for partition in 0..partitions {
            insert.execute(params![id, partition])?;
        }
        Ok(true)
    }

    /// Moves the earliest offset of a lane up to `offset`, at most to its end; returns the earliest offset.
    pub(super) fn raise_earliest(&mut self, lane: i64, offset: Offset) -> rusqlite::Result<Offset> {
        let end = lane_of(&self.transaction, &mut self.lanes, lane)?.end;
        self.transaction.query_row(
            "UPDATE lanes SET earliest = max(earliest, min(?2, ?3)) WHERE id = ?1 RETURNING earliest",
            params![lane, offset, end],
            |row| row.get(0),
        )
    }

    /// Deletes up to `limit` records of a lane before `offset`; returns how many.
    pub(super) fn delete_some(&mut self, lane: i64, offset: Offset, limit: u32) -> rusqlite::Result<usize> {
        self.transaction.execute("DELETE FROM times WHERE lane = ?1 AND offset <= ?2", params![lane, offset])?;
        self.transaction.execute(
            "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)",
            params![record_id(lane, 0), record_id(lane, offset), limit],
        )
    }

    fn finish(self) -> rusqlite::Result<()> {
        {
            let sql = "UPDATE lanes SET end = ?2, newest_ms = ?3, indexed = ?4 WHERE id = ?1";
            let mut update = self.transaction.prepare_cached(sql)?;
            for (id, lane) in &self.lanes {
                update.execute(params![id, lane.end, lane.newest_ms, lane.indexed])?;
            }
        }
        self.transaction.commit()
    }
}

const INSERT: &str = "INSERT INTO records (id, timestamp_ms, key, value, headers) VALUES (?1, ?2, ?3, ?4, ?5)";

/// Returns the lane as this transaction sees it. Other processes write too, so nothing is kept between transactions.
fn lane_of<'l>(
    transaction: &Transaction<'_>,
    lanes: &'l mut HashMap<i64, Lane>,
    id: i64,
) -> rusqlite::Result<&'l mut Lane> {
    use std::collections::hash_map::Entry;

    match lanes.entry(id) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(new) => {
            let sql = "SELECT end, newest_ms, indexed FROM lanes WHERE id = ?1";
            let mut select = transaction.prepare_cached(sql)?;
            let lane = select
                .query_row([id], |row| Ok(Lane { end: row.get(0)?, newest_ms: row.get(1)?, indexed: row.get(2)? }))?;
            Ok(new.insert(lane))
        }
    }
}

/// Moves a lane past the record just written.
fn step(transaction: &Transaction<'_>, id: i64, lane: &mut Lane, timestamp_ms: i64) -> rusqlite::Result<()> {
    lane.end += 1;
    lane.newest_ms = lane.newest_ms.max(timestamp_ms);
    if lane.end - lane.indexed >= INDEX_EVERY {
        let sql = "INSERT INTO times (lane, newest_ms, offset) VALUES (?1, ?2, ?3)";
        transaction.prepare_cached(sql)?.execute(params![id, lane.newest_ms, lane.end])?;
        lane.indexed = lane.end;
    }
    Ok(())
}
