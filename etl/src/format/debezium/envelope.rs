//! The parts of a record in JSON, found without reading the row.
use thiserror::Error;

use super::meta::{Event, Source};
use crate::format::json::{Kind, Syntax, Text};

/// A record in its parts; each is JSON text.
#[derive(Debug, Default)]
pub(crate) struct Envelope<'a> {
    /// The schema that the record brings, if it brings one.
    pub(crate) schema: Option<&'a str>,
    /// The row: `after`, `before` of a deletion, `message` of a message; `None` where it is null or not there.
    pub(crate) row: Option<&'a str>,
    pub(crate) event: Event,
}

/// Why a record is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Unreadable {
    #[error("read the record as JSON: {0}")]
    Syntax(#[from] Syntax),
    #[error("read the record as Debezium's envelope: {0}")]
    Other(String),
}

impl Unreadable {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "syntax",
            Self::Other(_) => "no_envelope",
        }
    }
}

impl<'a> Envelope<'a> {
    /// Takes a record apart; `None` is a heartbeat, which says nothing of any row. `known` is the schema of the record
    /// before, which most often is this one's: then it is not read again.
    pub(crate) fn read(record: &'a [u8], known: &str) -> Result<Option<Self>, Unreadable> {
        let mut text = Text::new(record)?;
        let (mut schema, mut payload) = (None, None);
        let whole = text.clone();
        if text.kind()? != Kind::Object {
            return Err(Unreadable::Other("expected an object".to_owned()));
        }
        let mut items = text.enter()?;
        while text.more(&mut items)? {
            let key = text.key()?;
            match &*key {
                "schema" => schema = Some(text.skip_known(known)?),
                "payload" => {
                    text.kind()?;
                    payload = Some(text.clone());
                    text.skip()?;
                }
                _ => text.skip().map(drop)?,
            }
        }
        text.end()?;
        let mut envelope = Self { schema: schema.filter(|schema| *schema != "null"), ..Self::default() };
        let mut text = payload.unwrap_or(whole);
        match text.kind()? {
            Kind::Object => {}
            // The value of a tombstone as some converters write it.
            Kind::Null => return Ok(None),
            _ => return Err(Unreadable::Other("the payload is no object".to_owned())),
        }
        let (mut before, mut after, mut message) = (None, None, None);
        let mut only_time = true;
        let mut items = text.enter()?;
        while text.more(&mut items)? {
            let key = text.key()?;
            only_time &= key.starts_with("ts_");
            match &*key {
                "before" => before = object(&mut text, &key)?,
                "after" => after = object(&mut text, &key)?,
                "message" => message = object(&mut text, &key)?,
                "op" => envelope.event.op = scalar(&mut text)?.unwrap_or_default(),
                "source" => source(&mut text, &mut envelope.event.source)?,
                "transaction" => transaction(&mut text, &mut envelope.event)?,
                _ => text.skip().map(drop)?,
            }
        }
        let event = &envelope.event;
        if event.op.is_empty() && only_time {
            return Ok(None);
        }
        envelope.row = match event.op.as_str() {
            "c" | "u" | "r" => after,
            "d" => before,
            "m" => message,
            "t" => None,
            "" => return Err(Unreadable::Other("there is no `op`".to_owned())),
            other => return Err(Unreadable::Other(format!("there is no operation `{other}`"))),
        };
        if envelope.row.is_none() && matches!(event.op.as_str(), "c" | "u" | "r") {
            return Err(Unreadable::Other(format!("operation `{}` without `after`", event.op)));
        }
        Ok(Some(envelope))
    }
}

fn object<'a>(text: &mut Text<'a>, name: &str) -> Result<Option<&'a str>, Unreadable> {
    match text.kind()? {
        Kind::Null => text.null().map(|()| None).map_err(Unreadable::from),
        Kind::Object => Ok(Some(text.skip()?)),
        _ => Err(Unreadable::Other(format!("`{name}` is no object"))),
    }
}

/// A text or number as text; anything else says nothing.
fn scalar(text: &mut Text<'_>) -> Result<Option<String>, Unreadable> {
    Ok(match text.kind()? {
        Kind::Text => Some(text.string()?.into_owned()),
        Kind::Number => Some(text.number()?.digits.to_owned()),
        _ => {
            text.skip()?;
            None
        }
    })
}

fn source(text: &mut Text<'_>, source: &mut Source) -> Result<(), Unreadable> {
    if text.kind()? != Kind::Object {
        text.skip()?;
        return Ok(());
    }
    let mut items = text.enter()?;
    while text.more(&mut items)? {
        let key = text.key()?;
        let value = scalar(text)?;
        source.set(&key, value);
    }
    Ok(())
}

fn transaction(text: &mut Text<'_>, event: &mut Event) -> Result<(), Unreadable> {
    if text.kind()? != Kind::Object {
        text.skip()?;
        return Ok(());
    }
    let mut items = text.enter()?;
    while text.more(&mut items)? {
        if &*text.key()? == "id" {
            event.transaction = scalar(text)?;
        } else {
            text.skip()?;
        }
    }
    Ok(())
}
