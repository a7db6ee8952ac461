//! What can go wrong in a sink, each with its code (K…) and a page in `docs/errors/`.
use datafusion::error::DataFusionError;
use thiserror::Error;

use crate::error::{Explain, Retry};

/// A failure of a sink. No variant ever holds a password.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are the words of each variant's message")]
pub enum SinkError {
    /// A kind that is not in the list.
    #[error("unknown sink kind `{kind}`")]
    UnknownKind { kind: String },
    /// A connection's settings do not make sense.
    #[error("the settings of the {sink} sink are wrong: {reason}")]
    Settings { sink: &'static str, reason: String },
    /// Nobody answers.
    #[error("{sink} cannot be reached at `{address}`")]
    Unreachable { sink: &'static str, address: String, reason: String, fix: String },
    /// Somebody answers and does not let us in.
    #[error("{sink} at `{address}` refuses the log-in of `{user}`")]
    Login { sink: &'static str, address: String, user: String, reason: String },
    /// We are in, and may not do what we must.
    #[error("missing rights for `{table}` in {sink}")]
    Rights { sink: &'static str, table: String, reason: String },
    /// A column's values would no longer all fit.
    #[error("column `{column}` of `{table}` changed from {held} to {offered}")]
    TypeChanged { sink: &'static str, table: String, column: String, held: String, offered: String },
    /// One value the sink cannot hold.
    #[error("a value of column `{column}` of `{table}` cannot be stored in {sink}")]
    Value { sink: &'static str, table: String, column: String, row: u64, reason: String, fix: String },
    /// The sink is ahead.
    #[error("`{table}` is loaded up to version {held}, newer than version {offered}")]
    Older { table: String, held: i64, offered: i64 },
    /// The unique key is missing or is none.
    #[error("the key of `{table}` does not hold")]
    Key { table: String, reason: String, fix: String },
    /// The target belongs to something else.
    #[error("the table `{target}` in {sink} is not `{origin}`'s to write")]
    Taken { sink: &'static str, target: String, origin: String, owner: Option<String> },
    /// The connection went away.
    #[error("the connection to {sink} was lost while loading `{table}`")]
    Lost { sink: &'static str, table: String, reason: String },
    /// A name or type the sink has nothing for.
    #[error("column `{column}` of `{table}` cannot be kept in {sink}")]
    Unsupported { sink: &'static str, table: String, column: String, reason: String },
    /// The database refused a statement for another reason.
    #[error("{sink} refused a statement for `{table}`")]
    Refused { sink: &'static str, table: String, reason: String },
    /// The file cannot be opened or written.
    #[error("the {sink} file `{path}` cannot be used")]
    File { sink: &'static str, path: String, reason: String, fix: String },
    /// Somebody holds a lock for too long.
    #[error("`{table}` in {sink} is locked by somebody else")]
    Busy { sink: &'static str, table: String, reason: String },
    /// The calls or the batches do not fit the load.
    #[error("a batch for `{table}` does not fit the load: {reason}")]
    Mismatch { table: String, reason: String },
    /// The rows themselves could not be read.
    #[error("the rows of `{table}` cannot be read")]
    Rows {
        table: String,
        #[source]
        cause: DataFusionError,
    },
}

impl Explain for SinkError {
    fn code(&self) -> &'static str {
        match self {
            Self::UnknownKind { .. } => "K0001",
            Self::Settings { .. } => "K0002",
            Self::Unreachable { .. } => "K0003",
            Self::Login { .. } => "K0004",
            Self::Rights { .. } => "K0005",
            Self::TypeChanged { .. } => "K0006",
            Self::Value { .. } => "K0007",
            Self::Older { .. } => "K0008",
            Self::Key { .. } => "K0009",
            Self::Taken { .. } => "K0010",
            Self::Lost { .. } => "K0011",
            Self::Unsupported { .. } => "K0012",
            Self::Refused { .. } => "K0013",
            Self::File { .. } => "K0014",
            Self::Busy { .. } => "K0015",
            Self::Mismatch { .. } => "K0016",
            Self::Rows { .. } => "K0017",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Busy { .. } => Retry::Later,
            Self::Older { .. } | Self::Mismatch { .. } | Self::Rows { .. } => Retry::Never,
            _ => Retry::AfterPerson,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::Value { table, column, row, .. } => Some(format!("table `{table}`, column `{column}`, row {row}")),
            Self::TypeChanged { table, column, .. } | Self::Unsupported { table, column, .. } => {
                Some(format!("table `{table}`, column `{column}`"))
            }
            Self::Rights { table, .. }
            | Self::Older { table, .. }
            | Self::Key { table, .. }
            | Self::Lost { table, .. }
            | Self::Refused { table, .. }
            | Self::Busy { table, .. }
            | Self::Mismatch { table, .. }
            | Self::Rows { table, .. } => Some(format!("table `{table}`")),
            Self::Taken { target, .. } => Some(format!("table `{target}`")),
            Self::Unreachable { address, .. } | Self::Login { address, .. } => Some(address.clone()),
            Self::File { path, .. } => Some(path.clone()),
            Self::UnknownKind { .. } | Self::Settings { .. } => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::UnknownKind { .. } => {
                let known: Vec<_> = super::KINDS.iter().map(|kind| kind.name).collect();
                Some(format!("known kinds are {}", known.join(", ")))
            }
            Self::Unreachable { reason, .. }
            | Self::Login { reason, .. }
            | Self::Rights { reason, .. }
            | Self::Value { reason, .. }
            | Self::Key { reason, .. }
            | Self::Lost { reason, .. }
            | Self::Unsupported { reason, .. }
            | Self::Refused { reason, .. }
            | Self::File { reason, .. }
            | Self::Busy { reason, .. } => Some(reason.clone()),
            Self::TypeChanged { .. } => Some("values of the one do not all fit the other".to_owned()),
            Self::Older { .. } => Some("a newer version was loaded since this one was read".to_owned()),
            Self::Taken { owner: Some(owner), .. } => Some(format!("it shows `{owner}`")),
            Self::Taken { owner: None, .. } => {
                Some("it has rows and no entry in the ledger, so something else made it".to_owned())
            }
            Self::Settings { .. } | Self::Mismatch { .. } | Self::Rows { .. } => None,
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::UnknownKind { .. } => "set `kind` to one of the known kinds".to_owned(),
            Self::Settings { .. } => "correct the connection in the settings".to_owned(),
            Self::Unreachable { fix, .. }
            | Self::Value { fix, .. }
            | Self::Key { fix, .. }
            | Self::File { fix, .. } => fix.clone(),
            Self::Login { .. } => "check user, password and database of the connection".to_owned(),
            Self::Rights { .. } => {
                "let the user create in the schema and in temporary space: `GRANT USAGE, CREATE ON SCHEMA … TO …` and \
                 `GRANT CREATE, TEMPORARY ON DATABASE … TO …`; existing tables must belong to it"
                    .to_owned()
            }
            Self::TypeChanged { table, .. } => format!(
                "cast the column in the model to its old type, or drop `{table}` in the sink; the next load makes it anew"
            ),
            Self::Older { .. } => "nothing to do: the sink is ahead of this load".to_owned(),
            Self::Taken { .. } => "drop or rename that table, or load to another name".to_owned(),
            Self::Lost { .. } => "load again; a version that did arrive is not loaded twice".to_owned(),
            Self::Unsupported { .. } => "rename or cast the column in the model".to_owned(),
            Self::Refused { .. } => "the cause above is the database's own; correct it there and load again".to_owned(),
            Self::Busy { .. } => "load again later, or end the session that holds the lock".to_owned(),
            Self::Mismatch { .. } | Self::Rows { .. } => return None,
        })
    }
}
