//! Selectors: `name`, `+name`, `2+name+1`, `tag:nightly`, `path:models/staging`, `source:raw`, unions and intersections.
use std::collections::{BTreeMap, BTreeSet};

use super::super::error::ModelError;
use super::configure::nearest;
use super::{Check, CheckSubject, Materialization, Model, Project, Seed};
use crate::error::Result;

/// What was selected, each after what it reads.
#[derive(Debug, Default)]
pub struct Selection<'p> {
    /// Seeds, by name.
    pub seeds: Vec<&'p Seed>,
    /// Models, inputs first.
    pub models: Vec<&'p Model>,
    /// Checks of what was selected, and those that were selected themselves.
    pub checks: Vec<&'p Check>,
}

/// A thing that can be selected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Id<'p> {
    Model(&'p str),
    Seed(&'p str),
    Source(String),
    Check(&'p str),
}

struct Graph<'p> {
    parents: BTreeMap<Id<'p>, BTreeSet<Id<'p>>>,
    children: BTreeMap<Id<'p>, BTreeSet<Id<'p>>>,
}

impl Project {
    /// What the selectors name. Each text may hold several, separated by blanks (any of them) and commas (all of them);
    /// without a selector, everything. What `exclude` names is taken out.
    ///
    /// # Errors
    /// [`ModelError::Unknown`] for a selector that selects nothing.
    pub fn select(&self, select: &[String], exclude: &[String]) -> Result<Selection<'_>> {
        let graph = self.graph();
        let mut chosen =
            if select.is_empty() { graph.parents.keys().cloned().collect() } else { self.union(&graph, select)? };
        if !exclude.is_empty() {
            let taken = self.union(&graph, exclude)?;
            chosen.retain(|id| !taken.contains(id));
            // A check goes with the table it is about.
            let gone = |id: &Id<'_>| match id {
                Id::Check(name) => {
                    self.checks.get(*name).and_then(|check| self.subject(check)).is_some_and(|id| taken.contains(&id))
                }
                _ => false,
            };
            chosen.retain(|id| !gone(id));
        }
        let models = self.sorted().unwrap_or_default().into_iter().filter(|name| chosen.contains(&Id::Model(name)));
        Ok(Selection {
            seeds: self.seeds.values().filter(|seed| chosen.contains(&Id::Seed(&seed.name))).collect(),
            models: models.filter_map(|name| self.models.get(name)).collect(),
            checks: self.checks.values().filter(|check| chosen.contains(&Id::Check(&check.name))).collect(),
        })
    }

    /// The selected models, each after what it reads; none selects all.
    ///
    /// # Errors
    /// As [`Project::select`].
    pub fn order(&self, select: &[String]) -> Result<Vec<&Model>> {
        Ok(self.select(select, &[])?.models)
    }

    fn subject<'p>(&'p self, check: &'p Check) -> Option<Id<'p>> {
        let CheckSubject { name, .. } = check.subject.as_ref()?;
        self.models.get(name).map(|m| Id::Model(&m.name)).or_else(|| self.seeds.get(name).map(|s| Id::Seed(&s.name)))
    }

    fn graph(&self) -> Graph<'_> {
        let mut parents: BTreeMap<Id<'_>, BTreeSet<Id<'_>>> = BTreeMap::new();
        let known = |name: &String| {
            let model = self.models.get_key_value(name).map(|(name, _)| Id::Model(name));
            model.or_else(|| self.seeds.get_key_value(name).map(|(name, _)| Id::Seed(name)))
        };
        for seed in self.seeds.keys() {
            parents.entry(Id::Seed(seed)).or_default();
        }
        for model in self.models.values() {
            let above = parents.entry(Id::Model(&model.name)).or_default();
            above.extend(model.refs.iter().filter_map(known));
            above.extend(model.sources.iter().map(|table| Id::Source(table.to_string())));
        }
        for check in self.checks.values() {
            let above = parents.entry(Id::Check(&check.name)).or_default();
            above.extend(check.refs.iter().filter_map(known));
            above.extend(check.sources.iter().map(|table| Id::Source(table.to_string())));
        }
        for table in self.sources.values() {
            parents.entry(Id::Source(table.table.to_string())).or_default();
        }
        let mut children: BTreeMap<Id<'_>, BTreeSet<Id<'_>>> = BTreeMap::new();
        for (child, above) in &parents {
            for parent in above {
                children.entry(parent.clone()).or_default().insert(child.clone());
            }
        }
        for source in children.keys().filter(|id| matches!(id, Id::Source(_))).cloned().collect::<Vec<_>>() {
            parents.entry(source).or_default();
        }
        Graph { parents, children }
    }

    fn union<'p>(&'p self, graph: &Graph<'p>, texts: &[String]) -> Result<BTreeSet<Id<'p>>> {
        let mut all = BTreeSet::new();
        for term in texts.iter().flat_map(|text| text.split_whitespace()) {
            let mut parts = term.split(',').filter(|part| !part.is_empty()).map(|part| self.one(graph, part));
            let mut both = parts.next().unwrap_or_else(|| Ok(BTreeSet::new()))?;
            for part in parts {
                let part = part?;
                both.retain(|id| part.contains(id));
            }
            all.extend(both);
        }
        // The checks of a table come with it.
        let checks: Vec<Id<'p>> = all
            .iter()
            .flat_map(|id| graph.children.get(id).into_iter().flatten())
            .filter(|id| matches!(id, Id::Check(_)))
            .cloned()
            .collect();
        all.extend(checks);
        Ok(all)
    }

    fn one<'p>(&'p self, graph: &Graph<'p>, text: &str) -> Result<BTreeSet<Id<'p>>> {
        let (ring, rest) = text.strip_prefix('@').map_or((false, text), |rest| (true, rest));
        let (up, rest) = leading(rest);
        let (down, rest) = trailing(rest);
        let found: BTreeSet<Id<'p>> = graph.parents.keys().filter(|id| self.matches(id, rest)).cloned().collect();
        if found.is_empty() {
            let names = self.models.keys().chain(self.seeds.keys()).chain(self.checks.keys());
            let near = nearest(rest, names.map(String::as_str)).map(str::to_owned);
            return Err(ModelError::Unknown { name: text.to_owned(), near }.into());
        }
        let mut all = found.clone();
        if let Some(steps) = down.or_else(|| ring.then_some(usize::MAX)) {
            reach(&graph.children, &found, steps, &mut all);
        }
        if ring {
            let below = all.clone();
            reach(&graph.parents, &below, usize::MAX, &mut all);
        }
        if let Some(steps) = up {
            reach(&graph.parents, &found, steps, &mut all);
        }
        Ok(all)
    }

    fn matches(&self, id: &Id<'_>, selector: &str) -> bool {
        let (method, value) = match selector.split_once(':') {
            Some((method, value)) => (method, value),
            None if selector.contains('/') => ("path", selector),
            None if [".sql", ".csv", ".yml"].iter().any(|ending| selector.ends_with(ending)) => ("file", selector),
            None => ("", selector),
        };
        match id {
            Id::Model(name) => self.models.get(*name).is_some_and(|model| {
                let kind = if model.materialization == Materialization::Snapshot { "snapshot" } else { "model" };
                let path = self.shown(&model.file);
                match method {
                    "tag" => model.tags.iter().any(|tag| wild(tag, value)),
                    "path" => under(&path, value) || under(&join(&model.folder, &model.name), value),
                    "file" => path.rsplit('/').next().is_some_and(|file| wild(file, value)),
                    "resource_type" => kind == value,
                    "config.materialized" => model.materialization.name() == value,
                    "" | "fqn" => named(&model.name, &model.folder, value) || wild(&model.table.to_string(), value),
                    _ => false,
                }
            }),
            Id::Seed(name) => self.seeds.get(*name).is_some_and(|seed| {
                let path = self.shown(&seed.file);
                match method {
                    "tag" => seed.tags.iter().any(|tag| wild(tag, value)),
                    "path" => under(&path, value),
                    "file" => path.rsplit('/').next().is_some_and(|file| wild(file, value)),
                    "resource_type" => value == "seed",
                    "" | "fqn" => named(&seed.name, &seed.folder, value) || wild(&seed.table.to_string(), value),
                    _ => false,
                }
            }),
            Id::Source(table) => match method {
                "source" => {
                    let declared = self.sources.values().find(|source| source.table.to_string() == *table);
                    let name =
                        declared.map_or_else(|| table.clone(), |source| format!("{}.{}", source.source, source.name));
                    wild(&name, value) || name.split('.').next().is_some_and(|source| wild(source, value))
                }
                "tag" => self
                    .sources
                    .values()
                    .any(|s| s.table.to_string() == *table && s.tags.iter().any(|tag| wild(tag, value))),
                "resource_type" => value == "source",
                _ => false,
            },
            Id::Check(name) => self.checks.get(*name).is_some_and(|check| match method {
                "tag" => check.tags.iter().any(|tag| wild(tag, value)),
                "path" => under(&self.shown(&check.file), value),
                "resource_type" => value == "test",
                "test_type" => value == if check.subject.is_some() { "generic" } else { "singular" },
                "test_name" => check.subject.as_ref().is_some_and(|subject| wild(&subject.rule, value)),
                "" | "fqn" => wild(&check.name, value),
                _ => false,
            }),
        }
    }

    /// A file's path as it is selected by: from the project's folder, with `/`.
    fn shown(&self, file: &std::path::Path) -> String {
        file.strip_prefix(&self.root).unwrap_or(file).to_string_lossy().replace('\\', "/")
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// `+name` or `2+name`.
fn leading(text: &str) -> (Option<usize>, &str) {
    match text.split_once('+') {
        Some(("", rest)) => (Some(usize::MAX), rest),
        Some((steps, rest)) if steps.chars().all(|c| c.is_ascii_digit()) => (steps.parse().ok(), rest),
        _ => (None, text),
    }
}

/// `name+` or `name+2`.
fn trailing(text: &str) -> (Option<usize>, &str) {
    match text.rsplit_once('+') {
        Some((rest, "")) => (Some(usize::MAX), rest),
        Some((rest, steps)) if steps.chars().all(|c| c.is_ascii_digit()) => (steps.parse().ok(), rest),
        _ => (None, text),
    }
}

fn reach<'p>(
    edges: &BTreeMap<Id<'p>, BTreeSet<Id<'p>>>,
    from: &BTreeSet<Id<'p>>,
    steps: usize,
    all: &mut BTreeSet<Id<'p>>,
) {
    let mut edge: Vec<Id<'p>> = from.iter().cloned().collect();
    let mut left = steps;
    while left > 0 && !edge.is_empty() {
        let next: BTreeSet<Id<'p>> = edge.iter().flat_map(|id| edges.get(id).into_iter().flatten()).cloned().collect();
        edge = next.into_iter().filter(|id| all.insert(id.clone())).collect();
        left -= 1;
    }
}

/// A name, a folder, or both with dots between.
fn named(name: &str, folder: &str, wanted: &str) -> bool {
    let dotted = join(folder, name).replace('/', ".");
    wild(name, wanted)
        || folder == wanted
        || folder.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'))
        || wild(&dotted, wanted)
        || dotted.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether `path` is the wanted file, or within the wanted folder.
fn under(path: &str, wanted: &str) -> bool {
    let wanted = wanted.trim_start_matches("./").trim_end_matches("/*").trim_end_matches('/');
    path == wanted
        || path.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/') || rest.starts_with('.'))
        || wild(path, wanted)
}

/// `*` stands for any characters, `?` for one.
fn wild(text: &str, pattern: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return text == pattern;
    }
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut t, mut p, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                t += 1;
                p += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wild_cards_and_steps() {
        assert!(wild("stg_orders", "stg_*") && wild("stg_orders", "*_or?ers") && !wild("stg_orders", "stg"));
        assert_eq!(leading("2+orders"), (Some(2), "orders"));
        assert_eq!(leading("+orders"), (Some(usize::MAX), "orders"));
        assert_eq!(trailing("orders+1"), (Some(1), "orders"));
        assert_eq!(trailing("orders"), (None, "orders"));
        assert!(under("models/staging/a.sql", "models/staging/") && under("models/a.sql", "models/a.sql"));
        assert!(!under("models/staging2/a.sql", "models/staging"));
    }
}
