//! Topics behind one contract: the embedded `SQLite` file and Apache Kafka.
//!
//! [`embedded`] needs nothing but a path; [`kafka`] (feature `kafka`) needs brokers. Both pass
//! `testkit::topic_contract`, so that `broker = "kafka://…"` is the whole change when one machine is too small.
use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;
use crate::position::{Bounds, Offset, Positions, TopicPartition};
use crate::record::NewRecord;
use crate::source::Source;

pub mod embedded;
mod error;
mod held;
#[cfg(feature = "kafka")]
pub mod kafka;
mod name;
mod partitioner;

pub use embedded::EmbeddedTopics;
pub use error::BrokerError;
#[cfg(feature = "kafka")]
pub use kafka::{KafkaBroker, KafkaSettings};
pub use partitioner::partition_of;

/// A topic as `topics list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicInfo {
    /// The name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

/// Where a reader starts in one partition and, for a bounded read, where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: TopicPartition,
    /// The first offset to read.
    pub from: Offset,
    /// The offset to stop before; `None`: endless.
    pub to: Option<Offset>,
}

/// Everything Tidemill asks of a broker.
///
/// Contract (suite: `testkit::topic_contract`, run for every kind):
/// 1. `produce` returns once the records are durable, in their order within each partition.
/// 2. A record is readable by every `source` opened after `produce` returned.
/// 3. A [`Publisher`]'s records and its progress appear together or not at all (to read-committed readers).
#[async_trait]
pub trait Broker: Send + Sync {
    /// All topics but the broker's own, by name.
    async fn topics(&self) -> Result<Vec<TopicInfo>>;

    /// Creates a topic; an existing one is left as it is. Returns whether it was created.
    async fn create(&self, topic: &str, partitions: i32) -> Result<bool>;

    /// What committed readers can read of each partition of `topic`, by partition.
    ///
    /// # Errors
    /// If there is no such topic.
    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>>;

    /// The first offset of each partition whose timestamp is at or after `timestamp_ms`; its end if there is none.
    async fn offsets_at(&self, topic: &str, timestamp_ms: i64) -> Result<Vec<Offset>>;

    /// Deletes the records of a partition before `offset`: retention by hand. Returns the earliest offset left.
    /// An offset past the end deletes all there is.
    async fn delete_before(&self, partition: &TopicPartition, offset: Offset) -> Result<Offset>;

    /// Opens a reader over exactly these partitions. If every assignment has an end, the reader ends there.
    async fn source(&self, assignments: &[Assignment]) -> Result<Box<dyn Source>>;

    /// Writes records durably; returns the partition and offset each one got, in order.
    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<(i32, Offset)>>;

    /// Joins the group of processes that share a topic; `None` if this broker has one process only.
    ///
    /// # Errors
    /// If the group cannot be joined.
    async fn join(&self, group: &str, topic: &str) -> Result<Option<Box<dyn Membership>>>;

    /// Tells the broker how far a group's work is committed, so that tools that show lag see it. Nothing is ever read
    /// back from there, and a failure changes nothing.
    async fn note(&self, group: &str, positions: &Positions);

    /// Takes over the publisher `name`: earlier holders are fenced.
    async fn publisher(&self, name: &str) -> Result<Box<dyn Publisher>>;
}

/// This process's place in a group that shares a topic's partitions.
///
/// The group only says who *reads* a partition. Who may *commit* it is said by the fence in the table.
#[async_trait]
pub trait Membership: Send {
    /// The partitions that are ours now, in order.
    fn partitions(&mut self) -> Vec<i32>;

    /// Waits until the share changes, or is about to: then commit what was read, and call [`Membership::released`].
    ///
    /// # Errors
    /// If the group was lost for good.
    async fn changed(&mut self) -> Result<()>;

    /// Says that nothing of the share before the change is held any more; the group goes on. Whoever does not say so in
    /// time is taken for dead, and others take over.
    fn released(&mut self);
}

/// Writes records and a note of progress in one atomic step.
///
/// A call whose future was dropped has an unknown outcome: open the publisher again.
#[async_trait]
pub trait Publisher: Send {
    /// The progress of the last committed step, or `None` before the first.
    fn progress(&self) -> Option<&str>;

    /// Adds records to the open step; opens one if there is none.
    async fn stage(&mut self, topic: &str, records: Vec<NewRecord>) -> Result<()>;

    /// Shows everything staged together with `progress`, or none of it.
    ///
    /// # Errors
    /// Any error leaves nothing staged. If the outcome is unknown ([`BrokerError::CommitUnknown`]) or a newer holder
    /// took over ([`BrokerError::Fenced`]), open the publisher again: its progress tells what happened.
    async fn commit(&mut self, progress: &str) -> Result<()>;

    /// Throws away what was staged since the last commit.
    async fn abort(&mut self) -> Result<()>;
}
