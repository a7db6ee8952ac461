//! The lake's files, in a folder or a bucket: listed and read, nothing more.
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

/// Where a lake is.
#[derive(Clone)]
pub(super) enum Files {
    Folder(PathBuf),
    Bucket { store: Arc<dyn ObjectStore>, prefix: String },
}

impl Files {
    /// A bucket below `s3://bucket/prefix`.
    pub(super) fn bucket(url: &str, options: &[(&str, &str)]) -> Self {
        let url: url::Url = url.parse().unwrap();
        let (store, prefix) = object_store::parse_url_opts(&url, options.iter().copied()).unwrap();
        Self::Bucket { store: Arc::from(store), prefix: prefix.to_string() }
    }

    /// The names of the files in a folder; none if there is no such folder.
    pub(super) fn list(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Folder(root) => {
                let Ok(entries) = fs::read_dir(root.join(folder)) else { return Vec::new() };
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
            }
            Self::Bucket { store, prefix } => {
                let folder = Path::from(format!("{prefix}/{folder}"));
                let found = wait(store.list(Some(&folder)).try_collect::<Vec<_>>()).unwrap();
                found.iter().map(|object| object.location.filename().unwrap().to_owned()).collect()
            }
        };
        names.sort();
        names
    }

    /// A file's content; `None` if it is not there.
    pub(super) fn read(&self, file: &str) -> Option<Bytes> {
        match self {
            Self::Folder(root) => fs::read(root.join(file)).ok().map(Bytes::from),
            Self::Bucket { store, prefix } => {
                let path = Path::from(format!("{prefix}/{file}"));
                wait(async { store.get(&path).await.ok()?.bytes().await.ok() })
            }
        }
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
