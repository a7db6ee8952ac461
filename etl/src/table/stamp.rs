//! Whether a table is at the version that it was last seen at, without reading its log.
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};

use super::lake::{Lake, TableName};

/// A version of a table, by the file that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The version.
    pub version: u64,
    /// Bytes of its log entry.
    size: u64,
    /// When that was written, milliseconds since 1970.
    modified_ms: i64,
}

impl Stamp {
    fn of(version: u64, meta: &ObjectMeta) -> Self {
        Self { version, size: meta.size, modified_ms: meta.last_modified.timestamp_millis() }
    }
}

impl Lake {
    /// The newest version by the files of the log; `None` if there is none, or it cannot be seen.
    pub(crate) async fn stamp(&self, name: &TableName) -> Option<Stamp> {
        let log = self.path(&format!("{}/{}/_delta_log", name.schema, name.table));
        let entries: Vec<ObjectMeta> = self.store().list(Some(&log)).try_collect().await.ok()?;
        let version = |meta: &ObjectMeta| meta.location.filename()?.strip_suffix(".json")?.parse::<u64>().ok();
        let newest = entries.iter().filter_map(|meta| Some((version(meta)?, meta))).max_by_key(|(version, _)| *version);
        newest.map(|(version, meta)| Stamp::of(version, meta))
    }

    /// Whether the version of `stamp` is there as it was, and none after it. A store that does not answer says no.
    pub(crate) async fn stays(&self, name: &TableName, stamp: &Stamp) -> bool {
        let next = self.store().head(&self.entry(name, stamp.version + 1)).await;
        if !matches!(next, Err(object_store::Error::NotFound { .. })) {
            return false;
        }
        let own = self.store().head(&self.entry(name, stamp.version)).await;
        own.is_ok_and(|meta| Stamp::of(stamp.version, &meta) == *stamp)
    }

    fn entry(&self, name: &TableName, version: u64) -> Path {
        self.path(&format!("{}/{}/_delta_log/{version:020}.json", name.schema, name.table))
    }
}
