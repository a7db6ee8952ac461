//! When the clock starts runs: cron ticks ([`cron`]) and the data intervals between them ([`interval`]).
pub mod cron;
pub mod interval;

pub use cron::CronSchedule;
