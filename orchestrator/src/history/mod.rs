//! What happened, durable. The history is the only state of the orchestrator: everything else can be lost with the process.
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;
pub(crate) mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::dag::{CallTo, Dag};
use crate::owner::{Owner, OwnerRecord};
use crate::run::{Attempt, Cause, Choice, Interval, Run, RunState, RunStep, TaskInstance, TaskStep};
use crate::task::TaskError;
use crate::trigger::FileId;

/// A history that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be opened.
    #[error("the run history `{path}` cannot be opened")]
    Open {
        /// Where it is.
        path: String,
        /// The store's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was written by a newer version.
    #[error("the run history `{path}` has format {found}, this version knows formats up to {known}")]
    Newer {
        /// Where it is.
        path: String,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A read or write failed.
    #[error("the run history cannot be {doing}")]
    Store {
        /// "read" or "written".
        doing: &'static str,
        /// The store's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HistoryError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "D0103",
            Self::Newer { .. } => "D0104",
            Self::Store { .. } => "D0106",
        }
    }

    /// What a person can do about it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Self::Open { .. } => {
                "check that the folder exists and may be written, and that the file is a history".to_owned()
            }
            Self::Newer { .. } => "use the version of Tidemill that wrote it, or a newer one".to_owned(),
            Self::Store { .. } => {
                "check free space and rights of the folder; what was running goes on at the next start".to_owned()
            }
        })
    }
}

/// Opens the history in `schema` of the Postgres database at `url`, whether or not this build has it.
///
/// # Errors
/// [`HistoryError::Open`] in a build without the feature `postgres`; else as `PostgresHistory::open`.
pub fn open_shared(url: &str, schema: &str) -> Result<Arc<dyn History>, HistoryError> {
    #[cfg(feature = "postgres")]
    return Ok(Arc::new(postgres::PostgresHistory::open(url, schema)?));
    #[cfg(not(feature = "postgres"))]
    {
        let _ = url;
        Err(HistoryError::Open { path: schema.to_owned(), source: "this build has no Postgres".into() })
    }
}

/// A run to be made.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub id: String,
    /// The DAG.
    pub dag: String,
    /// What it shall be the only run of, if anything.
    pub key: Option<String>,
    /// Why. A [`Cause::File`] is recorded as an arrival in the same transaction; a [`Cause::Event`] takes its events, a [`Cause::Schedule`] moves its trigger on.
    pub cause: Cause,
    /// The time it covers.
    pub interval: Option<Interval>,
    /// What it is given.
    pub params: Map<String, Value>,
    /// Flags.
    pub options: Map<String, Value>,
    /// Whether it belongs to the one who makes it, or to whoever takes it.
    pub owned: bool,
}

/// Something of which a running task holds so many, with how many there are of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its name: `pool NAME`, `key KEY` or `dag NAME`.
    pub name: String,
    /// How many.
    pub slots: u32,
    /// How many there are.
    pub limit: u32,
}

/// What a running task holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// As in [`Hold::name`].
    pub name: String,
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// How many.
    pub slots: u32,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// A DAG that makes no runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Who paused it.
    pub by: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// Something that happened and has not started a run yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The DAG it is to start.
    pub dag: String,
    /// Which trigger of the DAG, from 0.
    pub trigger: u32,
    /// What tells it from others of this trigger: it starts one run.
    pub key: String,
    /// What happened.
    pub body: Value,
}

/// Runs of a range of time that somebody asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Backfill {
    /// Its id.
    pub id: String,
    /// The DAG.
    pub dag: String,
    /// Its intervals, in the order of their runs.
    pub intervals: Vec<Interval>,
    /// What every run is given.
    pub params: Map<String, Value>,
    /// How many of its runs may be open at once. The DAG's own limit does not count them.
    pub at_once: u32,
    /// Who asked.
    pub by: String,
    /// How many of its intervals have their run.
    pub made: u32,
}

/// Somebody who is to be told what happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its id, for whoever is told twice.
    pub id: String,
    /// The run.
    pub run: String,
    /// Whom.
    pub to: CallTo,
    /// What.
    pub body: Value,
    /// When to try next.
    pub due_at: DateTime<Utc>,
    /// How often it was tried.
    pub tries: u32,
}

/// One change of the history.
#[derive(Debug, Clone)]
pub enum Change {
    /// A cron trigger is seen for the first time. Refused if it was seen before.
    Meet {
        /// The DAG.
        dag: String,
        /// Which trigger of the DAG, from 0.
        trigger: u32,
    },
    /// A run is made, queued. Refused if its id, its key or its file has one already.
    Create(Box<NewRun>),
    /// The run belongs to the one who writes. Refused if its owner is not `from` any more, or it ended.
    Claim {
        /// The run.
        run: String,
        /// Whose it was.
        from: Option<String>,
    },
    /// The run begins, with this definition and these params, and gets its tasks, unless it has them from before. Refused if not the owner's, if not queued, or if the
    /// definition's `max_active_runs` are running already (two schedulers may decide at the same moment).
    Begin {
        /// The run.
        run: String,
        /// The definition, pinned for the run's life.
        definition: Arc<Dag>,
        /// All params with their values.
        params: Map<String, Value>,
    },
    /// A task changes. Refused if the run is not the owner's, if the step is not in the table, or if it is about another attempt than the current
    /// one (`Start`: than the next one).
    Task(Box<TaskChange>),
    /// Somebody wants something of tasks of a run, whoever drives it. Refused as a whole if one of the steps is not in the table and its task is not
    /// running; of a running task it is noted as wanted. A run that had ended waits for its turn again.
    Amend {
        /// The run.
        run: String,
        /// What of which task. [`TaskStep::of_people`] only.
        steps: Vec<(String, TaskStep)>,
    },
    /// Somebody wants a run stopped, whoever drives it. Refused if it has ended.
    Cancel {
        /// The run.
        run: String,
        /// Who.
        by: String,
    },
    /// Something happened. Refused if it is known, or if it is the end of a run that has not ended.
    Event {
        /// It.
        event: Box<Event>,
        /// The run whose end it is, if it is one.
        end_of: Option<String>,
        /// It is only noted, so that it starts no run: it was so before anybody watched.
        past: bool,
    },
    /// A DAG is paused, or goes on. Refused if it is so already.
    Pause {
        /// The DAG.
        dag: String,
        /// Who pauses it; absent: it goes on.
        by: Option<String>,
    },
    /// Somebody asks for the runs of a range of time. Refused if there is a backfill of that id.
    Backfill(Box<Backfill>),
    /// No more runs of a backfill are made. Refused if there are none to be made.
    EndBackfill {
        /// The backfill.
        backfill: String,
    },
    /// A deadline was missed. Refused if that is known.
    Missed {
        /// The run.
        run: String,
        /// The task; empty: the run itself.
        task: String,
    },
    /// Somebody is to be told. Refused if the run is not there, or a call has this id.
    Call(Box<Call>),
    /// Somebody was told, or could not be told and is to be tried again. Refused if there is no such call with so many tries.
    Called {
        /// The call.
        call: String,
        /// How often it had been tried before.
        tries: u32,
        /// When to try again; absent: never.
        again_at: Option<DateTime<Utc>>,
    },
    /// The run ends. Refused if not the owner's, if the step is not in the table, or if a task of it has not ended.
    End {
        /// The run.
        run: String,
        /// How.
        step: RunStep,
        /// Why it could not begin.
        error: Option<TaskError>,
    },
}

/// What happens to a task.
#[derive(Debug, Clone)]
pub struct TaskChange {
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// What happens.
    pub step: TaskStep,
    /// The attempt it is about; 0 if there is none.
    pub attempt: u32,
    /// When the next attempt may start, with `Retry`; when it goes on, with `Defer`.
    pub retry_at: Option<DateTime<Utc>>,
    /// What it did.
    pub summary: String,
    /// What it hands on.
    pub result: Value,
    /// How it failed.
    pub error: Option<TaskError>,
    /// Which of the tasks after it are to run, with `Succeed`.
    pub choice: Choice,
    /// The items, with `Map`: each gets a task.
    pub items: Vec<Value>,
    /// What it holds while it runs, with `Start`, `Resume` and `Wake`: refused if there is not enough of it.
    pub holds: Vec<Hold>,
    /// [`Run::amended`] as it was seen: what was judged of a task that does not run is refused if somebody has changed tasks since.
    pub amended: u32,
}

impl TaskChange {
    /// A step with nothing to say about it.
    pub fn plain(run: &str, task: &str, step: TaskStep, attempt: u32) -> Self {
        Self {
            run: run.to_owned(),
            task: task.to_owned(),
            step,
            attempt,
            retry_at: None,
            summary: String::new(),
            result: Value::Null,
            error: None,
            choice: Choice::All,
            items: Vec::new(),
            holds: Vec::new(),
            amended: 0,
        }
    }
}

/// What became of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For each whether it was accepted.
    pub accepted: Vec<bool>,
    /// The version of the history now, if these changes alone made it of the version that was named; absent: others have changed something, too, or
    /// that is not known.
    pub version: Option<u64>,
}

/// A run under way or queued, with its tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct ActiveRun {
    /// The run.
    pub run: Run,
    /// Its pinned definition, once it has begun.
    pub definition: Option<Arc<Dag>>,
    /// Its tasks, once it has begun.
    pub tasks: Vec<TaskInstance>,
}

/// How far a cron trigger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When it was first seen.
    pub first_seen: DateTime<Utc>,
    /// Where the interval of its last run ended.
    pub last_end: Option<DateTime<Utc>>,
}

/// The last runs of a DAG, as far as a continuous trigger needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// When the last run ended.
    pub ended_at: DateTime<Utc>,
    /// How many runs failed in a row, counting back from the last; counted up to ten.
    pub failures: u32,
}

/// Everything a decision needs from the history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistoryView {
    /// Runs that have not ended, oldest first.
    pub runs: Vec<ActiveRun>,
    /// Cron triggers by DAG and number.
    pub seen: BTreeMap<(String, u32), Seen>,
    /// The last run of each DAG that was asked about.
    pub last: BTreeMap<String, LastRun>,
    /// What running tasks hold.
    pub holdings: Vec<Holding>,
    /// Paused DAGs.
    pub paused: BTreeMap<String, Paused>,
    /// Events that have not started a run, in the order they were recorded.
    pub events: Vec<Event>,
    /// Backfills that have not made all their runs, oldest first.
    pub backfills: Vec<Backfill>,
    /// Missed deadlines of runs that have not ended, as (run, task).
    pub missed: BTreeSet<(String, String)>,
    /// Who is still to be told what.
    pub calls: Vec<Call>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only of this DAG.
    pub dag: Option<String>,
    /// Only in this state.
    pub state: Option<RunState>,
    /// At most so many.
    pub limit: usize,
}

/// The durable record of runs.
///
/// Contract (suite: `testkit::history_contract`):
/// 1. [`History::apply`] is one transaction: after a crash all of its accepted changes are there, or none. When it returns, they are durable.
/// 2. Changes are judged in order, each against the state the earlier ones left. A refused change changes nothing and does not keep the others from
///    happening.
/// 3. Nothing that belongs to another owner changes (except by `Claim`, which names the owner it expects), and no ended run or task ever does. So a
///    process that lost its runs cannot write about them, however late it wakes. Only people change what is not theirs, and what has ended: by `Amend`
///    and `Cancel`.
/// 4. A key, a file (path, size, modification time) of a DAG, and an event of a trigger has at most one run.
/// 5. What another process wrote is seen by the next read.
/// 6. Of what running tasks hold there is never more than there is of it, however many processes start tasks at once.
/// 7. A run has not ended while a task of it has not.
///
/// Calls block (they wait for a disk); async callers move them to a blocking thread.
pub trait History: Send + Sync {
    /// Applies changes in order in one transaction; says for each whether it was accepted.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    fn apply(&self, owner: &str, now: DateTime<Utc>, changes: &[Change]) -> Result<Vec<bool>, HistoryError>;

    /// Applies changes as [`History::apply`] does, and says whether whoever had read the history at `version` knows all that was changed since.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    fn apply_at(
        &self,
        owner: &str,
        now: DateTime<Utc>,
        changes: &[Change],
        _version: u64,
    ) -> Result<Applied, HistoryError> {
        Ok(Applied { accepted: self.apply(owner, now, changes)?, version: None })
    }

    /// Returns what has not ended, and the last run of each of the DAGs named.
    ///
    /// # Errors
    /// If the store fails.
    fn view(&self, last_of: &[String]) -> Result<HistoryView, HistoryError>;

    /// Returns a number that is another one after every change, whoever made it. Much cheaper than a view.
    ///
    /// # Errors
    /// If the store fails.
    fn version(&self) -> Result<u64, HistoryError>;

    /// Returns those of the files that have no run of that DAG yet, in the same order.
    ///
    /// # Errors
    /// If the store fails.
    fn unseen(&self, dag: &str, files: &[FileId]) -> Result<Vec<FileId>, HistoryError>;

    /// Records that an owner is alive until `lease_until`.
    ///
    /// # Errors
    /// If the store fails.
    fn heartbeat(&self, owner: &Owner, lease_until: DateTime<Utc>) -> Result<(), HistoryError>;

    /// Records that an owner has stopped driving runs.
    ///
    /// # Errors
    /// If the store fails.
    fn retire(&self, owner: &str) -> Result<(), HistoryError>;

    /// Returns the owners of runs that have not ended, as far as they are known.
    ///
    /// # Errors
    /// If the store fails.
    fn owners(&self) -> Result<Vec<OwnerRecord>, HistoryError>;

    /// Returns every owner that has not said goodbye, whether or not it drives a run.
    ///
    /// # Errors
    /// If the store fails.
    fn schedulers(&self) -> Result<Vec<OwnerRecord>, HistoryError>;

    /// Lists runs, newest first.
    ///
    /// # Errors
    /// If the store fails.
    fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, HistoryError>;

    /// Returns a run.
    ///
    /// # Errors
    /// If the store fails.
    fn run(&self, id: &str) -> Result<Option<Run>, HistoryError>;

    /// Returns the id of the run with that key.
    ///
    /// # Errors
    /// If the store fails.
    fn run_of_key(&self, key: &str) -> Result<Option<String>, HistoryError>;

    /// Returns the key of the event of a trigger that was recorded last, if any was.
    ///
    /// # Errors
    /// If the store fails.
    fn last_event(&self, dag: &str, trigger: u32) -> Result<Option<String>, HistoryError>;

    /// Returns the tasks of a run, in the order of its DAG; those of a list after it, in its order.
    ///
    /// # Errors
    /// If the store fails.
    fn tasks(&self, run: &str) -> Result<Vec<TaskInstance>, HistoryError>;

    /// Returns the attempts of a run, by task and number.
    ///
    /// # Errors
    /// If the store fails.
    fn attempts(&self, run: &str) -> Result<Vec<Attempt>, HistoryError>;

    /// Forgets runs that ended before an instant, oldest first, at most so many: them, their tasks, attempts and calls. Files, events and intervals that
    /// have started a run stay known, keys that people gave do not. Returns what was forgotten, as (DAG, run).
    ///
    /// # Errors
    /// If the store fails; then nothing was forgotten.
    fn forget(&self, before: DateTime<Utc>, most: usize) -> Result<Vec<(String, String)>, HistoryError>;

    /// Returns the pinned definition of a run, once it has begun.
    ///
    /// # Errors
    /// If the store fails.
    fn definition(&self, run: &str) -> Result<Option<Arc<Dag>>, HistoryError>;

    /// Hands a run over to whichever scheduler serves this history; it begins within a quarter of a second if one does. Returns the run's id.
    ///
    /// # Errors
    /// If the store fails.
    fn enqueue(
        &self,
        dag: &str,
        params: Map<String, Value>,
        options: Map<String, Value>,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<String, HistoryError> {
        self.enqueue_once(dag, params, options, by, None, now).map(|(run, _)| run)
    }

    /// Hands a run over as [`History::enqueue`] does, unless there is a run of this DAG with that key: then nothing is made. Returns the run's id,
    /// and whether it was made now.
    ///
    /// # Errors
    /// If the store fails.
    fn enqueue_once(
        &self,
        dag: &str,
        params: Map<String, Value>,
        options: Map<String, Value>,
        by: &str,
        key: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(String, bool), HistoryError> {
        let key = key.map(|key| format!("manual {dag} {key}"));
        // Another run of the same instant may have the same id: then the next number is tried.
        for attempt in 0_u32.. {
            let id = crate::run::run_id(dag, now, &format!("{by} {} {attempt}", std::process::id()));
            let new = NewRun {
                id: id.clone(),
                dag: dag.to_owned(),
                key: key.clone(),
                cause: Cause::Manual { by: by.to_owned() },
                interval: None,
                params: params.clone(),
                options: options.clone(),
                owned: false,
            };
            if self.apply("", now, &[Change::Create(Box::new(new))])?.first() == Some(&true) {
                return Ok((id, true));
            }
            if let Some(run) = key.as_deref().map(|key| self.run_of_key(key)).transpose()?.flatten() {
                return Ok((run, false));
            }
        }
        Ok((String::new(), false))
    }
}
