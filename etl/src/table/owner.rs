//! One owner per table and process: what writes the log of a table goes through it one after the other.
//!
//! Only putting a commit takes a turn. Rows are read and files are written outside it, so a compaction of minutes holds
//! up no append. Across processes the put-if-absent and the commits' guards do the same work, with conflicts where
//! this avoids them.
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turns, MutexGuard};

use super::lake::TableName;

/// Whose turn it is on one table.
#[derive(Debug, Default)]
pub(super) struct Owner {
    turns: Turns<()>,
    /// Computations under way that would be lost if the files they read were rearranged.
    computing: AtomicUsize,
}

impl Owner {
    /// Waits until nobody else in this process is committing to the table.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turns.lock().await
    }

    /// Whether files may be rearranged. Asked within a turn.
    pub(super) fn busy(&self) -> bool {
        self.computing.load(Ordering::SeqCst) > 0
    }

    /// Keeps compactions of this process from committing while the guard lives. A snapshot taken after this returns
    /// stays good for as long.
    pub(super) async fn compute(self: &Arc<Self>) -> Computing {
        let _turn = self.turn().await;
        self.computing.fetch_add(1, Ordering::SeqCst);
        Computing(Arc::clone(self))
    }
}

/// A computation on a table's files that ends in an exclusive commit.
#[derive(Debug)]
pub(crate) struct Computing(Arc<Owner>);

impl Drop for Computing {
    fn drop(&mut self) {
        self.0.computing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The owners of a lake's tables.
#[derive(Debug, Default)]
pub(super) struct Owners(Mutex<HashMap<TableName, Arc<Owner>>>);

impl Owners {
    /// The owner of `name`; the same one for everybody who asks.
    pub(super) fn of(&self, name: &TableName) -> Arc<Owner> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(owners.entry(name.clone()).or_default())
    }
}
