//! A table asked for rows that pass `NULL` or `false` gives none.
//!
//! deltalake takes any filter as one it applies itself, and then forgets those without a column: `WHERE x NOT IN (…)` over a
//! `NULL AS x` gave all rows. The engine folds such conditions only once they are in the scan.
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// The rule.
#[derive(Debug, Default)]
pub(super) struct Never;

impl OptimizerRule for Never {
    fn name(&self) -> &'static str {
        "scans_that_no_row_passes"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::TableScan(scan) = &plan else { return Ok(Transformed::no(plan)) };
        let passes_none = |filter: &Expr| {
            matches!(filter, Expr::Literal(ScalarValue::Null | ScalarValue::Boolean(None | Some(false)), _))
        };
        if !scan.filters.iter().any(passes_none) {
            return Ok(Transformed::no(plan));
        }
        let schema = std::sync::Arc::clone(&scan.projected_schema);
        Ok(Transformed::yes(LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema })))
    }
}
