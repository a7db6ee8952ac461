//! What can go wrong when a person works on a stream.
use crate::error::{Explain, Retry};

/// A command on a stream that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// An id that is not `TOPIC/PARTITION/OFFSET`.
    #[error("find the dead letter `{id}`: an id is `TOPIC/PARTITION/OFFSET`")]
    LetterId {
        /// What was written.
        id: String,
    },
    /// Others changed the table each time we were about to.
    #[error("change `{table}`: others changed it again and again meanwhile")]
    Busy {
        /// The table.
        table: String,
    },
    /// A note about a stream in the lake that cannot be understood.
    #[error("read the note `{path}` in the lake")]
    Note {
        /// Where it is.
        path: String,
        /// Why not.
        why: String,
    },
    /// An offset that a partition does not have.
    #[error("move to offset {offset} of `{topic}/{partition}`")]
    Offset {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: i64,
        /// The first one left.
        earliest: i64,
        /// The one the next record will get.
        end: i64,
    },
    /// A partition that a topic does not have.
    #[error("find partition {partition} of `{topic}`")]
    Partition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// How many there are.
        partitions: usize,
    },
    /// No backfill is under way.
    #[error("find a backfill of `{topic}`: there is none")]
    NoBackfill {
        /// The topic.
        topic: String,
    },
    /// A backfill of other offsets is under way.
    #[error("begin a backfill of `{topic}`: one of other offsets is under way")]
    OtherBackfill {
        /// The topic.
        topic: String,
    },
    /// A range without offsets.
    #[error("begin a backfill of `{topic}`: there is no offset in the range")]
    Empty {
        /// The topic.
        topic: String,
    },
    /// The shadow or the live table has not all of the range yet.
    #[error("swap the backfill of `{topic}/{partition}`: offsets before {to} are not all there")]
    NotReady {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The end of the range.
        to: i64,
        /// The next offset that the shadow reads.
        shadow: Option<i64>,
        /// The next offset that the live stream reads.
        live: Option<i64>,
    },
    /// Arrow refused something that should fit.
    #[error("read the rows of `{table}`")]
    Arrow {
        /// The table.
        table: String,
        /// The cause.
        source: arrow::error::ArrowError,
    },
}

impl StreamError {
    pub(super) fn arrow(table: &impl ToString) -> impl Fn(arrow::error::ArrowError) -> Self {
        let table = table.to_string();
        move |source| Self::Arrow { table: table.clone(), source }
    }
}

impl Explain for StreamError {
    fn code(&self) -> &'static str {
        match self {
            Self::LetterId { .. } => "L0302",
            Self::Busy { .. } => "L0303",
            Self::Arrow { .. } => "L0304",
            Self::Note { .. } => "L0305",
            Self::Offset { .. } => "L0306",
            Self::Partition { .. } => "L0307",
            Self::NoBackfill { .. } => "L0309",
            Self::OtherBackfill { .. } => "L0310",
            Self::Empty { .. } => "L0311",
            Self::NotReady { .. } => "L0312",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Busy { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Note { why, .. } => Some(why.clone()),
            Self::Offset { earliest, end, .. } => Some(format!("the topic has the offsets from {earliest} to {end}")),
            Self::Partition { partitions, .. } => Some(format!("the topic has {partitions}, counted from 0")),
            Self::NotReady { shadow, live, .. } => {
                let at = |next: &Option<i64>| next.map_or_else(|| "nothing".to_owned(), |next| next.to_string());
                Some(format!("the shadow is at {}, the live stream at {}", at(shadow), at(live)))
            }
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::LetterId { .. } => Some("see `tidemill dead-letters list`".to_owned()),
            Self::Busy { .. } => Some(
                "do it again, after `tidemill streams pause` if the stream lands all the time; nothing is lost or doubled"
                    .to_owned(),
            ),
            Self::NoBackfill { .. } => {
                Some("begin one: `tidemill streams backfill STREAM --topic TOPIC --from PLACE --to PLACE`".to_owned())
            }
            Self::OtherBackfill { .. } => {
                Some("drop that one first: `tidemill streams backfill STREAM drop --topic TOPIC`".to_owned())
            }
            Self::NotReady { .. } => Some("run the same backfill again, and let the stream land what is there".to_owned()),
            Self::Offset { .. } => Some("`tidemill topics show` says what is left of each partition".to_owned()),
            _ => None,
        }
    }
}
