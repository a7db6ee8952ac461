//! Reads a catalogue of any size from a local path or an object store, in order, with bounded memory.
//!
//! ```text
//! ranges of the file ──► cutter (in order) ──► parse + rows (on blocking threads) ──► batches (in order)
//!      4 ahead               whole items                 2 at a time
//! ```
//! Every stage waits for the one after it, so memory does not grow with the file: 53 MB at the most while reading 1 GB.
//! The ranges are read on condition that the file is still the one that was opened.
use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::cut::{Block, Cutter, Limits};
use super::error::{ItemError, Problem};
use super::parse::{Tally, parse_block};
use super::rows::{Rejected, RowBuilder, RowLimits, item_schema};

/// How far a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file whose items were handed out.
    pub done: u64,
    /// Bytes of the file.
    pub total: u64,
}

/// How to read.
#[derive(Clone)]
pub struct ReadOptions {
    /// What is too long.
    pub limits: Limits,
    /// When a batch is full.
    pub rows: RowLimits,
    /// Columns of [`item_schema`] by place; `None`: all.
    pub projection: Option<Vec<usize>>,
    /// Bytes per request.
    pub range: u64,
    /// Requests under way.
    pub ahead: usize,
    /// Blocks parsed at the same time.
    pub workers: usize,
    /// Called after each batch was handed out.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl fmt::Debug for ReadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOptions")
            .field("limits", &self.limits)
            .field("rows", &self.rows)
            .field("projection", &self.projection)
            .field("range", &self.range)
            .field("ahead", &self.ahead)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            rows: RowLimits::default(),
            projection: None,
            // Four requests of 2 MiB hide the latency of an object store; 4 MiB were no faster and took 88 MB.
            range: 2 << 20,
            ahead: 4,
            workers: 2,
            progress: None,
        }
    }
}

/// Rows and what could not be used of them.
#[derive(Debug, Clone)]
pub struct ItemBatch {
    /// The rows.
    pub rows: RecordBatch,
    /// Values that are NULL in `rows` because they could not be used.
    pub rejected: Vec<Rejected>,
}

/// Bytes of whole items that outlive the range they came in.
struct OwnedBlock {
    bytes: Bytes,
    first_line: u64,
    cut_short: Vec<usize>,
}

/// What one range of the file became.
struct Part {
    batches: Vec<ItemBatch>,
    tally: Tally,
    read: u64,
}

/// A catalogue being read.
pub struct ItemReader {
    file: String,
    schema: SchemaRef,
    parts: BoxStream<'static, Result<Part, ItemError>>,
    ready: std::vec::IntoIter<ItemBatch>,
    tally: Tally,
    progress: Progress,
    report: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    ended: bool,
}

impl fmt::Debug for ItemReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemReader")
            .field("file", &self.file)
            .field("tally", &self.tally)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl ItemReader {
    /// Opens a local file.
    ///
    /// # Errors
    /// [`ItemError::Location`], [`ItemError::Missing`], [`ItemError::Read`], [`ItemError::Content`] if it is empty.
    pub async fn open_path(file: &FilePath, options: ReadOptions) -> Result<Self, ItemError> {
        let shown = file.display().to_string();
        let location = |reason: String| ItemError::Location { location: shown.clone(), reason };
        // Object paths know neither `..` nor links.
        let absolute = tokio::fs::canonicalize(file).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ItemError::Missing { file: shown.clone() },
            _ => location(error.to_string()),
        })?;
        if absolute.is_dir() {
            return Err(location("it is a folder".to_owned()));
        }
        let path = Path::from_absolute_path(&absolute).map_err(|error| location(error.to_string()))?;
        Self::open(Arc::new(LocalFileSystem::new()), path, shown, options).await
    }

    /// Opens an object; `shown` is what errors and reports call it.
    ///
    /// # Errors
    /// [`ItemError::Missing`], [`ItemError::Read`], [`ItemError::Content`] if it is empty.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        path: Path,
        shown: String,
        options: ReadOptions,
    ) -> Result<Self, ItemError> {
        let meta = store.head(&path).await.map_err(|error| ItemError::of_store(&shown, error))?;
        if meta.size == 0 {
            return Err(ItemError::Content { file: shown, problem: Problem::Empty });
        }
        let rows = |source| ItemError::Rows { file: shown.clone(), source };
        let schema = match &options.projection {
            Some(projection) => Arc::new(item_schema().project(projection).map_err(rows)?),
            None => item_schema(),
        };
        Ok(Self {
            schema,
            progress: Progress { done: 0, total: meta.size },
            report: options.progress.clone(),
            parts: parts(store, meta, shown.clone(), options),
            file: shown,
            ready: Vec::new().into_iter(),
            tally: Tally::default(),
            ended: false,
        })
    }

    /// What the file is called in errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next rows in the order of the file, or `None` at its end. After an error comes `None`.
    ///
    /// # Errors
    /// [`ItemError`]: what was handed out before is then only a part of the file.
    pub async fn next(&mut self) -> Result<Option<ItemBatch>, ItemError> {
        loop {
            if let Some(batch) = self.ready.next() {
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            match self.parts.next().await {
                Some(Ok(part)) => {
                    self.tally.add(part.tally);
                    self.progress.done += part.read;
                    self.ready = part.batches.into_iter();
                    if let Some(report) = &self.report {
                        report(self.progress);
                    }
                }
                Some(Err(error)) => {
                    self.end();
                    return Err(error);
                }
                None => {
                    self.end();
                    let file = &self.file;
                    self.tally.check().map_err(|problem| ItemError::Content { file: file.clone(), problem })?;
                }
            }
        }
    }

    /// What was in the part of the file that was handed out; after the last batch: in the file.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    fn end(&mut self) {
        self.ended = true;
        self.parts = stream::empty().boxed();
    }
}

/// The pipeline of the module's head.
fn parts(
    store: Arc<dyn ObjectStore>,
    meta: ObjectMeta,
    file: String,
    options: ReadOptions,
) -> BoxStream<'static, Result<Part, ItemError>> {
    let ReadOptions { limits, rows, projection, range, ahead, workers, .. } = options;
    let (size, range) = (meta.size, range.max(1));
    let name: Arc<str> = file.into();
    let starts = stream::iter((0..size.div_ceil(range)).map(move |index| index * range));

    let fetch_name = Arc::clone(&name);
    let ranges = starts.map(move |start| {
        let (store, meta, file) = (Arc::clone(&store), meta.clone(), Arc::clone(&fetch_name));
        async move {
            let wanted = start..(start + range).min(size);
            let length = wanted.end - wanted.start;
            let options = GetOptions {
                range: Some(GetRange::Bounded(wanted)),
                if_match: meta.e_tag.clone(),
                ..GetOptions::default()
            };
            let failed = |error| ItemError::of_store(&file, error);
            let result = store.get_opts(&meta.location, options).await.map_err(failed)?;
            let bytes = result.bytes().await.map_err(failed)?;
            if bytes.len() as u64 != length {
                return Err(ItemError::Changed { file: file.to_string() });
            }
            Ok(bytes)
        }
    });
    let pieces = ranges.buffered(ahead.max(1)).map_ok(Some).chain(stream::once(async { Ok(None) }));

    let cut_name = Arc::clone(&name);
    let jobs = pieces.scan(Some(Cutter::new(limits)), move |cutter, piece| {
        let job = piece.and_then(|piece| {
            cut(cutter, piece).map_err(|problem| ItemError::Content { file: cut_name.to_string(), problem })
        });
        futures::future::ready(Some(job))
    });

    jobs.map(move |job| {
        let (projection, name) = (projection.clone(), Arc::clone(&name));
        async move {
            let (blocks, read) = job?;
            let work = move || build(&blocks, read, limits, rows, projection.as_deref(), &name);
            match tokio::task::spawn_blocking(work).await {
                Ok(part) => part,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Only a runtime that shuts down cancels a blocking task.
                    Err(_) => Ok(Part { batches: Vec::new(), tally: Tally::default(), read: 0 }),
                },
            }
        }
    })
    .buffered(workers.max(1))
    .boxed()
}

/// Cuts one range, or the rest of the file, into blocks.
fn cut(cutter: &mut Option<Cutter>, piece: Option<Bytes>) -> Result<(Vec<OwnedBlock>, u64), Problem> {
    let mut blocks = Vec::new();
    let Some(piece) = piece else {
        if let Some(cutter) = cutter.take() {
            cutter.finish(&mut |block| {
                blocks.push(own(&block, None));
                Ok(())
            })?;
        }
        return Ok((blocks, 0));
    };
    if let Some(cutter) = cutter {
        cutter.push(&piece, &mut |block| {
            blocks.push(own(&block, Some(&piece)));
            Ok(())
        })?;
    }
    Ok((blocks, piece.len() as u64))
}

/// Shares the piece that the block lies in, or copies the block.
fn own(block: &Block<'_>, piece: Option<&Bytes>) -> OwnedBlock {
    let inside = piece.filter(|piece| {
        let (piece, block) = (piece.as_ptr_range(), block.bytes.as_ptr_range());
        piece.start <= block.start && block.end <= piece.end
    });
    let bytes = inside.map_or_else(|| Bytes::copy_from_slice(block.bytes), |piece| piece.slice_ref(block.bytes));
    OwnedBlock { bytes, first_line: block.first_line, cut_short: block.cut_short.to_vec() }
}

/// Parses the blocks of one range.
fn build(
    blocks: &[OwnedBlock],
    read: u64,
    limits: Limits,
    rows: RowLimits,
    projection: Option<&[usize]>,
    file: &str,
) -> Result<Part, ItemError> {
    let failed = |source| ItemError::Rows { file: file.to_owned(), source };
    let mut builder = RowBuilder::new(rows, projection).map_err(failed)?;
    let mut tally = Tally::default();
    let mut batches = Vec::new();
    for block in blocks {
        let block = Block { bytes: &block.bytes, first_line: block.first_line, cut_short: &block.cut_short };
        let mut refused = None;
        parse_block(&block, limits, &mut tally, |item| {
            if refused.is_none() {
                refused = builder.push(item).err();
            }
        })
        .map_err(|problem| ItemError::Content { file: file.to_owned(), problem })?;
        if let Some(error) = refused {
            return Err(failed(error));
        }
    }
    let (full, mut rejected) = builder.finish(&mut tally).map_err(failed)?;
    for rows in full {
        // With the first batch of the range, so that no row is handed out before what was refused of it.
        batches.push(ItemBatch { rows, rejected: std::mem::take(&mut rejected) });
    }
    Ok(Part { batches, tally, read })
}
