//! The JSON Schema of a DAG file, for editors: completion and checks while typing.
use serde_json::{Map, Value, json};

use super::{BATCHES, KeySpec, KindSpec, ON_CRASH, ParamType, Shape};
use crate::rule::RULES;
use crate::schedule::clock_change::{GAPS, OVERLAPS};

/// Returns the JSON Schema (draft 2020-12) of a DAG file whose tasks are of these kinds.
pub fn schema(kinds: &[KindSpec]) -> Value {
    let generic = generic_task_keys(kinds);
    let by_kind: Vec<Value> = kinds.iter().map(|kind| of_kind(kind, &generic)).collect();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Tidemill DAG",
        "description": "dags/NAME.toml: what runs when",
        "type": "object",
        "required": ["tasks"],
        "additionalProperties": false,
        "properties": {
            "description": text("One line for people"),
            "tags": {"description": "Words to find it by", "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "max_active_runs": {"type": "integer", "minimum": 1, "default": 1, "description": "How many of its runs may be under way at once"},
            "max_active_tasks": {"type": "integer", "minimum": 1, "description": "How many of its tasks may run at once, in all its runs"},
            "deadline": duration("How long after its start a run should have ended"),
            "on_failure": calls("when a run failed"),
            "on_success": calls("when a run succeeded"),
            "on_retry": calls("when a task of a run is tried again"),
            "on_deadline": calls("when a run has not ended in time"),
            "triggers": {"type": "array", "items": {"oneOf": triggers()}, "description": "What starts runs"},
            "params": {"type": "object", "propertyNames": name(), "additionalProperties": param(), "description": "What a run can be given"},
            "defaults": {"type": "object", "additionalProperties": false, "properties": retry_keys(), "description": "For tasks that do not say otherwise"},
            "tasks": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": name(),
                "description": "The tasks by name",
                "additionalProperties": {
                    "type": "object",
                    "required": ["kind"],
                    "properties": {"kind": {"enum": names}},
                    "allOf": by_kind,
                },
            },
        },
        "$defs": {
            "duration": {"type": "string", "pattern": "^\\s*([0-9]+\\s*(ms|s|m|h|d|w)\\s*)+$", "examples": ["30s", "1h30m"]},
            "template": {"type": "string", "pattern": "\\{\\{|\\{%"},
        },
    })
}

fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

fn name() -> Value {
    json!({"pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$"})
}

fn duration(about: &str) -> Value {
    json!({"$ref": "#/$defs/duration", "description": about})
}

fn triggers() -> Value {
    json!([
        {
            "type": "object", "required": ["kind", "path"], "additionalProperties": false, "title": "A file that arrives",
            "properties": {
                "kind": {"const": "file"},
                "path": text("The pattern, relative to the project folder"),
                "param": text("The param of the run that gets the path"),
                "settle": duration("For how long size and modification time must be unchanged (default 2s)"),
                "marker": text("It has arrived when there is a file beside it whose name has this more at its end"),
                "min_size": {"type": "integer", "minimum": 1, "description": "It has not arrived while it is smaller, in bytes"},
                "batch": {"enum": ["each"], "default": "each", "description": "Each file starts one run"},
            },
        },
        {
            "type": "object", "required": ["kind", "cron"], "additionalProperties": false, "title": "The clock",
            "properties": schedule(&json!({
                "kind": {"const": "cron"},
                "cron": text("Five fields (minute hour day-of-month month day-of-week), six with seconds first, or @daily and the like"),
                "gap": {"enum": names(GAPS), "default": "next", "description": "What a fixed time does that a change of clocks leaves out: not tick, tick at the first instant after it, or when it would have come by the old clock"},
                "overlap": {"enum": names(OVERLAPS), "default": "first", "description": "When a fixed time ticks that comes twice"},
            })),
        },
        {
            "type": "object", "required": ["kind", "every"], "additionalProperties": false, "title": "Every so often",
            "properties": schedule(&json!({
                "kind": {"const": "every"},
                "every": duration("How often, counted from `start`, or from 1970"),
            })),
        },
        {
            "type": "object", "required": ["kind", "dag"], "additionalProperties": false, "title": "Another DAG",
            "properties": event(&json!({
                "kind": {"const": "dag"},
                "dag": text("The DAG whose runs start runs of this one"),
                "when": {"enum": ["success", "any"], "default": "success", "description": "After which of its runs"},
            })),
        },
        {
            "type": "object", "required": ["kind", "table"], "additionalProperties": false, "title": "A new version of a table",
            "properties": event(&json!({"kind": {"const": "table"}, "table": text("The table, `schema.table`")})),
        },
        {
            "type": "object", "required": ["kind"], "additionalProperties": false, "title": "Whenever no run is under way",
            "properties": {"kind": {"const": "continuous"}},
        },
    ])
}

fn names<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(name, _)| *name).collect()
}

/// What every trigger by an event takes, after its own keys.
fn event(own: &Value) -> Value {
    let mut all = own.clone();
    all["batch"] = json!({"enum": names(BATCHES), "default": "each", "description": "Each event starts a run, or one run all since the last"});
    all["param"] = text("The param of the run that gets what happened: an object, or with `all` an array of them");
    all
}

/// What every trigger by the clock takes, after its own keys.
fn schedule(own: &Value) -> Value {
    let dates = |about: &str| json!({"description": about, "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]});
    let mut all = own.clone();
    all["timezone"] = json!({"type": "string", "default": "UTC", "description": "An IANA time zone"});
    all["start"] = text("The earliest start of an interval");
    all["catch_up"] =
        json!({"type": "boolean", "default": false, "description": "Whether missed intervals are made up for"});
    all["catch_up_limit"] =
        json!({"type": "integer", "minimum": 1, "description": "How many of them at most, the latest ones"});
    all["include_dates"] = dates("Only on these days: dates, or files of dates beside the DAG file");
    all["exclude_dates"] = dates("Not on these days: dates, or files of dates beside the DAG file");
    all
}

fn param() -> Value {
    let types: Vec<&str> = ParamType::ALL.iter().map(|(name, _)| *name).collect();
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "type": {"enum": types, "default": "string"},
            "default": {"description": "Used when a run is not given one; without it the param is required"},
            "about": text("One line for people"),
        },
    })
}

fn retry_keys() -> Value {
    json!({
        "retries": {"type": "integer", "minimum": 0, "default": 0, "description": "Attempts after the first"},
        "retry_delay": duration("Wait before the second attempt; it doubles from there (default 5s)"),
        "retry_max_delay": duration("The longest wait (default 1h)"),
        "retry_on": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "description": "Codes of failures to try again after, such as D0110 or K*; without it, all that may pass by themselves"},
        "timeout": duration("The longest an attempt may take"),
    })
}

fn generic_task_keys(kinds: &[KindSpec]) -> Map<String, Value> {
    let rules: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    let mut keys = retry_keys().as_object().cloned().unwrap_or_default();
    keys.insert("kind".to_owned(), json!({"enum": names}));
    keys.insert("after".to_owned(), json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "description": "The tasks it comes after"}));
    keys.insert("trigger_rule".to_owned(), json!({"enum": rules, "default": "all_success", "description": "When it starts, given how the tasks before it ended"}));
    keys.insert("about".to_owned(), text("One line for people"));
    for (name, value) in policy_keys().as_object().into_iter().flatten() {
        keys.insert(name.clone(), value.clone());
    }
    keys
}

fn policy_keys() -> Value {
    json!({
        "priority": {"type": "integer", "default": 0, "description": "Tasks of a higher number go first when slots are short"},
        "pool": text("The pool it takes slots of"),
        "pool_slots": {"type": "integer", "minimum": 1, "default": 1, "description": "How many slots of the pool"},
        "concurrency_key": text("Of tasks with an equal key only so many run at once; may be a template"),
        "concurrency_limit": {"type": "integer", "minimum": 1, "default": 1, "description": "How many"},
        "on_crash": {"enum": names(ON_CRASH), "default": "rerun", "description": "What becomes of an attempt whose process died"},
        "map": {"anyOf": [{"type": "array"}, {"$ref": "#/$defs/template"}], "description": "Run it once for each item of this list; settings may name `item` and `index`"},
        "map_limit": {"type": "integer", "minimum": 1, "description": "How many items may be under way at once"},
        "deadline": duration("How long after the start of its run it should have ended"),
        "on_failure": calls("when it failed for good"),
        "on_success": calls("when it succeeded"),
        "on_retry": calls("when it is tried again"),
        "on_deadline": calls("when it has not ended in time"),
    })
}

fn calls(when: &str) -> Value {
    let one = json!({
        "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
        "properties": {"webhook": text("A URL that gets JSON by POST"), "command": text("A shell command that gets JSON on standard input")},
    });
    json!({"description": format!("Whom to tell {when}"), "oneOf": [one, {"type": "array", "items": one}]})
}

fn of_kind(kind: &KindSpec, generic: &Map<String, Value>) -> Value {
    let mut properties = generic.clone();
    for key in kind.keys {
        properties.insert(key.name.to_owned(), setting(key));
    }
    let required: Vec<&str> = kind.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({
        "if": {"properties": {"kind": {"const": kind.name}}, "required": ["kind"]},
        "then": {"description": kind.about, "properties": properties, "required": required, "additionalProperties": false},
    })
}

fn setting(key: &KeySpec) -> Value {
    let plain = match key.shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Integer => json!({"type": "integer"}),
        Shape::Number => json!({"type": "number"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Duration => json!({"$ref": "#/$defs/duration"}),
        Shape::ListOfText => json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        Shape::Table => json!({"type": "object"}),
        Shape::Any => json!({}),
    };
    let mut about = key.about.to_owned();
    if let Some(default) = key.default {
        about = format!("{about} (default {default})");
    }
    if matches!(key.shape, Shape::Text | Shape::Any | Shape::ListOfText) {
        let mut plain = plain;
        plain["description"] = Value::String(about);
        return plain;
    }
    json!({"anyOf": [plain, {"$ref": "#/$defs/template"}], "description": about})
}
