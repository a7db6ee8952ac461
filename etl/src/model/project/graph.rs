//! Which model comes before which.
use std::collections::{BTreeMap, BTreeSet};

use super::super::error::ModelProblem;
use super::{Materialization, Model, Project};
use crate::table::TableName;

impl Project {
    /// Names so that each comes after what it reads, or the names that are left in a ring.
    pub(super) fn sorted(&self) -> Result<Vec<&str>, BTreeSet<&str>> {
        let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
        let mut readers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for model in self.models.values() {
            let parents = model.refs.iter().filter(|name| self.models.contains_key(*name));
            let mut count = 0;
            for parent in parents {
                readers.entry(parent).or_default().push(&model.name);
                count += 1;
            }
            waiting.insert(&model.name, count);
        }
        let mut ready: BTreeSet<&str> = waiting.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect();
        let mut done = Vec::with_capacity(waiting.len());
        while let Some(name) = ready.pop_first() {
            waiting.remove(name);
            done.push(name);
            for reader in readers.get(name).into_iter().flatten() {
                if let Some(left) = waiting.get_mut(reader) {
                    *left -= 1;
                    if *left == 0 {
                        ready.insert(reader);
                    }
                }
            }
        }
        if waiting.is_empty() { Ok(done) } else { Err(waiting.into_keys().collect()) }
    }

    /// Models that read each other in a ring, as one problem each ring that is found.
    pub(super) fn find_cycle(&self, problems: &mut Vec<ModelProblem>) {
        let Err(left) = self.sorted() else { return };
        // Follow references among what is left until a name comes again.
        let Some(start) = left.first() else { return };
        let mut path = vec![*start];
        while let Some(next) = path
            .last()
            .and_then(|at| self.models.get(*at))
            .and_then(|m| m.refs.iter().find(|name| left.contains(name.as_str())))
        {
            let next = next.as_str();
            if let Some(from) = path.iter().position(|seen| *seen == next) {
                let mut ring: Vec<&str> = path.iter().skip(from).copied().collect();
                ring.push(next);
                if let (Some(model), Some(second)) = (self.models.get(next), ring.get(1)) {
                    problems.push(
                        ModelProblem::new(
                            &model.file,
                            format!("the models read each other in a ring: {}", ring.join(" → ")),
                        )
                        .maybe_span(model.reference(second))
                        .label("the ring goes on here")
                        .fix("take one of the references out"),
                    );
                }
                return;
            }
            path.push(next);
        }
    }

    /// The models kept as views, for the engine.
    pub fn views(&self) -> BTreeMap<TableName, String> {
        let views = self.models.values().filter(|m| m.materialization == Materialization::View);
        views.map(|m| (m.table.clone(), m.sql.clone())).collect()
    }

    /// The stored tables that `model` reads, through views.
    pub fn inputs(&self, model: &Model) -> BTreeSet<TableName> {
        let mut inputs = model.sources.clone();
        for name in &model.refs {
            if let Some(parent) = self.models.get(name) {
                if parent.materialization == Materialization::View {
                    inputs.extend(self.inputs(parent));
                } else {
                    inputs.insert(parent.table.clone());
                }
            } else if let Some(seed) = self.seeds.get(name) {
                inputs.insert(seed.table.clone());
            }
        }
        inputs
    }
}
