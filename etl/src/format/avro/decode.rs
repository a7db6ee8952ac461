//! Bodies of one writer's schema into rows of one table.
use apache_avro::Schema;
use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, SchemaRef};

use super::malformed::{Malformed, Reason, Step, within};
use super::plan::{self, Action, Branch, Op, RecordOp};
use super::shape::{Shape, Unit};
use super::wire::{Reader, decimal_value};
use crate::format::column::{Bytes, Column, Columns, Data, Full};
use crate::format::decimal;
use crate::format::error::SchemaError;

/// How bodies of one writer's schema fill the columns of one table. Plans of several writers may fill the same columns
/// in turn, so that a topic in which schema ids alternate costs what one with a single id does.
pub(crate) struct Plan(RecordOp);

impl Plan {
    /// Plans from the writer's schema to the columns of `target`, as [`Decoder::new`] does.
    pub(crate) fn new(writer: &Schema, target: &Fields) -> Result<Self, SchemaError> {
        plan::root(writer, None, target).map(Self)
    }

    /// Appends one record's body (without its frame) as a row to `rows`, which are of the plan's target.
    ///
    /// # Errors
    /// If the body is not one whole value of the writer's schema; then nothing was appended.
    pub(crate) fn read(&self, body: &[u8], rows: &mut Columns) -> Result<(), Malformed> {
        let mut reader = Reader::new(body);
        let outcome = record(&self.0, &mut rows.all, &mut reader).and_then(|()| reader.end());
        rows.end_row(outcome).map_err(|bad| *bad)
    }
}

/// Decodes bodies written with one schema into rows of one table; see [`super`] for which type becomes which.
///
/// A record is read in one walk that checks every bound; where it turns out bad, the columns are taken back to the row
/// before. Memory is that of the rows, plus at most the record at hand: lengths are checked before they are believed.
pub struct Decoder {
    plan: Plan,
    rows: Columns,
}

impl Decoder {
    /// Plans from the writer's schema to the columns of `target`. Fields are matched by name; columns that the writer
    /// does not have are NULL.
    ///
    /// # Errors
    /// [`SchemaError::Mismatch`] if a field's type cannot become its column's; [`SchemaError::Missing`] if a required
    /// column is not written; others if one of the schemas cannot be stored at all.
    pub fn new(writer: &Schema, target: SchemaRef) -> Result<Self, SchemaError> {
        Self::plan(writer, None, target)
    }

    /// As [`Decoder::new`], with the aliases and defaults of a reader's schema, whose fields are the columns of `target`.
    ///
    /// # Errors
    /// As [`Decoder::new`], and [`SchemaError::Default`] if a default is not of its field's type.
    pub fn with_reader(writer: &Schema, reader: &Schema, target: SchemaRef) -> Result<Self, SchemaError> {
        Self::plan(writer, Some(reader), target)
    }

    fn plan(writer: &Schema, reader: Option<&Schema>, target: SchemaRef) -> Result<Self, SchemaError> {
        let plan = Plan(plan::root(writer, reader, target.fields())?);
        Ok(Self { plan, rows: Columns::new(target)? })
    }

    /// Appends one record's body (without its frame) as a row.
    ///
    /// # Errors
    /// If the body is not one whole value of the writer's schema; then nothing was appended.
    pub fn decode(&mut self, body: &[u8]) -> Result<(), Malformed> {
        self.plan.read(body, &mut self.rows)
    }

    /// Appends the record that `bytes` begin with, as in a block of a container file; returns how many bytes it has.
    ///
    /// # Errors
    /// If they do not begin with a whole value of the writer's schema; then nothing was appended.
    pub fn decode_first(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut reader = Reader::new(bytes);
        let outcome = record(&self.plan.0, &mut self.rows.all, &mut reader);
        self.rows.end_row(outcome).map_err(|bad| *bad)?;
        Ok(reader.at())
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

fn record(plan: &RecordOp, columns: &mut [Column], reader: &mut Reader<'_>) -> Step {
    for field in &plan.fields {
        match &field.action {
            Action::Read { column, op } => read(op, &mut columns[*column], reader),
            Action::Skip(shape) => skip(shape, reader),
        }
        .map_err(within(&field.name))?;
    }
    for absent in &plan.absent {
        let column = &mut columns[absent.column];
        match &absent.default {
            Some((op, bytes)) => read(op, column, &mut Reader::new(bytes))?,
            None => null(column, reader)?,
        }
    }
    Ok(())
}

fn null(column: &mut Column, reader: &Reader<'_>) -> Step {
    if column.push_null() { Ok(()) } else { Err(reader.bad(Reason::Null)) }
}

fn read(op: &Op, column: &mut Column, reader: &mut Reader<'_>) -> Step {
    match (op, &mut column.data) {
        (Op::Null, _) => return null(column, reader),
        (Op::Nullable { null: branch, value }, _) => {
            let index = reader.long()?;
            return match index {
                0 | 1 if index == *branch => null(column, reader),
                0 | 1 => read(value, column, reader),
                _ => Err(reader.bad(Reason::Union { index, branches: 2 })),
            };
        }
        (Op::Union(branches), _) => {
            return match branch(reader, branches)? {
                Branch::Read(op) => read(op, column, reader),
                Branch::Refused(what) => Err(reader.bad(Reason::Branch(what.clone()))),
            };
        }
        (Op::Boolean, Data::Boolean(values)) => values.append(reader.boolean()?),
        (Op::Int, Data::Int32(values)) => values.push(reader.int()?),
        (Op::IntToLong, Data::Int64(values)) => values.push(i64::from(reader.int()?)),
        (Op::IntToFloat, Data::Float32(values)) => values.push(to_float(i64::from(reader.int()?))),
        (Op::IntToDouble, Data::Float64(values)) => values.push(f64::from(reader.int()?)),
        (Op::Long, Data::Int64(values)) => values.push(reader.long()?),
        (Op::LongToFloat, Data::Float32(values)) => values.push(to_float(reader.long()?)),
        (Op::LongToDouble, Data::Float64(values)) => values.push(to_double(reader.long()?)),
        (Op::Float, Data::Float32(values)) => values.push(reader.float()?),
        (Op::FloatToDouble, Data::Float64(values)) => values.push(f64::from(reader.float()?)),
        (Op::Double, Data::Float64(values)) => values.push(reader.double()?),
        (Op::Text, Data::Bytes(values)) => push(values, reader.text()?, reader)?,
        (Op::Binary, Data::Bytes(values)) => push(values, reader.bytes()?, reader)?,
        (Op::Fixed(size), Data::Bytes(values)) => push(values, reader.take(*size)?, reader)?,
        (Op::Enum(symbols), Data::Bytes(values)) => {
            let symbol = symbol(reader, symbols)?;
            push(values, symbol.as_bytes(), reader)?;
        }
        (Op::UuidBytes, Data::Bytes(values)) => {
            let bytes = reader.bytes()?;
            push(values, uuid_text(bytes, reader)?.as_bytes(), reader)?;
        }
        (Op::UuidFixed, Data::Bytes(values)) => {
            let bytes = reader.take(16)?;
            push(values, uuid_text(bytes, reader)?.as_bytes(), reader)?;
        }
        (Op::Decimal(precision), Data::Decimal(values)) => {
            let bytes = reader.bytes()?;
            values.push(unscaled(bytes, *precision, reader)?);
        }
        (Op::DecimalFixed(precision, size), Data::Decimal(values)) => {
            let bytes = reader.take(*size)?;
            values.push(unscaled(bytes, *precision, reader)?);
        }
        (Op::TimeMillis, Data::Int64(values)) => values.push(i64::from(reader.int()?) * 1_000),
        (Op::TimestampMillis, Data::Int64(values)) => {
            let millis = reader.long()?;
            values.push(millis.checked_mul(1_000).ok_or_else(|| reader.bad(Reason::Time(millis)))?);
        }
        (Op::TimestampNanos, Data::Int64(values)) => values.push(reader.long()?.div_euclid(1_000)),
        (Op::Duration, Data::Struct(parts)) => {
            for part in parts {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(reader.take(4)?);
                if let Data::Int64(values) = &mut part.data {
                    values.push(i64::from(u32::from_le_bytes(bytes)));
                    part.present();
                }
            }
        }
        (Op::Member { index, value }, Data::Struct(members)) => {
            for (at, member) in members.iter_mut().enumerate() {
                if at == *index { read(value, member, reader)? } else { null(member, reader)? }
            }
        }
        (Op::Array { item, least }, Data::List(list)) => {
            let items = &mut *list.items;
            reader.blocks(*least, |reader| read(item, items, reader)).map_err(within("[]"))?;
            let end = items.len();
            list.close(end).map_err(|Full| reader.bad(Reason::Full))?;
        }
        (Op::Map { value, least }, Data::Map(map)) => {
            let (keys, values) = &mut *map.items;
            reader
                .blocks(*least, |reader| {
                    if let Data::Bytes(bytes) = &mut keys.data {
                        push(bytes, reader.text()?, reader)?;
                        keys.present();
                    }
                    read(value, values, reader)
                })
                .map_err(within("{}"))?;
            let end = values.len();
            map.close(end).map_err(|Full| reader.bad(Reason::Full))?;
        }
        (Op::Record(plan), Data::Struct(children)) => record(plan, children, reader)?,
        // A plan is made from the columns it fills: no other pair exists.
        (_, _) => return Err(reader.bad(Reason::Branch(column.data_type().to_string()))),
    }
    column.present();
    Ok(())
}

#[inline]
fn push(values: &mut Bytes, bytes: &[u8], reader: &Reader<'_>) -> Step {
    values.push(bytes).map_err(|Full| reader.bad(Reason::Full))
}

#[expect(clippy::cast_precision_loss, reason = "Avro's promotion of int and long to float")]
fn to_float(value: i64) -> f32 {
    value as f32
}

#[expect(clippy::cast_precision_loss, reason = "Avro's promotion of long to double")]
fn to_double(value: i64) -> f64 {
    value as f64
}

fn unscaled(bytes: &[u8], precision: u8, reader: &Reader<'_>) -> Step<i128> {
    decimal_value(bytes)
        .filter(|value| decimal::fits(*value, precision))
        .ok_or_else(|| reader.bad(Reason::Decimal(precision)))
}

fn uuid_text(bytes: &[u8], reader: &Reader<'_>) -> Step<String> {
    uuid::Uuid::from_slice(bytes).map(|id| id.to_string()).map_err(|_| reader.bad(Reason::Uuid(bytes.len())))
}

fn symbol<'a>(reader: &mut Reader<'_>, symbols: &'a [String]) -> Step<&'a String> {
    let index = reader.int()?;
    usize::try_from(index)
        .ok()
        .and_then(|at| symbols.get(at))
        .ok_or_else(|| reader.bad(Reason::Enum { index, symbols: symbols.len() }))
}

fn branch<'a, T>(reader: &mut Reader<'_>, branches: &'a [T]) -> Step<&'a T> {
    let index = reader.long()?;
    usize::try_from(index)
        .ok()
        .and_then(|at| branches.get(at))
        .ok_or_else(|| reader.bad(Reason::Union { index, branches: branches.len() }))
}

/// Walks over a value of which nothing is kept. It is checked as any other: whether a record is malformed does not
/// depend on the columns that are read.
fn skip(shape: &Shape, reader: &mut Reader<'_>) -> Step {
    match shape {
        Shape::Null => {}
        Shape::Boolean => reader.boolean().map(drop)?,
        Shape::Int | Shape::Date | Shape::TimeMillis => reader.int().map(drop)?,
        Shape::Long | Shape::TimeMicros => reader.long().map(drop)?,
        Shape::Timestamp { unit, .. } => {
            let value = reader.long()?;
            if *unit == Unit::Millis && value.checked_mul(1_000).is_none() {
                return Err(reader.bad(Reason::Time(value)));
            }
        }
        Shape::Float => reader.float().map(drop)?,
        Shape::Double => reader.double().map(drop)?,
        Shape::Bytes => reader.bytes().map(drop)?,
        Shape::String | Shape::UuidText => reader.text().map(drop)?,
        Shape::UuidBytes => {
            let bytes = reader.bytes()?;
            uuid_text(bytes, reader)?;
        }
        Shape::Decimal { precision, fixed: None, .. } => {
            let bytes = reader.bytes()?;
            unscaled(bytes, *precision, reader)?;
        }
        Shape::Decimal { precision, fixed: Some(fixed), .. } => {
            let bytes = reader.take(fixed.size)?;
            unscaled(bytes, *precision, reader)?;
        }
        Shape::Fixed(fixed) | Shape::UuidFixed(fixed) | Shape::Duration(fixed) => reader.take(fixed.size).map(drop)?,
        Shape::Enum { symbols, .. } => symbol(reader, symbols).map(drop)?,
        Shape::Union(branches) => skip(branch(reader, branches)?, reader)?,
        Shape::Array(item) => reader.blocks(item.least(), |reader| skip(item, reader)).map_err(within("[]"))?,
        Shape::Map(value) => reader
            .blocks(value.least().saturating_add(1), |reader| {
                reader.text()?;
                skip(value, reader)
            })
            .map_err(within("{}"))?,
        Shape::Record(record) => {
            for field in &record.fields {
                skip(&field.shape, reader).map_err(within(&field.name))?;
            }
        }
    }
    Ok(())
}
