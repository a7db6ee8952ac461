//! The bytes of one file, as a reader for a thread that may block.
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use tokio::sync::mpsc;

/// Bytes per request: four of them on their way hide the latency of an object store.
const RANGE: u64 = 2 << 20;
const AHEAD: usize = 4;

/// A file that can be read from its start more than once. Every request is made on condition that the file is still
/// the one that was listed.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) meta: ObjectMeta,
    /// Bytes handed out, for the progress bar.
    pub(super) read: Arc<AtomicU64>,
    /// The bytes of a small file, once they were fetched.
    pub(super) kept: Arc<OnceLock<Bytes>>,
}

/// The storage's failure on its way through readers that only know `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct FetchError(#[source] pub(super) object_store::Error);

impl Source {
    /// A file of less bytes is fetched once and kept while it is read.
    pub(super) const SMALL: u64 = 4 << 20;

    /// The bytes of a small file.
    pub(super) fn small(&self) -> io::Result<Option<Bytes>> {
        if self.meta.size >= Self::SMALL {
            return Ok(None);
        }
        if let Some(bytes) = self.kept.get() {
            return Ok(Some(bytes.clone()));
        }
        let mut bytes = Vec::new();
        self.fetch().read_to_end(&mut bytes)?;
        Ok(Some(self.kept.get_or_init(|| bytes.into()).clone()))
    }

    /// Opens it at its start. To be called on a thread of the runtime that may block.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match self.small()? {
            Some(bytes) => Box::new(bytes.reader()),
            None => Box::new(self.fetch()),
        })
    }

    fn fetch(&self) -> Fetch {
        let (sender, receiver) = mpsc::channel(1);
        let Self { store, meta, read, .. } = self.clone();
        let size = meta.size;
        read.store(0, Ordering::Relaxed);
        tokio::runtime::Handle::current().spawn(async move {
            let ranges = stream::iter((0..size.div_ceil(RANGE)).map(|index| index * RANGE)).map(|start| {
                let (store, meta) = (Arc::clone(&store), meta.clone());
                async move {
                    let wanted = start..(start + RANGE).min(size);
                    let options = GetOptions {
                        range: Some(GetRange::Bounded(wanted.clone())),
                        if_match: meta.e_tag.clone(),
                        ..GetOptions::default()
                    };
                    let bytes = store.get_opts(&meta.location, options).await?.bytes().await?;
                    if bytes.len() as u64 == wanted.end - wanted.start {
                        Ok(bytes)
                    } else {
                        let path = meta.location.to_string();
                        Err(object_store::Error::Precondition { path, source: "it is shorter than it was".into() })
                    }
                }
            });
            let mut ranges = ranges.buffered(AHEAD);
            loop {
                let piece = match ranges.try_next().await {
                    Ok(Some(bytes)) => Ok(bytes),
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let ended = piece.is_err();
                // Nobody listens any more: the reader was dropped.
                if sender.send(piece).await.is_err() || ended {
                    break;
                }
            }
        });
        Fetch { receiver, piece: Bytes::new(), read, left: size }
    }
}

/// See [`Source::open`].
pub(super) struct Fetch {
    receiver: mpsc::Receiver<object_store::Result<Bytes>>,
    piece: Bytes,
    read: Arc<AtomicU64>,
    left: u64,
}

impl Read for Fetch {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && self.left > 0 {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => {
                    self.left = self.left.saturating_sub(piece.len() as u64);
                    self.piece = piece;
                }
                Some(Err(error)) => return Err(io::Error::other(FetchError(error))),
                // The runtime is being shut down: not the end of the file.
                None => return Err(io::Error::other("reading was given up")),
            }
        }
        let count = out.len().min(self.piece.len());
        self.piece.copy_to_slice(out.get_mut(..count).unwrap_or_default());
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
