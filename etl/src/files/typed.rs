//! Files that say their own types, Parquet and Avro, to batches.
use std::io::Read;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

use super::batch::{Bad, Batch, Decoded};
use super::error::FilesError;
use super::read::Plan;
use super::target::{OnUnknown, Place, column_name};
use crate::format::avro::{self, Container, ContainerProblem, arrow_schema};
use crate::format::json;
use crate::table::{storable, type_name};

/// Rows of one batch.
const ROWS: usize = 8192;
/// A block of an Avro file may have this many bytes, as it is and unpacked.
const BLOCK: usize = 64 << 20;
/// Of a damaged block this much is kept.
const KEPT: usize = 1 << 20;
/// Records without bytes (a schema without fields) in a block: nothing else would bound them.
const EMPTY_RECORDS: u64 = 1 << 16;

/// Where each of a file's columns goes.
struct Fit {
    /// The file's columns in types that can be stored.
    natural: SchemaRef,
    /// Of each: the table's column, or none.
    places: Vec<Option<usize>>,
    /// The columns of the rows handed out, by number in the target.
    used: Vec<usize>,
}

impl Fit {
    fn new(file: &Schema, plan: &mut Plan) -> Result<Self, FilesError> {
        let natural = landable(&storable(file));
        let mut places = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for field in natural.fields() {
            let name = column_name(field.name());
            let refused = |found: String, table_type: String| FilesError::Column {
                file: plan.origin.shown.clone(),
                column: field.name().clone(),
                found,
                table_type,
            };
            if names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
                return Err(refused("two columns of the file have this name".to_owned(), String::new()));
            }
            let place = match plan.target.place(&name) {
                Place::Column(at) => {
                    let there = plan.target.field(at).data_type();
                    if !can_become(field.data_type(), there) {
                        return Err(refused(type_name(field.data_type()), type_name(there)));
                    }
                    Some(at)
                }
                Place::Unknown if plan.target.on_unknown == OnUnknown::Evolve => {
                    Some(plan.target.add(&name, field.data_type().clone()))
                }
                Place::Unknown => None,
                Place::Refused(why) => return Err(refused(why, String::new())),
            };
            places.push(place);
            names.push(name);
        }
        if let Some(field) = &plan.origin.event_time
            && !names.contains(field)
        {
            let (file, why) = (plan.origin.shown.clone(), "the file has no such column".to_owned());
            return Err(FilesError::EventTime { file, field: field.clone(), why });
        }
        let used = places.iter().copied().flatten().collect();
        Ok(Self { natural, places, used })
    }

    /// Rows as the file has them, in the table's types. A value that its column cannot hold makes its row a dead letter.
    fn apply(&self, rows: &RecordBatch, first: i64, mut dead: Vec<Bad>, plan: &Plan) -> Result<Batch, FilesError> {
        let failed = |source| FilesError::Rows { file: plan.origin.shown.clone(), source };
        let mut bad: Vec<Option<(&'static str, String)>> = vec![None; rows.num_rows()];
        let mut columns: Vec<ArrayRef> = Vec::new();
        for ((column, field), place) in rows.columns().iter().zip(self.natural.fields()).zip(&self.places) {
            let wanted = place.map(|at| plan.target.field(at).data_type());
            let Some(wanted) = wanted else {
                if plan.target.on_unknown == OnUnknown::DeadLetter {
                    let detail = || format!("the table has no column `{}`", field.name());
                    mark(&mut bad, |row| column.is_valid(row), "unknown_field", detail);
                }
                continue;
            };
            let natural = exact(column, field.data_type()).map_err(failed)?;
            let cast = exact(&natural.0, wanted).map_err(failed)?;
            for kept in [&natural.1, &cast.1].into_iter().flatten() {
                let detail = || {
                    format!(
                        "column `{}` is {}: the value of type {} does not fit",
                        field.name(),
                        type_name(wanted),
                        type_name(column.data_type())
                    )
                };
                mark(&mut bad, |row| !kept.value(row), "type", detail);
            }
            columns.push(cast.0);
        }
        let schema = plan.target.schema().project(&self.used).map_err(failed)?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let mut data = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options).map_err(failed)?;
        let number = |row: usize| first.saturating_add(i64::try_from(row).unwrap_or(i64::MAX));
        let raw = |row: usize| json::to_json(rows, row).map(|value| value.to_string().into_bytes()).unwrap_or_default();
        let kept: Vec<usize> = (0..rows.num_rows()).filter(|row| bad[*row].is_none()).collect();
        if kept.len() < rows.num_rows() {
            let good: BooleanArray = bad.iter().map(|bad| Some(bad.is_none())).collect();
            data = filter_record_batch(&data, &good).map_err(failed)?;
            for (row, bad) in bad.into_iter().enumerate() {
                if let Some((reason, detail)) = bad {
                    dead.push(Bad { at: number(row), reason, detail, raw: raw(row) });
                }
            }
        }
        let at = kept.iter().map(|row| number(*row)).collect();
        let raw_of_kept = |row: usize| kept.get(row).map(|row| raw(*row)).unwrap_or_default();
        plan.origin.finish(Decoded { data, at, dead, raw: &raw_of_kept })
    }
}

fn mark(
    bad: &mut [Option<(&'static str, String)>],
    is_bad: impl Fn(usize) -> bool,
    reason: &'static str,
    detail: impl Fn() -> String,
) {
    for (row, bad) in bad.iter_mut().enumerate() {
        if bad.is_none() && is_bad(row) {
            *bad = Some((reason, detail()));
        }
    }
}

/// The columns as any format can fill them: small whole numbers as integers, maps with the names that Delta gives them.
fn landable(schema: &Schema) -> SchemaRef {
    let field = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(landable_type(field.data_type())));
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn landable_type(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| field.as_ref().clone().with_data_type(landable_type(field.data_type()));
    match data_type {
        DataType::Int8 | DataType::Int16 => DataType::Int32,
        DataType::List(item) => DataType::List(Arc::new(inner(item))),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, sorted) => {
            let storable = storable(&Schema::new(vec![Arc::clone(entries)]));
            let entries = match storable.field(0).data_type() {
                DataType::Struct(fields) => fields.iter().map(|field| landable_type(field.data_type())).collect(),
                _ => Vec::new(),
            };
            let [key, value] = entries.as_slice() else { return data_type.clone() };
            let entries = vec![Field::new("key", key.clone(), false), Field::new("value", value.clone(), true)];
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), *sorted)
        }
        other => other.clone(),
    }
}

/// Whether every value of one type that the other can hold means the same there. Which values those are is looked at
/// one by one.
fn can_become(from: &DataType, to: &DataType) -> bool {
    let number = |t: &DataType| t.is_integer() || matches!(t, DataType::Decimal128(_, _));
    if from.equals_datatype(to) {
        return true;
    }
    match to {
        DataType::Utf8 => number(from) || from.is_floating() || matches!(from, DataType::Boolean | DataType::Date32),
        DataType::Float32 => from.is_integer(),
        DataType::Float64 => from.is_integer() || from.is_floating(),
        DataType::Timestamp(_, _) => matches!(from, DataType::Timestamp(_, _)),
        _ => number(to) && number(from),
    }
}

/// The column in another type, and which of its values are the same there, if any are not.
fn exact(column: &ArrayRef, to: &DataType) -> Result<(ArrayRef, Option<BooleanArray>), arrow::error::ArrowError> {
    let from = column.data_type();
    if from == to {
        return Ok((Arc::clone(column), None));
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = cast_with_options(column, to, &options)?;
    // There and back: a number that comes back as another was rounded or cut.
    let kept = if from.is_numeric() && to.is_numeric() {
        let back = cast_with_options(&cast, from, &options)?;
        not_distinct(&back, column)?
    } else {
        (0..column.len()).map(|row| Some(cast.is_valid(row) || column.is_null(row))).collect()
    };
    let all = kept.true_count() == kept.len();
    Ok((cast, (!all).then_some(kept)))
}

/// Reads a Parquet file. Damage is found by page: the file is refused as a whole, as its columns cannot be told apart
/// from there on.
pub(super) fn read_parquet(
    input: impl ChunkReader + 'static,
    mut plan: Plan,
    send: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), FilesError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(input).map_err(|error| plan.damaged(&error))?;
    let fit = Fit::new(builder.schema(), &mut plan)?;
    let reader = builder.with_batch_size(ROWS).build().map_err(|error| plan.damaged(&error))?;
    let mut next = 1;
    for rows in reader {
        let rows = rows.map_err(|error| plan.damaged(&error))?;
        let batch = fit.apply(&rows, next, Vec::new(), &plan)?;
        next += i64::try_from(rows.num_rows()).unwrap_or_default();
        if !send(batch) {
            break;
        }
    }
    Ok(())
}

/// Reads an Avro container file. A damaged block costs its own rows.
pub(super) fn read_avro(
    input: Box<dyn Read>,
    mut plan: Plan,
    send: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), FilesError> {
    let failed = |problem, plan: &Plan| match problem {
        ContainerProblem::Io(error) => plan.io(error),
        other => plan.damaged(&other),
    };
    let mut container = Container::open(input, BLOCK).map_err(|problem| failed(problem, &plan))?;
    let schema_failed = |source| FilesError::Schema { file: plan.origin.shown.clone(), source };
    let natural = Arc::new(arrow_schema(container.schema()).map_err(schema_failed)?);
    let mut decoder = avro::Decoder::new(container.schema(), Arc::clone(&natural)).map_err(schema_failed)?;
    let fit = Fit::new(&natural, &mut plan)?;
    while let Some(block) = container.next().map_err(|problem| failed(problem, &plan))? {
        let first = i64::try_from(block.first).unwrap_or(i64::MAX);
        let outcome = match block.body {
            Ok(body) => match decode_block(&mut decoder, &body, block.records) {
                Ok(()) => Ok(()),
                Err(why) => Err((why, body)),
            },
            Err((why, raw)) => Err((why, raw)),
        };
        let rows = decoder.flush().map_err(|source| FilesError::Schema { file: plan.origin.shown.clone(), source })?;
        let (rows, dead) = match outcome {
            Ok(()) => (rows, Vec::new()),
            Err((why, mut raw)) => {
                let mut detail = format!("a block of {} rows is damaged: {why}", block.records);
                if raw.len() > KEPT {
                    detail = format!("{detail}; the first bytes of {} are kept", raw.len());
                    raw.truncate(KEPT);
                }
                (RecordBatch::new_empty(Arc::clone(&natural)), vec![Bad { at: first, reason: "block", detail, raw }])
            }
        };
        let batch = fit.apply(&rows, first, dead, &plan)?;
        if !send(batch) {
            break;
        }
    }
    Ok(())
}

fn decode_block(decoder: &mut avro::Decoder, body: &[u8], records: u64) -> Result<(), String> {
    if records > (body.len() as u64).saturating_add(EMPTY_RECORDS) {
        return Err(format!("{} bytes cannot hold so many", body.len()));
    }
    let mut rest = body;
    for record in 1..=records {
        let size = decoder.decode_first(rest).map_err(|bad| format!("record {record}: {bad}"))?;
        rest = rest.get(size..).unwrap_or_default();
    }
    if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over after its last record", rest.len())) }
}
