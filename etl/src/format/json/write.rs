//! Rows as JSON, for people and for `topics produce`: what [`super::Decoder`] reads back.
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::values::to_base64;
use crate::error::Explain;
use crate::format::{decimal, instant};

/// A column type that has no JSON form here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write `{column}` as JSON: no form for the type {data_type}")]
pub struct JsonWriteError {
    /// The column.
    pub column: String,
    /// Its type.
    pub data_type: String,
}

impl Explain for JsonWriteError {
    fn code(&self) -> &'static str {
        "F0302"
    }

    fn fix(&self) -> Option<String> {
        Some(format!("cast `{}` to a type that Delta tables have", self.column))
    }
}

/// Decimals of up to 15 digits are JSON numbers, as every reader's doubles hold them; values with more are texts.
const NUMBER_LIMIT: u128 = 1_000_000_000_000_000;

/// Returns row `row` as an object, its fields in the order of the columns; NULL is `null`.
///
/// Times are RFC 3339, binary is base64, decimals of more than 15 digits are texts, NaN and infinities are texts.
///
/// # Errors
/// If a column is of a type that no Delta table has.
///
/// # Panics
/// If the batch has no such row.
pub fn to_json(batch: &RecordBatch, row: usize) -> Result<Value, JsonWriteError> {
    let schema = batch.schema();
    let mut object = Map::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let value = value(column, row)
            .map_err(|data_type| JsonWriteError { column: field.name().clone(), data_type: data_type.to_string() })?;
        object.insert(field.name().clone(), value);
    }
    Ok(Value::Object(object))
}

fn value(array: &dyn Array, row: usize) -> Result<Value, DataType> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        // By its own shortest text: 0.1 as a double of a float would be 0.10000000149011612.
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).to_string()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row).to_string()),
        DataType::Decimal128(_, scale) => {
            let unscaled = array.as_primitive::<Decimal128Type>().value(row);
            let text = decimal::format(unscaled, *scale);
            if unscaled.unsigned_abs() >= NUMBER_LIMIT {
                text.into()
            } else if *scale == 0 {
                text.parse::<i64>().map_or(Value::String(text), Value::from)
            } else {
                float(text)
            }
        }
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Binary => to_base64(array.as_binary::<i32>().value(row)).into(),
        DataType::LargeBinary => to_base64(array.as_binary::<i64>().value(row)).into(),
        DataType::BinaryView => to_base64(array.as_binary_view().value(row)).into(),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            instant::format_date(days).map_or_else(|| days.into(), Value::String)
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            instant::format_micros(micros, zone.is_some()).map_or_else(|| micros.into(), Value::String)
        }
        DataType::List(_) => items(array.as_list::<i32>().value(row).as_ref())?.into(),
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            let keys = items(entries.column(0))?;
            let values = items(entries.column(1))?;
            keys.into_iter()
                .zip(values)
                .map(|(key, value)| (key.as_str().map_or_else(|| key.to_string(), str::to_owned), value))
                .collect::<Map<_, _>>()
                .into()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let members =
                fields.iter().zip(columns).map(|(field, column)| Ok((field.name().clone(), value(column, row)?)));
            Value::Object(members.collect::<Result<_, DataType>>()?)
        }
        other => return Err(other.clone()),
    })
}

fn items(array: &dyn Array) -> Result<Vec<Value>, DataType> {
    (0..array.len()).map(|row| value(array, row)).collect()
}

/// A number by its text; what JSON has no number for is a text.
fn float(text: String) -> Value {
    match text.as_str() {
        "inf" => return "Infinity".into(),
        "-inf" => return "-Infinity".into(),
        _ => {}
    }
    text.parse().ok().and_then(Number::from_f64).map_or(Value::String(text), Value::Number)
}
