//! `tidemill verify`: the proof that a stream's tables are what its topics say.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tidemill_etl::pipeline::Landing;
use tidemill_etl::stream::{Difference, Partition, Verified, Verifying, Wrong, verify};

use super::Context;
use crate::cli::Verify;
use crate::failure::{Exit, Result};
use crate::lakehouse::Lakehouse;
use crate::report::Unit;
use crate::streams::{around, find};
use crate::tasks::count;

/// A line for people.
#[derive(Serialize)]
struct Row<'a> {
    topic: &'a str,
    #[serde(flatten)]
    part: &'a Partition,
}

pub(super) async fn run(context: &Context, asked: &Verify) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let landings = find(&house, &asked.stream, asked.topic.as_deref())?;
    let around = around(&house).await?;
    let mut all = Vec::new();
    for landing in &landings {
        if around.lake.try_table(&landing.table).await?.is_none() {
            context.report.note(format_args!("{}: nothing was landed yet", landing.topic));
            continue;
        }
        match topic(context, &house, landing).await? {
            Some(found) => all.push(found),
            None => return Ok(Exit::Stopped),
        }
    }
    let different: u64 = all.iter().map(|one| one.different).sum();
    if context.report.json() {
        context.report.rows(&all)?;
    } else {
        let rows: Vec<Row<'_>> =
            all.iter().flat_map(|one| one.partitions.iter().map(|part| Row { topic: &one.topic, part })).collect();
        context.report.rows(&rows)?;
        for one in &all {
            one.differences.iter().try_for_each(|difference| context.report.line(&told(one, difference)))?;
            if one.different > one.differences.len() as u64 {
                let more = count(one.different - one.differences.len() as u64);
                context.report.line(&format!("{}: {more} more", one.topic))?;
            }
        }
    }
    for one in &all {
        say(context, one);
    }
    Ok(if different == 0 { Exit::Done } else { Exit::Found })
}

async fn topic(context: &Context, house: &Lakehouse, landing: &Landing) -> Result<Option<Verified>> {
    let around = around(house).await?;
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let engine = house.engine().await?;
    let work = Verifying { around: &around, engine, landing, done: &done, total: &total };
    let bar = context.report.bar(&landing.topic, None, Unit::Things);
    let watch = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bar.set_total(total.load(Ordering::Relaxed));
            bar.set(done.load(Ordering::Relaxed));
        }
    };
    let found = tokio::select! {
        found = verify(&work) => found?,
        () = context.stop.cancelled() => return Ok(None),
        never = watch => never,
    };
    bar.done(format_args!("{} offsets compared", count(done.load(Ordering::Relaxed))));
    Ok(Some(found))
}

/// A difference as one line.
fn told(found: &Verified, difference: &Difference) -> String {
    let rows = |number: &u64| if *number == 1 { "1 row".to_owned() } else { format!("{number} rows") };
    let what = match &difference.wrong {
        Wrong::Missing { expected, found } => format!("{} of {} there", rows(found), expected),
        Wrong::Doubled { expected, found } => format!("{} where there should be {expected}", rows(found)),
        Wrong::Column { column, topic, table } => {
            format!("column `{column}`: the topic says `{topic}`, the table `{table}`")
        }
        Wrong::NoLetter { reason } => format!("no row, and no dead letter for `{reason}`"),
        Wrong::Nothing => "a row of a record that holds none".to_owned(),
        Wrong::Outside => "a row outside of everything that was landed".to_owned(),
        Wrong::Range(at) => {
            format!("version {}: the offsets go on at {} instead of {}", at.version, at.from, at.expected)
        }
    };
    format!("{}/{}/{}: {what}", found.topic, difference.partition, difference.offset)
}

/// What is neither equal nor different.
fn say(context: &Context, found: &Verified) {
    let gone: i64 = found.partitions.iter().map(|part| part.gone).sum();
    let unverified: u64 = found.partitions.iter().map(|part| part.unverified).sum();
    let rows: u64 = found.partitions.iter().map(|part| part.rows).sum();
    let verdict = if found.different == 0 { "equal".to_owned() } else { format!("{} differences", found.different) };
    context.report.note(format_args!(
        "{} version {}: {} rows proven, {verdict}",
        found.table,
        found.version,
        count(rows)
    ));
    if gone > 0 || unverified > 0 {
        context.report.note(format_args!(
            "  not verifiable: {} offsets that the topic no longer has; {} rows whose record is gone or cannot be read now",
            count(gone.unsigned_abs()),
            count(unverified)
        ));
    }
    if !found.whole_log {
        context
            .report
            .note("  the table's log no longer names its first commits; what they landed is taken as landed once");
    }
}
