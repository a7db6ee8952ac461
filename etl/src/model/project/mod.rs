//! All models, seeds, sources and checks of a project, read from files: `layout` says where files are, `files` reads
//! them, `properties` reads what YAML says about them, `parse` renders and checks them, `graph` and `select` order and
//! choose.
mod configure;
mod files;
mod generic;
mod graph;
mod layout;
mod parse;
mod properties;
mod quarantine;
mod select;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value as Json;

pub(crate) use configure::nearest;
pub use layout::{DBT_PROJECT, Layout};
pub use properties::Column;
pub use select::Selection;

use self::parse::Renderer;
pub(super) use self::parse::config_place;
use super::check::CheckOutcome;
use super::error::ModelProblem;
use super::template::pieces;
use crate::table::TableName;

/// How a model is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Materialization {
    /// Computed when read.
    View,
    /// A table, recomputed when an input or the SELECT has changed.
    Table,
    /// A table that is brought up to date from what changed in its inputs.
    Incremental,
    /// A table of what the SELECT gave over time, a row for each version of a row.
    Snapshot,
}

impl Materialization {
    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Table => "table",
            Self::Incremental => "incremental",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What a file's author wrote, to lead from SQL back to it.
#[derive(Debug, Clone)]
pub(super) struct Authored {
    /// The file's text.
    pub(super) text: Arc<str>,
    /// What was configured outside the file.
    pub(super) outside: BTreeMap<String, Json>,
    /// Where the definition is, if that is not the whole file.
    pub(super) span: Option<Range<usize>>,
}

/// One SELECT that becomes a table or view.
#[derive(Debug, Clone)]
pub struct Model {
    /// The file's name without its ending.
    pub name: String,
    /// Where it is kept.
    pub table: TableName,
    /// Its file.
    pub file: PathBuf,
    /// How it is kept.
    pub materialization: Materialization,
    /// The rendered SELECT.
    pub sql: String,
    /// Models and seeds it reads.
    pub refs: BTreeSet<String>,
    /// Other tables it reads.
    pub sources: BTreeSet<TableName>,
    /// Columns that tell its rows apart, if it says so (`unique_key`).
    pub unique_key: Vec<String>,
    /// The folder below the models' folder, for selection.
    pub folder: String,
    /// Words it can be selected by.
    pub tags: BTreeSet<String>,
    /// What it means.
    pub description: String,
    /// What its columns mean.
    pub columns: Vec<Column>,
    /// Everything configured for it, by key.
    pub config: BTreeMap<String, Json>,
    /// The SELECT as its file gives it, where what is kept of it is less: without the rows that break its checks.
    pub(super) plain: Option<String>,
    pub(super) authored: Authored,
}

impl Model {
    /// The SELECT as its file gives it, rendered; [`Model::sql`] is what is kept of it.
    pub(super) fn select(&self) -> &str {
        self.plain.as_deref().unwrap_or(&self.sql)
    }

    /// The place of `ref('name')` in its file.
    pub(super) fn reference(&self, name: &str) -> Option<Range<usize>> {
        let text = &self.authored.text;
        let quoted = [format!("'{name}'"), format!("\"{name}\"")];
        pieces(text).into_iter().map(|piece| piece.span).find(|span| {
            let tag = text.get(span.clone()).unwrap_or_default();
            tag.contains("ref") && quoted.iter().any(|quoted| tag.contains(quoted.as_str()))
        })
    }
}

/// A CSV file that becomes a table.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The file's name without its ending.
    pub name: String,
    /// Where it is kept.
    pub table: TableName,
    /// Its file.
    pub file: PathBuf,
    /// The folder below the seeds' folder.
    pub folder: String,
    /// Words it can be selected by.
    pub tags: BTreeSet<String>,
    /// What it means.
    pub description: String,
    /// What its columns mean.
    pub columns: Vec<Column>,
    /// Types that its author gives, by column; the others are inferred.
    pub column_types: BTreeMap<String, String>,
    /// What stands between values.
    pub delimiter: u8,
}

/// A table that something else keeps, as the project knows it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The source's name in `source(name, table)`.
    pub source: String,
    /// The table's name there.
    pub name: String,
    /// Where it is.
    pub table: TableName,
    /// What it means.
    pub description: String,
    /// Words it can be selected by.
    pub tags: BTreeSet<String>,
    /// What its columns mean.
    pub columns: Vec<Column>,
}

/// What a check that finds rows does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Fails the build: readers keep the version before.
    Error,
    /// Is reported.
    Warn,
}

/// What a generic check is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSubject {
    /// The model, seed or source.
    pub name: String,
    /// Its table.
    pub table: TableName,
    /// The column, if it is about one.
    pub column: Option<String>,
    /// The rule: `not_null`, `unique`, …
    pub rule: String,
}

/// One SELECT that must come back empty.
#[derive(Debug, Clone)]
pub struct Check {
    /// The file's name without its ending, or what a generic check is called.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// The rendered SELECT.
    pub sql: String,
    /// Models and seeds it reads.
    pub refs: BTreeSet<String>,
    /// Other tables it reads.
    pub sources: BTreeSet<TableName>,
    /// What it is about, if it is a generic one.
    pub subject: Option<CheckSubject>,
    /// What it does when it finds rows.
    pub severity: Severity,
    /// How many rows are too many; by default, any.
    pub fails: Threshold,
    /// How many rows are worth a warning; by default, any.
    pub warns: Threshold,
    /// Words it can be selected by.
    pub tags: BTreeSet<String>,
    /// A condition on rows of its subject that is true for those that break it, where the rule is about single rows.
    pub bad_row: Option<String>,
    pub(super) authored: Authored,
}

/// A condition on a number of rows, as `error_if: ">10"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    compare: Compare,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Threshold {
    /// Any row at all.
    pub const ANY: Self = Self { compare: Compare::NotEqual, number: 0 };

    /// Reads `>10`, `!= 0`, `=5`.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let known = [
            ("!=", Compare::NotEqual),
            ("<>", Compare::NotEqual),
            ("<=", Compare::AtMost),
            (">=", Compare::AtLeast),
            ("==", Compare::Equal),
            ("=", Compare::Equal),
            ("<", Compare::Less),
            (">", Compare::More),
        ];
        let (rest, compare) = known.iter().find_map(|(sign, compare)| Some((text.strip_prefix(sign)?, *compare)))?;
        Some(Self { compare, number: rest.trim().parse().ok()? })
    }

    /// Whether `rows` are too many.
    pub fn holds(self, rows: u64) -> bool {
        match self.compare {
            Compare::Equal => rows == self.number,
            Compare::NotEqual => rows != self.number,
            Compare::Less => rows < self.number,
            Compare::AtMost => rows <= self.number,
            Compare::More => rows > self.number,
            Compare::AtLeast => rows >= self.number,
        }
    }
}

/// The models, seeds, sources and checks of a project, rendered.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// By name.
    pub models: BTreeMap<String, Model>,
    /// By name.
    pub seeds: BTreeMap<String, Seed>,
    /// By `source.table`.
    pub sources: BTreeMap<String, Source>,
    /// By name.
    pub checks: BTreeMap<String, Check>,
    /// What is odd, and kept nobody from going on.
    pub warnings: Vec<ModelProblem>,
    /// What templates said with `log`: the file, and the text.
    pub notes: Vec<(PathBuf, String)>,
    /// What checks found while models were built, and that only warn.
    found: Arc<Mutex<Vec<CheckOutcome>>>,
    /// The folder that files are shown from.
    pub(super) root: PathBuf,
    renderer: Option<Arc<Renderer>>,
}

impl Project {
    /// The checks that a new version of this model, seed or source has to pass.
    pub fn checks_about<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p Check> {
        self.checks.values().filter(move |check| check.subject.as_ref().is_some_and(|subject| subject.name == name))
    }

    /// Keeps what a check found that only warns.
    pub(super) fn note(&self, outcome: CheckOutcome) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }

    /// What checks found since this was last asked, and that only warns.
    pub fn found(&self) -> Vec<CheckOutcome> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names of models so that each comes after what it reads; without those that read each other in a ring.
    pub(super) fn sorted_models(&self) -> Vec<&str> {
        self.sorted().unwrap_or_default()
    }

    /// The bytes of a model's file behind bytes of its SELECT; `None` if the template does not allow it.
    pub(super) fn source_span(&self, model: &Model, span: Range<usize>) -> Option<Range<usize>> {
        self.lead(&model.name, &model.table, &model.authored, model.select(), span)
    }

    /// The same for a check with a file of its own.
    pub(super) fn check_span(&self, check: &Check, span: Range<usize>) -> Option<Range<usize>> {
        self.lead(&check.name, &TableName::new("checks", &check.name), &check.authored, &check.sql, span)
    }

    fn lead(
        &self,
        name: &str,
        table: &TableName,
        authored: &Authored,
        sql: &str,
        span: Range<usize>,
    ) -> Option<Range<usize>> {
        let (map, prepared) = self.renderer.as_ref()?.map(name, table, authored, sql)?;
        Some(prepared.original_span(map.template(&span)))
    }
}
