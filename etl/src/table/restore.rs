//! An older version's rows, columns and progress, put back in one new version; and the end of a table.
use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use deltalake::kernel::Action;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use serde::Serialize;
use serde_json::json;

use super::commit::{Commit, Guard, Operation};
use super::error::TableError;
use super::lake::{Lake, TableName};
use crate::error::Result;

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The version it made.
    pub version: u64,
    /// The version that was put back.
    pub restored: u64,
    /// Files that are in the table again.
    pub added: u64,
    /// Files that are no longer in it.
    pub removed: u64,
}

/// Puts version `to` of the table back as its next version.
///
/// Progress goes back with the rows: what was landed or built after `to` is landed and built again. Progress that did
/// not exist then is 0, which means from the beginning. Fences (`…/epoch`) are raised instead, so that whoever is at
/// work on the table stops.
///
/// # Errors
/// [`TableError::Version`] if that version cannot be read any more, [`TableError::Vacuumed`] if files of it are gone;
/// [`TableError::Conflict`] if somebody commits meanwhile. Nothing was changed then.
pub async fn restore(lake: &Lake, name: &TableName, to: u64, now: DateTime<Utc>) -> Result<Restored> {
    let _computing = lake.compute(name).await;
    let mut table = lake.table(name).await?;
    let newest = table.version();
    let gone = || TableError::Version { table: name.to_string(), version: to, newest };
    if to > newest {
        return Err(gone().into());
    }
    let old = lake.table_at(name, to).await.map_err(|_| gone())?;
    let there: HashSet<String> = table.files()?.into_iter().map(|file| file.path).collect();
    let wanted: HashSet<String> = old.files()?.into_iter().map(|file| file.path).collect();
    let back: Vec<_> = old.adds()?.into_iter().filter(|add| !there.contains(&add.path)).collect();
    let store = table.log_store().object_store(None);
    let mut missing = Vec::new();
    for add in &back {
        match store.head(&Path::from(add.path.as_str())).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => missing.push(add.path.clone()),
            Err(error) => return Err(TableError::storage("restore", name, error).into()),
        }
    }
    if let Some(file) = missing.first() {
        let (table, file, files) = (name.to_string(), file.clone(), missing.len());
        return Err(TableError::Vacuumed { table, version: to, files, file }.into());
    }
    let mut commit = Commit::new(Operation::Restore, Guard::Alone, now);
    commit.txns = progress(&table.progress().await?, &old.progress().await?);
    if old.metadata()? != table.metadata()? {
        commit.actions.push(Action::Metadata(old.metadata()?));
    }
    let out = table.removes(|path| wanted.contains(path), now)?;
    let (removed, added) = (out.len() as u64, back.len() as u64);
    commit.actions.extend(out.into_iter().map(Action::Remove));
    commit.actions.extend(back.into_iter().map(Action::Add));
    commit.info.insert("restored".to_owned(), json!(to));
    commit.metrics = json!({ "numRemovedFiles": removed, "numRestoredFiles": added });
    let version = table.commit(commit).await?.version;
    Ok(Restored { version, restored: to, added, removed })
}

/// Progress as it is after `old` was put back in place of `current`: what is the same is left out.
fn progress(current: &BTreeMap<String, i64>, old: &BTreeMap<String, i64>) -> Vec<(String, i64)> {
    let back = |(app, now): (&String, &i64)| {
        let then = if app.ends_with("/epoch") { now + 1 } else { old.get(app).copied().unwrap_or(0) };
        (then != *now).then(|| (app.clone(), then))
    };
    current.iter().filter_map(back).collect()
}

/// Deletes a table: its log first, so that it is no table any more, then its files. Returns how many files went.
///
/// Whatever filled it has no progress left, and starts over.
///
/// # Errors
/// [`TableError::Missing`] if there is no such table; [`TableError::Storage`] if some of it could not be deleted: the
/// same call goes on.
pub async fn drop_table(lake: &Lake, name: &TableName) -> Result<u64> {
    let failed = |e| TableError::storage("drop", name, e);
    let folder = lake.path(&format!("{}/{}", name.schema, name.table));
    let owner = lake.owner(name);
    let _turn = owner.turn().await;
    let list =
        async |path: &Path| lake.store().list(Some(path)).map_ok(|file| file.location).try_collect::<Vec<_>>().await;
    if list(&folder).await.map_err(failed)?.is_empty() {
        lake.table(name).await?;
    }
    let mut files = 0;
    for part in [folder.clone().join("_delta_log"), folder] {
        let paths = list(&part).await.map_err(failed)?;
        let mut deleted = lake.store().delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) => files += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
    }
    // A local folder is left empty by that; gone it looks as if it had never been.
    if let Ok(local) = lake.root().join(&format!("{}/{}", name.schema, name.table))
        && let Ok(local) = local.to_file_path()
        && let Err(error) = tokio::fs::remove_dir_all(&local).await
    {
        tracing::debug!(%error, folder = %local.display(), "empty folder left behind");
    }
    Ok(files)
}
