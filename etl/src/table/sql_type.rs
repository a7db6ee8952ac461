//! Column types by their SQL names, as `tidemill tables show` prints them.
use std::iter::Peekable;
use std::str::CharIndices;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};

use crate::error::Explain;

/// Levels of nesting that are read.
const DEPTH: usize = 16;

/// A text that names no column type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read `{text}` as a column type")]
pub struct TypeNameError {
    /// As written.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Explain for TypeNameError {
    fn code(&self) -> &'static str {
        "C0125"
    }

    fn why(&self) -> Option<String> {
        Some(self.why.clone())
    }

    fn fix(&self) -> Option<String> {
        Some(
            "use text, bigint, integer, double, real, boolean, date, timestamp, binary, decimal(p,s), list<…>, \
             map<text, …> or struct<name type, …>"
                .to_owned(),
        )
    }
}

/// Reads the name of a column type.
///
/// # Errors
/// If it names none, or one that a table cannot hold.
pub fn parse_type(text: &str) -> Result<DataType, TypeNameError> {
    let mut parser = Parser { text, chars: text.char_indices().peekable() };
    let parsed = parser.data_type(0).and_then(|data_type| {
        parser.space();
        match parser.chars.peek() {
            None => Ok(data_type),
            Some((at, _)) => Err(format!("`{}` is left over", text.get(*at..).unwrap_or_default())),
        }
    });
    parsed.map_err(|why| TypeNameError { text: text.to_owned(), why })
}

struct Parser<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn space(&mut self) {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    fn word(&mut self) -> String {
        self.space();
        let mut word = String::new();
        while let Some((_, c)) = self.chars.next_if(|(_, c)| !c.is_whitespace() && !"<>(),".contains(*c)) {
            word.push(c);
        }
        word
    }

    fn sign(&mut self, wanted: char) -> Result<(), String> {
        self.space();
        match self.chars.next_if(|(_, c)| *c == wanted) {
            Some(_) => Ok(()),
            None => Err(format!("`{wanted}` is missing")),
        }
    }

    fn is(&mut self, wanted: char) -> bool {
        self.sign(wanted).is_ok()
    }

    /// Takes `words` if they are what comes next.
    fn words(&mut self, words: &[&str]) -> bool {
        let before = self.chars.clone();
        let all = words.iter().all(|word| self.word().eq_ignore_ascii_case(word));
        if !all {
            self.chars = before;
        }
        all
    }

    fn data_type(&mut self, depth: usize) -> Result<DataType, String> {
        if depth > DEPTH {
            return Err(format!("it has more than {DEPTH} levels"));
        }
        let name = self.word().to_lowercase();
        Ok(match name.as_str() {
            "text" | "string" | "varchar" => DataType::Utf8,
            "bigint" | "long" | "int64" => DataType::Int64,
            "integer" | "int" | "int32" => DataType::Int32,
            "boolean" | "bool" => DataType::Boolean,
            "double" | "float64" => DataType::Float64,
            "real" | "float" | "float32" => DataType::Float32,
            "date" => DataType::Date32,
            "binary" | "bytea" => DataType::Binary,
            "timestamptz" => utc(),
            "timestamp" if self.words(&["without", "time", "zone"]) => DataType::Timestamp(TimeUnit::Microsecond, None),
            "timestamp" => {
                if self.is('(') {
                    let zone = self.word();
                    if !zone.eq_ignore_ascii_case("utc") {
                        return Err(format!("timestamps are kept in UTC, not in `{zone}`"));
                    }
                    self.sign(')')?;
                } else {
                    self.words(&["with", "time", "zone"]);
                }
                utc()
            }
            "decimal" | "numeric" => {
                self.sign('(')?;
                let precision = self.word().parse::<u8>().ok().filter(|p| (1..=38).contains(p));
                let precision = precision.ok_or("a decimal has 1 to 38 digits")?;
                let scale = if self.is(',') { self.word().parse::<i8>().ok() } else { Some(0) };
                let scale = scale.filter(|s| *s >= 0 && s.unsigned_abs() <= precision);
                self.sign(')')?;
                DataType::Decimal128(precision, scale.ok_or("a decimal has at most its digits after the point")?)
            }
            "list" | "array" => {
                self.sign('<')?;
                let item = self.data_type(depth + 1)?;
                self.sign('>')?;
                DataType::List(Arc::new(Field::new("element", item, true)))
            }
            "map" => {
                self.sign('<')?;
                if self.data_type(depth + 1)? != DataType::Utf8 {
                    return Err("the keys of a map are text".to_owned());
                }
                self.sign(',')?;
                let value = self.data_type(depth + 1)?;
                self.sign('>')?;
                let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false)
            }
            "struct" | "row" => {
                self.sign('<')?;
                let mut fields: Vec<Field> = Vec::new();
                loop {
                    let name = self.word();
                    if name.is_empty() || fields.iter().any(|field| field.name().eq_ignore_ascii_case(&name)) {
                        return Err(format!("`{name}` cannot be the name of a field here"));
                    }
                    fields.push(Field::new(name, self.data_type(depth + 1)?, true));
                    if !self.is(',') {
                        break;
                    }
                }
                self.sign('>')?;
                DataType::Struct(fields.into())
            }
            "" => return Err(format!("a type is missing in `{}`", self.text)),
            other => return Err(format!("there is no type `{other}`")),
        })
    }
}

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::type_name;
    use super::*;

    #[test]
    fn what_tables_show_prints_is_read_back() {
        for text in [
            "text",
            "bigint",
            "integer",
            "boolean",
            "double",
            "date",
            "binary",
            "decimal(10,2)",
            "timestamp (UTC)",
            "timestamp without time zone",
            "list<list<double>>",
            "map<text, struct<a bigint, b list<text>>>",
            "struct<id bigint, at timestamp (UTC), tags list<text>>",
            "float32",
        ] {
            assert_eq!(type_name(&parse_type(text).unwrap()), text);
        }
        assert_eq!(parse_type(" VARCHAR "), Ok(DataType::Utf8));
        assert_eq!(parse_type("timestamp"), parse_type("timestamp with time zone"));
        assert_eq!(parse_type("numeric(5)"), Ok(DataType::Decimal128(5, 0)));
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for text in ["", "txt", "bigint bigint", "decimal", "decimal(39,2)", "decimal(3,4)", "list", "list<text"] {
            assert!(parse_type(text).is_err(), "{text}");
        }
        for text in ["map<bigint, text>", "struct<>", "struct<a text, A text>", "timestamp (Europe/Berlin)"] {
            assert!(parse_type(text).is_err(), "{text}");
        }
        assert!(parse_type(&"list<".repeat(1000)).is_err());
    }
}
