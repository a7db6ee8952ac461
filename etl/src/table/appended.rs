//! What versions added to a table that rows are only added to.
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use deltalake::kernel::Action;
use deltalake::logstore::get_actions;

use super::error::TableError;
use super::snapshot::Table;
use super::upsert::listing;
use crate::error::Result;

/// A table that was never read before is read version by version if it has no more of them than this.
const SHORT_LOG: u64 = 10_000;

/// The rows that a range of versions added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The last version of the range.
    pub version: u64,
    /// How many rows it added.
    pub rows: u64,
    /// Their files, as the log names them, in its order. Compaction may have replaced them since; until the table is
    /// vacuumed they are there.
    files: Vec<String>,
}

impl Table {
    /// What the versions behind `after` added, up to the version of this handle; `None`: from the beginning. With
    /// `most_rows` the range ends before the version that would make it more than those, but has at least one version
    /// with rows. Versions that only move files (`dataChange = false`) add nothing.
    ///
    /// # Errors
    /// [`TableError::NotAppendOnly`] if a version took rows away; [`TableError::LogGone`] if the log no longer has a
    /// version of the range; [`TableError::Delta`] if it cannot be read.
    pub async fn appended(&self, after: Option<u64>, most_rows: Option<u64>) -> Result<Appended> {
        let table = || self.name().to_string();
        let log = self.log_store();
        let first = after.map_or(0, |after| after + 1);
        let mut range = Appended { version: after.unwrap_or(0), rows: 0, files: Vec::new() };
        if after.is_none() && self.version() > SHORT_LOG {
            return self.everything();
        }
        for version in first..=self.version() {
            let entry = log.read_commit_entry(version).await;
            let Some(entry) = entry.map_err(|e| TableError::delta("read the log of", self.name(), e))? else {
                if after.is_none() {
                    return self.everything();
                }
                return Err(TableError::LogGone { table: table(), version }.into());
            };
            let actions =
                get_actions(version, &entry).map_err(|e| TableError::delta("read the log of", self.name(), e))?;
            let mut files = Vec::new();
            let mut rows = 0;
            for action in actions {
                match action {
                    Action::Remove(remove) if remove.data_change => {
                        return Err(TableError::NotAppendOnly { table: table(), version }.into());
                    }
                    Action::Add(add) if add.data_change => {
                        let stats = add.get_stats().ok().flatten();
                        rows += stats.map_or(0, |stats| u64::try_from(stats.num_records).unwrap_or(0));
                        files.push(add.path);
                    }
                    _ => {}
                }
            }
            if range.rows > 0 && most_rows.is_some_and(|most| range.rows + rows > most) {
                break;
            }
            range.version = version;
            range.rows += rows;
            range.files.extend(files);
        }
        Ok(range)
    }

    /// All that the table has, as if one version had added it.
    fn everything(&self) -> Result<Appended> {
        let files = self.files()?;
        let rows = files.iter().filter_map(|file| file.rows).sum::<usize>() as u64;
        Ok(Appended { version: self.version(), rows, files: files.into_iter().map(|file| file.path).collect() })
    }

    /// A provider of exactly those rows, in this version's columns.
    pub(crate) fn appended_rows(&self, context: &SessionContext, range: &Appended) -> Result<Arc<dyn TableProvider>> {
        let failed = |e: datafusion::error::DataFusionError| {
            TableError::delta("read", self.name(), deltalake::DeltaTableError::Generic(e.strip_backtrace()))
        };
        if range.files.is_empty() {
            return Ok(Arc::new(MemTable::try_new(self.schema()?, vec![vec![]]).map_err(failed)?));
        }
        let paths: Vec<&str> = range.files.iter().map(String::as_str).collect();
        Ok(Arc::new(listing(context, self, &paths, self.schema()?).map_err(failed)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::table::{Commit, Guard, Lake, Operation, S3Settings, TableName, write_file};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn rows(from: i64, to: i64) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("n", Arc::new(Int64Array::from_iter_values(from..to)) as _, true)])
            .unwrap()
    }

    async fn append(table: &mut Table, from: i64, to: i64) {
        let mut commit = Commit::append(NOW);
        commit.actions.extend(write_file(table, &rows(from, to), NOW).await.unwrap().map(Action::Add));
        table.commit(commit).await.unwrap();
    }

    async fn numbers(table: &Table, range: &Appended) -> Vec<i64> {
        let context = SessionContext::new();
        let provider = table.appended_rows(&context, range).unwrap();
        let batches = context.read_table(provider).unwrap().collect().await.unwrap();
        let mut numbers: Vec<i64> = batches
            .iter()
            .flat_map(|batch| {
                let column =
                    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0)).clone();
                column.values().to_vec()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    #[tokio::test]
    async fn each_row_is_in_one_range_and_compaction_moves_none() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let mut table = lake.ensure(&TableName::new("silver", "t"), &rows(0, 0).schema(), &[]).await.unwrap();
        for n in 0..6 {
            append(&mut table, n * 10, n * 10 + 10).await;
        }

        let first = table.appended(None, Some(25)).await.unwrap();
        assert_eq!((first.version, first.rows), (2, 20));
        assert_eq!(numbers(&table, &first).await, (0..20).collect::<Vec<_>>());
        // Files are merged into one, as compaction does it.
        let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, NOW);
        let mut merged = write_file(&table, &rows(0, 60), NOW).await.unwrap().unwrap();
        merged.data_change = false;
        for mut remove in table.removes(|_| false, NOW).unwrap() {
            remove.data_change = false;
            commit.actions.push(Action::Remove(remove));
        }
        commit.actions.push(Action::Add(merged));
        table.commit(commit).await.unwrap();
        append(&mut table, 60, 65).await;

        let second = table.appended(Some(first.version), Some(1)).await.unwrap();
        assert_eq!(numbers(&table, &second).await, (20..30).collect::<Vec<_>>());
        let rest = table.appended(Some(second.version), None).await.unwrap();
        assert_eq!((rest.version, rest.rows), (table.version(), 35));
        assert_eq!(numbers(&table, &rest).await, (30..65).collect::<Vec<_>>());
        let nothing = table.appended(Some(rest.version), None).await.unwrap();
        assert_eq!((nothing.version, nothing.rows), (table.version(), 0));
    }

    #[tokio::test]
    async fn a_table_that_lost_rows_is_not_only_added_to() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let mut table = lake.ensure(&TableName::new("silver", "t"), &rows(0, 0).schema(), &[]).await.unwrap();
        append(&mut table, 0, 10).await;
        let mut commit = Commit::new(Operation::Overwrite, Guard::Exclusive, NOW);
        commit.actions = table.removes(|_| false, NOW).unwrap().into_iter().map(Action::Remove).collect();
        table.commit(commit).await.unwrap();

        let error = table.appended(None, None).await.unwrap_err();

        assert_eq!(error.code(), "L0354");
    }
}
