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

    /// Models that read themselves, and rings of models that read each other: one problem for each reference that closes
    /// one. Without all of these there is no ring left.
    pub(super) fn find_rings(&self, problems: &mut Vec<ModelProblem>) {
        let Err(left) = self.sorted() else { return };
        for model in left.iter().filter_map(|name| self.models.get(*name)).filter(|m| m.refs.contains(&m.name)) {
            problems.push(
                ModelProblem::new(&model.file, format!("the model `{}` reads itself", model.name))
                    .maybe_span(model.reference(&model.name))
                    .fix("take the reference out: what has changed in its inputs is found without it"),
            );
        }
        let above = |name: &str| {
            let model = self.models.get(name);
            let reads = model.into_iter().flat_map(|model| &model.refs).map(String::as_str);
            reads.filter(|other| *other != name && left.contains(other)).rev().collect::<Vec<_>>()
        };
        // In depth: what is on the path is being looked at, what is done leads into no ring that was not told.
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for start in &left {
            let mut path: Vec<(&str, Vec<&str>)> = Vec::new();
            if done.insert(start) {
                path.push((start, above(start)));
            }
            while let Some((_, open)) = path.last_mut() {
                let Some(next) = open.pop() else {
                    path.pop();
                    continue;
                };
                if let Some(from) = path.iter().position(|(name, _)| *name == next) {
                    let mut ring: Vec<&str> = path.iter().skip(from).map(|(name, _)| *name).collect();
                    ring.push(next);
                    problems.extend(self.ring(&ring));
                } else if done.insert(next) {
                    path.push((next, above(next)));
                }
            }
        }
    }

    fn ring(&self, ring: &[&str]) -> Option<ModelProblem> {
        let (first, second) = (ring.first()?, ring.get(1)?);
        let model = self.models.get(*first)?;
        let what = format!("the models read each other in a ring: {}", ring.join(" → "));
        Some(
            ModelProblem::new(&model.file, what)
                .maybe_span(model.reference(second))
                .label("the ring goes on here")
                .fix("take one of the references out"),
        )
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
