//! Lands topics as Delta tables, exactly once.
//!
//! The hops of a record, one file each: [`crate::source`] polls it, [`decide`] says when its micro-batch is full,
//! [`decode`](self::Decoder) makes it a row or a dead letter by its [`body`], [`dead_letter`](DeadLetters) keeps the latter,
//! [`land`] commits rows and the next offset to read in one version of the table.
pub mod body;
mod dead_letter;
mod decide;
mod decode;
mod error;
mod shell;

pub use dead_letter::{DeadLetter, DeadLetters, dead_letter_schema};
pub use decide::{Action, Event, Filling, Limits, decide};
pub use decode::{Decoded, Decoder, META_COLUMNS};
pub use error::LandingError;
pub use shell::{Around, Clock, Landed, Landing, Progress, land};
