//! Which columns a column is made of, by the resolved plan.
//!
//! The plans are those of [`plan_all`](super::plan_all): each ends at the tables that the model names, so that a column
//! leads to columns of other models, and through them to what nothing in the project makes.
use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column as Named, DFSchema};
use datafusion::logical_expr::{Distinct, Expr, Join, JoinType, LogicalPlan};
use serde::Serialize;

use super::plan::Plans;
use super::project::Project;
use crate::table::TableName;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// `schema.table`.
    pub table: String,
    /// The column.
    pub column: String,
}

/// How a column takes part in making another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// Its values are in it.
    Value,
    /// It decides which rows there are.
    Filter,
    /// It decides which rows belong together.
    Join,
    /// It decides which rows are one.
    Group,
}

/// What one model's columns are made of, one step back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lineage {
    /// The model's table.
    pub table: String,
    /// Its columns in order, each with the columns whose values are in it.
    pub columns: Vec<(String, BTreeSet<Origin>)>,
    /// What concerns all of its rows.
    pub rows: BTreeMap<Edge, BTreeSet<Origin>>,
}

/// One edge of the whole graph above a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Step {
    /// The table of the column that is made.
    pub table: String,
    /// The column; `None`: all of them.
    pub column: Option<String>,
    /// How.
    pub edge: Edge,
    /// Made from this.
    pub from: Origin,
}

/// The lineage of one model, one step back; `None` if it could not be planned.
pub fn lineage(project: &Project, plans: &Plans, model: &str) -> Option<Lineage> {
    let table = &project.models.get(model)?.table;
    Some(of_plan(table, plans.by_model.get(model)?))
}

/// Everything above `columns` of `model` (none: all of them), through all models to what none of them makes.
pub fn lineage_above(project: &Project, plans: &Plans, model: &str, column: Option<&str>) -> Vec<Step> {
    let models: BTreeMap<String, &str> =
        project.models.values().map(|model| (model.table.to_string(), model.name.as_str())).collect();
    let mut known: BTreeMap<String, Lineage> = BTreeMap::new();
    let mut steps = BTreeSet::new();
    let mut seen: BTreeSet<(String, Option<String>)> = BTreeSet::new();
    let mut next = vec![(model.to_owned(), column.map(str::to_owned))];
    while let Some((name, column)) = next.pop() {
        if !seen.insert((name.clone(), column.clone())) {
            continue;
        }
        if !known.contains_key(&name) {
            let Some(found) = lineage(project, plans, &name) else { continue };
            known.insert(name.clone(), found);
        }
        let Some(found) = known.get(&name) else { continue };
        let wanted = found.columns.iter().filter(|(name, _)| column.as_ref().is_none_or(|column| column == name));
        let values =
            wanted.flat_map(|(name, from)| from.iter().map(move |from| (Some(name.clone()), Edge::Value, from)));
        let rows = found.rows.iter().flat_map(|(edge, from)| from.iter().map(move |from| (None, *edge, from)));
        for (column, edge, from) in values.chain(rows) {
            steps.insert(Step { table: found.table.clone(), column, edge, from: from.clone() });
            if let Some(above) = models.get(&from.table) {
                next.push(((*above).to_owned(), Some(from.column.clone())));
            }
        }
    }
    steps.into_iter().collect()
}

/// What each output column of a plan is made of, and what decides over its rows.
fn of_plan(table: &TableName, plan: &LogicalPlan) -> Lineage {
    let mut tracer = Tracer::default();
    let columns = tracer.trace(plan);
    let names = plan.schema().fields().iter().map(|field| field.name().clone());
    Lineage { table: table.to_string(), columns: names.zip(columns).collect(), rows: tracer.rows }
}

type Origins = BTreeSet<Origin>;

#[derive(Default)]
struct Tracer {
    rows: BTreeMap<Edge, Origins>,
}

impl Tracer {
    fn note(&mut self, edge: Edge, origins: Origins) {
        if !origins.is_empty() {
            self.rows.entry(edge).or_default().extend(origins);
        }
    }

    /// The origins of each output column.
    fn trace(&mut self, plan: &LogicalPlan) -> Vec<Origins> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let table = match (scan.table_name.schema(), scan.table_name.table()) {
                    (Some(schema), table) => format!("{schema}.{table}"),
                    (None, table) => table.to_owned(),
                };
                let fields = scan.projected_schema.fields().iter();
                fields
                    .map(|field| Origins::from([Origin { table: table.clone(), column: field.name().clone() }]))
                    .collect()
            }
            LogicalPlan::Projection(projection) => {
                let input = self.input(&projection.input);
                projection.expr.iter().map(|expr| self.expr(expr, &input)).collect()
            }
            LogicalPlan::Filter(filter) => {
                let input = self.input(&filter.input);
                let origins = self.expr(&filter.predicate, &input);
                self.note(Edge::Filter, origins);
                input.columns
            }
            LogicalPlan::Aggregate(aggregate) => {
                let input = self.input(&aggregate.input);
                let groups: Vec<Origins> = aggregate.group_expr.iter().map(|expr| self.expr(expr, &input)).collect();
                self.note(Edge::Group, groups.iter().flatten().cloned().collect());
                let values: Vec<Origins> = aggregate.aggr_expr.iter().map(|expr| self.expr(expr, &input)).collect();
                // Grouping sets have other columns between the keys and the values.
                let between = plan.schema().fields().len().saturating_sub(values.len());
                let all: Origins = groups.iter().flatten().cloned().collect();
                let mut columns = if groups.len() == between { groups } else { vec![all; between] };
                columns.extend(values);
                columns
            }
            LogicalPlan::Window(window) => {
                let input = self.input(&window.input);
                let values: Vec<Origins> = window.window_expr.iter().map(|expr| self.expr(expr, &input)).collect();
                input.columns.into_iter().chain(values).collect()
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => {
                let mut columns = vec![Origins::new(); plan.schema().fields().len()];
                for input in &union.inputs {
                    for (column, more) in columns.iter_mut().zip(self.trace(input)) {
                        column.extend(more);
                    }
                }
                columns
            }
            LogicalPlan::Unnest(unnest) => {
                let input = self.trace(&unnest.input);
                let of = |at: &usize| input.get(*at).cloned().unwrap_or_default();
                unnest.dependency_indices.iter().map(of).collect()
            }
            LogicalPlan::Distinct(Distinct::On(on)) => {
                let input = self.input(&on.input);
                let keys = on.on_expr.iter().flat_map(|expr| self.expr(expr, &input)).collect();
                self.note(Edge::Group, keys);
                on.select_expr.iter().map(|expr| self.expr(expr, &input)).collect()
            }
            LogicalPlan::Sort(sort) => {
                let input = self.input(&sort.input);
                if sort.fetch.is_some() {
                    let origins = sort.expr.iter().flat_map(|sort| self.expr(&sort.expr, &input)).collect();
                    self.note(Edge::Filter, origins);
                }
                input.columns
            }
            LogicalPlan::RecursiveQuery(query) => {
                let mut columns = self.trace(&query.static_term);
                for (column, more) in columns.iter_mut().zip(self.trace(&query.recursive_term)) {
                    column.extend(more);
                }
                columns
            }
            other => {
                let mut inputs: Vec<Vec<Origins>> = other.inputs().into_iter().map(|input| self.trace(input)).collect();
                let width = other.schema().fields().len();
                match inputs.pop() {
                    Some(only) if inputs.is_empty() && only.len() == width => only,
                    last => {
                        // A node of somebody else's: each column may come from all there is.
                        let all: Origins = inputs.into_iter().chain(last).flatten().flatten().collect();
                        vec![all; width]
                    }
                }
            }
        }
    }

    fn join(&mut self, join: &Join) -> Vec<Origins> {
        let left = self.input(&join.left);
        let right = self.input(&join.right);
        for (on_left, on_right) in &join.on {
            let mut origins = self.expr(on_left, &left);
            origins.extend(self.expr(on_right, &right));
            self.note(Edge::Join, origins);
        }
        let both = left.and(&right);
        if let Some(filter) = &join.filter {
            let origins = self.expr(filter, &both);
            self.note(Edge::Join, origins);
        }
        match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => left.columns,
            JoinType::RightSemi | JoinType::RightAnti => right.columns,
            JoinType::LeftMark => left.columns.into_iter().chain([Origins::new()]).collect(),
            JoinType::RightMark => right.columns.into_iter().chain([Origins::new()]).collect(),
            _ => both.columns,
        }
    }

    fn input(&mut self, plan: &LogicalPlan) -> Input {
        Input { schema: plan.schema().as_ref().clone(), columns: self.trace(plan) }
    }

    /// The columns of the input that an expression's value comes from. What a subquery filters by is noted.
    fn expr(&mut self, expr: &Expr, input: &Input) -> Origins {
        let mut origins = Origins::new();
        let _walked = expr.apply(|inner| {
            match inner {
                Expr::Column(column) => origins.extend(input.of(column)),
                Expr::ScalarSubquery(subquery) => {
                    origins.extend(self.trace(&subquery.subquery).into_iter().flatten());
                }
                Expr::InSubquery(query) => {
                    let within = self.trace(&query.subquery.subquery).into_iter().flatten().collect();
                    self.note(Edge::Filter, within);
                }
                Expr::Exists(query) => drop(self.trace(&query.subquery.subquery)),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
        origins
    }
}

struct Input {
    schema: DFSchema,
    columns: Vec<Origins>,
}

impl Input {
    fn of(&self, column: &Named) -> Origins {
        let at = self.schema.maybe_index_of_column(column);
        at.and_then(|at| self.columns.get(at)).cloned().unwrap_or_default()
    }

    fn and(&self, other: &Self) -> Self {
        let mut schema = self.schema.clone();
        let joined = schema.join(&other.schema);
        if let Ok(joined) = joined {
            schema = joined;
        }
        Self { schema, columns: self.columns.iter().chain(&other.columns).cloned().collect() }
    }
}
