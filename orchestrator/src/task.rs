//! What the orchestrator asks of a task, and what it gives it. The kinds of tasks live in the binary.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::dag::KindSpec;
use crate::run::{Choice, Interval};
use crate::scheduler::RunEvent;

/// One piece of work.
///
/// Contract:
/// 1. Running it again for the same context leaves the same tables: after a crash it *is* run again, under the same attempt number.
/// 2. `Ok` means done. A task that is cancelled before it is done returns an error (any), soon.
/// 3. It does not block the thread: long computation goes to `spawn_blocking`.
#[async_trait]
pub trait Task: Send + Sync {
    /// Does the work.
    async fn run(&self, context: &TaskContext) -> Result<Outcome, TaskError>;
}

/// Makes tasks of the kinds it knows.
pub trait TaskFactory: Send + Sync {
    /// The kinds and their settings.
    fn kinds(&self) -> &[KindSpec];

    /// Makes the task of a kind from its rendered settings.
    ///
    /// # Errors
    /// If the settings cannot work.
    fn open(&self, kind: &str, settings: &Value) -> Result<Box<dyn Task>, TaskError>;
}

/// What a task did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// One line for people: "8,701 items into silver.movies".
    pub summary: String,
    /// Small values for the tasks after it (`{{ tasks.NAME.result… }}`).
    pub result: Value,
    /// There was nothing to do; tasks after it are skipped unless their rule says otherwise.
    pub skipped: bool,
    /// Which of the tasks after it are to run.
    pub choice: Choice,
    /// It is not done: the attempt is to go on then, and holds no slot until it does.
    pub again_at: Option<DateTime<Utc>>,
}

impl Outcome {
    /// Done, with a line for people and nothing for the tasks after it.
    pub fn done(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// Adds values for the tasks after it.
    #[must_use]
    pub fn with(mut self, result: Value) -> Self {
        self.result = result;
        self
    }

    /// Chooses which of the tasks after it are to run.
    #[must_use]
    pub fn choosing(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// Not done yet: the task is run again then, as the same attempt. No slot, pool or key is held until then.
    pub fn later(again_at: DateTime<Utc>, summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), again_at: Some(again_at), ..Self::default() }
    }

    /// Nothing to do, and why.
    pub fn skipped(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), skipped: true, ..Self::default() }
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The cause may pass by itself.
    Later,
    /// The same input gives the same failure.
    Never,
    /// Somebody has to change something first.
    AfterPerson,
}

/// How an attempt failed: what, where, why, fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct TaskError {
    /// The stable code.
    pub code: Box<str>,
    /// What happened: one lowercase fragment.
    pub what: String,
    /// Where.
    pub place: Option<String>,
    /// Why.
    pub why: Option<String>,
    /// What to do.
    pub fix: Option<String>,
    /// Whether trying again can help.
    pub retry: Retry,
    /// A check found rows: the run fails with its own exit code.
    pub found_rows: bool,
}

impl TaskError {
    /// A failure with a code and what happened; everything else is added with the fields.
    pub fn new(code: impl Into<Box<str>>, what: impl Into<String>, retry: Retry) -> Self {
        Self { code: code.into(), what: what.into(), place: None, why: None, fix: None, retry, found_rows: false }
    }

    /// Adds the cause.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Everything an attempt is given.
#[derive(Clone)]
pub struct TaskContext {
    /// The DAG.
    pub dag: String,
    /// The run.
    pub run_id: String,
    /// The task.
    pub task: String,
    /// The number of the attempt, from 1. After a crash the same number comes again.
    pub attempt: u32,
    /// The time the run covers, if it was started by the clock.
    pub interval: Option<Interval>,
    /// The params of the run.
    pub params: Map<String, Value>,
    /// The rendered settings.
    pub settings: Value,
    /// Flags of whoever asked for the run.
    pub options: Map<String, Value>,
    /// Do what is there and end: `options.drain`, for tasks that otherwise go on for ever.
    pub drain: bool,
    /// The project folder; relative paths in settings start here.
    pub project_dir: PathBuf,
    /// The log of this attempt.
    pub log: TaskLog,
    /// Tells people how far it is.
    pub progress: Progress,
    /// Set when the attempt should stop: time-out, shutdown, somebody's wish.
    pub cancel: CancellationToken,
    /// When the attempt started, or went on.
    pub now: DateTime<Utc>,
    /// When the task started first in this run.
    pub since: DateTime<Utc>,
    /// The tasks directly after it.
    pub next: Vec<String>,
}

/// The log of one attempt: one file, lines with their instant, size capped.
#[derive(Clone)]
pub struct TaskLog(Arc<Log>);

struct Log {
    clock: Arc<dyn Clock>,
    path: PathBuf,
    cap: u64,
    open: Mutex<Open>,
    events: Option<EventTarget>,
}

struct Open {
    file: Option<File>,
    written: u64,
    full: bool,
}

/// Where the live events of an attempt go.
#[derive(Clone)]
pub(crate) struct EventTarget {
    pub(crate) sender: mpsc::Sender<RunEvent>,
    pub(crate) run: String,
    pub(crate) task: String,
    pub(crate) attempt: u32,
}

impl TaskLog {
    /// Opens (or goes on with) the log file at `path`. A log that cannot be written is no reason to fail a task: its lines are dropped.
    pub(crate) fn open(path: &Path, cap: u64, clock: Arc<dyn Clock>, events: Option<EventTarget>) -> Self {
        let file = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(path));
        if let Err(error) = &file {
            tracing::warn!(path = %path.display(), %error, "cannot write the log of a task");
        }
        let file = file.ok();
        let written = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        let open = Mutex::new(Open { file, written, full: written >= cap });
        Self(Arc::new(Log { clock, path: path.to_path_buf(), cap, open, events }))
    }

    /// Writes a line (or several); it can be read in the file at once.
    pub fn line(&self, text: impl AsRef<str>) {
        let at = self.0.clock.now().to_rfc3339_opts(SecondsFormat::Millis, true);
        for line in text.as_ref().lines() {
            let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.full {
                return;
            }
            let mut entry = format!("{at} {line}\n");
            if open.written + entry.len() as u64 > self.0.cap {
                open.full = true;
                entry = format!("{at} the log ends here: it reached its cap of {} bytes\n", self.0.cap);
            }
            open.written += entry.len() as u64;
            if let Some(file) = &mut open.file
                && let Err(error) = file.write_all(entry.as_bytes())
            {
                tracing::warn!(path = %self.0.path.display(), %error, "cannot write the log of a task");
                open.file = None;
            }
            drop(open);
            if let Some(to) = &self.0.events {
                let event = RunEvent::Line {
                    run: to.run.clone(),
                    task: to.task.clone(),
                    attempt: to.attempt,
                    line: line.to_owned(),
                };
                // The display may be slow or gone; the file has the line.
                drop(to.sender.try_send(event));
            }
        }
    }

    /// Whether it has reached its cap and takes no more.
    pub fn full(&self) -> bool {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).full
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

/// Reports how far an attempt is. Cheap to call often: at most twenty reports a second go on.
#[derive(Clone)]
pub struct Progress(Arc<ProgressState>);

struct ProgressState {
    events: Option<EventTarget>,
    last: Mutex<Option<Instant>>,
}

const BETWEEN_REPORTS: Duration = Duration::from_millis(50);

impl Progress {
    pub(crate) fn new(events: Option<EventTarget>) -> Self {
        Self(Arc::new(ProgressState { events, last: Mutex::new(None) }))
    }

    /// Reports `done` of `total` (if that is known) in `unit`s ("rows", "bytes").
    pub fn report(&self, done: u64, total: Option<u64>, unit: &'static str) {
        let Some(to) = &self.0.events else { return };
        {
            let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if last.is_some_and(|last| now.duration_since(last) < BETWEEN_REPORTS) && total != Some(done) {
                return;
            }
            *last = Some(now);
        }
        let event =
            RunEvent::Progress { run: to.run.clone(), task: to.task.clone(), attempt: to.attempt, done, total, unit };
        drop(to.sender.try_send(event));
    }
}
