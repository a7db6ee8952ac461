//! Topics in one `SQLite` file: durable, crash-safe, nothing to install, one machine.
//!
//! Not a broker: other clients, replication and more machines are what Kafka is for. One process or several may have
//! the file open; writers take turns.
//!
//! ```text
//! application_id 0x5449_4D54 ("TIMT"), user_version 1, WAL, synchronous = FULL
//!
//! topics     id │ name (unique) │ partitions
//! lanes      id │ topic │ partition │ earliest │ end │ newest_ms │ indexed   one row per partition
//! records    id = lane << 40 | offset │ timestamp_ms │ key │ value │ headers
//! times      (lane, newest_ms, offset)        "no record of the lane before `offset` is newer than `newest_ms`"
//! publishers name │ epoch │ progress
//! staged     id │ publisher │ epoch │ lane │ timestamp_ms │ key │ value │ headers   big steps before their commit
//!
//! headers: NULL, or per header u32 LE length, name, u32 LE length, value
//! ```
//!
//! The record's id makes a partition one contiguous run of the table's B-tree: a read is one range scan, and up to
//! 8 million partitions of 10¹² records fit. `times` is sparse, one entry per some thousand records.
//!
//! Who owns what: one thread (`writer`) owns the only connection that writes and commits what waits as one
//! transaction, so that many small writers share one fsync. Readers have read-only connections of their own.
//! Dying anywhere loses what was not yet acknowledged and nothing else: `SQLite` rolls the open transaction back.
mod broker;
mod headers;
mod publisher;
mod source;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use broker::EmbeddedTopics;
pub use store::Clock;
