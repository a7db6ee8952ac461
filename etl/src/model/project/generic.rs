//! Generic checks as SELECTs that find what breaks them.
use minijinja::value::{Kwargs, Value};
use serde_json::Value as Json;

use super::super::template::{Here, Templates};
use super::configure::{self, Config};
use super::properties::CheckSpec;

/// The rules that are known without a macro.
const RULES: &[&str] = &["not_null", "unique", "accepted_values", "relationships"];

/// A generic check, spelled out.
#[derive(Debug, Clone)]
pub(super) struct Spelled {
    /// As dbt names it: the rule, the table, the column, and the arguments that tell it from others.
    pub(super) name: String,
    /// A SELECT that finds what is wrong.
    pub(super) sql: String,
    /// A condition that is true for the rows that break it, where the rule is about single rows.
    pub(super) bad_row: Option<String>,
    /// What the arguments refer to.
    pub(super) refs: Vec<String>,
    pub(super) sources: Vec<(String, String)>,
}

/// What is wrong with how a check is written, and what to do.
pub(super) type Wrong = (String, Option<String>);

/// Spells out `spec` for the table `subject`, which SQL calls `relation`.
pub(super) fn spell(
    spec: &CheckSpec,
    subject: &str,
    relation: &str,
    templates: &Templates,
    here: &Here,
) -> Result<Spelled, Wrong> {
    let mut arguments = spec.arguments.clone();
    let said = arguments.remove("column_name").and_then(|column| column.as_str().map(str::to_owned));
    let column = said.or_else(|| spec.column.clone());
    let mut refs = Vec::new();
    let mut sources = Vec::new();
    let mut render = |text: &str| -> Result<String, Wrong> {
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        let (text, found) = templates
            .render("yaml", text, here.clone())
            .map_err(|error| (error.detail().map_or_else(|| error.to_string(), str::to_owned), None))?;
        refs.extend(found.refs);
        sources.extend(found.sources);
        Ok(text)
    };
    let filter = configure::text(&spec.config, "where").map(&mut render).transpose()?;
    let model = match &filter {
        Some(filter) => format!("(select * from {relation} where {filter}) as dbt_subquery"),
        None => relation.to_owned(),
    };
    let need = |column: &Option<String>| {
        column.clone().ok_or_else(|| (format!("`{}` is about a column and stands under none", spec.rule), None))
    };
    let within = |bad: String| match &filter {
        Some(filter) => format!("({filter}) and {bad}"),
        None => bad,
    };
    let (sql, bad_row) = match spec.rule.as_str() {
        "not_null" => {
            let column = need(&column)?;
            (format!("select * from {model} where {column} is null"), Some(within(format!("{column} is null"))))
        }
        "unique" => {
            let column = need(&column)?;
            let sql = format!(
                "select {column} as unique_field, count(*) as n_records from {model} where {column} is not null group by {column} having count(*) > 1"
            );
            (sql, None)
        }
        "accepted_values" => {
            let column = need(&column)?;
            let quoted = arguments.get("quote").and_then(Json::as_bool).unwrap_or(true);
            let list = values(&arguments, quoted).ok_or_else(|| {
                ("`accepted_values` has no list `values`".to_owned(), Some("add `values: [a, b]`".to_owned()))
            })?;
            // A list of texts also fits a column of numbers, as it does in databases that compare loosely.
            let of = if quoted { format!("cast({column} as varchar)") } else { column.clone() };
            let sql = format!(
                "select {column} as value_field, count(*) as n_records from {model} where {of} not in ({list}) group by {column}"
            );
            (sql, Some(within(format!("{of} not in ({list})"))))
        }
        "relationships" => {
            let column = need(&column)?;
            let to = argument(&arguments, "to", "ref('model')")?;
            let to =
                if to.contains('(') && !to.contains("{{") { render(&format!("{{{{ {to} }}}}"))? } else { render(to)? };
            let field = argument(&arguments, "field", "id")?;
            let sql = format!(
                "select child.from_field from (select {column} as from_field from {model} where {column} is not null) as child left join (select {field} as to_field from {to}) as parent on child.from_field = parent.to_field where parent.to_field is null"
            );
            (sql, None)
        }
        rule if rule.contains('.') => {
            let why = format!("the check `{rule}` is of a package, and packages are not supported");
            return Err((why, Some("copy it as a macro `test_NAME` into the folder of macros".to_owned())));
        }
        rule if templates.has_macro(&format!("test_{rule}")) => {
            let mut given = vec![("model", Value::from(model.as_str()))];
            given.extend(column.iter().map(|column| ("column_name", Value::from(column.as_str()))));
            for (key, value) in &arguments {
                given.push((key, argument_value(value, &mut render)?));
            }
            let kwargs: Kwargs = given.into_iter().collect();
            let (sql, found) = templates
                .call(&format!("test_{rule}"), &[Value::from(kwargs)], here.clone())
                .map_err(|error| (error.detail().map_or_else(|| error.to_string(), str::to_owned), None))?;
            refs.extend(found.refs);
            sources.extend(found.sources);
            (sql, None)
        }
        rule => {
            let names = templates.names();
            let own = names.iter().filter_map(|name| name.strip_prefix("test_"));
            let near = configure::nearest(rule, RULES.iter().copied().chain(own))
                .map(|near| format!("did you mean `{near}`?"));
            return Err((format!("there is no check `{rule}`"), near));
        }
    };
    let name = spec.name.clone().unwrap_or_else(|| name(&spec.rule, subject, column.as_deref(), &arguments));
    Ok(Spelled { name, sql, bad_row, refs, sources })
}

/// An argument as a macro gets it; `ref(…)` and `source(…)` are the tables they name.
fn argument_value(value: &Json, render: &mut impl FnMut(&str) -> Result<String, Wrong>) -> Result<Value, Wrong> {
    let reference = |text: &str| text.starts_with("ref(") || text.starts_with("source(");
    Ok(match value.as_str() {
        Some(text) if reference(text) => Value::from(render(&format!("{{{{ {text} }}}}"))?),
        Some(text) => Value::from(render(text)?),
        None => Value::from(minijinja::value::Serde(value)),
    })
}

fn argument<'a>(arguments: &'a Config, key: &str, example: &str) -> Result<&'a str, Wrong> {
    configure::text(arguments, key)
        .ok_or_else(|| (format!("`relationships` has no `{key}`"), Some(format!("add `{key}: {example}`"))))
}

fn values(arguments: &Config, quoted: bool) -> Option<String> {
    let list = arguments.get("values")?.as_array()?;
    let value = |value: &Json| match value {
        Json::String(text) if quoted => format!("'{}'", text.replace('\'', "''")),
        Json::String(text) => text.clone(),
        Json::Null => "null".to_owned(),
        other if quoted => format!("'{other}'"),
        other => other.to_string(),
    };
    let values: Vec<String> = list.iter().map(value).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// At most 63 characters without losing what tells names apart: a digest takes the place of what is too long.
fn name(rule: &str, subject: &str, column: Option<&str>, arguments: &Config) -> String {
    let mut name = format!("{rule}_{subject}");
    let mut add = |text: &str, glue: &str| {
        name.push_str(glue);
        let mut other = false;
        for c in text.chars() {
            let word = c.is_alphanumeric() || c == '_';
            match (word, other) {
                (true, _) => name.push(c),
                (false, false) => name.push('_'),
                (false, true) => {}
            }
            other = !word;
        }
    };
    if let Some(column) = column {
        add(column, "_");
    }
    for value in arguments.values() {
        match value {
            Json::Array(items) => items.iter().for_each(|item| match item.as_str() {
                Some(text) => add(text, "__"),
                None => add(&item.to_string(), "__"),
            }),
            Json::String(text) => add(text, "__"),
            other => add(&other.to_string(), "__"),
        }
    }
    if name.chars().count() <= 63 {
        return name;
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    let head: String = name.chars().take(46).collect();
    format!("{head}_{}", digest.get(..16).unwrap_or_default())
}
