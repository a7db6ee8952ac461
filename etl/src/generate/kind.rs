//! The list of generators, and what each is given and hands on.
use chrono::{DateTime, Utc};
use serde_json::Value;
use thiserror::Error;

use super::shoppers::Catalogue;
use super::{customer_events, ecommerce_logs, shoppers};
use crate::error::{Explain, Retry};

/// How the records of an output are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As Avro, framed with the id of the newest schema of the topic's subject.
    Avro,
    /// As one JSON object.
    Json,
}

/// One kind of event a generator makes, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// The kind of event, as [`Made::kind`] says it.
    pub kind: &'static str,
    /// The topic, unless settings say otherwise.
    pub topic: &'static str,
    /// How many partitions a topic that has to be made gets.
    pub partitions: i32,
    /// How its records are written.
    pub encoding: Encoding,
}

/// One event, not yet encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Which of the generator's [`Output`]s it belongs to.
    pub kind: &'static str,
    /// The record's key, if it has one.
    pub key: Option<String>,
    /// The fields in the order of the schema.
    pub body: Value,
}

/// What a generator is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Same seed, same events.
    pub seed: u64,
    /// How many users there are; `None`: as many as the kind has by default.
    pub users: Option<u64>,
    /// How many events; `None`: as many as the kind has to tell, which may be endless.
    pub events: Option<u64>,
    /// The instant events begin at; `None`: the kind's own, reckoned from `now`.
    pub start: Option<DateTime<Utc>>,
    /// The moment of asking.
    pub now: DateTime<Utc>,
    /// Items to act on, for kinds with [`GeneratorKind::catalogue`].
    pub catalogue: Catalogue,
}

/// Events being made.
pub type Making = Box<dyn Iterator<Item = Made> + Send>;

/// One generator.
#[derive(Debug, Clone, Copy)]
pub struct GeneratorKind {
    /// The name in settings.
    pub name: &'static str,
    /// What it makes, in one line.
    pub about: &'static str,
    /// What kinds of events it makes.
    pub outputs: &'static [Output],
    /// Whether it acts on the items of a catalogue.
    pub catalogue: bool,
    /// Events per second if nobody says; `None`: as fast as possible.
    pub rate: Option<f64>,
    /// Starts it.
    pub open: fn(&Wanted) -> Result<Making, GenerateError>,
}

/// Every generator; the first is the one meant where none is named.
pub const KINDS: &[GeneratorKind] = &[shoppers::KIND, customer_events::KIND, ecommerce_logs::KIND];

/// The generator of that name.
///
/// # Errors
/// [`GenerateError::Unknown`] with all names.
pub fn find(name: &str) -> Result<&'static GeneratorKind, GenerateError> {
    KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| GenerateError::Unknown { name: name.to_owned() })
}

/// Why nothing can be generated.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum GenerateError {
    /// There is no such generator.
    #[error("generate `{name}`: there is no such generator")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A share is not a share.
    #[error("generate events with `{setting}` = {share}")]
    Share {
        /// The habit.
        setting: &'static str,
        /// Its value.
        share: f64,
    },
    /// Users need time to come in.
    #[error("spread users over a span of {span}")]
    Span {
        /// The span as set.
        span: chrono::TimeDelta,
    },
    /// Events were asked for, but nobody comes.
    #[error("generate events of 0 users")]
    Nobody,
    /// No user may ever come.
    #[error("generate events with room for 0 users")]
    NoRoom,
}

impl Explain for GenerateError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "G0106",
            Self::Share { .. } => "G0001",
            Self::Span { .. } | Self::Nobody | Self::NoRoom => "G0002",
        }
    }

    fn retry(&self) -> Retry {
        Retry::AfterPerson
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { name } => {
                let near =
                    KINDS.iter().map(|kind| kind.name).min_by_key(|known| strsim::damerau_levenshtein(name, known));
                let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
                format!("did you mean `{}`? There are {}", near.unwrap_or_default(), names.join(", "))
            }
            Self::Share { setting, .. } => format!("set `{setting}` to a number from 0 (never) to 1 (always)"),
            Self::Span { .. } => "set `span` to more than zero".to_owned(),
            Self::Nobody => "set `users` to at least 1".to_owned(),
            Self::NoRoom => "set `max_open_users` to at least 1".to_owned(),
        })
    }
}
