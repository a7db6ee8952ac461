//! Results that are needed more than once, kept in files beside the spilled ones and deleted with this.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use futures::TryStreamExt as _;
use parquet::arrow::ArrowWriter;

use crate::engine::window::time_of;

/// What is no more than this stays in memory.
const SMALL: usize = 1 << 20;
/// A row group is closed when this much of it is encoded.
const GROUP: usize = 4 << 20;

/// A folder of results.
pub(super) struct Scratch {
    folder: tempfile::TempDir,
    count: AtomicUsize,
}

/// A result that is kept.
#[derive(Clone)]
pub(super) struct Kept {
    /// Its columns are `c0`, `c1`, …, in the order of what it was made from.
    provider: Arc<dyn TableProvider>,
    name: String,
    /// Rows.
    pub(super) rows: u64,
    /// The rows themselves, if they are few.
    pub(super) small: Option<RecordBatch>,
    /// Of each column with timestamps, the first and the last, in its unit.
    spans: Vec<Option<(i64, i64)>>,
    /// Whether each column has NULLs.
    nulls: Vec<bool>,
}

impl Kept {
    /// A plan that reads it.
    pub(super) fn scan(&self) -> Result<LogicalPlan> {
        LogicalPlanBuilder::scan(self.name.as_str(), provider_as_source(Arc::clone(&self.provider)), None)?.build()
    }

    /// It as a table.
    pub(super) fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::clone(&self.provider)
    }

    /// The first and the last timestamp of a column, in its unit; `None` if it has none.
    pub(super) fn span(&self, at: usize) -> Option<(i64, i64)> {
        self.spans.get(at).copied().flatten()
    }

    /// The least and the greatest value of a column, and whether there are NULLs beside; `None` if they are not known.
    pub(super) fn ends(&self, at: usize) -> Option<(ScalarValue, ScalarValue, bool)> {
        let nulls = self.nulls.get(at).copied().unwrap_or(true);
        if let Some((first, last)) = self.span(at) {
            let data_type = self.schema().fields().get(at)?.data_type().clone();
            return Some((time_of(&data_type, first).ok()?, time_of(&data_type, last).ok()?, nulls));
        }
        let (low, high) = super::bounds::ends(self.small.as_ref()?.columns().get(at)?)?;
        Some((low, high, nulls))
    }

    /// Its columns.
    pub(super) fn schema(&self) -> SchemaRef {
        self.provider.schema()
    }
}

/// Writes batches into a kept result as they come.
pub(super) struct Keeping {
    schema: SchemaRef,
    path: PathBuf,
    name: String,
    writer: Option<ArrowWriter<std::fs::File>>,
    held: Vec<RecordBatch>,
    bytes: usize,
    rows: u64,
    spans: Vec<Option<(i64, i64)>>,
    nulls: Vec<bool>,
}

impl Scratch {
    pub(super) fn new(below: &std::path::Path) -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir_in(below)?, count: AtomicUsize::new(0) })
    }

    pub(super) fn begin(&self, schema: &Schema) -> Keeping {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let name = |(at, field): (usize, &Arc<Field>)| Field::new(format!("c{at}"), field.data_type().clone(), true);
        let fields: Vec<Field> = schema.fields().iter().enumerate().map(name).collect();
        Keeping {
            spans: vec![None; fields.len()],
            nulls: vec![false; fields.len()],
            schema: Arc::new(Schema::new(fields)),
            path: self.folder.path().join(format!("{n}.parquet")),
            name: format!("__kept{n}"),
            writer: None,
            held: Vec::new(),
            bytes: 0,
            rows: 0,
        }
    }

    /// Runs `plan` and keeps what it gives.
    pub(super) async fn keep(&self, state: &SessionState, plan: LogicalPlan) -> Result<Kept> {
        let mut keeping = self.begin(plan.schema().as_arrow());
        let mut rows = DataFrame::new(state.clone(), plan).execute_stream().await?;
        while let Some(batch) = rows.try_next().await? {
            keeping.add(&batch)?;
        }
        keeping.done()
    }

    /// Nothing, of `plan`'s columns.
    pub(super) fn nothing(&self, plan: &LogicalPlan) -> Result<Kept> {
        self.begin(plan.schema().as_arrow()).done()
    }
}

impl Keeping {
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())?;
        self.rows += batch.num_rows() as u64;
        for ((column, span), nulls) in batch.columns().iter().zip(&mut self.spans).zip(&mut self.nulls) {
            *nulls |= column.null_count() > 0;
            if let DataType::Timestamp(_, _) = column.data_type() {
                let times = arrow::compute::cast(column, &DataType::Int64)?;
                let times = times.as_primitive::<Int64Type>();
                if let (Some(low), Some(high)) = (arrow::compute::min(times), arrow::compute::max(times)) {
                    let (first, last) = span.unwrap_or((low, high));
                    *span = Some((first.min(low), last.max(high)));
                }
            }
        }
        self.bytes += batch.get_array_memory_size();
        if let Some(writer) = &mut self.writer {
            return write(writer, &batch);
        }
        self.held.push(batch);
        if self.bytes > SMALL {
            let mut writer = ArrowWriter::try_new(std::fs::File::create(&self.path)?, Arc::clone(&self.schema), None)?;
            for batch in self.held.drain(..) {
                write(&mut writer, &batch)?;
            }
            self.writer = Some(writer);
        }
        Ok(())
    }

    pub(super) fn done(self) -> Result<Kept> {
        let Some(writer) = self.writer else {
            let batch = arrow::compute::concat_batches(&self.schema, &self.held)?;
            let provider = MemTable::try_new(self.schema, vec![vec![batch.clone()]])?;
            let small = Some(batch);
            let (spans, nulls) = (self.spans, self.nulls);
            return Ok(Kept { provider: Arc::new(provider), name: self.name, rows: self.rows, small, spans, nulls });
        };
        writer.close()?;
        let url = ListingTableUrl::parse(self.path.to_string_lossy())?;
        let config = ListingTableConfig::new(url)
            .with_listing_options(ListingOptions::new(Arc::new(ParquetFormat::new())))
            .with_schema(self.schema);
        let provider = Arc::new(ListingTable::try_new(config)?);
        Ok(Kept { provider, name: self.name, rows: self.rows, small: None, spans: self.spans, nulls: self.nulls })
    }
}

fn write(writer: &mut ArrowWriter<std::fs::File>, batch: &RecordBatch) -> Result<()> {
    writer.write(batch)?;
    if writer.in_progress_size() > GROUP {
        writer.flush()?;
    }
    Ok(())
}

/// The columns of `plan`, by place, with the names that `like` has.
pub(super) fn named(plan: LogicalPlan, like: &datafusion::common::DFSchema) -> Result<LogicalPlan> {
    let wanted = like.iter();
    let columns = plan.schema().columns();
    let exprs = columns.into_iter().zip(wanted).map(|(column, (relation, field))| {
        let same = column.relation.as_ref() == relation && column.name == *field.name();
        let column = Expr::Column(column);
        if same { column } else { column.alias_qualified(relation.cloned(), field.name()) }
    });
    let exprs: Vec<Expr> = exprs.collect();
    if exprs.len() != like.fields().len() {
        return Err(DataFusionError::Internal("a plan has another number of columns than it stands for".to_owned()));
    }
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
