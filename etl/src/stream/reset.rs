//! Moves a stream to other offsets: in one commit, which also fences whoever lands it at this moment.
use std::str::FromStr;

use chrono::{DateTime, Utc};
use datafusion::logical_expr::Expr;
use deltalake::kernel::Action;
use serde::Serialize;
use serde_json::json;

use super::beside;
use super::error::StreamError;
use super::rows::{range, without};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::failpoint::hit;
use crate::pipeline::{Around, Landing, decoder};
use crate::position::Offset;
use crate::table::{Commit, Guard, Operation, Table, TableError};

/// How often the landing that is to be moved may be quicker.
const TRIES: u32 = 8;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// What is left of the topic, from its beginning.
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// This offset, of each partition that is moved.
    Offset(Offset),
    /// The first record with this time or a later one.
    At(DateTime<Utc>),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        let at = DateTime::parse_from_rfc3339(text);
        at.map(|at| Self::At(at.to_utc()))
            .map_err(|_| "write `earliest`, `latest`, an offset, or an instant such as 2026-01-05T10:00:00Z".to_owned())
    }
}

/// One partition's move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The partition.
    pub partition: i32,
    /// The next offset to read until now; `None` if the stream has never read it.
    pub from: Option<Offset>,
    /// The next offset to read from now on.
    pub to: Offset,
    /// Records that will be read a second time.
    pub again: i64,
    /// Records that will never be read.
    pub skipped: i64,
}

/// What a reset did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// The version it made.
    pub version: u64,
    /// Rows taken out of the table.
    pub removed: u64,
}

/// The offset that `to` names in each partition.
///
/// # Errors
/// [`StreamError::Offset`] if a partition does not have it, [`StreamError::Partition`] if there is no such partition.
pub(super) async fn offsets(around: &Around, topic: &str, only: Option<i32>, to: To) -> Result<Vec<(i32, Offset)>> {
    let bounds = around.broker.bounds(topic).await?;
    let times = match to {
        To::At(at) => around.broker.offsets_at(topic, at.timestamp_millis()).await?,
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for (index, bounds) in bounds.iter().enumerate() {
        let partition = i32::try_from(index).unwrap_or(i32::MAX);
        if only.is_some_and(|only| only != partition) {
            continue;
        }
        let offset = match to {
            To::Earliest => bounds.earliest,
            To::Latest => bounds.end,
            To::Offset(offset) => offset,
            To::At(_) => times.get(index).copied().unwrap_or(bounds.end),
        };
        if offset < bounds.earliest || offset > bounds.end {
            let (topic, earliest, end) = (topic.to_owned(), bounds.earliest, bounds.end);
            return Err(StreamError::Offset { topic, partition, offset, earliest, end }.into());
        }
        all.push((partition, offset));
    }
    match only {
        Some(partition) if all.is_empty() => {
            Err(StreamError::Partition { topic: topic.to_owned(), partition, partitions: bounds.len() }.into())
        }
        _ => Ok(all),
    }
}

/// Says what moving `landing` would do. Nothing is changed.
///
/// # Errors
/// [`StreamError::Offset`] if a partition does not have the offset, [`StreamError::Partition`] if there is no such
/// partition.
pub async fn plan_reset(around: &Around, landing: &Landing, only: Option<i32>, to: To) -> Result<Vec<Move>> {
    let table = around.lake.try_table(&landing.table).await?;
    let bounds = around.broker.bounds(&landing.topic).await?;
    let mut moves = Vec::new();
    for (partition, to) in offsets(around, &landing.topic, only, to).await? {
        let from = match &table {
            Some(table) => table.txn(&landing.app(partition)).await?,
            None => None,
        };
        let earliest = usize::try_from(partition).ok().and_then(|at| bounds.get(at)).map_or(0, |b| b.earliest);
        let stood = from.unwrap_or(earliest).max(earliest);
        moves.push(Move { partition, from, to, again: (stood - to).max(0), skipped: (to - stood).max(0) });
    }
    Ok(moves)
}

/// Moves `landing` as planned: one commit sets the next offsets to read and raises the fences, so that a landing that
/// runs is refused from then on. Rows that are there stay, unless `truncate`: then the same commit takes out this
/// topic's rows from the new offsets on.
///
/// # Errors
/// [`StreamError::Busy`] if the landing was quicker each time.
pub async fn reset(
    around: &Around,
    engine: &Engine,
    landing: &Landing,
    moves: &[Move],
    truncate: bool,
) -> Result<Reset> {
    let mut table = if let Some(table) = around.lake.try_table(&landing.table).await? {
        table
    } else {
        // A stream that has not landed anything yet may begin elsewhere.
        let decoder = decoder(around, landing, None).await?;
        around.lake.ensure(&landing.table, decoder.schema(), &[]).await?
    };
    for _ in 0..TRIES {
        match attempt(around, engine, landing, moves, truncate, &mut table).await {
            Err(error) if moved(&error) => table.refresh().await?,
            done => return done,
        }
    }
    Err(StreamError::Busy { table: table.name().to_string() }.into())
}

/// Whether somebody else changed the table first: then we look again.
pub(super) fn moved(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(TableError::Conflict { .. } | TableError::Fenced { .. }))
}

async fn attempt(
    around: &Around,
    engine: &Engine,
    landing: &Landing,
    moves: &[Move],
    truncate: bool,
    table: &mut Table,
) -> Result<Reset> {
    let now = (around.clock)();
    let mut commit = Commit::new(Operation::Amend, Guard::Rearrange, now);
    for one in moves {
        let (app, epoch_app) = (landing.app(one.partition), landing.epoch_app(one.partition));
        let epoch = table.txn(&epoch_app).await?;
        commit.expected.push((app.clone(), table.txn(&app).await?));
        commit.expected.push((epoch_app.clone(), epoch));
        commit.txns.push((app, one.to));
        commit.txns.push((epoch_app, epoch.unwrap_or(0) + 1));
    }
    raise(&mut commit, table, landing).await?;
    let mut removed = 0;
    if truncate {
        let above = moves.iter().map(|one| range(&landing.topic, one.partition, one.to, None));
        if let Some(condition) = above.reduce(Expr::or) {
            let taken = without(engine, table, &condition, now).await?;
            removed = taken.rows;
            commit.actions = taken.actions;
        }
    }
    let told: Vec<_> = moves
        .iter()
        .map(|one| json!({ "partition": one.partition, "from": one.from, "to": one.to, "truncated": truncate }))
        .collect();
    commit
        .info
        .insert("reset".to_owned(), json!({ "stream": landing.stream, "topic": landing.topic, "partitions": told }));
    commit.metrics = json!({ "numDeletedRows": removed });
    hit("reset.before_commit").await;
    let version = table.commit(commit).await?.version;
    hit("reset.after_commit").await;
    Ok(Reset { version, removed })
}

/// Makes `commit` one of those that change rows beside the landing: of two at once the second is refused.
pub(super) async fn raise(commit: &mut Commit, table: &Table, landing: &Landing) -> Result<()> {
    let counter = beside(&landing.stream, &landing.topic);
    let known = table.txn(&counter).await?;
    commit.expected.push((counter.clone(), known));
    commit.txns.push((counter, known.unwrap_or(0) + 1));
    Ok(())
}

/// The files that a commit adds.
pub(super) fn adds(files: Vec<deltalake::kernel::Add>) -> impl Iterator<Item = Action> {
    files.into_iter().map(Action::Add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_word_an_offset_or_an_instant() {
        assert_eq!("earliest".parse(), Ok(To::Earliest));
        assert_eq!("latest".parse(), Ok(To::Latest));
        assert_eq!("4181".parse(), Ok(To::Offset(4181)));
        let at = DateTime::from_timestamp(1_767_607_200, 0).unwrap();
        assert_eq!("2026-01-05T11:00:00+01:00".parse(), Ok(To::At(at)));
        assert!("yesterday".parse::<To>().is_err());
    }
}
