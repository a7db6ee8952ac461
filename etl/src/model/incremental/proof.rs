//! What must be proven of a plan before anything of it runs incrementally: that the same rows always give the same result.
use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable as _, LogicalPlan, Volatility, Window, WindowFrameUnits, WindowFunctionDefinition,
};

use super::Refusal;

/// Aggregates whose result depends on which values there are, not on their order.
const UNORDERED: &[&str] = &[
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "median",
    "var",
    "var_pop",
    "var_samp",
    "stddev",
    "stddev_pop",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
];
/// Window functions that know rows by number: of rows with equal order keys, which is first matters.
const BY_NUMBER: &[&str] = &["row_number", "ntile", "lag", "lead"];
/// Window functions that are the same for all rows with equal order keys.
const BY_PEERS: &[&str] = &["rank", "dense_rank", "percent_rank", "cume_dist", "session_start"];
/// Window functions that take a row by its place in the frame.
const BY_PLACE: &[&str] = &["first_value", "last_value", "nth_value"];

fn refuse<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(what.into()))
}

/// Which columns are the same to 1e-9 and not to the bit whenever the plan runs, after a walk that found nothing else that
/// could differ.
pub(super) fn repeatable(plan: &LogicalPlan) -> Result<Vec<bool>, Refusal> {
    for expr in plan.expressions() {
        pure(&expr)?;
    }
    let inexact: Vec<Vec<bool>> = plan.inputs().into_iter().map(repeatable).collect::<Result<_, _>>()?;
    let from = |at: usize| inexact.get(at).map_or(&[] as &[bool], Vec::as_slice);
    let input = plan.inputs().first().map(|input| input.schema().as_ref().clone());
    let touches = |expr: &Expr, schema: &DFSchema, known: &[bool]| -> bool {
        expr.column_refs().iter().any(|c| schema.maybe_index_of_column(c).is_none_or(|at| known.get(at) == Some(&true)))
    };
    let clean = |expr: &Expr, schema: &DFSchema, known: &[bool], what: &str| {
        if touches(expr, schema, known) {
            return refuse(format!(
                "{what} depends on a sum of floating-point numbers, which is not the same to the last bit"
            ));
        }
        Ok(())
    };
    match (plan, input) {
        (LogicalPlan::TableScan(scan), _) => {
            if !scan.filters.is_empty() || scan.fetch.is_some() {
                return refuse(format!("the scan of `{}` is limited", scan.table_name));
            }
            Ok(vec![false; plan.schema().fields().len()])
        }
        (LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_), _) => Ok(vec![false; plan.schema().fields().len()]),
        (LogicalPlan::Projection(projection), Some(schema)) => {
            projection.expr.iter().map(|expr| carried(expr, &schema, from(0))).collect()
        }
        (LogicalPlan::Filter(filter), Some(schema)) => {
            clean(&filter.predicate, &schema, from(0), "a filter")?;
            Ok(from(0).to_vec())
        }
        (LogicalPlan::Sort(sort), _) => {
            if sort.fetch.is_some() {
                return refuse("ORDER BY with LIMIT takes rows by their place");
            }
            Ok(from(0).to_vec())
        }
        (LogicalPlan::SubqueryAlias(_) | LogicalPlan::Repartition(_), _) => Ok(from(0).to_vec()),
        (LogicalPlan::Unnest(unnest), _) => {
            if from(0).contains(&true) {
                return refuse("UNNEST over a sum of floating-point numbers");
            }
            Ok(vec![false; unnest.schema.fields().len()])
        }
        (LogicalPlan::Union(union), _) => {
            let columns = union.schema.fields().len();
            Ok((0..columns).map(|at| inexact.iter().any(|branch| branch.get(at) == Some(&true))).collect())
        }
        (LogicalPlan::Join(join), _) => {
            for (left, right) in &join.on {
                if float(left, join.left.schema()) || float(right, join.right.schema()) {
                    return refuse(
                        "a join by floating-point numbers: whether -0.0 is 0.0 depends on how the join is run",
                    );
                }
                clean(left, join.left.schema(), from(0), "a join")?;
                clean(right, join.right.schema(), from(1), "a join")?;
            }
            if let Some(filter) = &join.filter {
                let both = join.left.schema().join(join.right.schema()).map_err(Refusal::of)?;
                let known: Vec<bool> = from(0).iter().chain(from(1)).copied().collect();
                clean(filter, &both, &known, "a join")?;
            }
            let (left, right) = (join.left.schema().fields().len(), join.right.schema().fields().len());
            let columns = plan.schema().fields().len();
            let mut known = match join.join_type {
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => [from(0), from(1)].concat(),
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => from(0).to_vec(),
                JoinType::RightSemi | JoinType::RightAnti => from(1).to_vec(),
                JoinType::RightMark => return refuse("a join of the kind RightMark"),
            };
            debug_assert!(known.len() <= columns && (left + right) > 0);
            known.resize(columns, false);
            Ok(known)
        }
        (LogicalPlan::Aggregate(aggregate), Some(schema)) => {
            for expr in &aggregate.group_expr {
                clean(expr, &schema, from(0), "GROUP BY")?;
            }
            let groups = aggregate.group_expr.iter().map(|_| Ok(false));
            groups.chain(aggregate.aggr_expr.iter().map(|expr| aggregated(expr, aggregate, from(0)))).collect()
        }
        (LogicalPlan::Window(window), Some(_)) => {
            let mut known = from(0).to_vec();
            for expr in &window.window_expr {
                known.push(windowed(expr, window, from(0))?);
            }
            Ok(known)
        }
        (LogicalPlan::Distinct(_), _) => refuse("DISTINCT ON takes rows by their place"),
        (LogicalPlan::Limit(_), _) => refuse("LIMIT takes rows by their place"),
        (LogicalPlan::RecursiveQuery(_), _) => refuse("WITH RECURSIVE"),
        (other, _) => refuse(format!("{}", other.display())),
    }
}

/// Whether the column is inexact; what an inexact one may go through keeps it within 1e-9.
fn carried(expr: &Expr, schema: &DFSchema, known: &[bool]) -> Result<bool, Refusal> {
    let inexact = |column: &Column| schema.maybe_index_of_column(column).is_none_or(|at| known.get(at) == Some(&true));
    if !expr.column_refs().into_iter().any(inexact) {
        return Ok(false);
    }
    match expr {
        Expr::Column(_) => Ok(true),
        Expr::Alias(alias) => carried(&alias.expr, schema, known),
        Expr::Negative(inner) => carried(inner, schema, known),
        Expr::Cast(cast) if cast.field.data_type() == &DataType::Float64 => carried(&cast.expr, schema, known),
        Expr::BinaryExpr(binary)
            if matches!(
                binary.op,
                datafusion::logical_expr::Operator::Multiply | datafusion::logical_expr::Operator::Divide
            ) && expr.get_type(schema).is_ok_and(|t| t == DataType::Float64) =>
        {
            Ok(carried(&binary.left, schema, known)? | carried(&binary.right, schema, known)?)
        }
        other => refuse(format!("`{other}` makes more of the last bits of a sum of floating-point numbers")),
    }
}

/// The first function in the plan, subqueries included, that gives something else each time: `now()`, `random()`.
pub(in crate::model) fn volatile(plan: &LogicalPlan) -> datafusion::error::Result<Option<String>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let (name, volatility) = match expr {
                    Expr::ScalarFunction(call) => (call.name(), call.func.signature().volatility),
                    Expr::AggregateFunction(call) => (call.func.name(), call.func.signature().volatility),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                if volatility == Volatility::Immutable {
                    return Ok(TreeNodeRecursion::Continue);
                }
                found = Some(name.to_owned());
                Ok(TreeNodeRecursion::Stop)
            })
        })
    })?;
    Ok(found)
}

/// Nothing in the expression but what is the same for the same values.
fn pure(expr: &Expr) -> Result<(), Refusal> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        let why = match expr {
            Expr::ScalarFunction(function) => {
                let volatile = function.func.signature().volatility != Volatility::Immutable;
                volatile.then(|| format!("`{}` gives something else each time", function.name()))
            }
            Expr::AggregateFunction(function) => (function.func.signature().volatility != Volatility::Immutable)
                .then(|| format!("`{}`", function.func.name())),
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => {
                Some("a subquery that could not be turned into a join".to_owned())
            }
            Expr::OuterReferenceColumn(..) => Some("a reference out of a subquery".to_owned()),
            Expr::ScalarVariable(..) | Expr::Placeholder(_) => Some("a variable".to_owned()),
            Expr::GroupingSet(_) => Some("GROUPING SETS, CUBE or ROLLUP".to_owned()),
            Expr::HigherOrderFunction(function) => Some(format!("`{}`", function.name())),
            Expr::Lambda(_) | Expr::LambdaVariable(_) | Expr::Unnest(_) => Some(format!("`{expr}`")),
            _ => None,
        };
        if why.is_some() {
            found = why;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(Refusal::of)?;
    found.map_or(Ok(()), refuse)
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn float(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|t| t.is_floating())
}

fn aggregated(expr: &Expr, aggregate: &Aggregate, known: &[bool]) -> Result<bool, Refusal> {
    let schema = aggregate.input.schema();
    let Expr::AggregateFunction(function) = unaliased(expr) else { return refuse(format!("`{expr}`")) };
    let name = function.func.name();
    let params = &function.params;
    let mut inputs = params.args.iter().chain(params.filter.as_deref());
    let inexact = inputs.any(|arg| {
        arg.column_refs()
            .into_iter()
            .any(|c| schema.maybe_index_of_column(c).is_none_or(|at| known.get(at) == Some(&true)))
    });
    if !UNORDERED.contains(&name) {
        return refuse(format!("`{name}` depends on the order of rows"));
    }
    if !params.order_by.is_empty() {
        return refuse(format!("`{name}` with ORDER BY"));
    }
    floats(name, params.args.iter(), expr, schema, aggregate.schema.as_ref(), inexact, params.distinct)
}

/// What becomes of floating-point numbers in an aggregate: nothing, the last bits, or more than that.
fn floats<'a>(
    name: &str,
    args: impl Iterator<Item = &'a Expr>,
    expr: &Expr,
    schema: &DFSchema,
    output: &DFSchema,
    inexact: bool,
    distinct: bool,
) -> Result<bool, Refusal> {
    if name == "count" && !distinct {
        return Ok(false);
    }
    let any_float = args.into_iter().any(|arg| float(arg, schema));
    if inexact {
        return refuse(format!("`{name}` over a sum of floating-point numbers"));
    }
    if matches!(name, "min" | "max") && any_float {
        // The engine keeps NaN or not by which value it meets first.
        return refuse(format!("`{name}` of floating-point numbers depends on their order if one is NaN"));
    }
    let floating = output
        .fields()
        .iter()
        .find(|field| *field.name() == expr.schema_name().to_string())
        .is_none_or(|field| field.data_type().is_floating());
    Ok(floating && name != "count")
}

fn windowed(expr: &Expr, window: &Window, known: &[bool]) -> Result<bool, Refusal> {
    let schema = window.input.schema();
    let Expr::WindowFunction(function) = unaliased(expr) else { return refuse(format!("`{expr}`")) };
    let params = &function.params;
    let tainted = |expr: &Expr| {
        expr.column_refs()
            .into_iter()
            .any(|c| schema.maybe_index_of_column(c).is_none_or(|at| known.get(at) == Some(&true)))
    };
    if params.partition_by.iter().chain(params.order_by.iter().map(|sort| &sort.expr)).any(tainted) {
        return refuse("a window's PARTITION BY or ORDER BY depends on a sum of floating-point numbers");
    }
    let inexact = params.args.iter().chain(params.filter.as_deref()).any(tainted);
    let name = function.fun.name().to_owned();
    match &function.fun {
        WindowFunctionDefinition::WindowUDF(_) => {
            if BY_PEERS.contains(&name.as_str()) {
                return Ok(false);
            }
            if !is_total(params.order_by.last().map(|sort| &sort.expr)) {
                return refuse(format!("`{name}` among rows with equal order keys"));
            }
            let known = BY_NUMBER.contains(&name.as_str()) || BY_PLACE.contains(&name.as_str());
            if !known {
                return refuse(format!("the window function `{name}`"));
            }
            if inexact {
                return refuse(format!("`{name}` over a sum of floating-point numbers"));
            }
            Ok(false)
        }
        WindowFunctionDefinition::AggregateUDF(_) => {
            if !UNORDERED.contains(&name.as_str()) {
                return refuse(format!("`{name}` depends on the order of rows"));
            }
            let by_rows = params.window_frame.units == WindowFrameUnits::Rows && !whole(params);
            if by_rows && !is_total(params.order_by.last().map(|sort| &sort.expr)) {
                return refuse(format!("`{name}` over ROWS among rows with equal order keys"));
            }
            floats(&name, params.args.iter(), expr, schema, window.schema.as_ref(), inexact, params.distinct)
        }
    }
}

/// Whether the frame is the whole partition.
fn whole(params: &datafusion::logical_expr::expr::WindowFunctionParams) -> bool {
    params.window_frame.start_bound.is_unbounded() && params.window_frame.end_bound.is_unbounded()
}

/// The last order key is the digest of all columns: see `normal`.
fn is_total(last: Option<&Expr>) -> bool {
    matches!(last, Some(Expr::ScalarFunction(function)) if function.name() == "row_digest")
}

/// Whether which of several rows with equal order keys comes first matters to the window function, and more order
/// keys would not change what it means.
pub(super) fn wants_total_order(expr: &Expr) -> bool {
    let Expr::WindowFunction(function) = unaliased(expr) else { return false };
    let (name, params) = (function.fun.name(), &function.params);
    let by_rows = params.window_frame.units == WindowFrameUnits::Rows;
    match &function.fun {
        WindowFunctionDefinition::WindowUDF(_) => BY_NUMBER.contains(&name) || (BY_PLACE.contains(&name) && by_rows),
        WindowFunctionDefinition::AggregateUDF(_) => by_rows && !whole(params),
    }
}

/// Whether values of this type can be a key: compared for equality the same way by grouping, joining and digests.
pub(super) fn keyable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => keyable(values),
        DataType::Null | DataType::Interval(_) | DataType::Duration(_) => false,
        other if other.is_floating() => false,
        other => !other.is_nested(),
    }
}

/// Whether rows of this schema have a digest that is equal exactly for equal rows.
pub(super) fn digestible(schema: &arrow::datatypes::Schema) -> bool {
    let fields: Vec<SortField> = schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    RowConverter::supports_fields(&fields)
}

/// The tables a plan reads, by name.
pub(super) fn scans(plan: &LogicalPlan) -> BTreeSet<crate::table::TableName> {
    let mut names = BTreeSet::new();
    let walked = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.insert(super::delta::name_of(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "the walk fails nowhere");
    names
}
