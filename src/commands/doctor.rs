//! `tidemill doctor`: every connection, right and file that the project needs, tried one after the other.
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use chrono::TimeDelta;
use serde::Serialize;
use tidemill_etl::model;
use tidemill_etl::sink::{Load, Mode};

use super::Context;
use crate::failure::{Exit, Failure, Result, model_problem};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::runner::Runner;
use crate::settings::{Broker, Database};

/// How far the storage's clock may be from ours: retention and the age of files are told by the storage's.
const CLOCKS: TimeDelta = TimeDelta::seconds(60);
/// The name that the warehouse is asked about; nothing of it is ever shown there.
const ASKED: &str = "_tidemill_doctor";

#[derive(Serialize)]
struct Row {
    what: &'static str,
    /// `ok`, `warning` or `failed`.
    state: &'static str,
    found: String,
}

/// What was found, in the order in which it was looked at.
#[derive(Default)]
struct Findings {
    rows: Vec<Row>,
    failures: Vec<Failure>,
}

impl Findings {
    fn add(&mut self, what: &'static str, found: Result<String>) {
        let row = match found {
            Ok(found) => Row { what, state: "ok", found },
            Err(failure) => {
                let state = if failure.parts().warning { "warning" } else { "failed" };
                let found = failure.parts().what.clone();
                self.failures.push(failure);
                Row { what, state, found }
            }
        };
        self.rows.push(row);
    }
}

pub(super) async fn run(context: &Context) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let mut findings = Findings::default();
    findings.add("settings", Ok(house.project.root.display().to_string()));
    findings.add("state folder", state(&house));
    let runner = Runner::open(&house, &Arc::new(Metrics::default()));
    findings.add("history", runner.as_ref().map(|_| "can be read and written".to_owned()).map_err(Clone::clone));
    if let Ok(runner) = &runner {
        findings.add("dags", dags(runner));
    }
    findings.add("models", models(&house));
    findings.add("lake", lake(&house).await);
    findings.add("clock", clock(&house).await);
    findings.add("topics", topics(&house).await);
    findings.add("schemas", schemas(&house).await);
    findings.add("warehouse", warehouse(&house).await);
    findings.add("address", address(&house).await);
    context.report.rows(&findings.rows)?;
    for failure in &findings.failures {
        context.report.failure(failure);
    }
    let count = |state: &str| findings.rows.iter().filter(|row| row.state == state).count();
    let (failed, warnings) = (count("failed"), count("warning"));
    context.report.note(match (failed, warnings) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("{warnings} warnings"),
        (failed, _) => format!("{failed} of {} failed", findings.rows.len()),
    });
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

/// Whether files can be made where state and spilled rows go.
fn state(house: &Lakehouse) -> Result<String> {
    let folder = house.project.state("")?;
    let spill = &house.project.settings.engine.spill_dir;
    std::fs::create_dir_all(spill).map_err(|error| Failure::io(&error, "create", spill))?;
    for folder in [folder.as_path(), spill] {
        let file = tempfile::NamedTempFile::new_in(folder).map_err(|error| Failure::io(&error, "write in", folder))?;
        std::fs::write(file.path(), b"tidemill").map_err(|error| Failure::io(&error, "write", file.path()))?;
    }
    Ok(folder.display().to_string())
}

fn dags(runner: &Runner) -> Result<String> {
    match runner.problems() {
        Some(problems) => Err(problems),
        None => Ok(format!("{} can be run", runner.loaded.dags.iter().count())),
    }
}

fn models(house: &Lakehouse) -> Result<String> {
    let (project, problems) = house.survey()?;
    let root: &Path = &house.project.root;
    let problems: Vec<&model::ModelProblem> = problems.iter().filter(|problem| !problem.warning).collect();
    match Failure::all(problems.into_iter().map(|problem| model_problem(problem, root))) {
        Some(failure) => Err(failure),
        None => Ok(format!("{} can be read", project.models.len())),
    }
}

/// Whether the lake can be listed, written, and refuses to overwrite.
async fn lake(house: &Lakehouse) -> Result<String> {
    let lake = house.lake().await?;
    lake.probe().await?;
    let tables = lake.tables().await?.len();
    Ok(format!("{tables} tables, and the storage refuses to overwrite ({})", lake.root()))
}

async fn clock(house: &Lakehouse) -> Result<String> {
    let away = house.lake().await?.clock_difference(house.clock.now()).await?;
    let seconds = away.num_milliseconds().abs() / 1000;
    if away.abs() <= CLOCKS {
        return Ok(format!("{seconds} s from the lake's storage"));
    }
    let side = if away > TimeDelta::zero() { "ahead of" } else { "behind" };
    Err(Failure::new("X0011", format!("the storage's clock is {seconds} s {side} this machine's"))
        .why("the age of files is told by the storage's clock, and vacuum and file triggers rest on it")
        .fix("let both keep time by NTP")
        .warning())
}

async fn topics(house: &Lakehouse) -> Result<String> {
    let topics = house.broker().await?.topics().await?.len();
    let place = match &house.project.settings.topics.broker {
        Broker::Embedded => "embedded".to_owned(),
        Broker::Kafka(brokers) => brokers.clone(),
    };
    Ok(format!("{topics} topics ({place})"))
}

async fn schemas(house: &Lakehouse) -> Result<String> {
    let subjects = house.registry().await?.subjects().await?.len();
    Ok(format!("{subjects} subjects"))
}

/// Whether the warehouse lets us in, and lets us make, fill and drop a table.
async fn warehouse(house: &Lakehouse) -> Result<String> {
    let mut warehouse = house.warehouse().await?;
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let load = Load {
        table: ASKED.to_owned(),
        source: ASKED.to_owned(),
        table_id: ASKED.to_owned(),
        version: 0,
        schema: Arc::clone(&schema),
        keys: Vec::new(),
        mode: Mode::Replace,
        loaded_at: house.clock.now(),
    };
    warehouse.progress(ASKED).await?;
    warehouse.begin(&load).await?;
    let staged = warehouse.stage(RecordBatch::new_empty(schema)).await;
    let aborted = warehouse.abort().await;
    staged.and(aborted)?;
    let kind = match &house.project.settings.warehouse.place {
        Database::Sqlite(path) => house.project.shown(path).to_string(),
        Database::Postgres(_) => "Postgres".to_owned(),
    };
    Ok(format!("tables can be made and filled ({kind})"))
}

/// Whether `tidemill up` could listen where the settings say, or does so already.
async fn address(house: &Lakehouse) -> Result<String> {
    let listen = house.project.settings.server.listen;
    match tokio::net::TcpListener::bind(listen).await {
        Ok(_) => Ok(format!("{listen} is free")),
        Err(_) if super::health::answers(listen).await => Ok(format!("`tidemill up` answers at {listen}")),
        Err(error) => Err(Failure::new("X0012", format!("`tidemill up` cannot listen at {listen}"))
            .why(error.to_string())
            .fix("stop what listens there, or set `server.listen`")
            .warning()),
    }
}
