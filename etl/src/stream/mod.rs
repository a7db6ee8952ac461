//! What a person does with a stream beside landing it: pause it, move it, replay its dead letters, prove that its table
//! is what the topic says, and land a part of a topic again beside the live table.
//!
//! All of it works from the outside: nothing here runs while a stream lands, and whatever it does is one commit that
//! carries its own progress, so that a process that dies in between leaves the old state or the new.
mod backfill;
mod compare;
mod digest;
mod error;
mod mark;
mod pause;
mod ranges;
mod replay;
mod reset;
mod rows;
mod scan;
mod status;
mod until;
mod verify;

use crate::pipeline::Landing;
use crate::pipeline::body::OnIncompatible;

pub use backfill::{Backfill, Span, Swapped, backfill, backfill_of, drop_backfill, swap};
pub use compare::{Compared, Differing, compare};
pub use error::StreamError;
pub use pause::{Pause, pause, paused, resume};
pub use ranges::Break;
pub use replay::{Choice, LetterId, Replayed, Replaying, replay};
pub use reset::{Move, Reset, To, plan_reset, reset};
pub use status::{Standing, standing};
pub use verify::{Difference, Partition, Verified, Verifying, Wrong, verify};

/// The stream as it is read again: records whose schema contradicts the table are refused one by one, whatever the stream
/// does with them when it lands.
fn patient(landing: &Landing) -> Landing {
    Landing { on_incompatible: OnIncompatible::DeadLetter, shared: false, ..landing.clone() }
}

/// The identity of whoever puts rows into a stream's table beside the landing: replays, resets and swaps. Each of them
/// raises it in its commit, so that of two at once the second starts again from what the first has done.
fn beside(stream: &str, topic: &str) -> String {
    format!("{stream}/dead-letter/{topic}")
}

#[cfg(test)]
mod tests;
