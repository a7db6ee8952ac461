//! What a person is told when something cannot be done, whichever part it comes from: what, where, why, fix, and the exit code.
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tidemill_etl::error::chain;
use tidemill_etl::model::{ModelError, ModelProblem};
use tidemill_etl::output::OutputError;
use tidemill_orchestrator::{Loaded, OrchestratorError, Problem, Retry, Severity};

/// The result of anything a command does.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// How the process ends. The table in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: a bug of ours.
    Bug,
    /// 2: the command line was wrong, or names something that is not there.
    Usage,
    /// 3: the settings, a DAG or a model are invalid.
    Invalid,
    /// 4: a run failed, or the work of a command did.
    Failed,
    /// 5: a check found rows.
    Found,
    /// 130: stopped by a signal.
    Stopped,
}

impl Exit {
    /// The number the process exits with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Failed => 4,
            Self::Found => 5,
            Self::Stopped => 130,
        }
    }
}

/// Marked places in the text of a file.
#[derive(Debug, Clone)]
pub(crate) struct Excerpt {
    /// The file as it is shown.
    pub(crate) file: String,
    /// Its whole text.
    pub(crate) text: Arc<str>,
    /// What to mark: the first is the problem, the others belong to it.
    pub(crate) marks: Vec<Mark>,
}

/// One marked place.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// Bytes of the text.
    pub(crate) span: Range<usize>,
    /// What to say there; may be empty.
    pub(crate) label: String,
}

/// One failure, or several of the same step. Built with [`Failure::new`] and completed by the methods named after the lines of the report.
#[derive(Clone)]
pub(crate) struct Failure(Box<Parts>);

/// What [`crate::report`] renders.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// The stable code, one page each in `docs/errors/`.
    pub(crate) code: &'static str,
    /// What happened: one line.
    pub(crate) what: String,
    /// The place in words, if there is no excerpt or if there is more to say than the file's line.
    pub(crate) place: Option<String>,
    /// The place in a file.
    pub(crate) excerpt: Option<Excerpt>,
    /// The cause.
    pub(crate) why: Option<String>,
    /// What to do.
    pub(crate) fix: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
    /// It is only a warning.
    pub(crate) warning: bool,
    /// Nothing is shown: whoever read our output has gone.
    pub(crate) silent: bool,
    /// Whether doing it again can help.
    pub(crate) retry: Retry,
    /// Further problems found in the same step.
    pub(crate) rest: Vec<Failure>,
}

impl Failure {
    /// A failure with its code and its one line; the exit code follows from the code's letter.
    pub(crate) fn new(code: &'static str, what: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            what: what.into(),
            place: None,
            excerpt: None,
            why: None,
            fix: None,
            exit: exit_of(code),
            warning: false,
            silent: false,
            retry: Retry::AfterPerson,
            rest: Vec::new(),
        }))
    }

    /// Several failures as one, shown in their order; `None` if there are none.
    pub(crate) fn all(failures: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut failures = failures.into_iter().flat_map(|mut failure| {
            let rest = std::mem::take(&mut failure.0.rest);
            std::iter::once(failure).chain(rest)
        });
        let mut first = failures.next()?;
        first.0.rest = failures.collect();
        Some(first)
    }

    /// A file or folder that could not be read or written; `doing` is the verb: "read", "create".
    pub(crate) fn io(error: &io::Error, doing: &str, path: &Path) -> Self {
        Self::new("X0002", format!("cannot {doing} `{}`", path.display()))
            .why(error.to_string())
            .maybe_fix(io_fix(error))
    }

    /// A write to standard output that failed. A reader that has gone (`tidemill … | head`) is no failure.
    pub(crate) fn output(error: &io::Error) -> Self {
        let mut failure =
            Self::new("X0002", "cannot write to standard output").why(error.to_string()).maybe_fix(io_fix(error));
        if error.kind() == io::ErrorKind::BrokenPipe {
            failure.0.silent = true;
            failure.0.exit = Exit::Done;
        }
        failure
    }

    /// A name on the command line that nothing has; `kind` is what was looked for: "topic", "table".
    pub(crate) fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Self {
        Self::new("X0003", format!("there is no {kind} `{name}`")).maybe_fix(crate::suggest::hint(name, known))
    }

    /// A bug of ours: something that cannot be, was.
    pub(crate) fn bug(what: impl Into<String>) -> Self {
        Self::new("X0001", what).fix("please report it with what is above; nothing that was committed is lost")
    }

    /// Adds the place in words.
    pub(crate) fn place(mut self, place: impl Into<String>) -> Self {
        self.0.place = Some(place.into());
        self
    }

    /// Adds the place in a file.
    pub(crate) fn excerpt(mut self, excerpt: Excerpt) -> Self {
        self.0.excerpt = Some(excerpt);
        self
    }

    /// Adds the cause.
    pub(crate) fn why(self, why: impl Into<String>) -> Self {
        self.maybe_why(Some(why.into()))
    }

    /// Adds the cause, if there is something to say.
    pub(crate) fn maybe_why(mut self, why: Option<String>) -> Self {
        self.0.why = why;
        self
    }

    /// Adds what to do.
    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        self.maybe_fix(Some(fix.into()))
    }

    /// Adds what to do, if there is something to say.
    pub(crate) fn maybe_fix(mut self, fix: Option<String>) -> Self {
        self.0.fix = fix;
        self
    }

    /// Sets how the process ends.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.0.exit = exit;
        self
    }

    /// Makes it a warning.
    pub(crate) fn warning(mut self) -> Self {
        self.0.warning = true;
        self
    }

    /// Whether doing it again can help.
    pub(crate) fn retry(&self) -> Retry {
        self.0.retry
    }

    /// What is shown of the first.
    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }

    /// The first and all that came with it.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Parts> {
        std::iter::once(self.parts()).chain(self.0.rest.iter().map(Self::parts))
    }
}

/// The exit code that goes with a code's letter: what people wrote is invalid, the rest is work that failed.
fn exit_of(code: &str) -> Exit {
    match (code, code.as_bytes().first()) {
        ("X0001", _) => Exit::Bug,
        ("M0031", _) => Exit::Found,
        ("X0003", _) | (_, Some(b'Q')) => Exit::Usage,
        (_, Some(b'S' | b'D' | b'M')) => Exit::Invalid,
        _ => Exit::Failed,
    }
}

fn io_fix(error: &io::Error) -> Option<String> {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "check the path; it is taken from the project's folder unless it starts with `/`",
        io::ErrorKind::PermissionDenied => "give this user access to it, or choose another place",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space and start again; nothing committed is lost"
        }
        _ => return None,
    };
    Some(fix.to_owned())
}

/// What a failure of `etl` begins with when it is the work that could not be done: such a text reads after "cannot".
/// Others begin with the thing that is wrong and are whole as they are.
const VERBS: &[&str] = &[
    "build",
    "commit",
    "compare",
    "continue",
    "create",
    "decode",
    "encode",
    "fill",
    "find",
    "finish",
    "generate",
    "give",
    "keep",
    "land",
    "list",
    "load",
    "open",
    "publish",
    "read",
    "register",
    "reach",
    "run",
    "show",
    "spread",
    "store",
    "take",
    "understand",
    "use",
    "write",
];

/// The text of a failure of `etl` as a sentence.
pub(crate) fn sentence(text: &str) -> String {
    match text.split_once(' ') {
        Some((verb, _)) if VERBS.contains(&verb) => format!("cannot {text}"),
        _ => text.to_owned(),
    }
}

impl From<tidemill_etl::Error> for Failure {
    fn from(error: tidemill_etl::Error) -> Self {
        if let Some(ModelError::Invalid { problems }) = error.downcast_ref()
            && let Some(failure) = Self::all(problems.iter().map(|problem| model_problem(problem, Path::new(""))))
        {
            return failure;
        }
        let explain = error.explain();
        let mut failure = Self::new(error.code(), sentence(&error.to_string())).maybe_fix(explain.fix());
        failure.0.place = explain.place();
        failure.0.why = error.why();
        failure.0.retry = match explain.retry() {
            tidemill_etl::Retry::Later => Retry::Later,
            tidemill_etl::Retry::Never => Retry::Never,
            tidemill_etl::Retry::AfterPerson => Retry::AfterPerson,
        };
        // Rows that somebody stopped reading (`tidemill query … | head`).
        if error.downcast_ref::<OutputError>().is_some() && reader_gone(&error) {
            failure.0.silent = true;
            failure.0.exit = Exit::Done;
        }
        failure
    }
}

/// Whether a closed pipe is among the causes.
fn reader_gone(error: &dyn std::error::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// A problem of a model's file, shown without the project's folder.
pub(crate) fn model_problem(problem: &ModelProblem, root: &Path) -> Failure {
    let file = problem.file.strip_prefix(root).unwrap_or(&problem.file).display().to_string();
    let failure = Failure::new("M0001", &problem.what).maybe_why(problem.why.clone()).maybe_fix(problem.fix.clone());
    let failure = match (&problem.span, std::fs::read_to_string(&problem.file)) {
        (Some(span), Ok(text)) if text.get(span.clone()).is_some() => {
            let marks = vec![Mark { span: span.clone(), label: problem.label.clone() }];
            failure.excerpt(Excerpt { file, text: text.into(), marks })
        }
        _ => failure.place(file),
    };
    if problem.warning { failure.warning() } else { failure }
}

impl From<OrchestratorError> for Failure {
    fn from(error: OrchestratorError) -> Self {
        let failure = Self::new(error.code(), error.to_string()).maybe_fix(error.fix());
        match error {
            OrchestratorError::History(_) => failure.maybe_why(chain(&error)).exit(Exit::Failed),
            _ => failure.exit(Exit::Usage),
        }
    }
}

/// Every problem of the DAG files, files without their project's folder; `None` if there is none. With warnings only, it is one.
pub(crate) fn dag_problems(loaded: &Loaded, root: &Path) -> Option<Failure> {
    // Errors first: the first of all decides how the process ends.
    let (errors, warnings): (Vec<_>, Vec<_>) =
        loaded.problems.iter().partition(|problem| problem.severity == Severity::Error);
    Failure::all(errors.into_iter().chain(warnings).map(|problem| dag_problem(problem, loaded, root)))
}

fn dag_problem(problem: &Problem, loaded: &Loaded, root: &Path) -> Failure {
    let file = problem.file.strip_prefix(root).unwrap_or(&problem.file).display().to_string();
    let failure =
        Failure::new(problem.code, &problem.what).maybe_why(problem.why.clone()).maybe_fix(problem.fix.clone());
    let failure = match loaded.sources.get(&problem.file) {
        Some(text) => {
            let first = Mark { span: problem.span.clone(), label: problem.label.clone() };
            let others =
                problem.related.iter().map(|other| Mark { span: other.span.clone(), label: other.label.clone() });
            failure.excerpt(Excerpt {
                file,
                text: text.as_str().into(),
                marks: std::iter::once(first).chain(others).collect(),
            })
        }
        None => failure.place(file),
    };
    if problem.severity == Severity::Warning { failure.warning() } else { failure }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for parts in self.each() {
            writeln!(f, "[{}] {}", parts.code, parts.what)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letter_of_a_code_decides_the_exit() {
        assert_eq!(Failure::new("S0004", "x").parts().exit, Exit::Invalid);
        assert_eq!(Failure::new("B0001", "x").parts().exit, Exit::Failed);
        assert_eq!(Failure::new("Q0001", "x").parts().exit, Exit::Usage);
        assert_eq!(Failure::bug("x").parts().exit, Exit::Bug);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.parts().exit, gone.parts().silent), (Exit::Done, true));

        let full = Failure::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!((full.parts().exit, full.parts().silent), (Exit::Failed, false));
    }

    #[test]
    fn what_cannot_be_done_is_said_as_a_sentence() {
        assert_eq!(sentence("find the table `a.b`"), "cannot find the table `a.b`");
        assert_eq!(sentence("topic `a` has no partition 3"), "topic `a` has no partition 3");
    }

    #[test]
    fn rows_nobody_reads_any_more_are_no_failure() {
        let gone =
            |kind: io::ErrorKind| Failure::from(tidemill_etl::Error::from(OutputError::Io(io::Error::from(kind))));

        assert_eq!(
            (gone(io::ErrorKind::BrokenPipe).parts().exit, gone(io::ErrorKind::BrokenPipe).parts().silent),
            (Exit::Done, true)
        );
        assert!(!gone(io::ErrorKind::StorageFull).parts().silent);
    }

    #[test]
    fn several_failures_keep_their_order() {
        let two = Failure::all(["a", "b"].map(|what| Failure::new("S0004", what))).unwrap();
        let three = Failure::all([two, Failure::new("S0004", "c")]).unwrap();

        assert_eq!(three.each().map(|parts| parts.what.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(Failure::all([]).is_none());
    }
}
