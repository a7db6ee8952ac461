//! Tasks that do what their settings say, and a record of what was started.
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::Value;

use crate::dag::{KeySpec, KindSpec, Shape};
use crate::task::{Outcome, Retry, Task, TaskContext, TaskError, TaskFactory};

/// The one kind of [`Script`].
pub const SCRIPT: &[KindSpec] = &[KindSpec {
    name: "script",
    about: "does what it is told, for tests",
    keys: &[
        KeySpec {
            name: "act",
            shape: Shape::Text,
            required: false,
            about: "ok, skip, fail, never, panic, hang, deaf, rows, log, or flaky:N",
            default: Some("ok"),
        },
        KeySpec { name: "result", shape: Shape::Any, required: false, about: "handed on", default: None },
        KeySpec { name: "file", shape: Shape::Text, required: false, about: "any text", default: None },
        KeySpec { name: "rows", shape: Shape::Integer, required: false, about: "any number", default: None },
        KeySpec { name: "every", shape: Shape::Duration, required: false, about: "any duration", default: None },
        KeySpec { name: "tables", shape: Shape::ListOfText, required: false, about: "any names", default: None },
    ],
}];

/// What was started: run, task, attempt, settings.
pub type Started = (String, String, u32, Value);

/// Makes scripted tasks and remembers every start.
#[derive(Debug, Clone, Default)]
pub struct Script {
    started: Arc<Mutex<Vec<Started>>>,
}

impl Script {
    /// Everything started so far, in order.
    pub fn started(&self) -> Vec<Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Scripted {
    act: String,
    result: Value,
    started: Arc<Mutex<Vec<Started>>>,
}

impl TaskFactory for Script {
    fn kinds(&self) -> &[KindSpec] {
        SCRIPT
    }

    fn open(&self, _kind: &str, settings: &Value) -> Result<Box<dyn Task>, TaskError> {
        let act = settings.get("act").and_then(Value::as_str).unwrap_or("ok").to_owned();
        let result = settings.get("result").cloned().unwrap_or_default();
        Ok(Box::new(Scripted { act, result, started: Arc::clone(&self.started) }))
    }
}

#[async_trait]
impl Task for Scripted {
    #[expect(clippy::panic, reason = "a scripted panic")]
    async fn run(&self, context: &TaskContext) -> Result<Outcome, TaskError> {
        let start = (context.run_id.clone(), context.task.clone(), context.attempt, context.settings.clone());
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(start);
        let (act, number) = self.act.split_once(':').unwrap_or((&self.act, "0"));
        match act {
            "skip" => Ok(Outcome::skipped("nothing to do")),
            "fail" => Err(TaskError::new("X0001", "scripted failure", Retry::Later)),
            "never" => Err(TaskError::new("X0002", "scripted failure for good", Retry::Never)),
            "rows" => Err(TaskError { found_rows: true, ..TaskError::new("X0003", "found rows", Retry::Never) }),
            "flaky" if context.attempt <= number.parse().unwrap_or(0) => {
                Err(TaskError::new("X0001", "scripted failure", Retry::Later))
            }
            "panic" => panic!("scripted panic"),
            "hang" => {
                context.cancel.cancelled().await;
                Err(TaskError::new("X0001", "told to stop", Retry::Later))
            }
            "deaf" => std::future::pending().await,
            "log" => {
                for line in 0..number.parse().unwrap_or(0) {
                    context.log.line(format!("line {line}"));
                    context.progress.report(line, None, "lines");
                }
                Ok(Outcome::done("logged"))
            }
            _ => Ok(Outcome::done(format!("did {}", context.task)).with(self.result.clone())),
        }
    }
}
