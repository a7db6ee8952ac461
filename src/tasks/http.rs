//! `http`: one request, and its answer for the tasks after it.
use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, key, read, required, with_default};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "http",
        about: "one HTTP request; status and body are handed on",
        keys: &[
            required("url", Shape::Text, "where to"),
            with_default("method", Shape::Text, "how", "GET"),
            key("headers", Shape::Table, "headers by name"),
            key("body", Shape::Any, "what is sent: a text as it is, anything else as JSON"),
            with_default("expect", Shape::Any, "the status that means success, or a list of them", "200 to 299"),
        ],
    },
    open,
};

/// The most of an answer that is handed on.
const BODY: usize = 64 << 10;

#[derive(Deserialize)]
struct Settings {
    url: String,
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    body: Option<Value>,
    expect: Option<Value>,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, _house: &Lakehouse, _metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let asked = async {
            let (status, body) = self.ask(context).await?;
            if self.expected(status) {
                return Ok(Outcome::done(format!("status {status}")).with(json!({ "status": status, "body": body })));
            }
            // What the server may do better next time is tried again; what is wrong with the request is not.
            let retry = if status >= 500 || [408, 425, 429].contains(&status) { Retry::Later } else { Retry::Never };
            let shown: String =
                body.as_str().map_or_else(|| body.to_string(), str::to_owned).chars().take(500).collect();
            Err(TaskError::new("D0123", format!("`{}` answered with status {status}", self.url), retry).why(shown))
        };
        tokio::select! {
            done = asked => Ok(done?),
            () = context.cancel.cancelled() => Err(TaskError::new("D0124", "the request was stopped", Retry::Later).into()),
        }
    }
}

impl Settings {
    async fn ask(&self, context: &TaskContext) -> Result<(u16, Value), TaskError> {
        let method = self.method.as_deref().unwrap_or("GET").to_uppercase();
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| {
            TaskError::new("D0124", format!("`{method}` is no method of HTTP"), Retry::Never).why(error.to_string())
        })?;
        let unreachable = |error: reqwest::Error| {
            let retry = if error.is_builder() { Retry::Never } else { Retry::Later };
            TaskError::new("D0124", format!("`{}` cannot be reached", self.url), retry)
                .why(crate::call::why(&error))
                .fix("check the URL, and that the server answers from here")
        };
        let mut request = reqwest::Client::new()
            .request(method, &self.url)
            // The same attempt after a crash asks the same: a server that knows keys does it once.
            .header("Idempotency-Key", format!("{}/{}/{}", context.run_id, context.task, context.attempt));
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        request = match &self.body {
            None => request,
            Some(Value::String(text)) => request.body(text.clone()),
            Some(body) => request.json(body),
        };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(unreachable)? {
            let room = BODY - bytes.len();
            bytes.extend(more.iter().take(room));
            if bytes.len() == BODY {
                context.log.line(format!("the answer is longer than {BODY} bytes; the rest is left out"));
                break;
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    fn expected(&self, status: u16) -> bool {
        match &self.expect {
            None => (200..300).contains(&status),
            Some(Value::Array(list)) => list.iter().any(|one| one.as_u64() == Some(u64::from(status))),
            Some(one) => one.as_u64() == Some(u64::from(status)),
        }
    }
}
