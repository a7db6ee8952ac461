//! When and in what order: DAG files, schedules, triggers, runs and their history. No notion of data.
//!
//! The life of a run, one hop per line:
//! 1. [`dag`] reads `dags/*.toml` into [`Dags`] and names every problem it finds.
//! 2. [`schedule`] and [`trigger`] say which intervals and which files are due.
//! 3. [`plan::decide`] turns definitions, history and the time into actions. It is pure.
//! 4. [`scheduler`] writes all actions of one step into [`history`] in one transaction, then performs them.
//! 5. [`worker`] runs an attempt of a [`Task`]: timeout, cancel, log, panic.
//! 6. How it ended goes back to step 3, until the run has ended.
//!
//! A crash is a pause: what is recorded as ended never runs again, what was running is started again under the same
//! attempt number by whoever takes the run over (see [`owner`]).
#![forbid(unsafe_code)]

pub mod clock;
pub mod dag;
pub mod error;
pub mod history;
pub mod invariant;
pub mod owner;
pub mod plan;
pub mod retry;
pub mod rule;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod suggest;
pub mod task;
pub mod testkit;
pub mod trigger;
pub mod worker;

pub use clock::{Clock, WallClock};
pub use dag::{Dag, Dags, KeySpec, KindSpec, Loaded, Problem, Severity, Shape};
pub use error::OrchestratorError;
#[cfg(feature = "postgres")]
pub use history::postgres::PostgresHistory;
pub use history::{History, HistoryError, memory::MemoryHistory, sqlite::SqliteHistory};
pub use run::{Attempt, Cause, Choice, Interval, Run, RunState, TaskInstance, TaskState};
pub use scheduler::{Caller, RunEvent, RunReport, RunRequest, Scheduler, SchedulerConfig, TaskReport};
pub use task::{Outcome, Progress, Retry, Task, TaskContext, TaskError, TaskFactory, TaskLog};
