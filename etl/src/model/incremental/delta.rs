//! What a change of the inputs changes in a plan's result, as a plan: its rows with a weight, +1 for each that came and -1
//! for each that went.
//!
//! Each rule below is an identity of multisets, so their composition is one too. `Δ` is the change, `P₀` what a plan gave
//! before it, `P₁` what it gives after, `P ⋉ K` the rows of `P` whose key is in `K`:
//!
//! | plan | its change |
//! |---|---|
//! | scan | the rows that came, less those that went: [`Change`](crate::table::Change) |
//! | filter, projection, unnest of `P` | the same of `ΔP` |
//! | union all | of each branch |
//! | `L` inner join `R` | `ΔL ⋈ R₁ + L₀ ⋈ ΔR` |
//! | `L` left, semi or anti join `R` | `ΔL ⟕ R₁ + (L₀ ⋉ K) ⟕ R₁ − (L₀ ⋉ K) ⟕ R₀`, `K` the join keys in `ΔR` |
//! | `L` full join `R` | `(L₁ ⋉ K) ⟗ (R₁ ⋉ K) − (L₀ ⋉ K) ⟗ (R₀ ⋉ K)`, `K` the join keys in `ΔL` and `ΔR` |
//! | aggregate, window over `P` by `k` | `A(P₁ ⋉ K) − A(P₀ ⋉ K)`, `K` the values of `k` in `ΔP` |
//! | aggregate over `P` by session and `k` | the same, `K` the spans of time by `k` that `ΔP` touches: `sessions` |
//!
//! Keys are equal as groups are: NULL is a key like any other.
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, NullEquality, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable as _, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, TableScan, Union,
    Window, lit,
};

use super::Refusal;
use super::input::Input;
use super::proof::keyable;
use super::restrict::{Keys, restrict};
use super::scratch::{Kept, Scratch, named};
use super::sessions::sessions;
use crate::table::TableName;

/// The name of the weight's column.
pub(super) const WEIGHT: &str = "__w";

/// Why a step went no further.
#[derive(Debug)]
pub(super) enum Stop {
    /// No rule covers it.
    Refused(Refusal),
    /// It failed.
    Failed(DataFusionError),
}

impl From<DataFusionError> for Stop {
    fn from(error: DataFusionError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn refused<T>(what: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(Refusal(what.into())))
}

/// The change of one plan.
pub(super) enum Delta {
    /// It gives the same rows.
    Same,
    /// Rows with weights: the plan's columns, then [`WEIGHT`].
    Rows {
        /// The rows.
        plan: LogicalPlan,
        /// Whether every weight is +1.
        adds_only: bool,
    },
}

/// Before or after the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Before.
    Old,
    /// After.
    New,
}

/// Where an affected key came from, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyStep {
    /// What is recomputed by key.
    pub what: String,
    /// The expressions that make the key.
    pub key: Vec<String>,
    /// How many keys the change has; `None` if nothing was run.
    pub keys: Option<u64>,
}

/// Applies the rules.
pub(super) struct Rules<'a> {
    pub(super) state: SessionState,
    pub(super) inputs: &'a BTreeMap<TableName, Input>,
    pub(super) scratch: &'a Scratch,
    /// Whether nothing is run: every set of keys is taken to be empty, and rules apply all the same.
    pub(super) dry: bool,
    pub(super) steps: Vec<KeyStep>,
    /// Whether rows as they were before the change are read.
    pub(super) reads_old: bool,
    pub(super) aliases: usize,
}

type Boxed<'f, T> = Pin<Box<dyn Future<Output = Result<T, Stop>> + Send + 'f>>;

pub(super) fn name_of(scan: &TableScan) -> TableName {
    TableName::new(scan.table_name.schema().unwrap_or("gold"), scan.table_name.table())
}

/// The weight's column in a plan that has one.
pub(super) fn weight(plan: &LogicalPlan) -> Expr {
    let columns = plan.schema().columns();
    columns.last().map_or_else(|| lit(1_i64), |column| Expr::Column(column.clone()))
}

/// The first columns of `plan` named as in `like`, then `weight` as [`WEIGHT`].
fn weighted(plan: LogicalPlan, like: &DFSchema, weight: Expr) -> Result<LogicalPlan, DataFusionError> {
    let columns = plan.schema().columns();
    let mut exprs: Vec<Expr> = columns
        .into_iter()
        .zip(like.iter())
        .map(|(column, (relation, field))| Expr::Column(column).alias_qualified(relation.cloned(), field.name()))
        .collect();
    exprs.push(weight.alias(WEIGHT));
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

impl Rules<'_> {
    /// The change of `plan`.
    pub(super) fn delta<'f>(&'f mut self, plan: &'f LogicalPlan) -> Boxed<'f, Delta> {
        Box::pin(async move {
            match plan {
                LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Ok(Delta::Same),
                LogicalPlan::TableScan(scan) => self.scan(scan).await,
                LogicalPlan::Projection(projection) => {
                    let Delta::Rows { plan: rows, adds_only } = self.delta(&projection.input).await? else {
                        return Ok(Delta::Same);
                    };
                    let mut exprs = projection.expr.clone();
                    exprs.push(weight(&rows).alias(WEIGHT));
                    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(rows))?);
                    Ok(Delta::Rows { plan, adds_only })
                }
                LogicalPlan::Filter(filter) => {
                    let Delta::Rows { plan: rows, adds_only } = self.delta(&filter.input).await? else {
                        return Ok(Delta::Same);
                    };
                    let plan = LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(rows))?);
                    Ok(Delta::Rows { plan, adds_only })
                }
                LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.delta(&sort.input).await,
                LogicalPlan::Repartition(repartition) => self.delta(&repartition.input).await,
                LogicalPlan::SubqueryAlias(alias) => {
                    let Delta::Rows { plan: rows, adds_only } = self.delta(&alias.input).await? else {
                        return Ok(Delta::Same);
                    };
                    let weight = weight(&rows);
                    Ok(Delta::Rows { plan: weighted(rows, &alias.schema, weight)?, adds_only })
                }
                LogicalPlan::Unnest(unnest) => {
                    let Delta::Rows { plan: rows, adds_only } = self.delta(&unnest.input).await? else {
                        return Ok(Delta::Same);
                    };
                    let made = plan.with_new_exprs(plan.expressions(), vec![rows])?;
                    let weight = weight(&made);
                    Ok(Delta::Rows { plan: weighted(made, &unnest.schema, weight)?, adds_only })
                }
                LogicalPlan::Union(union) => self.union(union).await,
                LogicalPlan::Join(join) => self.join(join).await,
                LogicalPlan::Aggregate(aggregate) => {
                    if let Some(found) = sessions(aggregate) {
                        return self.by_sessions(plan, aggregate, &found).await;
                    }
                    let rebuilt = |input: LogicalPlan| {
                        let made = Aggregate::try_new(
                            Arc::new(input),
                            aggregate.group_expr.clone(),
                            aggregate.aggr_expr.clone(),
                        )?;
                        Ok(LogicalPlan::Aggregate(made))
                    };
                    self.keyed(plan, &aggregate.input, aggregate.group_expr.clone(), &rebuilt).await
                }
                LogicalPlan::Window(window) => {
                    let (base, keys, depth) = stack(window);
                    if keys.is_empty() {
                        let changed = self.delta(&base).await?;
                        if matches!(changed, Delta::Same) {
                            return Ok(Delta::Same);
                        }
                        return refused("a window function without a PARTITION BY that all share");
                    }
                    let rebuilt = |input: LogicalPlan| restack(plan, depth, input);
                    self.keyed(plan, &base, keys, &rebuilt).await
                }
                other => {
                    for input in other.inputs() {
                        if !matches!(self.delta(input).await?, Delta::Same) {
                            return refused(format!("{}", other.display()));
                        }
                    }
                    Ok(Delta::Same)
                }
            }
        })
    }

    /// The rows of an input that came and went.
    async fn scan(&mut self, scan: &TableScan) -> Result<Delta, Stop> {
        let name = name_of(scan);
        let Some(input) = self.inputs.get(&name) else {
            return refused(format!("`{name}` is read without ref() or source()"));
        };
        let change = input.change.clone();
        if change.is_empty() {
            return Ok(Delta::Same);
        }
        let schema = &scan.projected_schema;
        let alias = self.alias();
        let mut parts = Vec::new();
        for (files, weight) in [(&change.came, 1_i64), (&change.went, -1)] {
            if !files.is_empty() {
                let rows = input.rows_of(&self.state, files, &alias, schema)?;
                parts.push(weighted(rows, schema, lit(weight))?);
            }
        }
        if !change.images.is_empty() {
            parts.push(input.images_of(&self.state, &change.images, &alias, schema)?);
        }
        let adds_only = change.adds_only();
        let rows = unioned(parts)?;
        if adds_only || self.dry {
            return Ok(Delta::Rows { plan: rows, adds_only });
        }
        // A file rewritten for one row has all the others on both sides.
        self.net(rows, schema).await
    }

    /// Rows with weights, those that cancel out left away, kept.
    async fn net(&mut self, rows: LogicalPlan, like: &DFSchema) -> Result<Delta, Stop> {
        let columns = rows.schema().columns();
        let fields = rows.schema().fields().clone();
        // GROUP BY takes -0.0 for 0.0: rows with floating-point numbers are not netted.
        let groupable =
            !fields.iter().any(|f| within(f.data_type(), map) || within(f.data_type(), DataType::is_floating));
        let kept = if groupable {
            let (last, groups) = columns.split_last().ok_or_else(|| internal("no columns"))?;
            let groups: Vec<Expr> = groups.iter().cloned().map(Expr::Column).collect();
            let sum = datafusion::functions_aggregate::expr_fn::sum(Expr::Column(last.clone())).alias(WEIGHT);
            let plan = LogicalPlanBuilder::from(rows)
                .aggregate(groups, vec![sum])?
                .filter(Expr::Column(Column::from_name(WEIGHT)).not_eq(lit(0_i64)))?
                .build()?;
            self.scratch.keep(&self.state, plan).await?
        } else {
            self.scratch.keep(&self.state, rows).await?
        };
        if kept.rows == 0 {
            return Ok(Delta::Same);
        }
        let scan = kept.scan()?;
        let weight = weight(&scan);
        Ok(Delta::Rows { plan: weighted(scan, like, weight)?, adds_only: false })
    }

    async fn union(&mut self, union: &Union) -> Result<Delta, Stop> {
        let mut parts = Vec::new();
        let mut all_add = true;
        for input in &union.inputs {
            if let Delta::Rows { plan, adds_only } = self.delta(input).await? {
                let weight = weight(&plan);
                parts.push(weighted(plan, &union.schema, weight)?);
                all_add &= adds_only;
            }
        }
        if parts.is_empty() {
            return Ok(Delta::Same);
        }
        Ok(Delta::Rows { plan: unioned(parts)?, adds_only: all_add })
    }

    pub(super) fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("__t{}", self.aliases)
    }

    /// `plan` with its inputs as they were or are.
    pub(super) fn image(&mut self, plan: &LogicalPlan, side: Side) -> Result<LogicalPlan, Stop> {
        if side == Side::New {
            return Ok(plan.clone());
        }
        let mut stop = None;
        let replaced = plan.clone().transform_up(|node| {
            let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
            match self.old(scan) {
                Ok(None) => Ok(Transformed::no(node)),
                Ok(Some(old)) => Ok(Transformed::yes(old)),
                Err(Stop::Failed(error)) => Err(error),
                Err(refused) => {
                    stop = Some(refused);
                    Ok(Transformed::no(node))
                }
            }
        })?;
        match stop {
            Some(stop) => Err(stop),
            None => Ok(replaced.data),
        }
    }

    /// The scan before the change; `None` if nothing changed.
    fn old(&mut self, scan: &TableScan) -> Result<Option<LogicalPlan>, Stop> {
        let name = name_of(scan);
        let Some(input) = self.inputs.get(&name) else {
            return refused(format!("`{name}` is read without ref() or source()"));
        };
        if input.change.is_empty() {
            return Ok(None);
        }
        self.reads_old = true;
        let alias = self.alias();
        if self.dry {
            return Ok(None);
        }
        let old = match &input.old {
            Ok(old) => old,
            Err(why) => return refused(why.clone()),
        };
        let provider = old.provider(&self.state).map_err(|e| DataFusionError::External(Box::new(e)))?;
        let rows = LogicalPlanBuilder::scan(alias.as_str(), provider_as_source(provider), None)?.build()?;
        Ok(Some(by_name(rows, &alias, &scan.projected_schema)?))
    }

    /// The distinct values of `exprs` in the rows of `delta`, kept.
    pub(super) async fn keys(&mut self, delta: LogicalPlan, exprs: &[Expr]) -> Result<Kept, Stop> {
        self.keys_of(vec![(delta, exprs.to_vec())]).await
    }

    async fn keys_of(&mut self, parts: Vec<(LogicalPlan, Vec<Expr>)>) -> Result<Kept, Stop> {
        let mut selected = Vec::new();
        for (delta, exprs) in parts {
            for expr in &exprs {
                let data_type = expr.get_type(delta.schema())?;
                if !keyable(&data_type) {
                    return refused(format!("`{expr}` is of the type {data_type}, which cannot be a key"));
                }
            }
            let named = exprs.into_iter().enumerate().map(|(at, expr)| expr.alias(format!("c{at}")));
            selected.push(LogicalPlanBuilder::from(delta).project(named)?.build()?);
        }
        let plan = LogicalPlanBuilder::from(unioned(selected)?).distinct()?.build()?;
        if self.dry { Ok(self.scratch.nothing(&plan)?) } else { Ok(self.scratch.keep(&self.state, plan).await?) }
    }

    pub(super) fn restricted(&mut self, plan: &LogicalPlan, exprs: &[Expr], keys: &Kept) -> Result<LogicalPlan, Stop> {
        let alias = self.alias();
        let keys = Keys { kept: keys.clone(), alias, at: (0..exprs.len()).collect() };
        Ok(restrict(plan, exprs, &keys)?)
    }

    /// What is computed key by key: the groups that the change touches, before and after.
    async fn keyed(
        &mut self,
        plan: &LogicalPlan,
        base: &LogicalPlan,
        exprs: Vec<Expr>,
        rebuilt: &(dyn Fn(LogicalPlan) -> Result<LogicalPlan, DataFusionError> + Sync),
    ) -> Result<Delta, Stop> {
        let Delta::Rows { plan: rows, .. } = self.delta(base).await? else { return Ok(Delta::Same) };
        if exprs.is_empty() {
            return refused(format!("an aggregate over all rows without GROUP BY ({})", plan.display()));
        }
        let keys = self.keys(rows, &exprs).await?;
        self.note(plan, &exprs, &keys);
        if keys.rows == 0 && !self.dry {
            return Ok(Delta::Same);
        }
        let (old, new) = (self.image(base, Side::Old)?, self.image(base, Side::New)?);
        let before = rebuilt(self.restricted(&old, &exprs, &keys)?)?;
        let after = rebuilt(self.restricted(&new, &exprs, &keys)?)?;
        self.difference(before, after, plan.schema()).await
    }

    /// `after` less `before`.
    pub(super) async fn difference(
        &mut self,
        before: LogicalPlan,
        after: LogicalPlan,
        like: &DFSchemaRef,
    ) -> Result<Delta, Stop> {
        let rows = unioned(vec![weighted(before, like, lit(-1_i64))?, weighted(after, like, lit(1_i64))?])?;
        if self.dry {
            return Ok(Delta::Rows { plan: rows, adds_only: false });
        }
        self.net(rows, like).await
    }

    pub(super) fn note(&mut self, plan: &LogicalPlan, exprs: &[Expr], keys: &Kept) {
        let (key, keys) = (exprs.iter().map(ToString::to_string).collect(), (!self.dry).then_some(keys.rows));
        self.steps.push(KeyStep { what: plan.display().to_string(), key, keys });
    }

    async fn join(&mut self, join: &Join) -> Result<Delta, Stop> {
        let left = self.delta(&join.left).await?;
        let right = self.delta(&join.right).await?;
        if matches!((&left, &right), (Delta::Same, Delta::Same)) {
            return Ok(Delta::Same);
        }
        match join.join_type {
            JoinType::Inner => self.inner(join, left, right).await,
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                self.one_sided(join, left, right, true).await
            }
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                self.one_sided(join, right, left, false).await
            }
            JoinType::Full => self.full(join, left, right).await,
        }
    }

    /// The join of two plans, one of which may have a weight that then comes last.
    fn joined(join: &Join, left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
        let names = |plan: &LogicalPlan| plan.schema().columns().into_iter().find(|column| column.name == WEIGHT);
        let found = names(&left).or_else(|| names(&right));
        let made = LogicalPlan::Join(Join::try_new(
            Arc::new(left),
            Arc::new(right),
            join.on.clone(),
            join.filter.clone(),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?);
        let Some(found) = found else { return Ok(made) };
        let mut exprs: Vec<Expr> =
            made.schema().columns().into_iter().filter(|c| *c != found).map(Expr::Column).collect();
        exprs.push(Expr::Column(found));
        LogicalPlanBuilder::from(made).project(exprs)?.build()
    }

    async fn inner(&mut self, join: &Join, left: Delta, right: Delta) -> Result<Delta, Stop> {
        let mut parts = Vec::new();
        let mut all_add = true;
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        if let Delta::Rows { plan, adds_only } = left {
            let other = self.image(&join.right, Side::New)?;
            let other = self.narrowed(&plan, &left_on, other, &right_on).await?;
            parts.push(Self::joined(join, plan, other)?);
            all_add &= adds_only;
        }
        if let Delta::Rows { plan, adds_only } = right {
            let other = self.image(&join.left, Side::Old)?;
            let other = self.narrowed(&plan, &right_on, other, &left_on).await?;
            parts.push(Self::joined(join, other, plan)?);
            all_add &= adds_only;
        }
        let weights = parts.into_iter().map(|part| {
            let weight = weight(&part);
            weighted(part, &join.schema, weight)
        });
        Ok(Delta::Rows { plan: unioned(weights.collect::<Result<_, _>>()?)?, adds_only: all_add })
    }

    /// Those rows of `other` that can meet a row of `delta`.
    async fn narrowed(
        &mut self,
        delta: &LogicalPlan,
        delta_on: &[Expr],
        other: LogicalPlan,
        other_on: &[Expr],
    ) -> Result<LogicalPlan, Stop> {
        if delta_on.is_empty() || self.dry || !worth_narrowing(&other) {
            return Ok(other);
        }
        let same = delta_on.iter().zip(other_on).all(|(one, two)| {
            let (one, two) = (one.get_type(delta.schema()), two.get_type(other.schema()));
            matches!((one, two), (Ok(one), Ok(two)) if one == two && keyable(&one))
        });
        if !same {
            return Ok(other);
        }
        let keys = self.keys(delta.clone(), delta_on).await?;
        self.restricted(&other, other_on, &keys)
    }

    /// Joins that are linear in the side they preserve: `kept` is that side's change.
    async fn one_sided(&mut self, join: &Join, kept: Delta, other: Delta, kept_left: bool) -> Result<Delta, Stop> {
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let (kept_plan, other_plan) = if kept_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
        let (kept_on, other_on) = if kept_left { (&left_on, &right_on) } else { (&right_on, &left_on) };
        let both = |kept: LogicalPlan, other: LogicalPlan| {
            if kept_left { Self::joined(join, kept, other) } else { Self::joined(join, other, kept) }
        };
        let mut parts = Vec::new();
        let mut all_add = true;
        if let Delta::Rows { plan, adds_only } = kept {
            let image = self.image(other_plan, Side::New)?;
            let image = if join.null_aware { image } else { self.narrowed(&plan, kept_on, image, other_on).await? };
            let part = both(plan, image)?;
            let weight = weight(&part);
            parts.push(weighted(part, &join.schema, weight)?);
            all_add &= adds_only;
        }
        if let Delta::Rows { plan, .. } = other {
            if join.null_aware {
                return refused("NOT IN, whose every row depends on whether one is NULL");
            }
            if kept_on.is_empty() {
                return refused(format!("a {} join without an equality", join.join_type));
            }
            let keys = self.keys(plan, other_on).await?;
            self.note(&LogicalPlan::Join(join.clone()), kept_on, &keys);
            if keys.rows > 0 || self.dry {
                let before = self.image(kept_plan, Side::Old)?;
                let before = self.restricted(&before, kept_on, &keys)?;
                for (side, sign) in [(Side::Old, -1_i64), (Side::New, 1)] {
                    let image = self.image(other_plan, side)?;
                    let image = self.restricted(&image, other_on, &keys)?;
                    parts.push(weighted(both(before.clone(), image)?, &join.schema, lit(sign))?);
                }
                all_add = false;
            }
        }
        if parts.is_empty() {
            return Ok(Delta::Same);
        }
        Ok(Delta::Rows { plan: unioned(parts)?, adds_only: all_add })
    }

    async fn full(&mut self, join: &Join, left: Delta, right: Delta) -> Result<Delta, Stop> {
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        if left_on.is_empty() {
            return refused("a full join without an equality");
        }
        let mut parts = Vec::new();
        for (delta, on) in [(left, &left_on), (right, &right_on)] {
            if let Delta::Rows { plan, .. } = delta {
                parts.push((plan, on.clone()));
            }
        }
        let keys = self.keys_of(parts).await?;
        self.note(&LogicalPlan::Join(join.clone()), &left_on, &keys);
        if keys.rows == 0 && !self.dry {
            return Ok(Delta::Same);
        }
        let mut images = Vec::new();
        for side in [Side::Old, Side::New] {
            let left = self.image(&join.left, side)?;
            let right = self.image(&join.right, side)?;
            let left = self.restricted(&left, &left_on, &keys)?;
            let right = self.restricted(&right, &right_on, &keys)?;
            images.push(Self::joined(join, left, right)?);
        }
        let (Some(after), Some(before)) = (images.pop(), images.pop()) else { return Ok(Delta::Same) };
        self.difference(before, after, &join.schema).await
    }
}

fn internal(what: &str) -> DataFusionError {
    DataFusionError::Internal(what.to_owned())
}

/// Whether reading all of it costs more than a scan does.
fn worth_narrowing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Join(_) => true,
        other => other.inputs().into_iter().any(worth_narrowing),
    }
}

/// Whether the type, or one within it, is like that.
fn within(data_type: &DataType, like: fn(&DataType) -> bool) -> bool {
    like(data_type)
        || match data_type {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                within(item.data_type(), like)
            }
            DataType::Struct(fields) => fields.iter().any(|field| within(field.data_type(), like)),
            _ => false,
        }
}

fn map(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Map(_, _))
}

/// All rows of plans with the same columns.
pub(super) fn unioned(mut parts: Vec<LogicalPlan>) -> Result<LogicalPlan, DataFusionError> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return Ok(only);
    }
    let Some(like) = parts.first().map(|part| Arc::clone(part.schema())) else {
        return Err(internal("nothing to unite"));
    };
    let union = LogicalPlan::Union(Union::try_new_with_loose_types(parts.into_iter().map(Arc::new).collect())?);
    named(union, &like)
}

/// The columns that `like` has, out of the scan of `alias`, with the names and types of `like`.
pub(super) fn by_name(rows: LogicalPlan, alias: &str, like: &DFSchema) -> Result<LogicalPlan, DataFusionError> {
    let mut exprs = Vec::new();
    for (relation, field) in like.iter() {
        let column = Expr::Column(Column::new(Some(TableReference::bare(alias)), field.name()));
        let there = column.get_type(rows.schema())?;
        let column =
            if there == *field.data_type() { column } else { column.cast_to(field.data_type(), rows.schema())? };
        exprs.push(column.alias_qualified(relation.cloned(), field.name()));
    }
    LogicalPlanBuilder::from(rows).project(exprs)?.build()
}

/// The plan below a pile of window functions, the keys that all of them are partitioned by, and how many they are.
pub(super) fn stack(window: &Window) -> (LogicalPlan, Vec<Expr>, usize) {
    let partitions = |window: &Window| -> Vec<Vec<Expr>> {
        let of = |expr: &Expr| match expr.clone().unalias() {
            Expr::WindowFunction(function) => function.params.partition_by.clone(),
            _ => Vec::new(),
        };
        window.window_expr.iter().map(of).collect()
    };
    let mut all = partitions(window);
    let mut base = window.input.as_ref();
    let mut depth = 1;
    // Names below stay what they are above: a window only adds columns.
    while let LogicalPlan::Window(inner) = base {
        let mut with_inner = all.clone();
        with_inner.extend(partitions(inner));
        if shared(&with_inner).is_empty() {
            break;
        }
        all = with_inner;
        base = inner.input.as_ref();
        depth += 1;
    }
    let keys = shared(&all);
    let there = base.schema();
    let keys = keys.into_iter().filter(|key| key.column_refs().iter().all(|c| there.has_column(c))).collect();
    (base.clone(), keys, depth)
}

fn shared(partitions: &[Vec<Expr>]) -> Vec<Expr> {
    let Some((first, rest)) = partitions.split_first() else { return Vec::new() };
    let mut keys: Vec<Expr> = Vec::new();
    for key in first {
        if !keys.contains(key) && rest.iter().all(|other| other.contains(key)) {
            keys.push(key.clone());
        }
    }
    keys
}

/// The first `depth` windows of `plan` over `input`.
pub(super) fn restack(plan: &LogicalPlan, depth: usize, input: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let LogicalPlan::Window(window) = plan else { return Ok(input) };
    if depth == 0 {
        return Ok(input);
    }
    let below = restack(&window.input, depth - 1, input)?;
    Ok(LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(below))?))
}

/// `plan`'s rows whose `exprs` are in `keys`, which are the columns of another plan.
pub(super) fn semi(plan: LogicalPlan, exprs: &[Expr], keys: &Keys) -> Result<LogicalPlan, DataFusionError> {
    let scan = LogicalPlanBuilder::from(keys.kept.scan()?).alias(keys.alias.as_str())?.build()?;
    let name =
        |at: &usize| Expr::Column(Column::new(Some(TableReference::bare(keys.alias.as_str())), format!("c{at}")));
    let on = keys.at.iter().map(name).zip(exprs.iter().cloned()).collect();
    // The keys on the left: what is on the left is held in memory, and the keys are the fewer.
    Ok(LogicalPlan::Join(Join::try_new(
        Arc::new(scan),
        Arc::new(plan),
        on,
        None,
        JoinType::RightSemi,
        datafusion::common::JoinConstraint::On,
        NullEquality::NullEqualsNull,
        false,
    )?))
}
