//! `ingest`: a catalogue file into a table, by item number.
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tidemill_etl::ingest::{Ingest, ingest};
use tidemill_orchestrator::{KindSpec, Outcome, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, read, required, table};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "ingest",
        about: "a catalogue file (ITEM n, Key=Value lines) into a table, by item number",
        keys: &[
            required("file", Shape::Text, "the file: a path below the project, an absolute path, or a URL"),
            required("table", Shape::Text, "the table, as schema.table; made if it is not there"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    file: String,
    table: String,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let progress = context.progress.clone();
        let s3 = house.s3();
        let work = Ingest {
            engine: house.engine().await?,
            table: table(&self.table)?,
            file: self.file.clone(),
            base: &context.project_dir,
            s3: &s3,
            dead: house.dead_letters().await?,
            source: format!("{}.{}", context.dag, context.task),
            progress: Arc::new(move |done, total| progress.report(done, Some(total), "bytes")),
            stop: context.cancel.clone(),
            now: context.now,
        };
        let done = ingest(&work).await?;
        house.keeper().await?.committed(&work.table, done.version);
        if done.junk_lines > 0 {
            context.log.line(format!("{} lines are neither a header nor an attribute:", count(done.junk_lines)));
            done.junk_samples.iter().for_each(|line| context.log.line(format!("  line {line}")));
        }
        if done.replaced > 0 {
            context
                .log
                .line(format!("{} items came again later in the file; the last one counts", count(done.replaced)));
        }
        if done.rejected > 0 {
            context
                .log
                .line(format!("{} values could not be used; see `tidemill dead-letters list`", count(done.rejected)));
        }
        metrics.rows(&self.table, done.inserted + done.updated);
        metrics.dead_letters("ingest", done.rejected);
        let summary = format!(
            "{} items into {}: {} new, {} changed, {} the same",
            count(done.items),
            self.table,
            count(done.inserted),
            count(done.updated),
            count(done.unchanged),
        );
        Ok(Outcome::done(summary).with(serde_json::to_value(&done).unwrap_or_default()))
    }
}
