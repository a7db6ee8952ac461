//! What can go wrong with a stream of files.
use arrow::error::ArrowError;

use crate::error::{Explain, Retry};
use crate::format::SchemaError;

/// A failure to list, read or land files. Bad rows are none: they are dead letters.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Neither a path nor a URL that this build can read, or nothing is there.
    #[error("list the files of `{place}`")]
    Location {
        /// As written.
        place: String,
        /// Why not.
        why: String,
    },
    /// The name does not say what the file holds.
    #[error("tell the format of `{file}` by its name")]
    Format {
        /// The file.
        file: String,
    },
    /// The bytes are not what the name or the setting says.
    #[error("read `{file}` as {expected}")]
    Content {
        /// The file.
        file: String,
        /// What it should be.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// It ends too early, or is damaged in a way that no row can be trusted to be the last.
    #[error("read `{file}` to its end")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The first line of a CSV file cannot name columns.
    #[error("use the header of `{file}`")]
    Header {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file that has landed is another one now.
    #[error("land `{file}`: it has changed since it was landed")]
    Changed {
        /// The file.
        file: String,
        /// The table that has its rows.
        table: String,
    },
    /// A typed file has a column that the table cannot take.
    #[error("land `{file}`: its column `{column}` does not fit")]
    Column {
        /// The file; or the setting that declares it.
        file: String,
        /// The column.
        column: String,
        /// Its type in the file, or what is wrong with it.
        found: String,
        /// Its type in the table.
        table_type: String,
    },
    /// A setting that cannot be.
    #[error("use `{key}` of the task")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The storage failed.
    #[error("{doing} `{place}`")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        place: String,
        /// The cause.
        source: object_store::Error,
    },
    /// Somebody wrote to the file while it was read.
    #[error("read `{file}`: it changed meanwhile")]
    Moving {
        /// The file.
        file: String,
    },
    /// Somebody asked to stop.
    #[error("finish landing `{place}`: it was asked to stop")]
    Stopped {
        /// The listing.
        place: String,
    },
    /// The field for the event time is in no column.
    #[error("find the event time of `{file}`")]
    EventTime {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk for temporary files failed.
    #[error("unpack `{file}` into a temporary file")]
    Spool {
        /// The file.
        file: String,
        /// The cause.
        source: std::io::Error,
    },
    /// Columns or rows were refused that passed every check.
    #[error("build rows of `{file}`")]
    Rows {
        /// The file.
        file: String,
        /// The cause.
        source: ArrowError,
    },
    /// Columns that cannot be stored.
    #[error("store the columns of `{file}`")]
    Schema {
        /// The file.
        file: String,
        /// The cause.
        source: SchemaError,
    },
}

impl FilesError {
    /// Whether the file itself is at fault, so that other files can go on, and `on_bad_file` says what becomes of it.
    pub fn of_the_file(&self) -> bool {
        matches!(
            self,
            Self::Format { .. }
                | Self::Content { .. }
                | Self::Damaged { .. }
                | Self::Header { .. }
                | Self::Column { .. }
                | Self::EventTime { .. }
                | Self::Schema { .. }
        )
    }

    /// One word to count by.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Format { .. } | Self::Content { .. } => "file_format",
            Self::Header { .. } => "file_header",
            Self::Column { .. } | Self::Schema { .. } => "file_columns",
            Self::EventTime { .. } => "event_time",
            _ => "file_damaged",
        }
    }
}

impl Explain for FilesError {
    fn code(&self) -> &'static str {
        match self {
            Self::Location { .. } => "F0501",
            Self::Format { .. } => "F0502",
            Self::Content { .. } => "F0503",
            Self::Damaged { .. } => "F0504",
            Self::Header { .. } => "F0505",
            Self::Changed { .. } => "F0506",
            Self::Column { .. } => "F0507",
            Self::Setting { .. } => "F0508",
            Self::Storage { .. } => "F0509",
            Self::Moving { .. } => "F0510",
            Self::Stopped { .. } => "F0511",
            Self::EventTime { .. } => "F0512",
            Self::Spool { .. } => "F0513",
            Self::Rows { .. } => "F0514",
            Self::Schema { .. } => "F0515",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Storage { .. } | Self::Moving { .. } | Self::Stopped { .. } => Retry::Later,
            Self::Spool { .. } => Retry::AfterPerson,
            _ => Retry::Never,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::Format { file }
            | Self::Content { file, .. }
            | Self::Damaged { file, .. }
            | Self::Header { file, .. }
            | Self::Changed { file, .. }
            | Self::Column { file, .. } => Some(file.clone()),
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Location { why, .. }
            | Self::Damaged { why, .. }
            | Self::Header { why, .. }
            | Self::Setting { why, .. }
            | Self::EventTime { why, .. } => Some(why.clone()),
            Self::Format { .. } => Some(
                "the name ends in none of .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .avro (before .gz, .zst)"
                    .into(),
            ),
            Self::Content { found, .. } => Some(found.clone()),
            Self::Changed { table, .. } => Some(format!(
                "`{table}` has the rows of this name in another size or time of change; they stay as they are"
            )),
            Self::Column { found, table_type, .. } if table_type.is_empty() => Some(found.clone()),
            Self::Column { found, table_type, .. } => {
                Some(format!("the file has `{found}`, the table has `{table_type}`"))
            }
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        let text = match self {
            Self::Location { .. } => {
                "give a file, a folder or a pattern below the project, or s3://bucket/prefix/*.csv"
            }
            Self::Format { .. } => "set `format`, or narrow `path` to the files that are meant",
            Self::Content { .. } => "rename the file to what it is, or set `format`",
            Self::Damaged { .. } => {
                "deliver the file again; nothing of it was landed. Or let it go with `on_bad_file = \"dead_letter\"`"
            }
            Self::Header { .. } => "correct the header, or set `header = false` and declare `columns`",
            Self::Changed { .. } => {
                "deliver changes under new names; or set `on_change` to \"append\" (land it again) or \"ignore\""
            }
            Self::Column { .. } => "deliver the column in the table's type, or land the file in another table",
            Self::Setting { .. } => "see `tidemill kinds` for what each key takes",
            Self::Moving { .. } => "let the writer finish before the file gets its name; it is tried again",
            Self::Stopped { .. } => "run it again: files that were landed are not landed twice",
            Self::EventTime { .. } => "name a field that every file has in `event_time`",
            Self::Spool { .. } => "free space on the disk of temporary files and run it again",
            Self::Rows { .. } => "report it, with the file if you can",
            Self::Schema { .. } => "declare the column as text in `columns`, or change the file",
            Self::Storage { .. } => return None,
        };
        Some(text.to_owned())
    }
}
