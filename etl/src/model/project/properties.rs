//! `schema.yml` and its like: descriptions, columns, checks and sources.
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

use super::super::error::ModelProblem;
use super::configure::{self, Config};
use super::files::File;
use super::layout::Part;
use super::yaml::{self, Key, Node, Yaml};

/// A column as its author describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The name.
    pub name: String,
    /// What it means.
    pub description: String,
    /// The type it is said to have.
    pub data_type: Option<String>,
}

/// What a file says about one model, seed or snapshot.
#[derive(Debug, Clone)]
pub(super) struct Properties {
    pub(super) part: Part,
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) span: Range<usize>,
    pub(super) description: String,
    pub(super) config: Config,
    pub(super) columns: Vec<Column>,
    pub(super) checks: Vec<CheckSpec>,
    /// Of a snapshot without a file of its own: what it keeps.
    pub(super) relation: Option<String>,
}

/// What a file says about one table of a source.
#[derive(Debug, Clone)]
pub(super) struct SourceProperties {
    /// `source(name, table)`.
    pub(super) source: String,
    pub(super) table: String,
    /// Where it is.
    pub(super) schema: String,
    pub(super) identifier: String,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) columns: Vec<Column>,
    pub(super) checks: Vec<CheckSpec>,
}

/// A generic check as it is written.
#[derive(Debug, Clone)]
pub(super) struct CheckSpec {
    pub(super) file: PathBuf,
    pub(super) span: Range<usize>,
    pub(super) rule: String,
    pub(super) column: Option<String>,
    pub(super) arguments: Config,
    pub(super) name: Option<String>,
    pub(super) config: Config,
}

const FILE_KEYS: &[&str] = &[
    "version",
    "models",
    "seeds",
    "snapshots",
    "sources",
    "macros",
    "analyses",
    "exposures",
    "groups",
    "metrics",
    "semantic_models",
    "saved_queries",
    "unit_tests",
    "data_tests",
    "tests",
    "functions",
    "anchors",
];
const NODE_KEYS: &[&str] = &[
    "name",
    "description",
    "docs",
    "meta",
    "tags",
    "config",
    "columns",
    "tests",
    "data_tests",
    "constraints",
    "access",
    "group",
    "latest_version",
    "deprecation_date",
    "versions",
    "relation",
    "time_spine",
];
const COLUMN_KEYS: &[&str] = &[
    "name",
    "description",
    "data_type",
    "meta",
    "quote",
    "tags",
    "config",
    "tests",
    "data_tests",
    "constraints",
    "policy_tags",
    "granularity",
];
const SOURCE_KEYS: &[&str] = &[
    "name",
    "description",
    "database",
    "schema",
    "loader",
    "loaded_at_field",
    "loaded_at_query",
    "freshness",
    "meta",
    "tags",
    "config",
    "overrides",
    "quoting",
    "tables",
    "tests",
    "data_tests",
];
const TABLE_KEYS: &[&str] = &[
    "name",
    "description",
    "identifier",
    "loaded_at_field",
    "loaded_at_query",
    "freshness",
    "meta",
    "tags",
    "config",
    "external",
    "quoting",
    "columns",
    "tests",
    "data_tests",
];
/// What a check says about itself, beside its arguments.
const CHECK_KEYS: &[&str] = &[
    "name",
    "test_name",
    "config",
    "description",
    "arguments",
    "tags",
    "meta",
    "where",
    "severity",
    "error_if",
    "warn_if",
    "limit",
    "fail_calc",
    "enabled",
    "store_failures",
];

/// Reads one file.
pub(super) fn read(
    file: &File,
    properties: &mut Vec<Properties>,
    sources: &mut Vec<SourceProperties>,
    problems: &mut Vec<ModelProblem>,
) {
    let root = match yaml::read(&file.path, &file.text) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(*problem);
            return;
        }
    };
    let mut reader = Reader { file: &file.path, problems };
    reader.keys(&root, FILE_KEYS, "of a properties file");
    for (key, part) in [("models", Part::Model), ("seeds", Part::Seed), ("snapshots", Part::Snapshot)] {
        for node in root.get(key).map(Node::items).unwrap_or_default() {
            properties.extend(reader.node(part, node));
        }
    }
    for node in root.get("sources").map(Node::items).unwrap_or_default() {
        reader.source(node, sources);
    }
}

struct Reader<'r> {
    file: &'r Path,
    problems: &'r mut Vec<ModelProblem>,
}

impl Reader<'_> {
    fn problem(&mut self, span: Range<usize>, what: impl Into<String>, fix: Option<String>) {
        self.problems.push(ModelProblem::new(self.file, what).span(span).maybe_fix(fix));
    }

    fn keys(&mut self, node: &Node, known: &[&str], of: &str) {
        for (key, _) in node.entries() {
            if !known.contains(&key.name.as_str()) {
                let near = configure::nearest(&key.name, known.iter().copied());
                let fix = near.map(|near| format!("did you mean `{near}`?"));
                self.problem(key.span.clone(), format!("`{}` is no key {of}", key.name), fix);
            }
        }
    }

    fn name(&mut self, node: &Node) -> Option<(String, Range<usize>)> {
        let name = node.get("name").and_then(|name| Some((name.scalar()?, name.span.clone())));
        if name.is_none() {
            self.problem(node.span.clone(), "it has no `name`", None);
        }
        name
    }

    fn node(&mut self, part: Part, node: &Node) -> Option<Properties> {
        let (name, span) = self.name(node)?;
        self.keys(node, NODE_KEYS, "of a model");
        if let Some(versions) = node.get("versions") {
            self.problem(
                versions.span.clone(),
                "versions of a model are not supported",
                Some("give each a name of its own".to_owned()),
            );
        }
        let mut config = self.config(node);
        for key in ["tags", "meta"] {
            if let Some(value) = node.get(key) {
                configure::set(&mut config, key, value.json());
            }
        }
        Some(Properties {
            part,
            name,
            span,
            file: self.file.to_path_buf(),
            description: description(node),
            config,
            columns: columns(node),
            checks: self.checks_of(node),
            relation: node.get("relation").and_then(Node::scalar),
        })
    }

    fn config(&mut self, node: &Node) -> Config {
        let mut config = Config::new();
        for (key, value) in node.get("config").map(Node::entries).unwrap_or_default() {
            let name = key.name.trim_start_matches('+');
            if !configure::is_known(name) {
                let near = configure::nearest(name, configure::KEYS.iter().map(|(key, _)| *key));
                let fix = near.map(|near| format!("did you mean `{near}`?"));
                self.problem(key.span.clone(), format!("`{name}` cannot be configured"), fix);
            }
            configure::set(&mut config, name, value.json());
        }
        config
    }

    /// The checks of a table and of its columns.
    fn checks_of(&mut self, node: &Node) -> Vec<CheckSpec> {
        let mut checks = self.checks(node, None);
        for column in node.get("columns").map(Node::items).unwrap_or_default() {
            let Some((name, _)) = self.name(column) else { continue };
            self.keys(column, COLUMN_KEYS, "of a column");
            let quoted = column.get("quote").is_some_and(|quote| matches!(quote.value, Yaml::Bool(true)));
            let name = if quoted { format!("\"{}\"", name.replace('"', "\"\"")) } else { name };
            checks.extend(self.checks(column, Some(&name)));
        }
        checks
    }

    fn checks(&mut self, node: &Node, column: Option<&str>) -> Vec<CheckSpec> {
        let lists = ["data_tests", "tests"].into_iter().filter_map(|key| node.get(key));
        let nodes: Vec<&Node> = lists.flat_map(Node::items).collect();
        nodes.into_iter().filter_map(|node| self.check(node, column)).collect()
    }

    fn check(&mut self, node: &Node, column: Option<&str>) -> Option<CheckSpec> {
        let empty = |rule: String, span: Range<usize>| CheckSpec {
            file: self.file.to_path_buf(),
            span,
            rule,
            column: column.map(str::to_owned),
            arguments: Config::new(),
            name: None,
            config: Config::new(),
        };
        if let Some(rule) = node.text() {
            return Some(empty(rule.to_owned(), node.span.clone()));
        }
        // `rule: {…}`, with what it says about itself within or beside; or `test_name: rule` with all of it beside.
        let named = node.get("test_name").and_then(|rule| Some((rule.scalar()?, rule.span.clone())));
        let beside = |(key, _): &&(Key, Node)| !CHECK_KEYS.contains(&key.name.as_str());
        let (rule, span, inside) = match (named, node.entries().iter().find(beside)) {
            (Some((rule, span)), _) => (rule, span, node),
            (None, Some((key, value))) => (key.name.clone(), key.span.clone(), value),
            (None, None) => {
                self.problem(node.span.clone(), "a check is a name, or a name with arguments", None);
                return None;
            }
        };
        let mut spec = empty(rule, span);
        let rule = spec.rule.clone();
        for (key, value) in inside.entries().iter().chain(node.entries()) {
            match key.name.as_str() {
                "arguments" => {
                    spec.arguments.extend(value.entries().iter().map(|(key, value)| (key.name.clone(), value.json())));
                }
                "config" => {
                    let holder = Node { span: node.span.clone(), value: Yaml::Map(vec![(key.clone(), value.clone())]) };
                    for (key, value) in self.config(&holder) {
                        configure::set(&mut spec.config, &key, value);
                    }
                }
                "name" if value.scalar().is_some() => spec.name = value.scalar(),
                "test_name" | "description" => {}
                known if CHECK_KEYS.contains(&known) => configure::set(&mut spec.config, known, value.json()),
                other if other == rule => {}
                other => drop(spec.arguments.insert(other.to_owned(), value.json())),
            }
        }
        Some(spec)
    }

    fn source(&mut self, node: &Node, sources: &mut Vec<SourceProperties>) {
        let Some((source, _)) = self.name(node) else { return };
        self.keys(node, SOURCE_KEYS, "of a source");
        let schema = node.get("schema").and_then(Node::scalar).unwrap_or_else(|| source.clone());
        let shared = configure::texts(&node.get("tags").map_or(Json::Null, Node::json));
        for table in node.get("tables").map(Node::items).unwrap_or_default() {
            let Some((name, _)) = self.name(table) else { continue };
            self.keys(table, TABLE_KEYS, "of a source's table");
            let mut tags = shared.clone();
            tags.extend(configure::texts(&table.get("tags").map_or(Json::Null, Node::json)));
            sources.push(SourceProperties {
                source: source.clone(),
                schema: schema.clone(),
                identifier: table.get("identifier").and_then(Node::scalar).unwrap_or_else(|| name.clone()),
                table: name,
                description: description(table),
                tags,
                columns: columns(table),
                checks: self.checks_of(table),
            });
        }
    }
}

fn description(node: &Node) -> String {
    node.get("description").and_then(Node::scalar).unwrap_or_default().trim().to_owned()
}

fn columns(node: &Node) -> Vec<Column> {
    let column = |node: &Node| Column {
        name: node.get("name").and_then(Node::scalar).unwrap_or_default(),
        description: description(node),
        data_type: node.get("data_type").and_then(Node::scalar),
    };
    node.get("columns").map(Node::items).unwrap_or_default().iter().map(column).collect()
}
