//! `models`: brings SQL models up to date, inputs first.
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::model::{End, Showing};
use tidemill_orchestrator::{KindSpec, Outcome, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read};
use crate::failure::Failure;
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "models",
        about: "seeds and SQL models: rebuilt where the SELECT or an input has changed",
        keys: &[
            key("select", Shape::ListOfText, "names, folders, tag:, path:, source:; +name, name+; without it, all"),
            key("atomic", Shape::Boolean, "readers see all these tables' new versions together, once all are built"),
            key("exclude", Shape::ListOfText, "the same; what these name is left out"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    select: Vec<String>,
    #[serde(default)]
    atomic: bool,
    #[serde(default)]
    exclude: Vec<String>,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let project = Arc::new(house.models()?);
        let mut chosen = project.select(&self.select, &self.exclude)?;
        // What no commit waits for is asked in `check` tasks, where the DAG says.
        chosen.checks.clear();
        let total = (chosen.seeds.len() + chosen.models.len()) as u64;
        let mut rebuilt = 0;
        let mut rows = 0;
        let mut done = 0;
        let stop = || context.cancel.is_cancelled();
        let by = format!("{}.{}", context.dag, context.task);
        let showing = if self.atomic { Showing::Together { by: &by } } else { Showing::Each { by: Some(&by) } };
        let (ran, _) = house
            .bring_up_to_date(&project, &chosen, None, showing, &stop, |ran, found| {
                done += 1;
                context.progress.report(done, Some(total), "models");
                for outcome in found {
                    context.log.line(format!("{} found {} rows; it only warns", outcome.check, count(outcome.rows)));
                }
                match &ran.end {
                    End::Done { rows: written, unchanged: false, .. } => {
                        let written = written.unwrap_or(0);
                        rebuilt += 1;
                        rows += written;
                        metrics.rows(&ran.table.to_string(), written);
                        context.log.line(format!("{}: {} rows", ran.table, count(written)));
                    }
                    End::Skipped { after } => context.log.line(format!("{}: not built, as it reads {after}", ran.name)),
                    End::Done { .. } | End::Failed(_) => {}
                }
            })
            .await?;
        let keeper = house.keeper().await?;
        let begun = ran.len() as u64;
        let mut failures = Vec::new();
        for ran in ran {
            match ran.end {
                End::Done { version: Some(version), unchanged: false, .. } => keeper.committed(&ran.table, version),
                End::Failed(error) => failures.push(Failure::from(error)),
                _ => {}
            }
        }
        if let Some(failure) = Failure::all(failures) {
            return Err(failure.into());
        }
        if begun < total {
            return Err(stopped().into());
        }
        context.progress.report(total, Some(total), "models");
        let summary = match rebuilt {
            0 => format!("{total} models, nothing has changed"),
            _ => format!("{rebuilt} of {total} models rebuilt, {} rows", count(rows)),
        };
        Ok(Outcome::done(summary).with(json!({ "models": total, "rebuilt": rebuilt, "rows": rows })))
    }
}

/// A pause, not a failure: the next start goes on.
pub(super) fn stopped() -> TaskError {
    TaskError::new("D0021", "asked to stop before it was done", tidemill_orchestrator::Retry::Later)
}
