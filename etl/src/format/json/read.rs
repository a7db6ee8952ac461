//! JSON records into rows of a declared schema.
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Fields, SchemaRef};
use chrono_tz::Tz;
use serde_json::{Map, Value};
use thiserror::Error;

use super::values::{self, Mismatch};
use crate::error::Explain;
use crate::format::column::{Column, Columns, Data, Full};
use crate::format::error::{SchemaError, join, shown};
use crate::format::instant;

/// One record that cannot become a row. It is refused alone; its neighbours are not touched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes are not one JSON value.
    #[error("read the record as JSON: {0}")]
    Syntax(String),
    /// A value is not of its column's type.
    #[error("read {}: expected {expected}, found {found}", shown(path))]
    Value {
        /// The field, as `device.os`, `tags[2]` or `attributes{color}`; empty for the record itself.
        path: String,
        /// What the column holds.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Malformed {
    /// A stable word for counting: `syntax` or `type`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "syntax",
            Self::Value { .. } => "type",
        }
    }

    fn within(self, name: &str) -> Self {
        match self {
            Self::Value { path, expected, found } => {
                let path = if path.is_empty() {
                    name.to_owned()
                } else if path.starts_with(['[', '{']) {
                    format!("{name}{path}")
                } else {
                    join(name, &path)
                };
                Self::Value { path, expected, found }
            }
            syntax @ Self::Syntax(_) => syntax,
        }
    }
}

impl From<Mismatch> for Malformed {
    fn from(Mismatch { expected, found }: Mismatch) -> Self {
        Self::Value { path: String::new(), expected, found }
    }
}

impl From<Full> for Malformed {
    fn from(Full: Full) -> Self {
        Self::Value { path: String::new(), expected: "less than 2 GiB in one batch".into(), found: "more".into() }
    }
}

impl Explain for Malformed {
    fn code(&self) -> &'static str {
        "F0301"
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Syntax(_) => {
                Some("send one JSON object per record; the record's bytes are in the dead letters".into())
            }
            Self::Value { path, expected, .. } => {
                Some(format!("send {} as {expected}, or declare another type", shown(path)))
            }
        }
    }
}

/// Decodes JSON objects into rows of a declared schema; see [`super`] for the rules.
pub struct Decoder {
    rows: Columns,
    zone: Tz,
}

impl Decoder {
    /// For rows of `target`; times without a zone are UTC.
    ///
    /// # Errors
    /// [`SchemaError::Unsupported`] if Delta has no such column type.
    pub fn new(target: SchemaRef) -> Result<Self, SchemaError> {
        Ok(Self { rows: Columns::new(target)?, zone: Tz::UTC })
    }

    /// Takes times without a zone as times in `zone`.
    #[must_use]
    pub fn with_zone(mut self, zone: Tz) -> Self {
        self.zone = zone;
        self
    }

    /// Appends one JSON object as a row.
    ///
    /// # Errors
    /// If it is not one JSON object, or a value is not of its column's type; then nothing was appended.
    pub fn decode(&mut self, record: &[u8]) -> Result<(), Malformed> {
        let value: Value = serde_json::from_slice(record).map_err(|error| Malformed::Syntax(error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(Mismatch::new("an object", &value).into());
        };
        let schema = SchemaRef::clone(self.rows.schema());
        let outcome = append_fields(schema.fields(), &mut self.rows.all, &object, self.zone);
        self.rows.end_row(outcome)
    }

    /// How many rows were decoded since the last flush.
    pub fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// About how many bytes these rows take. Flush well before 2 GiB: no single column may grow beyond.
    pub fn size(&self) -> usize {
        self.rows.size()
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    /// Hands out the rows decoded since the last flush, in their order.
    ///
    /// # Errors
    /// [`SchemaError::Rows`] if the columns do not form a batch, which is a fault of this program.
    pub fn flush(&mut self) -> Result<RecordBatch, SchemaError> {
        self.rows.flush()
    }
}

type Step = Result<(), Malformed>;

fn append_fields(fields: &Fields, columns: &mut [Column], object: &Map<String, Value>, zone: Tz) -> Step {
    for (field, column) in fields.iter().zip(columns) {
        let value = object.get(field.name()).unwrap_or(&Value::Null);
        append(column, value, zone).map_err(|bad| bad.within(field.name()))?;
    }
    Ok(())
}

fn append(column: &mut Column, value: &Value, zone: Tz) -> Step {
    if value.is_null() {
        return if column.push_null() {
            Ok(())
        } else {
            Err(Mismatch::new("a value (the column is required)", value).into())
        };
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
        (Data::Int32(values), _) => values.push(values::int(value)?),
        (Data::Int64(values), DataType::Timestamp(_, Some(_))) => {
            let micros = value.as_str().and_then(|text| instant::parse_utc(text, zone));
            values.push(micros.ok_or_else(|| Mismatch::new("a time as 2025-02-17T14:49:15Z", value))?);
        }
        (Data::Int64(values), DataType::Timestamp(_, None)) => {
            let micros = value.as_str().and_then(instant::parse_wall);
            values.push(micros.ok_or_else(|| Mismatch::new("a time without zone as 2025-02-17T14:49:15", value))?);
        }
        (Data::Int64(values), _) => values.push(values::long(value)?),
        (Data::Float32(values), _) => values.push(values::float(value)?),
        (Data::Float64(values), _) => values.push(values::double(value)?),
        (Data::Decimal(values), DataType::Decimal128(precision, scale)) => {
            values.push(values::decimal(value, *precision, *scale)?);
        }
        (Data::Bytes(bytes), DataType::Binary) => bytes.push(&values::binary(value)?)?,
        (Data::Bytes(bytes), _) => bytes.push(values::text(value)?.as_bytes())?,
        (Data::List(list), _) => {
            let items = value.as_array().ok_or_else(|| Mismatch::new("an array", value))?;
            for (index, item) in items.iter().enumerate() {
                append(&mut list.items, item, zone).map_err(|bad| bad.within(&format!("[{index}]")))?;
            }
            let end = list.items.len();
            list.close(end)?;
        }
        (Data::Map(map), _) => {
            let entries = value.as_object().ok_or_else(|| Mismatch::new("an object", value))?;
            let (keys, items) = &mut *map.items;
            for (key, item) in entries {
                if let Data::Bytes(bytes) = &mut keys.data {
                    bytes.push(key.as_bytes())?;
                    keys.present();
                }
                append(items, item, zone).map_err(|bad| bad.within(&format!("{{{key}}}")))?;
            }
            let end = items.len();
            map.close(end)?;
        }
        (Data::Struct(children), DataType::Struct(fields)) => {
            let object = value.as_object().ok_or_else(|| Mismatch::new("an object", value))?;
            append_fields(fields, children, object, zone)?;
        }
        (_, other) => return Err(Mismatch::new(other.to_string(), value).into()),
    }
    column.present();
    Ok(())
}
