//! Runs checks: a SELECT that finds rows has found what is wrong.
use arrow::array::RecordBatch;

use super::error::ModelError;
use super::project::Check;
use crate::engine::{Engine, Given};
use crate::error::Result;

/// What a check found.
#[derive(Debug, Clone)]
pub struct CheckOutcome {
    /// The check.
    pub check: String,
    /// How many rows it found; zero is good.
    pub rows: u64,
    /// The first of them, to be shown.
    pub sample: Option<RecordBatch>,
}

/// How many of the found rows are kept to be shown.
const SAMPLE: usize = 5;

/// Runs one check over the newest versions.
///
/// # Errors
/// [`ModelError::Sql`] if the check cannot be planned or run. Rows that it finds are no error.
pub async fn check(engine: &Engine, check: &Check) -> Result<CheckOutcome> {
    check_given(engine, check, Given::new()).await
}

/// Runs one check; the tables `given` stand for those of their names.
pub(super) async fn check_given(engine: &Engine, check: &Check, given: Given) -> Result<CheckOutcome> {
    let in_sql = |source: crate::Error| ModelError::Sql {
        model: check.name.clone(),
        file: check.file.clone(),
        source: Box::new(source),
    };
    let mut rows = engine.query_with(&check.sql, given).await.map_err(in_sql)?;
    let mut outcome = CheckOutcome { check: check.name.clone(), rows: 0, sample: None };
    while let Some(batch) = rows.next().await.map_err(in_sql)? {
        outcome.rows += batch.num_rows() as u64;
        if outcome.sample.is_none() && batch.num_rows() > 0 {
            outcome.sample = Some(batch.slice(0, batch.num_rows().min(SAMPLE)));
        }
    }
    Ok(outcome)
}
