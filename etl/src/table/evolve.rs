//! New columns for a table, and rows brought to a table's columns.
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{Action, MetadataExt as _, StructType};

use super::commit::{Commit, Guard, Operation};
use super::error::TableError;
use super::lake::TableName;
use super::snapshot::Table;
use crate::error::Result;
use crate::failpoint::hit;

/// Adds the columns of `wanted` that `table` lacks, in a commit of their own. Existing rows have NULL there.
///
/// # Errors
/// [`TableError::Schema`] if a column is there with another type: that is never changed silently.
pub async fn evolve(table: &mut Table, wanted: &SchemaRef, now: DateTime<Utc>) -> Result<bool> {
    let current = table.schema()?;
    let mut fields: Vec<FieldRef> = current.fields().iter().cloned().collect();
    for field in wanted.fields() {
        match current.field_with_name(field.name()) {
            Ok(there) => fits(there.data_type(), field, table.name())?,
            Err(_) => fields.push(Arc::new(field.as_ref().clone().with_nullable(true))),
        }
    }
    if fields.len() == current.fields().len() {
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

fn fits(there: &arrow::datatypes::DataType, field: &FieldRef, table: &TableName) -> Result<(), TableError> {
    // Names and nullability inside nested types may differ; the types may not.
    if there.equals_datatype(field.data_type()) {
        return Ok(());
    }
    Err(TableError::Schema {
        table: table.to_string(),
        column: field.name().clone(),
        table_type: there.to_string(),
        row_type: field.data_type().to_string(),
    })
}

/// The rows in `schema`'s columns, by name; a column they lack is NULL.
///
/// # Errors
/// [`TableError::Schema`] if a column cannot be cast to the type that `schema` wants.
pub fn project(rows: &RecordBatch, schema: &SchemaRef, table: &TableName) -> Result<RecordBatch> {
    let failed = |column: &str, why: String| TableError::Schema {
        table: table.to_string(),
        column: column.to_owned(),
        table_type: schema.field_with_name(column).map(|f| f.data_type().to_string()).unwrap_or_default(),
        row_type: why,
    };
    let column = |field: &FieldRef| -> Result<ArrayRef, TableError> {
        match rows.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => {
                arrow::compute::cast(column, field.data_type()).map_err(|e| failed(field.name(), e.to_string()))
            }
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let batch = RecordBatch::try_new(Arc::clone(schema), columns);
    Ok(batch.map_err(|e| failed("", e.to_string()))?)
}
