//! Deletes files that no version anybody may still read names.
//!
//! A file goes only if it is older than the horizon by the storage's own clock, and is neither in the newest version
//! nor was taken out of the table after the horizon. What a commit in flight has written is younger; what a version within
//! the horizon reads is either still there or was taken out within it.
use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::Serialize;

use super::error::TableError;
use super::lake::Lake;
use super::snapshot::Table;
use crate::error::Result;

/// What a vacuum did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Vacuumed {
    /// The files, relative to the table.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// How a vacuum is done.
#[derive(Debug, Clone, Copy)]
pub struct VacuumOptions {
    /// How long files are kept after no version names them.
    pub retention: Duration,
    /// The least that may be asked for.
    pub least: Duration,
    /// Whether to name the files and delete none.
    pub dry_run: bool,
}

/// Deletes what no version of `table` within the retention reads: data files and change data.
///
/// # Errors
/// [`TableError::Horizon`] if less than the least retention is asked for; a failure of the storage.
pub async fn vacuum(lake: &Lake, table: &Table, options: VacuumOptions, now: DateTime<Utc>) -> Result<Vacuumed> {
    let name = table.name();
    if options.retention < options.least {
        let (wanted, least) = (options.retention, options.least);
        return Err(TableError::Horizon { table: name.to_string(), wanted, least }.into());
    }
    table.writable(false)?;
    let horizon = now - TimeDelta::from_std(options.retention).unwrap_or(TimeDelta::MAX);
    let named = named(lake, table, options.retention, horizon).await?;
    let store = table.log_store().object_store(None);
    let failed = |e| TableError::storage("vacuum", name, e);
    let mut done = Vacuumed::default();
    let mut files = store.list(None);
    while let Some(file) = files.try_next().await.map_err(failed)? {
        if ours(&file) && file.last_modified < horizon && !named.contains(file.location.as_ref()) {
            done.bytes += file.size;
            done.files.push(file.location.to_string());
        }
    }
    drop(files);
    done.files.sort_unstable();
    if !options.dry_run {
        let paths: Vec<_> = done.files.iter().map(|path| Ok(Path::from(path.as_str()))).collect();
        let mut deleted = store.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                // Somebody else vacuums too.
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
    }
    Ok(done)
}

/// Only Parquet files, outside of folders that begin with `_` or `.`, but for change data.
fn ours(file: &ObjectMeta) -> bool {
    let parts: Vec<_> = file.location.parts().collect();
    let hidden = |part: &str| (part.starts_with('_') && part != "_change_data") || part.starts_with('.');
    file.location.extension() == Some("parquet") && !parts.iter().any(|part| hidden(part.as_ref()))
}

/// The files that versions since `horizon` read.
async fn named(lake: &Lake, table: &Table, retention: Duration, horizon: DateTime<Utc>) -> Result<HashSet<String>> {
    let failed = |e| TableError::delta("read the removed files of", table.name(), e);
    let mut named: HashSet<String> = table.files()?.into_iter().map(|file| file.path).collect();
    // Readers may be shown a version that was published together with others, however old it is.
    if let Some(version) = lake.shown_version(table).await? {
        named.extend(lake.table_at(table.name(), version).await?.files()?.into_iter().map(|file| file.path));
    }
    let state = table.delta().snapshot().map_err(failed)?;
    let store = table.log_store();
    let mut removed = state.all_tombstones(store.as_ref());
    while let Some(file) = removed.try_next().await.map_err(failed)? {
        if file.deletion_timestamp().is_none_or(|at| at >= horizon.timestamp_millis()) {
            named.insert(file.path().into_owned());
        }
    }
    drop(removed);
    // A checkpoint forgets removed files after a while. What is kept for longer than that is found the other way:
    // it is in the version of the horizon.
    let forgets = state.table_config().deleted_file_retention_duration.unwrap_or(Duration::from_hours(7 * 24));
    if retention > forgets {
        let version = table.version_as_of(horizon).await?;
        if let Ok(version) = version
            && let Ok(old) = lake.table_at(table.name(), version).await
        {
            named.extend(old.files()?.into_iter().map(|file| file.path));
        } else {
            named.extend(oldest(lake, table).await?);
        }
    }
    Ok(named)
}

/// The files of the oldest version that can still be read.
async fn oldest(lake: &Lake, table: &Table) -> Result<Vec<String>> {
    let history = table.history(usize::MAX >> 1).await?;
    for entry in history.iter().rev() {
        if let Ok(old) = lake.table_at(table.name(), entry.version).await {
            return Ok(old.files()?.into_iter().map(|file| file.path).collect());
        }
    }
    Ok(Vec::new())
}
