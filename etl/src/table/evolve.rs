//! New columns for a table, and rows brought to a table's columns. Members of structs are columns too, also inside lists
//! and maps.
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, ListArray, MapArray, RecordBatch, StructArray, new_null_array};
use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, MetadataExt as _, StructType};

use super::commit::{Commit, Guard, Operation};
use super::error::TableError;
use super::lake::TableName;
use super::snapshot::{Table, type_name};
use crate::error::Result;
use crate::failpoint::hit;

/// Adds the columns of `wanted` that `table` lacks, nested ones too, in a commit of their own. Existing rows have NULL
/// there.
///
/// # Errors
/// [`TableError::Schema`] if a column is there with another type: that is never changed silently.
pub async fn evolve(table: &mut Table, wanted: &SchemaRef, now: DateTime<Utc>) -> Result<bool> {
    let current = table.schema()?;
    let mut fields: Vec<FieldRef> = current.fields().iter().cloned().collect();
    for field in wanted.fields() {
        let Some(there) = fields.iter_mut().find(|there| there.name() == field.name()) else {
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            continue;
        };
        let Some(grown) = merged(there.data_type(), field.data_type()) else {
            return Err(contradiction(there, field, table.name()).into());
        };
        if &grown != there.data_type() {
            *there = Arc::new(there.as_ref().clone().with_data_type(grown));
        }
    }
    if fields.iter().eq(current.fields()) {
        return Ok(false);
    }
    let failed = |why: String| TableError::Protocol { table: table.name().to_string(), why };
    let columns: StructType = (&Schema::new(fields)).try_into_kernel().map_err(|e| failed(e.to_string()))?;
    let metadata = table.metadata()?.with_schema(&columns).map_err(|e| failed(e.to_string()))?;
    let mut commit = Commit::new(Operation::Evolve, Guard::Append, now);
    commit.actions.push(Action::Metadata(metadata));
    hit("evolve.before_commit").await;
    table.commit(commit).await?;
    hit("evolve.after_commit").await;
    Ok(true)
}

fn contradiction(there: &Field, field: &Field, table: &TableName) -> TableError {
    TableError::Schema {
        table: table.to_string(),
        column: field.name().clone(),
        table_type: type_name(there.data_type()),
        row_type: type_name(field.data_type()),
    }
}

/// The type `there` with the members that `wanted` has more, which may be NULL; `None` if one contradicts the other.
/// Names of list items and nullability are as `there` has them.
pub(crate) fn merged(there: &DataType, wanted: &DataType) -> Option<DataType> {
    let mut same = true;
    let grown = inside(there, wanted, &mut same);
    same.then_some(grown)
}

/// The fields with those that `wanted` has more, nested ones too. Where both have a field with different types it stays as it
/// is: whether values of the other type can go into it is another question.
pub(crate) fn grown(there: &Fields, wanted: &Fields) -> Fields {
    members(there, wanted, &mut true)
}

fn inside(there: &DataType, wanted: &DataType, same: &mut bool) -> DataType {
    match (there, wanted) {
        (DataType::Struct(there), DataType::Struct(wanted)) => DataType::Struct(members(there, wanted, same)),
        (DataType::List(there), DataType::List(wanted)) => DataType::List(field(there, wanted, same)),
        // What is in a map does not grow: the engine cannot read old files of it. Key and value are told by place, as
        // writers name them differently.
        (DataType::Map(known, _), DataType::Map(other, _)) => {
            *same &= match (known.data_type(), other.data_type()) {
                (DataType::Struct(known), DataType::Struct(other)) => {
                    known.iter().zip(other).all(|(known, other)| known.data_type().equals_datatype(other.data_type()))
                }
                (known, other) => known == other,
            };
            there.clone()
        }
        _ => {
            *same &= there == wanted;
            there.clone()
        }
    }
}

fn members(there: &Fields, wanted: &Fields, same: &mut bool) -> Fields {
    let mut fields: Vec<FieldRef> = there.iter().cloned().collect();
    for other in wanted {
        match fields.iter_mut().find(|known| known.name() == other.name()) {
            Some(known) => *known = field(known, other, same),
            None => fields.push(Arc::new(other.as_ref().clone().with_nullable(true))),
        }
    }
    fields.into()
}

fn field(there: &FieldRef, wanted: &FieldRef, same: &mut bool) -> FieldRef {
    Arc::new(there.as_ref().clone().with_data_type(inside(there.data_type(), wanted.data_type(), same)))
}

/// The rows in `schema`'s columns, by name; a column they lack, or a member of a struct, is NULL.
///
/// # Errors
/// [`TableError::Schema`] if a column cannot be cast to the type that `schema` wants, or one of its values cannot.
pub fn project(rows: &RecordBatch, schema: &SchemaRef, table: &TableName) -> Result<RecordBatch> {
    let failed = |column: &str, why: String| TableError::Schema {
        table: table.to_string(),
        column: column.to_owned(),
        table_type: schema.field_with_name(column).map(|f| type_name(f.data_type())).unwrap_or_default(),
        row_type: why,
    };
    let column = |field: &FieldRef| -> Result<ArrayRef, TableError> {
        match rows.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            Some(column) => shaped(column, field.data_type()).map_err(|e| failed(field.name(), e.to_string())),
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let batch = RecordBatch::try_new(Arc::clone(schema), columns);
    Ok(batch.map_err(|e| failed("", e.to_string()))?)
}

/// The values as the type `to`, members of structs by name.
fn shaped(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    Ok(match (column.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let rows = column.as_struct();
            let members = fields.iter().map(|field| match rows.column_by_name(field.name()) {
                None => Ok(new_null_array(field.data_type(), rows.len())),
                Some(member) => shaped(member, field.data_type()),
            });
            let members = members.collect::<Result<_, _>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), members, rows.nulls().cloned(), rows.len())?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let rows = column.as_list::<i32>();
            let items = shaped(rows.values(), item.data_type())?;
            Arc::new(ListArray::try_new(Arc::clone(item), rows.offsets().clone(), items, rows.nulls().cloned())?)
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => {
            let rows = column.as_map();
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(ArrowError::SchemaError("a map's entries are no struct".to_owned()));
            };
            let columns = rows.entries().columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| shaped(column, field.data_type())).collect::<Result<_, _>>()?;
            let items = StructArray::try_new(fields.clone(), columns, None)?;
            let (offsets, nulls) = (rows.offsets().clone(), rows.nulls().cloned());
            Arc::new(MapArray::try_new(Arc::clone(entries), offsets, items, nulls, *sorted)?)
        }
        // A value that the type cannot hold is an error, never a NULL.
        _ => arrow::compute::cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() })?,
    })
}

#[cfg(test)]
mod tests;
