//! What can be wrong with a model.
use std::path::PathBuf;

use crate::error::{Explain, Retry};

/// One thing wrong in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProblem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong, as one fragment.
    pub what: String,
    /// What to do.
    pub fix: Option<String>,
}

impl std::fmt::Display for ModelProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, " ({fix})"))
    }
}

/// A failure of the models.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The project's files are wrong.
    #[error("read the models: {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" })]
    Invalid {
        /// All of them.
        problems: Vec<ModelProblem>,
    },
    /// No model goes by this name.
    #[error("find the model `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names that look alike.
        near: Option<String>,
    },
    /// A table that a model reads is not there.
    #[error("build the model `{model}`: its input `{input}` does not exist")]
    Input {
        /// The model.
        model: String,
        /// The table it reads.
        input: String,
        /// The model's file.
        file: PathBuf,
    },
    /// The SELECT cannot be planned or run.
    #[error("build the model `{model}`")]
    Sql {
        /// The model.
        model: String,
        /// Its file.
        file: PathBuf,
        /// The engine's failure.
        source: Box<crate::Error>,
    },
    /// A model's table is not there, or does not say what it was made from.
    #[error("compare the model `{model}` with its table")]
    Unbuilt {
        /// The model.
        model: String,
    },
    /// A column of the result cannot be stored.
    #[error("store the model `{model}`")]
    Store {
        /// The model.
        model: String,
        /// The cause.
        source: arrow::error::ArrowError,
    },
}

impl Explain for ModelError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "M0001",
            Self::Unknown { .. } => "M0002",
            Self::Input { .. } => "M0003",
            Self::Sql { .. } => "M0004",
            Self::Store { .. } => "M0005",
            Self::Unbuilt { .. } => "M0020",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Sql { source, .. } => source.explain().retry(),
            _ => Retry::Never,
        }
    }

    fn place(&self) -> Option<String> {
        match self {
            Self::Input { file, .. } | Self::Sql { file, .. } => Some(file.display().to_string()),
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Invalid { problems } => Some(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
            Self::Unbuilt { .. } => {
                Some("there is no table that says which versions of its inputs it was made from".to_owned())
            }
            Self::Sql { source, .. } => source.why().or_else(|| Some(source.to_string())),
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Unknown { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            Self::Unknown { .. } => Some("see `tidemill models list`".to_owned()),
            Self::Input { input, .. } => Some(format!("run what writes `{input}` first; see `tidemill dags list`")),
            Self::Sql { source, .. } => source.explain().fix(),
            Self::Unbuilt { model } => {
                Some(format!("build it first: `tidemill models build {model}`; a view has no table"))
            }
            _ => None,
        }
    }
}
