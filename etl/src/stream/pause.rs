//! Whether a stream is paused, as every process that shares the lake sees it.
//!
//! Layout of `_streams/NAME.json` in the lake: `{"version": 1, "paused_since": "2026-01-05T10:00:00Z"}`. A stream that is
//! not paused has no such file.
use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use super::error::StreamError;
use crate::error::Result;
use crate::table::{Lake, TableError};

/// The layout that this program writes.
const VERSION: u32 = 1;

/// That a stream is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    version: u32,
    /// Since when.
    #[serde(rename = "paused_since")]
    pub since: DateTime<Utc>,
}

fn path(lake: &Lake, stream: &str) -> Path {
    // One part of a path, whatever the name holds.
    lake.path("_streams").join(format!("{stream}.json"))
}

/// Whether `stream` is paused.
///
/// # Errors
/// [`TableError::Storage`] if the lake cannot be read; [`StreamError::Note`] if the note in it cannot be understood.
pub async fn paused(lake: &Lake, stream: &str) -> Result<Option<Pause>> {
    let path = path(lake, stream);
    let failed = |e| TableError::storage("read whether it is paused:", &stream, e);
    let bytes = match lake.store().get(&path).await {
        Ok(found) => found.bytes().await.map_err(failed)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error).into()),
    };
    let note = |why: String| StreamError::Note { path: path.to_string(), why };
    let pause: Pause = serde_json::from_slice(&bytes).map_err(|e| note(e.to_string()))?;
    if pause.version > VERSION {
        return Err(note(format!("it is of version {}, which a later Tidemill wrote", pause.version)).into());
    }
    Ok(Some(pause))
}

/// Pauses `stream`; whether it was not paused before.
///
/// # Errors
/// [`TableError::Storage`] if the lake cannot be written.
pub async fn pause(lake: &Lake, stream: &str, now: DateTime<Utc>) -> Result<bool> {
    let text = serde_json::json!({ "version": VERSION, "paused_since": now }).to_string();
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match lake.store().put_opts(&path(lake, stream), PutPayload::from(text.into_bytes()), create).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
        Err(error) => Err(TableError::storage("pause", &stream, error).into()),
    }
}

/// Lets `stream` go on; whether it was paused.
///
/// # Errors
/// [`TableError::Storage`] if the lake cannot be written.
pub async fn resume(lake: &Lake, stream: &str) -> Result<bool> {
    let was = paused(lake, stream).await?.is_some();
    match lake.store().delete(&path(lake, stream)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(was),
        Err(error) => Err(TableError::storage("resume", &stream, error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::S3Settings;

    #[tokio::test]
    async fn a_pause_is_in_the_lake_for_all_to_see() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let name = "odd/name ü";

        assert_eq!(paused(&open(), name).await.unwrap(), None);
        assert!(pause(&open(), name, now).await.unwrap());
        assert!(!pause(&open(), name, now + chrono::TimeDelta::hours(1)).await.unwrap(), "it keeps its time");
        assert_eq!(paused(&open(), name).await.unwrap().unwrap().since, now);
        assert_eq!(paused(&open(), "odd").await.unwrap(), None);
        assert!(open().tables().await.unwrap().is_empty(), "a note is no table");
        assert!(resume(&open(), name).await.unwrap());
        assert!(!resume(&open(), name).await.unwrap());
        assert_eq!(paused(&open(), name).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_layout_of_version_1_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let text = r#"{"version": 1, "paused_since": "2026-01-05T10:00:00Z"}"#;
        lake.store().put(&lake.path("_streams/s.json"), PutPayload::from_static(text.as_bytes())).await.unwrap();

        let found = paused(&lake, "s").await.unwrap().unwrap();

        assert_eq!(found.since.to_rfc3339(), "2026-01-05T10:00:00+00:00");
        let newer = text.replace("1,", "2,");
        lake.store().put(&lake.path("_streams/s.json"), PutPayload::from(newer.into_bytes())).await.unwrap();
        assert_eq!(paused(&lake, "s").await.unwrap_err().code(), "L0305");
    }
}
