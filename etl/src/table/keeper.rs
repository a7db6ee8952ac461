//! Keeps the tables of a lake in shape while others commit to them.
//!
//! Whoever commits tells the keeper, which only notes it. One task goes through the tables that had commits, one after
//! the other, looks how each stands, and does what [`decide`] says. It is never in the way: see `optimize` and `owner`.
//! What it did is in the tables; it remembers nothing that would be missed.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::checkpoint::{checkpoint, clean_log, newest_checkpoint};
use super::lake::{Lake, TableName};
use super::maintain::{Candidate, Chore, Condition, Policy, decide, groups};
use super::optimize::{candidates, optimize};
use super::vacuum::{VacuumOptions, vacuum};
use crate::error::Result;
use crate::pipeline::Clock;

/// A table is looked at this long after a commit at the latest; files that were too young then are seen on the next look.
const LOOK: Duration = Duration::from_mins(1);

/// The policy of each table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// What holds for all.
    pub all: Policy,
    /// Tables with one of their own.
    pub of: HashMap<TableName, Policy>,
}

impl Policies {
    /// The policy of one table.
    pub fn of(&self, name: &TableName) -> &Policy {
        self.of.get(name).unwrap_or(&self.all)
    }
}

/// Background maintenance of a lake's tables.
pub struct Keeper {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    /// The newest version told of each table.
    told: Mutex<HashMap<TableName, u64>>,
    wake: Notify,
    policies: Policies,
}

/// What is remembered of a table between two looks.
struct Known {
    looked: Instant,
    version: u64,
    /// Whether the last look left something to do later.
    again: bool,
    cleaned: DateTime<Utc>,
    vacuumed: DateTime<Utc>,
}

impl Keeper {
    /// Starts the background task. Must be called within a Tokio runtime.
    pub fn new(lake: Lake, policies: Policies, clock: Clock) -> Self {
        let shared = Arc::new(Shared { policies, ..Shared::default() });
        let stop = CancellationToken::new();
        let work = run(lake, Arc::clone(&shared), clock, stop.clone());
        Self { shared, task: Mutex::new(Some(tokio::spawn(work))), stop }
    }

    /// Notes that `version` of a table was committed. Never waits.
    pub fn committed(&self, name: &TableName, version: u64) {
        if !self.shared.policies.of(name).enabled {
            return;
        }
        let mut told = lock(&self.shared.told);
        let first = !told.contains_key(name);
        if let Some(newest) = told.get_mut(name) {
            *newest = version.max(*newest);
        } else {
            told.insert(name.clone(), version);
        }
        drop(told);
        if first || version.is_multiple_of(self.shared.policies.of(name).checkpoint_every.max(1)) {
            self.shared.wake.notify_one();
        }
    }

    /// Ends the background task. A chore under way is left where it stands, which is safe anywhere: until its commit
    /// it is files that nobody knows, after it all is done.
    pub async fn close(&self) {
        self.stop.cancel();
        let task = lock(&self.task).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            warn!(%error, "background maintenance ended badly");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(lake: Lake, shared: Arc<Shared>, clock: Clock, stop: CancellationToken) {
    let mut known: HashMap<TableName, Known> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let mut told: Vec<_> = lock(&shared.told).iter().map(|(name, version)| (name.clone(), *version)).collect();
        told.sort_unstable();
        for (name, version) in told {
            let policy = shared.policies.of(&name);
            let at = known.entry(name.clone()).or_insert_with(|| Known {
                // Long enough ago for the first look.
                looked: Instant::now(),
                version: version.saturating_sub(policy.checkpoint_every),
                again: true,
                cleaned: clock(),
                vacuumed: clock(),
            });
            let many = version.saturating_sub(at.version) >= policy.checkpoint_every;
            let long = at.looked.elapsed() >= LOOK && (version > at.version || at.again);
            if !many && !long {
                continue;
            }
            (at.looked, at.version) = (Instant::now(), version);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                done = look(&lake, &name, policy, at, &clock) => {
                    if let Err(error) = done {
                        // A keeper that cannot keep is no reason for others to stop. The next look tries again.
                        warn!(table = %name, code = error.code(), %error, "background maintenance failed");
                    }
                }
            }
        }
    }
}

async fn look(lake: &Lake, name: &TableName, policy: &Policy, known: &mut Known, clock: &Clock) -> Result<()> {
    let Some(mut table) = lake.try_table(name).await? else { return Ok(()) };
    let now = clock();
    // What we do not know how to rearrange, we leave alone.
    let files: Vec<Candidate> =
        candidates(&table).map(|files| files.into_iter().map(|(file, _)| file).collect()).unwrap_or_default();
    let ready = groups(&files, &policy.compaction, now).len();
    let later = now + chrono::TimeDelta::from_std(policy.compaction.min_age).unwrap_or_default();
    known.again = ready > 0 || !groups(&files, &policy.compaction, later).is_empty();
    let condition = Condition {
        version: table.version(),
        checkpoint: newest_checkpoint(&table).await?,
        groups: ready,
        cleaned: known.cleaned,
        vacuumed: known.vacuumed,
    };
    for chore in decide(&condition, policy, now) {
        match chore {
            Chore::Optimize => {
                let done = optimize(&table, &policy.compaction, now, &CancellationToken::new()).await?;
                debug!(table = %name, removed = done.removed, added = done.added, "files put together");
                table.refresh().await?;
            }
            Chore::Checkpoint => {
                checkpoint(&table).await?;
                debug!(table = %name, version = table.version(), "checkpoint written");
            }
            Chore::CleanLog => {
                let entries = clean_log(lake, &table, policy.log_retention, now).await?;
                known.cleaned = now;
                debug!(table = %name, entries, "log cleaned up");
            }
            Chore::Vacuum => {
                let retention = policy.vacuum_retention;
                let options = VacuumOptions { retention, least: retention, dry_run: false };
                let done = vacuum(lake, &table, options, now).await?;
                known.vacuumed = now;
                if !done.files.is_empty() {
                    info!(table = %name, files = done.files.len(), bytes = done.bytes, "vacuumed");
                }
            }
        }
    }
    Ok(())
}
