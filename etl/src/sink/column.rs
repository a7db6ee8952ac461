//! Columns as sinks see them: the many Arrow types folded into a few, and batches cast to those few.
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "postgres")]
use arrow::array::AsArray;
use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
#[cfg(feature = "postgres")]
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::json::writer::{EncoderOptions, make_encoder};

use super::{Load, SinkError};

/// The few kinds of column a sink has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Small,
    Integer,
    Big,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// A decimal of more than 38 digits; travels as text.
    WideDecimal {
        precision: u8,
        scale: i8,
    },
    Date,
    Time,
    /// Wall time without a zone.
    Timestamp,
    /// An instant.
    Instant,
    Text,
    Bytes,
    /// Lists, maps and structs, as JSON text.
    Json,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Small => "smallint",
            Self::Integer => "integer",
            Self::Big => "bigint",
            Self::Float => "real",
            Self::Double => "double precision",
            Self::Decimal { precision, scale } | Self::WideDecimal { precision, scale } => {
                return write!(f, "numeric({precision},{scale})");
            }
            Self::Date => "date",
            Self::Time => "time without time zone",
            Self::Timestamp => "timestamp without time zone",
            Self::Instant => "timestamp with time zone",
            Self::Text => "text",
            Self::Bytes => "bytea",
            Self::Json => "jsonb",
        })
    }
}

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        use DataType as D;
        Some(match data_type {
            D::Boolean => Self::Boolean,
            D::Int8 | D::Int16 | D::UInt8 => Self::Small,
            D::Int32 | D::UInt16 => Self::Integer,
            D::Int64 | D::UInt32 => Self::Big,
            D::UInt64 => Self::Decimal { precision: 20, scale: 0 },
            D::Float16 | D::Float32 => Self::Float,
            D::Float64 => Self::Double,
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
                // A negative scale is a number of zeros: numeric(3,-2) holds what numeric(5,0) does.
                let precision = if *s < 0 { p.saturating_add(s.unsigned_abs()) } else { *p };
                let scale = (*s).max(0);
                if precision > 38 || matches!(data_type, D::Decimal256(..)) {
                    Self::WideDecimal { precision, scale }
                } else {
                    Self::Decimal { precision, scale }
                }
            }
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(_) | D::Time64(_) => Self::Time,
            D::Timestamp(_, None) => Self::Timestamp,
            D::Timestamp(_, Some(_)) => Self::Instant,
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => Self::Text,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Self::Bytes,
            D::Dictionary(_, values) => return Self::of(values),
            D::RunEndEncoded(_, values) => return Self::of(values.data_type()),
            D::List(_)
            | D::LargeList(_)
            | D::FixedSizeList(..)
            | D::ListView(_)
            | D::LargeListView(_)
            | D::Struct(_)
            | D::Map(..) => Self::Json,
            D::Duration(_) | D::Interval(_) | D::Union(..) => return None,
        })
    }

    /// The Arrow type a column of this kind has once it is [`normal`].
    pub(super) fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Small => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::Big => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Text | Self::Json | Self::WideDecimal { .. } => DataType::Utf8,
            Self::Bytes => DataType::Binary,
        }
    }
}

/// One column of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) key: bool,
}

/// The columns of a load, checked: there is one, names differ even where case does not count, each type is known,
/// each key is a column.
pub(super) fn columns(sink: &'static str, load: &Load) -> Result<Vec<Column>, SinkError> {
    let unsupported = |column: &str, reason: String| SinkError::Unsupported {
        sink,
        table: load.table.clone(),
        column: column.to_owned(),
        reason,
    };
    let mut seen = HashSet::new();
    let mut columns = Vec::with_capacity(load.schema.fields().len());
    for field in load.schema.fields() {
        let name = field.name();
        if name.is_empty() || name.contains('\0') {
            return Err(unsupported(name, "a column needs a name without NUL".to_owned()));
        }
        if !seen.insert(name.to_lowercase()) {
            return Err(unsupported(name, "two columns have this name, but for upper and lower case".to_owned()));
        }
        let kind = Kind::of(field.data_type())
            .ok_or_else(|| unsupported(name, format!("there is no column type for {}", field.data_type())))?;
        columns.push(Column { name: name.clone(), kind, key: load.keys.contains(name) });
    }
    let key = |reason: String, fix: &str| SinkError::Key { table: load.table.clone(), reason, fix: fix.to_owned() };
    if columns.is_empty() {
        return Err(unsupported("", "the table has no columns".to_owned()));
    }
    if let Some(missing) = load.keys.iter().find(|key| !columns.iter().any(|column| &column.name == *key)) {
        return Err(key(format!("key column `{missing}` is not in the table"), "correct `unique_key` of the model"));
    }
    if load.mode == super::Mode::Upsert && load.keys.is_empty() {
        return Err(key("an upsert needs a unique key".to_owned(), "set `unique_key` in the model's config"));
    }
    Ok(columns)
}

/// The schema of [`normal`] batches.
#[cfg(feature = "postgres")]
pub(super) fn normal_schema(columns: &[Column]) -> SchemaRef {
    let fields = columns.iter().map(|column| Field::new(&column.name, column.kind.arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Casts a batch to the few types of [`Kind::arrow`]. `first` is the number of its first row within the load, from 1.
///
/// Times finer than a microsecond lose what is below it; nothing else changes.
pub(super) fn normal(
    sink: &'static str,
    load: &Load,
    columns: &[Column],
    batch: &RecordBatch,
    first: u64,
) -> Result<Vec<ArrayRef>, SinkError> {
    if batch.num_columns() != columns.len() {
        let reason = format!("it has {} columns instead of {}", batch.num_columns(), columns.len());
        return Err(SinkError::Mismatch { table: load.table.clone(), reason });
    }
    let schema = batch.schema();
    let mut normal = Vec::with_capacity(columns.len());
    for ((column, field), array) in columns.iter().zip(schema.fields()).zip(batch.columns()) {
        if field.name() != &column.name || Kind::of(field.data_type()) != Some(column.kind) {
            let reason = format!(
                "`{}` {} came where `{}` {} was announced",
                field.name(),
                field.data_type(),
                column.name,
                column.kind
            );
            return Err(SinkError::Mismatch { table: load.table.clone(), reason });
        }
        if column.key
            && let Some(row) = array.logical_nulls().and_then(|nulls| (0..nulls.len()).find(|at| nulls.is_null(*at)))
        {
            return Err(SinkError::Key {
                table: load.table.clone(),
                reason: format!("key column `{}` is NULL in row {}", column.name, first + row as u64),
                fix: "filter such rows out in the model, or choose another `unique_key`".to_owned(),
            });
        }
        let cannot = |cause: arrow::error::ArrowError| SinkError::Unsupported {
            sink,
            table: load.table.clone(),
            column: column.name.clone(),
            reason: cause.to_string(),
        };
        normal.push(match column.kind {
            Kind::Json => json(field, array).map_err(cannot)?,
            kind if &kind.arrow() == array.data_type() => Arc::clone(array),
            kind => exact(array, &kind.arrow()).map_err(cannot)?,
        });
    }
    Ok(normal)
}

/// Casts, and fails rather than turn a value into NULL.
fn exact(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    arrow::compute::cast_with_options(array, to, &options)
}

/// One JSON text per row; NULL stays NULL.
fn json(field: &FieldRef, array: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    let (field, array) = match field.data_type() {
        DataType::Dictionary(_, values) => {
            (Arc::new(field.as_ref().clone().with_data_type(values.as_ref().clone())), cast(array, values)?)
        }
        DataType::RunEndEncoded(_, values) => {
            let field = field.as_ref().clone().with_data_type(values.data_type().clone());
            (Arc::new(field), cast(array, values.data_type())?)
        }
        _ => (Arc::clone(field), Arc::clone(array)),
    };
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, array.as_ref(), &options)?;
    let mut texts = StringBuilder::new();
    let mut text = Vec::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
        } else {
            text.clear();
            encoder.encode(row, &mut text);
            texts.append_value(String::from_utf8_lossy(&text));
        }
    }
    Ok(Arc::new(texts.finish()))
}

/// The first row whose text holds what Postgres has no place for: a NUL byte, in JSON as the escape `\u0000`.
#[cfg(feature = "postgres")]
pub(super) fn nul_row(kind: Kind, array: &ArrayRef) -> Option<usize> {
    let texts = array.as_string_opt::<i32>()?;
    match kind {
        Kind::Text => {
            // One pass over the whole buffer; rows are looked at only if there is one.
            memchr::memchr(0, texts.value_data())?;
            (0..texts.len()).find(|row| texts.is_valid(*row) && texts.value(*row).contains('\0'))
        }
        Kind::Json => {
            memchr::memmem::find(texts.value_data(), br"\u0000")?;
            (0..texts.len()).find(|row| texts.is_valid(*row) && escapes_nul(texts.value(*row).as_bytes()))
        }
        _ => None,
    }
}

/// Whether a JSON text holds the escape `\u0000`, and not a backslash followed by `u0000`.
#[cfg(feature = "postgres")]
fn escapes_nul(json: &[u8]) -> bool {
    memchr::memmem::find_iter(json, br"\u0000").any(|at| {
        let before = json.iter().take(at).rev().take_while(|byte| **byte == b'\\').count();
        before % 2 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "postgres")]
    #[test]
    fn an_escaped_backslash_is_not_a_nul() {
        assert!(escapes_nul(br#"["a\u0000"]"#));
        assert!(escapes_nul(br#"["a\\\u0000"]"#));
        assert!(!escapes_nul(br#"["a\\u0000"]"#));
        assert!(!escapes_nul(br#"["u0000"]"#));
    }

    #[test]
    fn negative_scales_become_whole_numbers() {
        assert_eq!(Kind::of(&DataType::Decimal128(3, -2)), Some(Kind::Decimal { precision: 5, scale: 0 }));
        assert_eq!(Kind::of(&DataType::Decimal128(38, -2)), Some(Kind::WideDecimal { precision: 40, scale: 0 }));
    }
}
