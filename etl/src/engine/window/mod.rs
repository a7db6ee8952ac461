//! Windows over event time: `GROUP BY tumble(ts, size)`, `hop(ts, slide, size)` or `session(ts, gap)`, with `window_start` and
//! `window_end` beside the keys.
//!
//! A window is closed at its start and open at its end. Tumbling and hopping windows start at multiples of their size or slide
//! from the epoch, 1970-01-01T00:00:00Z. A session holds the rows of a group with less than `gap` between neighbours, and ends `gap`
//! behind its last row. A row whose time is NULL is in no window.
//!
//! `text` gives `window_start` and `window_end` their meaning before the statement is planned; `plan` says with the engine's own
//! nodes what grouping by a window is; `panes` keeps hopping windows from multiplying rows; `function` has the functions.
mod function;
mod panes;
mod plan;
mod size;
#[cfg(test)]
mod tests;
mod text;

use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;

pub(crate) use function::{Call, call_of, session_start};
pub(super) use panes::Panes;
pub(crate) use plan::{Under, gap, time_of, under};
pub(crate) use size::plus;

/// Plans one SELECT of a session that has the [functions](super::function::register).
///
/// # Errors
/// If the text is not one statement, or cannot be planned.
pub async fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    planned(&context.state(), super::parse(sql)?).await
}

/// Adds the functions to a session.
pub(super) fn register(context: &SessionContext) {
    for function in function::all() {
        context.register_udf(function);
    }
}

/// Plans one statement, whose windows may be named.
pub(crate) async fn planned(state: &SessionState, mut statement: Statement) -> Result<LogicalPlan> {
    text::name_windows(&mut statement);
    plan::grouped(state.statement_to_plan(statement).await?)
}
