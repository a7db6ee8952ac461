//! SQL over the lake: DataFusion with the lake's tables as its catalogue, old versions by `VERSION AS OF`, and a
//! memory limit beyond which it spills to disk.
mod catalog;
mod digest;
mod error;
pub mod function;
mod limited;
mod never;
#[cfg(feature = "polars")]
pub mod polars;
mod session;
mod travel;
pub mod window;

pub(crate) use catalog::WATERMARK;
pub(crate) use digest::row_digest;
pub use error::EngineError;
pub use session::{Engine, EngineSettings, Given, Pinned, Rows};
pub(crate) use session::{Session, names, normal_form, parse};
pub(crate) use travel::names_versions;
