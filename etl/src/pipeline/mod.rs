//! Lands topics as Delta tables, exactly once.
//!
//! The hops of a record, one file each: [`crate::source`] polls it, [`decide`] says when its micro-batch is full,
//! [`decode`](self::Decoder) makes it a row or a dead letter by its [`body`], [`dead_letter`](DeadLetters) keeps the latter,
//! `commit` puts rows and the next offset to read into one version of the table.
//! [`land`] is the loop around them.
pub mod body;
mod columns;
mod commit;
mod dead_letter;
mod decide;
mod decode;
mod error;
mod expression;
mod hold;
mod landing;
mod parked;
mod progress;
mod rules;
mod share;
mod shell;
mod unique;

pub(crate) use dead_letter::FileLetters;
pub use dead_letter::{DeadLetter, DeadLetters, dead_letter_schema};
pub(crate) use dead_letter::{Place, places, unpacked_headers, widen};
pub use decide::{Action, Event, Filling, Limits, decide};
pub use decode::{Decoded, Decoder, META_COLUMNS, Reading};
pub use error::LandingError;
pub use landing::{Around, Clock, Landed, Landing};
pub use progress::{BUCKETS, Histogram, Progress};
pub use rules::Rule;
pub use shell::{decoder, land};
pub(crate) use unique::Unique;
