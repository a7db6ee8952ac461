//! `tidemill generate`: made-up events, now.
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::json;
use tidemill_etl::table::TableName;

use super::Context;
use crate::cli::Generate;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::report::Unit;
use crate::tasks::{Order, count, generate};

pub(super) async fn run(context: &Context, command: &Generate) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let start = match &command.start {
        None => None,
        Some(text) => Some(text.parse::<DateTime<Utc>>().map_err(|error| {
            Failure::new("G0104", format!("`{text}` is not an instant"))
                .why(error.to_string())
                .fix("write it as 2026-01-31T12:00:00Z")
                .exit(Exit::Usage)
        })?),
    };
    let order = Order {
        generator: tidemill_etl::generate::find(&command.generator)
            .map_err(|error| Failure::from(tidemill_etl::Error::from(error)).exit(Exit::Usage))?,
        events: command.events,
        seed: command.seed,
        users: command.users,
        start,
        rate: command.rate,
        catalogue: TableName::new("silver", "movies"),
        topics: BTreeMap::new(),
        once: None,
    };
    if command.dry_run {
        for event in order.events(&house, house.clock.now()).await? {
            context.report.line(&json!({ "kind": event.kind, "key": event.key, "value": event.body }).to_string())?;
            if context.stop.is_cancelled() {
                return Ok(Exit::Stopped);
            }
        }
        return Ok(Exit::Done);
    }
    let bar = context.report.bar("events", command.events, Unit::Things);
    let report = |done: u64| bar.set(done);
    let made = generate(&house, &order, house.clock.now(), &report, &context.stop).await?;
    let sum: u64 = made.values().sum();
    if context.report.json() {
        context.report.one(&made)?;
    }
    bar.done(format_args!("{} to {} topics", count(sum), made.len()));
    Ok(if context.stop.is_cancelled() { Exit::Stopped } else { Exit::Done })
}
