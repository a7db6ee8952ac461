//! Rows of a query as text or a file: streamed, so that memory does not grow with them.
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use parquet::arrow::ArrowWriter;

use crate::engine::Rows;
use crate::error::{Explain, Result};
use crate::format::json::to_json;
use crate::table::writer_properties;

/// Rows shown as a table at most; more are for machines.
pub const TABLE_ROWS: usize = 10_000;

/// A failure to write rows.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The target cannot be written.
    #[error("write the rows")]
    Io(#[from] std::io::Error),
    /// A column has no form in this format.
    #[error("write the rows in this format")]
    Arrow(#[from] ArrowError),
    /// The Parquet file cannot be written.
    #[error("write the rows as Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A value cannot be written as JSON.
    #[error("write the rows as JSON")]
    Json {
        /// Why not.
        why: String,
    },
}

impl Explain for OutputError {
    fn code(&self) -> &'static str {
        "Q0006"
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::Json { why } => Some(why.clone()),
            _ => None,
        }
    }
}

/// Writes one JSON array of objects on one line; an object a row.
///
/// # Errors
/// [`OutputError`] if the target cannot be written or a value has no form in JSON; the query's own failures.
pub async fn json(mut rows: Rows, out: &mut (dyn Write + Send)) -> Result<u64> {
    let mut written = 0;
    out.write_all(b"[").map_err(OutputError::Io)?;
    while let Some(batch) = rows.next().await? {
        for row in 0..batch.num_rows() {
            if written > 0 {
                out.write_all(b",").map_err(OutputError::Io)?;
            }
            let value = to_json(&batch, row).map_err(|e| OutputError::Json { why: e.to_string() })?;
            serde_json::to_writer(&mut *out, &value).map_err(|e| OutputError::Io(e.into()))?;
            written += 1;
        }
    }
    out.write_all(b"]\n").map_err(OutputError::Io)?;
    Ok(written)
}

/// Writes CSV (RFC 4180) with a header line. Nested values are JSON text; NULL is empty.
///
/// # Errors
/// [`OutputError`] if the target cannot be written or a value has no form in CSV; the query's own failures.
pub async fn csv(mut rows: Rows, out: &mut (dyn Write + Send)) -> Result<u64> {
    let mut written = 0;
    let flat = flat_schema(&rows.schema);
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
    writer.write(&RecordBatch::new_empty(Arc::clone(&flat))).map_err(OutputError::Arrow)?;
    while let Some(batch) = rows.next().await? {
        written += batch.num_rows() as u64;
        writer.write(&flatten(&batch, &flat)?).map_err(OutputError::Arrow)?;
    }
    Ok(written)
}

/// Writes a Parquet file.
///
/// # Errors
/// [`OutputError::Parquet`] if the target cannot be written; the query's own failures.
pub async fn parquet(mut rows: Rows, out: &mut (dyn Write + Send)) -> Result<u64> {
    let mut written = 0;
    let mut writer =
        ArrowWriter::try_new(out, Arc::clone(&rows.schema), Some(writer_properties())).map_err(OutputError::Parquet)?;
    while let Some(batch) = rows.next().await? {
        written += batch.num_rows() as u64;
        writer.write(&batch).map_err(OutputError::Parquet)?;
        if writer.memory_size() > 32 << 20 {
            writer.flush().map_err(OutputError::Parquet)?;
        }
    }
    writer.close().map_err(OutputError::Parquet)?;
    Ok(written)
}

/// Writes a table for people; returns how many rows there are, which may be more than were shown ([`TABLE_ROWS`]).
///
/// # Errors
/// [`OutputError`] if the target cannot be written or a value cannot be shown; the query's own failures.
pub async fn table(mut rows: Rows, out: &mut (dyn Write + Send)) -> Result<u64> {
    let mut total = 0;
    let mut shown = 0;
    let mut batches = vec![RecordBatch::new_empty(Arc::clone(&rows.schema))];
    while let Some(batch) = rows.next().await? {
        total += batch.num_rows() as u64;
        let take = batch.num_rows().min(TABLE_ROWS - shown);
        if take > 0 {
            shown += take;
            batches.push(batch.slice(0, take));
        }
    }
    out.write_all(text_table(&batches)?.as_bytes()).map_err(OutputError::Io)?;
    Ok(total)
}

/// A few rows as a table for people.
///
/// # Errors
/// [`OutputError::Arrow`] if a value cannot be shown.
pub fn text_table(batches: &[RecordBatch]) -> Result<String> {
    let options = FormatOptions::default().with_null("");
    let table = pretty_format_batches_with_options(batches, &options).map_err(OutputError::Arrow)?;
    Ok(format!("{table}\n"))
}

fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    let field = |f: &Arc<Field>| {
        let nested = f.data_type().is_nested();
        let binary = matches!(f.data_type(), DataType::Binary | DataType::FixedSizeBinary(_));
        if nested || binary { Arc::new(Field::new(f.name(), DataType::Utf8, true)) } else { Arc::clone(f) }
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn flatten(batch: &RecordBatch, flat: &SchemaRef) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (place, column) in batch.columns().iter().enumerate() {
        if flat.field(place).data_type() == column.data_type() {
            columns.push(Arc::clone(column));
            continue;
        }
        let one = batch.project(&[place]).map_err(OutputError::Arrow)?;
        let mut texts = Vec::with_capacity(column.len());
        for row in 0..column.len() {
            if column.is_null(row) {
                texts.push(None);
                continue;
            }
            let value = to_json(&one, row).map_err(|e| OutputError::Json { why: e.to_string() })?;
            let inner = value.as_object().and_then(|fields| fields.values().next()).cloned().unwrap_or_default();
            texts.push(Some(inner.as_str().map_or_else(|| inner.to_string(), str::to_owned)));
        }
        columns.push(Arc::new(StringArray::from(texts)));
    }
    Ok(RecordBatch::try_new(Arc::clone(flat), columns).map_err(OutputError::Arrow)?)
}
