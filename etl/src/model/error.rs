//! What can be wrong with a model.
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::check::CheckOutcome;
use crate::error::{Explain, Retry};

fn checks(found: &[CheckOutcome]) -> String {
    match found {
        [one] => format!("the check `{}`", one.check),
        more => format!("{} checks", more.len()),
    }
}

/// One thing wrong in one file. Built with [`ModelProblem::new`] and completed by the methods named after its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProblem {
    /// The file.
    pub file: PathBuf,
    /// The bytes of the file as it was written, where the place is known.
    pub span: Option<Range<usize>>,
    /// What to say at that place; may be empty.
    pub label: String,
    /// What is wrong, as one fragment.
    pub what: String,
    /// The cause.
    pub why: Option<String>,
    /// What to do.
    pub fix: Option<String>,
    /// It is only a warning.
    pub warning: bool,
}

impl ModelProblem {
    /// A problem of a file as a whole.
    pub fn new(file: &Path, what: impl Into<String>) -> Self {
        Self {
            file: file.to_path_buf(),
            span: None,
            label: String::new(),
            what: what.into(),
            why: None,
            fix: None,
            warning: false,
        }
    }

    /// Adds the place.
    #[must_use]
    pub fn span(self, span: Range<usize>) -> Self {
        self.maybe_span(Some(span))
    }

    /// Adds the place, if it is known.
    #[must_use]
    pub fn maybe_span(mut self, span: Option<Range<usize>>) -> Self {
        self.span = span;
        self
    }

    /// Adds what to say at the place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        self.maybe_fix(Some(fix.into()))
    }

    /// Adds what to do, if there is something to say.
    #[must_use]
    pub fn maybe_fix(mut self, fix: Option<String>) -> Self {
        self.fix = fix;
        self
    }

    /// Makes it a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.warning = true;
        self
    }

    /// The line, from 1, in the file as it is now.
    pub fn line(&self) -> Option<usize> {
        let start = self.span.as_ref()?.start;
        let text = std::fs::read(&self.file).ok()?;
        Some(memchr::memchr_iter(b'\n', text.get(..start.min(text.len()))?).count() + 1)
    }
}

impl std::fmt::Display for ModelProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line() {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
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
    /// A check has found rows in what a model's table would hold; nothing was committed.
    #[error("show the new version of `{model}`: {} found rows", checks(found))]
    Rejected {
        /// The model.
        model: String,
        /// Its file.
        file: PathBuf,
        /// What was found.
        found: Vec<CheckOutcome>,
    },
    /// The rules of a snapshot are incomplete, or its rows break them.
    #[error("keep the snapshot `{model}`")]
    Snapshot {
        /// The model.
        model: String,
        /// Its file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A model's `watermark` or `emit` has no meaning for it.
    #[error("tell when the windows of `{model}` are final")]
    Emission {
        /// The model.
        model: String,
        /// Its file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A seed's file cannot be read as a table.
    #[error("load the seed `{seed}`")]
    Seed {
        /// The seed.
        seed: String,
        /// Its file.
        file: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<u64>,
        /// What is wrong.
        why: String,
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
            Self::Seed { .. } => "M0030",
            Self::Rejected { .. } => "M0031",
            Self::Snapshot { .. } => "M0032",
            Self::Emission { .. } => "M0040",
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
            Self::Input { file, .. }
            | Self::Sql { file, .. }
            | Self::Rejected { file, .. }
            | Self::Snapshot { file, .. }
            | Self::Emission { file, .. } => Some(file.display().to_string()),
            Self::Seed { file, line, .. } => {
                Some(line.map_or_else(|| file.display().to_string(), |line| format!("{}:{line}", file.display())))
            }
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
            Self::Seed { why, .. } | Self::Snapshot { why, .. } | Self::Emission { why, .. } => Some(why.clone()),
            Self::Rejected { found, .. } => {
                let told = |outcome: &CheckOutcome| {
                    let sample = outcome
                        .sample
                        .as_ref()
                        .and_then(|sample| crate::output::text_table(std::slice::from_ref(sample)).ok());
                    format!(
                        "`{}` found {} rows:\n{}",
                        outcome.check,
                        outcome.rows,
                        sample.unwrap_or_default().trim_end()
                    )
                };
                Some(found.iter().map(told).collect::<Vec<_>>().join("\n"))
            }
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
            Self::Rejected { .. } => Some(
                "readers keep the version before; correct the model or its inputs, or let the check only warn with `severity: warn`"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
