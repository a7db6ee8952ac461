//! Records that wait for a schema which cannot be asked for now. Partitions keep their order: whatever follows in the
//! same partition waits behind them, and all other partitions go on.
use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::body::Blocked;
use crate::error::{Error, Retry};
use crate::record::Record;

/// How long to wait before asking again; doubled up to `LONGEST`.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// What waits.
#[derive(Debug)]
pub(super) struct Parked {
    records: Vec<Record>,
    partitions: BTreeSet<i32>,
    bytes: usize,
    wait: Duration,
    again: Instant,
}

impl Default for Parked {
    fn default() -> Self {
        Self { records: Vec::new(), partitions: BTreeSet::new(), bytes: 0, wait: FIRST, again: Instant::now() }
    }
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of keys and values that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn partitions(&self) -> &BTreeSet<i32> {
        &self.partitions
    }

    /// Whether it is time to ask again.
    pub(super) fn due(&self) -> bool {
        !self.is_empty() && Instant::now() >= self.again
    }

    /// Takes out of `records` what has to wait from the blocked one on.
    ///
    /// # Errors
    /// What it waits for, if waiting cannot help.
    pub(super) fn park(&mut self, records: &mut Vec<Record>, blocked: Blocked) -> Result<(), Error> {
        if blocked.error.explain().retry() != Retry::Later {
            return Err(blocked.error);
        }
        let Some(first) = records.get(blocked.index) else { return Err(blocked.error) };
        let partition = first.partition.partition;
        warn!(
            topic = first.partition.topic, partition, offset = first.offset, error = %blocked.error,
            "records of this partition wait for a schema",
        );
        self.partitions.insert(partition);
        let all = std::mem::take(records);
        for (index, record) in all.into_iter().enumerate() {
            if index >= blocked.index && record.partition.partition == partition {
                self.push(record);
            } else {
                records.push(record);
            }
        }
        self.again = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(LONGEST);
        Ok(())
    }

    /// Takes out of newly read records those that come behind what waits.
    pub(super) fn queue(&mut self, records: &mut Vec<Record>) {
        if self.is_empty() {
            return;
        }
        let (behind, free) = std::mem::take(records)
            .into_iter()
            .partition(|r: &Record| self.partitions.contains(&r.partition.partition));
        *records = free;
        let behind: Vec<Record> = behind;
        for record in behind {
            self.push(record);
        }
    }

    fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push(record);
    }

    /// Everything that waits, in order; nothing waits then.
    pub(super) fn release(&mut self) -> Vec<Record> {
        let again = std::mem::take(self);
        self.wait = again.wait;
        again.records
    }

    /// Notes that asking worked.
    pub(super) fn well(&mut self) {
        self.wait = FIRST;
    }
}
