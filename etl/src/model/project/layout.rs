//! Where a project's files are, and what is configured for whole folders.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::super::error::{ModelError, ModelProblem};
use super::configure;
use super::yaml::{self, Node, Yaml};
use crate::error::Result;

/// dbt's file that makes a folder a project.
pub const DBT_PROJECT: &str = "dbt_project.yml";

/// The schema of a model that names none.
const DEFAULT_SCHEMA: &str = "gold";
/// The schema of a seed that names none, in our own layout.
const SEED_SCHEMA: &str = "seeds";

/// What sort of thing a file defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Model,
    Seed,
    Snapshot,
    Check,
    Macro,
}

/// One value for all that is in a folder.
#[derive(Debug, Clone)]
pub(super) struct FolderConfig {
    pub(super) part: Part,
    /// The folders, from the part's own folder inwards.
    pub(super) path: Vec<String>,
    pub(super) key: String,
    pub(super) value: Json,
}

/// Where the files of a project are.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The folder that paths are shown from.
    pub root: PathBuf,
    /// The project's name, where it has one.
    pub name: String,
    /// `[vars]` or `vars:`.
    pub vars: serde_json::Map<String, Json>,
    /// The file that says so, in a dbt project.
    pub dbt: Option<PathBuf>,
    pub(super) folders: Vec<(Part, PathBuf)>,
    pub(super) schema: String,
    pub(super) seed_schema: String,
    pub(super) configs: Vec<FolderConfig>,
    pub(super) warnings: Vec<ModelProblem>,
}

impl Layout {
    /// Our own: models in `sql`, in it `checks/`, `seeds/` and `macros/`.
    pub fn tidemill(sql: &Path, vars: &serde_json::Map<String, Json>) -> Self {
        Self {
            root: sql.parent().unwrap_or(sql).to_path_buf(),
            name: String::new(),
            vars: vars.clone(),
            dbt: None,
            folders: vec![
                (Part::Check, sql.join("checks")),
                (Part::Seed, sql.join("seeds")),
                (Part::Macro, sql.join("macros")),
                (Part::Model, sql.to_path_buf()),
            ],
            schema: DEFAULT_SCHEMA.to_owned(),
            seed_schema: SEED_SCHEMA.to_owned(),
            configs: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// dbt's: what `dbt_project.yml` in `root` says, with `vars` over its own. Without a profile the schema is the
    /// project's name.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with what is wrong in `dbt_project.yml`.
    pub fn dbt(root: &Path, vars: &serde_json::Map<String, Json>) -> Result<Self> {
        let file = root.join(DBT_PROJECT);
        let text = std::fs::read_to_string(&file).map_err(|error| ModelError::Invalid {
            problems: vec![ModelProblem::new(&file, format!("it cannot be read: {error}"))],
        })?;
        let mut problems = Vec::new();
        let read = yaml::read(&file, &text)
            .map(|node| Self::from_dbt(root, &file, &node, vars, &mut problems))
            .map_err(|problem| ModelError::Invalid { problems: vec![*problem] })?;
        if problems.is_empty() { Ok(read) } else { Err(ModelError::Invalid { problems }.into()) }
    }

    fn from_dbt(
        root: &Path,
        file: &Path,
        node: &Node,
        over: &serde_json::Map<String, Json>,
        problems: &mut Vec<ModelProblem>,
    ) -> Self {
        let name = node.get("name").and_then(Node::scalar).unwrap_or_default();
        if name.is_empty() {
            problems
                .push(ModelProblem::new(file, "it has no `name`").fix("add the project's name: `name: my_project`"));
        }
        let mut warnings = Vec::new();
        for (key, value) in node.entries() {
            let known = TOP_KEYS.contains(&key.name.as_str());
            let hooks = key.name.starts_with("on-run-") && !value.is_null() && !value.items().is_empty();
            if hooks {
                problems.push(
                    ModelProblem::new(file, format!("`{}` is not supported", key.name))
                        .span(key.span.clone())
                        .fix("take it out: models are plain SELECTs, and tables need no statements around them"),
                );
            } else if !known {
                let near = configure::nearest(&key.name, TOP_KEYS.iter().copied());
                warnings.push(
                    ModelProblem::new(file, format!("`{}` is no key of a project", key.name))
                        .span(key.span.clone())
                        .maybe_fix(near.map(|near| format!("did you mean `{near}`?")))
                        .warning(),
                );
            }
        }
        let mut folders = Vec::new();
        for (part, keys, default) in [
            (Part::Model, ["model-paths", "source-paths"], "models"),
            (Part::Seed, ["seed-paths", "data-paths"], "seeds"),
            (Part::Check, ["test-paths", "test-paths"], "tests"),
            (Part::Macro, ["macro-paths", "macro-paths"], "macros"),
            (Part::Snapshot, ["snapshot-paths", "snapshot-paths"], "snapshots"),
        ] {
            let given = keys.iter().find_map(|key| node.get(key)).and_then(Node::texts);
            for path in given.unwrap_or_else(|| vec![default.to_owned()]) {
                folders.push((part, root.join(path)));
            }
        }
        let mut configs = Vec::new();
        for (part, keys) in [
            (Part::Model, ["models", "models"]),
            (Part::Seed, ["seeds", "seeds"]),
            (Part::Snapshot, ["snapshots", "snapshots"]),
            (Part::Check, ["data_tests", "tests"]),
        ] {
            for node in keys.iter().filter_map(|key| node.get(key)).take(1) {
                folder_configs(part, node, &mut Vec::new(), &name, &mut configs);
            }
        }
        let mut vars = serde_json::Map::new();
        for (key, value) in node.get("vars").map(Node::entries).unwrap_or_default() {
            match &value.value {
                // `vars: { my_project: { … } }` holds for that project alone.
                Yaml::Map(own) if key.name == name => {
                    vars.extend(own.iter().map(|(key, value)| (key.name.clone(), value.json())));
                }
                _ => drop(vars.insert(key.name.clone(), value.json())),
            }
        }
        vars.extend(over.iter().map(|(key, value)| (key.clone(), value.clone())));
        packages(root, &mut warnings);
        Self {
            root: root.to_path_buf(),
            schema: name.clone(),
            seed_schema: name.clone(),
            name,
            vars,
            dbt: Some(file.to_path_buf()),
            folders,
            configs,
            warnings,
        }
    }

    /// What folders say for a file in `folder`, the inner over the outer.
    pub(super) fn config(&self, part: Part, folder: &str, name: &str) -> BTreeMap<String, Json> {
        let path: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).chain([name]).collect();
        let mut applied: Vec<&FolderConfig> = self
            .configs
            .iter()
            .filter(|config| config.part == part && config.path.len() <= path.len())
            .filter(|config| config.path.iter().zip(&path).all(|(a, b)| a == b))
            .collect();
        applied.sort_by_key(|config| config.path.len());
        let mut config = BTreeMap::new();
        for FolderConfig { key, value, .. } in applied {
            configure::set(&mut config, key, value.clone());
        }
        config
    }
}

const TOP_KEYS: &[&str] = &[
    "name",
    "version",
    "config-version",
    "profile",
    "model-paths",
    "source-paths",
    "seed-paths",
    "data-paths",
    "test-paths",
    "analysis-paths",
    "macro-paths",
    "snapshot-paths",
    "docs-paths",
    "asset-paths",
    "function-paths",
    "packages-install-path",
    "clean-targets",
    "target-path",
    "log-path",
    "require-dbt-version",
    "models",
    "seeds",
    "snapshots",
    "tests",
    "data_tests",
    "unit_tests",
    "sources",
    "metrics",
    "exposures",
    "semantic-models",
    "saved-queries",
    "vars",
    "flags",
    "query-comment",
    "quoting",
    "dispatch",
    "on-run-start",
    "on-run-end",
    "restrict-access",
    "dbt-cloud",
];

fn folder_configs(part: Part, node: &Node, path: &mut Vec<String>, project: &str, configs: &mut Vec<FolderConfig>) {
    for (key, value) in node.entries() {
        let plain = key.name.trim_start_matches('+');
        let nested = matches!(value.value, Yaml::Map(_));
        let config = key.name.starts_with('+') || !nested || (configure::is_known(plain) && plain != project);
        if config {
            let (path, key) = (path.clone(), plain.to_owned());
            configs.push(FolderConfig { part, path, key, value: value.json() });
        } else if path.is_empty() && plain == project {
            // The project's own name stands for its folder.
            for (key, value) in value.entries() {
                let one = Node { span: value.span.clone(), value: Yaml::Map(vec![(key.clone(), value.clone())]) };
                folder_configs(part, &one, &mut Vec::new(), "", configs);
            }
        } else {
            path.push(plain.to_owned());
            folder_configs(part, value, path, "", configs);
            path.pop();
        }
    }
}

/// Packages are said once, where they are listed; what uses one is an error of its own.
fn packages(root: &Path, warnings: &mut Vec<ModelProblem>) {
    for name in ["packages.yml", "dependencies.yml"] {
        let file = root.join(name);
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let Ok(node) = yaml::read(&file, &text) else { continue };
        if let Some(first) = node.get("packages").and_then(|list| list.items().first()) {
            warnings.push(
                ModelProblem::new(&file, "packages are not supported")
                    .span(first.span.clone())
                    .why("macros and models of other projects are not fetched")
                    .fix("copy the macros that you use into the folder of macros")
                    .warning(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_inherit_and_the_inner_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let text = "name: shop\nvars:\n  since: 2020\n  shop: {until: 2030}\nmodels:\n  shop:\n    +materialized: table\n    +tags: nightly\n    staging:\n      +materialized: view\n      +tags: [raw]\n      +schema: staging\nmodel-path: x\n";
        std::fs::write(folder.path().join(DBT_PROJECT), text).unwrap();

        let layout = Layout::dbt(folder.path(), &serde_json::Map::new()).unwrap();

        let staging = layout.config(Part::Model, "staging/shop", "stg_orders");
        assert_eq!(staging["materialized"], "view");
        assert_eq!(staging["tags"], serde_json::json!(["nightly", "raw"]));
        assert_eq!(layout.config(Part::Model, "", "orders")["materialized"], "table");
        assert_eq!((&layout.vars["since"], &layout.vars["until"]), (&2020.into(), &2030.into()));
        assert_eq!(layout.warnings[0].fix.as_deref(), Some("did you mean `model-paths`?"));
    }
}
