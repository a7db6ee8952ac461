//! When two texts are one schema, and get one id.
use serde_json::{Map, Value};

use super::avro_name::{built_in, defined, defines, full, namespace};

/// Whether two texts are the same schema: equal in their normal form.
pub(super) fn same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (normal(one), normal(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// A schema's JSON in the form in which equal schemas are equal; `None` if the text is not JSON.
///
/// White space and the order of keys do not matter, nor whether a name is written with its namespace or gets it from where
/// it stands, `{"type": "int"}` or `"int"`, and what is said although it is the default (`"order": "ascending"`, no aliases).
/// All else does: defaults, aliases and logical types, which Avro's canonical form leaves out although they change
/// what a reader sees; and `doc`, so that a better explanation can be published as a new version.
pub(super) fn normal(text: &str) -> Option<Value> {
    Some(schema(serde_json::from_str(text).ok()?, ""))
}

fn schema(value: Value, enclosing: &str) -> Value {
    match value {
        Value::String(name) if built_in(&name) => Value::String(name),
        Value::String(name) => Value::String(full(&name, enclosing)),
        Value::Array(branches) => Value::Array(branches.into_iter().map(|branch| schema(branch, enclosing)).collect()),
        Value::Object(parts) => object(parts, enclosing),
        other => other,
    }
}

fn object(mut parts: Map<String, Value>, enclosing: &str) -> Value {
    let mut inside = enclosing.to_owned();
    if defines(&parts) {
        let name = defined(&parts, enclosing);
        namespace(&name).clone_into(&mut inside);
        parts.remove("namespace");
        parts.insert("name".to_owned(), Value::String(name));
        aliases(&mut parts, |alias| full(alias, &inside));
    } else if parts.len() == 1
        && let Some(only) = parts.remove("type")
    {
        return schema(only, enclosing);
    }
    for (key, value) in &mut parts {
        match key.as_str() {
            "type" | "items" | "values" => *value = schema(value.take(), &inside),
            "fields" => {
                for one in value.as_array_mut().into_iter().flatten() {
                    field(one, &inside);
                }
            }
            _ => {}
        }
    }
    Value::Object(parts)
}

fn field(value: &mut Value, enclosing: &str) {
    let Value::Object(parts) = value else { return };
    if let Some(kind) = parts.get_mut("type") {
        *kind = schema(kind.take(), enclosing);
    }
    if parts.get("order").and_then(Value::as_str) == Some("ascending") {
        parts.remove("order");
    }
    aliases(parts, str::to_owned);
}

fn aliases(parts: &mut Map<String, Value>, name: impl Fn(&str) -> String) {
    let Some(Value::Array(aliases)) = parts.get_mut("aliases") else { return };
    if aliases.is_empty() {
        parts.remove("aliases");
        return;
    }
    for alias in aliases {
        if let Value::String(text) = alias {
            *text = name(text);
        }
    }
}
