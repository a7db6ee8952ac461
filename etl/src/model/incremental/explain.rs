//! What would be done for a model, and why not less.
use std::collections::BTreeMap;

use serde::Serialize;

use super::delta::{Rules, Stop};
use super::input::Input;
use super::proof::scans;
use super::refresh::{Reading, Way, choose};
use super::scratch::Scratch;
use super::{Class, KeyStep};
use crate::engine::Engine;
use crate::error::Result;
use crate::model::build::{opened, planned};
use crate::model::project::{Materialization, Model, Project};
use crate::table::{Changed, TableName, storable};

/// How a model keeps up with one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputClass {
    /// The table.
    pub input: String,
    /// What happens to it: `appended`, or `changed` (rows change or go).
    pub when: &'static str,
    /// What is done then.
    pub class: Class,
    /// The keys that are affected, and what is computed by them, from the tables up.
    pub keys: Vec<KeyStep>,
    /// Whether rows as they were before are read too.
    pub reads_old: bool,
    /// Why no cheaper class applies; `None` for the cheapest.
    pub why: Option<String>,
}

/// What waits to be read of one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// The table.
    pub input: String,
    /// The version last read; `None`: none.
    pub from: Option<u64>,
    /// Its newest version.
    pub to: u64,
    /// Files with the change.
    pub files: usize,
    /// Their bytes, as far as the log says.
    pub bytes: u64,
    /// Why the change is not known, if it is not.
    pub unknown: Option<String>,
}

/// All that is known of how a model keeps up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The model.
    pub model: String,
    /// The dearest of its classes, for rows that are added to its inputs.
    pub class: Class,
    /// Input by input.
    pub inputs: Vec<InputClass>,
    /// What a build would read now.
    pub pending: Vec<Pending>,
}

/// Works out the classes of `model`, running nothing.
///
/// # Errors
/// As [`build`](crate::model::build), short of running the SELECT.
pub async fn explain(engine: &Engine, project: &Project, model: &Model) -> Result<Explained> {
    let inputs = opened(engine, project, model).await?;
    let reading = planned(engine, model, &inputs).await?;
    let schema = storable(reading.plan.schema().as_arrow());
    let scratch = Scratch::new(engine.spill_dir()).map_err(|e| engine.failed(e))?;
    let mut classes = Vec::new();
    let read = scans(&reading.plan);
    for name in inputs.keys().filter(|name| read.contains(*name)) {
        for adds_only in [true, false] {
            let imagined: BTreeMap<TableName, Input> = inputs
                .iter()
                .map(|(other, table)| {
                    let input = if other == name { Input::imagined(table, adds_only) } else { Input::still(table) };
                    (other.clone(), input)
                })
                .collect();
            let when = if adds_only { "appended" } else { "changed" };
            let class = classified(&reading, model, &imagined, &scratch, &schema).await;
            classes.push(InputClass { input: name.to_string(), when, ..class.map_err(|e| engine.failed(e))? });
        }
    }
    let class = classes.iter().filter(|c| c.when == "appended").map(|c| c.class).max().unwrap_or(Class::Full);
    let mut pending = Vec::new();
    let table = engine.lake().try_table(&model.table).await?;
    for (name, input) in &inputs {
        let from = match &table {
            Some(table) => {
                table.txn(&format!("{}/{name}", model.name)).await?.and_then(|from| u64::try_from(from).ok())
            }
            None => None,
        };
        let mut waits =
            Pending { input: name.to_string(), from, to: input.version(), files: 0, bytes: 0, unknown: None };
        match from {
            None => {
                let files = input.files()?;
                waits.files = files.len();
                waits.bytes = files.iter().filter_map(|file| u64::try_from(file.size).ok()).sum();
            }
            Some(from) => match input.change(from).await? {
                Changed::Known(change) => (waits.files, waits.bytes) = (change.files(), change.bytes),
                Changed::Unknown(why) => waits.unknown = Some(why),
            },
        }
        pending.push(waits);
    }
    Ok(Explained { model: model.name.clone(), class, inputs: classes, pending })
}

async fn classified(
    reading: &Reading,
    model: &Model,
    inputs: &BTreeMap<TableName, Input>,
    scratch: &Scratch,
    schema: &arrow::datatypes::SchemaRef,
) -> Result<InputClass, datafusion::error::DataFusionError> {
    let full = |why: String| InputClass {
        input: String::new(),
        when: "",
        class: Class::Full,
        keys: Vec::new(),
        reads_old: true,
        why: Some(why),
    };
    match model.materialization {
        Materialization::Incremental => {}
        Materialization::Table => {
            return Ok(full("it is kept as a table: say `materialized='incremental'`".to_owned()));
        }
        Materialization::Snapshot => {
            return Ok(full("it is a snapshot: what its SELECT gives now is compared with its open rows".to_owned()));
        }
        Materialization::View => return Ok(full("it is a view: it is computed when it is read".to_owned())),
    }
    let inexact = match &reading.inexact {
        Ok(inexact) => inexact,
        Err(refusal) => return Ok(full(refusal.to_string())),
    };
    let state = reading.session.context().state();
    let mut rules = Rules { state, inputs, scratch, dry: true, steps: Vec::new(), reads_old: false, aliases: 0 };
    let way = choose(&mut rules, &reading.plan, schema, inexact).await;
    let (class, why) = match way {
        Ok(Way::Nothing) => (Class::Nothing, None),
        Ok(Way::Append(_)) => (Class::RowWise, None),
        Ok(Way::Combine { .. }) => {
            let what = rules.steps.first().map(|step| step.what.clone()).unwrap_or_default();
            (Class::Combine, Some(format!("not row by row: `{what}` takes rows together")))
        }
        Ok(Way::Rows(_) | Way::Keys { .. } | Way::Sessions { .. }) => {
            let why = match rules.steps.first() {
                Some(step) => format!("not row by row: `{}` takes rows together", step.what),
                None => "rows that went have to be taken out".to_owned(),
            };
            (Class::AffectedKeys, Some(why))
        }
        Err(Stop::Refused(refusal)) => return Ok(full(refusal.to_string())),
        Err(Stop::Failed(error)) => return Err(error),
    };
    let (keys, reads_old) = (rules.steps, rules.reads_old);
    Ok(InputClass { input: String::new(), when: "", class, keys, reads_old, why })
}
