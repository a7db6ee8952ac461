//! Which files can hold a row, by the bounds that the log has of their columns.
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use serde_json::Value;

use super::bounds::ends;
use super::scratch::Kept;
use crate::error::Result;
use crate::table::Table;

/// The lowest and highest value of a column in a file, and whether it has NULLs; unknown ones are `None`.
#[derive(Debug, Clone, Default)]
struct Bounds {
    low: Option<ScalarValue>,
    high: Option<ScalarValue>,
    nulls: Option<u64>,
}

/// A value of the log's JSON as one of a column; `None` if bounds of that type are not used.
fn scalar(value: &Value, data_type: &DataType) -> Option<ScalarValue> {
    match (data_type, value) {
        (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64, Value::Number(number)) => {
            ScalarValue::Int64(Some(number.as_i64()?)).cast_to(data_type).ok()
        }
        (DataType::Utf8, Value::String(text)) => Some(ScalarValue::Utf8(Some(text.clone()))),
        (DataType::Date32 | DataType::Timestamp(_, _), Value::String(text)) => {
            ScalarValue::Utf8(Some(text.clone())).cast_to(data_type).ok()
        }
        _ => None,
    }
}

fn bounds(stats: Option<&Value>, column: &str, data_type: &DataType) -> Bounds {
    let of = |what: &str| stats.and_then(|stats| stats.get(what)).and_then(|values| values.get(column));
    Bounds {
        low: of("minValues").and_then(|value| scalar(value, data_type)),
        high: of("maxValues").and_then(|value| scalar(value, data_type)),
        nulls: of("nullCount").and_then(Value::as_u64),
    }
}

/// Those files of `table` that can hold one of the `rows`, kept as the table's columns; `None`: any can.
pub(super) fn may_hold(table: &Table, schema: &SchemaRef, rows: &Kept) -> Result<Option<Vec<String>>> {
    let Some(batch) = &rows.small else { return Ok(None) };
    let columns: Vec<(&str, &DataType, ArrayRef)> = schema
        .fields()
        .iter()
        .enumerate()
        .filter_map(|(at, field)| {
            Some((field.name().as_str(), field.data_type(), Arc::clone(batch.columns().get(at)?)))
        })
        .collect();
    files_with(table, &columns, batch.num_rows()).map(Some)
}

/// Those files that, for at least one row, can have all of its values.
fn files_with(table: &Table, columns: &[(&str, &DataType, ArrayRef)], rows: usize) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut known: HashMap<usize, Known> = HashMap::new();
    for (at, (_, data_type, values)) in columns.iter().enumerate() {
        let usable = matches!(
            data_type,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Utf8 | DataType::Date32
        ) || matches!(data_type, DataType::Timestamp(_, _));
        if usable {
            known.insert(at, Known::of(values));
        }
    }
    for add in table.adds()? {
        let stats: Option<Value> = add.stats.as_deref().and_then(|stats| serde_json::from_str(stats).ok());
        let bounds: Vec<(Bounds, &Known)> = columns
            .iter()
            .enumerate()
            .filter_map(|(at, (name, data_type, _))| Some((bounds(stats.as_ref(), name, data_type), known.get(&at)?)))
            .collect();
        // Where rows are few each is looked at, else what lies between their ends.
        let possible = if rows <= FEW {
            (0..rows).any(|row| bounds.iter().all(|(bounds, known)| known.at(row).is_none_or(|v| holds(bounds, v))))
        } else {
            bounds.iter().all(|(bounds, known)| known.overlaps(bounds))
        };
        if possible {
            found.push(add.path);
        }
    }
    Ok(found)
}

/// So many rows are looked at one by one.
const FEW: usize = 500;

/// The values of a column.
struct Known {
    few: Vec<ScalarValue>,
    ends: Option<(ScalarValue, ScalarValue)>,
    nulls: bool,
}

impl Known {
    fn of(values: &ArrayRef) -> Self {
        let few = if values.len() <= FEW {
            (0..values.len()).filter_map(|row| ScalarValue::try_from_array(values, row).ok()).collect()
        } else {
            Vec::new()
        };
        Self { few, ends: ends(values), nulls: values.null_count() > 0 }
    }

    fn at(&self, row: usize) -> Option<&ScalarValue> {
        self.few.get(row)
    }

    fn overlaps(&self, bounds: &Bounds) -> bool {
        if self.nulls && bounds.nulls != Some(0) {
            return true;
        }
        let Some((low, high)) = &self.ends else { return !self.nulls || bounds.nulls != Some(0) };
        let above = bounds.high.as_ref().is_some_and(|top| matches!(low.partial_cmp(top), Some(Ordering::Greater)));
        let below = bounds.low.as_ref().is_some_and(|bottom| matches!(high.partial_cmp(bottom), Some(Ordering::Less)));
        !above && !below
    }
}

fn holds(bounds: &Bounds, value: &ScalarValue) -> bool {
    if value.is_null() {
        return bounds.nulls != Some(0);
    }
    let below = bounds.low.as_ref().is_some_and(|low| matches!(value.partial_cmp(low), Some(Ordering::Less)));
    let above = bounds.high.as_ref().is_some_and(|high| matches!(value.partial_cmp(high), Some(Ordering::Greater)));
    !below && !above
}
