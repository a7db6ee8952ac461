//! When the clock starts runs: ticks, and the data intervals between them.
//!
//! [`cron`] says which times on a clock's face an expression means, [`clock_change`] which instants those are in a zone whose clocks are put forward
//! and back, [`calendar`] on which days they count; [`tick`] puts them together, and [`interval`] makes spans of ticks.
pub mod calendar;
pub mod clock_change;
pub mod cron;
pub mod interval;
pub mod tick;

pub use calendar::Calendar;
pub use clock_change::{ClockChange, Gap, Overlap};
pub use tick::Schedule;
