//! `maintain`: keeps tables in shape by schedule, as the background does while something commits to them.
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::table::maintain::Compaction;
use tidemill_etl::table::{self, TableName, VacuumOptions};
use tidemill_orchestrator::{KindSpec, Outcome, Shape, TaskContext, TaskError};

use super::models::stopped;
use super::{Failed, Kind, Work, count, key, read, with_default};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "maintain",
        about: "small files put together, a checkpoint, old versions and files deleted",
        keys: &[
            key("tables", Shape::ListOfText, "the tables; without it, all"),
            with_default("vacuum", Shape::Boolean, "whether files past their retention are deleted", "true"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    tables: Vec<String>,
    #[serde(default = "yes")]
    vacuum: bool,
}

fn yes() -> bool {
    true
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, _: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let lake = house.lake().await?;
        let names = if self.tables.is_empty() {
            lake.tables().await?
        } else {
            self.tables.iter().map(|name| super::table(name)).collect::<Result<Vec<_>, _>>()?
        };
        let total = names.len() as u64;
        let mut sums = Sums::default();
        for (done, name) in names.iter().enumerate() {
            context.progress.report(done as u64, Some(total), "tables");
            if context.cancel.is_cancelled() {
                return Err(stopped().into());
            }
            self.maintain(house, name, context, &mut sums).await?;
        }
        context.progress.report(total, Some(total), "tables");
        let Sums { removed, added, deleted, bytes } = sums;
        let summary =
            format!("{total} tables: {} files became {}, {} deleted", count(removed), count(added), count(deleted));
        let facts = json!({ "tables": total, "removed": removed, "added": added, "deleted": deleted, "bytes": bytes });
        Ok(Outcome::done(summary).with(facts))
    }
}

#[derive(Default)]
struct Sums {
    removed: u64,
    added: u64,
    deleted: u64,
    bytes: u64,
}

impl Settings {
    async fn maintain(
        &self,
        house: &Lakehouse,
        name: &TableName,
        context: &TaskContext,
        sums: &mut Sums,
    ) -> Result<(), Failed> {
        let lake = house.lake().await?;
        let policy = house.project.settings.maintenance.policies.of(name);
        let compaction = Compaction { min_files: 2, min_age: Duration::ZERO, ..policy.compaction };
        let done = table::optimize(&lake.table(name).await?, &compaction, context.now, &context.cancel).await?;
        let newest = lake.table(name).await?;
        table::checkpoint(&newest).await?;
        table::clean_log(lake, &newest, policy.log_retention, context.now).await?;
        sums.removed += done.removed;
        sums.added += done.added;
        if self.vacuum {
            let retention = policy.vacuum_retention;
            let options = VacuumOptions { retention, least: retention, dry_run: false };
            let gone = table::vacuum(lake, &newest, options, context.now).await?;
            sums.deleted += gone.files.len() as u64;
            sums.bytes += gone.bytes;
        }
        context.log.line(format!("{name}: {} files became {}", count(done.removed), count(done.added)));
        Ok(())
    }
}
