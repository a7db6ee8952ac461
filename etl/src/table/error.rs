//! What can go wrong with a table.
use std::time::Duration;

use deltalake::DeltaTableError;

use crate::error::{Explain, Retry};

/// A failure of the lake or of one of its tables.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A name that is not `schema.table`.
    #[error("use `{name}` as a table name")]
    Name {
        /// What was written.
        name: String,
    },
    /// No such table.
    #[error("find the table `{table}`")]
    Missing {
        /// The table.
        table: String,
        /// Names that look alike.
        near: Vec<String>,
    },
    /// The lake's place is unusable.
    #[error("open the lake at `{url}`")]
    Lake {
        /// Where it was looked for.
        url: String,
        /// Why it failed.
        why: String,
    },
    /// Another writer was there first, and what it did touches what we wanted to do.
    #[error("commit to `{table}`: another writer changed it")]
    Conflict {
        /// The table.
        table: String,
        /// The version that got in the way.
        version: u64,
    },
    /// Another process has taken over.
    #[error("commit to `{table}`: another process holds `{app}` now")]
    Fenced {
        /// The table.
        table: String,
        /// The identity that was taken over.
        app: String,
        /// Progress as we knew it.
        known: Option<i64>,
        /// Progress as the table has it.
        found: Option<i64>,
    },
    /// A file that says which versions are published makes no sense.
    #[error("read which tables are published together from `{path}`")]
    Publication {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// No such publication.
    #[error("roll back to publication {number}: the newest is {newest}")]
    NoPublication {
        /// What was asked for.
        number: u64,
        /// The newest.
        newest: u64,
    },
    /// Files cannot be rearranged while something is computed from them.
    #[error("rearrange the files of `{table}` now")]
    Busy {
        /// The table.
        table: String,
    },
    /// Files would be deleted that somebody may still read.
    #[error("vacuum `{table}`: {} hours are too few", wanted.as_secs() / 3600)]
    Horizon {
        /// The table.
        table: String,
        /// What was asked for.
        wanted: Duration,
        /// The least.
        least: Duration,
    },
    /// A version that cannot be read, or never was.
    #[error("read version {version} of `{table}`")]
    Version {
        /// The table.
        table: String,
        /// The version.
        version: u64,
        /// The newest there is.
        newest: u64,
    },
    /// A version whose files are gone.
    #[error("restore version {version} of `{table}`: {files} of its files are gone")]
    Vacuumed {
        /// The table.
        table: String,
        /// The version.
        version: u64,
        /// How many files.
        files: usize,
        /// One of them.
        file: String,
    },
    /// The table's columns and the rows' columns do not fit.
    #[error("write to `{table}`: column `{column}` does not fit")]
    Schema {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What the table has.
        table_type: String,
        /// What the rows have.
        row_type: String,
    },
    /// The table needs something of a writer that we do not offer.
    #[error("write to `{table}`: it asks for features that are not supported")]
    Protocol {
        /// The table.
        table: String,
        /// What is asked for.
        why: String,
    },
    /// Rows were taken away where only new ones are asked for.
    #[error("read what was added to `{table}`: it is not a table that rows are only added to")]
    NotAppendOnly {
        /// The table.
        table: String,
        /// The version that took rows away.
        version: u64,
    },
    /// The log no longer says what a version added.
    #[error("read what was added to `{table}`: the log no longer has version {version}")]
    LogGone {
        /// The table.
        table: String,
        /// The version.
        version: u64,
    },
    /// The Delta library or the storage below it failed.
    #[error("{doing} `{table}`")]
    Delta {
        /// What was being done, as a verb: `read`, `commit to`.
        doing: &'static str,
        /// The table.
        table: String,
        /// The cause.
        source: Box<DeltaTableError>,
    },
    /// The storage failed.
    #[error("{doing} `{table}`")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// The table.
        table: String,
        /// The cause.
        source: object_store::Error,
    },
    /// A Parquet file could not be written or read.
    #[error("{doing} `{table}`")]
    Parquet {
        /// What was being done.
        doing: &'static str,
        /// The table.
        table: String,
        /// The cause.
        source: parquet::errors::ParquetError,
    },
}

impl TableError {
    /// Wraps a failure of the Delta library.
    pub(crate) fn delta(doing: &'static str, table: &impl ToString, source: DeltaTableError) -> Self {
        Self::Delta { doing, table: table.to_string(), source: Box::new(source) }
    }

    /// Wraps a failure of the storage.
    pub(crate) fn storage(doing: &'static str, table: &impl ToString, source: object_store::Error) -> Self {
        Self::Storage { doing, table: table.to_string(), source }
    }

    fn text(&self) -> String {
        crate::error::chain(self).unwrap_or_default().to_lowercase()
    }

    fn disk_full(&self) -> bool {
        let text = self.text();
        text.contains("no space left") || text.contains("os error 28") || text.contains("storagefull")
    }

    fn no_right(&self) -> bool {
        let text = self.text();
        text.contains("permission denied") || text.contains("accessdenied") || text.contains("403 forbidden")
    }
}

impl Explain for TableError {
    fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "T0001",
            Self::Missing { .. } => "T0002",
            Self::Lake { .. } => "T0003",
            Self::Conflict { .. } => "T0004",
            Self::Fenced { .. } => "T0005",
            Self::Schema { .. } => "T0006",
            Self::Protocol { .. } => "T0007",
            Self::NotAppendOnly { .. } => "L0354",
            Self::LogGone { .. } => "L0355",
            Self::Busy { .. } => "T0011",
            Self::Horizon { .. } => "T0012",
            Self::Version { .. } => "T0013",
            Self::Vacuumed { .. } => "T0014",
            Self::Publication { .. } => "T0015",
            Self::NoPublication { .. } => "T0016",
            Self::Delta { .. } | Self::Storage { .. } | Self::Parquet { .. } => {
                if self.disk_full() {
                    "T0009"
                } else if self.no_right() {
                    "T0010"
                } else {
                    "T0008"
                }
            }
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Name { .. }
            | Self::Missing { .. }
            | Self::Schema { .. }
            | Self::Protocol { .. }
            | Self::Horizon { .. }
            | Self::Version { .. }
            | Self::Vacuumed { .. }
            | Self::NotAppendOnly { .. }
            | Self::LogGone { .. }
            | Self::NoPublication { .. }
            | Self::Fenced { .. } => Retry::Never,
            Self::Conflict { .. } | Self::Busy { .. } => Retry::Later,
            Self::Lake { .. } | Self::Publication { .. } => Retry::AfterPerson,
            Self::Delta { .. } | Self::Storage { .. } | Self::Parquet { .. } => {
                if self.disk_full() || self.no_right() {
                    Retry::AfterPerson
                } else {
                    Retry::Later
                }
            }
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Name { .. } => Some("a table is named `schema.table`, each of letters, digits and `_`".to_owned()),
            Self::Lake { why, .. } | Self::Protocol { why, .. } | Self::Publication { why, .. } => Some(why.clone()),
            Self::Conflict { version, .. } => {
                Some(format!("version {version} was written while this was being prepared"))
            }
            Self::Busy { .. } => {
                Some("an upsert or a model is being computed from them; nothing was written".to_owned())
            }
            Self::Horizon { least, .. } => Some(format!(
                "files younger than {} hours may belong to a commit under way, or be read by somebody",
                least.as_secs() / 3600
            )),
            Self::Version { version, newest, .. } if version > newest => {
                Some(format!("version {newest} is the newest there is"))
            }
            Self::Version { .. } => Some("the log no longer reaches back to it".to_owned()),
            Self::Vacuumed { file, .. } => Some(format!("`{file}` is not there; it was vacuumed")),
            Self::Fenced { known, found, .. } => {
                let show = |value: &Option<i64>| value.map_or_else(|| "nothing".to_owned(), |v| v.to_string());
                Some(format!("progress was {} when this process read it and is {} now", show(known), show(found)))
            }
            Self::NotAppendOnly { version, .. } => Some(format!("version {version} changed or removed rows")),
            Self::LogGone { .. } => Some("what was not taken in time was cleaned out of the log".to_owned()),
            Self::Schema { table_type, row_type, .. } => {
                Some(format!("the table has `{table_type}`, the rows have `{row_type}`"))
            }
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Missing { near, .. } if !near.is_empty() => Some(format!("did you mean `{}`?", near.join("`, `"))),
            Self::Missing { .. } => Some("see `tidemill tables list`".to_owned()),
            Self::Horizon { .. } => {
                Some("ask for more, or lower `maintenance.vacuum_least` if you know that nobody is at work".to_owned())
            }
            Self::Version { table, .. } => Some(format!("see `tidemill tables history {table}`")),
            Self::NoPublication { .. } => Some("see `tidemill models publications`".to_owned()),
            Self::Publication { .. } => {
                Some("delete the file, if it is not one of ours; readers then see the one before".to_owned())
            }
            Self::Vacuumed { .. } => Some("choose a newer version; nothing was changed".to_owned()),
            Self::Lake { .. } => Some("check `[lake]` in tidemill.toml".to_owned()),
            Self::Fenced { .. } => {
                Some("stop the other process, or let it do the work; nothing was written".to_owned())
            }
            Self::NotAppendOnly { .. } => {
                Some("take the table as a whole (`mode = \"replace\"`), or one that a stream lands".to_owned())
            }
            Self::LogGone { .. } => {
                Some("begin anew: drop the target, and let the task bring the whole table again".to_owned())
            }
            Self::Schema { .. } => Some("change the source to fit, or write to a new table".to_owned()),
            Self::Delta { .. } | Self::Storage { .. } | Self::Parquet { .. } if self.disk_full() => {
                Some("free space on the lake's disk and run it again; what was committed is whole".to_owned())
            }
            Self::Delta { .. } | Self::Storage { .. } | Self::Parquet { .. } if self.no_right() => {
                Some("give this user the right to read and write the lake's folder or bucket".to_owned())
            }
            _ => None,
        }
    }
}
