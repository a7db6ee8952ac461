//! Reads a table at the version of its handle: some files, some rows, some columns, in memory that does not grow.
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, SortExpr, cast};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::ident;
use futures::TryStreamExt as _;

use crate::engine::{Engine, Session};
use crate::error::Result;
use crate::table::Table;

/// The column that says which file a row is in, where it is asked for.
pub(super) const FILE: &str = "__file";

/// What to read; by default all of it, in no order.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Only these files.
    pub(super) files: Option<Vec<String>>,
    /// Only these rows.
    pub(super) filter: Option<Expr>,
    /// Only these columns; empty: all.
    pub(super) columns: Vec<String>,
    /// In this order.
    pub(super) order: Vec<SortExpr>,
    /// With the column [`FILE`] after all others.
    pub(super) file: bool,
}

/// Rows as they come.
pub(super) struct Scan {
    engine: Engine,
    stream: SendableRecordBatchStream,
    // Storage and memory are registered with it.
    _session: Session,
}

impl Scan {
    /// The next rows, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.stream.try_next().await.map_err(|e| self.engine.failed(e))
    }
}

/// Starts reading `table`.
pub(super) async fn scan(engine: &Engine, table: &Table, wanted: Wanted) -> Result<Scan> {
    let session = engine.bare_session();
    let context = session.context();
    let failed = |e| engine.failed(e);
    let names: Vec<String> = if wanted.columns.is_empty() {
        table.schema()?.fields().iter().map(|field| field.name().clone()).collect()
    } else {
        wanted.columns
    };
    let provider = table.scan(&context.state(), wanted.files, wanted.file.then_some(FILE))?;
    let mut frame = context.read_table(provider).map_err(failed)?;
    if let Some(filter) = wanted.filter {
        frame = frame.filter(filter).map_err(failed)?;
    }
    if !wanted.order.is_empty() {
        frame = frame.sort(wanted.order).map_err(failed)?;
    }
    let mut columns: Vec<Expr> = names.iter().map(ident).collect();
    if wanted.file {
        columns.push(cast(ident(FILE), DataType::Utf8).alias(FILE));
    }
    let frame = frame.select(columns).map_err(failed)?;
    let stream = frame.execute_stream().await.map_err(failed)?;
    Ok(Scan { engine: engine.clone(), stream, _session: session })
}

/// A file's path as the log names it, from the URL that a scan shows.
pub(super) fn path_of(url: &str, table: &Table) -> String {
    let root = table.log_store().root_url().to_string();
    url.strip_prefix(&root).unwrap_or(url).to_owned()
}
