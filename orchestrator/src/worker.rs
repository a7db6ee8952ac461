//! Runs one attempt: renders its settings, opens its task, and sees that it ends: by itself, by time-out, by cancel, or by panic.
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::dag::template;
use crate::plan::{Ended, Work};
use crate::scheduler::RunEvent;
use crate::task::{EventTarget, Outcome, Progress, Retry, TaskContext, TaskError, TaskFactory, TaskLog};

/// What all attempts share.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) factory: Arc<dyn TaskFactory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) project_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) log_cap: u64,
    pub(crate) grace: Duration,
    pub(crate) events: Option<mpsc::Sender<RunEvent>>,
}

/// Where the log of an attempt is, under the log folder.
pub fn log_path(log_dir: &Path, dag: &str, run: &str, task: &str, attempt: u32) -> PathBuf {
    log_dir.join(dag).join(run).join(task).join(format!("{attempt}.log"))
}

impl Worker {
    /// Runs the attempt to its end. Never panics, never waits longer than time-out plus grace.
    pub(crate) async fn attempt(self, work: Work, cancel: CancellationToken) -> Ended {
        let (run, task) = (work.run.id.clone(), work.task.id.clone());
        let events = self.events.clone().map(|sender| EventTarget {
            sender,
            run: run.clone(),
            task: task.clone(),
            attempt: work.attempt,
        });
        let path = log_path(&self.log_dir, &work.run.dag, &run, &task, work.attempt);
        let log = TaskLog::open(&path, self.log_cap, Arc::clone(&self.clock), events.clone());
        if work.resumed {
            log.line("started again: the process that ran this attempt ended");
        }
        let how = self.supervise(&work, &log, Progress::new(events), &cancel).await;
        let how = match how {
            // What was stopped before it was done is not a failure: it goes on later, or its run is cancelled.
            Some(Err(error)) if cancel.is_cancelled() => {
                log.line(format!("stopped: {error}"));
                None
            }
            Some(Err(error)) => {
                log.line(format!("error[{}]: {error}", error.code));
                for (name, text) in [("where", &error.place), ("why", &error.why), ("fix", &error.fix)] {
                    if let Some(text) = text {
                        log.line(format!("  {name}: {text}"));
                    }
                }
                Some(Err(error))
            }
            Some(Ok(outcome)) => {
                log.line(if let Some(again_at) = outcome.again_at {
                    format!("{}: looks again at {}", outcome.summary, again_at.to_rfc3339())
                } else if outcome.skipped {
                    format!("skipped: {}", outcome.summary)
                } else {
                    format!("done: {}", outcome.summary)
                });
                Some(Ok(outcome))
            }
            None => {
                log.line("stopped");
                None
            }
        };
        Ended { run, task, attempt: work.attempt, how }
    }

    /// Runs the task in a task of its own, so that a panic stays there and an end can be enforced.
    async fn supervise(
        &self,
        work: &Work,
        log: &TaskLog,
        progress: Progress,
        cancel: &CancellationToken,
    ) -> Option<Result<Outcome, TaskError>> {
        // The attempt's own token: a time-out stops the attempt but is no wish of anybody.
        let stop = cancel.child_token();
        let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| self.prepare(work, log, progress, &stop)));
        let (task, context) = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return Some(Err(error)),
            Err(panic) => return Some(Err(panicked(panic.as_ref()))),
        };
        let mut running = tokio::spawn(async move { task.run(&context).await });
        let timeout = work.task.timeout;
        let expired = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let late = tokio::select! {
            ended = &mut running => return Some(flatten(ended)),
            () = cancel.cancelled() => None,
            () = expired => timeout,
        };
        stop.cancel();
        let ended = if let Ok(ended) = tokio::time::timeout(self.grace, &mut running).await {
            Some(flatten(ended))
        } else {
            running.abort();
            None
        };
        match (late, ended) {
            // It was done when it was told to stop.
            (_, Some(Ok(outcome))) => Some(Ok(outcome)),
            (Some(timeout), ended) => {
                let why = ended.and_then(Result::err).map_or_else(
                    || format!("it did not stop within {:?} of being asked to either", self.grace),
                    |error| format!("when asked to stop it said: {error}"),
                );
                let error = TaskError::new(
                    "D0110",
                    format!("the task took longer than its timeout of {timeout:?}"),
                    Retry::Later,
                );
                Some(Err(error.why(why).fix("raise `timeout` of the task, or make it do less at a time")))
            }
            (None, ended) => ended,
        }
    }

    fn prepare(
        &self,
        work: &Work,
        log: &TaskLog,
        progress: Progress,
        stop: &CancellationToken,
    ) -> Result<(Box<dyn crate::task::Task>, TaskContext), TaskError> {
        let mut settings = template::render(&work.task.settings, &work.names).map_err(|why| {
            TaskError::new("D0112", "a template in the settings cannot be rendered", Retry::Never).why(why)
        })?;
        let kind = self.factory.kinds().iter().find(|kind| kind.name == work.task.kind).ok_or_else(|| {
            TaskError::new("D0113", format!("this version knows no task kind `{}`", work.task.kind), Retry::AfterPerson)
        })?;
        crate::dag::settle_rendered(kind, &mut settings)
            .map_err(|why| TaskError::new("D0115", "a rendered setting has the wrong type", Retry::Never).why(why))?;
        let settings = Value::Object(settings);
        let task = self.factory.open(&work.task.kind, &settings)?;
        let now = self.clock.now();
        let context = TaskContext {
            dag: work.run.dag.clone(),
            run_id: work.run.id.clone(),
            task: work.task.id.clone(),
            attempt: work.attempt,
            interval: work.run.interval,
            params: work.run.params.clone(),
            settings,
            drain: work.run.options.get("drain").and_then(Value::as_bool).unwrap_or(false),
            options: work.run.options.clone(),
            project_dir: self.project_dir.clone(),
            log: log.clone(),
            progress,
            cancel: stop.clone(),
            now,
            since: work.since.unwrap_or(now),
            next: work.next.clone(),
        };
        Ok((task, context))
    }
}

/// Turns the end of the inner task into the end of the attempt: a panic is a failure.
fn flatten(ended: Result<Result<Outcome, TaskError>, tokio::task::JoinError>) -> Result<Outcome, TaskError> {
    match ended {
        Ok(how) => how,
        Err(error) if error.is_panic() => Err(panicked(error.into_panic().as_ref())),
        Err(_) => Err(TaskError::new("D0114", "the attempt was stopped", Retry::Later)),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> TaskError {
    let text =
        panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let error = TaskError::new("D0111", "the task panicked, which is a bug of Tidemill", Retry::Later);
    error.why(text.unwrap_or_else(|| "no reason given".to_owned())).fix("please report it with the log of the task")
}
