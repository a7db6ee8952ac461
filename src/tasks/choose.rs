//! `branch` and `condition`: which of the tasks after them are to run.
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_orchestrator::{Choice, KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, read, required, with_default};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const BRANCH: Kind = Kind {
    spec: KindSpec {
        name: "branch",
        about: "chooses which of the tasks directly after it run; the others are skipped",
        keys: &[required("choose", Shape::ListOfText, "their names; mostly a template")],
    },
    open: open_branch,
};

pub(super) const CONDITION: Kind = Kind {
    spec: KindSpec {
        name: "condition",
        about: "goes on only if something is so; else what comes after it is skipped",
        keys: &[
            required("when", Shape::Any, "true or false, or a template that gives it"),
            with_default(
                "skip",
                Shape::Text,
                "what is skipped: all (whatever its rule) or next (the rest by its rules)",
                "all",
            ),
        ],
    },
    open: open_condition,
};

#[derive(Deserialize)]
struct Branch {
    choose: Vec<String>,
}

#[derive(Deserialize)]
struct Condition {
    when: Value,
    skip: Option<String>,
}

fn open_branch(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Branch>(settings)?))
}

fn open_condition(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let condition = read::<Condition>(settings)?;
    match condition.skip.as_deref() {
        None | Some("all" | "next") => Ok(Box::new(condition)),
        Some(other) => Err(TaskError::new("D0020", format!("`skip` cannot be `{other}`: all or next"), Retry::Never)),
    }
}

#[async_trait]
impl Work for Branch {
    async fn run(&self, _house: &Lakehouse, _metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        if let Some(unknown) = self.choose.iter().find(|name| !context.next.contains(name)) {
            let what = format!("the branch chose `{unknown}`, which is not directly after it");
            let hint = crate::suggest::hint(unknown, context.next.iter().map(String::as_str));
            let mut error = TaskError::new("D0128", what, Retry::Never);
            error.fix = hint;
            return Err(error.into());
        }
        let said = if self.choose.is_empty() { "nothing".to_owned() } else { self.choose.join(", ") };
        Ok(Outcome::done(format!("chose {said}"))
            .with(json!({ "chosen": self.choose }))
            .choosing(Choice::Only(self.choose.clone())))
    }
}

#[async_trait]
impl Work for Condition {
    async fn run(&self, _house: &Lakehouse, _metrics: &Metrics, _context: &TaskContext) -> Result<Outcome, Failed> {
        let so = match &self.when {
            Value::Bool(so) => *so,
            Value::String(text) if text.eq_ignore_ascii_case("true") => true,
            Value::String(text) if text.eq_ignore_ascii_case("false") || text.is_empty() => false,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            other => {
                let what = format!("`when` is neither true nor false: {other}");
                return Err(TaskError::new("D0020", what, Retry::Never).into());
            }
        };
        let choice = match (so, self.skip.as_deref()) {
            (true, _) => Choice::All,
            (false, Some("next")) => Choice::NotNext,
            (false, _) => Choice::Nothing,
        };
        let said = if so { "it is so" } else { "it is not so: what comes after is skipped" };
        Ok(Outcome::done(said).with(Value::Bool(so)).choosing(choice))
    }
}
