//! Typed access to one table of a DAG file that remembers places and never stops at the first problem.
use std::ops::Range;
use std::time::Duration;

use toml_span::Value;
use toml_span::value::{Table, ValueInner};

use super::problem::Problems;
use super::settings::parse_duration;
use crate::suggest;

/// One table being read: which keys were asked for, so that the others are unknown.
pub(super) struct Fields<'t, 'de> {
    table: &'t Table<'de>,
    known: Vec<&'static str>,
    /// What the table is, for sentences: "task `land`".
    pub(super) name: String,
    /// Where to point when something is missing: the table's header or key.
    pub(super) header: Range<usize>,
}

impl<'t, 'de> Fields<'t, 'de> {
    /// Takes the table, or says that it is none.
    pub(super) fn new(
        value: &'t Value<'de>,
        name: impl Into<String>,
        header: Range<usize>,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let name = name.into();
        if let Some(table) = value.as_table() {
            return Some(Self { table, known: Vec::new(), name, header });
        }
        let found = value.as_ref().type_str();
        problems.add(
            "D0005",
            value.span,
            format!("{name} must be a table"),
            format!("expected a table, found {}", a(found)),
        );
        None
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'t Value<'de>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// The entries that were not asked for yet, in the order of the file.
    pub(super) fn others(&self) -> Vec<(&'t toml_span::value::Key<'de>, &'t Value<'de>)> {
        let mut all = super::settings::in_file_order(self.table);
        all.retain(|(key, _)| !self.known.contains(&key.name.as_ref()));
        all
    }

    /// The keys asked for so far.
    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        problems: &mut Problems<'_>,
        take: impl Fn(&ValueInner<'de>) -> Option<T>,
    ) -> Option<(T, Range<usize>)> {
        let value = self.get(key)?;
        let taken = take(value.as_ref());
        if taken.is_none() {
            let found = a(value.as_ref().type_str());
            problems.add(
                "D0005",
                value.span,
                format!("`{key}` of {} must be {expected}", self.name),
                format!("expected {expected}, found {found}"),
            );
        }
        Some((taken?, value.span.into()))
    }

    /// A string with its place.
    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<(String, Range<usize>)> {
        self.typed(key, "a string", problems, |value| value.as_str().map(str::to_owned))
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<bool> {
        self.typed(key, "true or false", problems, ValueInner::as_bool).map(|(yes, _)| yes)
    }

    /// A whole number of at least `least`.
    pub(super) fn count(&mut self, key: &'static str, least: u32, problems: &mut Problems<'_>) -> Option<u32> {
        let (number, span) = self.typed(key, "an integer", problems, ValueInner::as_integer)?;
        match u32::try_from(number) {
            Ok(number) if number >= least => Some(number),
            _ => {
                problems.add(
                    "D0013",
                    span,
                    format!("`{key}` of {} is out of range", self.name),
                    format!("must be at least {least}"),
                );
                None
            }
        }
    }

    /// A whole number of any sign.
    pub(super) fn number(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<i32> {
        let (number, span) = self.typed(key, "an integer", problems, ValueInner::as_integer)?;
        let fits = i32::try_from(number).ok();
        if fits.is_none() {
            let what = format!("`{key}` of {} is out of range", self.name);
            problems.add("D0013", span, what, "too large or too small");
        }
        fits
    }

    /// A duration.
    pub(super) fn duration(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Duration> {
        let (text, span) = self.typed(key, "a duration such as \"30s\" or \"1h30m\"", problems, |value| {
            value.as_str().map(str::to_owned)
        })?;
        match parse_duration(&text) {
            Ok(duration) => Some(duration),
            Err(trouble) => {
                problems.add("D0012", span, format!("`{key}` of {} is not a duration", self.name), trouble);
                None
            }
        }
    }

    /// A list of strings with their places. One string is a list of one.
    pub(super) fn texts(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<(String, Range<usize>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        if let Some(text) = value.as_str() {
            return vec![(text.to_owned(), value.span.into())];
        }
        let mut texts = Vec::new();
        let items = value.as_array();
        for item in items.into_iter().flatten() {
            if let Some(text) = item.as_str() {
                texts.push((text.to_owned(), item.span.into()));
            } else {
                let found = a(item.as_ref().type_str());
                problems.add(
                    "D0005",
                    item.span,
                    format!("`{key}` of {} must be a list of strings", self.name),
                    format!("expected a string, found {found}"),
                );
            }
        }
        if items.is_none() {
            let found = a(value.as_ref().type_str());
            problems.add(
                "D0005",
                value.span,
                format!("`{key}` of {} must be a list of strings", self.name),
                format!("expected a list of strings, found {found}"),
            );
        }
        texts
    }

    /// One of a few words, or a problem that names the nearest.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        let (text, span) = self.text(key, problems)?;
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if chosen.is_none() {
            problems
                .add(
                    "D0013",
                    span,
                    format!("`{key}` of {} cannot be `{text}`", self.name),
                    "not one of the known values",
                )
                .fix(suggest::hint(&text, choices.iter().map(|(name, _)| *name)));
        }
        chosen
    }

    /// Says that a required key is not there.
    pub(super) fn missing(&self, key: &str, about: &str, problems: &mut Problems<'_>) {
        problems
            .add("D0006", self.header.clone(), format!("{} has no `{key}`", self.name), format!("`{key}` is missing"))
            .fix(Some(format!("add `{key} = …`: {about}")));
    }

    /// Reports every key nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        for (key, _) in self.others() {
            unknown_key(problems, key, &self.name, &self.known);
        }
    }
}

/// Reports a key that is not known here, with the nearest that is.
pub(super) fn unknown_key(problems: &mut Problems<'_>, key: &toml_span::value::Key<'_>, place: &str, known: &[&str]) {
    problems
        .add("D0004", key.span, format!("unknown key `{}` in {place}", key.name), "unknown key")
        .fix(suggest::hint(&key.name, known.iter().copied()));
}

/// A type name of the TOML parser with its article.
pub(super) fn a(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        "boolean" => "true or false".to_owned(),
        _ => format!("a {kind}"),
    }
}
