//! Checkpoints of a table's log, and the clean-up of what lies before them.
//!
//! A checkpoint holds all that the log says up to a version: files, columns, and progress. What lies before the last one
//! that is older than the log is kept can go; nobody can look back beyond it then.
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use deltalake::checkpoints::{cleanup_expired_logs_for, create_checkpoint};
use futures::TryStreamExt as _;

use super::error::TableError;
use super::lake::Lake;
use super::maintain::LEAST_LOG_RETENTION;
use super::snapshot::Table;
use crate::error::Result;

/// Writes a checkpoint of the version that `table` shows.
///
/// # Errors
/// [`TableError::Delta`] if the storage fails; the table is as good as before then.
pub async fn checkpoint(table: &Table) -> Result<()> {
    let written = create_checkpoint(table.delta(), None).await;
    Ok(written.map_err(|e| TableError::delta("write a checkpoint of", table.name(), e))?)
}

/// The version of the newest checkpoint in the log, at most `table`'s own.
pub(super) async fn newest_checkpoint(table: &Table) -> Result<Option<u64>> {
    let log = table.log_store();
    let failed = |e| TableError::storage("list the log of", table.name(), e);
    let mut newest = None;
    let mut files = log.object_store(None).list(Some(log.log_path()));
    while let Some(file) = files.try_next().await.map_err(failed)? {
        let name = file.location.filename().unwrap_or_default();
        if let Some((version, rest)) = name.split_once('.')
            && rest.starts_with("checkpoint.")
            && let Ok(version) = version.parse::<u64>()
            && version <= table.version()
        {
            newest = newest.max(Some(version));
        }
    }
    Ok(newest)
}

/// Deletes entries of the log that are older than it is kept, as far as a checkpoint allows, and returns how many.
///
/// `retention`: the table's own `delta.logRetentionDuration` goes before it, and never less than
/// [`LEAST_LOG_RETENTION`]. The version that readers are shown stays readable. A table with
/// `delta.enableExpiredLogCleanup = false` is left alone.
///
/// # Errors
/// [`TableError::Delta`] if the storage fails.
pub async fn clean_log(lake: &Lake, table: &Table, retention: Duration, now: DateTime<Utc>) -> Result<usize> {
    let failed = |e| TableError::delta("clean the log of", table.name(), e);
    let state = table.delta().snapshot().map_err(failed)?;
    let properties = state.table_config();
    if properties.enable_expired_log_cleanup == Some(false) {
        return Ok(0);
    }
    let retention = properties.log_retention_duration.unwrap_or(retention).max(LEAST_LOG_RETENTION);
    let cutoff = now - TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
    let store = table.log_store();
    let upto = lake.shown_version(table).await?.unwrap_or(table.version());
    let cleaned = cleanup_expired_logs_for(upto, store.as_ref(), cutoff.timestamp_millis(), None).await;
    Ok(cleaned.map_err(failed)?)
}
