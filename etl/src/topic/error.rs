//! What can go wrong between us and a broker, the same words for every kind.
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::error::{Explain, Retry};
use crate::position::Offset;

/// A failure of a broker, of either kind.
#[derive(Debug, Clone, Error)]
pub enum BrokerError {
    /// There is no such topic.
    #[error("no topic `{topic}`")]
    UnknownTopic {
        /// Where it was looked for.
        broker: String,
        /// The name asked for.
        topic: String,
    },
    /// Retention deleted the position a reader wanted.
    #[error("offset {wanted} was deleted")]
    Gap {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The position asked for.
        wanted: Offset,
        /// The first offset that is left.
        earliest: Offset,
    },
    /// The position is past the end: the topic was made anew or lost its tail.
    #[error("offset {wanted} is past the end {end}")]
    PastEnd {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The position asked for.
        wanted: Offset,
        /// The offset the next record will get.
        end: Offset,
    },
    /// A newer holder took over the publisher.
    #[error("publisher `{publisher}` is fenced")]
    Fenced {
        /// The publisher's name.
        publisher: String,
    },
    /// The topic has no such partition.
    #[error("topic `{topic}` has no partition {partition}")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// How many it has.
        partitions: i32,
    },
    /// The name or partition count is not allowed.
    #[error("topic name `{topic}` is not allowed")]
    TopicName {
        /// The name.
        topic: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A record is bigger than the broker takes.
    #[error("a record of {bytes} bytes is too big")]
    TooBig {
        /// The topic.
        topic: String,
        /// Its size: key, value and headers.
        bytes: usize,
        /// The limit, if known.
        limit: Option<usize>,
    },
    /// No broker answered in time.
    #[error("no broker at `{brokers}` answered within {seconds} s")]
    Unreachable {
        /// The addresses tried.
        brokers: String,
        /// How long we waited.
        seconds: u64,
        /// What the client saw last.
        cause: String,
    },
    /// The broker refused the user, the password or the certificate.
    #[error("broker `{brokers}` refused the log-in")]
    Login {
        /// The addresses tried.
        brokers: String,
        /// What the client saw last.
        cause: String,
    },
    /// The user may not do this.
    #[error("broker `{brokers}` does not allow {doing}")]
    Forbidden {
        /// The broker.
        brokers: String,
        /// What was tried.
        doing: String,
    },
    /// The answer to a commit was lost.
    #[error("the outcome of a commit of publisher `{publisher}` is unknown")]
    CommitUnknown {
        /// The publisher's name.
        publisher: String,
        /// What happened instead of an answer.
        cause: String,
    },
    /// The step was thrown away; none of it is visible.
    #[error("the step of publisher `{publisher}` was aborted")]
    Aborted {
        /// The publisher's name.
        publisher: String,
        /// Why.
        cause: String,
    },
    /// A client property is wrong.
    #[error("Kafka property `{key}` is wrong")]
    Property {
        /// Its name; the value may be a secret and is not kept.
        key: String,
        /// What the client says about it.
        cause: String,
    },
    /// The topics file could not be read or written.
    #[error("topics file failed while {doing}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What `SQLite` said.
        source: Arc<rusqlite::Error>,
    },
    /// The topics file was written by a newer Tidemill.
    #[error("topics file has layout {found}, this version reads up to {known}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// The file's layout.
        found: i64,
        /// The newest layout we know.
        known: i64,
    },
    /// The file is something else.
    #[error("`{path}` is not a topics file")]
    NotTopics {
        /// The file.
        path: PathBuf,
    },
    /// The folder of the topics file could not be made.
    #[error("folder of the topics file cannot be made")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// Anything else the client or broker said.
    #[error("broker failed while {doing}")]
    Client {
        /// The broker.
        brokers: String,
        /// What was tried.
        doing: String,
        /// What was said.
        cause: String,
        /// Whether it may pass.
        retry: bool,
    },
}

impl BrokerError {
    fn disk_full(&self) -> bool {
        matches!(self, Self::Store { source, .. }
            if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
    }

    /// Whether another process held the file for too long.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Store { source, .. } if matches!(source.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)))
    }
}

impl Explain for BrokerError {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownTopic { .. } => "B0001",
            Self::Gap { .. } => "B0002",
            Self::PastEnd { .. } => "B0003",
            Self::Fenced { .. } => "B0004",
            Self::NoPartition { .. } => "B0005",
            Self::TopicName { .. } => "B0006",
            Self::TooBig { .. } => "B0007",
            Self::Unreachable { .. } => "B0008",
            Self::Login { .. } => "B0009",
            Self::Forbidden { .. } => "B0010",
            Self::CommitUnknown { .. } => "B0011",
            Self::Aborted { .. } => "B0012",
            Self::Property { .. } => "B0013",
            Self::Store { .. } | Self::Folder { .. } => "B0014",
            Self::Layout { .. } | Self::NotTopics { .. } => "B0015",
            Self::Client { .. } => "B0016",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::CommitUnknown { .. } | Self::Aborted { .. } => Retry::Later,
            Self::Client { retry, .. } => {
                if *retry {
                    Retry::Later
                } else {
                    Retry::Never
                }
            }
            Self::Store { .. } if self.is_busy() => Retry::Later,
            Self::Gap { .. }
            | Self::PastEnd { .. }
            | Self::UnknownTopic { .. }
            | Self::Login { .. }
            | Self::Forbidden { .. }
            | Self::Property { .. }
            | Self::Store { .. }
            | Self::Folder { .. }
            | Self::Layout { .. } => Retry::AfterPerson,
            Self::Fenced { .. }
            | Self::NoPartition { .. }
            | Self::TopicName { .. }
            | Self::TooBig { .. }
            | Self::NotTopics { .. } => Retry::Never,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::UnknownTopic { broker, .. } => Some(format!("broker `{broker}`")),
            Self::Gap { topic, partition, .. } | Self::PastEnd { topic, partition, .. } => {
                Some(format!("topic `{topic}`, partition {partition}"))
            }
            Self::TooBig { topic, .. } => Some(format!("topic `{topic}`")),
            Self::Forbidden { brokers, .. }
            | Self::Client { brokers, .. }
            | Self::Login { brokers, .. }
            | Self::Unreachable { brokers, .. } => Some(format!("broker `{brokers}`")),
            Self::Store { path, .. }
            | Self::Layout { path, .. }
            | Self::NotTopics { path }
            | Self::Folder { path, .. } => Some(path.display().to_string()),
            Self::Fenced { .. }
            | Self::NoPartition { .. }
            | Self::TopicName { .. }
            | Self::CommitUnknown { .. }
            | Self::Aborted { .. }
            | Self::Property { .. } => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Gap { wanted, earliest, .. } => Some(format!(
                "the earliest offset left is {earliest}; retention removed {} offsets that were not read",
                earliest - wanted
            )),
            Self::PastEnd { .. } => {
                Some("the topic was deleted and made anew, or lost records that had been read".to_owned())
            }
            Self::Fenced { .. } => Some("a newer process took it over; only one may publish under a name".to_owned()),
            Self::NoPartition { partitions, .. } => Some(format!("it has {partitions}, counted from 0")),
            Self::TopicName { problem, .. } => Some((*problem).to_owned()),
            Self::TooBig { limit: Some(limit), .. } => Some(format!("the limit is {limit} bytes")),
            Self::Unreachable { cause, .. }
            | Self::Login { cause, .. }
            | Self::CommitUnknown { cause, .. }
            | Self::Aborted { cause, .. }
            | Self::Property { cause, .. }
            | Self::Client { cause, .. } => Some(cause.clone()),
            Self::NotTopics { .. } => Some("it is a database of something else, or no database at all".to_owned()),
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        let fix = match self {
            Self::UnknownTopic { topic, .. } => {
                return Some(format!(
                    "check the name with `tidemill topics list`, or make it: `tidemill topics create {topic}`"
                ));
            }
            Self::Gap { .. } => {
                "accept the loss by setting the stream back to the earliest offset, or restore the topic"
            }
            Self::PastEnd { .. } => {
                "check that this is the right broker; if the topic was made anew, set the stream back"
            }
            Self::Fenced { .. } => "stop one of the two processes, or give one of them another publisher name",
            Self::NoPartition { .. } => "use a partition the topic has, or leave it out to let the key decide",
            Self::TopicName { .. } => "choose another name",
            Self::TooBig { .. } => {
                "make records smaller (store big values elsewhere), or raise `max.message.bytes` of the topic"
            }
            Self::Unreachable { .. } => {
                "check that the broker runs, that host and port are right and reachable from here, and whether it wants TLS"
            }
            Self::Login { .. } => {
                "check `security.protocol`, `sasl.mechanism`, user name, password and certificates of the broker connection"
            }
            Self::Forbidden { .. } => "ask whoever runs the broker for this permission (ACL)",
            Self::CommitUnknown { .. } => "open the publisher again; its progress says whether the step was committed",
            Self::Aborted { .. } => "do the step again",
            Self::Property { .. } => "correct it in the broker connection; names are those of librdkafka",
            Self::Store { .. } if self.disk_full() => "free space on that disk; nothing of the failed write was kept",
            Self::Store { .. } if self.is_busy() => "another process holds the file for long; try again",
            Self::Store { .. } | Self::Folder { .. } => {
                "check that folder and file can be written and the disk is sound"
            }
            Self::Layout { .. } => "use the newer Tidemill that wrote it",
            Self::NotTopics { .. } => "choose another path for the topics file",
            Self::Client { retry: true, .. } => "it may pass by itself; look at the broker's log if it does not",
            Self::Client { .. } => "look at the broker's log",
        };
        Some(fix.to_owned())
    }
}
