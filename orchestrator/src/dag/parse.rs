//! One DAG file from text to [`Dag`]. Every check reports and goes on; a DAG comes out only if nothing is wrong.
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use serde_json::Map;
use toml_span::Value;
use toml_span::value::Key;

use super::fields::{Fields, a, unknown_key};
use super::kind::KindSpec;
use super::problem::Problems;
use super::settings::{in_file_order, misfit, to_json};
use super::{
    CALLS, CallTo, Callback, Dag, KeyUse, MapOver, ON_CRASH, Param, ParamType, PoolUse, TaskDef, TaskPolicy, graph,
    template, triggers,
};
use crate::retry::RetryPolicy;
use crate::rule::RULES;
use crate::suggest;

/// A task while it is checked: with the places its definition came from.
pub(super) struct Authored<'t, 'de> {
    pub(super) def: TaskDef,
    pub(super) at: Range<usize>,
    pub(super) after: Vec<(String, Range<usize>)>,
    /// The settings' values, to point into their templates.
    values: Vec<&'t Value<'de>>,
}

/// What `[defaults]` gives to tasks that do not say otherwise.
#[derive(Default)]
struct Defaults {
    retries: Option<u32>,
    delay: Option<Duration>,
    max_delay: Option<Duration>,
    only: Option<Vec<String>>,
    timeout: Option<Duration>,
}

/// Reads a parsed file. `renamed`: places of duplicate keys that were already reported and are to be left alone.
pub(super) fn dag(
    id: &str,
    root: &Value<'_>,
    kinds: &[KindSpec],
    renamed: &[Range<usize>],
    problems: &mut Problems<'_>,
) -> Option<Dag> {
    let mut top = Fields::new(root, "the DAG", 0..0, problems)?;
    let description = top.text("description", problems).map(|(text, _)| text).unwrap_or_default();
    let tags = top.texts("tags", problems).into_iter().map(|(tag, _)| tag).collect();
    let max_active_runs = top.count("max_active_runs", 1, problems).unwrap_or(1);
    let max_active_tasks = top.count("max_active_tasks", 1, problems);
    let deadline = top.duration("deadline", problems);
    let calls = calls(&mut top, problems);
    let params = top.get("params").map(|value| params(value, problems)).unwrap_or_default();
    let defaults = top.get("defaults").map(|value| defaults(value, problems)).unwrap_or_default();
    let triggers = top.get("triggers").map(|value| triggers::triggers(value, &params, problems)).unwrap_or_default();
    let authored = match top.get("tasks") {
        Some(value) => tasks(value, kinds, &defaults, problems),
        None => Vec::new(),
    };
    if authored.is_empty() && !problems.found.iter().any(|problem| problem.what.contains("task")) {
        problems
            .add("D0018", 0..0, format!("DAG `{id}` has no tasks"), "no `[tasks.…]` in this file")
            .fix(Some("add a task: `[tasks.NAME]` with `kind = …`".to_owned()));
    }
    for (key, _) in top.others() {
        if !renamed.iter().any(|span| *span == Range::from(key.span)) {
            unknown_key(problems, key, "the DAG", top.known());
        }
    }
    let places: HashMap<String, usize> =
        authored.iter().enumerate().map(|(place, task)| (task.def.id.clone(), place)).collect();
    check_order(&authored, &places, problems);
    for task in &authored {
        // Where nothing is named, a chain of thousands need not be gone through for each of its tasks.
        let named = task.values.iter().any(|value| template::any_template(&to_json(value)));
        let scope = template::Scope {
            params: &params,
            upstream: if named { upstream_of(&authored, &places, &task.def.id) } else { Vec::new() },
            mapped: task.def.policy.map.is_some(),
        };
        for value in &task.values {
            template::check(value, &task.def.id, &scope, problems);
        }
    }
    problems.found.is_empty().then(|| Dag {
        id: id.to_owned(),
        description,
        tags,
        max_active_runs,
        max_active_tasks,
        deadline,
        calls,
        triggers,
        params: params.into_iter().map(|(param, _)| param).collect(),
        tasks: authored.into_iter().map(|task| task.def).collect(),
        file: problems.file.to_path_buf(),
    })
}

/// Whether a name can be part of a run id, a path and a template.
pub(super) fn good_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && !name.starts_with('-')
}

/// Reports a name that cannot be used.
pub(super) fn check_name(name: &str, what: &str, span: Range<usize>, problems: &mut Problems<'_>) {
    if !good_name(name) {
        problems
            .add("D0016", span, format!("{what} cannot be called `{name}`"), "not a usable name")
            .fix(Some("use letters, digits, `_` and `-`, at most 64, not `-` first".to_owned()));
    }
}

fn named_tables<'t, 'de>(
    value: &'t Value<'de>,
    what: &str,
    problems: &mut Problems<'_>,
) -> Vec<(&'t Key<'de>, Fields<'t, 'de>)> {
    let Some(table) = value.as_table() else {
        let found = a(value.as_ref().type_str());
        problems.add(
            "D0005",
            value.span,
            format!("`{what}s` must be a table of tables"),
            format!("expected `[{what}s.NAME]`, found {found}"),
        );
        return Vec::new();
    };
    let mut tables = Vec::new();
    for (key, value) in in_file_order(table) {
        check_name(&key.name, &format!("a {what}"), key.span.into(), problems);
        tables.extend(
            Fields::new(value, format!("{what} `{}`", key.name), key.span.into(), problems).map(|fields| (key, fields)),
        );
    }
    tables
}

fn params(value: &Value<'_>, problems: &mut Problems<'_>) -> Vec<(Param, Range<usize>)> {
    let mut params = Vec::new();
    for (key, mut fields) in named_tables(value, "param", problems) {
        let r#type = fields.choice("type", ParamType::ALL, problems);
        let default = fields.get("default").map(|value| (to_json(value), value.span));
        if let (Some(r#type), Some((value, span))) = (r#type, &default)
            && !r#type.fits(value)
        {
            let found = super::settings::article(value);
            problems.add(
                "D0017",
                *span,
                format!("the default of param `{}` is not of its type", key.name),
                format!("expected {}, found {found}", r#type.article()),
            );
        }
        let about = fields.text("about", problems).map(|(text, _)| text).unwrap_or_default();
        fields.finish(problems);
        let default = default.map(|(value, _)| value);
        params.push((
            Param { name: key.name.to_string(), r#type: r#type.unwrap_or(ParamType::String), default, about },
            key.span.into(),
        ));
    }
    params
}

fn defaults(value: &Value<'_>, problems: &mut Problems<'_>) -> Defaults {
    let header = value.span.start..value.span.start;
    let Some(mut fields) = Fields::new(value, "`defaults`", header, problems) else { return Defaults::default() };
    let found = retry_keys(&mut fields, problems);
    fields.finish(problems);
    found
}

fn retry_keys(fields: &mut Fields<'_, '_>, problems: &mut Problems<'_>) -> Defaults {
    Defaults {
        retries: fields.count("retries", 0, problems),
        delay: fields.duration("retry_delay", problems),
        max_delay: fields.duration("retry_max_delay", problems),
        only: fields
            .get("retry_on")
            .is_some()
            .then(|| fields.texts("retry_on", problems).into_iter().map(|(code, _)| code).collect()),
        timeout: fields.duration("timeout", problems),
    }
}

fn tasks<'t, 'de>(
    value: &'t Value<'de>,
    kinds: &[KindSpec],
    defaults: &Defaults,
    problems: &mut Problems<'_>,
) -> Vec<Authored<'t, 'de>> {
    named_tables(value, "task", problems)
        .into_iter()
        .map(|(key, fields)| task(key, fields, kinds, defaults, problems))
        .collect()
}

fn task<'t, 'de>(
    key: &Key<'de>,
    mut fields: Fields<'t, 'de>,
    kinds: &[KindSpec],
    defaults: &Defaults,
    problems: &mut Problems<'_>,
) -> Authored<'t, 'de> {
    let own = retry_keys(&mut fields, problems);
    let rule = fields.choice("trigger_rule", RULES, problems).unwrap_or_default();
    let policy = policy(&mut fields, problems);
    let about = fields.text("about", problems).map(|(text, _)| text).unwrap_or_default();
    let after = fields.texts("after", problems);
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    let mut kind = None;
    if let Some((name, span)) = fields.text("kind", problems) {
        kind = kinds.iter().find(|kind| kind.name == name);
        if kind.is_none() {
            problems
                .add("D0007", span, format!("unknown kind `{name}` of {}", fields.name), "no such kind of task")
                .fix(suggest::hint(&name, names));
        }
    } else if fields.get("kind").is_none() {
        let known: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        fields.missing("kind", &format!("one of {}", known.join(", ")), problems);
    }
    let mut settings = Map::new();
    let mut values = Vec::new();
    // The list and the key are templates, too.
    values.extend(["map", "concurrency_key"].into_iter().filter_map(|key| fields.get(key)));
    for (key, value) in fields.others() {
        settings.insert(key.name.to_string(), to_json(value));
        values.push(value);
        let Some(kind) = kind else { continue };
        let Some(spec) = kind.keys.iter().find(|spec| spec.name == key.name) else {
            let known: Vec<&str> =
                kind.keys.iter().map(|spec| spec.name).chain(fields.known().iter().copied()).collect();
            unknown_key(problems, key, &format!("{} of kind `{}`", fields.name, kind.name), &known);
            continue;
        };
        if let Some(trouble) = misfit(spec.shape, &to_json(value), false) {
            let duration = spec.shape == super::Shape::Duration && value.as_str().is_some();
            let what = format!("`{}` of {} must be {}", key.name, fields.name, spec.shape.article());
            problems.add(if duration { "D0012" } else { "D0005" }, value.span, what, trouble);
        }
    }
    for spec in kind.into_iter().flat_map(|kind| kind.keys) {
        if spec.required && !settings.contains_key(spec.name) {
            fields.missing(spec.name, spec.about, problems);
        }
    }
    let fallback = RetryPolicy::default();
    let retry = RetryPolicy {
        retries: own.retries.or(defaults.retries).unwrap_or(fallback.retries),
        delay: own.delay.or(defaults.delay).unwrap_or(fallback.delay),
        max_delay: own.max_delay.or(defaults.max_delay).unwrap_or(fallback.max_delay),
        only: own.only.or_else(|| defaults.only.clone()).unwrap_or_default(),
    };
    let def = TaskDef {
        id: key.name.to_string(),
        kind: kind.map(|kind| kind.name.to_owned()).unwrap_or_default(),
        after: after.iter().map(|(name, _)| name.clone()).collect(),
        retry,
        timeout: own.timeout.or(defaults.timeout),
        rule,
        policy,
        about,
        settings,
    };
    Authored { def, at: key.span.into(), after, values }
}

/// What is said of a task besides its work.
fn policy(fields: &mut Fields<'_, '_>, problems: &mut Problems<'_>) -> TaskPolicy {
    let priority = fields.number("priority", problems).unwrap_or_default();
    let slots = fields.count("pool_slots", 1, problems);
    let pool = fields.text("pool", problems).map(|(name, span)| {
        check_name(&name, "a pool", span, problems);
        PoolUse { name, slots: slots.unwrap_or(1) }
    });
    let limit = fields.count("concurrency_limit", 1, problems);
    let key = fields.text("concurrency_key", problems).map(|(key, _)| KeyUse { key, limit: limit.unwrap_or(1) });
    for (alone, with, there) in
        [("pool_slots", "pool", pool.is_some()), ("concurrency_limit", "concurrency_key", key.is_some())]
    {
        needs(fields, alone, with, there, problems);
    }
    let at_once = fields.count("map_limit", 1, problems);
    let map = fields.get("map").and_then(|value| {
        let over = to_json(value);
        if over.is_array() || template::any_template(&over) {
            return Some(MapOver { over, at_once });
        }
        let what = format!("`map` of {} must be a list, or a template that gives one", fields.name);
        let found = super::settings::article(&over);
        problems.add("D0005", value.span, what, format!("expected an array, found {found}"));
        None
    });
    if fields.get("map").is_none() {
        needs(fields, "map_limit", "map", false, problems);
    }
    TaskPolicy {
        priority,
        pool,
        key,
        on_crash: fields.choice("on_crash", ON_CRASH, problems).unwrap_or_default(),
        map,
        deadline: fields.duration("deadline", problems),
        calls: calls(fields, problems),
    }
}

/// Reports a key that means nothing without another one.
fn needs(fields: &mut Fields<'_, '_>, key: &'static str, with: &str, there: bool, problems: &mut Problems<'_>) {
    if let Some(value) = fields.get(key).filter(|_| !there) {
        let what = format!("`{key}` of {} means nothing without `{with}`", fields.name);
        problems.add("D0013", value.span, what, format!("there is no `{with}`")).fix(Some(format!("add `{with} = …`")));
    }
}

/// Whom to tell what: `on_failure = { webhook = "…" }`, or a list of such tables.
fn calls(fields: &mut Fields<'_, '_>, problems: &mut Problems<'_>) -> Vec<Callback> {
    let mut all = Vec::new();
    for (key, on) in CALLS {
        let Some(value) = fields.get(key) else { continue };
        let items = value.as_array().map_or_else(|| vec![value], |items| items.iter().collect());
        for item in items {
            let name = format!("`{key}` of {}", fields.name);
            let Some(mut fields) = Fields::new(item, name, item.span.into(), problems) else { continue };
            let webhook = fields.text("webhook", problems);
            let command = fields.text("command", problems);
            if let Some((url, span)) = &webhook
                && !url.starts_with("https://")
                && !url.starts_with("http://")
            {
                let what = format!("`webhook` in {} is no URL", fields.name);
                problems.add("D0013", span.clone(), what, "expected `https://…` or `http://…`");
            }
            match (webhook, command) {
                (Some((url, _)), None) => all.push(Callback { on: *on, to: CallTo::Webhook(url) }),
                (None, Some((command, _))) => all.push(Callback { on: *on, to: CallTo::Command(command) }),
                (None, None) => fields.missing("webhook", "a URL, or `command = …`", problems),
                (Some(_), Some((_, span))) => {
                    let what = format!("{} says two things at once", fields.name);
                    problems
                        .add("D0013", span, what, "there is a `webhook` already")
                        .fix(Some("write a list of two tables".to_owned()));
                }
            }
            fields.finish(problems);
        }
    }
    all
}

/// Unknown names in `after`, and loops.
fn check_order(tasks: &[Authored<'_, '_>], places: &HashMap<String, usize>, problems: &mut Problems<'_>) {
    for task in tasks {
        for (name, span) in &task.after {
            if !places.contains_key(name) {
                let known = tasks.iter().map(|other| other.def.id.as_str()).filter(|id| *id != task.def.id);
                problems
                    .add(
                        "D0008",
                        span.clone(),
                        format!("task `{}` comes after `{name}`, which does not exist", task.def.id),
                        "no such task",
                    )
                    .fix(suggest::hint(name, known));
            }
        }
    }
    let edges: Vec<(&str, Vec<&str>)> =
        tasks.iter().map(|task| (task.def.id.as_str(), task.def.after.iter().map(String::as_str).collect())).collect();
    for path in graph::loops(&edges) {
        let place = |id: &str| places.get(id).map(|place| &tasks[*place]);
        let edge = |id: &str, after: &str| {
            let task = place(id)?;
            task.after
                .iter()
                .find(|(name, _)| name == after)
                .map(|(_, span)| span.clone())
                .or_else(|| Some(task.at.clone()))
        };
        let mut places = Vec::new();
        for (index, id) in path.iter().enumerate() {
            let next = path.get(index + 1).unwrap_or(&path[0]);
            places.extend(edge(id, next).map(|span| (span, format!("`{id}` comes after `{next}`"))));
        }
        if places.is_empty() {
            continue;
        }
        let (span, label) = places.remove(0);
        let shown: Vec<&str> = path.iter().copied().chain(path.first().copied()).collect();
        let related = places.into_iter().map(|(span, label)| problems.related(span, label)).collect();
        let problem =
            problems.add("D0009", span, format!("tasks wait for each other: {}", shown.join(" after ")), label);
        problem
            .why("no task of the loop can ever start")
            .fix(Some("take one of these names out of its `after`".to_owned()));
        problem.related = related;
    }
}

/// All tasks that a task comes after, directly or not.
fn upstream_of(tasks: &[Authored<'_, '_>], places: &HashMap<String, usize>, id: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    let mut open = vec![id];
    while let Some(next) = open.pop() {
        for name in places.get(next).into_iter().flat_map(|place| &tasks[*place].def.after) {
            if known.insert(name) {
                found.push(name.clone());
                open.push(name);
            }
        }
    }
    found
}
