//! What can be wrong with a pair of schemas, before any record is read.
use arrow::error::ArrowError;
use thiserror::Error;

use crate::error::Explain;

/// Why a schema cannot be stored, or why records of one schema cannot become rows of another.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// The text is not an Avro schema, or names a type that it does not define.
    #[error("read the avro schema")]
    Parse(#[source] Box<apache_avro::Error>),
    /// A type contains itself; a table has a fixed number of columns.
    #[error("store `{path}`: the type `{name}` contains itself")]
    Recursive {
        /// The field that closes the circle.
        path: String,
        /// The type's full name.
        name: String,
    },
    /// More levels or types than [`crate::format::avro`] allows.
    #[error("store `{path}`: the schema has more than {limit} {what}")]
    TooLarge {
        /// The field where the limit was reached.
        path: String,
        /// What is limited: levels or types.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A type that no Delta column can hold.
    #[error("store `{path}` of type {found}: {why}")]
    Unsupported {
        /// The field.
        path: String,
        /// Its type, as the schema states it.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The field is there on both sides and the types do not go together.
    #[error("read `{path}`: the writer has {writer}, the table has {target}")]
    Mismatch {
        /// The field.
        path: String,
        /// The writer's type.
        writer: String,
        /// The column's type.
        target: String,
    },
    /// A required column that the writer does not write and that has no default.
    #[error("fill `{path}`: the writer does not have it, and the column ({target}) is required")]
    Missing {
        /// The column.
        path: String,
        /// Its type.
        target: String,
    },
    /// A default that is not a value of its own type.
    #[error("use the default of `{path}`: {why}")]
    Default {
        /// The field.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The columns did not form a batch: a fault of this program.
    #[error("build rows")]
    Rows(#[from] ArrowError),
}

impl SchemaError {
    /// The field that it is about, as `device.os` or `tags[]`.
    pub(crate) fn path(&self) -> Option<&str> {
        match self {
            Self::Recursive { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Mismatch { path, .. }
            | Self::Missing { path, .. }
            | Self::Default { path, .. } => Some(path),
            Self::Parse(_) | Self::Rows(_) => None,
        }
    }
}

impl Explain for SchemaError {
    fn code(&self) -> &'static str {
        match self {
            Self::Parse(_) | Self::Recursive { .. } | Self::TooLarge { .. } | Self::Unsupported { .. } => "F0201",
            Self::Mismatch { .. } | Self::Missing { .. } | Self::Default { .. } => "F0202",
            Self::Rows(_) => "F0207",
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Parse(_) => None,
            Self::Recursive { .. } => Some("flatten the type, or send that part as a string of JSON".into()),
            Self::TooLarge { .. } | Self::Unsupported { .. } => {
                Some("change the type, or send that part as a string or as bytes".into())
            }
            Self::Mismatch { .. } => Some(
                "only int → long → float → double and string ↔ bytes are promotions in Avro; \
                 give the field a new name, or land it in a new table"
                    .into(),
            ),
            Self::Missing { .. } => {
                Some("give the field a default in the reader's schema, or make the column nullable".into())
            }
            Self::Default { path, .. } => Some(format!("correct the default of `{path}` in the schema")),
            Self::Rows(_) => Some("report it: rows were refused that passed every check".into()),
        }
    }
}

/// The path of `field` inside `parent`; the root has the empty path.
pub(crate) fn join(parent: &str, field: &str) -> String {
    if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") }
}

/// A path as a message shows it.
pub(crate) fn shown(path: &str) -> String {
    if path.is_empty() { "the record".to_owned() } else { format!("`{path}`") }
}
