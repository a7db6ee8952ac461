//! Checks that no commit has waited for: those of seeds, of sources, of views, over several models, and those of models that
//! nothing was done for. They are asked once everything is built. One that found nothing is not asked again while its text
//! and the tables that it reads are as they were.
use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use tokio::task::JoinSet;

use super::check::{self, CheckOutcome};
use super::incremental::volatile;
use super::project::{Check, Materialization, Selection};
use super::run::{End, Ran, Runner, waits_for};
use super::stamps::{self, Stamps};
use crate::engine::{Engine, Pinned};
use crate::error::{Error, Result};
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
    /// Something that it reads was not built, now or ever.
    Skipped {
        /// What.
        after: String,
    },
}

/// Tables by name, as they were.
type Tables = BTreeMap<String, Stamp>;

impl Runner<'_> {
    /// Runs the checks of `selection` that were not run before something was seen, after a run that came to `ran`, and says
    /// what became of each, in their order; those that found nothing before and would find the same are left out. With
    /// [`Runner::stop`], what was not begun is missing too.
    pub async fn check<'p>(&mut self, selection: &Selection<'p>, ran: &[Ran]) -> Vec<Checked<'p>> {
        let engine = self.engine;
        let judged = self.judged(selection, ran);
        let mut checked = Vec::new();
        let mut open: Vec<(&'p Check, String)> = Vec::new();
        for check in selection.checks.iter().copied() {
            let key = Stamps::check_key(&self.project, check);
            if let Some((table, version)) = judged.get(check.name.as_str()) {
                let mut seen = if version.is_some() { tables(engine, check).await } else { None };
                // What else it has read may have changed since.
                if let Some(known) = &seen {
                    let own = known.get(&table.to_string()).is_some_and(|stamp| Some(stamp.version) == *version);
                    seen = seen.filter(|known| own && known.len() == 1);
                }
                self.stamps.remember_check(&check.name, key, seen);
            } else if let Some(after) = self.not_built(check, ran) {
                checked.push(Checked { check, end: CheckEnd::Skipped { after } });
            } else if let Some(after) = self.never_built(selection, check).await {
                checked.push(Checked { check, end: CheckEnd::Skipped { after } });
            } else if !self.stamps.passed(engine.lake(), &check.name, &key).await {
                open.push((check, key));
            }
        }
        let mut ends: BTreeMap<usize, CheckEnd> = BTreeMap::new();
        let mut running: JoinSet<(usize, Option<Tables>, Result<CheckOutcome>)> = JoinSet::new();
        let mut next = 0;
        loop {
            while running.len() < self.workers.max(1)
                && !(self.stop)()
                && let Some((check, _)) = open.get(next)
            {
                let (at, engine, check) = (next, engine.clone(), Check::clone(check));
                running.spawn(async move {
                    // Before anything is read: what changes meanwhile is then looked at again.
                    let seen = tables(&engine, &check).await;
                    (at, seen, check::check(&engine, &check).await)
                });
                next += 1;
            }
            let (at, seen, end) = match running.join_next().await {
                Some(Ok(ended)) => ended,
                // A panic of a check's is one of ours: it goes on where it can be seen.
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => break,
                },
                None => break,
            };
            let Some((check, key)) = open.get(at) else { continue };
            let quiet = end.as_ref().is_ok_and(|outcome| !outcome.fails(check) && !outcome.warns(check));
            self.stamps.remember_check(&check.name, key.clone(), seen.filter(|_| quiet));
            ends.insert(at, end.map_or_else(CheckEnd::Failed, CheckEnd::Found));
        }
        for (at, end) in ends {
            if let Some((check, _)) = open.get(at) {
                checked.push(Checked { check, end });
            }
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

    /// What `check` reads, was not selected, and was never built: of a project of which only a part is built.
    async fn never_built(&self, selection: &Selection<'_>, check: &Check) -> Option<String> {
        for name in check.refs.iter().filter(|name| !built(selection, name)) {
            let view = self.project.models.get(name).filter(|model| model.materialization == Materialization::View);
            let tables = match view {
                Some(view) => self.project.inputs(view),
                None => self.project.table_of(name).cloned().into_iter().collect(),
            };
            for table in tables {
                if self.engine.lake().stamp(&table).await.is_none() {
                    return Some(name.clone());
                }
            }
        }
        None
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
async fn tables(engine: &Engine, check: &Check) -> Option<Tables> {
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
    let mut seen = Tables::new();
    for name in names {
        let stamp = stamps::stamp(engine, &name).await?;
        seen.insert(name.to_string(), stamp);
    }
    Some(seen)
}
