//! Brings what was selected up to date: seeds and models, each after what it reads, several at the same time.
//!
//! What fails keeps what reads it from being built, and nothing else. Nothing is rebuilt whose text, inputs and own table
//! are as [`Stamps`] has them: then not even the tables' logs are read.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;

use super::build::{Built, build};
use super::check::CheckOutcome;
use super::project::{Materialization, Project, Selection};
use super::seed::load_seed;
use super::snapshot::snapshot;
use super::stamps::{Seen, Stamps};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::table::TableName;

/// What became of one seed or model.
#[derive(Debug)]
pub struct Ran {
    /// The seed or model.
    pub name: String,
    /// Its table.
    pub table: TableName,
    /// How it ended.
    pub end: End,
    /// Checks that have found something since the one before has ended, and that only warn.
    pub warned: Vec<String>,
}

/// How a seed or model ended.
#[derive(Debug)]
pub enum End {
    /// Its table is up to date.
    Done {
        /// The version; `None` for a view.
        version: Option<u64>,
        /// Rows, where the table was written.
        rows: Option<u64>,
        /// Whether nothing had to be done.
        unchanged: bool,
        /// How a model's table was brought up to date, where a SELECT was run for it.
        built: Option<Box<Built>>,
    },
    /// It could not be brought up to date; readers keep the version before.
    Failed(Error),
    /// Something that it reads has failed.
    Skipped {
        /// What.
        after: String,
    },
}

/// One that has ended: its name, what it read, how it ended, and whether it stays so until something that it reads changes.
type Came = (String, Option<Seen>, Result<(End, bool)>);

/// What a run is given.
pub struct Runner<'r> {
    /// Reads and writes.
    pub engine: &'r Engine,
    /// The project.
    pub project: Arc<Project>,
    /// How many are built at the same time, at least one.
    pub workers: usize,
    /// What was last seen to be up to date.
    pub stamps: &'r mut Stamps,
    /// The time, for commits.
    pub now: &'r (dyn Fn() -> DateTime<Utc> + Sync),
    /// Whether to start nothing more.
    pub stop: &'r (dyn Fn() -> bool + Sync),
}

impl Runner<'_> {
    /// Brings `selection` up to date and tells `told` of each as it ends, and what checks found meanwhile that only warn.
    /// With [`Runner::stop`], what was not begun is missing in the answer.
    pub async fn run(&mut self, selection: &Selection<'_>, mut told: impl FnMut(&Ran, Vec<CheckOutcome>)) -> Vec<Ran> {
        let waits = self.waits(selection);
        let mut open: BTreeMap<String, BTreeSet<String>> = waits.clone();
        let mut order: Vec<String> = selection.seeds.iter().map(|seed| seed.name.clone()).collect();
        order.extend(selection.models.iter().map(|model| model.name.clone()));
        let mut done: Vec<Ran> = Vec::new();
        let mut running: JoinSet<Came> = JoinSet::new();
        loop {
            while running.len() < self.workers.max(1) && !(self.stop)() {
                let Some(at) = order.iter().position(|name| open.get(name).is_none_or(BTreeSet::is_empty)) else {
                    break;
                };
                let name = order.remove(at);
                let failed =
                    waits.get(&name).into_iter().flatten().find(|above| {
                        done.iter().any(|ran| ran.name == **above && !matches!(ran.end, End::Done { .. }))
                    });
                if let Some(above) = failed {
                    let end = End::Skipped { after: above.clone() };
                    self.ended(&name, end, &mut open, &mut done, &mut told);
                    continue;
                }
                let key = Stamps::key(&self.project, &name);
                if let Some(version) =
                    self.stamps.current(self.engine.lake(), &self.project, &name, key.as_deref()).await
                {
                    let end = End::Done { version, rows: None, unchanged: true, built: None };
                    self.ended(&name, end, &mut open, &mut done, &mut told);
                    continue;
                }
                let (engine, project, now) = (self.engine.clone(), Arc::clone(&self.project), (self.now)());
                running.spawn(async move {
                    // Before anything is read: what changes meanwhile is then looked at again.
                    let seen = match key {
                        Some(key) => Seen::before(&engine, &project, &name, key).await,
                        None => None,
                    };
                    let end = one(&engine, &project, &name, now).await;
                    (name, seen, end)
                });
            }
            match running.join_next().await {
                Some(Ok((name, seen, end))) => {
                    self.stamps.forget(&self.project, &name);
                    if let (Ok((End::Done { version, .. }, true)), Some(seen)) = (&end, seen) {
                        self.stamps.remember(self.engine.lake(), &self.project, &name, seen, *version).await;
                    }
                    let end = end.map_or_else(End::Failed, |(end, _)| end);
                    self.ended(&name, end, &mut open, &mut done, &mut told);
                }
                // A panic of a model's is one of ours: it goes on where it can be seen.
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return done,
                },
                None => return done,
            }
        }
    }

    fn ended(
        &self,
        name: &str,
        end: End,
        open: &mut BTreeMap<String, BTreeSet<String>>,
        done: &mut Vec<Ran>,
        told: &mut impl FnMut(&Ran, Vec<CheckOutcome>),
    ) {
        for above in open.values_mut() {
            above.remove(name);
        }
        let table = self.project.table_of(name).cloned().unwrap_or_else(|| TableName::new("", name));
        let found = self.project.found();
        let warned = found.iter().map(|outcome| outcome.check.clone()).collect();
        let ran = Ran { name: name.to_owned(), table, end, warned };
        told(&ran, found);
        done.push(ran);
    }

    /// What each waits for: what it reads, and what its checks read, as far as it is selected too.
    pub(super) fn waits(&self, selection: &Selection<'_>) -> BTreeMap<String, BTreeSet<String>> {
        let chosen: BTreeSet<&str> = selection
            .seeds
            .iter()
            .map(|s| s.name.as_str())
            .chain(selection.models.iter().map(|m| m.name.as_str()))
            .collect();
        let mut waits: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for model in &selection.models {
            let reads = model.refs.iter().filter(|name| chosen.contains(name.as_str())).cloned();
            waits.insert(model.name.clone(), reads.collect());
        }
        // A check may read a model that is neither above nor below. Waiting for it must make no ring.
        for model in &selection.models {
            for check in self.project.checks_before(model) {
                for other in check.refs.iter().filter(|name| **name != model.name && chosen.contains(name.as_str())) {
                    if !waits_for(&waits, other, &model.name)
                        && let Some(above) = waits.get_mut(&model.name)
                    {
                        above.insert(other.clone());
                    }
                }
            }
        }
        waits
    }
}

/// Whether `name` waits for `other`, through others or not.
pub(super) fn waits_for(waits: &BTreeMap<String, BTreeSet<String>>, name: &str, other: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![name];
    while let Some(name) = next.pop() {
        if name == other {
            return true;
        }
        if seen.insert(name) {
            next.extend(waits.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

/// Brings one up to date; says too whether it stays so until something that it reads changes.
async fn one(engine: &Engine, project: &Project, name: &str, now: DateTime<Utc>) -> Result<(End, bool)> {
    if let Some(seed) = project.seeds.get(name) {
        let loaded = load_seed(engine.lake(), seed, now).await?;
        let (version, rows, unchanged) = (Some(loaded.version), loaded.rows, loaded.unchanged);
        return Ok((End::Done { version, rows, unchanged, built: None }, true));
    }
    let Some(model) = project.models.get(name) else {
        return Ok((End::Done { version: None, rows: None, unchanged: true, built: None }, true));
    };
    if model.materialization == Materialization::Snapshot {
        let kept = snapshot(engine, project, model, now).await?;
        let (version, rows, unchanged) = (Some(kept.version), kept.rows, kept.unchanged);
        return Ok((End::Done { version, rows, unchanged, built: None }, !kept.volatile));
    }
    let built = build(engine, project, model, now).await?;
    let (version, rows, unchanged, stays) = (built.version, built.rows, built.unchanged, built.volatile.is_none());
    Ok((End::Done { version, rows, unchanged, built: Some(Box::new(built)) }, stays))
}
