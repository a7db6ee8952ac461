//! Which partitions a landing holds: where each stands, and the fence that it stands behind.
//!
//! Both are txns of the table: `{stream}/{topic}/{partition}` is the next offset to read, `…/epoch` counts the holders.
//! Whoever begins to write raises the epoch in a commit without rows (and notes where it begins, if it is the first); a commit of an earlier holder is refused from then
//! on, wherever it was when its process stood still.
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::error::LandingError;
use super::landing::Landing;
use crate::error::Result;
use crate::position::{Bounds, Offset, TopicPartition};
use crate::table::{Appender, Commit, Guard, Operation, TableError};
use crate::topic::Assignment;

/// One partition in our hands.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) app: String,
    /// The next offset to read that is not in the table yet.
    pub(super) next: Offset,
    /// What the table has of it: `None` before somebody first began to write.
    pub(super) committed: Option<i64>,
    pub(super) epoch_app: String,
    /// The epoch found, and ours once the fence is raised.
    pub(super) epoch: Option<i64>,
}

/// All partitions in our hands.
pub(super) type Holding = BTreeMap<i32, Held>;

/// The half-open range `[from, to)` that retention deleted before it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) partition: i32,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

/// Reads where the partitions stand. Nothing is raised yet.
pub(super) fn look(table: &Appender, landing: &Landing, partitions: &[i32]) -> Holding {
    let held = |partition: &i32| {
        let (app, epoch_app) = (landing.app(*partition), landing.epoch_app(*partition));
        let (committed, epoch) = (table.txn(&app), table.txn(&epoch_app));
        (*partition, Held { app, next: committed.unwrap_or(0), committed, epoch_app, epoch })
    };
    partitions.iter().map(held).collect()
}

/// What to read of each partition, from where the table stands; and what is lost of it.
///
/// # Errors
/// [`LandingError::Gap`] if something is lost and that is not to be recorded; [`LandingError::Ahead`] if the table is
/// past the topic's end.
pub(super) fn assign(
    landing: &Landing,
    bounds: &[Bounds],
    holding: &mut Holding,
) -> Result<(Vec<Assignment>, Vec<Gap>), LandingError> {
    let mut assignments = Vec::new();
    let mut gaps = Vec::new();
    for (number, held) in holding {
        let partition = TopicPartition::new(&landing.topic, *number);
        let Some(bounds) = usize::try_from(*number).ok().and_then(|at| bounds.get(at)) else { continue };
        let wanted = held.next;
        if wanted > bounds.end {
            return Err(LandingError::Ahead { partition, wanted, end: bounds.end });
        }
        let mut from = wanted;
        if wanted < bounds.earliest {
            from = bounds.earliest;
            // Before the stream first began there is nothing that it could have lost.
            if held.committed.is_none() {
                held.next = from;
            } else if landing.record_gaps {
                gaps.push(Gap { partition: *number, from: wanted, to: from });
            } else {
                return Err(LandingError::Gap { partition, wanted, earliest: bounds.earliest });
            }
        }
        assignments.push(Assignment { partition, from, to: landing.drain.then_some(bounds.end) });
    }
    Ok((assignments, gaps))
}

/// Raises the fence of every partition in one commit without rows, and notes where those begin of which nothing was
/// committed yet: what retention deletes from there on is a gap. Returns whether all still stand where we looked: if not,
/// somebody committed since, and what was read from there on must be read anew.
///
/// # Errors
/// [`TableError::Fenced`] if somebody else raised a fence meanwhile.
pub(super) async fn take_over(table: &mut Appender, holding: &mut Holding, now: DateTime<Utc>) -> Result<bool> {
    let mut commit = Commit::new(Operation::Fence, Guard::Append, now);
    for held in holding.values() {
        commit.expected.push((held.epoch_app.clone(), held.epoch));
        commit.txns.push((held.epoch_app.clone(), held.epoch.unwrap_or(0) + 1));
        if held.committed.is_none() {
            commit.expected.push((held.app.clone(), None));
            commit.txns.push((held.app.clone(), held.next));
        }
    }
    match table.commit(commit).await {
        Ok(_) => {}
        Err(error) if began_elsewhere(&error, holding) => return Ok(false),
        Err(error) => return Err(error),
    }
    for held in holding.values_mut() {
        held.epoch = Some(held.epoch.unwrap_or(0) + 1);
        held.committed = held.committed.or(Some(held.next));
    }
    Ok(holding.values().all(|held| table.txn(&held.app) == held.committed))
}

/// Whether somebody made the first commit of a partition that we took for untouched.
fn began_elsewhere(error: &crate::Error, holding: &Holding) -> bool {
    let fenced = error.downcast_ref::<TableError>();
    matches!(fenced, Some(TableError::Fenced { app, .. }) if holding.values().any(|held| held.app == *app))
}

#[cfg(test)]
mod tests;
