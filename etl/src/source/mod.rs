//! Where records come from.
use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::record::Record;

/// How much one poll may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// At most this many records.
    pub rows: usize,
    /// About this many bytes of keys and values; at least one record is always handed out.
    pub bytes: usize,
    /// How long to wait for the first record. Once one is there, what is at hand is handed out at once.
    pub linger: Duration,
}

/// What one poll brought.
#[derive(Debug)]
pub enum Polled {
    /// At least one record; offsets rise within each partition.
    Records(Vec<Record>),
    /// Nothing came in time.
    Idle,
    /// Nothing ever will: every partition reached the end it was opened with.
    End,
}

/// Reads a bounded or endless input in order within each partition.
///
/// Contract (suite: `testkit::topic_contract`):
/// 1. Offsets rise within a partition; across partitions no order is promised.
/// 2. Opened at position `p`, the first record is the one at `p` or, where compaction or transaction markers left
///    holes, the first after it: nothing skipped, nothing twice.
/// 3. It stores no progress. What is done is what the table's txns say.
#[async_trait]
pub trait Source: Send {
    /// Waits until `budget` is used up or something is at hand, whichever is first.
    ///
    /// # Errors
    /// A gap if retention deleted the position (retrying cannot help); a lost connection (retrying can).
    async fn poll(&mut self, budget: Budget) -> Result<Polled>;

    /// Stops handing out records of exactly these partitions (by number; of every topic it reads) and keeps their place;
    /// all others go on. A partition that is not named any more goes on where it stopped.
    fn pause(&mut self, partitions: &BTreeSet<i32>);
}
