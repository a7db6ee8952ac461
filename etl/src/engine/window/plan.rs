//! What grouping by a window is, in the engine's own nodes.
//!
//! | GROUP BY | becomes |
//! |---|---|
//! | `tumble(ts, size), k` | `Aggregate[tumble(ts, size), k]` over the rows with a time |
//! | `hop(ts, slide, size), k` | `Aggregate[w, k]` over `Unnest[w]` of `hop_starts(ts, slide, size) AS w`, for those rows |
//! | `session(ts, gap), k` | `Aggregate[w, k]` over `session_start(ts, gap) OVER (PARTITION BY k ORDER BY ts) AS w`, for those rows |
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::NullHandling;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue, UnnestOptions};
use datafusion::error::Result;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable as _, Filter, LogicalPlan, LogicalPlanBuilder, Projection, Window,
};

use super::function::{BELONGS, Call, call_of, is_session_start, lengths, session_start, udf};
use super::size::wrong;

/// The column that has a window's start below the aggregate.
pub(super) const WINDOW: &str = "__window";

/// Replaces windows in GROUP BY, in subqueries too.
pub(super) fn grouped(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => regrouped(aggregate),
        other => Ok(Transformed::no(other)),
    })?;
    for_good(&plan.data)?;
    Ok(plan.data)
}

/// What is left of windows outside GROUP BY has no meaning.
fn for_good(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            expr.apply(|expr| match call_of(expr) {
                Some((call @ (Call::Hop | Call::Session), _)) => {
                    let name = if call == Call::Hop { "hop" } else { "session" };
                    wrong(name, "it is outside of GROUP BY", BELONGS)
                }
                _ => Ok(TreeNodeRecursion::Continue),
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn regrouped(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let windows: Vec<usize> = (0..aggregate.group_expr.len())
        .filter(|at| {
            let call = aggregate.group_expr.get(*at).and_then(call_of);
            matches!(call, Some((Call::Tumble | Call::Hop | Call::Session, _)))
        })
        .collect();
    let [at] = windows.as_slice() else {
        if windows.is_empty() {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        let why = format!("GROUP BY has {} windows", windows.len());
        return wrong("tumble", why, "group by one, and by another in a SELECT around it");
    };
    let Some(window) = aggregate.group_expr.get(*at).cloned() else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let Some((call, args)) = call_of(&window) else { return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))) };
    let Some(time) = args.first().cloned() else { return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))) };
    let there = LogicalPlan::Filter(Filter::try_new(time.clone().is_not_null(), Arc::clone(&aggregate.input))?);
    let input = match call {
        Call::Hop => {
            let mut exprs: Vec<Expr> = there.schema().columns().into_iter().map(Expr::Column).collect();
            exprs.push(udf(Call::HopStarts).call(args.to_vec()).alias(WINDOW));
            let listed = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(there))?);
            let options = UnnestOptions::new().with_null_handling(NullHandling::Drop);
            LogicalPlanBuilder::from(listed).unnest_column_with_options(Column::from_name(WINDOW), options)?.build()?
        }
        Call::Session => {
            let mut function = WindowFunction::new(Arc::new(session_start()), args.to_vec());
            let keys = aggregate.group_expr.iter().enumerate().filter(|(other, _)| other != at);
            function.params.partition_by = keys.map(|(_, expr)| expr.clone()).collect();
            function.params.order_by = vec![time.sort(true, false)];
            let expr = Expr::from(function).alias(WINDOW);
            LogicalPlan::Window(Window::try_new(vec![expr], Arc::new(there))?)
        }
        _ => {
            let made = Aggregate::try_new(Arc::new(there), aggregate.group_expr, aggregate.aggr_expr)?;
            return Ok(Transformed::yes(LogicalPlan::Aggregate(made)));
        }
    };
    let mut groups = aggregate.group_expr.clone();
    if let Some(group) = groups.get_mut(*at) {
        *group = Expr::Column(Column::from_name(WINDOW));
    }
    let made = Aggregate::try_new(Arc::new(input), groups, aggregate.aggr_expr.clone())?;
    let names = aggregate.schema.columns();
    let exprs = made.schema.columns().into_iter().zip(names).map(|(column, name)| {
        let same = column == name;
        let column = Expr::Column(column);
        if same { column } else { column.alias_qualified(name.relation, name.name) }
    });
    let exprs: Vec<Expr> = exprs.collect();
    let made = Projection::try_new(exprs, Arc::new(LogicalPlan::Aggregate(made)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(made)))
}

/// A window below an aggregate whose start is a column there.
pub(crate) enum Under {
    /// Rows are multiplied by the windows they are in.
    Hop(Box<Hop>),
    /// The node that says where each row's session starts.
    Session(Window),
}

impl Under {
    /// The column of the starts.
    pub(crate) fn column(&self) -> Column {
        match self {
            Self::Hop(hop) => hop.column.clone(),
            Self::Session(window) => window.schema.columns().pop().unwrap_or_else(|| Column::from_name(WINDOW)),
        }
    }

    /// Of a session: the event time, over its rows, and the gap in the unit of the timestamps.
    pub(crate) fn session(&self) -> Option<(Expr, i64)> {
        let Self::Session(window) = self else { return None };
        let Expr::WindowFunction(function) = window.window_expr.first()?.clone().unalias_nested().data else {
            return None;
        };
        let [time, length] = function.params.args.as_slice() else { return None };
        Some((time.clone(), gap(&time.get_type(window.input.schema()).ok()?, length)?))
    }
}

/// The columns of a plan as expressions over a plan below.
pub(crate) struct By(HashMap<Column, Expr>);

impl By {
    /// The expression over the plan below.
    pub(crate) fn replaced(&self, expr: &Expr) -> Result<Expr> {
        replaced(expr, &self.0)
    }
}

/// The window below projections.
pub(crate) fn under(plan: &LogicalPlan) -> Result<Option<(Under, By)>> {
    let columns = plan.schema().columns().into_iter();
    let mut by: HashMap<Column, Expr> = columns.map(|column| (column.clone(), Expr::Column(column))).collect();
    let mut node = plan;
    loop {
        let inner: HashMap<Column, Expr> = match node {
            LogicalPlan::Projection(projection) => {
                let exprs = projection.expr.iter().map(|expr| expr.clone().unalias_nested().data);
                projection.schema.columns().into_iter().zip(exprs).collect()
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let inner = alias.input.schema().columns().into_iter().map(Expr::Column);
                alias.schema.columns().into_iter().zip(inner).collect()
            }
            LogicalPlan::Window(window) => {
                let [expr] = window.window_expr.as_slice() else { return Ok(None) };
                return Ok(is_session_start(expr).then(|| (Under::Session(window.clone()), By(by))));
            }
            other => return Ok(hop_below(other).map(|hop| (Under::Hop(Box::new(hop)), By(by)))),
        };
        for expr in by.values_mut() {
            *expr = replaced(expr, &inner)?;
        }
        let Some(input) = node.inputs().first().copied() else { return Ok(None) };
        node = input;
    }
}

/// The expression with columns replaced where something else is known for them.
pub(super) fn replaced(expr: &Expr, by: &HashMap<Column, Expr>) -> Result<Expr> {
    let made = expr.clone().transform(|expr| {
        let inner = if let Expr::Column(column) = &expr { by.get(column).cloned() } else { None };
        Ok(match inner {
            Some(inner) => Transformed::new(inner, true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        })
    })?;
    Ok(made.data)
}

/// The length that a literal interval has in the unit of timestamps of this type.
pub(crate) fn gap(data_type: &DataType, length: &Expr) -> Option<i64> {
    let args = [Expr::Literal(ScalarValue::Null, None), length.clone()];
    lengths(Call::Session, data_type, &args).ok()?.first().copied()
}

/// A timestamp of this type.
pub(crate) fn time_of(data_type: &DataType, at: i64) -> Result<ScalarValue> {
    ScalarValue::Int64(Some(at)).cast_to(data_type)
}

/// A hopping window below an aggregate.
pub(crate) struct Hop {
    /// The event time, over `rows`.
    pub(crate) time: Expr,
    /// From one start to the next, in the unit of the timestamps.
    pub(crate) slide: i64,
    /// Of a window.
    pub(crate) size: i64,
    /// The slide as it was written.
    pub(crate) slide_expr: Expr,
    /// The size as it was written.
    pub(crate) size_expr: Expr,
    /// The column of the starts.
    pub(crate) column: Column,
    /// The columns of the unnested rows over `rows`, but for that one.
    pub(crate) columns: Vec<(Column, Expr)>,
    /// The rows, each once.
    pub(crate) rows: Arc<LogicalPlan>,
}

/// The hopping window that `plan` multiplies rows by, if it is such an unnesting.
fn hop_below(plan: &LogicalPlan) -> Option<Hop> {
    let LogicalPlan::Unnest(unnest) = plan else { return None };
    let LogicalPlan::Projection(listed) = unnest.input.as_ref() else { return None };
    let [(place, _)] = unnest.list_type_columns.as_slice() else { return None };
    if !unnest.struct_type_columns.is_empty() {
        return None;
    }
    let list = listed.expr.get(*place)?.clone().unalias_nested().data;
    let (Call::HopStarts, args) = call_of(&list)? else { return None };
    let [time, slide_expr, size_expr] = args else { return None };
    let data_type = time.get_type(listed.input.schema()).ok()?;
    let found = lengths(Call::HopStarts, &data_type, args).ok()?;
    let [slide, size] = found.as_slice() else { return None };
    let mut column = None;
    let mut columns = Vec::new();
    for (made, from) in unnest.schema.columns().into_iter().zip(&unnest.dependency_indices) {
        if from == place {
            column = Some(made);
        } else {
            columns.push((made, listed.expr.get(*from)?.clone().unalias_nested().data));
        }
    }
    Some(Hop {
        time: time.clone(),
        slide: *slide,
        size: *size,
        slide_expr: slide_expr.clone(),
        size_expr: size_expr.clone(),
        column: column?,
        columns,
        rows: Arc::clone(&listed.input),
    })
}
