//! All models and checks of a folder.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::Value;

use super::error::{ModelError, ModelProblem};
use super::render::{Found, Resolve, quote, render};
use crate::error::Result;
use crate::table::TableName;

/// The schema of a model that names none.
const DEFAULT_SCHEMA: &str = "gold";

/// How a model is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Materialization {
    /// Computed when read.
    View,
    /// A table, recomputed when an input or the SELECT has changed.
    Table,
    /// A table that is brought up to date by what changed in its inputs.
    Incremental,
}

/// One SELECT that becomes a table or view.
#[derive(Debug, Clone)]
pub struct Model {
    /// The file's name without its ending.
    pub name: String,
    /// Where it is kept.
    pub table: TableName,
    /// Its file.
    pub file: PathBuf,
    /// How it is kept.
    pub materialization: Materialization,
    /// The rendered SELECT.
    pub sql: String,
    /// Models it reads.
    pub refs: BTreeSet<String>,
    /// Other tables it reads.
    pub sources: BTreeSet<TableName>,
    /// Columns that tell its rows apart, if it says so (`unique_key`).
    pub unique_key: Vec<String>,
    /// The folder below `sql/`, for selection.
    pub folder: String,
}

/// One SELECT that must come back empty.
#[derive(Debug, Clone)]
pub struct Check {
    /// The file's name without its ending.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// The rendered SELECT.
    pub sql: String,
    /// Models it reads.
    pub refs: BTreeSet<String>,
}

/// The models and checks of a project, rendered.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// By name.
    pub models: BTreeMap<String, Model>,
    /// By name.
    pub checks: BTreeMap<String, Check>,
}

struct SqlFile {
    name: String,
    path: PathBuf,
    folder: String,
    text: String,
}

impl Project {
    /// Reads every `*.sql` below `folder`; those in `checks/` are checks. A missing folder is an empty project.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with all problems of all files.
    pub fn load(folder: &Path, vars: &serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let mut problems = Vec::new();
        let mut files = Vec::new();
        walk(folder, folder, &mut files, &mut problems);
        files.sort_by(|a, b| a.path.cmp(&b.path));

        // First pass: names and schemas, so that references can be resolved whatever the order of files.
        let mut places: BTreeMap<String, (TableName, PathBuf)> = BTreeMap::new();
        for file in files.iter().filter(|file| !is_check(file)) {
            let anything: Arc<Resolve> = Arc::new(|name: &str| Ok(name.to_owned()));
            let Ok((_, found)) = render(&file.name, &file.text, vars, &file.name, &anything) else {
                places.insert(file.name.clone(), (TableName::new(DEFAULT_SCHEMA, &file.name), file.path.clone()));
                continue;
            };
            let table = TableName::new(text(&found, "schema").unwrap_or_else(|| DEFAULT_SCHEMA.to_owned()), &file.name);
            if let Some((_, other)) = places.insert(file.name.clone(), (table, file.path.clone())) {
                problems.push(ModelProblem {
                    file: file.path.clone(),
                    line: None,
                    what: format!("the model `{}` is there twice, also in {}", file.name, other.display()),
                    fix: Some("rename one of the files".to_owned()),
                });
            }
        }

        let known = places.clone();
        let resolve: Arc<Resolve> = Arc::new(move |name: &str| {
            if let Some((table, _)) = known.get(name) {
                return Ok(format!("{}.{}", quote(&table.schema), quote(&table.table)));
            }
            let near = nearest(name, known.keys().map(String::as_str));
            let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
            Err(format!("there is no model `{name}`{hint}"))
        });
        let mut project = Self::default();
        for file in &files {
            match render(&file.name, &file.text, vars, &file.name, &resolve) {
                Ok((sql, found)) => project.add(file, sql, &found, &places, &mut problems),
                Err(error) => problems.push(ModelProblem {
                    file: file.path.clone(),
                    line: error.line(),
                    what: error.detail().map_or_else(|| error.to_string(), str::to_owned),
                    fix: None,
                }),
            }
        }
        project.find_cycle(&mut problems);
        if problems.is_empty() { Ok(project) } else { Err(ModelError::Invalid { problems }.into()) }
    }

    fn add(
        &mut self,
        file: &SqlFile,
        sql: String,
        found: &Found,
        places: &BTreeMap<String, (TableName, PathBuf)>,
        problems: &mut Vec<ModelProblem>,
    ) {
        let mut problem = |what: String, fix: Option<String>| {
            problems.push(ModelProblem { file: file.path.clone(), line: None, what, fix });
        };
        if let Err(error) = crate::engine::parse(&sql) {
            problem(error.strip_backtrace(), None);
            return;
        }
        let refs: BTreeSet<String> = found.refs.iter().cloned().collect();
        if is_check(file) {
            let check = Check { name: file.name.clone(), file: file.path.clone(), sql, refs };
            if let Some(other) = self.checks.insert(file.name.clone(), check) {
                problem(format!("the check `{}` is there twice, also in {}", file.name, other.file.display()), None);
            }
            return;
        }
        let materialization = match text(found, "materialized").as_deref() {
            None | Some("table") => Materialization::Table,
            Some("incremental") => Materialization::Incremental,
            Some("view") => Materialization::View,
            Some(other) => {
                problem(
                    format!("`materialized='{other}'` is not known"),
                    Some("use 'table', 'incremental' or 'view'".to_owned()),
                );
                return;
            }
        };
        let unique_key = match found.config.get("unique_key") {
            None => Vec::new(),
            Some(value) => match (value.as_str(), value.try_iter()) {
                (Some(one), _) => vec![one.to_owned()],
                (None, Ok(many)) => many.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
                (None, Err(_)) => {
                    problem("`unique_key` is neither a name nor a list of names".to_owned(), None);
                    return;
                }
            },
        };
        let Some((table, _)) = places.get(&file.name) else { return };
        let sources = found.sources.iter().map(|(schema, table)| TableName::new(schema, table)).collect();
        let model = Model {
            name: file.name.clone(),
            table: table.clone(),
            file: file.path.clone(),
            materialization,
            sql,
            refs,
            sources,
            unique_key,
            folder: file.folder.clone(),
        };
        self.models.insert(file.name.clone(), model);
    }

    fn find_cycle(&self, problems: &mut Vec<ModelProblem>) {
        let Err(left) = self.sorted() else { return };
        // Follow references among what is left until a name comes again.
        let Some(start) = left.first() else { return };
        let mut path = vec![start.clone()];
        while let Some(next) =
            path.last().and_then(|at| self.models.get(at)).and_then(|m| m.refs.iter().find(|r| left.contains(*r)))
        {
            if let Some(from) = path.iter().position(|seen| seen == next) {
                let mut ring: Vec<&str> = path.iter().skip(from).map(String::as_str).collect();
                ring.push(next);
                if let Some(model) = self.models.get(next) {
                    problems.push(ModelProblem {
                        file: model.file.clone(),
                        line: None,
                        what: format!("the models read each other in a ring: {}", ring.join(" → ")),
                        fix: Some("take one of the references out".to_owned()),
                    });
                }
                return;
            }
            path.push(next.clone());
        }
    }

    /// Names so that each comes after what it reads, or the names that are left in a ring.
    fn sorted(&self) -> std::result::Result<Vec<String>, Vec<String>> {
        let mut done: Vec<String> = Vec::new();
        let mut left: BTreeSet<&String> = self.models.keys().collect();
        while !left.is_empty() {
            let ready: Vec<&String> = left
                .iter()
                .copied()
                .filter(|name| self.models.get(*name).is_some_and(|m| m.refs.iter().all(|r| !left.contains(r))))
                .collect();
            if ready.is_empty() {
                return Err(left.into_iter().cloned().collect());
            }
            for name in ready {
                left.remove(name);
                done.push(name.clone());
            }
        }
        Ok(done)
    }

    /// The selected models, each after what it reads. A selector is a name, a folder, `+name` (and all it reads) or
    /// `name+` (and all that read it); none selects all.
    ///
    /// # Errors
    /// [`ModelError::Unknown`] for a selector that selects nothing.
    pub fn order(&self, select: &[String]) -> Result<Vec<&Model>> {
        let sorted = self.sorted().unwrap_or_default();
        let mut chosen: BTreeSet<String> = BTreeSet::new();
        for selector in select {
            let up = selector.starts_with('+');
            let down = selector.ends_with('+');
            let name = selector.trim_matches('+');
            let matching: Vec<String> = self
                .models
                .values()
                .filter(|m| m.name == name || m.folder == name || m.table.to_string() == name)
                .map(|m| m.name.clone())
                .collect();
            if matching.is_empty() {
                let near = nearest(name, self.models.keys().map(String::as_str)).map(str::to_owned);
                return Err(ModelError::Unknown { name: selector.clone(), near }.into());
            }
            for name in matching {
                if up {
                    self.above(&name, &mut chosen);
                }
                if down {
                    self.below(&name, &mut chosen);
                }
                chosen.insert(name);
            }
        }
        let wanted = |name: &&String| select.is_empty() || chosen.contains(*name);
        Ok(sorted.iter().filter(wanted).filter_map(|name| self.models.get(name)).collect())
    }

    fn above(&self, name: &str, chosen: &mut BTreeSet<String>) {
        for parent in self.models.get(name).into_iter().flat_map(|m| &m.refs) {
            if chosen.insert(parent.clone()) {
                self.above(parent, chosen);
            }
        }
    }

    fn below(&self, name: &str, chosen: &mut BTreeSet<String>) {
        for child in self.models.values().filter(|m| m.refs.contains(name)) {
            if chosen.insert(child.name.clone()) {
                self.below(&child.name, chosen);
            }
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
        for parent in model.refs.iter().filter_map(|name| self.models.get(name)) {
            match parent.materialization {
                Materialization::Table | Materialization::Incremental => {
                    inputs.insert(parent.table.clone());
                }
                Materialization::View => inputs.extend(self.inputs(parent)),
            }
        }
        inputs
    }
}

fn is_check(file: &SqlFile) -> bool {
    file.folder.split('/').next() == Some("checks")
}

fn text(found: &Found, key: &str) -> Option<String> {
    found.config.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<SqlFile>, problems: &mut Vec<ModelProblem>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(root, &path, files, problems);
        } else if path.extension().is_some_and(|ending| ending == "sql") {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let below = folder.strip_prefix(root).map(|p| p.to_string_lossy().replace('\\', "/")).unwrap_or_default();
            match std::fs::read_to_string(&path) {
                Ok(text) => files.push(SqlFile { name, path, folder: below, text }),
                Err(error) => {
                    problems.push(ModelProblem { file: path, line: None, what: error.to_string(), fix: None });
                }
            }
        }
    }
}

/// The name that differs least, if it differs little.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
