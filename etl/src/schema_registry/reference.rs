//! Schemas that use types of other schemas: making one text of them that can be read on its own.
use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::avro_name::{built_in, defined, defines, full, namespace};

/// Deeper than any JSON that is read afterwards may be.
const MAX_DEPTH: usize = 128;

/// Says that a schema uses types that a version of another subject defines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reference {
    /// The type's full name. For people: all types of the other schema can be used.
    pub name: String,
    /// The other subject.
    pub subject: String,
    /// Its version, from 1.
    pub version: i32,
}

/// Gives `schema` with the definition of each type that it uses and does not define, from `others`, where it uses it first.
///
/// `others`: texts that need nothing else. What they do not define either is left for the parser to complain about.
///
/// # Errors
/// If a text is not JSON, or the result would be nested too deep to be read; in words.
pub(super) fn resolve(schema: &str, others: &[&str]) -> Result<String, String> {
    if others.is_empty() {
        return Ok(schema.to_owned());
    }
    let read = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    let mut definitions = HashMap::new();
    for other in others {
        collect(&read(other)?, "", &mut definitions);
    }
    let mut main = read(schema)?;
    let mut own = HashMap::new();
    collect(&main, "", &mut own);
    // A type of its own goes before one from elsewhere.
    definitions.retain(|name, _| !own.contains_key(name));
    Inline { definitions, seen: HashSet::new() }.schema(&mut main, "", 0)?;
    Ok(main.to_string())
}

/// All types that are defined in `schema`, by full name, each with its name written in full.
fn collect(schema: &Value, enclosing: &str, types: &mut HashMap<String, Value>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| collect(branch, enclosing, types)),
        Value::Object(parts) => {
            let mut inside = enclosing.to_owned();
            if defines(parts) {
                let name = defined(parts, enclosing);
                namespace(&name).clone_into(&mut inside);
                types.entry(name.clone()).or_insert_with(|| Value::Object(named(parts, &name)));
            }
            for part in parts_with_types(parts) {
                collect(part, &inside, types);
            }
        }
        _ => {}
    }
}

/// A definition that means the same wherever it stands.
fn named(parts: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let mut parts = parts.clone();
    let short = name.rsplit('.').next().unwrap_or(name);
    parts.insert("name".to_owned(), short.into());
    parts.insert("namespace".to_owned(), namespace(name).into());
    parts
}

/// The schemas right inside a schema object.
fn parts_with_types(parts: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let fields = parts.get("fields").and_then(Value::as_array).into_iter().flatten();
    ["type", "items", "values"]
        .into_iter()
        .filter_map(|key| parts.get(key))
        .chain(fields.filter_map(|field| field.get("type")))
}

struct Inline {
    definitions: HashMap<String, Value>,
    /// What has been defined before this place.
    seen: HashSet<String>,
}

impl Inline {
    fn schema(&mut self, schema: &mut Value, enclosing: &str, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("with its references it is nested deeper than {MAX_DEPTH} levels"));
        }
        match schema {
            Value::String(name) if !built_in(name) => {
                let name = full(name, enclosing);
                if self.seen.contains(&name) {
                    *schema = Value::String(said(&name, enclosing));
                } else if let Some(definition) = self.definitions.get(&name) {
                    *schema = definition.clone();
                    self.schema(schema, enclosing, depth)?;
                }
                Ok(())
            }
            Value::Array(branches) => {
                branches.iter_mut().try_for_each(|branch| self.schema(branch, enclosing, depth + 1))
            }
            Value::Object(parts) => {
                let mut inside = enclosing.to_owned();
                if defines(parts) {
                    let name = defined(parts, enclosing);
                    if !self.seen.insert(name.clone()) && self.definitions.contains_key(&name) {
                        // It is inside a definition that was put in, and an earlier one brought it already.
                        *schema = Value::String(said(&name, enclosing));
                        return Ok(());
                    }
                    namespace(&name).clone_into(&mut inside);
                }
                for key in ["type", "items", "values"] {
                    if let Some(part) = parts.get_mut(key) {
                        self.schema(part, &inside, depth + 1)?;
                    }
                }
                for field in parts.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(kind) = field.get_mut("type") {
                        self.schema(kind, &inside, depth + 3)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A full name as it must be said in a namespace.
fn said(name: &str, enclosing: &str) -> String {
    if name.contains('.') || enclosing.is_empty() { name.to_owned() } else { format!(".{name}") }
}
