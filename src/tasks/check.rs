//! `check`: SELECTs that must come back empty.
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::model;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read};
use crate::failure::Failure;
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "check",
        about: "the checks of sql/checks/; one that finds rows fails the run",
        keys: &[key("select", Shape::ListOfText, "names of checks; without it, all")],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    select: Vec<String>,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, _metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let (engine, project) = house.engine_with_models().await?;
        if let Some(unknown) = self.select.iter().find(|name| !project.checks.contains_key(*name)) {
            return Err(TaskError::new("M0007", format!("there is no check `{unknown}`"), Retry::Never).into());
        }
        let mut ran = 0;
        let mut bad = Vec::new();
        let mut failed = Vec::new();
        for check in project.checks.values().filter(|c| self.select.is_empty() || self.select.contains(&c.name)) {
            ran += 1;
            let outcome = match model::check(&engine, check).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    failed.push(Failure::from(error));
                    continue;
                }
            };
            if outcome.fails(check) || outcome.warns(check) {
                let only = if outcome.fails(check) { "" } else { "; it only warns" };
                context.log.line(format!("{} found {} rows{only}:", check.name, count(outcome.rows)));
                if let Some(sample) = outcome.sample.clone() {
                    let table = tidemill_etl::output::text_table(&[sample]).unwrap_or_default();
                    context.log.line(table);
                }
                if outcome.fails(check) {
                    bad.push(format!("{} ({})", check.name, count(outcome.rows)));
                }
            }
        }
        if let Some(failure) = Failure::all(failed) {
            return Err(failure.into());
        }
        if bad.is_empty() {
            return Ok(Outcome::done(format!("{ran} checks found nothing")).with(json!({ "checks": ran })));
        }
        let mut error = TaskError::new("M0006", format!("{} of {ran} checks found rows", bad.len()), Retry::Never)
            .why(bad.join(", "))
            .fix(format!("the rows are in the log: tidemill logs {} {}", context.run_id, context.task));
        error.found_rows = true;
        Err(error.into())
    }
}
