//! A problem in a DAG file: what, where exactly, why, and what to do. Rendering is the binary's business.
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The DAG cannot be used.
    Error,
    /// The DAG works, but probably not as meant.
    Warning,
}

/// Another place that belongs to a problem: the first of two equal keys, the other tasks of a loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// The bytes of the file it is about.
    pub span: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// What to say there.
    pub label: String,
}

/// One problem in a DAG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The stable code, one page each in `docs/errors/`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: one lowercase fragment without a full stop.
    pub what: String,
    /// The file.
    pub file: PathBuf,
    /// The bytes of the file it is about.
    pub span: Range<usize>,
    /// The line of the span's start, from 1.
    pub line: usize,
    /// The column of the span's start in characters, from 1.
    pub column: usize,
    /// What to say at the span.
    pub label: String,
    /// Other places that belong to it.
    pub related: Vec<Related>,
    /// The cause.
    pub why: Option<String>,
    /// What to do.
    pub fix: Option<String>,
}

impl Problem {
    /// Adds the cause.
    pub(super) fn why(&mut self, why: impl Into<String>) -> &mut Self {
        self.why = Some(why.into());
        self
    }

    /// Adds what to do, if there is something to say.
    pub(super) fn fix(&mut self, fix: impl Into<Option<String>>) -> &mut Self {
        self.fix = fix.into();
        self
    }
}

/// The problems of one file, and its text to turn bytes into lines.
pub(super) struct Problems<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    /// Adds an error at `span` and returns it to be completed.
    pub(super) fn add(
        &mut self,
        code: &'static str,
        span: impl Into<Range<usize>>,
        what: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Problem {
        let mut span = span.into();
        span.end = span.end.clamp(span.start, self.text.len().max(span.start));
        let (line, column) = self.place(span.start);
        self.found.push(Problem {
            code,
            severity: Severity::Error,
            what: what.into(),
            file: self.file.to_path_buf(),
            span,
            line,
            column,
            label: label.into(),
            related: Vec::new(),
            why: None,
            fix: None,
        });
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    /// Makes a second place of a problem.
    pub(super) fn related(&self, span: impl Into<Range<usize>>, label: impl Into<String>) -> Related {
        let span = span.into();
        let (line, column) = self.place(span.start);
        Related { span, line, column, label: label.into() }
    }

    /// The line and column of a byte, both from 1; columns count characters.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }
}
