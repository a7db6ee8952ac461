//! Names of Avro types in a schema's JSON: which are built in, and what a short one means where it stands.
use serde_json::{Map, Value};

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// Whether a type's name is Avro's own: of a primitive type, or the word for a kind of complex type.
pub(super) fn built_in(name: &str) -> bool {
    PRIMITIVES.contains(&name) || matches!(name, "record" | "error" | "enum" | "fixed" | "array" | "map")
}

/// Whether a schema object defines a type with a name.
pub(super) fn defines(schema: &Map<String, Value>) -> bool {
    matches!(schema.get("type").and_then(Value::as_str), Some("record" | "error" | "enum" | "fixed"))
        && schema.get("name").is_some_and(Value::is_string)
}

/// The full name that `name` has in `namespace`; both empty and absent namespaces are none.
pub(super) fn full(name: &str, namespace: &str) -> String {
    if name.contains('.') {
        // `.Name` says that it is in no namespace.
        return name.strip_prefix('.').unwrap_or(name).to_owned();
    }
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// The full name of a type that is defined in `enclosing`.
pub(super) fn defined(schema: &Map<String, Value>, enclosing: &str) -> String {
    let name = schema.get("name").and_then(Value::as_str).unwrap_or_default();
    full(name, schema.get("namespace").and_then(Value::as_str).unwrap_or(enclosing))
}

/// The namespace of a full name; empty: none.
pub(super) fn namespace(full: &str) -> &str {
    full.rsplit_once('.').map_or("", |(namespace, _)| namespace)
}
