//! SQL models: one SELECT per file below `sql/`, in dbt's conventions.
//!
//! [`Project::load`] reads and renders all files and reports every problem at once; [`Project::order`] says which
//! model comes before which; [`build`] brings one model's table to what its SELECT gives over its inputs, or does
//! nothing if neither the plan nor an input has changed. A check is a SELECT below `sql/checks/` that must come back
//! empty.
mod build;
mod check;
mod error;
pub mod incremental;
mod project;
mod render;

pub use build::{Built, build};
pub use check::{CheckOutcome, check};
pub use error::{ModelError, ModelProblem};
pub use project::{Check, Materialization, Model, Project};
