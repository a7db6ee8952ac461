//! The streams of a project: what the `stream` tasks of its DAGs land, as commands on streams need it.
use std::sync::Arc;
use std::time::Duration;

use tidemill_etl::pipeline::{Around, Landing};
use tidemill_etl::stream::paused;
use tidemill_etl::table::Lake;
use tidemill_orchestrator::TaskContext;

use crate::failure::{Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::runner::load;
use crate::tasks::landings;

/// One stream task.
pub(crate) struct Stream {
    /// The stream's stable name.
    pub(crate) name: String,
    /// `DAG.TASK`.
    pub(crate) task: String,
    /// Its topics with their tables.
    pub(crate) landings: Vec<Landing>,
}

/// Every stream of every DAG that can be read, by name. A broken DAG file hides its streams; `tidemill dags list` tells.
pub(crate) fn streams(house: &Lakehouse) -> Vec<Stream> {
    let loaded = load(house);
    let mut streams = Vec::new();
    for dag in loaded.dags.iter() {
        for task in dag.tasks.iter().filter(|task| task.kind == "stream") {
            let settings = serde_json::Value::Object(task.settings.clone());
            let Ok(landings) = landings(house, &settings) else { continue };
            let Some(first) = landings.first() else { continue };
            let name = first.stream.clone();
            streams.push(Stream { name, task: format!("{}.{}", dag.id, task.id), landings });
        }
    }
    streams.sort_by(|a, b| (&a.name, &a.task).cmp(&(&b.name, &b.task)));
    streams
}

/// The landings of the stream `name`, of one topic if there is one.
///
/// # Errors
/// X0003 if there is no such stream, or it has no such topic.
pub(crate) fn find(house: &Lakehouse, name: &str, topic: Option<&str>) -> Result<Vec<Landing>> {
    let all = streams(house);
    if !all.iter().any(|stream| stream.name == name) {
        return Err(Failure::unknown("stream", name, all.iter().map(|stream| stream.name.as_str())));
    }
    let landings: Vec<Landing> =
        all.into_iter().filter(|stream| stream.name == name).flat_map(|stream| stream.landings).collect();
    let Some(topic) = topic else { return Ok(landings) };
    match landings.iter().find(|landing| landing.topic == topic) {
        Some(landing) => Ok(vec![landing.clone()]),
        None => Err(Failure::unknown("topic", topic, landings.iter().map(|landing| landing.topic.as_str()))
            .place(format!("stream `{name}`"))),
    }
}

/// How often a landing looks whether its stream was paused or may go on.
const LOOK: Duration = Duration::from_secs(2);
/// How long a run waits for a paused stream before it ends: a DAG that is started again whenever it has ended must not
/// be started again at once, and must not seem to hang.
const LONGEST: Duration = Duration::from_mins(1);

/// Waits while `stream` is paused, at most a minute, and not at all in a run that drains. Whether it is still paused.
///
/// # Errors
/// If the lake cannot be read.
pub(crate) async fn still_paused(lake: &Lake, stream: &str, context: &TaskContext) -> Result<bool> {
    let begun = tokio::time::Instant::now();
    let mut told = false;
    while let Some(pause) = paused(lake, stream).await? {
        if !told {
            context.log.line(format!("{stream} is paused since {}", pause.since.to_rfc3339()));
            told = true;
        }
        if context.drain || begun.elapsed() >= LONGEST {
            return Ok(true);
        }
        tokio::select! {
            () = context.cancel.cancelled() => return Ok(true),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(false)
}

/// Ends when `stream` is paused. A look that fails is repeated: the landing itself says if the lake is gone.
pub(crate) async fn until_paused(lake: &Lake, stream: &str) {
    loop {
        tokio::time::sleep(LOOK).await;
        match paused(lake, stream).await {
            Ok(None) => {}
            Ok(Some(_)) => return,
            Err(error) => tracing::warn!(stream, %error, "cannot see whether the stream is paused"),
        }
    }
}

/// The parts of the project that landing works with.
///
/// # Errors
/// Whatever of them cannot be opened.
pub(crate) async fn around(house: &Lakehouse) -> Result<Around> {
    Ok(Around {
        lake: house.lake().await?.clone(),
        broker: Arc::clone(house.broker().await?),
        registry: Arc::clone(house.registry().await?),
        dead: house.dead_letters().await?.clone(),
        clock: house.etl_clock(),
        keeper: Some(Arc::clone(house.keeper().await?)),
    })
}
