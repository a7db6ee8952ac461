//! Data in, tables out. No notion of a schedule.
//!
//! Life of a record: a [`source`] hands on undecoded [`record::Record`]s, a `format` turns them into Arrow rows,
//! the `pipeline` decides when a micro-batch is full, a `table` commits rows and progress together.
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod files;
pub mod format;
pub mod generate;
pub mod ingest;
pub mod invariant;
pub mod model;
pub mod output;
pub mod pipeline;
pub mod position;
pub mod publish;
pub mod record;
pub mod schema_registry;
pub mod secret;
pub mod sink;
pub mod source;
pub mod stream;
pub mod table;
pub mod testkit;
pub mod topic;

pub use error::{Error, Explain, Result, Retry};
