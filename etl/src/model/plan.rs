//! What is wrong with models, found by planning each without running any and without their tables being there.
//!
//! A model is planned over the columns that the models above it would have by their own plans; only the tables that
//! nothing in the project makes are looked up in the lake. Places in errors are places in the file as it was written.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError, Span};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan};

use super::emission::Emission;
use super::error::ModelProblem;
use super::incremental::{timed, volatile};
use super::project::{Materialization, Model, Project, config_place, nearest};
use super::seed;
use super::snapshot;
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
                if let Some(failure) = unfit(&schema, model.materialization) {
                    plans.problems.push(project.place(model, failure));
                    continue;
                }
                if model.materialization == Materialization::Snapshot {
                    plans.problems.extend(snapshot::faults(model, &schema).into_iter().map(|fault| {
                        let place = model.authored.span.clone().or_else(|| config_place(&model.authored, fault.key));
                        ModelProblem::new(&model.file, fault.what).maybe_span(place).maybe_fix(fault.fix)
                    }));
                }
                known.insert(model.table.clone(), Arc::new(EmptyTable::new(schema)));
                let moving = volatile(&plan).map_err(|e| engine.failed(e))?;
                if let Some(function) = moving.filter(|_| model.materialization != Materialization::View) {
                    plans.problems.push(
                        ModelProblem::new(&model.file, format!("`{function}` gives something else each time"))
                            .why(format!(
                                "so `{}` is computed whole at every build, and two builds of the same data differ",
                                model.name
                            ))
                            .fix("take the time from the data, or from `var(…)`, if that is not meant")
                            .warning(),
                    );
                }
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
    fix: Option<String>,
    why: Option<String>,
}

impl Failure {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), span: None, word: None, fix: None, why: None }
    }

    fn near(&mut self, near: Option<&str>) {
        self.fix = near.map(|near| format!("did you mean `{near}`?"));
    }
}

/// What keeps a model from having these columns.
fn unfit(schema: &Schema, kept: Materialization) -> Option<Failure> {
    const FIX: &str = "give it another name: `… as name`";
    for (at, field) in schema.fields().iter().enumerate() {
        let name = field.name();
        let fix = Some(FIX.to_owned());
        if name.trim().is_empty() {
            let what = format!("column {} of the result has no name", at + 1);
            return Some(Failure { word: Some(format!("\"{name}\"")), fix, ..Failure::new(what) });
        }
        let mut before = schema.fields().iter().take(at).map(|other| other.name());
        let Some(other) = before.find(|other| other.eq_ignore_ascii_case(name)) else { continue };
        if other == name {
            let what = format!("two columns of the result are called `{name}`");
            return Some(Failure { word: Some(name.clone()), fix, ..Failure::new(what) });
        }
        if kept != Materialization::View {
            let capitals = if name.chars().any(char::is_uppercase) { name } else { other };
            let what =
                format!("the columns `{other}` and `{name}` differ only in capitals, and a table has one of them");
            return Some(Failure { word: Some(format!("\"{capitals}\"")), fix, ..Failure::new(what) });
        }
    }
    None
}

async fn plan(engine: &Engine, sql: &str, pinned: Pinned, given: Given) -> Result<LogicalPlan, Box<Failure>> {
    let session = engine.planning_session(pinned, given);
    let state = session.context().state();
    let statement = crate::engine::parse(sql).map_err(|error| explain(&error, None, &state))?;
    let plan =
        crate::engine::window::planned(&state, statement).await.map_err(|error| explain(&error, None, &state))?;
    // Types are only looked at once the plan is complete.
    let checked = state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    checked.map_err(|error| explain(&error, Some(&plan), &state))?;
    Ok(plan)
}

fn explain(error: &DataFusionError, plan: Option<&LogicalPlan>, state: &SessionState) -> Box<Failure> {
    let root = error.find_root();
    let said = root.strip_backtrace();
    let mut failure = Failure::new(sentence(&said));
    failure.span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    if let DataFusionError::External(ours) = root
        && let Some(ours) = ours.downcast_ref::<crate::Error>()
    {
        failure.what = format!("it cannot {ours}");
        failure.why = ours.why();
    }
    if let DataFusionError::SchemaError(schema, _) = root {
        of_schema(schema, &mut failure);
    } else if let Some(name) = quoted_after(&said, "Invalid function ") {
        let calls = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let calls = calls.chain(state.window_functions().keys()).chain(state.higher_order_functions().keys());
        failure.what = format!("there is no function `{name}`");
        failure.near(nearest_name(&name, calls));
        failure.word = Some(name);
    } else if let Some(name) = quoted_after(&said, "table function ") {
        failure.what = format!("there is no table function `{name}`");
        failure.near(nearest_name(&name, state.table_functions().keys()));
        failure.word = Some(name);
    } else if let Some((_, which)) = said.split_once(" require unique expression names but the expression ") {
        let names = which.split('"').nth(1).unwrap_or_default();
        let name = names.rsplit(" AS ").next().and_then(|name| name.rsplit('.').next()).unwrap_or_default();
        failure.what = format!("two columns are called `{name}`");
        failure.fix = Some("give one of them another name: `… as name`".to_owned());
        failure.word = Some(name.to_owned());
    } else if let Some(call) = unmatched(&said, plan) {
        (failure.what, failure.word) = call;
    }
    if failure.span.is_none()
        && let Some(found) = plan.and_then(wrongly_typed)
    {
        failure.span = found.span;
        failure.word = failure.word.or(found.name);
    }
    if failure.span.is_none() && failure.word.is_none() {
        failure.word = mentioned(&failure.what);
    }
    Box::new(failure)
}

fn of_schema(error: &SchemaError, failure: &mut Failure) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = field.name.as_str();
            failure.what = format!("there is no column `{name}`");
            failure.span = failure.span.or_else(|| field.spans.first());
            failure.word = Some(name.to_owned());
            let names = || valid_fields.iter().map(|column| column.name.as_str());
            let capitals = |known: &&str| known.eq_ignore_ascii_case(name) && known.chars().any(char::is_uppercase);
            if let Some(known) = names().find(capitals) {
                failure.fix =
                    Some(format!("write it as `\"{known}\"`: without the quotes, capitals are small letters"));
                return;
            }
            failure.near(nearest(name, names()));
            if failure.fix.is_none() {
                let mut listed: Vec<&str> = names().collect();
                listed.dedup();
                let more = listed.len().saturating_sub(12);
                listed.truncate(12);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                failure.why =
                    (!listed.is_empty()).then(|| format!("the columns there are: {}{more}", listed.join(", ")));
            }
        }
        // With a table's name: not a word that means two columns, but two columns that would have one name.
        SchemaError::AmbiguousReference { field } if field.relation.is_some() => {
            failure.what = format!("two columns are called `{}`", field.name);
            failure.fix = Some("give one of them another name: `… as name`".to_owned());
            failure.word = Some(field.name.clone());
        }
        SchemaError::AmbiguousReference { field } => {
            failure.what = format!("the column `{}` is in more than one table", field.name);
            failure.span = failure.span.or_else(|| field.spans.first());
            failure.word = Some(field.name.clone());
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            failure.what = format!("two columns are called `{name}`");
            failure.fix = Some("give one of them another name: `… as name`".to_owned());
            failure.word = Some(name.clone());
        }
    }
}

fn nearest_name<'n>(name: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n str> {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    // Of two that are equally near, always the same.
    names.sort_unstable();
    nearest(&name.to_lowercase(), names.into_iter())
}

/// What stands in single quotes right after `before`.
fn quoted_after(said: &str, before: &str) -> Option<String> {
    let (_, rest) = said.split_once(before)?;
    let (name, _) = rest.strip_prefix('\'')?.split_once('\'')?;
    Some(name.to_owned())
}

/// A function that does not take what it is given: what to say, and its name.
fn unmatched(said: &str, plan: Option<&LogicalPlan>) -> Option<(String, Option<String>)> {
    let about = ["No function matches", "failed to match any signature", "coercion failed", "coerce arguments"];
    if !about.iter().any(|words| said.contains(words)) {
        return None;
    }
    let told = |name: &str, types: &[String]| {
        let what = match types {
            [] => format!("`{name}` needs arguments"),
            types => format!("there is no `{name}` of ({})", types.join(", ")),
        };
        Some((what, Some(name.to_owned())))
    };
    if let Some(Wrong { name: Some(name), arguments: Some(arguments), .. }) = plan.and_then(wrongly_typed) {
        return told(&name, &arguments.iter().map(|kind| sql_type(&kind.to_string())).collect::<Vec<_>>());
    }
    let (_, call) = said.rsplit_once("argument types '")?;
    let (call, _) = call.split_once("'. You might")?;
    let (name, types) = call.strip_suffix(')')?.split_once('(')?;
    // `Decimal128(10, 2)` and its like are one type.
    let mut depth = 0;
    let parts = types.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    let types: Vec<String> = parts.map(|part| sql_type(part.trim())).filter(|part| !part.is_empty()).collect();
    told(name, &types)
}

/// An Arrow type as SQL calls it.
fn sql_type(arrow: &str) -> String {
    let known = match arrow {
        "Utf8" | "LargeUtf8" | "Utf8View" => "varchar",
        "Boolean" => "boolean",
        "Int8" => "tinyint",
        "Int16" => "smallint",
        "Int32" => "integer",
        "Int64" => "bigint",
        "Float32" => "real",
        "Float64" => "double",
        "Date32" => "date",
        "Null" => "null",
        other if other.starts_with("Timestamp(") => "timestamp",
        other => {
            return other.strip_prefix("Decimal128(").map_or_else(|| other.to_owned(), |of| format!("decimal({of}"));
        }
    };
    known.to_owned()
}

/// Without what DataFusion calls the kind of its errors.
fn sentence(text: &str) -> String {
    let kinds =
        ["Error during planning: ", "Internal error: ", "SQL error: ", "Schema error: ", "type_coercion\ncaused by\n"];
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

/// An expression whose type cannot be found.
struct Wrong {
    /// Its columns' place.
    span: Option<Span>,
    /// Its function's name.
    name: Option<String>,
    /// The types of what the function is given.
    arguments: Option<Vec<DataType>>,
}

/// The innermost expression whose type cannot be found.
fn wrongly_typed(plan: &LogicalPlan) -> Option<Wrong> {
    let mut found = None;
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
                    let arguments = arguments_of(expr).map(|given| given.iter().map(|of| of.get_type(&schema)));
                    found = Some(Wrong {
                        span: span_of(expr),
                        name: name_of(expr),
                        arguments: arguments.and_then(|types| types.collect::<Result<_, _>>().ok()),
                    });
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

fn arguments_of(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::ScalarFunction(function) => Some(&function.args),
        Expr::AggregateFunction(function) => Some(&function.params.args),
        Expr::WindowFunction(function) => Some(&function.params.args),
        _ => None,
    }
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
        problem.fix = self.fix;
        problem
    }
}
