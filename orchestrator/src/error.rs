//! What can go wrong when runs are asked for, apart from problems in DAG files (those are [`crate::Problem`]s).
use crate::history::HistoryError;

/// A request the orchestrator cannot fulfil.
#[derive(Debug, thiserror::Error)]
pub enum OrchestratorError {
    /// There is no DAG of that name.
    #[error("there is no DAG `{dag}`")]
    UnknownDag {
        /// The name asked for.
        dag: String,
        /// The nearest known one, as a hint.
        hint: Option<String>,
    },
    /// A param is not declared, is missing, or has the wrong type.
    #[error("param `{param}` of DAG `{dag}` {trouble}")]
    Param {
        /// The DAG.
        dag: String,
        /// The param.
        param: String,
        /// What is wrong with it, as the end of a sentence.
        trouble: String,
        /// What to do.
        hint: Option<String>,
    },
    /// There is no run with that id.
    #[error("there is no run `{run}`")]
    UnknownRun {
        /// The id asked for.
        run: String,
    },
    /// The history could not be read or written.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl OrchestratorError {
    /// The stable code, one page each in `docs/errors/`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownDag { .. } => "D0101",
            Self::Param { .. } => "D0102",
            Self::UnknownRun { .. } => "D0105",
            Self::History(error) => error.code(),
        }
    }

    /// What a person can do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::UnknownDag { hint, .. } | Self::Param { hint, .. } => hint.clone(),
            Self::UnknownRun { .. } => Some("`tidemill runs list` shows the runs there are".to_owned()),
            Self::History(error) => error.fix(),
        }
    }
}
