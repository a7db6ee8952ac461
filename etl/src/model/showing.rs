//! What readers see of a run's tables: each at once, or all together when the last is done.
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::project::{Materialization, Selection};
use super::run::{End, Ran};
use crate::error::Result;
use crate::table::{Lake, Publication, Shown, TableName};

/// When readers see what a run builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing<'a> {
    /// Each table as soon as it is committed. What the task `by` published together before, it does not any more; without
    /// `by`, a person built it, and what is published together moves on at the end.
    Each {
        /// The task.
        by: Option<&'a str>,
    },
    /// All tables of the run together, at its end, if all of them could be brought up to date.
    Together {
        /// The task.
        by: &'a str,
    },
}

/// The tables of a run's selection that have versions: not its views.
pub fn stored<'s>(selection: &'s Selection<'_>) -> impl Iterator<Item = &'s TableName> {
    let seeds = selection.seeds.iter().map(|seed| &seed.table);
    let models = selection.models.iter().filter(|model| model.materialization != Materialization::View);
    seeds.chain(models.map(|model| &model.table))
}

/// Lets readers see what a run came to, as `showing` says; `None` if they see it already, or must not.
///
/// # Errors
/// As [`Lake::publish`]. Readers then see what they saw, and the next run shows it.
pub async fn show(
    lake: &Lake,
    selection: &Selection<'_>,
    ran: &[Ran],
    showing: Showing<'_>,
    now: DateTime<Utc>,
) -> Result<Option<Publication>> {
    let version = |ran: &Ran| if let End::Done { version, .. } = ran.end { version } else { None };
    let versions: BTreeMap<String, u64> =
        ran.iter().filter_map(|ran| Some((ran.table.to_string(), version(ran)?))).collect();
    let wanted: BTreeSet<String> = stored(selection).map(ToString::to_string).collect();
    let mut ids = BTreeMap::new();
    let known = lake.publication().await?.tables;
    let together = matches!(showing, Showing::Together { .. });
    if !together && known.is_empty() {
        return Ok(None);
    }
    if together && !wanted.iter().all(|table| versions.contains_key(table)) {
        return Ok(None);
    }
    for table in stored(selection).filter(|table| together || known.contains_key(&table.to_string())) {
        if versions.contains_key(&table.to_string()) {
            ids.insert(table.to_string(), lake.table(table).await?.id());
        }
    }
    let shown = |table: &str, by: &str| {
        Some(Shown { version: *versions.get(table)?, id: ids.get(table)?.clone(), by: by.to_owned() })
    };
    let change = |tables: &mut BTreeMap<String, Shown>| match showing {
        Showing::Together { by } => {
            tables.retain(|table, old| old.by != by || wanted.contains(table));
            tables.extend(wanted.iter().filter_map(|table| Some((table.clone(), shown(table, by)?))));
        }
        Showing::Each { by: Some(by) } => tables.retain(|_, old| old.by != by),
        Showing::Each { by: None } => {
            for (table, old) in tables.iter_mut() {
                if let Some(new) = shown(table, &old.by) {
                    *old = new;
                }
            }
        }
    };
    let why = match showing {
        Showing::Together { by } | Showing::Each { by: Some(by) } => by,
        Showing::Each { by: None } => "models build",
    };
    lake.publish(why, now, change).await
}
