//! The one plan that a model is run by, whole or in part: subqueries are joins, columns nobody needs are gone, and rows
//! that a window function could not tell apart are told apart by all their values.
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    Expr, LogicalPlan, Projection, Window, WindowFrame, WindowFrameBound, WindowFrameUnits,
};
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::{Optimizer, OptimizerRule};

use super::proof::{digestible, wants_total_order};
use crate::engine::row_digest;

/// Brings `plan` to that form. Both what it gives and its columns stay the same.
pub(super) fn normal(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    // Nothing here folds constants: `now()` must be seen to be there.
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let plan = Optimizer::with_rules(rules).optimize(plan, state, |_, _| {})?;
    Ok(plan.transform_up(total)?.data)
}

/// Adds a digest of all columns to the order of window functions that number rows, so that only equal rows are equal in
/// it. Any order of rows with equal keys is what the SELECT asked for; this one is the same each time.
fn total(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Window(window) = &node else { return Ok(Transformed::no(node)) };
    if !window.window_expr.iter().any(wants_total_order) || !digestible(window.input.schema().as_arrow()) {
        return Ok(Transformed::no(node));
    }
    let columns: Vec<Expr> = window.input.schema().columns().into_iter().map(Expr::Column).collect();
    let digest = row_digest().call(columns.clone());
    // All functions of one node are of one order, so those whose order grows get a node of their own.
    let (grows, stays): (Vec<_>, Vec<_>) =
        window.window_expr.iter().enumerate().partition(|(_, e)| wants_total_order(e));
    let mut made: Vec<Option<Column>> = vec![None; window.window_expr.len()];
    let mut input = Arc::clone(&window.input);
    for (group, grown) in [(grows, true), (stays, false)] {
        if group.is_empty() {
            continue;
        }
        let exprs =
            group.iter().map(|(_, expr)| if grown { with_last(expr, &digest) } else { (*expr).clone() }).collect();
        let before = input.schema().fields().len();
        let node = Window::try_new(exprs, input)?;
        for ((at, _), column) in group.iter().zip(node.schema.columns().into_iter().skip(before)) {
            if let Some(slot) = made.get_mut(*at) {
                *slot = Some(column);
            }
        }
        input = Arc::new(LogicalPlan::Window(node));
    }
    let names = window.schema.columns().into_iter().skip(columns.len());
    let renamed = made
        .into_iter()
        .flatten()
        .zip(names)
        .map(|(made, Column { relation, name, .. })| Expr::Column(made).alias_qualified(relation, name));
    let exprs = columns.into_iter().chain(renamed).collect();
    let projection = Projection::try_new(exprs, input)?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

fn with_last(expr: &Expr, digest: &Expr) -> Expr {
    match expr {
        Expr::Alias(alias) => {
            with_last(&alias.expr, digest).alias_qualified(alias.relation.clone(), alias.name.clone())
        }
        Expr::WindowFunction(function) => {
            let mut function = function.clone();
            function.params.order_by.push(digest.clone().sort(true, false));
            if function.params.window_frame.units != WindowFrameUnits::Rows {
                // It goes by row number whatever the frame is, and RANGE has no meaning over a digest.
                function.params.window_frame = WindowFrame::new_bounds(
                    WindowFrameUnits::Rows,
                    WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                    WindowFrameBound::Following(ScalarValue::UInt64(None)),
                );
            }
            Expr::WindowFunction(function)
        }
        other => other.clone(),
    }
}
