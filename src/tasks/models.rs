//! `models`: brings SQL models up to date, inputs first.
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::model;
use tidemill_orchestrator::{KindSpec, Outcome, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "models",
        about: "SQL models of sql/: rebuilt where the SELECT or an input has changed",
        keys: &[key("select", Shape::ListOfText, "names, folders, +name or name+; without it, all")],
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
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let (engine, project) = house.engine_with_models().await?;
        let order = project.order(&self.select)?;
        let total = order.len() as u64;
        let mut rebuilt = 0;
        let mut rows = 0;
        for (done, model) in order.into_iter().enumerate() {
            context.progress.report(done as u64, Some(total), "models");
            if context.cancel.is_cancelled() {
                return Err(stopped().into());
            }
            let built = model::build(&engine, &project, model, context.now).await?;
            if !built.unchanged {
                if let Some(version) = built.version {
                    house.keeper().await?.committed(&model.table, version);
                }
                rebuilt += 1;
                rows += built.rows.unwrap_or(0);
                metrics.rows(&model.table.to_string(), built.rows.unwrap_or(0));
                context.log.line(format!("{}: {} rows", model.table, count(built.rows.unwrap_or(0))));
            }
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
