//! What was last seen to be up to date, so that a build with nothing to do reads nothing.
//!
//! A cache: losing it costs time, never rows. A model is up to date if its text and everything it reads are as they were
//! when it was built, and that nobody has committed to these tables since is seen by looking at two files of each log:
//! the version's own, unchanged, and the next one, absent.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::identity;
use super::project::{Check, Materialization, Project};
use crate::engine::Engine;
use crate::table::{Lake, Stamp, TableName};

/// Changes when what is remembered means something else.
const FORM: u32 = 1;

/// What was last seen, and where that is kept.
#[derive(Debug, Default)]
pub struct Stamps {
    file: Option<PathBuf>,
    seen: Memory,
    /// Tables that were found as remembered, or changed, in this run.
    looked_at: BTreeMap<String, bool>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    form: u32,
    /// By model.
    models: BTreeMap<String, Remembered>,
    /// Checks that found nothing, by name.
    #[serde(default)]
    checks: BTreeMap<String, Remembered>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    /// A digest of its text and of what else decides over its plan.
    key: String,
    /// Its own table and all that it reads, as they were.
    tables: BTreeMap<String, Stamp>,
}

impl Stamps {
    /// Reads what `file` remembers; nothing if it is not there or is of another form.
    pub fn read(file: &Path) -> Self {
        let seen = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Memory>(&bytes).ok());
        let seen = seen.filter(|seen| seen.form == FORM).unwrap_or_default();
        Self { file: Some(file.to_path_buf()), seen, looked_at: BTreeMap::new() }
    }

    /// Writes the file whole, beside the old one, and then puts it in its place.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self) -> std::io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        self.seen.form = FORM;
        let beside = file.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&beside, serde_json::to_vec(&self.seen)?)?;
        std::fs::rename(beside, file)
    }

    /// A digest of everything in the files that decides over a model's rows; `None` for what is not remembered.
    pub(super) fn key(project: &Project, name: &str) -> Option<String> {
        let model = project.models.get(name)?;
        let mut digest = blake3::Hasher::new();
        let mut add = |text: &str| {
            digest.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        add(env!("CARGO_PKG_VERSION"));
        add(model.materialization.name());
        add(&model.sql);
        add(&model.table.to_string());
        for (key, value) in &model.config {
            add(key);
            add(&value.to_string());
        }
        for check in project.checks_before(model) {
            add(&check.sql);
        }
        // Views are read through: their text is part of the model's.
        for view in identity::views_above(project, model) {
            add(&view.sql);
        }
        Some(digest.finalize().to_hex().to_string())
    }

    /// The version of the model's table, if it is up to date; `Some(None)` for a view that is.
    pub(super) async fn current(
        &mut self,
        lake: &Lake,
        project: &Project,
        name: &str,
        key: Option<&str>,
    ) -> Option<Option<u64>> {
        let model = project.models.get(name)?;
        let remembered = self.seen.models.get(name).filter(|remembered| Some(remembered.key.as_str()) == key)?;
        let mut wanted: BTreeSet<TableName> = project.inputs(model);
        let own = (model.materialization != Materialization::View).then(|| model.table.clone());
        wanted.extend(own.clone());
        if wanted.iter().map(ToString::to_string).ne(remembered.tables.keys().cloned()) {
            return None;
        }
        let stamps: Vec<Stamp> =
            wanted.iter().map(|table| remembered.tables.get(&table.to_string()).cloned()).collect::<Option<_>>()?;
        for (table, stamp) in wanted.iter().zip(&stamps) {
            if !self.stays(lake, table, stamp).await {
                return None;
            }
        }
        let remembered = self.seen.models.get(name)?;
        Some(own.and_then(|own| Some(remembered.tables.get(&own.to_string())?.version)))
    }

    /// Whether the table is as it was. Each is looked at once a run.
    async fn stays(&mut self, lake: &Lake, table: &TableName, stamp: &Stamp) -> bool {
        let place = format!("{table} {}", stamp.version);
        if let Some(same) = self.looked_at.get(&place) {
            return *same;
        }
        let same = lake.stays(table, stamp).await;
        self.looked_at.insert(place, same);
        same
    }

    /// A digest of everything in the files that decides over what a check finds.
    pub(super) fn check_key(project: &Project, check: &Check) -> String {
        let mut digest = blake3::Hasher::new();
        let mut add = |text: &str| {
            digest.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        add(env!("CARGO_PKG_VERSION"));
        add(&check.sql);
        add(&format!("{:?} {:?} {:?}", check.severity, check.fails, check.warns));
        let models = check.refs.iter().filter_map(|name| project.models.get(name));
        for view in models.filter(|model| model.materialization == Materialization::View) {
            add(&view.sql);
            for above in identity::views_above(project, view) {
                add(&above.sql);
            }
        }
        digest.finalize().to_hex().to_string()
    }

    /// Whether the check found nothing when it was last run, and would find the same.
    pub(super) async fn passed(&mut self, lake: &Lake, name: &str, key: &str) -> bool {
        let remembered = self.seen.checks.get(name).filter(|remembered| remembered.key == key);
        let Some(tables) = remembered.map(|remembered| remembered.tables.clone()) else { return false };
        for (table, stamp) in &tables {
            let Ok(table) = table.parse::<TableName>() else { return false };
            if !self.stays(lake, &table, stamp).await {
                return false;
            }
        }
        true
    }

    /// Remembers that a check found nothing in the tables as they were, or forgets it.
    pub(super) fn remember_check(&mut self, name: &str, key: String, tables: Option<BTreeMap<String, Stamp>>) {
        match tables {
            Some(tables) => drop(self.seen.checks.insert(name.to_owned(), Remembered { key, tables })),
            None => drop(self.seen.checks.remove(name)),
        }
    }

    /// Forgets checks that the project no longer has.
    pub(super) fn keep_checks(&mut self, project: &Project) {
        self.seen.checks.retain(|name, _| project.checks.contains_key(name));
    }

    /// Looks anew at the table of what has just been built.
    pub(super) fn forget(&mut self, project: &Project, name: &str) {
        if let Some(table) = project.table_of(name) {
            let place = format!("{table} ");
            self.looked_at.retain(|known, _| !known.starts_with(&place));
        }
    }

    /// Remembers a model that has just been found, or made, up to date at `version`.
    pub(super) async fn remember(
        &mut self,
        lake: &Lake,
        project: &Project,
        name: &str,
        seen: Seen,
        version: Option<u64>,
    ) {
        self.seen.models.remove(name);
        let Some(model) = project.models.get(name) else { return };
        let Seen { key, mut tables } = seen;
        if model.materialization != Materialization::View {
            // Somebody else may have committed since.
            let stamp = lake.stamp(&model.table).await.filter(|stamp| Some(stamp.version) == version);
            let Some(stamp) = stamp else { return };
            tables.insert(model.table.to_string(), stamp);
        }
        for (table, stamp) in &tables {
            self.looked_at.insert(format!("{table} {}", stamp.version), true);
        }
        self.seen.models.insert(name.to_owned(), Remembered { key, tables });
    }
}

/// The table as it is, if that is what readers see: where they are shown an older version, the end of its log says nothing
/// about what was read.
pub(super) async fn stamp(engine: &Engine, table: &TableName) -> Option<Stamp> {
    let stamp = engine.lake().stamp(table).await?;
    engine.shows(table, stamp.version).await.is_ok_and(|shows| shows).then_some(stamp)
}

/// What a model reads, as it was before it was built.
pub(super) struct Seen {
    key: String,
    tables: BTreeMap<String, Stamp>,
}

impl Seen {
    /// `None` if an input cannot be seen.
    pub(super) async fn before(engine: &Engine, project: &Project, name: &str, key: String) -> Option<Self> {
        let mut tables = BTreeMap::new();
        for table in project.inputs(project.models.get(name)?) {
            tables.insert(table.to_string(), stamp(engine, &table).await?);
        }
        Some(Self { key, tables })
    }
}
