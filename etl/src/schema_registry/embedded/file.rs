//! The files of the registry: names and content.
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::schema_registry::Reference;
use crate::schema_registry::compatible::MAX_SCHEMA;
use crate::schema_registry::error::RegistryError;

pub(super) const FORMAT: u32 = 1;
/// A schema with references.
pub(super) const FORMAT_REFERENCES: u32 = 2;
/// JSON escapes can make a text six times as long, and a schema with references is there twice.
pub(super) const MAX_FILE: u64 = 12 * MAX_SCHEMA as u64 + (1 << 20);
/// File names may have 255 bytes, with `.json` behind.
const MAX_SUBJECT: usize = 250;

#[derive(Serialize, Deserialize)]
pub(super) struct IdFile {
    pub(super) format: u32,
    pub(super) id: i32,
    pub(super) schema: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) references: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resolved: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct VersionFile {
    pub(super) format: u32,
    pub(super) subject: String,
    pub(super) version: i32,
    pub(super) id: i32,
}

/// A mark beside a version.
#[derive(Serialize)]
pub(super) struct MarkFile {
    pub(super) format: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LevelFile {
    pub(super) format: u32,
    pub(super) level: String,
}

/// What the marks beside a version say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Live,
    /// Shown only to who asks for deleted ones.
    Deleted,
    /// Shown to nobody; its number is used up.
    Gone,
}

impl State {
    fn suffix(self) -> &'static str {
        match self {
            Self::Live => "",
            Self::Deleted => ".deleted",
            Self::Gone => ".gone",
        }
    }

    /// The name of a version's file or of a mark beside it.
    pub(super) fn file(self, version: i32) -> String {
        format!("{version:06}{}.json", self.suffix())
    }
}

/// The version and the mark that name a file: 17 and `Deleted` of `000017.deleted.json`.
pub(super) fn version(file: &str) -> Option<(i32, State)> {
    let stem = file.strip_suffix(".json")?;
    let (digits, state) = match stem.split_once('.') {
        None => (stem, State::Live),
        Some((digits, "deleted")) => (digits, State::Deleted),
        Some((digits, "gone")) => (digits, State::Gone),
        Some(_) => return None,
    };
    Some((number(digits)?, state))
}

/// The id that names a file: 17 of `0000000017.json`.
pub(super) fn id(file: &str) -> Option<i32> {
    number(file.strip_suffix(".json")?)
}

fn number(digits: &str) -> Option<i32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Reads a file's content; it must have a format that this version knows.
pub(super) fn understand<T: DeserializeOwned>(
    path: &Path,
    text: &[u8],
    format: impl FnOnce(&T) -> u32,
    newest: u32,
) -> Result<T, RegistryError> {
    let file: T = serde_json::from_slice(text).map_err(|error| damaged(path, error.to_string()))?;
    match format(&file) {
        known if (FORMAT..=newest).contains(&known) => Ok(file),
        other => Err(damaged(path, format!("it has format {other}; this version knows formats up to {newest}"))),
    }
}

pub(super) fn damaged(path: &Path, why: String) -> RegistryError {
    RegistryError::Damaged { path: path.to_string(), why }
}

pub(super) fn check_subject(subject: &str) -> Result<(), RegistryError> {
    let bad = |why| Err(RegistryError::Subject { subject: subject.to_owned(), why });
    if subject.is_empty() {
        return bad("it is empty");
    }
    if encode(subject).len() > MAX_SUBJECT {
        return bad("it is too long for a file name");
    }
    Ok(())
}

pub(super) fn encode(subject: &str) -> String {
    let mut name = String::with_capacity(subject.len());
    for (place, byte) in subject.bytes().enumerate() {
        // A leading dot would hide the folder, and `..` would leave it.
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (byte == b'.' && place > 0) {
            name.push(char::from(byte));
        } else {
            name.push('=');
            name.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
        }
    }
    name
}

pub(super) fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'=' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
