//! `wait`: until a time, a file, or an answer. It looks and puts itself off: between looks it holds nothing.
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_orchestrator::dag::parse_instant;
use tidemill_orchestrator::trigger;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, key, read, with_default};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "wait",
        about: "waits for a time, a file or an answer, and holds no slot meanwhile",
        keys: &[
            key("for", Shape::Duration, "so long after the task first started"),
            key("until", Shape::Text, "until this instant"),
            key("file", Shape::Text, "until a file matches this pattern"),
            key("url", Shape::Text, "until a GET of this URL gives 200 to 299"),
            with_default("poll", Shape::Duration, "how often to look", "30s"),
            key("give_up_after", Shape::Duration, "the longest wait, from when the task first started"),
            with_default("on_give_up", Shape::Text, "what then: fail or skip", "fail"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    r#for: Option<String>,
    until: Option<String>,
    file: Option<String>,
    url: Option<String>,
    poll: Option<String>,
    give_up_after: Option<String>,
    on_give_up: Option<String>,
}

/// The settings, read.
struct Wait {
    what: What,
    poll: TimeDelta,
    give_up_after: Option<TimeDelta>,
    skip: bool,
}

enum What {
    For(TimeDelta),
    Until(DateTime<Utc>),
    File(String),
    Url(String),
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let wrong = |what: String| TaskError::new("D0020", what, Retry::Never).fix("see `tidemill kinds wait`");
    let span = |name: &str, text: &Option<String>| -> Result<Option<TimeDelta>, TaskError> {
        let Some(text) = text else { return Ok(None) };
        let span: Duration = crate::settings::parse_duration(text).map_err(|why| wrong(format!("`{name}`: {why}")))?;
        TimeDelta::from_std(span).map(Some).map_err(|why| wrong(format!("`{name}`: {why}")))
    };
    let given = read::<Settings>(settings)?;
    let until = given.until.as_ref().map(|text| {
        parse_instant(text, chrono_tz::Tz::UTC).ok_or_else(|| wrong(format!("`until`: `{text}` is not an instant")))
    });
    let mut all: Vec<What> = Vec::new();
    all.extend(span("for", &given.r#for)?.map(What::For));
    all.extend(until.transpose()?.map(What::Until));
    all.extend(given.file.map(What::File));
    all.extend(given.url.map(What::Url));
    let (Some(what), true) = (all.pop(), all.is_empty()) else {
        return Err(wrong("a `wait` takes one of `for`, `until`, `file` and `url`".to_owned()));
    };
    if let What::File(pattern) = &what {
        trigger::check_pattern(pattern).map_err(|why| wrong(format!("`file`: {why}")))?;
    }
    let skip = match given.on_give_up.as_deref() {
        None | Some("fail") => false,
        Some("skip") => true,
        Some(other) => return Err(wrong(format!("`on_give_up` cannot be `{other}`: fail or skip"))),
    };
    let poll = span("poll", &given.poll)?.unwrap_or(TimeDelta::seconds(30)).max(TimeDelta::milliseconds(100));
    Ok(Box::new(Wait { what, poll, give_up_after: span("give_up_after", &given.give_up_after)?, skip }))
}

#[async_trait]
impl Work for Wait {
    async fn run(&self, _house: &Lakehouse, _metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let (now, waits_for) = (context.now, self.what.name());
        let mut again_at = now + self.poll;
        match &self.what {
            What::For(span) => again_at = context.since + *span,
            What::Until(at) => again_at = *at,
            What::File(pattern) => {
                let (root, pattern) = (context.project_dir.clone(), pattern.clone());
                let found = tokio::task::spawn_blocking(move || trigger::list(&root, &pattern)).await;
                let found = found.unwrap_or_else(|error| Err(error.into())).map_err(|error| {
                    TaskError::new("D0125", "the files cannot be listed", Retry::Later).why(error.to_string())
                })?;
                if !found.is_empty() {
                    let files: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
                    return Ok(Outcome::done(format!("{} is there", files.join(", "))).with(json!({ "files": files })));
                }
            }
            What::Url(url) => {
                let answer = reqwest::Client::new().get(url).timeout(Duration::from_secs(30)).send().await;
                match answer {
                    Ok(answer) if answer.status().is_success() => {
                        return Ok(Outcome::done(format!("`{url}` answers")));
                    }
                    Ok(answer) => context.log.line(format!("status {}", answer.status().as_u16())),
                    Err(error) => context.log.line(crate::call::why(&error)),
                }
            }
        }
        if matches!(self.what, What::For(_) | What::Until(_)) && again_at <= now {
            return Ok(Outcome::done(format!("waited {waits_for}")));
        }
        match self.give_up_after.map(|span| context.since + span) {
            Some(end) if end <= now && self.skip => Ok(Outcome::skipped(format!("gave up waiting {waits_for}"))),
            Some(end) if end <= now => {
                Err(TaskError::new("D0125", format!("waited in vain {waits_for}"), Retry::Never)
                    .why(format!("since {}", context.since.to_rfc3339()))
                    .fix("raise `give_up_after`, or see why it does not come")
                    .into())
            }
            Some(end) => Ok(Outcome::later(again_at.min(end), format!("waits {waits_for}"))),
            None => Ok(Outcome::later(again_at, format!("waits {waits_for}"))),
        }
    }
}

impl What {
    fn name(&self) -> String {
        match self {
            Self::For(span) => format!("for {} s", span.num_seconds()),
            Self::Until(at) => format!("until {}", at.to_rfc3339()),
            Self::File(pattern) => format!("for a file `{pattern}`"),
            Self::Url(url) => format!("for `{url}`"),
        }
    }
}
