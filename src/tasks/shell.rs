//! `shell`: a command in a process group of its own. Its output goes to the log line by line; whatever it does, it ends with its group.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tidemill_orchestrator::owner::process_started;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError, TaskLog};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::{Failed, Kind, Work, key, read, required, with_default};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "shell",
        about: "a shell command; JSON written to $TIDEMILL_RESULT is handed on",
        keys: &[
            required("command", Shape::Text, "what `sh -c` runs, in the project's folder"),
            key("env", Shape::Table, "variables for it, beside those of Tidemill itself"),
            with_default("skip_exit_code", Shape::Integer, "an exit code that means: nothing to do", "99"),
            with_default(
                "stop_after",
                Shape::Duration,
                "how long it may take to end after SIGTERM, then SIGKILL",
                "5s",
            ),
        ],
    },
    open,
};

/// The longest line of output that stays one.
const LINE: usize = 16 << 10;

/// What is read at once.
const CHUNK: usize = 64 << 10;

/// Between reads when the log takes no more: output that nobody keeps must not cost a core.
const THROTTLE: Duration = Duration::from_millis(20);

/// How long output may still come after the command has ended, from what it left behind.
const AFTERMATH: Duration = Duration::from_secs(1);

/// The largest result that is handed on.
const RESULT: u64 = 64 << 10;

/// What of the last lines is told with a failure.
const LAST: usize = 8;

#[derive(Deserialize)]
struct Settings {
    command: String,
    #[serde(default)]
    env: BTreeMap<String, Value>,
    skip_exit_code: Option<i32>,
    stop_after: Option<String>,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

/// A process group that is killed when nobody waits for it any more.
struct Group {
    id: u32,
    ended: bool,
}

impl Group {
    fn new(id: u32) -> Self {
        Self { id, ended: false }
    }

    /// What sends a signal to all of it. The shell's own `kill` knows groups everywhere; that there is none any more is no failure.
    fn script(&self, signal: &str) -> [String; 2] {
        ["-c".to_owned(), format!("kill -s {signal} -- -{} 2>/dev/null", self.id)]
    }

    async fn signal(&self, signal: &str) {
        let sent = Command::new("sh").args(self.script(signal)).stdin(Stdio::null()).status().await;
        if let Err(error) = sent {
            tracing::warn!(%error, group = self.id, "cannot signal a process group");
        }
    }

    /// Kills what is left of it.
    async fn end(mut self) {
        self.signal("KILL").await;
        self.ended = true;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // The attempt is dropped, and with it everything that could wait.
            let sent = std::process::Command::new("sh").args(self.script("KILL")).stdin(Stdio::null()).status();
            if let Err(error) = sent {
                tracing::warn!(%error, group = self.id, "cannot kill a process group");
            }
        }
    }
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, _house: &Lakehouse, _metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let remains = context.log.path().with_extension("group");
        end_remains(&remains, &context.log).await;
        let result = context.log.path().with_extension("result.json");
        // A result of the attempt before a crash is not this one's.
        let _gone = std::fs::remove_file(&result);
        let mut child = self.start(context, &result)?;
        let group = Group::new(child.id().unwrap_or_default());
        remember(&remains, group.id);
        let last = Last::default();
        let readers = tokio::spawn({
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let (log, one, two) = (context.log.clone(), last.clone(), last.clone());
            async move { tokio::join!(drain(out, &log, &one), drain(err, &log, &two)) }
        });
        let status = tokio::select! {
            status = child.wait() => Some(status),
            () = context.cancel.cancelled() => None,
        };
        let Some(status) = status else {
            context.log.line("asked to stop: SIGTERM to its process group");
            group.signal("TERM").await;
            let patience = self.stop_after.as_deref().and_then(|text| crate::settings::parse_duration(text).ok());
            let ended = tokio::time::timeout(patience.unwrap_or(Duration::from_secs(5)), child.wait()).await;
            if ended.is_err() {
                context.log.line("it did not end: SIGKILL");
            }
            group.end().await;
            let _ended = child.wait().await;
            let _gone = std::fs::remove_file(&remains);
            return Err(TaskError::new("D0120", "the command was stopped", Retry::Later).into());
        };
        if tokio::time::timeout(AFTERMATH, readers).await.is_err() {
            context.log.line("what the command left behind is ended");
        }
        group.end().await;
        let _gone = std::fs::remove_file(&remains);
        let status = status.map_err(|error| {
            TaskError::new("D0121", "cannot wait for the command", Retry::Later).why(error.to_string())
        })?;
        match status.code() {
            Some(0) => Ok(Outcome::done("exit code 0").with(handed_on(&result)?)),
            Some(code) if code == self.skip_exit_code.unwrap_or(99) => {
                Ok(Outcome::skipped(format!("exit code {code}: nothing to do")))
            }
            _ => {
                let said = last.text();
                let mut error = TaskError::new("D0120", format!("the command failed: {status}"), Retry::Later)
                    .fix(format!("the whole output: tidemill logs {} {}", context.run_id, context.task));
                error.why = (!said.is_empty()).then(|| format!("its last lines:\n{said}"));
                Err(error.into())
            }
        }
    }
}

impl Settings {
    fn start(&self, context: &TaskContext, result: &Path) -> Result<Child, TaskError> {
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.command])
            .current_dir(&context.project_dir)
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("TIDEMILL_DAG", &context.dag)
            .env("TIDEMILL_RUN", &context.run_id)
            .env("TIDEMILL_TASK", &context.task)
            .env("TIDEMILL_ATTEMPT", context.attempt.to_string())
            .env("TIDEMILL_RESULT", result);
        if let Some(interval) = context.interval {
            command
                .env("TIDEMILL_INTERVAL_START", interval.start.to_rfc3339())
                .env("TIDEMILL_INTERVAL_END", interval.end.to_rfc3339());
        }
        for (name, value) in &self.env {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            command.env(name, text);
        }
        command.spawn().map_err(|error| {
            TaskError::new("D0121", "the command cannot be started", Retry::Later)
                .why(error.to_string())
                .fix("`sh` must be there, and the machine must allow another process")
        })
    }
}

/// The last lines, for a failure.
#[derive(Clone, Default)]
struct Last(std::sync::Arc<std::sync::Mutex<std::collections::VecDeque<String>>>);

impl Last {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if lines.len() == LAST {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(300).collect());
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Writes output to the log, line by line, until it ends. Bytes that are no text become `\xNN`.
async fn drain(output: Option<impl AsyncRead + Unpin>, log: &TaskLog, last: &Last) {
    let Some(mut output) = output else { return };
    let mut chunk = vec![0; CHUNK];
    let mut line: Vec<u8> = Vec::new();
    let tell = |line: &mut Vec<u8>| {
        let text = readable(line);
        log.line(if text.is_empty() { " " } else { &text });
        last.push(&text);
        line.clear();
    };
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        for byte in chunk.iter().take(count) {
            if *byte == b'\n' {
                tell(&mut line);
            } else {
                line.push(*byte);
                if line.len() >= LINE {
                    tell(&mut line);
                }
            }
        }
        if log.full() {
            tokio::time::sleep(THROTTLE).await;
        }
    }
    if !line.is_empty() {
        tell(&mut line);
    }
}

/// Text as it may be shown on a terminal: what is not, as `\xNN`.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars().filter(|c| *c != '\r') {
            if c.is_control() && c != '\t' {
                text.extend(c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// What the command wrote for the tasks after it.
fn handed_on(path: &Path) -> Result<Value, TaskError> {
    let wrong = |why: String| {
        TaskError::new("D0122", "what the command wrote to $TIDEMILL_RESULT cannot be handed on", Retry::Never)
            .why(why)
            .fix("write JSON of at most 64 KiB there, or nothing")
    };
    match std::fs::metadata(path) {
        Err(_) => Ok(Value::Null),
        Ok(found) if found.len() > RESULT => Err(wrong(format!("it has {} bytes", found.len()))),
        Ok(_) => {
            let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
        }
    }
}

/// Notes which group the attempt runs in, for whoever takes it over.
fn remember(path: &PathBuf, group: u32) {
    let started = process_started(group).unwrap_or_default();
    if let Err(error) = std::fs::write(path, format!("{group} {started}")) {
        tracing::warn!(%error, path = %path.display(), "cannot note the process group of a command");
    }
}

/// Ends what is left of this attempt from a process that died: it would go on beside us.
async fn end_remains(path: &Path, log: &TaskLog) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let Some((group, started)) = text.split_once(' ') else { return };
    let Ok(group) = group.parse::<u32>() else { return };
    // The number may be another process's by now.
    if !started.is_empty() && process_started(group).as_deref() == Some(started) {
        log.line("the command of the process that died is still there: it is ended first");
        Group::new(group).end().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_shown_as_bytes() {
        assert_eq!(readable(b"plain\ttext \xc3\xa9\r"), "plain\ttext é");
        assert_eq!(readable(b"\x1b[31mred\x00\xff\xfe"), "\\x1b[31mred\\x00\\xff\\xfe");
    }
}
