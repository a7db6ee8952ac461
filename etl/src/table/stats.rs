//! Per-file statistics for the log, taken from the footer of the Parquet file just written.
//!
//! Delta protocol, "Per-file Statistics": `numRecords`, `minValues`, `maxValues`, `nullCount`. Columns inside nested
//! ones are left out; a missing bound only means that a reader cannot skip the file by it.
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use chrono::DateTime;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Map, Value, json};

/// Delta's own limit for text bounds, in characters.
const TEXT_BOUND: usize = 32;
/// How many columns get bounds: Delta's default `delta.dataSkippingNumIndexedCols`.
const INDEXED_COLUMNS: usize = 32;

/// The `stats` text of an `add` entry.
pub(crate) fn of_file(schema: &SchemaRef, metadata: &ParquetMetaData) -> String {
    let parquet_schema = metadata.file_metadata().schema_descr();
    let mut mins = Map::new();
    let mut maxs = Map::new();
    let mut nulls = Map::new();
    for field in schema.fields().iter().take(INDEXED_COLUMNS) {
        if field.data_type().is_nested() {
            continue;
        }
        let Ok(converter) = StatisticsConverter::try_new(field.name(), schema, parquet_schema) else { continue };
        let groups = || metadata.row_groups().iter();
        if let Ok(counts) = converter.row_group_null_counts(groups())
            && counts.null_count() == 0
        {
            let total: u64 = counts.values().iter().sum();
            nulls.insert(field.name().clone(), json!(total));
        }
        let (Ok(lows), Ok(highs)) = (converter.row_group_mins(groups()), converter.row_group_maxes(groups())) else {
            continue;
        };
        // A group without bounds (all NULL is fine, unknown is not) would make the file look narrower than it is.
        let known = |bounds: &ArrayRef| bounds.null_count() == 0 && !bounds.is_empty();
        if !known(&lows) || !known(&highs) {
            continue;
        }
        if let (Some(low), Some(high)) = (bound(&lows, true), bound(&highs, false)) {
            mins.insert(field.name().clone(), low);
            maxs.insert(field.name().clone(), high);
        }
    }
    json!({
        "numRecords": metadata.file_metadata().num_rows(),
        "minValues": mins,
        "maxValues": maxs,
        "nullCount": nulls,
    })
    .to_string()
}

/// The lowest (or highest) of one bound per row group, as Delta writes it in JSON. Floating-point numbers have none: Parquet's
/// bounds leave NaN out, which is larger than any number.
fn bound(groups: &ArrayRef, low: bool) -> Option<Value> {
    macro_rules! number {
        ($type:ty) => {{
            let array = groups.as_primitive::<$type>();
            if low { min(array) } else { max(array) }
        }};
    }
    match groups.data_type() {
        DataType::Int8 => number!(Int8Type).map(|v| json!(v)),
        DataType::Int16 => number!(Int16Type).map(|v| json!(v)),
        DataType::Int32 => number!(Int32Type).map(|v| json!(v)),
        DataType::Int64 => number!(Int64Type).map(|v| json!(v)),
        DataType::UInt64 => number!(UInt64Type).map(|v| json!(v)),
        DataType::Decimal128(_, scale) => number!(Decimal128Type).and_then(|v| decimal(v, *scale)),
        DataType::Date32 => number!(Date32Type)
            .and_then(|days| DateTime::from_timestamp(i64::from(days) * 86_400, 0))
            .map(|at| json!(at.format("%Y-%m-%d").to_string())),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = number!(TimestampMicrosecondType)?;
            // Delta keeps milliseconds: round outwards, so that the true value stays inside.
            let millis = if low { micros.div_euclid(1000) } else { micros.div_euclid(1000) + 1 };
            let at = DateTime::from_timestamp_millis(millis)?;
            let text = at.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
            Some(json!(if zone.is_some() { format!("{text}Z") } else { text }))
        }
        DataType::Utf8 => {
            let array = groups.as_string::<i32>();
            Some(text_bound(if low { min_string(array) } else { max_string(array) }?, low))
        }
        DataType::Boolean => {
            let array: &BooleanArray = groups.as_boolean();
            let value = if low { arrow::compute::min_boolean(array) } else { arrow::compute::max_boolean(array) };
            value.map(|v| json!(v))
        }
        _ => None,
    }
}

/// A decimal as a JSON number: exact, or no bound at all where a double could not hold it.
fn decimal(unscaled: i128, scale: i8) -> Option<Value> {
    let exact = unscaled.unsigned_abs() < (1 << 53);
    #[expect(clippy::cast_precision_loss, reason = "it is left out where the double would not be exact")]
    let value = unscaled as f64 / 10f64.powi(i32::from(scale));
    exact.then(|| json!(value))
}

/// A low bound may be cut short; a cut high bound must be raised, so a long one is left out where that is not safe.
fn text_bound(text: &str, low: bool) -> Value {
    if text.chars().count() <= TEXT_BOUND {
        return json!(text);
    }
    let cut: String = text.chars().take(TEXT_BOUND).collect();
    // U+10FFFF sorts after every other character (Delta's own tie breaker).
    json!(if low { cut } else { format!("{cut}\u{10FFFF}") })
}
