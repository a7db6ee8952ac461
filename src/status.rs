//! What the status page shows, gathered from the project's parts.
use std::sync::Arc;

use async_trait::async_trait;
use chrono::SecondsFormat;
use tidemill_orchestrator::dag::{EventOf, Trigger};
use tidemill_orchestrator::history::RunFilter;
use tidemill_orchestrator::{Dag, History, OrchestratorError, Scheduler};

use crate::failure::Result;
use crate::lakehouse::Lakehouse;
use crate::server::{DagStatus, RunStatus, StatusView, TableStatus};

/// The project of a running `up`.
pub(crate) struct View {
    pub(crate) house: Arc<Lakehouse>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) scheduler: Arc<Scheduler>,
}

#[async_trait]
impl StatusView for View {
    async fn dags(&self) -> Result<Vec<DagStatus>> {
        let dags = self.scheduler.dags();
        let status = |dag: &Arc<Dag>| DagStatus {
            id: dag.id.clone(),
            description: dag.description.clone(),
            triggers: triggers(dag),
        };
        Ok(dags.iter().map(status).collect())
    }

    async fn runs(&self, limit: usize) -> Result<Vec<RunStatus>> {
        let runs = self.history.runs(&RunFilter { dag: None, state: None, limit }).map_err(OrchestratorError::from)?;
        let status = |run: tidemill_orchestrator::Run| RunStatus {
            state: run.state.name().to_owned(),
            started_at: run.started_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            seconds: run
                .started_at
                .map(|start| run.ended_at.unwrap_or_else(|| self.house.clock.now()) - start)
                .and_then(|span| span.to_std().ok())
                .map(|span| span.as_secs_f64()),
            id: run.id,
            dag: run.dag,
        };
        Ok(runs.into_iter().map(status).collect())
    }

    async fn tables(&self) -> Result<Vec<TableStatus>> {
        let lake = self.house.lake().await?;
        let mut tables = Vec::new();
        for name in lake.tables().await? {
            // A table may be dropped between the listing and the look.
            let Some(table) = lake.try_table(&name).await? else { continue };
            let bytes: i64 = table.files()?.iter().map(|file| file.size).sum();
            let newest = table.history(1).await?.into_iter().next().and_then(|entry| entry.at);
            tables.push(TableStatus {
                name: name.to_string(),
                version: i64::try_from(table.version()).unwrap_or(i64::MAX),
                rows: table.rows()?,
                bytes: u64::try_from(bytes).ok(),
                updated_at: newest.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            });
        }
        Ok(tables)
    }
}

/// What starts a DAG, in words that follow "starts".
pub(crate) fn triggers(dag: &Dag) -> Vec<String> {
    if dag.triggers.is_empty() {
        return vec!["by hand".to_owned()];
    }
    dag.triggers
        .iter()
        .map(|trigger| match trigger {
            Trigger::Schedule(trigger) => trigger.schedule.to_string(),
            Trigger::File(file) => format!("when `{}` arrives", file.path),
            Trigger::Event(event) => match &event.of {
                EventOf::Dag { dag, any_end: true } => format!("when a run of `{dag}` has ended"),
                EventOf::Dag { dag, any_end: false } => format!("when a run of `{dag}` has succeeded"),
                EventOf::Table(table) => format!("when `{table}` has a new version"),
            },
            Trigger::Continuous => "continuously".to_owned(),
        })
        .collect()
}
