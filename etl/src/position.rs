//! Where a reader stands: partitions, offsets, and the half-open ranges between them.
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of a record in its partition. As a position it is the *next* offset to read.
pub type Offset = i64;

/// One ordered lane of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition of a topic.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// Whether this is that partition of that topic.
    pub fn is(&self, topic: &str, partition: i32) -> bool {
        self.partition == partition && self.topic == topic
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The next offset to read of each partition.
pub type Positions = BTreeMap<TopicPartition, Offset>;

/// What retention has left of a partition: the half-open range `[earliest, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The first offset that can still be read.
    pub earliest: Offset,
    /// The offset the next record will get.
    pub end: Offset,
}
