//! Tells people what DAG files ask for: by a POST, or by a command.
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tidemill_orchestrator::Caller;
use tidemill_orchestrator::dag::CallTo;
use tidemill_orchestrator::history::Call;
use tokio::io::AsyncWriteExt as _;

/// The longest a call may take.
const LONGEST: Duration = Duration::from_secs(30);

/// Tells over HTTP and by commands, which start in the project's folder.
pub(crate) struct People {
    pub(crate) project_dir: std::path::PathBuf,
}

#[async_trait]
impl Caller for People {
    async fn call(&self, call: &Call) -> Result<(), String> {
        let told = async {
            match &call.to {
                CallTo::Webhook(url) => webhook(url, call).await,
                CallTo::Command(command) => self.command(command, call).await,
            }
        };
        tokio::time::timeout(LONGEST, told).await.unwrap_or_else(|_| Err(format!("it took longer than {LONGEST:?}")))
    }
}

/// What was wrong with a request, with its causes.
pub(crate) fn why(error: &reqwest::Error) -> String {
    match tidemill_etl::error::chain(error) {
        Some(causes) => format!("{error}: {causes}"),
        None => error.to_string(),
    }
}

async fn webhook(url: &str, call: &Call) -> Result<(), String> {
    let request = reqwest::Client::new().post(url).header("Idempotency-Key", &call.id).json(&call.body);
    let answer = request.send().await.map_err(|error| why(&error))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("it answered with status {status}")) }
}

impl People {
    async fn command(&self, command: &str, call: &Call) -> Result<(), String> {
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(&self.project_dir)
            .env("TIDEMILL_CALL", &call.id)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        if let Some(mut input) = child.stdin.take() {
            // A command that does not read its input is told all the same.
            let _unread = input.write_all(call.body.to_string().as_bytes()).await;
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }
}
