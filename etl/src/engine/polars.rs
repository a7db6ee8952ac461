//! Polars as a second engine: the same SQL over the same snapshots by other code, to check one against the other.
//!
//! It reads local lakes only, and holds its result in memory: it is for checking, not for serving.
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use polars::prelude::{LazyFrame, ParquetWriter, PlRefPath, ScanArgsParquet};
use polars::sql::SQLContext;

use super::error::EngineError;
use super::session::{Rows, parse};
use crate::error::Result;
use crate::table::{Lake, TableName};

/// Runs one SELECT with Polars.
///
/// # Errors
/// SQL that Polars does not know, or a lake that is not local.
pub async fn query(lake: &Lake, sql: &str) -> Result<Rows> {
    let failed = |why: String| EngineError::Plan { why, fix: Some("run it with the default engine".to_owned()) };
    let statement = parse(sql).map_err(|e| failed(e.strip_backtrace()))?;
    let state = SessionContext::new().state();
    let names = state.resolve_table_references(&statement).map_err(|e| failed(e.strip_backtrace()))?;
    let published = lake.publication().await?;
    let mut tables = Vec::new();
    let mut sql = sql.to_owned();
    for reference in names {
        let name = TableName::new(reference.schema().unwrap_or("gold"), reference.table());
        let shown = lake.shown(&published, &name).await?;
        let Some(table) = shown else { return Err(lake.missing(&name).await?.into()) };
        let root = table
            .delta()
            .table_url()
            .to_file_path()
            .map_err(|()| failed("Polars reads local lakes only".to_owned()))?;
        let files: Vec<_> = table.files()?.iter().map(|file| root.join(&file.path)).collect();
        // Polars takes one-part names.
        let flat = format!("{}__{}", name.schema, name.table);
        sql = sql.replace(&name.to_string(), &flat);
        tables.push((flat, files));
    }
    let rows = tokio::task::spawn_blocking(move || run(&sql, tables)).await;
    let bytes = rows.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
    let parquet = |e: parquet::errors::ParquetError| failed(e.to_string());
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).map_err(parquet)?;
    let schema = Arc::clone(reader.schema());
    let batches = reader.build().map_err(parquet)?.collect::<std::result::Result<Vec<_>, _>>();
    Ok(Rows::of_batches(schema, batches.map_err(|e| failed(e.to_string()))?))
}

/// The result as a Parquet file in memory, which is the one form that both sides know.
fn run(sql: &str, tables: Vec<(String, Vec<std::path::PathBuf>)>) -> Result<Vec<u8>, String> {
    let text = |e: polars::error::PolarsError| e.to_string();
    let mut context = SQLContext::new();
    for (name, files) in tables {
        let paths: Vec<PlRefPath> = files.iter().map(|file| PlRefPath::new(file.to_string_lossy())).collect();
        let frame = LazyFrame::scan_parquet_files(paths.into(), ScanArgsParquet::default()).map_err(text)?;
        context.register(&name, frame);
    }
    let mut rows = context.execute(sql).map_err(text)?.collect().map_err(text)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut rows).map_err(text)?;
    Ok(bytes)
}
