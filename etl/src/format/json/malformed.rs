//! Why a JSON record is no row.
use thiserror::Error;

use super::text::{Syntax, Text};
use super::values;
use crate::error::Explain;
use crate::format::column::Full;
use crate::format::error::{join, shown};

/// One record that cannot become a row. It is refused alone; its neighbours are not touched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes are not one JSON value.
    #[error("read the record as JSON: {0}")]
    Syntax(String),
    /// A value is not of its column's type.
    #[error("read {}: expected {expected}, found {found}", shown(path))]
    Value {
        /// The field, as `device.os`, `tags[2]` or `attributes{color}`; empty for the record itself.
        path: String,
        /// What the column holds.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An object has two members of one name, and nothing says which of them is meant.
    #[error("read {}: the name is there twice", shown(path))]
    Repeated {
        /// The field.
        path: String,
    },
    /// A field that no column has and that brings none.
    #[error("read {}: {why}", shown(path))]
    Unknown {
        /// The field.
        path: String,
        /// Why it brings no column.
        why: String,
    },
}

impl Malformed {
    /// A stable word for counting: `syntax`, `type`, `repeated_field` or `unknown_field`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "syntax",
            Self::Value { .. } => "type",
            Self::Repeated { .. } => "repeated_field",
            Self::Unknown { .. } => "unknown_field",
        }
    }

    /// The field, if it is about one.
    fn path(&mut self) -> Option<&mut String> {
        match self {
            Self::Syntax(_) => None,
            Self::Value { path, .. } | Self::Repeated { path } | Self::Unknown { path, .. } => Some(path),
        }
    }
}

impl Explain for Malformed {
    fn code(&self) -> &'static str {
        "F0301"
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Syntax(_) => {
                Some("send one JSON object per record; the record's bytes are in the dead letters".into())
            }
            Self::Value { path, expected, .. } => {
                Some(format!("send {} as {expected}, or declare another type", shown(path)))
            }
            Self::Repeated { path } => Some(format!("send {} once", shown(path))),
            Self::Unknown { path, .. } => {
                Some(format!("leave {} out, or ignore fields that no column has", shown(path)))
            }
        }
    }
}

/// The fault of one value; boxed, as it is rare and large.
#[derive(Debug)]
pub(crate) struct Fault(Box<Malformed>);

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self(Box::new(malformed))
    }
}

impl From<Fault> for Malformed {
    fn from(fault: Fault) -> Self {
        *fault.0
    }
}

impl From<Syntax> for Malformed {
    fn from(syntax: Syntax) -> Self {
        Self::Syntax(syntax.to_string())
    }
}

impl From<Syntax> for Fault {
    fn from(syntax: Syntax) -> Self {
        Malformed::from(syntax).into()
    }
}

impl From<Full> for Fault {
    fn from(Full: Full) -> Self {
        Malformed::Value { path: String::new(), expected: "less than 2 GiB in one batch".into(), found: "more".into() }
            .into()
    }
}

/// The value at `text` is not what was expected; what it is may be a fault of syntax too.
pub(crate) fn mismatch(text: &mut Text<'_>, expected: impl Into<String>) -> Fault {
    match text.skip() {
        Ok(found) => Malformed::Value { path: String::new(), expected: expected.into(), found: describe(found) }.into(),
        Err(syntax) => syntax.into(),
    }
}

/// A JSON text in a few words.
fn describe(text: &str) -> String {
    // A number that no double holds is no value to serde_json.
    serde_json::from_str(text).map_or_else(|_| format!("the number {text}"), |value| values::describe(&value))
}

/// Adds where a fault was found.
pub(crate) fn within(name: &str) -> impl FnOnce(Fault) -> Fault {
    move |mut fault| {
        if let Some(path) = fault.0.path() {
            *path = if path.is_empty() {
                name.to_owned()
            } else if path.starts_with(['[', '{']) {
                format!("{name}{path}")
            } else {
                join(name, path)
            };
        }
        fault
    }
}
