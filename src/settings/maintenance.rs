//! `[maintenance]`, and what differs for single tables under `[tables."schema.table"]`.
use std::time::Duration;

use tidemill_etl::table::maintain::{Compaction, LEAST_LOG_RETENTION, Policy};
use tidemill_etl::table::{Policies, TableName};

use super::{Typed, parse_duration};
use crate::suggest;

/// How tables are kept in shape.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Maintenance {
    /// For all tables, and for single ones.
    pub(crate) policies: Policies,
    /// The least retention that a vacuum by hand takes.
    pub(crate) vacuum_least: Duration,
}

/// What can be set for one table.
const KEYS: &[&str] = &[
    "enabled",
    "checkpoint_every",
    "small_file",
    "target_file",
    "min_files",
    "min_age",
    "log_retention",
    "clean_every",
    "vacuum_retention",
    "vacuum_every",
];

impl Typed<'_> {
    pub(super) fn maintenance(&mut self) -> Maintenance {
        let mut policies = Policies { all: self.policy("maintenance", KEYS, Policy::default()), ..Policies::default() };
        let mut tables: Vec<(TableName, Vec<String>)> = Vec::new();
        for (key, rest) in self.names("tables") {
            let (table, name) = rest.rsplit_once('.').unwrap_or(("", &rest));
            let problem = match table.parse::<TableName>() {
                Err(_) => Some("expected `[tables.\"schema.table\"]` with keys of `[maintenance]`".to_owned()),
                Ok(_) if !KEYS.contains(&name) => {
                    Some(suggest::hint(name, KEYS.iter().copied()).unwrap_or_else(|| "no such key".to_owned()))
                }
                Ok(table) => {
                    match tables.iter_mut().find(|(known, _)| *known == table) {
                        Some((_, names)) => names.push(name.to_owned()),
                        None => tables.push((table, vec![name.to_owned()])),
                    }
                    None
                }
            };
            if let (Some(label), Some(entry)) = (problem, self.take(&key)) {
                self.wrong("S0004", &key, &entry.origin, &label, false);
            }
        }
        for (table, names) in tables {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let policy = self.policy(&format!("tables.{table}"), &names, policies.all);
            policies.of.insert(table, policy);
        }
        Maintenance { policies, vacuum_least: self.time("maintenance.vacuum_least", Duration::ZERO) }
    }

    /// `base` with the keys `names` of a section.
    fn policy(&mut self, section: &str, names: &[&str], base: Policy) -> Policy {
        let mut policy = base;
        for name in names {
            let key = format!("{section}.{name}");
            let Compaction { small_bytes, target_bytes, min_files, min_age } = &mut policy.compaction;
            match *name {
                "enabled" => policy.enabled = self.boolean(&key),
                "checkpoint_every" => policy.checkpoint_every = self.integer(&key, 1, 1_000_000),
                "small_file" => *small_bytes = self.size(&key, 0).0,
                "target_file" => *target_bytes = self.size(&key, 1 << 20).0,
                "min_files" => *min_files = usize::try_from(self.integer(&key, 2, 1_000_000)).unwrap_or(usize::MAX),
                "min_age" => *min_age = self.time(&key, Duration::ZERO),
                "log_retention" => policy.log_retention = self.time(&key, LEAST_LOG_RETENTION),
                "clean_every" => policy.clean_every = self.time(&key, Duration::ZERO),
                "vacuum_retention" => policy.vacuum_retention = self.time(&key, LEAST_LOG_RETENTION),
                _ => policy.vacuum_every = self.time(&key, Duration::ZERO),
            }
        }
        policy
    }

    fn time(&mut self, key: &str, least: Duration) -> Duration {
        let parse = |text: &str| match parse_duration(text)? {
            time if time < least => Err(format!("must be at least {} minutes", least.as_secs() / 60)),
            time => Ok(time),
        };
        self.parsed(key, parse).unwrap_or(least)
    }
}
