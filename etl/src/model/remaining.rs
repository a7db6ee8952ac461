//! Checks that no commit has waited for: those of seeds, of sources, of views, over several models, and those of models that
//! nothing was done for. They are asked once everything is built. One that found nothing is not asked again while its text
//! and the tables that it reads are as they were.
use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use futures::{StreamExt as _, stream};

use super::check::{self, CheckOutcome};
use super::incremental::volatile;
use super::project::{Check, Materialization, Selection};
use super::run::{End, Ran, Runner, waits_for};
use super::stamps::Stamps;
use crate::engine::{Engine, Pinned};
use crate::error::Error;
use crate::table::{Stamp, TableName};

/// What became of one check.
#[derive(Debug)]
pub struct Checked<'p> {
    /// The check.
    pub check: &'p Check,
    /// How it ended.
    pub end: CheckEnd,
}

/// How a check ended.
#[derive(Debug)]
pub enum CheckEnd {
    /// It was run.
    Found(CheckOutcome),
    /// It cannot be run.
    Failed(Error),
    /// Something that it reads was not built.
    Skipped {
        /// What.
        after: String,
    },
}

impl Runner<'_> {
    /// Runs the checks of `selection` that were not run before something was seen, after a run that came to `ran`, and says
    /// what became of each, in their order; those that found nothing before and would find the same are left out. With
    /// [`Runner::stop`], what was not begun is missing too.
    pub async fn check<'p>(&mut self, selection: &Selection<'p>, ran: &[Ran]) -> Vec<Checked<'p>> {
        let engine = self.engine;
        let judged = self.judged(selection, ran);
        let mut checked = Vec::new();
        let mut open = Vec::new();
        for check in selection.checks.iter().copied() {
            let key = Stamps::check_key(&self.project, check);
            if let Some((table, version)) = judged.get(check.name.as_str()) {
                let only = |seen: &BTreeMap<String, Stamp>| {
                    seen.len() == 1 && seen.get(&table.to_string()).is_some_and(|stamp| Some(stamp.version) == *version)
                };
                let seen = if version.is_some() { tables(engine, check).await.filter(only) } else { None };
                self.stamps.remember_check(&check.name, key, seen);
            } else if let Some(after) = self.not_built(check, ran) {
                checked.push(Checked { check, end: CheckEnd::Skipped { after } });
            } else if !self.stamps.passed(engine.lake(), &check.name, &key).await {
                open.push((check, key));
            }
        }
        let stop = self.stop;
        let ends = stream::iter(open).take_while(|_| std::future::ready(!stop())).map(async |(check, key)| {
            // Before anything is read: what changes meanwhile is then looked at again.
            let seen = tables(engine, check).await;
            (check, key, seen, check::check(engine, check).await)
        });
        let mut ends = std::pin::pin!(ends.buffered(self.workers.max(1)));
        while let Some((check, key, seen, end)) = ends.next().await {
            let quiet = end.as_ref().is_ok_and(|outcome| !outcome.fails(check) && !outcome.warns(check));
            self.stamps.remember_check(&check.name, key, seen.filter(|_| quiet));
            let end = end.map_or_else(CheckEnd::Failed, CheckEnd::Found);
            checked.push(Checked { check, end });
        }
        self.stamps.keep_checks(&self.project);
        checked
    }

    /// The checks that a commit of this run has waited for, each with the table and the version that it was passed by;
    /// without a version, it has warned.
    fn judged(&self, selection: &Selection<'_>, ran: &[Ran]) -> BTreeMap<String, (TableName, Option<u64>)> {
        let waits = self.waits(selection);
        let warned: BTreeSet<&str> = ran.iter().flat_map(|ran| &ran.warned).map(String::as_str).collect();
        let mut judged = BTreeMap::new();
        for ran in ran {
            let End::Done { version, unchanged: false, .. } = ran.end else { continue };
            let model = self.project.models.get(&ran.name);
            let Some(model) = model.filter(|model| model.materialization != Materialization::View) else { continue };
            for check in self.project.checks_before(model) {
                // What else it reads must have been built before.
                let settled = |other: &String| {
                    *other == model.name || !built(selection, other) || waits_for(&waits, &model.name, other)
                };
                if check.refs.iter().all(settled) {
                    let version = version.filter(|_| !warned.contains(check.name.as_str()));
                    judged.insert(check.name.clone(), (model.table.clone(), version));
                }
            }
        }
        judged
    }

    /// What `check` reads, itself or through others, and was not built.
    fn not_built(&self, check: &Check, ran: &[Ran]) -> Option<String> {
        let mut failed = ran.iter().filter(|ran| !matches!(ran.end, End::Done { .. })).map(|ran| &ran.name);
        let reads =
            |name: &&String| check.refs.iter().any(|other| other == *name || self.project.comes_after(other, name));
        failed.find(reads).cloned()
    }
}

fn built(selection: &Selection<'_>, name: &str) -> bool {
    selection.models.iter().any(|model| model.name == name) || selection.seeds.iter().any(|seed| seed.name == name)
}

/// The stored tables that a check reads, as they are; `None` if it reads something else, or finds something else each time.
async fn tables(engine: &Engine, check: &Check) -> Option<BTreeMap<String, Stamp>> {
    let (_session, plan) = engine.plan(&check.sql, Pinned::default()).await.ok()?;
    if volatile(&plan).ok()?.is_some() {
        return None;
    }
    let mut names = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.insert(TableName::new(scan.table_name.schema().unwrap_or_default(), scan.table_name.table()));
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .ok()?;
    let mut seen = BTreeMap::new();
    for name in names {
        let stamp = engine.lake().stamp(&name).await?;
        // Where readers are shown an older version, the log's end says nothing about what was read.
        let shown = engine.table(&name).await.ok()??;
        if shown.version() != stamp.version {
            return None;
        }
        seen.insert(name.to_string(), stamp);
    }
    Some(seen)
}
