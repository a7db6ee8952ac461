//! The text of one cell as a value of its column.
use arrow::datatypes::DataType;
use chrono_tz::Tz;

use super::nested;
use crate::format::column::{Column, Data};
use crate::format::decimal::{self, DecimalProblem};
use crate::format::instant;

/// Why a cell is no value of its column: what the column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CellProblem(pub(crate) String);

impl From<&str> for CellProblem {
    fn from(expected: &str) -> Self {
        Self(expected.to_owned())
    }
}

/// Appends a cell; `None` is NULL. Nothing is guessed: `007` is no number, `1.0` no whole number. A cell of a nested
/// column is JSON.
pub(crate) fn append(column: &mut Column, cell: Option<&str>, zone: Tz) -> Result<(), CellProblem> {
    let Some(text) = cell else {
        return if column.push_null() { Ok(()) } else { Err("a value (the column is required)".into()) };
    };
    let data_type = column.data_type().clone();
    match (&mut column.data, &data_type) {
        (Data::Boolean(values), _) => values.append(boolean(text).ok_or("true or false")?),
        (Data::Int32(values), DataType::Date32) => {
            values.push(instant::parse_date(text).ok_or("a date as 2025-02-17")?);
        }
        (Data::Int32(values), _) => {
            let number = whole(text).and_then(|number| i32::try_from(number).ok());
            values.push(number.ok_or("a whole number of 32 bits")?);
        }
        (Data::Int64(values), DataType::Timestamp(_, Some(_))) => {
            values.push(instant::parse_utc(text, zone).ok_or("a time as 2025-02-17T14:49:15Z")?);
        }
        (Data::Int64(values), DataType::Timestamp(_, None)) => {
            values.push(instant::parse_wall(text).ok_or("a time without zone as 2025-02-17T14:49:15")?);
        }
        (Data::Int64(values), _) => values.push(whole(text).ok_or("a whole number of 64 bits")?),
        (Data::Float32(values), _) => {
            let narrow = double(text).and_then(float).ok_or("a number of 32 bits")?;
            values.push(narrow);
        }
        (Data::Float64(values), _) => values.push(double(text).ok_or("a number")?),
        (Data::Decimal(values), DataType::Decimal128(precision, scale)) => {
            values.push(decimal::parse(text, *precision, *scale).map_err(|problem| match problem {
                DecimalProblem::Syntax => "a number".into(),
                DecimalProblem::Scale => CellProblem(format!("at most {scale} digits after the point")),
                DecimalProblem::Precision => {
                    CellProblem(format!("at most {precision} digits, {scale} of them after the point"))
                }
            })?);
        }
        (Data::Bytes(bytes), DataType::Utf8) => {
            bytes.push(text.as_bytes()).map_err(|_| "less than 2 GiB in one batch")?;
        }
        _ => {
            let value = match data_type {
                DataType::Binary => Ok(serde_json::Value::String(text.to_owned())),
                _ => serde_json::from_str(text),
            };
            let value = value.map_err(|error| CellProblem(format!("JSON of {data_type}: {error}")))?;
            let appended = nested::append(column, &value, zone);
            return appended
                .map_err(|bad| CellProblem(format!("{} in its JSON, which has {}", bad.expected, bad.found)));
        }
    }
    column.present();
    Ok(())
}

fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// A whole number in its one usual form: no plus, no zeros before it.
pub(crate) fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits == "0" || (digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// A number, or one of the names of what is none. A whole number beyond 2^53 must be a double exactly.
pub(crate) fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => return Some(f64::NAN),
        "Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let zeros = digits.starts_with('0') && digits.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let usual = digits.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && !digits.ends_with('.');
    if zeros || !usual {
        return None;
    }
    if let Some(whole) = whole(text) {
        return exact_double(whole);
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// The number as a double, if it is the same number.
#[expect(clippy::cast_precision_loss, reason = "that is what is checked")]
pub(crate) fn exact_double(number: i64) -> Option<f64> {
    (number.unsigned_abs() <= 1 << 53 || number.trailing_zeros() >= 10).then_some(number as f64)
}

#[expect(clippy::cast_possible_truncation, reason = "a float is declared; a finite number out of its range is refused")]
fn float(wide: f64) -> Option<f32> {
    let narrow = wide as f32;
    (!wide.is_finite() || narrow.is_finite()).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for (text, wanted) in [("0", Some(0)), ("-7", Some(-7)), ("9223372036854775807", Some(i64::MAX))] {
            assert_eq!(whole(text), wanted);
        }
        for text in ["", "-", "007", "+1", "1.0", " 1", "1_000", "9223372036854775808", "-0x1"] {
            assert_eq!(whole(text), None, "{text}");
        }
        for (text, wanted) in [("1.5", Some(1.5)), ("-2e3", Some(-2000.0)), ("0.10", Some(0.1)), ("12", Some(12.0))] {
            assert_eq!(double(text), wanted);
        }
        for text in ["", "1.", ".5", "01.5", "1e", "inf", "nan", "9007199254740993", "1e999", "--1"] {
            assert_eq!(double(text), None, "{text}");
        }
        assert!(double("NaN").is_some_and(f64::is_nan));
    }
}
