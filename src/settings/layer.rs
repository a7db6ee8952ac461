//! One layer of settings: dotted keys with raw values, each with the place it was written at.
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml_span::Value;
use toml_span::value::{Table, ValueInner};

use crate::failure::{Excerpt, Failure, Mark};
use crate::suggest;

/// What was written, before it is known to be right.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
}

impl Raw {
    /// The type with its article, for sentences.
    pub(super) fn article(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "true or false",
        }
    }
}

/// A settings file as it was read.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    /// How it is shown.
    pub(super) name: String,
    pub(super) text: Arc<str>,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Default,
    File(SourceFile, Range<usize>),
    Environment(String),
    Flag,
}

impl Origin {
    /// A short name for people: `default`, `tidemill.toml:3`, the variable, `--set`.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File(file, span) => format!("{}:{}", file.name, line_of(&file.text, span.start)),
            Self::Environment(name) => name.clone(),
            Self::Flag => "--set".to_owned(),
        }
    }

    /// Whether the value came as text whatever its type: then `"250"` is an integer too.
    pub(super) fn untyped(&self) -> bool {
        matches!(self, Self::Environment(_) | Self::Flag)
    }

    /// Points a failure at this place. The line itself is not shown where it may hold a secret.
    pub(super) fn point(&self, failure: Failure, label: &str, secret: bool) -> Failure {
        match self {
            Self::File(file, span) if !secret => failure.excerpt(file.excerpt(span.clone(), label)),
            _ => failure.place(self.name()).why(label),
        }
    }
}

impl SourceFile {
    pub(super) fn excerpt(&self, span: Range<usize>, label: &str) -> Excerpt {
        let mark = Mark { span, label: label.to_owned() };
        Excerpt { file: self.name.clone(), text: Arc::clone(&self.text), marks: vec![mark] }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// One value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// Values by dotted key.
pub(super) type Entries = BTreeMap<String, Entry>;

/// What can be set: the keys of `default.toml`, its sections, and the sections whose keys are free.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// All keys in full: `lake.s3.endpoint`.
    pub(super) keys: Vec<String>,
    /// All sections in full: `lake.s3`.
    pub(super) sections: Vec<String>,
}

/// Sections that take any key.
pub(super) const FREE: &[&str] = &["topics.kafka", "schemas.subjects", "tables", "pools", "vars"];

impl Known {
    /// Whether anything may be set under this key.
    pub(super) fn takes(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known == key) || free(key)
    }

    /// "Did you mean" for a key that is not known: among its neighbours first, else the same name elsewhere, else the nearest in full.
    pub(super) fn hint(&self, key: &str) -> Option<String> {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let neighbours = self.within(section);
        if let Some(near) = suggest::nearest(name, neighbours.iter().copied()) {
            return Some(format!("did you mean `{near}`?"));
        }
        if let Some(elsewhere) = self.keys.iter().find(|known| known.rsplit('.').next() == Some(name)) {
            return Some(format!("did you mean `{elsewhere}`?"));
        }
        if let Some(near) = suggest::nearest(key, self.keys.iter().map(String::as_str)) {
            return Some(format!("did you mean `{near}`?"));
        }
        suggest::hint(name, neighbours.iter().copied())
    }

    /// The names directly within a section, sections included.
    fn within(&self, section: &str) -> Vec<&str> {
        let inner = |path: &'_ String| -> Option<usize> {
            let rest =
                if section.is_empty() { path.as_str() } else { path.strip_prefix(section)?.strip_prefix('.')? };
            (!rest.is_empty() && !rest.contains('.')).then_some(path.len() - rest.len())
        };
        self.sections
            .iter()
            .chain(&self.keys)
            .filter_map(|path| inner(path).and_then(|start| path.get(start..)))
            .collect()
    }
}

/// Whether a key lies in a section that takes any key.
pub(super) fn free(key: &str) -> bool {
    FREE.iter().any(|section| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether a section or one above it takes any key.
fn free_section(section: &str) -> bool {
    FREE.contains(&section) || free(section)
}

/// Reads a settings file into entries; adds every problem to `problems` and goes on.
///
/// With `known` absent, all keys are taken: that is how `default.toml` says what there is.
pub(super) fn read(
    file: &SourceFile,
    known: Option<&Known>,
    sections: &mut Vec<String>,
    problems: &mut Vec<Failure>,
) -> Entries {
    let mut entries = Entries::new();
    let text = Arc::clone(&file.text);
    match toml_span::parse(&text) {
        Ok(value) => {
            if let Some(table) = value.as_table() {
                Reader { file, known, sections, problems, entries: &mut entries }.table(table, "");
            }
        }
        Err(error) => problems.push(syntax(file, &error)),
    }
    entries
}

fn syntax(file: &SourceFile, error: &toml_span::Error) -> Failure {
    let span = Range::from(error.span);
    let line = file.text.lines().nth(line_of(&file.text, span.start) - 1).unwrap_or_default().to_lowercase();
    let secret = ["password", "secret", "token", "key", "sasl"].iter().any(|word| line.contains(word));
    let failure = Failure::new("S0003", format!("`{}` is not TOML", file.name));
    Origin::File(file.clone(), span).point(failure, &error.to_string(), secret)
}

struct Reader<'a> {
    file: &'a SourceFile,
    known: Option<&'a Known>,
    sections: &'a mut Vec<String>,
    problems: &'a mut Vec<Failure>,
    entries: &'a mut Entries,
}

impl Reader<'_> {
    fn table(&mut self, table: &Table<'_>, section: &str) {
        let mut rows: Vec<_> = table.iter().collect();
        rows.sort_by_key(|(key, _)| key.span.start);
        for (key, value) in rows {
            let path = if section.is_empty() { key.name.to_string() } else { format!("{section}.{}", key.name) };
            let is_section = self.known.is_none_or(|known| known.sections.contains(&path)) || free_section(&path);
            match value.as_ref() {
                ValueInner::Table(inner) if is_section => {
                    self.sections.push(path.clone());
                    self.table(inner, &path);
                }
                _ if self.known.is_some_and(|known| known.sections.contains(&path)) => {
                    self.problem(
                        "S0005",
                        value.span,
                        format!("`{path}` must be a section"),
                        &format!("write it as [{path}]"),
                    );
                }
                ValueInner::Table(_) | ValueInner::Array(_) if self.known.is_none_or(|known| known.takes(&path)) => {
                    let kind = if value.as_array().is_some() { "an array" } else { "a table" };
                    self.problem("S0005", value.span, format!("`{path}` cannot be {kind}"), "expected a single value");
                }
                _ if self.known.is_some_and(|known| !known.takes(&path)) => {
                    let hint = self.known.and_then(|known| known.hint(&path));
                    let what = if value.as_table().is_some() { "section" } else { "key" };
                    let failure = Failure::new("S0004", format!("unknown {what} `{path}`")).maybe_fix(hint);
                    self.problems.push(failure.excerpt(self.file.excerpt(key.span.into(), &format!("unknown {what}"))));
                }
                _ => self.leaf(path, value),
            }
        }
    }

    fn leaf(&mut self, path: String, value: &Value<'_>) {
        let raw = match value.as_ref() {
            ValueInner::String(text) => Raw::Text(text.to_string()),
            ValueInner::Integer(number) => Raw::Integer(*number),
            ValueInner::Float(number) => Raw::Float(*number),
            ValueInner::Boolean(yes) => Raw::Boolean(*yes),
            ValueInner::Array(_) | ValueInner::Table(_) => return,
        };
        let origin = match self.known {
            Some(_) => Origin::File(self.file.clone(), value.span.into()),
            None => Origin::Default,
        };
        self.entries.insert(path, Entry { raw, origin });
    }

    fn problem(&mut self, code: &'static str, span: toml_span::Span, what: String, label: &str) {
        self.problems.push(Failure::new(code, what).excerpt(self.file.excerpt(span.into(), label)));
    }
}
