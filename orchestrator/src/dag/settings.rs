//! Values of settings: TOML to JSON, shapes, durations. Used when a file is read and again after templates are rendered.
use std::time::Duration;

use serde_json::{Map, Value};
use toml_span::value::ValueInner;

use super::kind::{KindSpec, Shape};
use super::template;

/// Turns a TOML value into JSON. Floats that JSON does not know (`inf`, `nan`) become strings.
pub(super) fn to_json(value: &toml_span::Value<'_>) -> Value {
    match value.as_ref() {
        ValueInner::String(text) => Value::String(text.to_string()),
        ValueInner::Integer(number) => Value::from(*number),
        ValueInner::Float(number) => {
            serde_json::Number::from_f64(*number).map_or_else(|| Value::String(number.to_string()), Value::Number)
        }
        ValueInner::Boolean(yes) => Value::Bool(*yes),
        ValueInner::Array(items) => Value::Array(items.iter().map(to_json).collect()),
        ValueInner::Table(table) => Value::Object(
            in_file_order(table).into_iter().map(|(key, value)| (key.name.to_string(), to_json(value))).collect(),
        ),
    }
}

/// Reads TOML as JSON.
///
/// # Errors
/// The parser's words and the line, if it is not TOML.
pub fn read_toml(text: &str) -> Result<Value, String> {
    match toml_span::parse(text) {
        Ok(value) => Ok(to_json(&value)),
        Err(error) => {
            let line = text.get(..error.span.start).unwrap_or_default().matches('\n').count() + 1;
            Err(format!("line {line}: {error}"))
        }
    }
}

/// The entries of a table in the order of the file (the parser sorts them by name).
pub(super) fn in_file_order<'t, 'de>(
    table: &'t toml_span::value::Table<'de>,
) -> Vec<(&'t toml_span::value::Key<'de>, &'t toml_span::Value<'de>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span.start);
    entries
}

/// Says what is wrong with a value of that shape, or `None`.
pub(crate) fn misfit(shape: Shape, value: &Value, rendered: bool) -> Option<String> {
    if !rendered && template::any_template(value) {
        return None;
    }
    let fits = match shape {
        Shape::Text => value.is_string(),
        Shape::Integer => value.is_i64() || value.is_u64(),
        Shape::Number => value.is_number(),
        Shape::Boolean => value.is_boolean(),
        Shape::Duration => match value.as_str() {
            Some(text) => return parse_duration(text).err(),
            None => false,
        },
        Shape::ListOfText => {
            value.is_string() || value.as_array().is_some_and(|items| items.iter().all(Value::is_string))
        }
        Shape::Table => value.is_object(),
        Shape::Any => true,
    };
    (!fits).then(|| format!("expected {}, found {}", shape.article(), article(value)))
}

/// The type of a value with its article, for sentences.
pub(super) fn article(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a float",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "a table",
    }
}

/// Checks rendered settings against their kind, and makes a list of one where a list was written as one string: tasks
/// see lists only.
///
/// # Errors
/// One sentence about the first setting that does not fit.
pub(crate) fn settle_rendered(kind: &KindSpec, settings: &mut Map<String, Value>) -> Result<(), String> {
    for key in kind.keys {
        let Some(value) = settings.get_mut(key.name) else { continue };
        if let Some(trouble) = misfit(key.shape, value, true) {
            return Err(format!("`{}`: {trouble}", key.name));
        }
        if key.shape == Shape::ListOfText && value.is_string() {
            *value = Value::Array(vec![value.take()]);
        }
    }
    Ok(())
}

const UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads a duration such as `500ms`, `5s`, `1h30m` or `7d`: whole numbers, each with a unit, largest unit first or not.
///
/// # Errors
/// A fragment saying what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = |what: &str| Err(format!("{what}; a duration is written like \"500ms\", \"30s\", \"1h30m\" or \"7d\""));
    let mut rest = text.trim();
    if rest.is_empty() {
        return wrong("empty");
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        rest = rest.strip_prefix(digits.as_str()).unwrap_or_default();
        let unit: String = rest.chars().take_while(|c| !c.is_ascii_digit()).collect();
        rest = rest.strip_prefix(unit.as_str()).unwrap_or_default();
        let Ok(number) = digits.parse::<u64>() else {
            return wrong(if digits.is_empty() { "no number before the unit" } else { "the number is too large" });
        };
        let name = unit.trim();
        if name.is_empty() {
            return wrong("no unit");
        }
        let Some((_, factor)) = UNITS.iter().find(|(unit, _)| *unit == name) else {
            return wrong(&format!("unknown unit `{name}`"));
        };
        match number.checked_mul(*factor).and_then(|part| total.checked_add(part)) {
            Some(sum) => total = sum,
            None => return wrong("too long"),
        }
    }
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("2s", 2_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            (" 1 m 5 s ", 65_000),
            ("1w", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5 parsecs", "-5s", "1.5h", "99999999999999999999s", "18446744073709551615w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
