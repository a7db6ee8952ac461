//! What changed between two versions of a table, as files whose rows came and files whose rows went.
//!
//! The rows of version `n` are those of version `n - 1`, less the rows of the files that commit `n` removes, and those of
//! the files it adds; as multisets, and whatever the commit is called. So the rows that came between two versions are
//! the rows of all files added, less those of all files removed, and a file that came and went is in neither. Two shortcuts:
//! a commit none of whose entries changes data (`dataChange = false`: OPTIMIZE) is left out, and a commit that says row by row
//! what it changed (`_change_data`) is read by that.
use std::collections::{BTreeSet, HashSet};

use deltalake::kernel::Action;
use deltalake::logstore::get_actions;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt as _};

use super::error::TableError;
use super::snapshot::Table;
use crate::error::Result;

/// More commits than this are not read one by one.
const LONG: u64 = 20_000;

/// The files behind a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Change {
    /// The newest version that holds the same rows as the one asked about.
    pub(crate) since: u64,
    /// Files all of whose rows came.
    pub(crate) came: Vec<String>,
    /// Files all of whose rows went.
    pub(crate) went: Vec<String>,
    /// Files that say by `_change_type` which rows came and went.
    pub(crate) images: Vec<String>,
    /// Their bytes, as far as the log says.
    pub(crate) bytes: u64,
}

impl Change {
    /// Whether no row came or went.
    pub(crate) fn is_empty(&self) -> bool {
        self.came.is_empty() && self.went.is_empty() && self.images.is_empty()
    }

    /// Whether rows only came.
    pub(crate) fn adds_only(&self) -> bool {
        self.went.is_empty() && self.images.is_empty()
    }

    pub(crate) fn files(&self) -> usize {
        self.came.len() + self.went.len() + self.images.len()
    }
}

/// A change, or why it cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It is known.
    Known(Change),
    /// It is not, for this reason.
    Unknown(String),
}

impl Table {
    /// What changed behind version `after`, up to this handle's version.
    ///
    /// # Errors
    /// [`TableError::Delta`] if the log cannot be read; [`TableError::Storage`] if the storage cannot be asked for a file.
    pub(crate) async fn change(&self, after: u64) -> Result<Changed> {
        let unknown = |why: &str| Ok(Changed::Unknown(format!("`{}` {why}", self.name())));
        let metadata = self.metadata()?;
        if !metadata.partition_columns().is_empty() {
            return unknown("is partitioned, and its files do not hold all of its columns");
        }
        if metadata.configuration().get("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
            return unknown("has its columns mapped to other names");
        }
        if after > self.version() {
            return unknown(&format!("has no version {after}: it was made anew"));
        }
        if self.version() - after > LONG {
            return unknown("has too many versions behind the one last read");
        }
        let log = self.log_store();
        let mut change = Change { since: after, ..Change::default() };
        let (mut came, mut went) = (BTreeSet::new(), BTreeSet::new());
        for version in after + 1..=self.version() {
            let entry = log.read_commit_entry(version).await;
            let Some(entry) = entry.map_err(|e| TableError::delta("read the log of", self.name(), e))? else {
                return unknown(&format!("no longer has version {version} in its log"));
            };
            let actions =
                get_actions(version, &entry).map_err(|e| TableError::delta("read the log of", self.name(), e))?;
            let changes_data = actions.iter().any(|action| match action {
                Action::Add(add) => add.data_change,
                Action::Remove(remove) => remove.data_change,
                Action::Cdc(_) => true,
                _ => false,
            });
            if !changes_data {
                if change.is_empty() && came.is_empty() && went.is_empty() {
                    change.since = version;
                }
                continue;
            }
            let imaged = actions.iter().any(|action| matches!(action, Action::Cdc(_)));
            for action in actions {
                match action {
                    Action::Cdc(file) => {
                        change.bytes += u64::try_from(file.size).unwrap_or(0);
                        change.images.push(file.path);
                    }
                    Action::Add(add) if !imaged => {
                        if add.deletion_vector.is_some() {
                            return unknown("has files with deletion vectors");
                        }
                        change.bytes += u64::try_from(add.size).unwrap_or(0);
                        if !went.remove(&add.path) {
                            came.insert(add.path);
                        }
                    }
                    Action::Remove(remove) if !imaged => {
                        if remove.deletion_vector.is_some() {
                            return unknown("has files with deletion vectors");
                        }
                        change.bytes += remove.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                        if !came.remove(&remove.path) {
                            went.insert(remove.path);
                        }
                    }
                    _ => {}
                }
            }
        }
        change.came = came.into_iter().collect();
        change.went = went.into_iter().collect();
        let files = change.came.iter().chain(&change.went).chain(&change.images);
        if let Some(file) = self.missing(files.map(String::as_str)).await? {
            return unknown(&format!("no longer has the file `{file}`: a vacuum took it"));
        }
        Ok(Changed::Known(change))
    }

    /// The first of `files` that the storage no longer has; those of this snapshot it has.
    pub(crate) async fn missing<'a>(&self, files: impl Iterator<Item = &'a str>) -> Result<Option<String>> {
        let here: HashSet<String> = self.files()?.into_iter().map(|file| file.path).collect();
        let store = self.log_store().object_store(None);
        for file in files.filter(|file| !here.contains(*file)) {
            match store.head(&Path::from(file)).await {
                Ok(_) => {}
                Err(StoreError::NotFound { .. }) => return Ok(Some(file.to_owned())),
                Err(error) => return Err(TableError::storage("read", self.name(), error).into()),
            }
        }
        Ok(None)
    }

    /// Why the rows of `old`, an older version of this table, cannot be read any more; `None` if they can.
    pub(crate) async fn gone(&self, old: &Self) -> Result<Option<String>> {
        let files: Vec<String> = old.files()?.into_iter().map(|file| file.path).collect();
        let missing = self.missing(files.iter().map(String::as_str)).await?;
        Ok(missing.map(|file| {
            format!("`{}` no longer has the rows of version {}: a vacuum took `{file}`", self.name(), old.version())
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::table::{Commit, Guard, Lake, Operation, S3Settings, TableName, write_file};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn rows(from: i64, to: i64) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("n", Arc::new(Int64Array::from_iter_values(from..to)) as _, true)])
            .unwrap()
    }

    /// Commits one new file with those rows in place of `out`, and returns its name.
    async fn put(table: &mut Table, out: &[&str], from: i64, to: i64, data_change: bool) -> String {
        let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, NOW);
        for mut remove in table.removes(|path| !out.contains(&path), NOW).unwrap() {
            remove.data_change = data_change;
            commit.actions.push(Action::Remove(remove));
        }
        let mut add = write_file(table, &rows(from, to), NOW).await.unwrap().unwrap();
        add.data_change = data_change;
        let path = add.path.clone();
        commit.actions.push(Action::Add(add));
        table.commit(commit).await.unwrap();
        path
    }

    async fn known(table: &Table, after: u64) -> Change {
        match table.change(after).await.unwrap() {
            Changed::Known(change) => change,
            Changed::Unknown(why) => panic!("{why}"),
        }
    }

    #[tokio::test]
    async fn moving_rows_is_no_change_and_what_came_and_went_is_in_neither() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let mut table = lake.ensure(&TableName::new("silver", "t"), &rows(0, 0).schema(), &[]).await.unwrap();
        let first = put(&mut table, &[], 0, 10, true).await;
        let second = put(&mut table, &[], 10, 20, true).await;
        let begun = table.version();

        let moved = put(&mut table, &[&first, &second], 0, 20, false).await;
        let nothing = known(&table, begun).await;
        assert!(nothing.is_empty());
        assert_eq!(nothing.since, table.version(), "the moved files hold the same rows");

        let added = put(&mut table, &[], 20, 25, true).await;
        assert_eq!(known(&table, begun).await.came, std::slice::from_ref(&added));
        assert!(known(&table, begun).await.adds_only());
        let longer = put(&mut table, &[&added], 20, 26, true).await;
        let shorter = put(&mut table, &[&moved], 5, 20, true).await;

        let change = known(&table, begun).await;
        let mut came = [longer, shorter];
        came.sort();
        assert_eq!((change.came.as_slice(), change.went.as_slice()), (came.as_slice(), [moved].as_slice()));
        assert_eq!(change.since, begun + 1);
    }

    #[tokio::test]
    async fn files_that_a_vacuum_took_make_a_change_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let mut table = lake.ensure(&TableName::new("silver", "t"), &rows(0, 0).schema(), &[]).await.unwrap();
        let first = put(&mut table, &[], 0, 10, true).await;
        let begun = table.version();
        put(&mut table, &[&first], 0, 9, true).await;
        std::fs::remove_file(folder.path().join("lake/silver/t").join(&first)).unwrap();

        assert!(matches!(table.change(begun).await.unwrap(), Changed::Unknown(_)));
        assert!(matches!(table.change(begun + 9).await.unwrap(), Changed::Unknown(_)));
    }
}
