//! Hopping windows by panes: rows are aggregated once by the pieces that no window cuts, and the pieces are put together.
//!
//! The panes of `hop(ts, slide, size)` are as long as the greatest common divisor of slide and size. A window has a pane whole or
//! not at all, so where partial results combine, `A` grouped by window is `A'` over the windows of each pane of `A` grouped by
//! pane. A row then goes into one pane instead of `size / slide` windows: with 60 s and 1 s, one sixtieth of the work (Li et al.
//! 2005, "No pane, no gain").
//!
//! Aggregates without partial results (`median`, `stddev`, …) still see each row once for each window.
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::NullHandling;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchemaRef, ScalarValue, UnnestOptions};
use datafusion::error::Result;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Distinct, Expr, ExprSchemable as _, LogicalPlan, LogicalPlanBuilder, Projection, cast, lit,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::prelude::coalesce;

use super::function::{Call, udf};
use super::plan::{Hop, Under, WINDOW, replaced, under};

const PANE: &str = "__pane";
/// Aggregates of parts that are the aggregate of the whole.
const SAME: &[&str] = &["min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"];

/// The rule.
#[derive(Debug, Default)]
pub(in crate::engine) struct Panes;

impl OptimizerRule for Panes {
    fn name(&self) -> &'static str {
        "hopping_windows_by_panes"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let made = match &plan {
            LogicalPlan::Aggregate(aggregate) => {
                by_panes(&aggregate.input, &aggregate.group_expr, &aggregate.aggr_expr, &aggregate.schema)?
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
                by_panes(input, &columns, &[], input.schema())?
            }
            _ => None,
        };
        Ok(made.map_or_else(|| Transformed::no(plan), Transformed::yes))
    }
}

/// One aggregate in two steps.
struct Parts {
    /// What a pane keeps.
    partial: Vec<Expr>,
    /// What puts panes together.
    combined: Vec<Expr>,
    /// The aggregate, over what was put together.
    result: Vec<Expr>,
    /// Arguments of `DISTINCT`, which panes are told apart by.
    distinct: Vec<Expr>,
}

fn by_panes(
    input: &LogicalPlan,
    groups: &[Expr],
    aggregates: &[Expr],
    schema: &DFSchemaRef,
) -> Result<Option<LogicalPlan>> {
    let Some((Under::Hop(hop), by)) = under(input)? else { return Ok(None) };
    let is_pane = matches!(&hop.time, Expr::Column(column) if column.name == PANE);
    // Where windows do not overlap there is nothing to save.
    if is_pane || hop.size <= hop.slide {
        return Ok(None);
    }
    let window = Expr::Column(hop.column.clone());
    let over = |exprs: &[Expr]| -> Result<Vec<Expr>> {
        exprs.iter().map(|expr| by.replaced(&expr.clone().unalias_nested().data)).collect()
    };
    let (groups, aggregates) = (over(groups)?, over(aggregates)?);
    if groups.iter().filter(|group| **group == window).count() != 1 {
        return Ok(None);
    }
    let of_row = |expr: &Expr| !expr.is_volatile() && !expr.column_refs().contains(&hop.column);
    let mut keys = groups.iter().filter(|group| **group != window).chain(&aggregates);
    if !keys.all(of_row) {
        return Ok(None);
    }
    let Some(pane) = pane(&hop)? else { return Ok(None) };
    // From the unnested rows to the rows.
    let rows: HashMap<Column, Expr> = hop.columns.iter().cloned().collect();
    let mut parts = Parts { partial: Vec::new(), combined: Vec::new(), result: Vec::new(), distinct: Vec::new() };
    for aggregate in &aggregates {
        if split(&replaced(aggregate, &rows)?, &hop, &mut parts)?.is_none() {
            return Ok(None);
        }
    }
    let column = |name: String| Expr::Column(Column::from_name(name));
    let mut inner = vec![pane.alias(PANE)];
    let mut outer = Vec::new();
    let mut kept = vec![
        udf(Call::HopStarts)
            .call(vec![column(PANE.to_owned()), hop.slide_expr.clone(), hop.size_expr.clone()])
            .alias(WINDOW),
    ];
    for (at, group) in groups.iter().enumerate() {
        if *group == window {
            outer.push(column(WINDOW.to_owned()));
            continue;
        }
        inner.push(replaced(group, &rows)?.alias(format!("__k{at}")));
        outer.push(column(format!("__k{at}")));
    }
    inner.extend(parts.distinct.iter().enumerate().map(|(at, expr)| expr.clone().alias(format!("__d{at}"))));
    let made = Aggregate::try_new(Arc::clone(&hop.rows), inner, parts.partial)?;
    kept.extend(made.schema.columns().into_iter().filter(|known| known.name != PANE).map(Expr::Column));
    let options = UnnestOptions::new().with_null_handling(NullHandling::Drop);
    let made = LogicalPlanBuilder::from(LogicalPlan::Aggregate(made))
        .project(kept)?
        .unnest_column_with_options(Column::from_name(WINDOW), options)?
        .build()?;
    let made = Aggregate::try_new(Arc::new(made), outer.clone(), parts.combined)?;
    let mut shown = Vec::new();
    for (expr, (relation, field)) in outer.into_iter().chain(parts.result).zip(schema.iter()) {
        let same = expr.get_type(&made.schema)? == *field.data_type();
        let expr = if same { expr } else { cast(expr, field.data_type().clone()) };
        // What is above was planned for a count, which is never NULL.
        let expr = match (field.is_nullable(), expr.nullable(&made.schema)?, field.data_type()) {
            (false, true, DataType::Int64) => coalesce(vec![expr, lit(0_i64)]),
            (false, true, _) => return Ok(None),
            _ => expr,
        };
        shown.push(expr.alias_qualified(relation.cloned(), field.name()));
    }
    Ok(Some(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(LogicalPlan::Aggregate(made)))?)))
}

/// The start of the pane that a row is in; `None` if its length cannot be written.
fn pane(hop: &Hop) -> Result<Option<Expr>> {
    let (mut one, mut two) = (hop.size, hop.slide);
    while two != 0 {
        (one, two) = (two, one % two);
    }
    let each = match hop.time.get_type(hop.rows.schema())? {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    let Some(nanos) = one.checked_mul(each) else { return Ok(None) };
    let length = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, nanos)));
    Ok(Some(udf(Call::Tumble).call(vec![hop.time.clone(), lit(length)])))
}

fn call(function: Arc<AggregateUDF>, params: AggregateFunctionParams) -> Expr {
    let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
    Expr::AggregateFunction(AggregateFunction::new_udf(function, args, distinct, filter, order_by, null_treatment))
}

/// Adds one aggregate, over the rows, to `parts`; `None` if it has no partial results.
fn split(aggregate: &Expr, hop: &Hop, parts: &mut Parts) -> Result<Option<()>> {
    let Expr::AggregateFunction(function) = aggregate else { return Ok(None) };
    let (name, params) = (function.func.name(), &function.params);
    if !params.order_by.is_empty() || params.null_treatment.is_some() {
        return Ok(None);
    }
    let combined = |parts: &mut Parts, expr: Expr| {
        let name = format!("__c{}", parts.combined.len());
        parts.combined.push(expr.alias(name.as_str()));
        Expr::Column(Column::from_name(name))
    };
    let partial = |parts: &mut Parts, expr: Expr| {
        let name = format!("__p{}", parts.partial.len());
        parts.partial.push(expr.alias(name.as_str()));
        Expr::Column(Column::from_name(name))
    };
    let plain = |args: Vec<Expr>| AggregateFunctionParams {
        args,
        distinct: false,
        filter: None,
        order_by: Vec::new(),
        null_treatment: None,
    };
    if params.distinct {
        let ([arg], "count", None) = (params.args.as_slice(), name, &params.filter) else { return Ok(None) };
        let at = parts.distinct.iter().position(|known| known == arg).unwrap_or_else(|| {
            parts.distinct.push(arg.clone());
            parts.distinct.len() - 1
        });
        let args = vec![Expr::Column(Column::from_name(format!("__d{at}")))];
        let whole = call(count_udaf(), AggregateFunctionParams { distinct: true, ..plain(args) });
        let result = combined(parts, whole);
        parts.result.push(result);
        return Ok(Some(()));
    }
    let result = match name {
        "count" | "sum" => {
            let part = partial(parts, aggregate.clone());
            combined(parts, sum(part))
        }
        same if SAME.contains(&same) => {
            let part = partial(parts, aggregate.clone());
            combined(parts, call(Arc::clone(&function.func), plain(vec![part])))
        }
        "avg" => {
            let [arg] = params.args.as_slice() else { return Ok(None) };
            // Decimals round in a way of their own.
            if arg.get_type(hop.rows.schema())? != DataType::Float64 {
                return Ok(None);
            }
            let total = partial(parts, call(sum_udaf(), params.clone()));
            let total = combined(parts, sum(total));
            let count = partial(parts, call(count_udaf(), params.clone()));
            let count = combined(parts, sum(count));
            total / cast(count, DataType::Float64)
        }
        _ => return Ok(None),
    };
    parts.result.push(result);
    Ok(Some(()))
}
