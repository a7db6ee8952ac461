//! From files to models and checks: configured, rendered, and read as SQL.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

use super::super::emission::Emission;
use super::super::error::{ModelError, ModelProblem};
use super::super::statement::other_than_select;
use super::super::template::{
    Found, Here, Kind, Prepared, Resolve, SourceMap, Surroundings, Templates, marked, offset, pieces, prepare, quote,
};
use super::configure::{self, Config, nearest};
use super::files::{self, File, Files};
use super::generic;
use super::layout::{Layout, Part};
use super::properties::{self, CheckSpec, Properties, SourceProperties};
use super::{Authored, Check, CheckSubject, Materialization, Model, Project, Seed, Severity, Source, Threshold};
use crate::engine;
use crate::error::Result;
use crate::table::TableName;

/// What renders a project's files, kept to lead from SQL back to them.
pub(super) struct Renderer {
    templates: Templates,
    names: Arc<Names>,
    macros: Macros,
    /// One at a time: a template says what it finds into one place.
    turn: std::sync::Mutex<()>,
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renderer").finish_non_exhaustive()
    }
}

/// Where references lead.
#[derive(Debug, Default)]
struct Names {
    tables: BTreeMap<String, TableName>,
    disabled: BTreeSet<String>,
    sources: BTreeMap<(String, String), TableName>,
    /// Sources must be declared, as dbt wants it.
    strict: bool,
}

/// A line break in a refusal parts what is wrong from what to do.
fn refusal(what: &str, near: Option<&str>) -> String {
    near.map_or_else(|| what.to_owned(), |near| format!("{what}\ndid you mean `{near}`?"))
}

impl Resolve for Names {
    fn reference(&self, name: &str) -> Result<TableName, String> {
        if let Some(table) = self.tables.get(name) {
            return Ok(table.clone());
        }
        if self.disabled.contains(name) {
            return Err(format!("the model `{name}` is disabled"));
        }
        Err(refusal(&format!("there is no model `{name}`"), nearest(name, self.tables.keys().map(String::as_str))))
    }

    fn source(&self, schema: &str, table: &str) -> Result<TableName, String> {
        if let Some(found) = self.sources.get(&(schema.to_owned(), table.to_owned())) {
            return Ok(found.clone());
        }
        if !self.strict {
            return Ok(TableName::new(schema, table));
        }
        let names: Vec<String> = self.sources.keys().map(|(schema, table)| format!("{schema}.{table}")).collect();
        let near = nearest(&format!("{schema}.{table}"), names.iter().map(String::as_str));
        Err(refusal(&format!("no source `{schema}.{table}` is declared"), near))
    }
}

/// Before names are known, each leads to itself.
struct Anything;

impl Resolve for Anything {
    fn reference(&self, name: &str) -> Result<TableName, String> {
        Ok(TableName::new("", name))
    }

    fn source(&self, schema: &str, table: &str) -> Result<TableName, String> {
        Ok(TableName::new(schema, table))
    }
}

/// Macro files by the name that errors call them.
type Macros = BTreeMap<String, (PathBuf, Prepared)>;

/// A SELECT on its way to a model.
struct Draft {
    part: Part,
    file: PathBuf,
    folder: String,
    name: String,
    prepared: Prepared,
    authored: Authored,
    table: TableName,
}

/// The macro that says in which schema a thing is kept.
const SCHEMA_MACRO: &str = "generate_schema_name";

/// What a schema is asked for.
#[derive(Clone, Copy)]
struct Thing<'t> {
    part: Part,
    file: &'t Path,
    folder: &'t str,
    config: &'t Config,
}

impl Thing<'_> {
    /// What dbt calls the node: the thing as macros know it.
    fn node(&self, layout: &Layout, here: &Here) -> Value {
        let kind = match self.part {
            Part::Seed => "seed",
            Part::Snapshot => "snapshot",
            _ => "model",
        };
        let name = here.name.as_str();
        let mut config = Config::from([
            ("enabled".to_owned(), true.into()),
            ("materialized".to_owned(), if kind == "model" { "view" } else { kind }.into()),
            ("schema".to_owned(), Json::Null),
            ("alias".to_owned(), Json::Null),
            ("tags".to_owned(), Json::Array(Vec::new())),
            ("meta".to_owned(), Json::Object(serde_json::Map::new())),
        ]);
        if kind == "model" && layout.dbt.is_none() {
            config.insert("materialized".to_owned(), "table".into());
        }
        config.extend(self.config.clone());
        let folders = self.folder.split('/').filter(|folder| !folder.is_empty());
        let fqn: Vec<&str> = [layout.name.as_str()].into_iter().chain(folders).chain([name]).collect();
        let path = self.file.strip_prefix(&layout.root).unwrap_or(self.file).to_string_lossy().replace('\\', "/");
        let given = |value: &Json| Value::from(minijinja::value::Serde(value));
        let pairs: [(&str, Value); 11] = [
            ("name", name.into()),
            ("resource_type", kind.into()),
            ("package_name", layout.name.as_str().into()),
            ("unique_id", format!("{kind}.{}.{name}", layout.name).into()),
            ("fqn", fqn.into_iter().collect()),
            ("alias", configure::text(self.config, "alias").unwrap_or(name).into()),
            ("schema", layout.schema.as_str().into()),
            ("database", "".into()),
            ("original_file_path", path.into()),
            ("tags", tags(self.config).into_iter().collect()),
            ("config", Value::from_pairs(config.iter().map(|(key, value)| (key.as_str(), given(value))))),
        ];
        Value::from_pairs(pairs)
    }
}

impl Project {
    /// Reads our own layout below `folder`: models, and in it `checks/`, `seeds/` and `macros/`.
    ///
    /// # Errors
    /// As [`Project::read`].
    pub fn load(folder: &Path, vars: &serde_json::Map<String, Json>) -> Result<Self> {
        Self::read(&Layout::tidemill(folder, vars), &BTreeMap::new())
    }

    /// Reads and renders all files of `layout`. `environment` is what `env_var` reads.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with all problems of all files.
    pub fn read(layout: &Layout, environment: &BTreeMap<String, String>) -> Result<Self> {
        let (project, problems) = Self::survey(layout, environment);
        if problems.is_empty() { Ok(project) } else { Err(ModelError::Invalid { problems }.into()) }
    }

    /// Reads and renders all files of `layout`: what could be read, and everything that is wrong.
    pub fn survey(layout: &Layout, environment: &BTreeMap<String, String>) -> (Self, Vec<ModelProblem>) {
        let mut problems = Vec::new();
        let files = files::read(layout, &mut problems);
        let mut properties = Vec::new();
        let mut sources = Vec::new();
        for file in &files.properties {
            properties::read(file, &mut properties, &mut sources, &mut problems);
        }
        let mut survey = Survey {
            layout,
            project: Self { root: layout.root.clone(), warnings: layout.warnings.clone(), ..Self::default() },
            problems,
            properties,
        };
        let (templates, macros) = survey.templates(&files, environment);
        survey.sources(&templates, &sources);
        let drafts = survey.drafts(&files, &templates, &macros);
        survey.seeds(&files.seeds, &templates, &macros);
        let names = Arc::new(survey.names(&drafts));
        let renderer = Arc::new(Renderer { templates, names, macros, turn: std::sync::Mutex::new(()) });
        for draft in &drafts {
            survey.model(draft, &renderer);
        }
        for file in files.sql.iter().filter(|file| file.part == Part::Check) {
            survey.singular(file, &renderer);
        }
        survey.generic(&sources, &renderer);
        let Survey { mut project, mut problems, .. } = survey;
        project.renderer = Some(renderer);
        project.quarantine(&mut problems);
        project.find_rings(&mut problems);
        let (warnings, problems) = problems.into_iter().partition(|problem| problem.warning);
        project.warnings.extend::<Vec<_>>(warnings);
        (project, problems)
    }
}

struct Survey<'s> {
    layout: &'s Layout,
    project: Project,
    problems: Vec<ModelProblem>,
    properties: Vec<Properties>,
}

impl Survey<'_> {
    fn templates(&mut self, files: &Files, environment: &BTreeMap<String, String>) -> (Templates, Macros) {
        let docs = files.docs.iter().flat_map(|file| files::docs(&file.text)).collect();
        let mut templates = Templates::new(Surroundings {
            project: self.layout.name.clone(),
            schema: self.layout.schema.clone(),
            vars: self.layout.vars.clone(),
            environment: environment.clone(),
            docs,
        });
        let mut macros = BTreeMap::new();
        for file in files.sql.iter().filter(|file| file.part == Part::Macro) {
            let prepared = prepare(&file.text);
            let name = file.path.to_string_lossy().into_owned();
            if let Err(error) = templates.add_macros(&name, &prepared.text) {
                self.problems.push(template_problem(&error, &file.path, &prepared, &BTreeMap::new(), &[]));
            }
            macros.insert(name, (file.path.clone(), prepared));
        }
        templates.finish();
        (templates, macros)
    }

    fn properties_of(&self, part: Part, name: &str) -> Option<&Properties> {
        self.properties.iter().find(|properties| properties.part == part && properties.name == name)
    }

    /// What folders and YAML say.
    fn outside(&self, part: Part, folder: &str, name: &str) -> Config {
        let mut config = self.layout.config(part, folder, name);
        if let Some(properties) = self.properties_of(part, name) {
            for (key, value) in &properties.config {
                configure::set(&mut config, key, value.clone());
            }
        }
        config
    }

    fn sources(&mut self, templates: &Templates, sources: &[SourceProperties]) {
        for source in sources {
            let here =
                here("source", TableName::new(&source.schema, &source.identifier), &Config::new(), Arc::new(Anything));
            let text = |text: &str| {
                if text.contains("{{") {
                    templates.render("yaml", text, here.clone()).map_or_else(|_| text.to_owned(), |(text, _)| text)
                } else {
                    text.to_owned()
                }
            };
            self.project.sources.insert(
                format!("{}.{}", source.source, source.table),
                Source {
                    source: source.source.clone(),
                    name: source.table.clone(),
                    table: TableName::new(text(&source.schema), text(&source.identifier)),
                    description: text(&source.description),
                    tags: source.tags.iter().cloned().collect(),
                    columns: source.columns.clone(),
                },
            );
        }
    }

    /// Names and tables of all models, so that references can be resolved whatever the order of files.
    fn drafts(&mut self, files: &Files, templates: &Templates, macros: &Macros) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        for file in files.sql.iter().filter(|file| matches!(file.part, Part::Model | Part::Snapshot)) {
            let prepared = prepare(&file.text);
            let part = if prepared.snapshot.is_some() { Part::Snapshot } else { file.part };
            let name = prepared.snapshot.clone().unwrap_or_else(|| file.name.clone());
            let authored =
                Authored { text: Arc::clone(&file.text), outside: self.outside(part, &file.folder, &name), span: None };
            let (path, folder) = (file.path.clone(), file.folder.clone());
            drafts.push(Draft { part, file: path, folder, name, prepared, authored, table: TableName::new("", "") });
        }
        // Snapshots that are nothing but YAML.
        for properties in self.properties.iter().filter(|p| p.part == Part::Snapshot) {
            let Some(relation) = &properties.relation else { continue };
            let text: Arc<str> = format!("select * from {{{{ {relation} }}}}").into();
            let authored = Authored {
                text: Arc::clone(&text),
                outside: self.outside(Part::Snapshot, "", &properties.name),
                span: Some(properties.span.clone()),
            };
            drafts.push(Draft {
                part: Part::Snapshot,
                file: properties.file.clone(),
                folder: String::new(),
                name: properties.name.clone(),
                prepared: prepare(&text),
                authored,
                table: TableName::new("", ""),
            });
        }
        let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
        for draft in &mut drafts {
            let mut config = draft.authored.outside.clone();
            let place =
                here(&draft.name, TableName::new(&self.layout.schema, &draft.name), &config, Arc::new(Anything));
            let file = draft.file.to_string_lossy();
            if let Ok((_, found)) = templates.render(&file, &draft.prepared.text, place.clone()) {
                for (key, value) in &found.config {
                    configure::set(&mut config, key, json(value));
                }
            }
            let enabled = config.get("enabled").and_then(Json::as_bool).unwrap_or(true);
            let thing = Thing { part: draft.part, file: &draft.file, folder: &draft.folder, config: &config };
            // What is disabled is nowhere.
            let schema =
                if enabled { self.schema(&thing, templates, macros, place) } else { self.layout.schema.clone() };
            let table = configure::text(&config, "alias").unwrap_or(&draft.name);
            draft.table = TableName::new(schema, table);
            if let Some(other) = seen.insert(draft.name.clone(), draft.file.clone())
                && enabled
            {
                self.problems.push(
                    ModelProblem::new(
                        &draft.file,
                        format!("the model `{}` is there twice, also in {}", draft.name, other.display()),
                    )
                    .fix("rename one of the files"),
                );
            }
            if !enabled {
                draft.table = TableName::new("", "");
            }
        }
        drafts
    }

    /// The schema of a thing: as a macro `generate_schema_name` says, else as dbt does it in a dbt project, else the one
    /// that is configured. A macro that fails is a problem of the project's.
    fn schema(&mut self, thing: &Thing<'_>, templates: &Templates, macros: &Macros, here: Here) -> String {
        let Thing { part, file, config, .. } = *thing;
        let default = if part == Part::Seed { &self.layout.seed_schema } else { &self.layout.schema };
        if let Some(target) = configure::text(config, "target_schema") {
            return target.to_owned();
        }
        let custom = configure::text(config, "schema");
        if templates.has_macro(SCHEMA_MACRO) {
            let name = custom.map_or_else(|| Value::from(()), Value::from);
            let node = thing.node(self.layout, &here);
            let subject = here.name.clone();
            let problem = match templates.call(SCHEMA_MACRO, &[name, node], here) {
                Ok((name, _)) if !name.trim().is_empty() => return name.trim().to_owned(),
                Ok(_) => ModelProblem::new(file, format!("`{SCHEMA_MACRO}` gives no schema for `{subject}`")),
                Err(error) => {
                    let problem = template_problem(&error, file, &Prepared::default(), macros, &templates.names());
                    problem.why(format!("so `{SCHEMA_MACRO}` gives no schema for `{subject}`"))
                }
            };
            // One slip in the macro is one problem, not one for each thing that it is asked about.
            let same = |known: &ModelProblem| {
                known.file == problem.file && known.what == problem.what && known.span == problem.span
            };
            if !self.problems.iter().any(same) {
                self.problems.push(problem);
            }
        }
        match (custom, &self.layout.dbt) {
            (None, _) => default.clone(),
            (Some(custom), None) => custom.to_owned(),
            (Some(custom), Some(_)) => format!("{default}_{custom}"),
        }
    }

    fn seeds(&mut self, files: &[File], templates: &Templates, macros: &Macros) {
        for file in files {
            let config = self.outside(Part::Seed, &file.folder, &file.name);
            if config.get("enabled").and_then(Json::as_bool) == Some(false) {
                continue;
            }
            let place =
                here(&file.name, TableName::new(&self.layout.seed_schema, &file.name), &config, Arc::new(Anything));
            let thing = Thing { part: Part::Seed, file: &file.path, folder: &file.folder, config: &config };
            let schema = self.schema(&thing, templates, macros, place);
            let properties = self.properties_of(Part::Seed, &file.name);
            let types = config.get("column_types").and_then(Json::as_object);
            let column_types = types
                .into_iter()
                .flatten()
                .filter_map(|(column, kind)| Some((column.clone(), kind.as_str()?.to_owned())));
            let tab = file.path.extension().is_some_and(|ending| ending == "tsv");
            let delimiter = configure::text(&config, "delimiter").and_then(|text| text.bytes().next());
            let seed = Seed {
                name: file.name.clone(),
                table: TableName::new(schema, configure::text(&config, "alias").unwrap_or(&file.name)),
                file: file.path.clone(),
                folder: file.folder.clone(),
                tags: tags(&config),
                description: properties.map(|p| p.description.clone()).unwrap_or_default(),
                columns: properties.map(|p| p.columns.clone()).unwrap_or_default(),
                column_types: column_types.collect(),
                delimiter: delimiter.unwrap_or(if tab { b'\t' } else { b',' }),
            };
            if let Some(other) = self.project.seeds.insert(file.name.clone(), seed) {
                let what = format!("the seed `{}` is there twice, also in {}", file.name, other.file.display());
                self.problems.push(ModelProblem::new(&file.path, what).fix("rename one of the files"));
            }
        }
    }

    fn names(&mut self, drafts: &[Draft]) -> Names {
        let mut names = Names { strict: self.layout.dbt.is_some(), ..Names::default() };
        for draft in drafts {
            if draft.table.table.is_empty() {
                names.disabled.insert(draft.name.clone());
            } else {
                names.tables.insert(draft.name.clone(), draft.table.clone());
            }
        }
        for seed in self.project.seeds.values() {
            if names.tables.insert(seed.name.clone(), seed.table.clone()).is_some() {
                let what = format!("the seed `{}` has the name of a model", seed.name);
                self.problems.push(ModelProblem::new(&seed.file, what).fix("rename one of the files"));
            }
        }
        for source in self.project.sources.values() {
            names.sources.insert((source.source.clone(), source.name.clone()), source.table.clone());
        }
        // Two things in one place would overwrite each other.
        let mut places: BTreeMap<&TableName, &str> = BTreeMap::new();
        for (name, table) in &names.tables {
            if let Some(other) = places.insert(table, name) {
                let file = drafts.iter().find(|draft| draft.name == *name).map(|draft| draft.file.clone());
                let what = format!("`{other}` and `{name}` are both kept as `{table}`");
                self.problems.push(
                    ModelProblem::new(&file.unwrap_or_default(), what)
                        .fix("give one of them another `schema` or `alias`"),
                );
            }
        }
        names
    }

    fn model(&mut self, draft: &Draft, renderer: &Renderer) {
        if draft.table.table.is_empty() {
            return;
        }
        let outside = &draft.authored.outside;
        let place = here(&draft.name, draft.table.clone(), outside, Arc::clone(&renderer.names) as Arc<dyn Resolve>);
        let Some((sql, found)) =
            self.render(&draft.file, &draft.prepared, place, renderer, draft.authored.span.clone())
        else {
            return;
        };
        let mut config = outside.clone();
        for (key, value) in &found.config {
            configure::set(&mut config, key, json(value));
        }
        self.known_keys(draft, &found, &config);
        if !self.readable(&draft.file, &draft.prepared, &draft.authored, &sql, || {
            renderer.map(&draft.name, &draft.table, &draft.authored, &sql)
        }) {
            return;
        }
        let Some(materialization) = self.materialization(draft, &config) else { return };
        if let Err((key, what)) = Emission::read(&config) {
            self.problems.push(ModelProblem::new(&draft.file, what).maybe_span(config_place(&draft.authored, key)));
            return;
        }
        let unique_key = match config.get("unique_key") {
            None | Some(Json::Null) => Vec::new(),
            Some(value) => {
                let keys = configure::texts(value);
                if keys.is_empty() {
                    self.problems.push(
                        ModelProblem::new(&draft.file, "`unique_key` is neither a name nor a list of names")
                            .maybe_span(config_place(&draft.authored, "unique_key")),
                    );
                    return;
                }
                keys
            }
        };
        let properties = self.properties_of(draft.part, &draft.name);
        let (description, columns) = properties.map(|p| (p.description.clone(), p.columns.clone())).unwrap_or_default();
        let description = renderer.text(&description, &draft.name, &draft.table);
        let (mut refs, mut sources) = reads(&found, renderer);
        named(&sql, &draft.table, renderer, &mut refs, &mut sources);
        self.notes(&draft.file, &found);
        let model = Model {
            name: draft.name.clone(),
            table: draft.table.clone(),
            file: draft.file.clone(),
            materialization,
            sql,
            refs,
            sources,
            unique_key,
            folder: draft.folder.clone(),
            tags: tags(&config),
            description,
            columns,
            config,
            plain: None,
            authored: draft.authored.clone(),
        };
        self.project.models.insert(draft.name.clone(), model);
    }

    fn notes(&mut self, file: &Path, found: &Found) {
        self.project.notes.extend(found.notes.iter().map(|note| (file.to_path_buf(), note.clone())));
    }

    fn materialization(&mut self, draft: &Draft, config: &Config) -> Option<Materialization> {
        if draft.part == Part::Snapshot {
            return Some(Materialization::Snapshot);
        }
        let materialization = match configure::text(config, "materialized") {
            // In dbt a model that says nothing is a view.
            None if self.layout.dbt.is_some() => Materialization::View,
            None | Some("table") => Materialization::Table,
            Some("incremental" | "materialized_view") => Materialization::Incremental,
            Some("view" | "ephemeral") => Materialization::View,
            Some("snapshot") => Materialization::Snapshot,
            Some(other) => {
                let known = ["table", "incremental", "view", "snapshot"];
                let near = nearest(other, known.into_iter()).map(|near| format!("did you mean `{near}`?"));
                self.problems.push(
                    ModelProblem::new(&draft.file, format!("`materialized='{other}'` is not known"))
                        .maybe_span(config_place(&draft.authored, "materialized"))
                        .fix(near.unwrap_or_else(|| "use 'table', 'incremental', 'view' or 'snapshot'".to_owned())),
                );
                return None;
            }
        };
        Some(materialization)
    }

    fn known_keys(&mut self, draft: &Draft, found: &Found, config: &Config) {
        for key in found.config.keys().filter(|key| !configure::is_known(key)) {
            let near = nearest(key, configure::KEYS.iter().map(|(known, _)| *known));
            let mut problem = ModelProblem::new(&draft.file, format!("`{key}` cannot be configured"))
                .maybe_span(config_place(&draft.authored, key))
                .maybe_fix(near.map(|near| format!("did you mean `{near}`?")));
            // dbt lets adapters have keys of their own; a slip of a known one is still a slip.
            problem.warning = self.layout.dbt.is_some() && near.is_none();
            self.problems.push(problem);
        }
        for key in configure::HOOKS.iter().filter(|key| config.get(**key).is_some_and(|value| !value.is_null())) {
            self.problems.push(
                ModelProblem::new(&draft.file, format!("`{key}` is not supported"))
                    .maybe_span(config_place(&draft.authored, key))
                    .why("a model is one SELECT, and its table needs no statements around it")
                    .fix("take it out"),
            );
        }
    }

    fn render(
        &mut self,
        file: &Path,
        prepared: &Prepared,
        place: Here,
        renderer: &Renderer,
        span: Option<Range<usize>>,
    ) -> Option<(String, Found)> {
        match renderer.templates.render(&file.to_string_lossy(), &prepared.text, place) {
            Ok(done) => Some(done),
            Err(error) => {
                let names = renderer.templates.names();
                let mut problem = template_problem(&error, file, prepared, &renderer.macros, &names);
                if span.is_some() {
                    problem.span = span;
                }
                self.problems.push(problem);
                None
            }
        }
    }

    /// Whether it is SQL at all.
    fn readable(
        &mut self,
        file: &Path,
        prepared: &Prepared,
        authored: &Authored,
        sql: &str,
        map: impl Fn() -> Option<(SourceMap, Prepared)>,
    ) -> bool {
        let place = |rendered: usize, map: &dyn Fn() -> Option<(SourceMap, Prepared)>| {
            let end = rendered + word_length(sql, rendered);
            match map() {
                Some((map, prepared)) => Some(prepared.original_span(map.template(&(rendered..end)))),
                None if sql == prepared.text => Some(prepared.original_span(rendered..end)),
                None => None,
            }
        };
        let error = match engine::parse(sql) {
            Ok(statement) => {
                let Some(other) = other_than_select(&statement) else { return true };
                let first = other.split(' ').next().unwrap_or_default().to_lowercase();
                let at = sql.to_ascii_lowercase().find(&first);
                let span = authored.span.clone().or_else(|| place(at?, &map));
                self.problems.push(
                    ModelProblem::new(file, format!("this is `{other}`, and only a SELECT can stand here"))
                        .maybe_span(span)
                        .fix("write the SELECT that gives the rows; what becomes of them is said with `config(…)`"),
                );
                return false;
            }
            Err(error) => error,
        };
        let said = error.strip_backtrace();
        let (what, at) = sql_place(&said);
        let span = authored.span.clone().or_else(|| {
            let (line, column) = at?;
            place(offset(sql, line, column), &map)
        });
        let what = what.strip_prefix("SQL error: ").unwrap_or(what);
        let what = what.strip_prefix("ParserError(\"").unwrap_or(what);
        self.problems.push(ModelProblem::new(file, "this is no SQL that can be read").maybe_span(span).why(what));
        false
    }

    fn singular(&mut self, file: &File, renderer: &Renderer) {
        let prepared = prepare(&file.text);
        let mut config = self.layout.config(Part::Check, &file.folder, &file.name);
        let table = TableName::new("checks", &file.name);
        let place = here(&file.name, table.clone(), &config, Arc::clone(&renderer.names) as Arc<dyn Resolve>);
        let Some((sql, found)) = self.render(&file.path, &prepared, place, renderer, None) else { return };
        let authored = Authored { text: Arc::clone(&file.text), outside: config.clone(), span: None };
        for (key, value) in &found.config {
            configure::set(&mut config, key, json(value));
        }
        if !self.readable(&file.path, &prepared, &authored, &sql, || renderer.map(&file.name, &table, &authored, &sql))
        {
            return;
        }
        let (mut refs, mut sources) = reads(&found, renderer);
        named(&sql, &table, renderer, &mut refs, &mut sources);
        self.notes(&file.path, &found);
        let check = Check {
            name: file.name.clone(),
            file: file.path.clone(),
            sql,
            refs,
            sources,
            subject: None,
            severity: Severity::Error,
            fails: Threshold::ANY,
            warns: Threshold::ANY,
            tags: tags(&config),
            bad_row: None,
            authored,
        };
        self.check(check, &config);
    }

    fn generic(&mut self, sources: &[SourceProperties], renderer: &Renderer) {
        let mut specs: Vec<(String, TableName, bool, CheckSpec)> = Vec::new();
        for properties in &self.properties {
            let known = self.project.models.get(&properties.name).map(|model| model.table.clone());
            let table = known.or_else(|| self.project.seeds.get(&properties.name).map(|seed| seed.table.clone()));
            let Some(table) = table else {
                let broken = renderer.names.tables.contains_key(&properties.name)
                    || renderer.names.disabled.contains(&properties.name);
                if !broken {
                    let near = nearest(&properties.name, renderer.names.tables.keys().map(String::as_str));
                    self.problems.push(
                        ModelProblem::new(&properties.file, format!("there is no model `{}`", properties.name))
                            .span(properties.span.clone())
                            .maybe_fix(near.map(|near| format!("did you mean `{near}`?")))
                            .warning(),
                    );
                }
                continue;
            };
            specs.extend(
                properties.checks.iter().map(|spec| (properties.name.clone(), table.clone(), false, spec.clone())),
            );
        }
        for source in sources {
            let Some(known) = self.project.sources.get(&format!("{}.{}", source.source, source.table)) else {
                continue;
            };
            let name = format!("source_{}_{}", source.source, source.table);
            specs.extend(source.checks.iter().map(|spec| (name.clone(), known.table.clone(), true, spec.clone())));
        }
        for (name, table, of_source, spec) in specs {
            let relation = format!("{}.{}", quote(&table.schema), quote(&table.table));
            let place = here(&name, table.clone(), &spec.config, Arc::clone(&renderer.names) as Arc<dyn Resolve>);
            let spelled = match generic::spell(&spec, &name, &relation, &renderer.templates, &place) {
                Ok(spelled) => spelled,
                Err((what, fix)) => {
                    let (what, near) =
                        what.split_once('\n').map_or((what.as_str(), None), |(a, b)| (a, Some(b.to_owned())));
                    self.problems
                        .push(ModelProblem::new(&spec.file, what).span(spec.span.clone()).maybe_fix(fix.or(near)));
                    continue;
                }
            };
            let authored = Authored { text: "".into(), outside: Config::new(), span: Some(spec.span.clone()) };
            if !self.readable(&spec.file, &Prepared::default(), &authored, &spelled.sql, || None) {
                continue;
            }
            let said = Found { refs: spelled.refs, sources: spelled.sources, ..Found::default() };
            let (mut refs, mut sources) = reads(&said, renderer);
            if of_source {
                sources.insert(table.clone());
            } else {
                refs.insert(name.clone());
            }
            let check = Check {
                name: spelled.name,
                file: spec.file.clone(),
                sql: spelled.sql,
                refs,
                sources,
                subject: Some(CheckSubject { name, table, column: spec.column.clone(), rule: spec.rule.clone() }),
                severity: Severity::Error,
                fails: Threshold::ANY,
                warns: Threshold::ANY,
                tags: tags(&spec.config),
                bad_row: spelled.bad_row,
                authored,
            };
            let mut config = self.layout.config(Part::Check, "", &check.name);
            for (key, value) in &spec.config {
                configure::set(&mut config, key, value.clone());
            }
            self.check(check, &config);
        }
    }

    fn check(&mut self, mut check: Check, config: &Config) {
        if config.get("enabled").and_then(Json::as_bool) == Some(false) {
            return;
        }
        let mut problem = |what: String, fix: &str| {
            self.problems.push(ModelProblem::new(&check.file, what).maybe_span(check.authored.span.clone()).fix(fix));
        };
        match configure::text(config, "severity").map(str::to_lowercase).as_deref() {
            None | Some("error") => {}
            Some("warn") => check.severity = Severity::Warn,
            Some(other) => problem(format!("the severity `{other}` is not known"), "use `error` or `warn`"),
        }
        for (key, threshold) in [("error_if", &mut check.fails), ("warn_if", &mut check.warns)] {
            let Some(text) = configure::text(config, key) else { continue };
            match Threshold::read(text) {
                Some(read) => *threshold = read,
                None => problem(format!("`{key}: \"{text}\"` is no condition on a number"), "write it as `\">10\"`"),
            }
        }
        if let Some(other) = self.project.checks.get(&check.name) {
            let same = other.sql == check.sql && other.subject == check.subject;
            if !same {
                problem(
                    format!("the check `{}` is there twice, also in {}", check.name, other.file.display()),
                    "give one of them a `name` of its own",
                );
            }
            return;
        }
        self.project.checks.insert(check.name.clone(), check);
    }
}

impl Renderer {
    /// From rendered SQL back to the template.
    pub(super) fn map(
        &self,
        name: &str,
        table: &TableName,
        authored: &Authored,
        sql: &str,
    ) -> Option<(SourceMap, Prepared)> {
        if authored.span.is_some() {
            return None;
        }
        let prepared = prepare(&authored.text);
        let place = here(name, table.clone(), &authored.outside, Arc::clone(&self.names) as Arc<dyn Resolve>);
        let marked = marked(&prepared.text)?;
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (rendered, _) = self.templates.render(name, &marked, place).ok()?;
        Some((SourceMap::read(&rendered, sql, &prepared.text)?, prepared))
    }

    /// A text of YAML, which may be a template; as it is, if that fails.
    fn text(&self, text: &str, name: &str, table: &TableName) -> String {
        if !text.contains("{{") {
            return text.to_owned();
        }
        let place = here(name, table.clone(), &Config::new(), Arc::clone(&self.names) as Arc<dyn Resolve>);
        self.templates.render("yaml", text, place).map_or_else(|_| text.to_owned(), |(text, _)| text)
    }
}

fn here(name: &str, this: TableName, config: &Config, resolve: Arc<dyn Resolve>) -> Here {
    let value = |(key, value): (&String, &Json)| (key.clone(), Value::from(minijinja::value::Serde(value)));
    Here { name: name.to_owned(), this, config: config.iter().map(value).collect(), resolve }
}

fn json(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

fn tags(config: &Config) -> BTreeSet<String> {
    config.get("tags").map(configure::texts).unwrap_or_default().into_iter().collect()
}

fn reads(found: &Found, renderer: &Renderer) -> (BTreeSet<String>, BTreeSet<TableName>) {
    let sources = found.sources.iter().filter_map(|(schema, table)| renderer.names.source(schema, table).ok());
    (found.refs.iter().cloned().collect(), sources.collect())
}

/// Adds what the text names without `ref` or `source`: it is read all the same.
fn named(
    sql: &str,
    own: &TableName,
    renderer: &Renderer,
    refs: &mut BTreeSet<String>,
    sources: &mut BTreeSet<TableName>,
) {
    for table in engine::names(sql) {
        if table == *own || table.schema == "information_schema" {
            continue;
        }
        match renderer.names.tables.iter().find(|(_, known)| **known == table) {
            Some((name, _)) => {
                refs.insert(name.clone());
            }
            None => {
                sources.insert(table);
            }
        }
    }
}

/// The place of a key in `config(…)`.
pub(in crate::model) fn config_place(authored: &Authored, key: &str) -> Option<Range<usize>> {
    let text = &authored.text;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    pieces(text).iter().filter(|piece| piece.kind == Kind::Expression).find_map(|piece| {
        let (start, inside) = piece.inside(text);
        let config = inside.starts_with("config");
        let mut at = inside.match_indices(key).filter(|(at, _)| {
            let before = inside.get(..*at).and_then(|text| text.chars().next_back()).is_some_and(word);
            let after = inside.get(at + key.len()..).and_then(|text| text.chars().next()).is_some_and(word);
            !before && !after
        });
        let (at, _) = at.next().filter(|_| config)?;
        Some(start + at..start + at + key.len())
    })
}

/// What a parser says, without the place that it appends, and that place: line and column.
fn sql_place(said: &str) -> (&str, Option<(u64, u64)>) {
    let Some((what, place)) = said.rsplit_once(" at Line: ") else { return (said, None) };
    let mut numbers = place.split(", Column: ").map(|number| {
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    });
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(line), Some(column)) => (what, Some((line, column))),
        _ => (said, None),
    }
}

fn word_length(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) }
}

/// A template's failure as a problem of the file that it is in.
fn template_problem(
    error: &Error,
    file: &Path,
    prepared: &Prepared,
    macros: &Macros,
    names: &[String],
) -> ModelProblem {
    let (file, prepared) = match error.name().and_then(|name| macros.get(name)) {
        Some((file, prepared)) => (file.as_path(), prepared),
        None => (file, prepared),
    };
    let range = error.range().filter(|range| !range.is_empty()).or_else(|| {
        let start = offset(&prepared.text, error.line()? as u64, 1);
        let line = prepared.text.get(start..)?.lines().next()?;
        let blank = line.len() - line.trim_start().len();
        Some(start + blank..start + line.trim_end().len())
    });
    // A call of a method is marked from its dot on; what it is called on belongs to it.
    let range = range.map(|range| {
        let before = prepared.text.get(..range.start).unwrap_or_default();
        let method = prepared.text.get(range.clone()).is_some_and(|marked| marked.starts_with('.'));
        let word = before.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_' || c == '.').len();
        if method { word..range.end } else { range }
    });
    let marked = range.clone().and_then(|range| prepared.text.get(range)).unwrap_or_default();
    let identifier: String = marked.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let detail = error.detail().unwrap_or_default();
    let (what, mut fix) = match detail.split_once('\n') {
        Some((what, fix)) => (what.to_owned(), Some(fix.to_owned())),
        None => (detail.to_owned(), None),
    };
    let unknown = !identifier.is_empty() && !names.contains(&identifier);
    let undefined = match error.kind() {
        ErrorKind::UnknownFunction | ErrorKind::UndefinedError => true,
        ErrorKind::UnknownMethod => {
            let given = ["set ", "for ", ", ", "("].map(|before| format!("{before}{identifier}"));
            !given.iter().any(|given| prepared.text.contains(given.as_str()))
        }
        _ => false,
    };
    let what = match error.kind() {
        _ if undefined && unknown && fix.is_none() => {
            fix = nearest(&identifier, names.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
            if fix.is_none() && marked.get(identifier.len()..).is_some_and(|rest| rest.starts_with('.')) {
                fix = Some(
                    "macros of packages are not supported: copy what you use into the folder of macros".to_owned(),
                );
            }
            format!("the template knows no `{identifier}`")
        }
        ErrorKind::UnknownMethod => {
            format!("`{}` has no such method", marked.split('(').next().unwrap_or(marked))
        }
        _ if what.is_empty() => error.kind().to_string(),
        ErrorKind::SyntaxError => format!("the template cannot be read: {what}"),
        _ => what,
    };
    ModelProblem::new(file, what).maybe_span(range.map(|range| prepared.original_span(range))).maybe_fix(fix)
}
