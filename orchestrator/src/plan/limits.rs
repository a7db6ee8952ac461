//! Which of the tasks that are ready may start: slots of this process, pools, keys, a DAG's share, how many items of a list at once.
//!
//! What is reckoned here only saves asking in vain: that there is never more held than there is, the history sees to (`HistoryView::holdings` may be
//! a moment old).
use std::collections::{BTreeMap, BTreeSet};

use super::progress::Progress;
use super::standing::Turn;
use super::{Action, Plan, Situation};
use crate::dag::{Dag, TaskDef};
use crate::history::{Change, HistoryView, Hold};
use crate::run::TaskStep;

/// A pool that no setting names has so many slots.
pub const UNNAMED_POOL: u32 = 128;

/// What is free.
pub(super) struct Limits<'a> {
    slots: usize,
    pools: &'a BTreeMap<String, u32>,
    held: BTreeMap<String, u32>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(view: &HistoryView, situation: &'a Situation<'a>) -> Self {
        let mut held: BTreeMap<String, u32> = BTreeMap::new();
        for holding in &view.holdings {
            *held.entry(holding.name.clone()).or_default() += holding.slots;
        }
        // What has ended since holds nothing any more, but is taken for held until that is recorded, as it is in the same transaction.
        let slots = situation.slots.saturating_sub(situation.live.len());
        Self { slots, pools: situation.pools, held }
    }

    /// Starts what is ready, the highest priority first, then the oldest run, then in file order.
    pub(super) fn start(mut self, plan: &mut Plan<'_>, under_way: &mut [Progress<'_>]) {
        // What was running before a crash goes on before anything new starts; it has what it holds from before.
        for progress in under_way.iter_mut() {
            for place in std::mem::take(&mut progress.lost) {
                if self.slots == 0 {
                    return;
                }
                let holds = progress.holds_of(place, self.pools);
                self.launch(plan, progress, place, TaskStep::Resume, holds);
            }
        }
        let turn_of = |of: usize, (priority, place): Turn| (priority, of, place);
        let first = under_way.iter().enumerate();
        let mut next: BTreeSet<_> =
            first.filter_map(|(of, progress)| Some(turn_of(of, progress.next_turn(None)?))).collect();
        while let Some((priority, of, place)) = next.pop_first().filter(|_| self.slots > 0) {
            let progress = &mut under_way[of];
            next.extend(progress.next_turn(Some((priority, place))).map(|turn| turn_of(of, turn)));
            if !progress.room(place) {
                continue;
            }
            let holds = progress.holds_of(place, self.pools);
            let free = |hold: &Hold| self.held.get(&hold.name).copied().unwrap_or_default() + hold.slots <= hold.limit;
            if !holds.iter().all(free) {
                continue;
            }
            for hold in &holds {
                *self.held.entry(hold.name.clone()).or_default() += hold.slots;
            }
            let step = progress.start_of(place);
            self.launch(plan, progress, place, step, holds);
        }
    }

    fn launch(
        &mut self,
        plan: &mut Plan<'_>,
        progress: &mut Progress<'_>,
        place: usize,
        step: TaskStep,
        holds: Vec<Hold>,
    ) {
        let (change, work) = progress.launch(place, step, holds);
        self.slots -= 1;
        plan.actions.push(Action::Launch(Change::Task(Box::new(change)), Box::new(work)));
    }
}

/// What a task of a DAG holds while it runs. `key`: its key, rendered.
pub(super) fn holds(dag: &Dag, task: &TaskDef, key: Option<String>, pools: &BTreeMap<String, u32>) -> Vec<Hold> {
    let mut holds = Vec::new();
    if let Some(limit) = dag.max_active_tasks {
        holds.push(Hold { name: format!("dag {}", dag.id), slots: 1, limit });
    }
    if let Some(pool) = &task.policy.pool {
        let limit = pools.get(&pool.name).copied().unwrap_or(UNNAMED_POOL);
        // A task that wants more than there is would wait for ever: it gets all.
        holds.push(Hold { name: format!("pool {}", pool.name), slots: pool.slots.min(limit), limit });
    }
    if let (Some(key), Some(of)) = (key, &task.policy.key) {
        holds.push(Hold { name: format!("key {key}"), slots: 1, limit: of.limit });
    }
    holds
}
