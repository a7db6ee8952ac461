//! Templates in SQL files: Jinja with dbt's functions.
//!
//! [`scan`] finds tags without rendering, [`environment`] renders, with [`caller`] and [`python`] beside it, [`map`] leads from rendered SQL back to the file.
mod caller;
mod environment;
mod map;
mod python;
mod scan;

pub(crate) use environment::{Found, Here, Resolve, Surroundings, Templates, quote};
pub(crate) use map::{SourceMap, marked, offset};
pub(crate) use scan::{Kind, Prepared, macros, pieces, prepare};
