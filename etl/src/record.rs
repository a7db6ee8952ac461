//! Undecoded bytes with a position, as topics hold them.
use std::sync::Arc;

use bytes::Bytes;

use crate::position::{Offset, TopicPartition};

/// One record as read from a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition it was read from.
    pub partition: Arc<TopicPartition>,
    /// Its offset there.
    pub offset: Offset,
    /// Milliseconds since 1970, UTC, as the producer or the broker set it.
    pub timestamp_ms: i64,
    /// The key, if the producer gave one.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in the producer's order; a name may repeat.
    pub headers: Vec<(String, Bytes)>,
}

impl Record {
    /// Bytes of its key, value and headers.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        headers + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A record to be written; the broker gives it its offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecord {
    /// The partition, or `None` to let the key decide (murmur2 as the Java client does; no key: round robin).
    pub partition: Option<i32>,
    /// Milliseconds since 1970, UTC; `None`: the moment of writing.
    pub timestamp_ms: Option<i64>,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(String, Bytes)>,
}
