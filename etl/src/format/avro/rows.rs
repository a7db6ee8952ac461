//! The typed arrays behind a schema's fields, bound once per batch, and their values as Avro bytes, row by row.
use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    ListArray, MapArray, StringArray, StructArray,
};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};

use super::from_json::{default_body, in_unit, write_decimal};
use super::shape::{Record, Shape, Unit, member_names};
use super::wire::{write_bytes, write_length, write_long};
use crate::format::error::join;

/// The path of a bad value and what is wrong with it.
pub(super) type Problem = (String, String);

/// A field with the typed arrays that its values come from.
enum Source<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int(&'a Int32Array),
    Date(&'a [i32]),
    Long(&'a Int64Array),
    TimeMillis(&'a Int64Array),
    Float(&'a Float32Array),
    Double(&'a Float64Array),
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
    Fixed(&'a BinaryArray, usize),
    Enum(&'a StringArray, &'a [String]),
    Decimal(&'a Decimal128Array, Option<usize>, u8),
    Timestamp(&'a [i64], Unit),
    Uuid(&'a StringArray, bool),
    Duration(&'a StructArray),
    List(&'a ListArray, Box<Bound<'a>>),
    Map(&'a MapArray, &'a StringArray, Box<Bound<'a>>),
    Record(RecordSource<'a>),
    /// Branch and value of each member that has a column.
    Union(Vec<(usize, Bound<'a>)>),
    Default(Vec<u8>),
}

/// A source with its NULLs: `null` is the branch for NULL, `value` the branch for a value, of a union of both.
struct Bound<'a> {
    array: Option<&'a dyn Array>,
    null: Option<usize>,
    value: Option<usize>,
    source: Source<'a>,
}

pub(super) struct RecordSource<'a> {
    fields: Vec<(&'a str, Bound<'a>)>,
}

pub(super) fn bind_record<'a>(
    record: &'a Record,
    columns: &dyn Fn(&str) -> Option<&'a dyn Array>,
    path: &str,
) -> Result<RecordSource<'a>, Problem> {
    let mut fields = Vec::with_capacity(record.fields.len());
    for field in &record.fields {
        let path = join(path, &field.name);
        let bound = if let Some(array) = columns(&field.name) {
            bind(&field.shape, array, &path)?
        } else {
            let body = default_body(&field.shape, field.default.as_ref());
            let body = body.ok_or_else(|| (path, "no column and no default".to_owned()))?;
            Bound { array: None, null: None, value: None, source: Source::Default(body) }
        };
        fields.push((field.name.as_str(), bound));
    }
    Ok(RecordSource { fields })
}

fn bind<'a>(shape: &'a Shape, array: &'a dyn Array, path: &str) -> Result<Bound<'a>, Problem> {
    let mut null = None;
    let mut value = None;
    let mut only = shape;
    if let Shape::Union(branches) = shape {
        null = branches.iter().position(|branch| matches!(branch, Shape::Null));
        only = shape.strip_null();
        value = branches.iter().position(|branch| std::ptr::eq(branch, only));
    }
    let source = source(only, array, path).ok_or_else(|| {
        (path.to_owned(), format!("a column of type {} is no {}", array.data_type(), shape.describe()))
    })??;
    Ok(Bound { array: Some(array), null, value, source })
}

/// `None` if the array is of another type than the schema was checked with.
fn source<'a>(shape: &'a Shape, array: &'a dyn Array, path: &str) -> Option<Result<Source<'a>, Problem>> {
    Some(Ok(match shape {
        Shape::Null => Source::Null,
        Shape::Boolean => Source::Boolean(array.as_boolean_opt()?),
        Shape::Int => Source::Int(array.as_primitive_opt::<Int32Type>()?),
        Shape::Date => Source::Date(array.as_primitive_opt::<Date32Type>()?.values()),
        Shape::Long | Shape::TimeMicros => Source::Long(array.as_primitive_opt::<Int64Type>()?),
        Shape::TimeMillis => Source::TimeMillis(array.as_primitive_opt::<Int64Type>()?),
        Shape::Float => Source::Float(array.as_primitive_opt::<Float32Type>()?),
        Shape::Double => Source::Double(array.as_primitive_opt::<Float64Type>()?),
        Shape::String | Shape::UuidText => Source::Text(array.as_string_opt()?),
        Shape::Bytes => Source::Binary(array.as_binary_opt()?),
        Shape::Fixed(fixed) => Source::Fixed(array.as_binary_opt()?, fixed.size),
        Shape::Enum { symbols, .. } => Source::Enum(array.as_string_opt()?, symbols),
        Shape::Decimal { precision, fixed, .. } => Source::Decimal(
            array.as_primitive_opt::<Decimal128Type>()?,
            fixed.as_ref().map(|fixed| fixed.size),
            *precision,
        ),
        Shape::Timestamp { unit, .. } => {
            Source::Timestamp(array.as_primitive_opt::<TimestampMicrosecondType>()?.values(), *unit)
        }
        Shape::UuidBytes => Source::Uuid(array.as_string_opt()?, true),
        Shape::UuidFixed(_) => Source::Uuid(array.as_string_opt()?, false),
        Shape::Duration(_) => Source::Duration(array.as_struct_opt()?),
        Shape::Array(item) => {
            let list = array.as_list_opt::<i32>()?;
            match bind(item, list.values(), &format!("{path}[]")) {
                Ok(items) => Source::List(list, Box::new(items)),
                Err(problem) => return Some(Err(problem)),
            }
        }
        Shape::Map(value) => {
            let map = array.as_map_opt()?;
            match bind(value, map.values(), &format!("{path}{{}}")) {
                Ok(values) => Source::Map(map, map.keys().as_string_opt()?, Box::new(values)),
                Err(problem) => return Some(Err(problem)),
            }
        }
        Shape::Record(record) => {
            let columns = array.as_struct_opt()?;
            match bind_record(record, &|name| columns.column_by_name(name).map(AsRef::as_ref), path) {
                Ok(record) => Source::Record(record),
                Err(problem) => return Some(Err(problem)),
            }
        }
        Shape::Union(branches) => {
            let Some(columns) = array.as_struct_opt() else {
                // A union of nothing but null.
                return Shape::live(branches).next().is_none().then_some(Ok(Source::Null));
            };
            let mut members = Vec::new();
            for (index, (branch, name)) in branches.iter().zip(member_names(branches)).enumerate() {
                if let (false, Some(column)) = (matches!(branch, Shape::Null), columns.column_by_name(&name)) {
                    match bind(branch, column.as_ref(), &join(path, &name)) {
                        Ok(bound) => members.push((index, bound)),
                        Err(problem) => return Some(Err(problem)),
                    }
                }
            }
            Source::Union(members)
        }
    }))
}

pub(super) fn write_record(record: &RecordSource<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), Problem> {
    for (name, field) in &record.fields {
        write(field, row, out).map_err(|(path, why)| {
            let path = if path.starts_with(['[', '{']) || path.is_empty() {
                format!("{name}{path}")
            } else {
                join(name, &path)
            };
            (path, why)
        })?;
    }
    Ok(())
}

fn write(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), Problem> {
    let bad = |why: String| (String::new(), why);
    let is_null = bound.array.is_some_and(|array| array.is_null(row));
    if is_null && !matches!(bound.source, Source::Null) {
        let branch = bound.null.ok_or_else(|| bad("NULL, and the schema has no null here".into()))?;
        write_length(branch, out);
        return Ok(());
    }
    if let Some(branch) = bound.value {
        write_length(branch, out);
    }
    write_value(bound, row, out)
}

fn write_value(bound: &Bound<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), Problem> {
    let bad = |why: String| (String::new(), why);
    match &bound.source {
        Source::Null => {
            if let Some(branch) = bound.null {
                write_length(branch, out);
            }
        }
        Source::Boolean(array) => out.push(u8::from(array.value(row))),
        Source::Int(array) => write_long(i64::from(array.value(row)), out),
        Source::Date(values) => write_long(i64::from(values[row]), out),
        Source::Long(array) => write_long(array.value(row), out),
        Source::TimeMillis(array) => {
            let micros = array.value(row);
            let millis = i32::try_from(micros.div_euclid(1_000))
                .map_err(|_| bad(format!("the time {micros} is out of range")))?;
            write_long(i64::from(millis), out);
        }
        Source::Float(array) => out.extend_from_slice(&array.value(row).to_le_bytes()),
        Source::Double(array) => out.extend_from_slice(&array.value(row).to_le_bytes()),
        Source::Text(array) => write_bytes(array.value(row).as_bytes(), out),
        Source::Binary(array) => write_bytes(array.value(row), out),
        Source::Fixed(array, size) => {
            let value = array.value(row);
            if value.len() != *size {
                return Err(bad(format!("{} bytes in a fixed of {size}", value.len())));
            }
            out.extend_from_slice(value);
        }
        Source::Enum(array, symbols) => {
            let value = array.value(row);
            let index = symbols.iter().position(|symbol| symbol == value);
            write_length(index.ok_or_else(|| bad(format!("the enum has no `{value}`")))?, out);
        }
        Source::Decimal(array, fixed, precision) => {
            let unscaled = array.value(row);
            if !crate::format::decimal::fits(unscaled, *precision) || write_decimal(unscaled, *fixed, out).is_none() {
                return Err(bad(format!("more than {precision} digits, or more than the fixed holds")));
            }
        }
        Source::Timestamp(values, unit) => {
            let value =
                in_unit(values[row], *unit).ok_or_else(|| bad(format!("the time {} is out of range", values[row])))?;
            write_long(value, out);
        }
        Source::Uuid(array, prefixed) => {
            let text = array.value(row);
            let id = uuid::Uuid::parse_str(text).map_err(|_| bad(format!("`{text}` is no uuid")))?;
            if *prefixed {
                write_length(16, out);
            }
            out.extend_from_slice(id.as_bytes());
        }
        Source::Duration(parts) => {
            for part in parts.columns() {
                let value =
                    part.as_primitive_opt::<Int64Type>().filter(|part| part.is_valid(row)).map(|part| part.value(row));
                let value = value.and_then(|value| u32::try_from(value).ok());
                out.extend_from_slice(
                    &value.ok_or_else(|| bad("a part of a duration is not of 32 bits".into()))?.to_le_bytes(),
                );
            }
        }
        Source::List(array, items) => {
            let offsets = array.value_offsets();
            write_items(offsets, row, out, |item, out| write(items, item, out)).map_err(in_list("[]"))?;
        }
        Source::Map(array, keys, values) => {
            write_items(array.value_offsets(), row, out, |item, out| {
                write_bytes(keys.value(item).as_bytes(), out);
                write(values, item, out)
            })
            .map_err(in_list("{}"))?;
        }
        Source::Record(record) => write_record(record, row, out)?,
        Source::Union(members) => write_union(members, bound.null, row, out)?,
        Source::Default(body) => out.extend_from_slice(body),
    }
    Ok(())
}

fn write_union(
    members: &[(usize, Bound<'_>)],
    null: Option<usize>,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    let bad = |why: &str| (String::new(), why.to_owned());
    let mut set = members.iter().filter(|(_, member)| member.array.is_some_and(|array| array.is_valid(row)));
    match (set.next(), set.next()) {
        (Some((branch, member)), None) => {
            write_length(*branch, out);
            write(member, row, out)?;
        }
        (None, _) => {
            write_length(null.ok_or_else(|| bad("no member is set, and the union has no null"))?, out);
        }
        (Some(_), Some(_)) => return Err(bad("more than one member of a union is set")),
    }
    Ok(())
}

fn in_list(part: &'static str) -> impl FnOnce(Problem) -> Problem {
    move |(path, why)| {
        (
            if path.is_empty() || path.starts_with(['[', '{']) {
                format!("{part}{path}")
            } else {
                format!("{part}.{path}")
            },
            why,
        )
    }
}

fn write_items(
    offsets: &[i32],
    row: usize,
    out: &mut Vec<u8>,
    mut item: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let at = |row: usize| usize::try_from(offsets[row]).unwrap_or_default();
    let range = at(row)..at(row + 1);
    if !range.is_empty() {
        write_length(range.len(), out);
    }
    for index in range {
        item(index, out)?;
    }
    out.push(0);
    Ok(())
}
