//! What can be wrong with a catalogue file as a whole.
use crate::error::{Explain, Retry};

/// What is wrong with the content of a file, wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not one byte.
    #[error("the file is empty")]
    Empty,
    /// A NUL byte: not a text file, or one with two bytes per character.
    #[error("line {line} holds a NUL byte, so this is not a text file")]
    Binary {
        /// The line of the first NUL byte.
        line: u64,
    },
    /// No header line `ITEM n`.
    #[error("there is no header line `ITEM n` in it; it begins with `{first}`")]
    NoItems {
        /// The beginning of the first line.
        first: String,
    },
    /// One item beyond the limit of what is held in memory.
    #[error("item {item} has more than {limit} bytes")]
    TooLarge {
        /// Its number.
        item: i64,
        /// The line of its header.
        line: u64,
        /// The limit in bytes.
        limit: usize,
    },
}

/// Why a catalogue cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// The content is not a catalogue.
    #[error("cannot read the catalogue `{file}`: {problem}")]
    Content {
        /// Path or URL.
        file: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// There is no such file.
    #[error("cannot read the catalogue `{file}`: there is no such file")]
    Missing {
        /// Path or URL.
        file: String,
    },
    /// It was replaced or written to while it was read.
    #[error("cannot read the catalogue `{file}`: it changed while it was read")]
    Changed {
        /// Path or URL.
        file: String,
    },
    /// The disk or the store failed.
    #[error("cannot read the catalogue `{file}`")]
    Read {
        /// Path or URL.
        file: String,
        /// The store's own words.
        #[source]
        source: object_store::Error,
    },
    /// Neither a path nor a URL that can be opened.
    #[error("cannot use `{location}` as the place of a catalogue: {reason}")]
    Location {
        /// As written.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Rows could not be built, which is a fault of this program.
    #[error("cannot build the rows of the catalogue `{file}`")]
    Rows {
        /// Path or URL.
        file: String,
        /// Arrow's own words.
        #[source]
        source: arrow::error::ArrowError,
    },
}

impl ItemError {
    /// Sorts what a store answered.
    pub(super) fn of_store(file: &str, source: object_store::Error) -> Self {
        let file = file.to_owned();
        match source {
            object_store::Error::NotFound { .. } => Self::Missing { file },
            object_store::Error::Precondition { .. } => Self::Changed { file },
            source => Self::Read { file, source },
        }
    }
}

impl Explain for ItemError {
    fn code(&self) -> &'static str {
        match self {
            Self::Content { problem: Problem::Empty, .. } => "F0101",
            Self::Content { problem: Problem::Binary { .. }, .. } => "F0102",
            Self::Content { problem: Problem::NoItems { .. }, .. } => "F0103",
            Self::Content { problem: Problem::TooLarge { .. }, .. } => "F0104",
            Self::Missing { .. } => "F0105",
            Self::Changed { .. } => "F0106",
            Self::Read { .. } => "F0107",
            Self::Location { .. } => "F0108",
            Self::Rows { .. } => "F0109",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Content { .. } | Self::Missing { .. } | Self::Location { .. } => Retry::AfterPerson,
            Self::Changed { .. } => Retry::Later,
            Self::Read { source, .. } => match source {
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    Retry::AfterPerson
                }
                _ => Retry::Later,
            },
            Self::Rows { .. } => Retry::Never,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::Content { file, problem: Problem::Binary { line } | Problem::TooLarge { line, .. } } => {
                Some(format!("{file}:{line}"))
            }
            Self::Content { file, .. }
            | Self::Missing { file }
            | Self::Changed { file }
            | Self::Read { file, .. }
            | Self::Rows { file, .. } => Some(file.clone()),
            Self::Location { .. } => None,
        }
    }

    fn fix(&self) -> Option<String> {
        let text = match self {
            Self::Content { problem: Problem::Empty, .. } => "wait until the file is written, or remove it",
            Self::Content { problem: Problem::Binary { .. }, .. } => {
                "unpack it if it is compressed; save it as UTF-8 or Windows-1252 if it is UTF-16"
            }
            Self::Content { problem: Problem::NoItems { .. }, .. } => {
                "give a catalogue whose items begin with a line like `ITEM 1`"
            }
            Self::Content { problem: Problem::TooLarge { .. }, .. } => {
                "look at the lines after that header: a header of the next item is probably damaged"
            }
            Self::Missing { .. } => "check the path; a relative one starts at the folder of tidemill.toml",
            Self::Changed { .. } => {
                "run it again when the file is complete; move files into place instead of writing there"
            }
            Self::Read { .. } => "check that the file can be read, and the connection if it is in an object store",
            Self::Location { .. } => "give a path, or a URL such as `s3://bucket/Movies.txt`",
            Self::Rows { .. } => return None,
        };
        Some(text.to_owned())
    }
}
