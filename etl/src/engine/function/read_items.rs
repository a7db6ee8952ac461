//! `read_items('place')`: the items of a catalogue as rows, streamed.
//!
//! The place is a path (a relative one starts at the project's folder) or a URL of a store that the session knows.
//! The file is opened when the query runs; only the columns that the query reads are built.
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::TryStreamExt;
use object_store::path::Path;
use tracing::warn;
use url::{Position, Url};

use crate::format::item::{ItemError, ItemReader, ReadOptions, RowLimits, item_schema};

/// The function.
#[derive(Debug)]
pub(super) struct ReadItems {
    base: PathBuf,
}

impl ReadItems {
    /// Relative paths start at `base`.
    pub(super) fn new(base: PathBuf) -> Self {
        Self { base }
    }
}

impl TableFunctionImpl for ReadItems {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(ScalarValue::Utf8(Some(place)) | ScalarValue::Utf8View(Some(place)), _)] = args.exprs()
        else {
            return plan_err!("read_items takes one text: the path or URL of a catalogue");
        };
        Ok(Arc::new(Catalogue { place: place_of(place, &self.base)? }))
    }
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Object(Url),
}

/// Reads `text` as a URL if it has a scheme, else as a path.
fn place_of(text: &str, base: &FilePath) -> Result<Place> {
    if !text.contains("://") {
        return Ok(Place::File(base.join(text)));
    }
    let wrong = |reason: String| outside(ItemError::Location { location: text.to_owned(), reason });
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if url.scheme() != "file" {
        return Ok(Place::Object(url));
    }
    url.to_file_path().map(Place::File).map_err(|()| wrong("it names no local file".to_owned()))
}

/// Our error inside the engine's, with its code and advice.
fn outside(error: ItemError) -> DataFusionError {
    DataFusionError::External(Box::new(crate::Error::from(error)))
}

#[derive(Debug)]
struct Catalogue {
    place: Place,
}

#[async_trait]
impl TableProvider for Catalogue {
    fn schema(&self) -> SchemaRef {
        item_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(projection) => Arc::new(item_schema().project(projection)?),
            None => item_schema(),
        };
        let lane = Lane {
            place: self.place.clone(),
            projection: projection.cloned(),
            rows: state.config().batch_size(),
            schema: Arc::clone(&schema),
        };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(lane)], None, None, false, limit)?))
    }
}

/// The one partition: the file in its order.
#[derive(Debug)]
struct Lane {
    place: Place,
    projection: Option<Vec<usize>>,
    rows: usize,
    schema: SchemaRef,
}

impl PartitionStream for Lane {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let place = self.place.clone();
        let options = ReadOptions {
            projection: self.projection.clone(),
            rows: RowLimits { rows: self.rows, ..RowLimits::default() },
            ..ReadOptions::default()
        };
        let opened = async move {
            let reader = open(&place, &ctx, options).await?;
            Ok::<_, DataFusionError>(futures::stream::try_unfold(reader, |mut reader| async move {
                let batch = reader.next().await.map_err(outside)?;
                if batch.is_none() {
                    report(&reader);
                }
                Ok(batch.map(|batch| (batch.rows, reader)))
            }))
        };
        let batches = futures::stream::once(opened).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

async fn open(place: &Place, ctx: &TaskContext, options: ReadOptions) -> Result<ItemReader> {
    match place {
        Place::File(path) => ItemReader::open_path(path, options).await.map_err(outside),
        Place::Object(url) => {
            let wrong = |reason: String| outside(ItemError::Location { location: url.to_string(), reason });
            let store = ObjectStoreUrl::parse(&url[..Position::BeforePath])
                .and_then(|store| ctx.runtime_env().object_store(store))
                .map_err(|error| wrong(error.strip_backtrace()))?;
            let path = Path::from_url_path(url.path()).map_err(|error| wrong(error.to_string()))?;
            ItemReader::open(store, path, url.to_string(), options).await.map_err(outside)
        }
    }
}

/// A query has no place for dead letters: what could not be used is at least said.
fn report(reader: &ItemReader) {
    let tally = reader.tally();
    if tally.junk_lines > 0 {
        let first = tally.junk.first();
        warn!(
            file = reader.file(),
            lines = tally.junk_lines,
            first_line = first.map(|junk| junk.line),
            reason = first.map(|junk| junk.reason.text()),
            "lines could not be used"
        );
    }
    if tally.rejected > 0 {
        warn!(file = reader.file(), values = tally.rejected, "values could not be used and are NULL");
    }
}
