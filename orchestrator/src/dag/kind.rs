//! What a kind of task accepts. The kinds themselves are handed in by the caller: the orchestrator knows none.

/// A kind of task: its name and its settings. One table of these feeds checks, schema, docs and "did you mean".
#[derive(Debug, Clone, Copy)]
pub struct KindSpec {
    /// The name used as `kind = "…"`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// The settings, in the order to show them.
    pub keys: &'static [KeySpec],
}

/// One setting of a kind of task.
#[derive(Debug, Clone, Copy)]
pub struct KeySpec {
    /// The name of the key.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// Whether it must be given.
    pub required: bool,
    /// One line for people.
    pub about: &'static str,
    /// What is used when it is absent, as text for people; the task applies it.
    pub default: Option<&'static str>,
}

/// What the value of a setting looks like. Text with a template in it fits every shape until it is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A string such as `1h30m` or `500ms`.
    Duration,
    /// A list of strings; one string counts as a list of one.
    ListOfText,
    /// A table.
    Table,
    /// Anything.
    Any,
}

impl Shape {
    /// The shape with its article, for sentences.
    pub fn article(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Duration => "a duration such as \"30s\" or \"1h30m\"",
            Self::ListOfText => "a list of strings",
            Self::Table => "a table",
            Self::Any => "a value",
        }
    }
}
