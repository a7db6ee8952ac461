//! SQL models: one SELECT per file, in dbt's conventions.
//!
//! [`Project::read`] reads and renders all files of a [`Layout`] (ours, or dbt's) and reports every problem at once;
//! [`Project::select`] says what was meant and in which order; [`build`] brings one model's table to what its SELECT
//! gives over its inputs, or does nothing if neither the plan nor an input has changed; [`load_seed`] does the same for a
//! CSV file. A check is a SELECT that must come back empty. [`plan_all`]
//! finds what is wrong with models without running any.
mod append;
mod build;
mod check;
mod emission;
mod error;
mod identity;
pub mod incremental;
mod lineage;
mod plan;
mod project;
mod remaining;
mod run;
mod seed;
mod showing;
mod snapshot;
mod stamps;
mod statement;
mod template;
mod visible;

pub use build::{Built, build};
pub use check::{CheckOutcome, check};
pub use error::{ModelError, ModelProblem};
pub use lineage::{Edge, Lineage, Origin, Step, lineage, lineage_above};
pub use plan::{Plans, plan_all};
pub use project::{
    Check, CheckSubject, Column, DBT_PROJECT, Layout, Materialization, Model, Project, Seed, Selection, Severity,
    Source, Threshold,
};
pub use remaining::{CheckEnd, Checked};
pub use run::{End, Ran, Runner};
pub use seed::{Loaded, load_seed};
pub use showing::{Showing, show, stored};
pub use snapshot::{Kept, snapshot};
pub use stamps::Stamps;
