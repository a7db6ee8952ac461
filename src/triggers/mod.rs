//! What the scheduler cannot see by itself, as events for it: versions of tables.
mod table;

pub(crate) use table::watch as watch_tables;
