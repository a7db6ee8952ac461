//! SQL over the lake: DataFusion with the lake's tables as its catalogue, old versions by `VERSION AS OF`, and a
//! memory limit beyond which it spills to disk.
mod catalog;
mod error;
mod session;
mod travel;

pub use error::EngineError;
pub use session::{Engine, EngineSettings, Pinned, Rows};
