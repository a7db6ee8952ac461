//! Models that keep up with their inputs: what a change of the inputs changes in the result, and nothing else, is computed.
//!
//! `normal` brings the SELECT into one form; `proof` says whether the same rows always give the same result; `delta` turns a
//! change of the inputs into a change of the result, with `restrict` bringing the affected keys down to the tables;
//! `refresh` chooses among the classes and runs the choice; `apply` writes it. Whatever one of them cannot do makes the whole
//! table be computed anew, and the reason is said.
mod apply;
mod bounds;
mod delta;
mod emit;
mod explain;
mod input;
mod normal;
mod proof;
mod prune;
mod refresh;
mod restrict;
mod scratch;
mod sessions;
mod timed;
mod verify;

use std::fmt;

use serde::Serialize;

pub(super) use apply::FILE_BYTES;
pub use delta::KeyStep;
pub(super) use emit::{Emitter, Since};
pub use explain::{Explained, InputClass, Pending, explain};
pub(super) use proof::volatile;
pub(super) use refresh::{Reading, Refreshed, refresh};
pub(super) use timed::{Timed, timed};
pub use verify::{Verified, verify};

/// How a change of the inputs becomes a change of the table, from the cheapest to the dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// No row of an input that counts has changed.
    Nothing,
    /// The SELECT runs over the change, and what it gives is appended.
    RowWise,
    /// The change is aggregated and combined with the groups that are stored.
    Combine,
    /// What belongs to the keys that the change touches is computed anew.
    AffectedKeys,
    /// Everything is computed anew.
    Full,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::RowWise => "row-wise",
            Self::Combine => "combine",
            Self::AffectedKeys => "affected-keys",
            Self::Full => "full",
        })
    }
}

/// Why something does not run incrementally, as one fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Refusal(pub String);

impl Refusal {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
