//! Columns that grow row by row and can forget a half-written row.
//!
//! A decoder appends straight into the columns. When a record turns out to be bad halfway, [`Column::truncate`] takes
//! every column back to the last whole row: nested values go with their parents' offsets, so no marks are kept.
use std::mem;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, ListArray, MapArray, NullBufferBuilder, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray,
    StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Date32Type, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::error::{SchemaError, join};

/// One column under construction.
pub(crate) struct Column {
    pub(crate) data: Data,
    nulls: NullBufferBuilder,
    nullable: bool,
    data_type: DataType,
}

/// The values of a column; a NULL has a filler value here.
pub(crate) enum Data {
    Boolean(BooleanBufferBuilder),
    /// int and date.
    Int32(Vec<i32>),
    /// bigint and both timestamps (microseconds).
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>),
    /// string and binary.
    Bytes(Bytes),
    List(Nested<Column>),
    Map(Nested<(Column, Column)>),
    Struct(Vec<Column>),
}

/// Texts or bytes one after the other; `offsets` has one entry more than there are rows.
pub(crate) struct Bytes {
    offsets: Vec<i32>,
    values: Vec<u8>,
}

/// Lists or maps: the items of all rows one after the other.
pub(crate) struct Nested<T> {
    offsets: Vec<i32>,
    pub(crate) items: Box<T>,
}

/// The value is well formed and there is no more room: Arrow counts bytes and items of one column in 31 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Bytes {
    pub(crate) fn push(&mut self, value: &[u8]) -> Result<(), Full> {
        let end = i32::try_from(self.values.len() + value.len()).map_err(|_| Full)?;
        self.values.extend_from_slice(value);
        self.offsets.push(end);
        Ok(())
    }
}

impl<T> Nested<T> {
    /// Ends one row's list: its items are all up to `end`.
    pub(crate) fn close(&mut self, end: usize) -> Result<(), Full> {
        self.offsets.push(i32::try_from(end).map_err(|_| Full)?);
        Ok(())
    }
}

fn at(offsets: &[i32], row: usize) -> usize {
    offsets.get(row).and_then(|&end| usize::try_from(end).ok()).unwrap_or(0)
}

impl Column {
    /// An empty column of `field`'s type.
    ///
    /// # Errors
    /// [`SchemaError::Unsupported`] if Delta has no such type.
    pub(crate) fn new(field: &Field, path: &str) -> Result<Self, SchemaError> {
        let data = match field.data_type() {
            DataType::Boolean => Data::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int32 | DataType::Date32 => Data::Int32(Vec::new()),
            DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _) => Data::Int64(Vec::new()),
            DataType::Float32 => Data::Float32(Vec::new()),
            DataType::Float64 => Data::Float64(Vec::new()),
            DataType::Decimal128(_, _) => Data::Decimal(Vec::new()),
            DataType::Utf8 | DataType::Binary => Data::Bytes(Bytes { offsets: vec![0], values: Vec::new() }),
            DataType::List(item) => {
                let items = Box::new(Self::new(item, &format!("{path}[]"))?);
                Data::List(Nested { offsets: vec![0], items })
            }
            DataType::Map(entries, _) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(unsupported(field, path));
                };
                let [key, value] = fields.as_ref() else {
                    return Err(unsupported(field, path));
                };
                if key.data_type() != &DataType::Utf8 {
                    return Err(unsupported(field, path));
                }
                let items = Box::new((Self::new(key, path)?, Self::new(value, &format!("{path}{{}}"))?));
                Data::Map(Nested { offsets: vec![0], items })
            }
            DataType::Struct(fields) => Data::Struct(
                fields.iter().map(|child| Self::new(child, &join(path, child.name()))).collect::<Result<_, _>>()?,
            ),
            _ => return Err(unsupported(field, path)),
        };
        Ok(Self {
            data,
            nulls: NullBufferBuilder::new(0),
            nullable: field.is_nullable(),
            data_type: field.data_type().clone(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.nulls.len()
    }

    pub(crate) fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Notes that a value was appended to `data`.
    pub(crate) fn present(&mut self) {
        self.nulls.append_non_null();
    }

    /// Appends a NULL; false, and nothing appended, if the column is required.
    pub(crate) fn push_null(&mut self) -> bool {
        if self.nullable {
            self.push_filler();
        }
        self.nullable
    }

    /// Appends a NULL whatever the column says: below a NULL struct there is nothing else to append.
    fn push_filler(&mut self) {
        match &mut self.data {
            Data::Boolean(values) => values.append(false),
            Data::Int32(values) => values.push(0),
            Data::Int64(values) => values.push(0),
            Data::Float32(values) => values.push(0.0),
            Data::Float64(values) => values.push(0.0),
            Data::Decimal(values) => values.push(0),
            Data::Bytes(Bytes { offsets, .. })
            | Data::List(Nested { offsets, .. })
            | Data::Map(Nested { offsets, .. }) => offsets.extend(offsets.last().copied()),
            Data::Struct(children) => children.iter_mut().for_each(Self::push_filler),
        }
        self.nulls.append_null();
    }

    /// Forgets everything after the first `rows` rows; fewer rows are left as they are.
    pub(crate) fn truncate(&mut self, rows: usize) {
        match &mut self.data {
            Data::Boolean(values) => values.truncate(rows),
            Data::Int32(values) => values.truncate(rows),
            Data::Int64(values) => values.truncate(rows),
            Data::Float32(values) => values.truncate(rows),
            Data::Float64(values) => values.truncate(rows),
            Data::Decimal(values) => values.truncate(rows),
            Data::Bytes(bytes) => {
                bytes.offsets.truncate(rows + 1);
                bytes.values.truncate(at(&bytes.offsets, rows));
            }
            Data::List(list) => {
                list.offsets.truncate(rows + 1);
                list.items.truncate(at(&list.offsets, rows));
            }
            Data::Map(map) => {
                map.offsets.truncate(rows + 1);
                let items = at(&map.offsets, rows);
                map.items.0.truncate(items);
                map.items.1.truncate(items);
            }
            Data::Struct(children) => children.iter_mut().for_each(|child| child.truncate(rows)),
        }
        self.nulls.truncate(rows);
    }

    /// About how many bytes the column holds.
    pub(crate) fn size(&self) -> usize {
        match &self.data {
            Data::Boolean(values) => values.len() / 8,
            Data::Int32(values) => values.len() * 4,
            Data::Int64(values) => values.len() * 8,
            Data::Float32(values) => values.len() * 4,
            Data::Float64(values) => values.len() * 8,
            Data::Decimal(values) => values.len() * 16,
            Data::Bytes(bytes) => bytes.values.len() + bytes.offsets.len() * 4,
            Data::List(list) => list.items.size() + list.offsets.len() * 4,
            Data::Map(map) => map.items.0.size() + map.items.1.size() + map.offsets.len() * 4,
            Data::Struct(children) => children.iter().map(Self::size).sum(),
        }
    }

    /// The rows so far as an array; the column is empty again.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = self.len();
        let nulls = self.nulls.finish();
        Ok(match (&mut self.data, &self.data_type) {
            (Data::Boolean(values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Data::Int32(values), DataType::Date32) => {
                Arc::new(PrimitiveArray::<Date32Type>::try_new(mem::take(values).into(), nulls)?)
            }
            (Data::Int32(values), _) => Arc::new(Int32Array::try_new(mem::take(values).into(), nulls)?),
            (Data::Int64(values), DataType::Timestamp(_, zone)) => Arc::new(
                PrimitiveArray::<TimestampMicrosecondType>::try_new(mem::take(values).into(), nulls)?
                    .with_timezone_opt(zone.clone()),
            ),
            (Data::Int64(values), _) => Arc::new(Int64Array::try_new(mem::take(values).into(), nulls)?),
            (Data::Float32(values), _) => Arc::new(Float32Array::try_new(mem::take(values).into(), nulls)?),
            (Data::Float64(values), _) => Arc::new(Float64Array::try_new(mem::take(values).into(), nulls)?),
            (Data::Decimal(values), data_type) => {
                Arc::new(Decimal128Array::try_new(mem::take(values).into(), nulls)?.with_data_type(data_type.clone()))
            }
            (Data::Bytes(bytes), data_type) => {
                let offsets = take_offsets(&mut bytes.offsets);
                let values = Buffer::from_vec(mem::take(&mut bytes.values));
                if data_type == &DataType::Utf8 {
                    Arc::new(StringArray::try_new(offsets, values, nulls)?)
                } else {
                    Arc::new(BinaryArray::try_new(offsets, values, nulls)?)
                }
            }
            (Data::List(list), DataType::List(item)) => Arc::new(ListArray::try_new(
                Arc::clone(item),
                take_offsets(&mut list.offsets),
                list.items.finish()?,
                nulls,
            )?),
            (Data::Map(map), DataType::Map(entries, sorted)) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(ArrowError::SchemaError("a map's entries are no struct".into()));
                };
                let items =
                    StructArray::try_new(fields.clone(), vec![map.items.0.finish()?, map.items.1.finish()?], None)?;
                Arc::new(MapArray::try_new(Arc::clone(entries), take_offsets(&mut map.offsets), items, nulls, *sorted)?)
            }
            (Data::Struct(children), DataType::Struct(fields)) => {
                let arrays = children.iter_mut().map(Self::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields.clone(), arrays, nulls, rows)?)
            }
            (_, data_type) => {
                return Err(ArrowError::SchemaError(format!("no values of type {data_type}")));
            }
        })
    }
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(mem::replace(offsets, vec![0])))
}

fn unsupported(field: &Field, path: &str) -> SchemaError {
    SchemaError::Unsupported {
        path: path.to_owned(),
        found: field.data_type().to_string(),
        why: "a Delta table has no such column type",
    }
}

/// The columns of a schema, all of one length between records.
pub(crate) struct Columns {
    schema: SchemaRef,
    pub(crate) all: Vec<Column>,
    rows: usize,
}

impl Columns {
    pub(crate) fn new(schema: SchemaRef) -> Result<Self, SchemaError> {
        let all = schema.fields().iter().map(|field| Column::new(field, field.name())).collect::<Result<_, _>>()?;
        Ok(Self { schema, all, rows: 0 })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn size(&self) -> usize {
        self.all.iter().map(Column::size).sum()
    }

    /// Ends a row: keeps it if `outcome` is good, else takes every column back to the rows before it.
    pub(crate) fn end_row<E>(&mut self, outcome: Result<(), E>) -> Result<(), E> {
        if outcome.is_ok() {
            self.rows += 1;
        } else {
            self.all.iter_mut().for_each(|column| column.truncate(self.rows));
        }
        outcome
    }

    /// The rows so far; empty again afterwards.
    pub(crate) fn flush(&mut self) -> Result<RecordBatch, SchemaError> {
        let arrays = self.all.iter_mut().map(Column::finish).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(mem::take(&mut self.rows)));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?)
    }
}
