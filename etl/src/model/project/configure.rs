//! What can be configured for a model, a seed, a snapshot or a check.
use std::collections::BTreeMap;

use serde_json::Value as Json;

/// Values by key, without `+`.
pub(super) type Config = BTreeMap<String, Json>;

/// A key and whether it does something here. dbt's keys that have no meaning for Delta tables are taken and do nothing.
pub(super) const KEYS: &[(&str, bool)] = &[
    ("materialized", true),
    ("schema", true),
    ("alias", true),
    ("enabled", true),
    ("tags", true),
    ("description", true),
    ("unique_key", true),
    ("meta", false),
    ("docs", false),
    ("persist_docs", false),
    ("group", false),
    ("access", false),
    ("contract", false),
    ("database", false),
    ("grants", false),
    ("quoting", false),
    ("full_refresh", false),
    // Of incremental models. A strategy is chosen by proof; dbt's hints change nothing.
    ("incremental_strategy", false),
    ("on_schema_change", false),
    ("on_configuration_change", false),
    ("merge_update_columns", false),
    ("merge_exclude_columns", false),
    ("incremental_predicates", false),
    ("event_time", false),
    ("batch_size", false),
    ("lookback", false),
    ("begin", false),
    ("emit", true),
    ("watermark", true),
    ("partition_by", false),
    ("cluster_by", false),
    ("rejected", true),
    // Of snapshots.
    ("strategy", true),
    ("updated_at", true),
    ("check_cols", true),
    ("hard_deletes", true),
    ("invalidate_hard_deletes", true),
    ("target_schema", true),
    ("target_database", false),
    // Of seeds.
    ("column_types", true),
    ("delimiter", true),
    ("quote_columns", false),
    // Of checks.
    ("severity", true),
    ("where", true),
    ("error_if", true),
    ("warn_if", true),
    ("limit", false),
    ("store_failures", false),
    ("store_failures_as", false),
    ("name", true),
    // What other databases are told.
    ("transient", false),
    ("sort", false),
    ("sort_type", false),
    ("dist", false),
    ("bind", false),
    ("indexes", false),
    ("unlogged", false),
    ("file_format", false),
    ("location_root", false),
    ("tblproperties", false),
    ("table_properties", false),
    ("labels", false),
    ("snowflake_warehouse", false),
    ("query_tag", false),
    ("copy_grants", false),
    ("secure", false),
    ("automatic_clustering", false),
    ("table_type", false),
    ("hours_to_expiration", false),
    ("require_partition_filter", false),
];

/// Keys that would run statements, which there are none of.
pub(super) const HOOKS: &[&str] = &["pre_hook", "post_hook", "pre-hook", "post-hook", "sql_header"];

pub(super) fn is_known(key: &str) -> bool {
    KEYS.iter().any(|(known, _)| *known == key) || HOOKS.contains(&key)
}

/// Sets a value over what was there; tags and meta add up.
pub(super) fn set(config: &mut Config, key: &str, value: Json) {
    match (key, config.get_mut(key), value) {
        ("tags", Some(old), value) => {
            let mut all = texts(old);
            all.extend(texts(&value));
            *old = all.into();
        }
        ("tags", None, value) => drop(config.insert(key.to_owned(), texts(&value).into())),
        ("meta" | "column_types", Some(Json::Object(old)), Json::Object(new)) => old.extend(new),
        (_, _, value) => drop(config.insert(key.to_owned(), value)),
    }
}

/// The texts of a list, or the one text.
pub(super) fn texts(value: &Json) -> Vec<String> {
    match value {
        Json::String(text) => vec![text.clone()],
        Json::Array(items) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn text<'c>(config: &'c Config, key: &str) -> Option<&'c str> {
    config.get(key).and_then(Json::as_str)
}

/// The name that differs least, if it differs little.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
