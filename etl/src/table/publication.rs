//! Tables published together: which version of a table readers see.
//!
//! Delta has no commit over several tables. One file, `_publish/{number}.json`, is put only if absent and names a version for
//! each table that is published together with others. Who reads through Tidemill reads these tables at these versions until
//! the next such file is there; tables that it does not name are read at their newest. Other readers see the tables
//! themselves, which change one by one.
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use super::error::TableError;
use super::lake::{Lake, TableName};
use super::restore::restore;
use super::snapshot::Table;
use crate::error::Result;
use crate::failpoint::hit;

/// The folder below the lake's root.
const FOLDER: &str = "_publish";
/// Publications that are kept, at least.
const KEPT: u64 = 1_000;
/// How often a publication is tried anew because another one came first.
const TRIES: u32 = 100;

/// The version of one table that readers see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The version.
    pub version: u64,
    /// The table's own id: a table made anew under the name is read at its newest.
    pub id: String,
    /// Who publishes the table: a task.
    pub by: String,
}

/// A set of table versions that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Publication {
    /// Counts up from 1; 0 stands for none.
    pub number: u64,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// What made it: a task, a person's command.
    pub why: String,
    /// By table name, `schema.table`.
    pub tables: BTreeMap<String, Shown>,
}

impl Publication {
    /// The same, but with these tables at their newest.
    #[must_use]
    pub fn without<'a>(mut self, tables: impl IntoIterator<Item = &'a TableName>) -> Self {
        for name in tables {
            self.tables.remove(&name.to_string());
        }
        self
    }
}

impl Lake {
    /// The newest publication; one with number 0 and no tables if there was none.
    ///
    /// # Errors
    /// [`TableError::Storage`] if the storage cannot be read, [`TableError::Publication`] if the file makes no sense.
    pub async fn publication(&self) -> Result<Publication> {
        // Newer ones may take the place of one that was listed before it is read.
        for _ in 0..TRIES {
            let Some(number) = self.publications().await?.pop() else { return Ok(Publication::default()) };
            if let Some(found) = self.publication_at(number).await? {
                return Ok(found);
            }
        }
        let why = "each file is gone before it can be read".to_owned();
        Err(TableError::Publication { path: FOLDER.to_owned(), why }.into())
    }

    /// The numbers of the publications that are kept, the newest last.
    ///
    /// # Errors
    /// [`TableError::Storage`] if the storage cannot be listed.
    pub async fn publications(&self) -> Result<Vec<u64>> {
        let files = self.store().list(Some(&self.path(FOLDER)));
        let number = |path: &Path| path.filename()?.strip_suffix(".json")?.parse::<u64>().ok();
        let found = files.try_filter_map(async |file| Ok(number(&file.location))).try_collect::<Vec<u64>>().await;
        let mut numbers = found.map_err(|e| TableError::storage("list the publications in", &FOLDER, e))?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// One publication, if it is there.
    ///
    /// # Errors
    /// As [`Lake::publication`].
    pub async fn publication_at(&self, number: u64) -> Result<Option<Publication>> {
        let path = self.publication_path(number);
        let failed = |e| TableError::storage("read the publication", &path, e);
        let bytes = match self.store().get(&path).await {
            Ok(file) => file.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error).into()),
        };
        let read = serde_json::from_slice(&bytes);
        Ok(Some(read.map_err(|e| TableError::Publication { path: path.to_string(), why: e.to_string() })?))
    }

    /// Puts the next publication, made by `change` from the newest; `None` if `change` leaves it as it is.
    ///
    /// # Errors
    /// As [`Lake::publication`]; [`TableError::Storage`] if it could not be put, or others were always faster.
    pub async fn publish(
        &self,
        why: &str,
        now: DateTime<Utc>,
        change: impl Fn(&mut BTreeMap<String, Shown>),
    ) -> Result<Option<Publication>> {
        let mut last = None;
        for _ in 0..TRIES {
            let newest = self.publication().await?;
            let mut tables = newest.tables.clone();
            change(&mut tables);
            if tables == newest.tables {
                return Ok(None);
            }
            let next = Publication { number: newest.number + 1, at: now, why: why.to_owned(), tables };
            let path = self.publication_path(next.number);
            let failed = |e| TableError::storage("put the publication", &path, e);
            let bytes = serde_json::to_vec_pretty(&next)
                .map_err(|e| TableError::Publication { path: path.to_string(), why: e.to_string() })?;
            let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            hit("publication.before_put").await;
            let put = self.store().put_opts(&path, PutPayload::from(bytes), create).await;
            hit("publication.after_put").await;
            match put {
                Ok(_) => {
                    self.forget_publications(next.number).await;
                    return Ok(Some(next));
                }
                // Somebody else's, or ours, put by a try whose answer was lost.
                Err(error) => match self.publication_at(next.number).await? {
                    Some(there) if there == next => return Ok(Some(next)),
                    Some(_) => last = Some(failed(error)),
                    None => return Err(failed(error).into()),
                },
            }
        }
        let busy = || TableError::Publication { path: FOLDER.to_owned(), why: "others are always faster".to_owned() };
        Err(last.unwrap_or_else(busy).into())
    }

    /// Deletes old publications, a few each time. That one stays is no failure.
    async fn forget_publications(&self, newest: u64) {
        for number in newest.saturating_sub(KEPT + 2)..newest.saturating_sub(KEPT) {
            match self.store().delete(&self.publication_path(number)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::debug!(%error, number, "an old publication stays"),
            }
        }
    }

    /// The table as readers of `set` see it, or `None` if there is none.
    ///
    /// # Errors
    /// As [`Lake::try_table`]; [`TableError::Delta`] if the version that was published cannot be read.
    pub async fn shown(&self, set: &Publication, name: &TableName) -> Result<Option<Table>> {
        let Some(shown) = set.tables.get(&name.to_string()) else { return self.try_table(name).await };
        let Some(newest) = self.try_table(name).await? else { return Ok(None) };
        if newest.version() <= shown.version || newest.id() != shown.id {
            return Ok(Some(newest));
        }
        self.table_at(name, shown.version).await.map(Some)
    }

    /// The version of `table` that readers see, where that is not the newest.
    pub(super) async fn shown_version(&self, table: &Table) -> Result<Option<u64>> {
        let set = self.publication().await?;
        let shown = set.tables.get(&table.name().to_string());
        Ok(shown.filter(|shown| shown.id == table.id() && shown.version < table.version()).map(|shown| shown.version))
    }

    fn publication_path(&self, number: u64) -> Path {
        self.path(&format!("{FOLDER}/{number:020}.json"))
    }
}

/// What readers see again after a rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolledBack {
    /// The publication that was made.
    pub publication: u64,
    /// The one whose versions it shows.
    pub to: u64,
    /// The versions made by it, by table: each is an older one, restored with its progress.
    pub restored: BTreeMap<String, u64>,
}

/// Shows again what publication `to` showed; without it, what the one before the newest did. Each of its tables that has
/// changed since is restored (see [`restore`]), and then all are published together. Tables that were not in it yet stay as
/// they are. The same call goes on after a crash.
///
/// # Errors
/// [`TableError::NoPublication`] if there is no such publication; [`TableError::Version`] or [`TableError::Vacuumed`] if a
/// version is gone. Readers then see what they saw.
pub async fn rollback(lake: &Lake, to: Option<u64>, now: DateTime<Utc>) -> Result<RolledBack> {
    let newest = lake.publication().await?;
    let to = to.unwrap_or(newest.number.saturating_sub(1));
    let none = || TableError::NoPublication { number: to, newest: newest.number };
    let wanted = lake.publication_at(to).await?.filter(|_| to < newest.number).ok_or_else(none)?;
    let mut changed = Vec::new();
    for (text, old) in &wanted.tables {
        let name: TableName = text.parse()?;
        let table = lake.table(&name).await?;
        if table.id() != old.id {
            let (table, version, newest) = (text.clone(), old.version, table.version());
            return Err(TableError::Version { table, version, newest }.into());
        }
        if table.version() != old.version {
            changed.push((name, old));
        }
    }
    let mut restored = BTreeMap::new();
    for (name, old) in changed {
        restored.insert(name.to_string(), restore(lake, &name, old.version, now).await?.version);
    }
    let show = |tables: &mut BTreeMap<String, Shown>| {
        for (name, old) in &wanted.tables {
            let version = restored.get(name).copied().unwrap_or(old.version);
            tables.insert(name.clone(), Shown { version, ..old.clone() });
        }
    };
    let made = lake.publish(&format!("rollback to {to}"), now, show).await?;
    let publication = made.map_or(newest.number, |made| made.number);
    Ok(RolledBack { publication, to, restored })
}
