//! The rows of a plan whose key is among some, with the question put as near to the tables as it stays the same question.
//!
//! `restrict(P, e, K)` gives exactly the rows of `P` whose values of `e` are in `K`, NULL being a value. Where a rule
//! could not keep to that, the keys are joined to the plan as it is.
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable as _, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, Union, Window,
};

use super::bounds::{bounded, spanning};
use super::delta::semi;
use super::proof::keyable;
use super::scratch::Kept;
use crate::engine::window::{Under, plus, under};

/// Some columns of a kept set of keys.
#[derive(Clone)]
pub(super) struct Keys {
    /// The set.
    pub(super) kept: Kept,
    /// What it is called in the plan.
    pub(super) alias: String,
    /// Which of its columns, in the order of the expressions they are compared with.
    pub(super) at: Vec<usize>,
}

impl Keys {
    fn part(&self, which: &[usize], name: &str) -> Self {
        let at = which.iter().filter_map(|at| self.at.get(*at).copied()).collect();
        Self { kept: self.kept.clone(), alias: format!("{}{name}", self.alias), at }
    }
}

/// See above.
pub(super) fn restrict(plan: &LogicalPlan, exprs: &[Expr], keys: &Keys) -> Result<LogicalPlan> {
    let below = match plan {
        LogicalPlan::Projection(projection) => {
            let exprs = substituted(exprs, &projection.schema, &projection.expr)?;
            let input = restrict(&projection.input, &exprs, keys)?;
            Some(LogicalPlan::Projection(Projection::try_new_with_schema(
                projection.expr.clone(),
                Arc::new(input),
                Arc::clone(&projection.schema),
            )?))
        }
        LogicalPlan::Filter(filter) => {
            let input = restrict(&filter.input, exprs, keys)?;
            Some(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?))
        }
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => Some(restrict(&sort.input, exprs, keys)?),
        LogicalPlan::SubqueryAlias(alias) => {
            let exprs = by_place(exprs, &alias.schema, alias.input.schema())?;
            let input = restrict(&alias.input, &exprs, keys)?;
            Some(LogicalPlanBuilder::from(input).alias(alias.alias.clone())?.build()?)
        }
        LogicalPlan::Union(union) => {
            let mut inputs = Vec::new();
            for (n, input) in union.inputs.iter().enumerate() {
                let there = by_place(exprs, &union.schema, input.schema())?;
                if !same_types(&there, input, keys) {
                    return semi(plan.clone(), exprs, keys);
                }
                inputs.push(Arc::new(restrict(input, &there, &keys.part(&all(exprs), &format!("u{n}")))?));
            }
            Some(LogicalPlan::Union(Union { inputs, schema: Arc::clone(&union.schema) }))
        }
        LogicalPlan::Unnest(unnest) => {
            let mut inner: HashMap<Column, Expr> = HashMap::new();
            for (at, column) in unnest.schema.columns().into_iter().enumerate() {
                let Some(from) = unnest.dependency_indices.get(at) else { continue };
                let unnested = unnest.list_type_columns.iter().any(|(list, _)| list == from)
                    || unnest.struct_type_columns.contains(from);
                if !unnested && let Some(source) = unnest.input.schema().columns().into_iter().nth(*from) {
                    inner.insert(column, Expr::Column(source));
                }
            }
            match replaced(exprs, &inner)? {
                Some(exprs) => {
                    let input = restrict(&unnest.input, &exprs, keys)?;
                    Some(plan.with_new_exprs(plan.expressions(), vec![input])?)
                }
                None => None,
            }
        }
        LogicalPlan::Aggregate(aggregate) => aggregated(aggregate, exprs, keys)?,
        LogicalPlan::Window(window) => windowed(window, exprs, keys)?,
        LogicalPlan::Join(join) => joined(join, exprs, keys)?,
        LogicalPlan::TableScan(scan) => {
            let rows = match bounded(exprs, keys, &scan.projected_schema) {
                Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan.clone()))?),
                None => plan.clone(),
            };
            Some(semi(rows, exprs, keys)?)
        }
        _ => None,
    };
    match below {
        Some(plan) => Ok(plan),
        None => semi(plan.clone(), exprs, keys),
    }
}

/// Expressions over the columns of a plan that adds or drops no rows per row, as expressions over its input.
pub(super) fn outward(plan: &LogicalPlan, exprs: &[Expr]) -> Result<Vec<Expr>> {
    match plan {
        LogicalPlan::Projection(projection) => substituted(exprs, &projection.schema, &projection.expr),
        LogicalPlan::SubqueryAlias(alias) => by_place(exprs, &alias.schema, alias.input.schema()),
        _ => Ok(exprs.to_vec()),
    }
}

fn aggregated(aggregate: &Aggregate, exprs: &[Expr], keys: &Keys) -> Result<Option<LogicalPlan>> {
    // Without groups there is a row even over no input: what is restricted below it would not be gone above.
    if aggregate.group_expr.is_empty() {
        return Ok(None);
    }
    // A key made of nothing but group columns takes a group whole or not at all.
    let groups = aggregate.schema.columns().into_iter().zip(aggregate.group_expr.iter().cloned()).collect();
    let outer = exprs;
    let Some(exprs) = replaced(exprs, &groups)? else { return Ok(None) };
    if let Some(plan) = by_window(aggregate, outer, &exprs, keys)? {
        return Ok(Some(plan));
    }
    let input = restrict(&aggregate.input, &exprs, keys)?;
    let made = Aggregate::try_new_with_schema(
        Arc::new(input),
        aggregate.group_expr.clone(),
        aggregate.aggr_expr.clone(),
        Arc::clone(&aggregate.schema),
    )?;
    Ok(Some(LogicalPlan::Aggregate(made)))
}

/// Groups of hopping windows or sessions: their start is no value of a row, but says between which times the rows are.
/// The keys are joined to the groups.
fn by_window(aggregate: &Aggregate, outer: &[Expr], exprs: &[Expr], keys: &Keys) -> Result<Option<LogicalPlan>> {
    let Some((found, by)) = under(&aggregate.input)? else { return Ok(None) };
    let start = Expr::Column(found.column());
    let inner: Vec<Expr> = exprs.iter().map(|expr| by.replaced(expr)).collect::<Result<_>>()?;
    let (of_window, others): (Vec<usize>, Vec<usize>) = (0..inner.len())
        .partition(|at| inner.get(*at).is_some_and(|expr| expr.column_refs().contains(&found.column())));
    if of_window.is_empty() {
        return Ok(None);
    }
    let ends = of_window
        .iter()
        .find(|at| inner.get(**at) == Some(&start))
        .and_then(|at| keys.kept.ends(*keys.at.get(*at)?))
        .filter(|(low, _, nulls)| !nulls && matches!(low.data_type(), DataType::Timestamp(_, _)));
    let mut input = aggregate.input.as_ref().clone();
    if let Some((low, high, _)) = ends {
        let condition = match &found {
            Under::Hop(hop) => Some(spanning(&hop.time, low, &high, hop.size)),
            // What is cut off a session that began before then starts before any of the keys.
            Under::Session(_) => found.session().and_then(|(time, gap)| {
                Some(time.gt_eq(datafusion::logical_expr::lit(plus(&low, gap.checked_neg()?)?)))
            }),
        };
        if let Some(condition) = condition {
            input = narrowed(&input, &condition)?;
        }
    }
    if !others.is_empty() {
        let exprs: Vec<Expr> = others.iter().filter_map(|at| exprs.get(*at)).cloned().collect();
        input = restrict(&input, &exprs, &keys.part(&others, "w"))?;
    }
    let made = Aggregate::try_new_with_schema(
        Arc::new(input),
        aggregate.group_expr.clone(),
        aggregate.aggr_expr.clone(),
        Arc::clone(&aggregate.schema),
    )?;
    semi(LogicalPlan::Aggregate(made), outer, keys).map(Some)
}

/// The plan with a condition on the rows that its window is over.
pub(super) fn narrowed(plan: &LogicalPlan, condition: &Expr) -> Result<LogicalPlan> {
    let filtered = |rows: &LogicalPlan| {
        Ok::<_, datafusion::error::DataFusionError>(LogicalPlan::Filter(Filter::try_new(
            condition.clone(),
            Arc::new(rows.clone()),
        )?))
    };
    let input = match plan {
        LogicalPlan::Window(window) => filtered(&window.input)?,
        LogicalPlan::Unnest(unnest) => {
            let LogicalPlan::Projection(listed) = unnest.input.as_ref() else { return Ok(plan.clone()) };
            let rows = filtered(&listed.input)?;
            LogicalPlan::Projection(Projection::try_new(listed.expr.clone(), Arc::new(rows))?)
        }
        other => match other.inputs().first() {
            Some(below) => narrowed(below, condition)?,
            None => return Ok(plan.clone()),
        },
    };
    plan.with_new_exprs(plan.expressions(), vec![input])
}

fn windowed(window: &Window, exprs: &[Expr], keys: &Keys) -> Result<Option<LogicalPlan>> {
    let partitioned = |key: &Expr| {
        window.window_expr.iter().all(|expr| match expr.clone().unalias() {
            Expr::WindowFunction(function) => function.params.partition_by.contains(key),
            _ => false,
        })
    };
    if !exprs.iter().all(partitioned) {
        return Ok(None);
    }
    let input = restrict(&window.input, exprs, keys)?;
    Ok(Some(LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(input))?)))
}

fn joined(join: &Join, exprs: &[Expr], keys: &Keys) -> Result<Option<LogicalPlan>> {
    let of = |schema: &DFSchema, expr: &Expr| expr.column_refs().iter().all(|c| schema.has_column(c));
    let (lefts, rights) = (join.left.schema(), join.right.schema());
    let keeps_left = matches!(
        join.join_type,
        JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
    );
    let keeps_right = matches!(
        join.join_type,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
    );
    let all_left = exprs.iter().all(|expr| of(lefts, expr));
    let all_right = exprs.iter().all(|expr| of(rights, expr));
    let from_left = all_left && keeps_left;
    let from_right = all_right && keeps_right;
    let (left, right) = if from_left {
        let left = restrict(&join.left, exprs, &keys.part(&all(exprs), "l"))?;
        (left, across(join, exprs, keys, true)?.unwrap_or_else(|| join.right.as_ref().clone()))
    } else if from_right {
        let right = restrict(&join.right, exprs, &keys.part(&all(exprs), "r"))?;
        (across(join, exprs, keys, false)?.unwrap_or_else(|| join.left.as_ref().clone()), right)
    } else {
        return Ok(None);
    };
    let made = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        join.on.clone(),
        join.filter.clone(),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    Ok(Some(LogicalPlan::Join(made)))
}

fn all(exprs: &[Expr]) -> Vec<usize> {
    (0..exprs.len()).collect()
}

/// The other side of a join, less the rows that no row with such a key can meet: where the key is what is joined by.
fn across(join: &Join, exprs: &[Expr], keys: &Keys, from_left: bool) -> Result<Option<LogicalPlan>> {
    if join.null_aware {
        return Ok(None);
    }
    let other = if from_left { &join.right } else { &join.left };
    let (mut which, mut there) = (Vec::new(), Vec::new());
    for (at, expr) in exprs.iter().enumerate() {
        let met = join.on.iter().map(|(l, r)| if from_left { (l, r) } else { (r, l) }).find(|(own, _)| *own == expr);
        if let Some((_, other)) = met {
            which.push(at);
            there.push(other.clone());
        }
    }
    let part = keys.part(&which, "x");
    if there.is_empty() || !same_types(&there, other, &part) {
        return Ok(None);
    }
    restrict(other, &there, &part).map(Some)
}

/// Whether the expressions are of the types that the keys have, so that equal means the same.
fn same_types(exprs: &[Expr], plan: &LogicalPlan, keys: &Keys) -> bool {
    let schema = keys.kept.schema();
    exprs.iter().zip(&keys.at).all(|(expr, at)| {
        let there = schema.fields().get(*at).map(|field| field.data_type().clone());
        expr.get_type(plan.schema()).is_ok_and(|t| keyable(&t) && Some(t) == there)
    })
}

/// The expressions over a projection's columns as expressions over its input.
fn substituted(exprs: &[Expr], schema: &DFSchema, by: &[Expr]) -> Result<Vec<Expr>> {
    let inner: HashMap<Column, Expr> =
        schema.columns().into_iter().zip(by.iter().map(|expr| expr.clone().unalias_nested().data)).collect();
    Ok(replaced(exprs, &inner)?.unwrap_or_else(|| exprs.to_vec()))
}

/// The expressions with each column replaced; `None` if one has no replacement.
fn replaced(exprs: &[Expr], by: &HashMap<Column, Expr>) -> Result<Option<Vec<Expr>>> {
    let mut complete = true;
    let mut out = Vec::new();
    for expr in exprs {
        let expr = expr.clone().transform(|expr| {
            let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
            if let Some(inner) = by.get(column) {
                return Ok(Transformed::new(inner.clone(), true, TreeNodeRecursion::Jump));
            }
            complete = false;
            Ok(Transformed::no(expr))
        })?;
        out.push(expr.data);
    }
    Ok(complete.then_some(out))
}

/// The expressions with each column of `from` as the one at its place in `to`.
fn by_place(exprs: &[Expr], from: &DFSchema, to: &DFSchema) -> Result<Vec<Expr>> {
    let inner = from.columns().into_iter().zip(to.columns().into_iter().map(Expr::Column)).collect();
    Ok(replaced(exprs, &inner)?.unwrap_or_else(|| exprs.to_vec()))
}
