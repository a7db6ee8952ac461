//! Bytes to rows and rows to bytes.
//!
//! Every reader here works record by record and is poison-safe: a record that cannot be read is refused with a reason,
//! and the rows before and after it are as if it had never been there.
pub mod avro;
pub(crate) mod column;
pub mod csv;
pub(crate) mod debezium;
mod decimal;
mod error;
pub(crate) mod infer;
pub(crate) mod instant;
pub mod item;
pub mod json;
pub(crate) mod window;

pub use error::SchemaError;
