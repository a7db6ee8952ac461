//! Rows of a file on their way to the table, with our own columns.
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use chrono::DateTime;
use chrono_tz::Tz;

use super::error::FilesError;
use super::target::{EVENT_AT, FILE};
use crate::format::instant;

/// A row that could not be landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    /// Its line or number, from 1.
    pub(crate) at: i64,
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
    pub(crate) raw: Vec<u8>,
}

/// Rows with all their columns, and what could not become one.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: RecordBatch,
    pub(crate) dead: Vec<Bad>,
}

/// What landing adds to every row of a file.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// The name that goes into `_file`.
    pub(super) name: String,
    /// As errors call the file.
    pub(super) shown: String,
    /// `_line` or `_row`.
    pub(super) counter: &'static str,
    pub(super) event_time: Option<String>,
    pub(super) zone: Tz,
}

/// Data columns, the place of each row, and rows already refused.
pub(super) struct Decoded<'a> {
    pub(super) data: RecordBatch,
    pub(super) at: Vec<i64>,
    pub(super) dead: Vec<Bad>,
    /// The bytes of a row.
    pub(super) raw: &'a dyn Fn(usize) -> Vec<u8>,
}

impl Origin {
    /// Adds `event_at`, `_file` and `_line` or `_row`; a row without an event time is refused.
    pub(super) fn finish(&self, decoded: Decoded<'_>) -> Result<Batch, FilesError> {
        let Decoded { data, at, mut dead, raw } = decoded;
        let failed = |source| FilesError::Rows { file: self.shown.clone(), source };
        let mut fields: Vec<FieldRef> = data.schema().fields().iter().cloned().collect();
        let mut columns: Vec<ArrayRef> = data.columns().to_vec();
        let mut good: Option<BooleanArray> = None;
        if let Some(field) = &self.event_time {
            let source = data.column_by_name(field);
            let times = match source {
                Some(source) => self.event_at(field, source)?,
                None => TimestampMicrosecondArray::new_null(data.num_rows()).with_timezone("UTC"),
            };
            for row in (0..times.len()).filter(|row| times.is_null(*row)) {
                let detail = match source.and_then(|source| source.as_string_opt::<i32>()) {
                    Some(text) if text.is_valid(row) => {
                        format!("field `{field}`: `{}` is not a date and time", text.value(row))
                    }
                    _ => format!("field `{field}` is NULL"),
                };
                let at = at.get(row).copied().unwrap_or_default();
                dead.push(Bad { at, reason: "event_time", detail, raw: raw(row) });
            }
            if times.null_count() > 0 {
                good = Some((0..times.len()).map(|row| Some(times.is_valid(row))).collect());
            }
            fields.push(Arc::new(Field::new(EVENT_AT, times.data_type().clone(), true)));
            columns.push(Arc::new(times));
        }
        fields.push(Arc::new(Field::new(FILE, DataType::Utf8, true)));
        columns.push(Arc::new(StringArray::from_iter_values(at.iter().map(|_| self.name.as_str()))));
        fields.push(Arc::new(Field::new(self.counter, DataType::Int64, true)));
        columns.push(Arc::new(Int64Array::from(at)));
        let mut rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)?;
        if let Some(good) = good {
            rows = filter_record_batch(&rows, &good).map_err(failed)?;
        }
        dead.sort_by_key(|bad| bad.at);
        Ok(Batch { rows, dead })
    }

    /// Event times in UTC; NULL where there is none to be read.
    fn event_at(&self, field: &str, source: &ArrayRef) -> Result<TimestampMicrosecondArray, FilesError> {
        let failed = |source| FilesError::Rows { file: self.shown.clone(), source };
        let times: TimestampMicrosecondArray = match source.data_type() {
            DataType::Utf8 => {
                source.as_string::<i32>().iter().map(|text| text.and_then(|text| self.instant(text))).collect()
            }
            DataType::Timestamp(_, _) | DataType::Date32 => {
                let utc = arrow::compute::cast(source, &DataType::Timestamp(TimeUnit::Microsecond, None));
                utc.map_err(failed)?.as_primitive::<TimestampMicrosecondType>().clone()
            }
            // Milliseconds since 1970, as in a stream of records.
            DataType::Int64 => source
                .as_primitive::<Int64Type>()
                .iter()
                .map(|millis| millis.and_then(|millis| millis.checked_mul(1000)))
                .collect(),
            other => {
                return Err(FilesError::EventTime {
                    file: self.shown.clone(),
                    field: field.to_owned(),
                    why: format!("the field `{field}` is of type {other}"),
                });
            }
        };
        Ok(times.with_timezone("UTC"))
    }

    fn instant(&self, text: &str) -> Option<i64> {
        let text = text.trim();
        instant::parse_utc(text, self.zone)
            .or_else(|| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|at| at.timestamp_micros()))
    }
}
