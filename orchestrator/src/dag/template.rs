//! Templates in settings: `{{ params.file }}`, checked when a DAG is read, rendered when a task starts.
//!
//! Known names: `params`, `interval` (`start`, `end`), `run` (`id`, `dag`, `logical_date`, `started_at`), `task` (`id`, `attempt`), and for each task
//! before this one `tasks.NAME` (`state`, `summary`, `result`); with a `map` also `item` and `index`. Instants are RFC 3339 text in UTC. Text that is nothing but one `{{ … }}` keeps
//! the type of its value.
use std::ops::Range;

use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value};
use toml_span::value::ValueInner;

use super::Param;
use super::problem::Problems;
use crate::suggest;

const ROOTS: &[(&str, &[&str])] = &[
    ("params", &[]),
    ("interval", &["start", "end"]),
    ("run", &["id", "dag", "logical_date", "started_at"]),
    ("task", &["id", "attempt"]),
    ("tasks", &[]),
];

/// Names that only the tasks of a list know.
const OF_ITEMS: &[&str] = &["item", "index"];

/// What the templates of one task may name.
pub(super) struct Scope<'a> {
    pub(super) params: &'a [(Param, Range<usize>)],
    pub(super) upstream: Vec<String>,
    /// The task is run for each item of a list.
    pub(super) mapped: bool,
}

/// Whether there is a template anywhere in the value.
pub(crate) fn any_template(value: &Value) -> bool {
    match value {
        Value::String(text) => is_template(text),
        Value::Array(items) => items.iter().any(any_template),
        Value::Object(entries) => entries.values().any(any_template),
        _ => false,
    }
}

pub(crate) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

/// Checks all templates in a value: syntax, and that every name will be there.
pub(super) fn check(value: &toml_span::Value<'_>, task: &str, scope: &Scope<'_>, problems: &mut Problems<'_>) {
    match value.as_ref() {
        ValueInner::String(text) if is_template(text) => check_text(text, value.span.into(), task, scope, problems),
        ValueInner::Array(items) => items.iter().for_each(|item| check(item, task, scope, problems)),
        ValueInner::Table(table) => table.values().for_each(|item| check(item, task, scope, problems)),
        _ => {}
    }
}

fn check_text(text: &str, span: Range<usize>, task: &str, scope: &Scope<'_>, problems: &mut Problems<'_>) {
    let environment = environment();
    let template = match environment.template_from_str(text) {
        Ok(template) => template,
        Err(error) => {
            // The span inside the template is true as long as the string has no escapes.
            let exact = error.range().filter(|_| problems.text.get(span.clone()) == Some(text));
            let span = exact.map_or(span.clone(), |range| span.start + range.start..span.start + range.end);
            let label = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            problems.add("D0014", span, format!("a template of task `{task}` cannot be read"), label);
            return;
        }
    };
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.sort();
    for name in names {
        if let Some((trouble, hint)) = unknown(&name, task, scope) {
            let at = problems.text.get(span.clone()).and_then(|inside| inside.find(&name));
            let exact = at.map_or(span.clone(), |at| span.start + at..span.start + at + name.len());
            problems
                .add("D0015", exact, format!("a template of task `{task}` uses `{name}`, {trouble}"), "not known here")
                .fix(hint);
        }
    }
}

/// What is wrong with a dotted name, and a hint.
fn unknown(name: &str, task: &str, scope: &Scope<'_>) -> Option<(String, Option<String>)> {
    let mut parts = name.split('.');
    let root = parts.next().unwrap_or_default();
    if OF_ITEMS.contains(&root) {
        let fix = Some(format!("add `map = …` to task `{task}`"));
        return (!scope.mapped).then(|| ("which only tasks with a `map` know".to_owned(), fix));
    }
    let Some((_, fields)) = ROOTS.iter().find(|(known, _)| *known == root) else {
        // Functions of the template language (`range`, `dict`, …) are reported as names too.
        if environment().globals().any(|(known, _)| known == root) {
            return None;
        }
        let hint = suggest::hint(root, ROOTS.iter().map(|(known, _)| *known));
        return Some(("which is nothing that templates know".to_owned(), hint));
    };
    let field = parts.next()?;
    match root {
        "params" if scope.params.iter().all(|(param, _)| param.name != field) => {
            let hint = suggest::nearest(field, scope.params.iter().map(|(param, _)| param.name.as_str())).map_or_else(
                || format!("declare it: `[params.{field}]`"),
                |near| format!("did you mean `params.{near}`?"),
            );
            Some(("a param that is not declared".to_owned(), Some(hint)))
        }
        "tasks" if !scope.upstream.iter().any(|known| known == field) => {
            let hint = suggest::nearest(field, scope.upstream.iter().map(String::as_str)).map_or_else(
                || format!("add `after = [\"{field}\"]` to task `{task}`"),
                |near| format!("did you mean `tasks.{near}`?"),
            );
            Some(("a task that does not come before it".to_owned(), Some(hint)))
        }
        "params" | "tasks" => None,
        _ if !fields.contains(&field) => {
            Some((format!("but `{root}` has no `{field}`"), suggest::hint(field, fields.iter().copied())))
        }
        _ => None,
    }
}

/// Renders every template of the settings.
///
/// # Errors
/// The key and the template engine's reason, for the first template that cannot be rendered.
pub(crate) fn render(settings: &Map<String, Value>, names: &Value) -> Result<Map<String, Value>, String> {
    let environment = environment();
    let names = minijinja::Value::from(minijinja::value::Serde(names));
    settings
        .iter()
        .map(|(key, value)| {
            Ok((key.clone(), render_value(&environment, value, &names).map_err(|error| format!("`{key}`: {error:#}"))?))
        })
        .collect()
}

/// Renders the templates of one value.
///
/// # Errors
/// The template engine's reason.
pub(crate) fn render_one(value: &Value, names: &Value) -> Result<Value, String> {
    let names = minijinja::Value::from(minijinja::value::Serde(names));
    render_value(&environment(), value, &names).map_err(|error| format!("{error:#}"))
}

fn render_value(
    environment: &Environment<'_>,
    value: &Value,
    names: &minijinja::Value,
) -> Result<Value, minijinja::Error> {
    Ok(match value {
        Value::String(text) if is_template(text) => match lone_expression(text) {
            Some(expression) => {
                let found = environment.compile_expression(expression)?.eval(names.clone())?;
                if found.is_undefined() {
                    return Err(minijinja::Error::new(
                        minijinja::ErrorKind::UndefinedError,
                        format!("`{expression}` is not known"),
                    ));
                }
                serde_json::to_value(found)
                    .map_err(|error| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, error.to_string()))?
            }
            None => Value::String(environment.render_str(text, names.clone())?),
        },
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| render_value(environment, item, names)).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, item)| Ok((key.clone(), render_value(environment, item, names)?)))
                .collect::<Result<_, minijinja::Error>>()?,
        ),
        other => other.clone(),
    })
}

/// The expression of a text that is exactly one `{{ expression }}`.
fn lone_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%")).then_some(inner.trim_matches(['-', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lone_expression_keeps_its_type_and_text_stays_text() {
        let names = json!({"params": {"n": 3, "file": "a.txt", "list": ["x", "y"]}, "tasks": {"land": {"result": {"rows": 7}}}});
        let settings = json!({
            "plain": "as it is", "n": "{{ params.n }}", "list": "{{ params.list }}", "text": "file {{ params.file }}!",
            "deep": {"rows": ["{{ tasks.land.result.rows + 1 }}"]}, "big": 12,
        });
        let rendered = render(settings.as_object().unwrap(), &names).unwrap();
        assert_eq!(
            Value::Object(rendered),
            json!({"plain": "as it is", "n": 3, "list": ["x", "y"], "text": "file a.txt!", "deep": {"rows": [8]}, "big": 12})
        );
    }

    #[test]
    fn what_is_not_there_is_an_error_and_never_an_empty_text() {
        let names = json!({"params": {}, "tasks": {"land": {"result": null}}});
        for text in ["{{ params.file }}", "x{{ params.file }}", "{{ tasks.land.result.rows }}", "{{ nothing }}"] {
            let settings = json!({ "key": text });
            assert!(render(settings.as_object().unwrap(), &names).is_err(), "{text}");
        }
    }
}
