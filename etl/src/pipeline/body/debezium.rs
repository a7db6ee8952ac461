//! What the two ways of writing Debezium's envelopes have in common: the columns of a change.
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::format::debezium::{Meta, meta_fields, without_unavailable};

/// The columns of changes whose rows have these. A column of a row that is called as one of a change is left out: its place is
/// taken.
pub(super) fn columns_of(rows: &Fields) -> SchemaRef {
    Arc::new(Schema::new(row_columns(rows).iter().cloned().chain(meta_fields()).collect::<Vec<_>>()))
}

/// The columns of rows among those of changes.
pub(super) fn row_columns(columns: &Fields) -> Fields {
    let meta = meta_fields();
    columns.iter().filter(|field| meta.iter().all(|meta| meta.name() != field.name())).cloned().collect()
}

/// Changes in `columns`, from their rows and the rest.
pub(super) fn finish(rows: &RecordBatch, meta: &mut Meta, columns: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let kept = row_columns(rows.schema_ref().fields());
    let kept: Vec<usize> =
        kept.iter().filter_map(|field| Some(rows.schema_ref().fields().find(field.name())?.0)).collect();
    let (mut all, unchanged) = without_unavailable(&rows.project(&kept)?)?;
    all.extend(meta.flush());
    all.push(unchanged);
    RecordBatch::try_new(Arc::clone(columns), all)
}
