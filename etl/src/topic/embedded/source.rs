//! Reads partitions in order, fairly, each reader on a connection of its own.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, Transaction, params};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::headers;
use super::store::{self, offset_of, record_id};
use crate::error::Result;
use crate::position::{Offset, TopicPartition};
use crate::record::Record;
use crate::source::{Budget, Polled, Source};
use crate::topic::held::Held;
use crate::topic::{Assignment, BrokerError};

/// How often we look whether another process has written. Commits of this process wake us at once.
const LOOK: Duration = Duration::from_millis(5);

/// A reader over some partitions.
pub(super) struct EmbeddedSource {
    reader: Held<Reader, Result<Fetched, BrokerError>>,
    commits: watch::Receiver<u64>,
    paused: Arc<BTreeSet<i32>>,
    /// Keeps `commits` open when the broker is gone.
    _wake: Arc<watch::Sender<u64>>,
}

impl EmbeddedSource {
    /// Starts at the assigned positions; `assigned` pairs lanes with what to read of them.
    pub(super) fn new(
        connection: Connection,
        path: PathBuf,
        commits: &Arc<watch::Sender<u64>>,
        assigned: Vec<(i64, Assignment)>,
    ) -> Self {
        let lanes = assigned
            .into_iter()
            .map(|(lane, assignment)| {
                let partition = Arc::new(assignment.partition.clone());
                Reading { lane, next: assignment.from, assignment, partition, seen: None }
            })
            .collect();
        let reader = Held::new(Reader { connection, path, lanes, turn: 0, version: None });
        Self { reader, commits: commits.subscribe(), paused: Arc::default(), _wake: Arc::clone(commits) }
    }
}

#[async_trait]
impl Source for EmbeddedSource {
    async fn poll(&mut self, budget: Budget) -> Result<Polled> {
        let deadline = Instant::now() + budget.linger;
        loop {
            self.commits.mark_unchanged();
            let paused = Arc::clone(&self.paused);
            match self.reader.run(move |reader| reader.fetch(budget, &paused)).await?? {
                Fetched::Records(records) => return Ok(Polled::Records(records)),
                Fetched::End => return Ok(Polled::End),
                Fetched::Nothing if Instant::now() >= deadline => return Ok(Polled::Idle),
                Fetched::Nothing => {}
            }
            let look = deadline.min(Instant::now() + LOOK);
            tokio::select! {
                // The sender lives as long as we do.
                _ = self.commits.changed() => {}
                () = sleep_until(look) => {}
            }
        }
    }

    fn pause(&mut self, partitions: &BTreeSet<i32>) {
        self.paused = Arc::new(partitions.clone());
    }
}

/// Whether a lane is not to be read for now.
fn resting(lane: &Reading, paused: &BTreeSet<i32>) -> bool {
    paused.contains(&lane.assignment.partition.partition)
}

enum Fetched {
    Records(Vec<Record>),
    Nothing,
    End,
}

/// The blocking half.
struct Reader {
    connection: Connection,
    path: PathBuf,
    lanes: Vec<Reading>,
    /// The lane that is first in the next fetch.
    turn: usize,
    /// `PRAGMA data_version` when we last found nothing.
    version: Option<i64>,
}

struct Reading {
    lane: i64,
    assignment: Assignment,
    /// As records carry it.
    partition: Arc<TopicPartition>,
    next: Offset,
    /// The lane's end in the snapshot of this fetch, while there is something left to read.
    seen: Option<Offset>,
}

impl Reading {
    fn done(&self) -> bool {
        self.assignment.to.is_some_and(|to| self.next >= to)
    }
}

/// What is left of a budget.
struct Left {
    rows: usize,
    bytes: usize,
}

impl Reader {
    fn fetch(&mut self, budget: Budget, paused: &BTreeSet<i32>) -> Result<Fetched, BrokerError> {
        if self.lanes.iter().all(Reading::done) {
            return Ok(Fetched::End);
        }
        let failed = store::failed(&self.path, "reading it");
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut pragma| pragma.query_row([], |row| row.get(0)))
            .map_err(&failed)?;
        if self.version == Some(version) {
            return Ok(Fetched::Nothing);
        }
        let snapshot = self.connection.transaction().map_err(&failed)?;
        for lane in self.lanes.iter_mut().filter(|lane| !lane.done()) {
            if resting(lane, paused) {
                lane.seen = None;
                continue;
            }
            look(&snapshot, lane, &self.path)?;
        }
        let records = take(&snapshot, &mut self.lanes, &mut self.turn, budget).map_err(&failed)?;
        drop(snapshot);
        if records.is_empty() {
            // What rests is looked at again when it goes on, whether somebody wrote meanwhile or not.
            self.version = paused.is_empty().then_some(version);
            return Ok(Fetched::Nothing);
        }
        self.version = None;
        Ok(Fetched::Records(records))
    }
}

/// Notes how far a lane can be read; refuses a position that is not there.
fn look(snapshot: &Transaction<'_>, lane: &mut Reading, path: &Path) -> Result<(), BrokerError> {
    let (earliest, end): (Offset, Offset) = snapshot
        .prepare_cached("SELECT earliest, end FROM lanes WHERE id = ?1")
        .and_then(|mut select| select.query_row([lane.lane], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(store::failed(path, "reading it"))?;
    let (topic, partition) = (&lane.assignment.partition.topic, lane.assignment.partition.partition);
    if lane.next < earliest {
        return Err(BrokerError::Gap { topic: topic.clone(), partition, wanted: lane.next, earliest });
    }
    if lane.next > end {
        return Err(BrokerError::PastEnd { topic: topic.clone(), partition, wanted: lane.next, end });
    }
    let end = lane.assignment.to.map_or(end, |to| to.min(end));
    lane.seen = (lane.next < end).then_some(end);
    Ok(())
}

/// Takes records in rounds, an equal share of the budget from each lane per round.
fn take(
    snapshot: &Transaction<'_>,
    lanes: &mut [Reading],
    turn: &mut usize,
    budget: Budget,
) -> rusqlite::Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut left = Left { rows: budget.rows.max(1), bytes: budget.bytes };
    let count = lanes.len();
    loop {
        let waiting = lanes.iter().filter(|lane| lane.seen.is_some()).count();
        if waiting == 0 {
            return Ok(records);
        }
        let share = Left { rows: left.rows.div_ceil(waiting), bytes: left.bytes.div_ceil(waiting) };
        for step in 0..count {
            let at = (*turn + step) % count;
            if let Some(lane) = lanes.get_mut(at).filter(|lane| lane.seen.is_some()) {
                let before = records.len();
                if !take_from(snapshot, lane, &share, &mut left, &mut records)? {
                    // Who got something goes to the end of the line.
                    *turn = if records.len() > before { at + 1 } else { at };
                    return Ok(records);
                }
            }
        }
    }
}

/// Takes one lane's share; returns false once the whole budget is used up.
fn take_from(
    snapshot: &Transaction<'_>,
    lane: &mut Reading,
    share: &Left,
    left: &mut Left,
    records: &mut Vec<Record>,
) -> rusqlite::Result<bool> {
    let Some(end) = lane.seen else { return Ok(true) };
    let sql = "SELECT id, timestamp_ms, key, value, headers FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id";
    let mut select = snapshot.prepare_cached(sql)?;
    let mut rows = select.query(params![record_id(lane.lane, lane.next), record_id(lane.lane, end)])?;
    let (mut taken_rows, mut taken_bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let (key, value) = (row.get_ref(2)?.as_blob_or_null()?, row.get_ref(3)?.as_blob_or_null()?);
        let head = row.get_ref(4)?.as_blob_or_null()?;
        let bytes = [key, value, head].iter().flatten().map(|part| part.len()).sum::<usize>();
        if left.rows == 0 || (bytes > left.bytes && !records.is_empty()) {
            return Ok(false);
        }
        if taken_rows > 0 && (taken_rows >= share.rows || taken_bytes + bytes > share.bytes) {
            return Ok(true);
        }
        let offset = offset_of(row.get(0)?);
        records.push(Record {
            partition: Arc::clone(&lane.partition),
            offset,
            timestamp_ms: row.get(1)?,
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: head.map(headers::unpack).unwrap_or_default(),
        });
        lane.next = offset + 1;
        taken_rows += 1;
        taken_bytes += bytes;
        left.rows -= 1;
        left.bytes = left.bytes.saturating_sub(bytes);
    }
    lane.next = end;
    lane.seen = None;
    Ok(true)
}
