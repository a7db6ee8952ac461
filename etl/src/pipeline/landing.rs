//! What a landing is told, what it works with, and what it reports.
use std::sync::Arc;

use arrow::datatypes::Schema;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use super::body::{OnIncompatible, OnUnknown};
use super::dead_letter::DeadLetters;
use super::decide::Limits;
use super::decode::Reading;
use super::rules::Rule;
use crate::schema_registry::Registry;
use crate::table::{Keeper, Lake, TableName};
use crate::topic::Broker;

/// Reads the wall clock; handed in, because nothing here reads it by itself.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// One topic into one table.
#[derive(Clone)]
pub struct Landing {
    /// The stream's stable name: the identity of its progress. Never a run's id.
    pub stream: String,
    /// The topic.
    pub topic: String,
    /// The table.
    pub table: TableName,
    /// How its values are written: a name in [`super::body::KINDS`].
    pub format: String,
    /// The subject of its values in the registry.
    pub subject: String,
    /// What to do with records whose schema contradicts the table's columns.
    pub on_incompatible: OnIncompatible,
    /// Columns that somebody declared, for formats that name no types.
    pub columns: Option<Schema>,
    /// What to do with fields that no column has, for formats that name no types.
    pub on_unknown: OnUnknown,
    /// The field that gives the event time.
    pub event_time: Option<String>,
    /// How strictly texts are read as event times.
    pub reading: Reading,
    /// Rules that a row has to keep.
    pub rules: Vec<Rule>,
    /// The table's own columns as SQL over the record's, name and expression; none: the record's as they are.
    pub select: Vec<(String, String)>,
    /// Columns of the table that no two rows share the values of; the first wins, later ones are dead letters.
    pub unique_key: Vec<String>,
    /// What local times without an offset mean.
    pub zone: Tz,
    /// What closes a micro-batch.
    pub limits: Limits,
    /// Whether to end at the offsets that were the topic's ends at the start.
    pub drain: bool,
    /// Whether a gap made by retention is recorded among the dead letters and passed over, not an error.
    pub record_gaps: bool,
    /// Whether several processes share the topic's partitions, as members of a group of the stream's name.
    pub shared: bool,
}

impl Landing {
    /// The identity of a partition's progress: the version of this txn is the next offset to read.
    pub fn app(&self, partition: i32) -> String {
        format!("{}/{}/{partition}", self.stream, self.topic)
    }

    /// The identity of a partition's fence.
    pub fn epoch_app(&self, partition: i32) -> String {
        format!("{}/epoch", self.app(partition))
    }
}

/// What a landing works with.
#[derive(Clone)]
pub struct Around {
    /// The lake.
    pub lake: Lake,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// The registry.
    pub registry: Arc<dyn Registry>,
    /// The dead-letter table.
    pub dead: DeadLetters,
    /// The clock.
    pub clock: Clock,
    /// Who keeps the tables in shape; `None`: somebody else does.
    pub keeper: Option<Arc<Keeper>>,
}

/// What a landing did until it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Landed {
    /// Rows committed.
    pub rows: u64,
    /// Dead letters committed.
    pub dead: u64,
    /// Commits made.
    pub commits: u64,
    /// Records that retention deleted before they were read, where the stream records that.
    pub lost: u64,
    /// The table's version.
    pub version: u64,
}
