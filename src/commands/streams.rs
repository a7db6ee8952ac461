//! `tidemill streams`: where streams stand, and moving them by hand.
use std::collections::HashMap;

use arrow::array::AsArray as _;
use serde::Serialize;
use tidemill_etl::pipeline::{Around, Landing};
use tidemill_etl::stream::{self, Move, Standing};

use super::Context;
use crate::cli::{ResetStream, Streams};
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::streams::{Stream, around, find, streams};
use crate::tasks::count;

/// A line of `list`: one topic of a stream.
#[derive(Serialize)]
struct Row {
    stream: String,
    topic: String,
    table: String,
    next: Vec<Option<i64>>,
    lag: i64,
    delay_s: Option<i64>,
    dead: i64,
    paused: bool,
    task: String,
}

/// A line of `show`: one partition of a topic.
#[derive(Serialize)]
struct Part {
    topic: String,
    table: String,
    #[serde(flatten)]
    standing: Standing,
}

pub(super) async fn run(context: &Context, command: &Streams) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    match command {
        Streams::List => list(context, &house).await?,
        Streams::Show { stream } => show(context, &house, stream).await?,
        Streams::Pause { stream } => {
            known(&house, stream)?;
            let new = stream::pause(house.lake().await?, stream, house.clock.now()).await?;
            let what = if new { "paused; landings end within seconds" } else { "it is paused already" };
            context.report.note(format_args!("{stream}: {what}"));
        }
        Streams::Resume { stream } => {
            known(&house, stream)?;
            let was = stream::resume(house.lake().await?, stream).await?;
            let what = if was { "goes on" } else { "it was not paused" };
            context.report.note(format_args!("{stream}: {what}"));
        }
        Streams::Backfill(asked) => return Box::pin(super::backfill::run(context, &house, asked)).await,
        Streams::Reset(reset) => return Box::pin(self::reset(context, &house, reset)).await,
    }
    Ok(Exit::Done)
}

fn known(house: &Lakehouse, stream: &str) -> Result<()> {
    find(house, stream, None).map(drop)
}

async fn list(context: &Context, house: &Lakehouse) -> Result<()> {
    let around = around(house).await?;
    let dead = dead(house).await?;
    let mut rows = Vec::new();
    for Stream { name, task, landings } in streams(house) {
        let paused = stream::paused(&around.lake, &name).await?.is_some();
        for landing in &landings {
            let standing = standing(&around, landing).await?;
            rows.push(Row {
                stream: name.clone(),
                topic: landing.topic.clone(),
                table: landing.table.to_string(),
                next: standing.iter().map(|part| part.next).collect(),
                lag: standing.iter().map(|part| part.lag).sum(),
                delay_s: standing.iter().filter_map(|part| part.delay_s).max(),
                dead: dead.get(&(name.clone(), landing.topic.clone())).copied().unwrap_or(0),
                paused,
                task: task.clone(),
            });
        }
    }
    context.report.rows(&rows)?;
    if rows.is_empty() {
        context.report.note("no DAG has a task of the kind `stream`");
    }
    Ok(())
}

/// Where a topic stands; one that is not there yet has no partitions.
async fn standing(around: &Around, landing: &Landing) -> Result<Vec<Standing>> {
    let topics = around.broker.topics().await?;
    if !topics.iter().any(|topic| topic.name == landing.topic) {
        return Ok(Vec::new());
    }
    Ok(stream::standing(around, landing).await?)
}

/// Open dead letters by stream and topic.
async fn dead(house: &Lakehouse) -> Result<HashMap<(String, String), i64>> {
    let dead = house.dead_letters().await?;
    let Some(table) = dead.lake().try_table(dead.name()).await? else { return Ok(HashMap::new()) };
    let open = if table.schema()?.field_with_name("replayed_at").is_ok() { "replayed_at IS NULL" } else { "true" };
    let sql = format!(
        "SELECT source, topic_or_file, count(*) AS n FROM {} WHERE {open} AND partition IS NOT NULL GROUP BY 1, 2",
        dead.name()
    );
    let mut counts = HashMap::new();
    let mut rows = house.engine().await?.query(&sql).await?;
    while let Some(batch) = rows.next().await? {
        let (source, topic) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let number = batch.column(2).as_primitive::<arrow::datatypes::Int64Type>();
        for row in 0..batch.num_rows() {
            counts.insert((source.value(row).to_owned(), topic.value(row).to_owned()), number.value(row));
        }
    }
    Ok(counts)
}

async fn show(context: &Context, house: &Lakehouse, name: &str) -> Result<()> {
    let landings = find(house, name, None)?;
    let around = around(house).await?;
    let mut parts = Vec::new();
    for landing in &landings {
        for standing in standing(&around, landing).await? {
            parts.push(Part { topic: landing.topic.clone(), table: landing.table.to_string(), standing });
        }
    }
    context.report.rows(&parts)?;
    match stream::paused(&around.lake, name).await? {
        Some(pause) => context.report.note(format_args!("{name} is paused since {}", pause.since.to_rfc3339())),
        None => context.report.note(format_args!("{name} is not paused")),
    }
    Ok(())
}

/// What a reset did, as `--json` prints it.
#[derive(Serialize)]
struct Done<'a> {
    topic: &'a str,
    partitions: &'a [Move],
    version: Option<u64>,
    removed: u64,
}

async fn reset(context: &Context, house: &Lakehouse, asked: &ResetStream) -> Result<Exit> {
    let landings = find(house, &asked.stream, Some(&asked.topic))?;
    let Some(landing) = landings.first() else { return Ok(Exit::Done) };
    let around = around(house).await?;
    let moves = stream::plan_reset(&around, landing, asked.partition, asked.to).await?;
    if !context.report.json() {
        context.report.rows(&moves)?;
    }
    for one in &moves {
        if one.skipped > 0 {
            let skipped = count(one.skipped.unsigned_abs());
            context.report.note(format_args!("partition {}: {skipped} records will never be read", one.partition));
        }
        if one.again > 0 {
            let again = count(one.again.unsigned_abs());
            let rows = if asked.truncate {
                format!("rows from offset {} on are taken out first", one.to)
            } else {
                format!("the rows already in {} stay, so they will be there twice", landing.table)
            };
            context
                .report
                .note(format_args!("partition {}: {again} records will be read again; {rows}", one.partition));
        }
    }
    if !asked.yes {
        return Err(Failure::new("L0308", format!("the stream `{}` was not moved", asked.stream))
            .why("moving a stream can lose or double rows".to_owned())
            .fix("say `--yes` if what is told above is what you want, with `--truncate` to take those rows out")
            .exit(Exit::Usage));
    }
    let done = stream::reset(&around, house.engine().await?, landing, &moves, asked.truncate).await?;
    if context.report.json() {
        let (version, removed) = (Some(done.version), done.removed);
        context.report.one(&Done { topic: &asked.topic, partitions: &moves, version, removed })?;
    }
    let removed = if asked.truncate { format!("; {} rows taken out", count(done.removed)) } else { String::new() };
    context.report.note(format_args!("{} moved in version {}{removed}", landing.table, done.version));
    Ok(Exit::Done)
}
