//! The type of a column from the values seen in it.
//!
//! A type is given only where every value seen keeps its meaning in it; else the column is text. A number with zeros
//! before it is text, and so are whole numbers beyond 64 bits, and times with more than six digits after the second.
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use chrono_tz::Tz;

use super::json::{Kind, Syntax, Text};
use super::{csv, instant};

/// An object with more names than this, or deeper than [`DEPTH`], is kept as its JSON text.
const FIELDS: usize = 1000;
const DEPTH: usize = 16;

/// What the values of one column have in common.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Seen {
    /// No value yet.
    #[default]
    Nothing,
    Boolean,
    /// Whole numbers of 64 bits; whether each is a double exactly.
    Whole {
        exact: bool,
    },
    Double,
    /// Only names of what is no number: NaN and the infinities.
    Special,
    Date,
    Instant,
    Text,
    List(Box<Seen>),
    Object(Members),
}

/// The fields of objects, in the order they first came.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Members {
    all: Vec<(String, Seen)>,
    index: HashMap<String, usize>,
    /// How many names were looked at.
    looked: usize,
}

impl Members {
    /// Whether the names can be beside each other: none is empty, none differs from another by case only.
    fn can_be_columns(&mut self) -> bool {
        if self.all.len() > self.looked {
            self.looked = self.all.len();
            let mut lower: Vec<String> = self.all.iter().map(|(name, _)| name.to_lowercase()).collect();
            lower.sort_unstable();
            let unnamed = lower.first().is_some_and(String::is_empty);
            return !unnamed && self.all.len() <= FIELDS && !lower.windows(2).any(|pair| pair[0] == pair[1]);
        }
        true
    }

    fn entry(&mut self, name: &str) -> &mut Seen {
        let at = if let Some(at) = self.index.get(name) {
            *at
        } else {
            self.index.insert(name.to_owned(), self.all.len());
            self.all.push((name.to_owned(), Seen::Nothing));
            self.all.len() - 1
        };
        &mut self.all[at].1
    }
}

impl Seen {
    /// Takes a cell of a CSV file into account.
    pub(crate) fn cell(&mut self, text: &str, zone: Tz) {
        if *self != Self::Text {
            self.add(of_cell(text, zone));
        }
    }

    /// Takes the JSON value at `text` into account, and walks over it.
    pub(crate) fn json(&mut self, text: &mut Text<'_>, zone: Tz) -> Result<(), Syntax> {
        self.json_at(text, zone, 0)
    }

    fn json_at(&mut self, text: &mut Text<'_>, zone: Tz, depth: usize) -> Result<(), Syntax> {
        let kind = text.kind()?;
        let nested = match kind {
            Kind::Array => matches!(self, Self::Nothing | Self::List(_)),
            Kind::Object => matches!(self, Self::Nothing | Self::Object(_)),
            _ => true,
        };
        if *self == Self::Text || !nested || depth >= DEPTH {
            text.skip()?;
            if kind != Kind::Null {
                *self = Self::Text;
            }
            return Ok(());
        }
        match kind {
            Kind::Null => text.null()?,
            Kind::Boolean => {
                text.boolean()?;
                self.add(Self::Boolean);
            }
            Kind::Number => {
                let number = text.number()?;
                self.add(match number.digits.parse::<i64>() {
                    Ok(whole) => Self::Whole { exact: csv::exact_double(whole).is_some() },
                    // Beyond 64 bits: the digits are kept as text, a double would change them.
                    Err(_) if number.whole => Self::Text,
                    Err(_) => Self::Double,
                });
            }
            Kind::Text => self.add(of_text(&text.string()?, zone)),
            Kind::Array => {
                if *self == Self::Nothing {
                    *self = Self::List(Box::default());
                }
                let mut items = text.enter()?;
                while text.more(&mut items)? {
                    match self {
                        Self::List(seen) => seen.json_at(text, zone, depth + 1)?,
                        _ => text.skip().map(drop)?,
                    }
                }
            }
            Kind::Object => {
                if *self == Self::Nothing {
                    *self = Self::Object(Members::default());
                }
                let mut items = text.enter()?;
                while text.more(&mut items)? {
                    let name = text.key()?;
                    match self {
                        Self::Object(members) => members.entry(&name).json_at(text, zone, depth + 1)?,
                        _ => text.skip().map(drop)?,
                    }
                }
                if let Self::Object(members) = self
                    && !members.can_be_columns()
                {
                    *self = Self::Text;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        let both = match (std::mem::take(self), other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Whole { exact: a }, Self::Whole { exact: b }) => Self::Whole { exact: a && b },
            (Self::Whole { exact: true }, Self::Double | Self::Special)
            | (Self::Double | Self::Special, Self::Whole { exact: true })
            | (Self::Special, Self::Double)
            | (Self::Double, Self::Special) => Self::Double,
            (a, b) if a == b => a,
            _ => Self::Text,
        };
        *self = both;
    }

    /// The column's type; `None` as long as there is no evidence.
    pub(crate) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Nothing => return None,
            Self::Boolean => DataType::Boolean,
            Self::Whole { .. } => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Text | Self::Special => DataType::Utf8,
            Self::List(item) => {
                // Always empty so far: text holds whatever comes.
                let item = item.data_type().unwrap_or(DataType::Utf8);
                DataType::List(Arc::new(Field::new("element", item, true)))
            }
            Self::Object(members) => {
                let fields: Vec<Field> = members
                    .all
                    .iter()
                    .filter_map(|(name, seen)| seen.data_type().map(|data_type| Field::new(name, data_type, true)))
                    .collect();
                if fields.is_empty() {
                    return None;
                }
                DataType::Struct(fields.into())
            }
        })
    }
}

fn of_text(text: &str, zone: Tz) -> Seen {
    let bytes = text.as_bytes();
    // Dates begin with four digits and a dash; the rest is not looked at closely.
    let dated = bytes.len() >= 10 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && bytes[7] == b'-';
    if !dated {
        return Seen::Text;
    }
    if bytes.len() == 10 {
        return if instant::parse_date(text).is_some() { Seen::Date } else { Seen::Text };
    }
    let fraction = text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    if fraction <= 6 && instant::parse_utc(text, zone).is_some() { Seen::Instant } else { Seen::Text }
}

fn of_cell(text: &str, zone: Tz) -> Seen {
    let Some(first) = text.as_bytes().first() else { return Seen::Text };
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Seen::Special;
    }
    match first {
        b'0'..=b'9' | b'-' => {
            if let Some(whole) = csv::whole(text) {
                return Seen::Whole { exact: csv::exact_double(whole).is_some() };
            }
            // Digits only, and yet no whole number of 64 bits: zeros before it, or too long.
            let digits = text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
            if !digits && csv::double(text).is_some() { Seen::Double } else { of_text(text, zone) }
        }
        b't' | b'T' | b'f' | b'F' if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") => {
            Seen::Boolean
        }
        _ => Seen::Text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cells(texts: &[&str]) -> Option<String> {
        let mut seen = Seen::default();
        for text in texts {
            seen.cell(text, Tz::UTC);
        }
        seen.data_type().map(|data_type| data_type.to_string())
    }

    fn values(all: &[Value]) -> Option<String> {
        let mut seen = Seen::default();
        for value in all {
            let text = value.to_string();
            seen.json(&mut Text::new(text.as_bytes()).unwrap(), Tz::UTC).unwrap();
        }
        seen.data_type().map(|data_type| data_type.to_string())
    }

    #[test]
    fn a_type_is_given_only_where_no_value_changes() {
        let utc = "Timestamp(µs, \"UTC\")";
        for (texts, wanted) in [
            (&["1", "-2"][..], "Int64"),
            (&["1", "2.5"], "Float64"),
            (&["1.5", "NaN"], "Float64"),
            (&["NaN"], "Utf8"),
            (&["9007199254740993", "2.5"], "Utf8"),
            (&["007", "8"], "Utf8"),
            (&["9223372036854775808"], "Utf8"),
            (&["true", "FALSE"], "Boolean"),
            (&["true", "1"], "Utf8"),
            (&["2025-02-17"], "Date32"),
            (&["2025-02-30"], "Utf8"),
            (&["2025-02-17T14:49:15", "2025-02-17 14:49:15.123456", "2025-02-17T14:49:15+02:00"], utc),
            (&["2025-02-17T14:49:15.123456789Z"], "Utf8"),
            (&["2025-02-17", "2025-02-17T14:49:15Z"], "Utf8"),
            (&["", "1"], "Utf8"),
            (&["1.", "2"], "Utf8"),
        ] {
            assert_eq!(cells(texts).as_deref(), Some(wanted), "{texts:?}");
        }
        assert_eq!(cells(&[]), None);
    }

    #[test]
    fn nested_values_have_nested_types_unless_they_conflict() {
        assert_eq!(values(&[json!([]), json!([1, null])]).as_deref(), Some("List(Int64, field: 'element')"));
        assert_eq!(values(&[json!({}), json!({"a": null}), json!(null)]), None);
        let object = values(&[json!({"a": 1}), json!({"b": {"c": "x"}, "a": 2.5})]).unwrap();
        assert_eq!(object, "Struct(\"a\": Float64, \"b\": Struct(\"c\": Utf8))");
        for conflict in [
            [json!({"a": 1}), json!([1])],
            [json!(1), json!("x")],
            [json!({"a": 1}), json!({"A": 2})],
            [json!(true), json!(1)],
            [json!(18_446_744_073_709_551_615_u64), json!(1)],
        ] {
            assert_eq!(values(&conflict).as_deref(), Some("Utf8"), "{conflict:?}");
        }
    }
}
