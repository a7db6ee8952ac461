//! A JSON value as one value of a column: what a cell of a nested column holds.
use arrow::datatypes::DataType;
use chrono_tz::Tz;
use serde_json::Value;

use crate::format::column::{Column, Data, Full};
use crate::format::instant;
use crate::format::json::{self, Mismatch};

type Step = Result<(), Mismatch>;

fn full(outcome: Result<(), Full>, value: &Value) -> Step {
    outcome.map_err(|Full| Mismatch::new("less than 2 GiB in one batch", value))
}

/// Appends one value to a column; after an error the column has to be cut back to the row before.
pub(super) fn append(column: &mut Column, value: &Value, zone: Tz) -> Step {
    if value.is_null() {
        return if column.push_null() { Ok(()) } else { Err(Mismatch::new("a value (the column is required)", value)) };
    }
    let data_type = column.data_type().clone();
    match (&mut column.data, &data_type) {
        (Data::Boolean(values), _) => {
            values.append(value.as_bool().ok_or_else(|| Mismatch::new("true or false", value))?);
        }
        (Data::Int32(values), DataType::Date32) => {
            let days = value.as_str().and_then(instant::parse_date);
            values.push(days.ok_or_else(|| Mismatch::new("a date as 2025-02-17", value))?);
        }
        (Data::Int32(values), _) => values.push(json::int(value)?),
        (Data::Int64(values), DataType::Timestamp(_, Some(_))) => {
            let micros = value.as_str().and_then(|text| instant::parse_utc(text, zone));
            values.push(micros.ok_or_else(|| Mismatch::new("a time as 2025-02-17T14:49:15Z", value))?);
        }
        (Data::Int64(values), DataType::Timestamp(_, None)) => {
            let micros = value.as_str().and_then(instant::parse_wall);
            values.push(micros.ok_or_else(|| Mismatch::new("a time without zone as 2025-02-17T14:49:15", value))?);
        }
        (Data::Int64(values), _) => values.push(json::long(value)?),
        (Data::Float32(values), _) => values.push(json::float(value)?),
        (Data::Float64(values), _) => values.push(json::double(value)?),
        (Data::Decimal(values), DataType::Decimal128(precision, scale)) => {
            values.push(json::decimal(value, *precision, *scale)?);
        }
        (Data::Bytes(bytes), DataType::Binary) => full(bytes.push(&json::binary(value)?), value)?,
        (Data::Bytes(bytes), _) => full(bytes.push(json::text(value)?.as_bytes()), value)?,
        (Data::List(list), _) => {
            let items = value.as_array().ok_or_else(|| Mismatch::new("an array", value))?;
            for item in items {
                append(&mut list.items, item, zone)?;
            }
            let end = list.items.len();
            full(list.close(end), value)?;
        }
        (Data::Map(map), _) => {
            let entries = value.as_object().ok_or_else(|| Mismatch::new("an object", value))?;
            let (keys, items) = &mut *map.items;
            for (key, item) in entries {
                if let Data::Bytes(bytes) = &mut keys.data {
                    full(bytes.push(key.as_bytes()), value)?;
                    keys.present();
                }
                append(items, item, zone)?;
            }
            let end = items.len();
            full(map.close(end), value)?;
        }
        (Data::Struct(children), DataType::Struct(fields)) => {
            let object = value.as_object().ok_or_else(|| Mismatch::new("an object", value))?;
            for (field, child) in fields.iter().zip(children) {
                append(child, object.get(field.name()).unwrap_or(&Value::Null), zone)?;
            }
        }
        (_, other) => return Err(Mismatch::new(other.to_string(), value)),
    }
    column.present();
    Ok(())
}
