//! What can stop a landing.
use crate::error::{Explain, Retry};
use crate::position::TopicPartition;

/// A failure of a stream. A bad record is not one: it becomes a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum LandingError {
    /// Retention deleted what was not read yet.
    #[error("continue reading `{partition}`: offset {wanted} was deleted")]
    Gap {
        /// The partition.
        partition: TopicPartition,
        /// The next offset to read.
        wanted: i64,
        /// The first one left.
        earliest: i64,
    },
    /// The table says more was read than the topic has.
    #[error("continue reading `{partition}`: the table is at offset {wanted}, the topic ends at {end}")]
    Ahead {
        /// The partition.
        partition: TopicPartition,
        /// The next offset to read.
        wanted: i64,
        /// The topic's end.
        end: i64,
    },
    /// There is no schema to make a table from.
    #[error("land the topic `{topic}`: the subject `{subject}` has no schema")]
    NoSchema {
        /// The topic.
        topic: String,
        /// The subject looked up.
        subject: String,
    },
    /// A schema in the registry is not Avro.
    #[error("read the schema `{subject}`")]
    BadSchema {
        /// The subject, or `id n`.
        subject: String,
        /// Why not.
        why: String,
    },
    /// The column that should give the event time is not there.
    #[error("land the topic `{topic}`: its schema has no field `{field}` for the event time")]
    NoEventTime {
        /// The topic.
        topic: String,
        /// The field asked for.
        field: String,
    },
    /// A schema contradicts the table's columns, and the stream was told to stop then.
    #[error("land records of the topic `{topic}` that were written with schema {id}")]
    Incompatible {
        /// The topic.
        topic: String,
        /// The schema.
        id: i32,
        /// The field and both schemas.
        why: String,
    },
    /// The setting `format` names no way of writing records.
    #[error("read the topic `{topic}` as `{format}`: there is no such format")]
    NoFormat {
        /// The topic.
        topic: String,
        /// The name given.
        format: String,
    },
    /// A rule cannot be asked.
    #[error("land the topic `{topic}`: the rule `{rule}` cannot be asked")]
    Rule {
        /// The topic.
        topic: String,
        /// The rule.
        rule: String,
        /// The column that is not there, if that is it.
        column: Option<String>,
        /// Why not.
        why: String,
    },
    /// A column of the table cannot be made.
    #[error("land the topic `{topic}`: the column `{column}` cannot be made")]
    Column {
        /// The topic.
        topic: String,
        /// The column.
        column: String,
        /// Why not.
        why: String,
    },
    /// A column of `unique_key` is not in the table.
    #[error("land the topic `{topic}`: there is no column `{column}` to be unique by")]
    UniqueKey {
        /// The topic.
        topic: String,
        /// The column.
        column: String,
    },
    /// The process is ending.
    #[error("finish a commit: the process is stopping")]
    Stopping,
    /// The schema beside a payload contradicts the table's columns, and the stream was told to stop then.
    #[error("land records of the topic `{topic}`: their schema contradicts the table")]
    Contradicts {
        /// The topic.
        topic: String,
        /// The field, and both types.
        why: String,
    },
    /// A column is declared with another type than the table has.
    #[error("land the topic `{topic}`: `{column}` is declared as {declared}, and in the table it is {there}")]
    Declared {
        /// The topic.
        topic: String,
        /// The column.
        column: String,
        /// The type that was declared.
        declared: String,
        /// The table's.
        there: String,
    },
    /// Arrow refused something that should fit.
    #[error("decode the topic `{topic}`")]
    Arrow {
        /// The topic.
        topic: String,
        /// The cause.
        source: arrow::error::ArrowError,
    },
}

impl Explain for LandingError {
    fn code(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "L0203",
            Self::Ahead { .. } => "L0204",
            Self::NoSchema { .. } => "L0205",
            Self::BadSchema { .. } => "L0206",
            Self::NoEventTime { .. } => "L0207",
            Self::Arrow { .. } => "L0208",
            Self::Incompatible { .. } => "L0209",
            Self::NoFormat { .. } => "L0210",
            Self::Rule { column: None, .. } => "L0350",
            Self::Rule { column: Some(_), .. } => "L0351",
            Self::Column { .. } => "L0352",
            Self::UniqueKey { .. } => "L0353",
            Self::Stopping => "L0220",
            Self::Declared { .. } => "L0211",
            Self::Contradicts { .. } => "L0212",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Stopping => Retry::Later,
            _ => Retry::AfterPerson,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::Gap { partition, .. } | Self::Ahead { partition, .. } => {
                Some(format!("topic `{}`, partition {}", partition.topic, partition.partition))
            }
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Gap { wanted, earliest, .. } => Some(format!(
                "the earliest offset left is {earliest}; retention removed {} records we had not read",
                earliest - wanted
            )),
            Self::Ahead { .. } => Some("the topic was deleted and made anew, or this is another cluster".to_owned()),
            Self::BadSchema { why, .. }
            | Self::Incompatible { why, .. }
            | Self::Contradicts { why, .. }
            | Self::Rule { why, .. }
            | Self::Column { why, .. } => Some(why.clone()),
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Gap { .. } => {
                Some("restore the topic, or accept the loss with `on_gap = \"record\"` on the task".to_owned())
            }
            Self::Ahead { .. } => Some("give the stream a new name, so that it starts a history of its own".to_owned()),
            Self::NoSchema { subject, .. } => Some(format!(
                "register one: `tidemill schemas add {subject} FILE`, or map the topic under [schemas.subjects]"
            )),
            Self::NoEventTime { .. } => Some("name another field as `event_time`, or leave the setting out".to_owned()),
            Self::Rule { .. } => Some(
                "a rule is a SQL expression over the record's columns that is TRUE for good rows: `amount > 0`"
                    .to_owned(),
            ),
            Self::Column { .. } => Some(
                "a column is a SQL expression over the record's columns: `CAST(amount AS DECIMAL(10, 2))`".to_owned(),
            ),
            Self::UniqueKey { .. } => Some("name columns of the table as `unique_key`".to_owned()),
            Self::Incompatible { .. } => Some(
                "register a schema that the table can follow, or let such records be dead letters: \
                 `on_incompatible = \"dead_letter\"` on the task; they can be replayed"
                    .to_owned(),
            ),
            Self::Contradicts { .. } => Some(
                "land it in a new table, or let such records be dead letters: `on_incompatible = \"dead_letter\"`"
                    .to_owned(),
            ),
            Self::Declared { there, .. } => Some(format!(
                "declare it as {there}, or land the topic in a new table: a column never changes its type"
            )),
            Self::NoFormat { .. } => {
                let known: Vec<&str> = super::body::KINDS.iter().map(|kind| kind.name).collect();
                Some(format!("one of: {}", known.join(", ")))
            }
            _ => None,
        }
    }
}
