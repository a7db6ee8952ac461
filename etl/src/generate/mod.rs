//! Made-up events, from nothing but a seed.
//!
//! [`KINDS`] is the one list of generators: the `generate` task, `tidemill generate` and "did you mean" all read it. Each
//! opens an iterator of [`Made`] events that knows no clock and no topic; the caller decides how fast events go out and
//! where to. The same [`Wanted`] gives the same events, on any day and in any place, and memory does not grow with them.
//!
//! | kind | what it makes |
//! |---|---|
//! | [`shoppers`] | the user events of a shop over a catalogue, in event-time order |
//! | [`customer_events`] | nested events of a streaming service, with the impossible dates that real ones have |
//! | [`ecommerce_logs`] | flat JSON events of a shop, a quarter of them wrong in one way |
pub mod customer_events;
mod draw;
pub mod ecommerce_logs;
mod kind;
pub mod shoppers;

pub use kind::{Encoding, GenerateError, GeneratorKind, KINDS, Made, Making, Output, Wanted, find};
