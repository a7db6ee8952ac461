//! JSON as people write it into Avro bodies.
//!
//! | Avro | JSON |
//! |---|---|
//! | int, long | a whole number |
//! | float, double | a number, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | bytes, fixed | base64 text |
//! | decimal | a number or a text, exact: digits that do not fit are an error. A number goes by its shortest text, so `8.99` is 8.99; more than 15 digits need a text |
//! | timestamp | RFC 3339 text (without a zone: in the zone set, UTC by default), or a whole number in the schema's unit |
//! | local-timestamp | the same text without a zone, or a whole number |
//! | date, time | `"2025-02-17"`, `"14:49:15.179"`, or a whole number in the schema's unit |
//! | uuid | its text |
//! | duration | `{"months": 1, "days": 2, "millis": 3}` |
//! | enum | the symbol |
//! | union | `{"branch": value}`, or the value itself if exactly one branch fits |
//! | record | an object; a missing field takes its default, an unknown one is an error |
use apache_avro::Schema;
use chrono_tz::Tz;
use serde_json::{Map, Value};
use thiserror::Error;

use super::shape::{Record, Shape, Unit};
use super::wire::{decimal_bytes, write_bytes, write_length, write_long};
use crate::error::Explain;
use crate::format::error::{SchemaError, join, shown};
use crate::format::json::{self, Mismatch};
use crate::format::{decimal, instant};

/// Why a JSON value is not a value of a schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("encode {}: expected {expected}, found {found}", shown(path))]
pub struct JsonProblem {
    /// The field, as `device.os`, `tags[2]` or `attributes{color}`; empty for the record itself.
    pub path: String,
    /// What the schema asks for.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// The nearest known name, for one that is unknown.
    pub nearest: Option<String>,
}

impl Explain for JsonProblem {
    fn code(&self) -> &'static str {
        "F0206"
    }

    fn fix(&self) -> Option<String> {
        Some(match &self.nearest {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("give {} as {}", shown(&self.path), self.expected),
        })
    }
}

impl JsonProblem {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { path: String::new(), expected: expected.into(), found: found.into(), nearest: None }
    }

    fn within(mut self, name: &str) -> Self {
        self.path = if self.path.starts_with(['[', '{']) {
            format!("{name}{}", self.path)
        } else if self.path.is_empty() {
            name.to_owned()
        } else {
            join(name, &self.path)
        };
        self
    }
}

impl From<Mismatch> for JsonProblem {
    fn from(mismatch: Mismatch) -> Self {
        Self::new(mismatch.expected, mismatch.found)
    }
}

/// Encodes JSON values as bodies of one schema.
#[derive(Debug, Clone)]
pub struct JsonEncoder {
    record: Shape,
    convention: Convention,
}

impl JsonEncoder {
    /// For bodies of `schema`; times without a zone are UTC.
    ///
    /// # Errors
    /// If the schema contains itself or is too large.
    pub fn new(schema: &Schema) -> Result<Self, SchemaError> {
        let is_record = matches!(schema, Schema::Record(_));
        let mut record = Shape::root(schema)?;
        let shape = match record.fields.pop() {
            Some(field) if !is_record => field.shape,
            last => {
                record.fields.extend(last);
                Shape::Record(record)
            }
        };
        Ok(Self { record: shape, convention: Convention::Plain(Tz::UTC) })
    }

    /// Takes times without a zone as times in `zone`.
    #[must_use]
    pub fn with_zone(mut self, zone: Tz) -> Self {
        self.convention = Convention::Plain(zone);
        self
    }

    /// Returns the body (without a frame) for `value`.
    ///
    /// # Errors
    /// If a value is not of its type, a field without default is missing, or a field is unknown.
    pub fn encode(&self, value: &Value) -> Result<Vec<u8>, JsonProblem> {
        let mut out = Vec::new();
        write_json(&self.record, value, &self.convention, &mut out)?;
        Ok(out)
    }
}

/// Returns the body (without a frame) for one `value`. For more than one, keep a [`JsonEncoder`].
///
/// # Errors
/// As [`JsonEncoder::new`] and [`JsonEncoder::encode`].
pub fn encode_json(value: &Value, schema: &Schema) -> crate::error::Result<Vec<u8>> {
    Ok(JsonEncoder::new(schema)?.encode(value)?)
}

/// Whose JSON it is.
#[derive(Debug, Clone)]
pub(super) enum Convention {
    /// What people write; times without a zone are in this zone.
    Plain(Tz),
    /// Defaults in a schema: bytes, fixed and decimals are texts of one character per byte, times are numbers.
    AvroDefault,
}

type Step = Result<(), JsonProblem>;

/// Appends `value` as `shape`; after an error `out` may hold a part of it.
pub(super) fn write_json(shape: &Shape, value: &Value, convention: &Convention, out: &mut Vec<u8>) -> Step {
    let expected = || JsonProblem::new(shape.describe(), json::describe(value));
    match shape {
        Shape::Null if value.is_null() => {}
        Shape::Null => return Err(expected()),
        Shape::Boolean => out.push(u8::from(value.as_bool().ok_or_else(expected)?)),
        Shape::Int => write_long(i64::from(json::int(value)?), out),
        Shape::Long => write_long(json::long(value)?, out),
        Shape::Float => out.extend_from_slice(&json::float(value)?.to_le_bytes()),
        Shape::Double => out.extend_from_slice(&json::double(value)?.to_le_bytes()),
        Shape::String => write_bytes(json::text(value)?.as_bytes(), out),
        Shape::Bytes => write_bytes(&binary(value, convention)?, out),
        Shape::Fixed(fixed) => {
            let bytes = binary(value, convention)?;
            if bytes.len() != fixed.size {
                return Err(JsonProblem::new(shape.describe(), format!("{} bytes", bytes.len())));
            }
            out.extend_from_slice(&bytes);
        }
        Shape::Enum { symbols, .. } => {
            let symbol = json::text(value)?;
            let Some(index) = symbols.iter().position(|known| known == symbol) else {
                let mut problem = JsonProblem::new(format!("one of {}", symbols.join(", ")), format!("`{symbol}`"));
                problem.nearest = nearest(symbol, symbols.iter().map(String::as_str));
                return Err(problem);
            };
            write_length(index, out);
        }
        Shape::Array(item) => {
            let items = value.as_array().ok_or_else(expected)?;
            if !items.is_empty() {
                write_length(items.len(), out);
            }
            for (index, value) in items.iter().enumerate() {
                write_json(item, value, convention, out).map_err(|problem| problem.within(&format!("[{index}]")))?;
            }
            out.push(0);
        }
        Shape::Map(item) => {
            let entries = value.as_object().ok_or_else(expected)?;
            if !entries.is_empty() {
                write_length(entries.len(), out);
            }
            for (key, value) in entries {
                write_bytes(key.as_bytes(), out);
                write_json(item, value, convention, out).map_err(|problem| problem.within(&format!("{{{key}}}")))?;
            }
            out.push(0);
        }
        Shape::Record(inner) => write_record(inner, value.as_object().ok_or_else(expected)?, convention, out)?,
        Shape::Union(branches) => write_union(shape, branches, value, convention, out)?,
        logical => write_logical(logical, value, convention, out)?,
    }
    Ok(())
}

fn write_logical(shape: &Shape, value: &Value, convention: &Convention, out: &mut Vec<u8>) -> Step {
    let expected = || JsonProblem::new(shape.describe(), json::describe(value));
    match shape {
        Shape::Decimal { precision, scale, fixed } => {
            let unscaled = match convention {
                Convention::Plain(_) => json::decimal(value, *precision, *scale)?,
                Convention::AvroDefault => super::wire::decimal_value(&binary(value, convention)?)
                    .filter(|unscaled| decimal::fits(*unscaled, *precision))
                    .ok_or_else(expected)?,
            };
            write_decimal(unscaled, fixed.as_ref().map(|fixed| fixed.size), out).ok_or_else(expected)?;
        }
        Shape::Date => {
            let days =
                if value.is_number() { Some(json::int(value)?) } else { value.as_str().and_then(instant::parse_date) };
            write_long(i64::from(days.ok_or_else(expected)?), out);
        }
        Shape::TimeMillis => {
            let micros = value.as_str().and_then(instant::parse_time);
            let millis = match micros {
                Some(micros) => micros / 1_000,
                None => i64::from(json::int(value)?),
            };
            write_long(millis, out);
        }
        Shape::TimeMicros => match value.as_str().and_then(instant::parse_time) {
            Some(micros) => write_long(micros, out),
            None => write_long(json::long(value)?, out),
        },
        Shape::Timestamp { unit, utc } => {
            let given = match (value.as_str(), convention) {
                (Some(text), Convention::Plain(zone)) => {
                    let micros = if *utc { instant::parse_utc(text, *zone) } else { instant::parse_wall(text) };
                    micros.and_then(|micros| in_unit(micros, *unit)).ok_or_else(expected)?
                }
                _ => value.as_i64().ok_or_else(expected)?,
            };
            write_long(given, out);
        }
        Shape::UuidText => {
            uuid(value).ok_or_else(expected)?;
            write_bytes(json::text(value)?.as_bytes(), out);
        }
        Shape::UuidBytes => write_bytes(uuid(value).ok_or_else(expected)?.as_bytes(), out),
        Shape::UuidFixed(_) => out.extend_from_slice(uuid(value).ok_or_else(expected)?.as_bytes()),
        Shape::Duration(_) => {
            let parts = value.as_object().filter(|parts| parts.len() == 3).ok_or_else(expected)?;
            for name in ["months", "days", "millis"] {
                let part = parts.get(name).and_then(Value::as_u64).and_then(|part| u32::try_from(part).ok());
                out.extend_from_slice(&part.ok_or_else(|| expected().within(name))?.to_le_bytes());
            }
        }
        // The types that are not logical are written by the caller.
        _ => return Err(expected()),
    }
    Ok(())
}

/// The body of a field's default, if it has a good one.
pub(super) fn default_body(shape: &Shape, default: Option<&Value>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    write_json(shape, default?, &Convention::AvroDefault, &mut body).ok()?;
    Some(body)
}

/// Appends a decimal; `None` if it does not fit the fixed.
pub(super) fn write_decimal(unscaled: i128, fixed: Option<usize>, out: &mut Vec<u8>) -> Option<()> {
    let (bytes, start) = decimal_bytes(unscaled);
    let shortest = bytes.get(start..)?;
    if let Some(size) = fixed {
        let padding = size.checked_sub(shortest.len())?;
        out.extend(std::iter::repeat_n(if unscaled < 0 { 0xff } else { 0 }, padding));
        out.extend_from_slice(shortest);
    } else {
        write_bytes(shortest, out);
    }
    Some(())
}

/// Microseconds in another unit; `None` if that overflows. Finer digits are cut off.
pub(super) fn in_unit(micros: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Millis => Some(micros.div_euclid(1_000)),
        Unit::Micros => Some(micros),
        Unit::Nanos => micros.checked_mul(1_000),
    }
}

fn uuid(value: &Value) -> Option<uuid::Uuid> {
    value.as_str().and_then(|text| uuid::Uuid::parse_str(text).ok())
}

fn binary(value: &Value, convention: &Convention) -> Result<Vec<u8>, JsonProblem> {
    match convention {
        Convention::Plain(_) => Ok(json::binary(value)?),
        Convention::AvroDefault => json::text(value)?
            .chars()
            .map(|char| u8::try_from(u32::from(char)))
            .collect::<Result<_, _>>()
            .map_err(|_| JsonProblem::new("characters up to U+00FF, one per byte", json::describe(value))),
    }
}

fn write_record(record: &Record, object: &Map<String, Value>, convention: &Convention, out: &mut Vec<u8>) -> Step {
    let known = || record.fields.iter().map(|field| field.name.as_str());
    if let Some(unknown) = object.keys().find(|key| !known().any(|name| name == *key)) {
        let names: Vec<&str> = known().collect();
        let mut problem = JsonProblem::new(format!("one of the fields {}", names.join(", ")), "an unknown field");
        problem.nearest = nearest(unknown, known());
        return Err(problem.within(unknown));
    }
    for field in &record.fields {
        let written = match (object.get(&field.name), &field.default) {
            (Some(value), _) => write_json(&field.shape, value, convention, out),
            (None, Some(default)) => write_json(&field.shape, default, &Convention::AvroDefault, out),
            (None, None) => Err(JsonProblem::new(field.shape.describe(), "nothing, and it has no default")),
        };
        written.map_err(|problem| problem.within(&field.name))?;
    }
    Ok(())
}

/// Takes `{"branch": value}` if its branch exists and fits, else the one branch that the value itself fits.
fn write_union(shape: &Shape, branches: &[Shape], value: &Value, convention: &Convention, out: &mut Vec<u8>) -> Step {
    let start = out.len();
    let is_default = matches!(convention, Convention::AvroDefault);
    let mut problems: Vec<JsonProblem> = Vec::new();
    let tagged = value.as_object().filter(|object| object.len() == 1).and_then(|object| object.iter().next());
    if let Some((tag, inner)) = tagged
        && !is_default
        && let Some((index, branch)) = branches.iter().enumerate().find(|(_, branch)| is_tag(branch, tag))
    {
        write_length(index, out);
        match write_json(branch, inner, convention, out) {
            Ok(()) => return Ok(()),
            Err(problem) => problems.push(problem.within(tag)),
        }
        out.truncate(start);
    }
    let mut fitting: Vec<(&str, Vec<u8>)> = Vec::new();
    for (index, branch) in branches.iter().enumerate() {
        write_length(index, out);
        match write_json(branch, value, convention, out) {
            // A default belongs to the first branch that it fits.
            Ok(()) if is_default => return Ok(()),
            Ok(()) => fitting.push((branch.tag(), out.split_off(start))),
            Err(problem) => problems.push(problem),
        }
        out.truncate(start);
    }
    match fitting.as_slice() {
        [(_, body)] => {
            out.extend_from_slice(body);
            Ok(())
        }
        [] => {
            // With one type to be, its own problem says more than "no branch fits".
            let one = Shape::live(branches).count() == 1 && !value.is_null();
            match problems.into_iter().filter(|_| !value.is_null()).max_by_key(|problem| problem.path.len()) {
                Some(problem) if one || !problem.path.is_empty() => Err(problem),
                _ => Err(JsonProblem::new(shape.describe(), json::describe(value))),
            }
        }
        [(first, _), ..] => {
            let names: Vec<&str> = fitting.iter().map(|(name, _)| *name).collect();
            Err(JsonProblem::new(
                format!("a value with its type, as {{\"{first}\": …}}"),
                format!("{}, which fits {}", json::describe(value), names.join(" and ")),
            ))
        }
    }
}

fn is_tag(branch: &Shape, tag: &str) -> bool {
    branch.tag() == tag || branch.tag().rsplit('.').next() == Some(tag)
}

/// The known name nearest to `name`, if it is near enough to be a slip.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 3)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's distance, upper and lower case being the same.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
