//! A table asked for some rows of no columns gives that many.
//!
//! deltalake answers a scan without columns from the log alone, takes any LIMIT as one it keeps itself, and then gives all rows:
//! `SELECT 1 FROM t LIMIT 1` was as long as the table. Such a scan reads one column here, which is left away again.
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{LogicalPlan, Projection};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// The rule. It comes after those that leave columns away.
#[derive(Debug, Default)]
pub(super) struct Limited;

impl OptimizerRule for Limited {
    fn name(&self) -> &'static str {
        "limited_scans_read_a_column"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::TableScan(scan) = &plan else { return Ok(Transformed::no(plan)) };
        let none = scan.projection.as_ref().is_some_and(Vec::is_empty);
        if !none || scan.fetch.is_none() || scan.source.schema().fields().is_empty() {
            return Ok(Transformed::no(plan));
        }
        let read = TableScanBuilder::new(scan.table_name.clone(), Arc::clone(&scan.source))
            .with_projection(Some(vec![0]))
            .with_filters(scan.filters.clone())
            .with_fetch(scan.fetch)
            .build()?;
        let read = Arc::new(LogicalPlan::TableScan(read));
        let left = Projection::try_new_with_schema(Vec::new(), read, Arc::clone(&scan.projected_schema))?;
        Ok(Transformed::yes(LogicalPlan::Projection(left)))
    }
}
