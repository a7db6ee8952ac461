//! Single JSON values as typed ones, without coercion.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::format::decimal::{self, DecimalProblem};

/// A value that is not of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Mismatch {
    pub(crate) fn new(expected: impl Into<String>, value: &Value) -> Self {
        Self { expected: expected.into(), found: describe(value) }
    }
}

/// A value in a few words: its kind, and itself if it is short.
pub(crate) fn describe(value: &Value) -> String {
    const SHOWN: usize = 40;
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= SHOWN => format!("the text {text:?}"),
        Value::String(text) => format!("the text {:?}…", text.chars().take(SHOWN).collect::<String>()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(fields) => format!("an object of {} fields", fields.len()),
    }
}

pub(crate) fn long(value: &Value) -> Result<i64, Mismatch> {
    value.as_i64().ok_or_else(|| Mismatch::new("a whole number of 64 bits", value))
}

pub(crate) fn int(value: &Value) -> Result<i32, Mismatch> {
    value
        .as_i64()
        .and_then(|value| i32::try_from(value).ok())
        .ok_or_else(|| Mismatch::new("a whole number of 32 bits", value))
}

pub(crate) fn double(value: &Value) -> Result<f64, Mismatch> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
    .ok_or_else(|| Mismatch::new("a number", value))
}

#[expect(clippy::cast_possible_truncation, reason = "a float is declared; a finite number out of its range is refused")]
pub(crate) fn float(value: &Value) -> Result<f32, Mismatch> {
    let wide = double(value)?;
    let narrow = wide as f32;
    if wide.is_finite() && narrow.is_infinite() {
        return Err(Mismatch::new("a number of 32 bits", value));
    }
    Ok(narrow)
}

pub(crate) fn text(value: &Value) -> Result<&str, Mismatch> {
    value.as_str().ok_or_else(|| Mismatch::new("a text", value))
}

pub(crate) fn binary(value: &Value) -> Result<Vec<u8>, Mismatch> {
    value.as_str().and_then(from_base64).ok_or_else(|| Mismatch::new("bytes as base64 text", value))
}

pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The unscaled integer of a decimal given as a number or a text.
pub(crate) fn decimal(value: &Value, precision: u8, scale: i8) -> Result<i128, Mismatch> {
    let parsed = match value {
        // The shortest text that is this number: what was written, up to 15 digits.
        Value::Number(number) => decimal::parse(&number.to_string(), precision, scale),
        Value::String(text) => decimal::parse(text, precision, scale),
        _ => Err(DecimalProblem::Syntax),
    };
    parsed.map_err(|problem| Mismatch::new(decimal_expected(problem, precision, scale), value))
}

/// What a text that is no decimal should have been.
pub(crate) fn decimal_expected(problem: DecimalProblem, precision: u8, scale: i8) -> String {
    match problem {
        DecimalProblem::Syntax => "a number or a number in quotes".to_owned(),
        DecimalProblem::Scale => format!("at most {scale} digits after the point"),
        DecimalProblem::Precision => format!("at most {precision} digits, {scale} of them after the point"),
    }
}
