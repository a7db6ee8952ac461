//! What is wrong with models, found by planning each without running any and without their tables being there.
//!
//! A model is planned over the columns that the models above it would have by their own plans; only the tables that
//! nothing in the project makes are looked up in the lake. Places in errors are places in the file as it was written.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError, Span};
use datafusion::config::ConfigOptions;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan};

use super::emission::Emission;
use super::error::ModelProblem;
use super::incremental::timed;
use super::project::{Model, Project, nearest};
use super::seed;
use super::template::offset;
use crate::engine::{Engine, Given, Pinned};
use crate::error::Result;
use crate::table::{Table, TableName, parse_type, storable};

/// All models of a project, planned.
#[derive(Debug, Default)]
pub struct Plans {
    /// The plan of each model that can be planned.
    pub(super) by_model: BTreeMap<String, LogicalPlan>,
    /// What is wrong, and what could not be looked at.
    pub problems: Vec<ModelProblem>,
    /// Tables that models read, that nothing in the project makes, and that are not there yet.
    pub missing: BTreeSet<TableName>,
}

/// Plans all models and checks of `project`, inputs first.
///
/// # Errors
/// A [`TableError`](crate::table::TableError) if a table that is there cannot be read. What is wrong with a model is in
/// [`Plans::problems`].
pub async fn plan_all(engine: &Engine, project: &Project) -> Result<Plans> {
    let mut plans = Plans::default();
    let mut known: BTreeMap<TableName, Arc<dyn TableProvider>> = BTreeMap::new();
    for seed in project.seeds.values() {
        match seed::schema(seed) {
            Ok(schema) => drop(known.insert(seed.table.clone(), Arc::new(EmptyTable::new(schema)))),
            Err(error) => {
                let why = error.why().unwrap_or_default();
                plans
                    .problems
                    .push(ModelProblem::new(&seed.file, format!("the seed `{}` cannot be loaded", seed.name)).why(why));
            }
        }
    }
    let outside = outside(engine, project, &mut known, &mut plans).await?;
    for name in project.sorted_models() {
        let Some(model) = project.models.get(name) else { continue };
        // What could not be read above is said once.
        if model.refs.iter().any(|name| project.table_of(name).is_none()) {
            continue;
        }
        let reads = model.refs.iter().filter_map(|name| project.table_of(name)).chain(model.sources.iter());
        let Some((pinned, given)) = inputs(reads, &outside, &known) else { continue };
        match plan(engine, model.select(), pinned, given).await {
            Ok(plan) => {
                if Emission::read(&model.config).is_ok_and(|emission| emission.lateness.is_some())
                    && timed(&plan).is_none()
                {
                    plans.problems.push(
                        ModelProblem::new(&model.file, "`watermark` has no windows to be of")
                            .why("its SELECT does not end in a GROUP BY with `tumble`, `hop` or `session`")
                            .fix("let a model of its own group by the window, or take `watermark` out"),
                    );
                }
                let schema = storable(plan.schema().as_arrow());
                known.insert(model.table.clone(), Arc::new(EmptyTable::new(schema)));
                plans.by_model.insert(model.name.clone(), plan);
            }
            Err(failure) => plans.problems.push(project.place(model, *failure)),
        }
    }
    for check in project.checks.values() {
        if check.subject.is_none() && check.refs.iter().any(|name| project.table_of(name).is_none()) {
            continue;
        }
        let reads = check.refs.iter().filter_map(|name| project.table_of(name)).chain(check.sources.iter());
        let Some((pinned, given)) = inputs(reads, &outside, &known) else { continue };
        if let Err(failure) = plan(engine, &check.sql, pinned, given).await {
            let span = check.authored.span.clone();
            let problem = match span {
                Some(span) => ModelProblem::new(&check.file, failure.what).span(span),
                None => project.place_in_check(check, *failure),
            };
            plans.problems.push(problem);
        }
    }
    Ok(plans)
}

/// The tables that nothing in the project makes: from the lake, else by the types that their descriptions give.
async fn outside(
    engine: &Engine,
    project: &Project,
    known: &mut BTreeMap<TableName, Arc<dyn TableProvider>>,
    plans: &mut Plans,
) -> Result<BTreeMap<TableName, Table>> {
    let made: BTreeSet<&TableName> =
        project.models.values().map(|m| &m.table).chain(project.seeds.values().map(|s| &s.table)).collect();
    let read = project.models.values().flat_map(|m| &m.sources).chain(project.checks.values().flat_map(|c| &c.sources));
    let mut outside = BTreeMap::new();
    for name in read.filter(|name| !made.contains(name)).collect::<BTreeSet<_>>() {
        if let Some(table) = engine.lake().try_table(name).await? {
            outside.insert(name.clone(), table);
        } else if let Some(schema) = project.described(name) {
            known.insert(name.clone(), Arc::new(EmptyTable::new(schema)));
        } else {
            plans.missing.insert(name.clone());
        }
    }
    // `source('gold', 'x')` may name a model's table; it is read as the table it is.
    Ok(outside)
}

/// What a statement reads; `None` if one of the tables is not known, and so nothing can be said.
fn inputs<'t>(
    reads: impl Iterator<Item = &'t TableName>,
    outside: &BTreeMap<TableName, Table>,
    known: &BTreeMap<TableName, Arc<dyn TableProvider>>,
) -> Option<(Pinned, Given)> {
    let (mut pinned, mut given) = (BTreeMap::new(), Given::new());
    for name in reads {
        if let Some(provider) = known.get(name) {
            given.insert(name.clone(), Arc::clone(provider));
        } else {
            pinned.insert(name.clone(), outside.get(name)?.clone());
        }
    }
    Some((Arc::new(pinned), given))
}

/// What is wrong with a statement, and where in its own text.
#[derive(Debug)]
pub(super) struct Failure {
    what: String,
    span: Option<Span>,
    /// A word of the text that is meant, where there is no span.
    word: Option<String>,
    near: Option<String>,
    why: Option<String>,
}

async fn plan(engine: &Engine, sql: &str, pinned: Pinned, given: Given) -> Result<LogicalPlan, Box<Failure>> {
    let session = engine.planning_session(pinned, given);
    let state = session.context().state();
    let statement = crate::engine::parse(sql).map_err(|error| explain(&error, None))?;
    let plan = crate::engine::window::planned(&state, statement).await.map_err(|error| explain(&error, None))?;
    // Types are only looked at once the plan is complete.
    let checked = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    checked.map_err(|error| explain(&error, Some((&plan, state.config_options()))))?;
    Ok(plan)
}

fn explain(error: &DataFusionError, plan: Option<(&LogicalPlan, &Arc<ConfigOptions>)>) -> Box<Failure> {
    let root = error.find_root();
    let diagnostic = error.diagnostic();
    let mut failure = Failure {
        what: sentence(&root.strip_backtrace()),
        span: diagnostic.and_then(|diagnostic| diagnostic.span),
        word: None,
        near: None,
        why: None,
    };
    if let DataFusionError::External(ours) = root
        && let Some(ours) = ours.downcast_ref::<crate::Error>()
    {
        failure.what = format!("it cannot {ours}");
        failure.why = ours.why();
    }
    if let DataFusionError::SchemaError(schema, _) = root {
        match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                failure.what = format!("there is no column `{}`", field.name);
                failure.span = failure.span.or_else(|| field.spans.first());
                failure.word = Some(field.name.clone());
                let names = || valid_fields.iter().map(|column| column.name.as_str());
                failure.near = nearest(&field.name, names()).map(str::to_owned);
                if failure.near.is_none() {
                    let mut listed: Vec<&str> = names().collect();
                    listed.dedup();
                    let more = listed.len().saturating_sub(12);
                    listed.truncate(12);
                    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                    failure.why =
                        (!listed.is_empty()).then(|| format!("the columns there are: {}{more}", listed.join(", ")));
                }
            }
            SchemaError::AmbiguousReference { field } => {
                failure.what = format!("the column `{}` is in more than one table", field.name);
                failure.span = failure.span.or_else(|| field.spans.first());
                failure.word = Some(field.name.clone());
            }
            _ => {}
        }
    }
    if failure.span.is_none()
        && let Some((plan, _)) = plan
    {
        (failure.span, failure.word) = wrongly_typed(plan);
    }
    if failure.span.is_none() && failure.word.is_none() {
        failure.word = mentioned(&failure.what);
    }
    Box::new(failure)
}

/// Without what DataFusion calls the kind of its errors.
fn sentence(text: &str) -> String {
    let kinds =
        ["Error during planning: ", "SQL error: ", "Schema error: ", "Invalid function ", "type_coercion\ncaused by\n"];
    let mut text = text;
    while let Some(rest) = kinds.iter().find_map(|kind| text.strip_prefix(kind)) {
        text = rest;
    }
    let line = text.lines().next().unwrap_or_default();
    line.strip_suffix('.').unwrap_or(line).to_owned()
}

/// The name that an error speaks of, if it quotes one.
fn mentioned(what: &str) -> Option<String> {
    let quote = what.find(['\'', '`'])?;
    let rest = what.get(quote + 1..)?;
    let end = rest.find(['\'', '`'])?;
    let word = rest.get(..end)?.rsplit('.').next()?.to_owned();
    (!word.is_empty()).then_some(word)
}

/// The innermost expression whose type cannot be found: its columns' place, or the name of its function.
fn wrongly_typed(plan: &LogicalPlan) -> (Option<Span>, Option<String>) {
    let mut found = (None, None);
    let mut at_node = |node: &LogicalPlan| {
        let mut schema = DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        for expr in node.expressions() {
            let _visited = expr.apply(|expr| {
                let coerced = match expr {
                    // What a filter or a join compares is typed even where it cannot be compared.
                    Expr::BinaryExpr(binary) => {
                        let sides = (binary.left.get_type(&schema), binary.right.get_type(&schema));
                        match sides {
                            (Ok(left), Ok(right)) => {
                                let coercer = datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer::new(
                                    &left, &binary.op, &right,
                                );
                                coercer.get_input_types().is_ok()
                            }
                            _ => true,
                        }
                    }
                    _ => expr.get_type(&schema).is_ok(),
                };
                let inner = expr.get_type(&schema).is_err() || !coerced;
                if inner {
                    found = (span_of(expr), name_of(expr));
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
    };
    let _walked = plan.apply(|node| {
        at_node(node);
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn span_of(expr: &Expr) -> Option<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let _walked = expr.apply(|inner| {
        if let Expr::Column(column) = inner {
            spans.extend(column.spans.first());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    spans.into_iter().reduce(|a, b| a.union(&b))
}

fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::ScalarFunction(function) => Some(function.name().to_owned()),
        Expr::AggregateFunction(function) => Some(function.func.name().to_owned()),
        Expr::WindowFunction(function) => Some(function.fun.name().to_owned()),
        Expr::Column(column) => Some(column.name.clone()),
        _ => None,
    }
}

impl Project {
    /// Where a model or seed is kept.
    pub(super) fn table_of(&self, name: &str) -> Option<&TableName> {
        self.models.get(name).map(|model| &model.table).or_else(|| self.seeds.get(name).map(|seed| &seed.table))
    }

    /// The columns of a source by its description, if that gives the type of each.
    fn described(&self, table: &TableName) -> Option<SchemaRef> {
        let source = self.sources.values().find(|source| source.table == *table)?;
        let field = |column: &super::Column| {
            Some(Field::new(&column.name, parse_type(column.data_type.as_deref()?).ok()?, true))
        };
        let fields: Vec<Field> = source.columns.iter().map(field).collect::<Option<_>>()?;
        (!fields.is_empty()).then(|| Arc::new(Schema::new(fields)))
    }

    fn place(&self, model: &Model, failure: Failure) -> ModelProblem {
        let span = failure.at(model.select()).and_then(|span| self.source_span(model, span));
        failure.problem(&model.file, model.authored.span.clone().or(span))
    }

    fn place_in_check(&self, check: &super::Check, failure: Failure) -> ModelProblem {
        let span = failure.at(&check.sql).and_then(|span| self.check_span(check, span));
        failure.problem(&check.file, span)
    }
}

impl Failure {
    /// The bytes of the statement that are meant.
    fn at(&self, sql: &str) -> Option<Range<usize>> {
        if let Some(span) = self.span {
            let start = offset(sql, span.start.line, span.start.column);
            let end = offset(sql, span.end.line, span.end.column);
            return Some(start..end.max(start + 1));
        }
        let word = self.word.as_deref()?.to_lowercase();
        let lower = sql.to_lowercase();
        let letter = |c: char| c.is_alphanumeric() || c == '_';
        lower.match_indices(&word).map(|(at, _)| at).find_map(|at| {
            let before = lower.get(..at)?.chars().next_back().is_some_and(letter);
            let after = lower.get(at + word.len()..)?.chars().next().is_some_and(letter);
            (!before && !after).then_some(at..at + word.len())
        })
    }

    fn problem(self, file: &std::path::Path, span: Option<Range<usize>>) -> ModelProblem {
        let mut problem = ModelProblem::new(file, self.what).maybe_span(span);
        problem.why = self.why;
        problem.fix = self.near.map(|near| format!("did you mean `{near}`?"));
        problem
    }
}
