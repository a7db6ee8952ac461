//! How records of one writer's schema fill the columns of one table: worked out once, before any record is read.
//!
//! Fields are matched by name, then by the reader's aliases. What the writer has and the table has not is walked over
//! (and still checked); what the table has and the writer has not gets the reader's default, else NULL.
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::from_json::{Convention, write_json};
use super::shape::{Record, Shape, Unit, member_names};
use crate::format::error::{SchemaError, join};

/// How one value of the writer goes into one column.
#[derive(Debug)]
pub(super) enum Op {
    Null,
    Boolean,
    Int,
    IntToLong,
    IntToFloat,
    IntToDouble,
    Long,
    LongToFloat,
    LongToDouble,
    Float,
    FloatToDouble,
    Double,
    Text,
    Binary,
    Fixed(usize),
    Enum(Vec<String>),
    /// With the precision of the column.
    Decimal(u8),
    DecimalFixed(u8, usize),
    /// Milliseconds in an int to microseconds.
    TimeMillis,
    TimestampMillis,
    TimestampNanos,
    UuidBytes,
    UuidFixed,
    Duration,
    /// A union of null and one type, `null` being null's branch.
    Nullable {
        null: i64,
        value: Box<Op>,
    },
    Union(Vec<Branch>),
    /// Fills one member of a struct and leaves the others NULL.
    Member {
        index: usize,
        value: Box<Op>,
    },
    Array {
        item: Box<Op>,
        least: usize,
    },
    Map {
        value: Box<Op>,
        least: usize,
    },
    Record(RecordOp),
}

/// One branch of a union.
#[derive(Debug)]
pub(super) enum Branch {
    Read(Op),
    /// The column cannot hold it: a record with this branch is malformed, others are not.
    Refused(String),
}

/// How a record fills the columns of a struct, in the writer's order.
#[derive(Debug)]
pub(super) struct RecordOp {
    pub(super) fields: Vec<FieldOp>,
    pub(super) absent: Vec<Absent>,
}

/// One field of the writer.
#[derive(Debug)]
pub(super) struct FieldOp {
    pub(super) name: String,
    pub(super) action: Action,
}

/// What to do with a field of the writer.
#[derive(Debug)]
pub(super) enum Action {
    Read { column: usize, op: Op },
    Skip(Shape),
}

/// A column that the writer does not write.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) column: usize,
    /// The reader's default in Avro's encoding, else NULL.
    pub(super) default: Option<(Op, Vec<u8>)>,
}

/// Plans a record into the columns `target`.
pub(super) fn record(
    writer: &Record,
    reader: Option<&Record>,
    target: &Fields,
    path: &str,
) -> Result<RecordOp, SchemaError> {
    let of_reader = |column: &FieldRef| reader?.fields.iter().find(|field| &field.name == column.name());
    let mut column_of: Vec<Option<usize>> = vec![None; writer.fields.len()];
    let mut free: Vec<usize> = Vec::new();
    for (index, column) in target.iter().enumerate() {
        match writer.fields.iter().position(|field| &field.name == column.name()) {
            Some(field) => column_of[field] = Some(index),
            None => free.push(index),
        }
    }
    let mut absent = Vec::new();
    for index in free {
        let column = &target[index];
        let known = of_reader(column);
        let aliases = known.map_or(&[][..], |field| &field.aliases);
        let by_alias = writer
            .fields
            .iter()
            .position(|field| aliases.contains(&field.name))
            .filter(|field| column_of[*field].is_none());
        if let Some(field) = by_alias {
            column_of[field] = Some(index);
            continue;
        }
        let path = join(path, column.name());
        let default = match known.and_then(|field| Some((field, field.default.as_ref()?))) {
            Some((field, value)) => {
                let mut bytes = Vec::new();
                write_json(&field.shape, value, &Convention::AvroDefault, &mut bytes)
                    .map_err(|problem| SchemaError::Default { path: path.clone(), why: problem.to_string() })?;
                Some((compile(&field.shape, Some(&field.shape), column.data_type(), &path)?, bytes))
            }
            None if column.is_nullable() => None,
            None => return Err(SchemaError::Missing { path, target: column.data_type().to_string() }),
        };
        absent.push(Absent { column: index, default });
    }
    let mut fields = Vec::with_capacity(writer.fields.len());
    for (field, column) in writer.fields.iter().zip(column_of) {
        let action = match column {
            None => Action::Skip(field.shape.clone()),
            Some(index) => {
                let column = &target[index];
                let reader = of_reader(column).map(|field| &field.shape);
                let op = compile(&field.shape, reader, column.data_type(), &join(path, column.name()))?;
                Action::Read { column: index, op }
            }
        };
        fields.push(FieldOp { name: field.name.clone(), action });
    }
    Ok(RecordOp { fields, absent })
}

fn compile(writer: &Shape, reader: Option<&Shape>, target: &DataType, path: &str) -> Result<Op, SchemaError> {
    let mismatch =
        || SchemaError::Mismatch { path: path.to_owned(), writer: writer.describe(), target: target.to_string() };
    if let Shape::Union(branches) = writer {
        return union(branches, reader, target, path, mismatch);
    }
    let reader = reader.map(Shape::strip_null);
    if let (Some(Shape::Union(branches)), DataType::Struct(members)) = (reader, target) {
        // A type that became one of several.
        return member(writer, branches, members, path)?.ok_or_else(mismatch);
    }
    Ok(match (writer, target) {
        (Shape::Null, _) => Op::Null,
        (Shape::Boolean, DataType::Boolean) => Op::Boolean,
        (Shape::Int, DataType::Int32) | (Shape::Date, DataType::Date32) => Op::Int,
        (Shape::Int, DataType::Int64) => Op::IntToLong,
        (Shape::Int, DataType::Float32) => Op::IntToFloat,
        (Shape::Int, DataType::Float64) => Op::IntToDouble,
        (Shape::Long | Shape::TimeMicros, DataType::Int64) => Op::Long,
        (Shape::Long, DataType::Float32) => Op::LongToFloat,
        (Shape::Long, DataType::Float64) => Op::LongToDouble,
        (Shape::Float, DataType::Float32) => Op::Float,
        (Shape::Float, DataType::Float64) => Op::FloatToDouble,
        (Shape::Double, DataType::Float64) => Op::Double,
        (Shape::String | Shape::Bytes | Shape::UuidText, DataType::Utf8) => Op::Text,
        (Shape::String | Shape::Bytes, DataType::Binary) => Op::Binary,
        (Shape::Fixed(fixed), DataType::Binary) => Op::Fixed(fixed.size),
        (Shape::Enum { symbols, .. }, DataType::Utf8) => Op::Enum(symbols.clone()),
        (Shape::UuidBytes, DataType::Utf8) => Op::UuidBytes,
        (Shape::UuidFixed(_), DataType::Utf8) => Op::UuidFixed,
        (Shape::Decimal { precision, scale, fixed }, DataType::Decimal128(digits, places))
            if scale == places && precision <= digits =>
        {
            fixed.as_ref().map_or(Op::Decimal(*digits), |fixed| Op::DecimalFixed(*digits, fixed.size))
        }
        (Shape::TimeMillis, DataType::Int64) => Op::TimeMillis,
        (Shape::Timestamp { unit, utc }, DataType::Timestamp(TimeUnit::Microsecond, zone))
            if *utc == zone.is_some() =>
        {
            match unit {
                Unit::Millis => Op::TimestampMillis,
                Unit::Micros => Op::Long,
                Unit::Nanos => Op::TimestampNanos,
            }
        }
        (Shape::Duration(_), DataType::Struct(fields)) if is_duration(fields) => Op::Duration,
        (Shape::Array(item), DataType::List(element)) => {
            let of_reader = if let Some(Shape::Array(item)) = reader { Some(&**item) } else { None };
            let op = compile(item, of_reader, element.data_type(), &format!("{path}[]"))?;
            Op::Array { item: Box::new(op), least: item.least() }
        }
        (Shape::Map(value), DataType::Map(entries, _)) => {
            let of_reader = if let Some(Shape::Map(value)) = reader { Some(&**value) } else { None };
            let column = entry_value(entries).ok_or_else(mismatch)?;
            let op = compile(value, of_reader, column.data_type(), &format!("{path}{{}}"))?;
            // A key takes at least its length.
            Op::Map { value: Box::new(op), least: value.least().saturating_add(1) }
        }
        (Shape::Record(inner), DataType::Struct(fields)) => {
            let of_reader = if let Some(Shape::Record(record)) = reader { Some(record) } else { None };
            Op::Record(record(inner, of_reader, fields, path)?)
        }
        _ => return Err(mismatch()),
    })
}

fn is_duration(fields: &Fields) -> bool {
    let parts: Vec<_> = fields.iter().map(|field| (field.name().as_str(), field.data_type())).collect();
    parts == [("months", &DataType::Int64), ("days", &DataType::Int64), ("millis", &DataType::Int64)]
}

fn entry_value(entries: &Arc<Field>) -> Option<&FieldRef> {
    if let DataType::Struct(fields) = entries.data_type() { fields.get(1) } else { None }
}

fn union(
    branches: &[Shape],
    reader: Option<&Shape>,
    target: &DataType,
    path: &str,
    mismatch: impl Fn() -> SchemaError,
) -> Result<Op, SchemaError> {
    let several = Shape::live(branches).count() > 1;
    let names = member_names(branches);
    let members = match target {
        DataType::Struct(fields) if several && names.iter().any(|name| fields.find(name).is_some()) => Some(fields),
        _ => None,
    };
    let mut reasons = Vec::new();
    let mut any = false;
    let mut ops = Vec::with_capacity(branches.len());
    for (branch, name) in branches.iter().zip(&names) {
        let op = if matches!(branch, Shape::Null) {
            Ok(Op::Null)
        } else if let Some(fields) = members {
            into_member(branch, reader, fields, name, path).and_then(|op| op.ok_or_else(&mismatch))
        } else {
            compile(branch, reader, target, path)
        };
        any |= op.is_ok();
        ops.push(op.map_or_else(
            |error| {
                reasons.push(error);
                Branch::Refused(branch.describe())
            },
            Branch::Read,
        ));
    }
    // Branches that do not fit are a matter of single records, unless all are refused.
    let live_fit =
        ops.iter().zip(branches).any(|(op, branch)| matches!(op, Branch::Read(_)) && !matches!(branch, Shape::Null));
    if !live_fit && let Some(first) = reasons.into_iter().next() {
        return Err(first);
    }
    if !any {
        return Err(mismatch());
    }
    if ops.len() == 2 {
        let null = branches.iter().position(|branch| matches!(branch, Shape::Null));
        let value = ops
            .iter()
            .zip(branches)
            .position(|(op, branch)| matches!(op, Branch::Read(_)) && !matches!(branch, Shape::Null));
        if let (Some(null), Some(value)) = (null, value)
            && let Branch::Read(op) = ops.swap_remove(value)
        {
            return Ok(Op::Nullable { null: i64::from(null != 0), value: Box::new(op) });
        }
    }
    Ok(Op::Union(ops))
}

/// A branch of the writer's union into the struct member of its name.
fn into_member(
    branch: &Shape,
    reader: Option<&Shape>,
    members: &Fields,
    name: &str,
    path: &str,
) -> Result<Option<Op>, SchemaError> {
    if let Some(Shape::Union(branches)) = reader.map(Shape::strip_null) {
        return member(branch, branches, members, path);
    }
    let Some((index, field)) = members.find(name) else {
        return Ok(None);
    };
    let value = compile(branch, None, field.data_type(), &join(path, name))?;
    Ok(Some(Op::Member { index, value: Box::new(value) }))
}

/// A writer's type into the struct of a reader's union: the branch of the same type, else the first it can become.
fn member(writer: &Shape, branches: &[Shape], members: &Fields, path: &str) -> Result<Option<Op>, SchemaError> {
    let names = member_names(branches);
    let mut candidates: Vec<(&Shape, &String)> =
        branches.iter().zip(&names).filter(|(branch, _)| !matches!(branch, Shape::Null)).collect();
    candidates.sort_by_key(|(branch, _)| branch.tag() != writer.tag());
    let mut first_error = None;
    for (branch, name) in candidates {
        let Some((index, field)) = members.find(name) else {
            continue;
        };
        match compile(writer, Some(branch), field.data_type(), &join(path, name)) {
            Ok(value) => return Ok(Some(Op::Member { index, value: Box::new(value) })),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// Plans a whole schema.
pub(super) fn root(
    writer: &apache_avro::Schema,
    reader: Option<&apache_avro::Schema>,
    target: &Fields,
) -> Result<RecordOp, SchemaError> {
    let writer = Shape::root(writer)?;
    let reader = reader.map(Shape::root).transpose()?;
    record(&writer, reader.as_ref(), target, "")
}
