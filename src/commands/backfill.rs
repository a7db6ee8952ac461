//! `tidemill streams backfill`: a part of a topic landed again beside the live table, compared, swapped in.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tidemill_etl::pipeline::{Landing, Progress};
use tidemill_etl::stream::{self, Compared};

use super::Context;
use crate::cli::{BackfillStep, BackfillStream};
use crate::failure::{Exit, Result};
use crate::lakehouse::Lakehouse;
use crate::report::Unit;
use crate::streams::{around, find};
use crate::tasks::count;

/// A line of `compare` for people.
#[derive(Serialize)]
struct Row {
    partition: i32,
    from: i64,
    to: i64,
    same: u64,
    changed: u64,
    only_live: u64,
    only_shadow: u64,
}

pub(super) async fn run(context: &Context, house: &Lakehouse, asked: &BackfillStream) -> Result<Exit> {
    let landings = find(house, &asked.stream, Some(&asked.topic))?;
    let Some(landing) = landings.first() else { return Ok(Exit::Done) };
    match asked.step {
        BackfillStep::Land => return land(context, house, landing, asked).await,
        BackfillStep::Compare => compare(context, house, landing).await?,
        BackfillStep::Swap => {
            let around = around(house).await?;
            let done = stream::swap(&around, house.engine().await?, landing).await?;
            if context.report.json() {
                context.report.one(&done)?;
            }
            match done.version {
                Some(version) => context.report.note(format_args!(
                    "{} version {version}: {} rows taken out, {} put in their place",
                    landing.table,
                    count(done.removed),
                    count(done.added)
                )),
                None => context.report.note(format_args!("{}: this backfill was swapped already", landing.table)),
            }
        }
        BackfillStep::Drop => {
            stream::drop_backfill(&around(house).await?, house.engine().await?, landing).await?;
            context.report.note(format_args!("the backfill of {} is gone", landing.topic));
        }
    }
    Ok(Exit::Done)
}

async fn land(context: &Context, house: &Lakehouse, landing: &Landing, asked: &BackfillStream) -> Result<Exit> {
    let around = around(house).await?;
    let progress = Arc::new(Progress::default());
    let bar = context.report.bar(format!("{} again", landing.topic), None, Unit::Things);
    let watch = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bar.set(progress.rows.load(Ordering::Relaxed));
        }
    };
    let places = (asked.from, asked.to);
    let (backfill, landed) = tokio::select! {
        done = stream::backfill(&around, landing, places, &progress, &context.stop) => done?,
        never = watch => never,
    };
    bar.done(format_args!("{} rows, {} dead letters", count(landed.rows), count(landed.dead)));
    if context.report.json() {
        context.report.one(&json!({ "backfill": backfill, "landed": landed }))?;
    } else {
        context.report.rows(&backfill.partitions)?;
        context
            .report
            .note(format_args!("the shadow is {}; compare it with `… backfill STREAM compare`", backfill.shadow));
    }
    Ok(if context.stop.is_cancelled() { Exit::Stopped } else { Exit::Done })
}

async fn compare(context: &Context, house: &Lakehouse, landing: &Landing) -> Result<()> {
    let found: Vec<Compared> = stream::compare(&around(house).await?, house.engine().await?, landing).await?;
    if context.report.json() {
        return context.report.rows(&found);
    }
    let row = |one: &Compared| Row {
        partition: one.partition,
        from: one.from,
        to: one.to,
        same: one.same,
        changed: one.changed,
        only_live: one.only_live,
        only_shadow: one.only_shadow,
    };
    context.report.rows(&found.iter().map(row).collect::<Vec<_>>())?;
    for one in &found {
        for at in &one.differences {
            let column = at.column.as_ref().map(|column| format!("column `{column}`: ")).unwrap_or_default();
            context.report.line(&format!(
                "{}/{}/{}: {column}live `{}`, shadow `{}`",
                landing.topic, one.partition, at.offset, at.live, at.shadow
            ))?;
        }
    }
    Ok(())
}
