//! New versions of tables that DAGs are triggered by, whoever commits them.
//!
//! A version is the file of its number in the table's log: so each look asks for one file per table, and lists nothing. What was recorded last says
//! where to go on, so versions that came while nothing ran are events, too; only what was there before the trigger was first seen is not.
use std::collections::BTreeMap;
use std::time::Duration;

use object_store::ObjectStoreExt as _;
use serde_json::json;
use tidemill_etl::table::{Lake, TableName};
use tidemill_orchestrator::OrchestratorError;
use tidemill_orchestrator::dag::{EventOf, Trigger};
use tidemill_orchestrator::history::{Change, Event};
use tokio_util::sync::CancellationToken;

use crate::failure::Result;
use crate::runner::Runner;

/// How often logs on this machine's disk are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How often logs elsewhere are looked at: each look is a request that somebody pays for.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(500);

/// A trigger, as (DAG, number), and its table.
type Watched = BTreeMap<(String, u32), String>;

/// Records each new version as an event, until stopped. Storage and history that fail are asked again.
pub(crate) async fn watch(runner: &Runner, stop: &CancellationToken) {
    let mut known: BTreeMap<(String, u32), (String, i64)> = BTreeMap::new();
    let mut said = false;
    let every = if runner.house.project.settings.lake.url.scheme() == "file" { LOOK } else { LOOK_ELSEWHERE };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let watched = watched(runner);
        known.retain(|trigger, (table, _)| watched.get(trigger) == Some(table));
        match look(runner, &watched, &mut known).await {
            Ok(()) => said = false,
            Err(failure) if !said => {
                tracing::warn!(
                    what = failure.parts().what,
                    why = failure.parts().why,
                    "cannot look for new versions of tables"
                );
                said = true;
            }
            Err(_) => {}
        }
    }
}

fn watched(runner: &Runner) -> Watched {
    let dags = runner.scheduler.dags();
    let mut watched = Watched::new();
    for dag in dags.iter() {
        for (trigger, number) in dag.triggers.iter().zip(0..) {
            if let Trigger::Event(trigger) = trigger
                && let EventOf::Table(table) = &trigger.of
            {
                watched.insert((dag.id.clone(), number), table.clone());
            }
        }
    }
    watched
}

async fn look(runner: &Runner, watched: &Watched, known: &mut BTreeMap<(String, u32), (String, i64)>) -> Result<()> {
    if watched.is_empty() {
        return Ok(());
    }
    let lake = runner.house.lake().await?;
    for ((dag, trigger), table) in watched {
        let key = (dag.clone(), *trigger);
        let Ok(name) = table.parse::<TableName>() else { continue };
        let last = match known.get(&key) {
            Some((_, last)) => *last,
            None => begin(runner, lake, dag, *trigger, &name).await?,
        };
        known.insert(key.clone(), (table.clone(), last));
        let mut next = last + 1;
        let mut shown = None;
        while has_version(lake, &name, next).await? {
            // What is published together is new when readers see it.
            let upto = match shown {
                Some(upto) => upto,
                None => *shown.insert(shown_upto(lake, &name).await?),
            };
            if next > upto {
                break;
            }
            record(runner, dag, *trigger, table, next, false)?;
            known.insert(key.clone(), (table.clone(), next));
            next += 1;
        }
    }
    Ok(())
}

/// Where to go on.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    /// Behind this version.
    Behind(i64),
    /// With this one, which is an event.
    With(i64),
    /// Behind this one, which was there before the trigger.
    First(i64),
}

/// Decides it from the version that was recorded last, the newest one (-1: there is no table) and whether the version
/// behind the recorded one is still in the log. A log that was cleaned meanwhile, or a table that was made anew, does not
/// have it: then the newest version stands for all of them.
fn beginning(recorded: Option<i64>, newest: i64, next_is_there: bool) -> Begin {
    match recorded {
        None => Begin::First(newest),
        Some(last) if last == newest || (last < newest && next_is_there) => Begin::Behind(last),
        Some(_) if newest < 0 => Begin::Behind(newest),
        Some(_) => Begin::With(newest),
    }
}

/// The version to go on from.
async fn begin(runner: &Runner, lake: &Lake, dag: &str, trigger: u32, name: &TableName) -> Result<i64> {
    let last = runner.history.last_event(dag, trigger).map_err(OrchestratorError::from)?;
    let recorded: Option<i64> = last.as_deref().and_then(|key| key.strip_prefix(&format!("{name}@"))?.parse().ok());
    let newest = lake.try_table(name).await?.map_or(-1, |table| i64::try_from(table.version()).unwrap_or(-1));
    let newest = newest.min(shown_upto(lake, name).await?);
    let next_is_there = match recorded {
        Some(last) => has_version(lake, name, last + 1).await?,
        None => false,
    };
    match beginning(recorded, newest, next_is_there) {
        Begin::Behind(version) => Ok(version),
        Begin::With(version) => {
            record(runner, dag, trigger, &name.to_string(), version, false)?;
            Ok(version)
        }
        Begin::First(version) => {
            record(runner, dag, trigger, &name.to_string(), version, true)?;
            Ok(version)
        }
    }
}

fn record(runner: &Runner, dag: &str, trigger: u32, table: &str, version: i64, past: bool) -> Result<()> {
    let event = Event {
        dag: dag.to_owned(),
        trigger,
        key: format!("{table}@{version}"),
        body: json!({ "table": table, "version": version }),
    };
    let change = Change::Event { event: Box::new(event), end_of: None, past };
    // Refused: another process was faster, or it was recorded before a crash.
    runner.history.apply("", runner.house.clock.now(), &[change]).map_err(OrchestratorError::from)?;
    Ok(())
}

/// The newest version of the table that readers see, if it is published together with others; nothing limits one that is
/// not. (One made anew has lower numbers than the one that was published.)
async fn shown_upto(lake: &Lake, name: &TableName) -> Result<i64> {
    let shown = lake.publication().await?.tables.remove(&name.to_string());
    Ok(shown.and_then(|shown| i64::try_from(shown.version).ok()).unwrap_or(i64::MAX))
}

async fn has_version(lake: &Lake, name: &TableName, version: i64) -> Result<bool> {
    let path = lake.path(&format!("{}/_delta_log/{version:020}.json", name.to_string().replace('.', "/")));
    match lake.store().head(&path).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(crate::failure::Failure::new("X0002", format!("cannot look for versions of `{name}`"))
            .why(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleaned_log_or_a_table_made_anew_stops_no_trigger() {
        for (recorded, newest, next_is_there, wanted) in [
            (None, 7, false, Begin::First(7)),
            (None, -1, false, Begin::First(-1)),
            (Some(7), 7, false, Begin::Behind(7)),
            (Some(7), 9, true, Begin::Behind(7)),
            // Versions 8 and on were cleaned away up to 40; what is left is told once.
            (Some(7), 41, false, Begin::With(41)),
            // Dropped, and dropped and made again.
            (Some(7), -1, false, Begin::Behind(-1)),
            (Some(7), 2, false, Begin::With(2)),
        ] {
            assert_eq!(beginning(recorded, newest, next_is_there), wanted, "{recorded:?}, {newest}, {next_is_there}");
        }
    }
}
