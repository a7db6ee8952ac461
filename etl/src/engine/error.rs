//! What can go wrong with a query.
use datafusion::error::DataFusionError;

use crate::error::{Explain, Retry};

/// A failure to plan or run SQL.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The text is not SQL, or names what is not there.
    #[error("run the query")]
    Plan {
        /// The planner's own words.
        why: String,
        /// What to do, where that is known.
        fix: Option<String>,
    },
    /// A statement that would change something.
    #[error("run the query: only SELECT is allowed")]
    NotSelect {
        /// What it is instead.
        why: String,
    },
    /// The version asked for does not exist or cannot be told at planning time.
    #[error("read `{table}` as of {version}")]
    Version {
        /// The table.
        table: String,
        /// As written.
        version: String,
        /// Why not.
        why: String,
    },
    /// A window function is used where or with what it has no meaning.
    #[error("group by the window `{function}`")]
    Window {
        /// The function.
        function: &'static str,
        /// What is wrong.
        why: String,
        /// What to do.
        fix: String,
    },
    /// The memory limit is too small even with spilling.
    #[error("run the query within {limit} bytes of memory")]
    Memory {
        /// The limit.
        limit: usize,
        /// DataFusion's account of who held what.
        why: String,
    },
    /// It failed while running.
    #[error("run the query")]
    Run {
        /// The cause.
        source: Box<DataFusionError>,
    },
}

impl EngineError {
    /// Sorts a failure of DataFusion by what can be done about it.
    pub(crate) fn from_datafusion(error: DataFusionError, limit: usize) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(why) => Self::Memory { limit, why: why.clone() },
            DataFusionError::Plan(_) | DataFusionError::SQL(..) | DataFusionError::SchemaError(..) => {
                let why = error.find_root().strip_backtrace();
                Self::Plan { fix: fix_of(&why), why: clean(&why) }
            }
            _ => Self::Run { source: Box::new(error) },
        }
    }
}

/// DataFusion says "datafusion.schema.table" and "Error during planning:"; neither helps.
fn clean(why: &str) -> String {
    why.replace("datafusion.", "").replace("Error during planning: ", "").replace("SQL error: ", "")
}

fn fix_of(why: &str) -> Option<String> {
    if why.contains("not found") && why.contains("table") {
        Some("see `tidemill tables list` for what there is; tables are named `schema.table`".to_owned())
    } else {
        None
    }
}

impl Explain for EngineError {
    fn code(&self) -> &'static str {
        match self {
            Self::Plan { .. } => "Q0001",
            Self::NotSelect { .. } => "Q0002",
            Self::Version { .. } => "Q0003",
            Self::Memory { .. } => "Q0004",
            Self::Run { .. } => "Q0005",
            Self::Window { .. } => "Q0020",
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Plan { why, .. }
            | Self::NotSelect { why }
            | Self::Version { why, .. }
            | Self::Memory { why, .. }
            | Self::Window { why, .. } => Some(why.clone()),
            Self::Run { source } => Some(clean(&source.strip_backtrace())),
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Plan { fix, .. } => fix.clone(),
            Self::NotSelect { .. } => Some("models and tasks write tables; queries only read".to_owned()),
            Self::Version { .. } => Some("see `tidemill tables history TABLE` for its versions".to_owned()),
            Self::Memory { .. } => Some(
                "raise `memory_limit` in `[engine]`, or lower `target_partitions` so that each part gets more"
                    .to_owned(),
            ),
            Self::Window { fix, .. } => Some(fix.clone()),
            Self::Run { .. } => None,
        }
    }
}
