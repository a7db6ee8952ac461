//! Chooses the cheapest class that is proven right for what happened, and computes the change of the table by it.
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::common::{Column, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::expr_fn::{max, min, sum};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, cast};
use deltalake::kernel::Action;
use futures::TryStreamExt as _;

use super::apply::{Applier, FILE_BYTES};
use super::delta::{Delta, KeyStep, Rules, Side, Stop};
use super::input::Input;
use super::proof::{digestible, keyable, repeatable, scans, volatile};
use super::restrict::{outward, restrict};
use super::scratch::{Kept, Scratch};
use super::sessions::{Spans, sessions, within};
use super::timed::{Timed, newest};
use super::{Class, Refusal};
use crate::engine::{Engine, Session};
use crate::error::Result;
use crate::table::{FileWriter, Table, TableName, WriteOptions, to_storable};

/// A model's SELECT, planned over its inputs.
pub(in crate::model) struct Reading {
    pub(super) session: Session,
    /// The plan by which it is run, whole or in part.
    pub(super) plan: LogicalPlan,
    /// The first function in it that gives something else each time.
    pub(in crate::model) volatile: Option<String>,
    /// Which columns are the same to the last bit, or why it may not run incrementally.
    pub(super) inexact: Result<Vec<bool>, Refusal>,
}

impl Reading {
    /// Brings a planned SELECT into the form it is run by.
    pub(in crate::model) fn new(
        engine: &Engine,
        session: Session,
        plan: LogicalPlan,
        pinned_versions: bool,
    ) -> Result<Self> {
        let volatile = volatile(&plan).map_err(|e| engine.failed(e))?;
        let plan = super::normal::normal(&session.context().state(), plan).map_err(|e| engine.failed(e))?;
        let inexact = if pinned_versions {
            Err(Refusal("it reads a table VERSION AS OF or TIMESTAMP AS OF".to_owned()))
        } else {
            repeatable(&plan)
        };
        Ok(Self { session, plan, volatile, inexact })
    }

    pub(in crate::model) fn state(&self) -> SessionState {
        self.session.context().state()
    }

    pub(in crate::model) fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    pub(in crate::model) fn into_parts(self) -> (Session, LogicalPlan) {
        (self.session, self.plan)
    }
}

/// What brought the table up to date, short of the commit.
#[derive(Debug)]
pub(in crate::model) struct Refreshed {
    pub(in crate::model) class: Class,
    pub(in crate::model) actions: Vec<Action>,
    pub(in crate::model) came: u64,
    pub(in crate::model) went: u64,
    pub(in crate::model) steps: Vec<KeyStep>,
    /// The newest event time of the rows that came, in microseconds, if it was asked for.
    pub(in crate::model) newest: Option<i64>,
}

impl Refreshed {
    fn nothing(class: Class, steps: Vec<KeyStep>) -> Self {
        Self { class, actions: Vec::new(), came: 0, went: 0, steps, newest: None }
    }
}

/// How the change is computed.
pub(super) enum Way {
    /// No row changes.
    Nothing,
    /// These rows come.
    Append(LogicalPlan),
    /// These rows with weights.
    Rows(LogicalPlan),
    /// The stored rows with these keys in these columns go; these partial results, combined with them, come.
    Combine {
        /// The keys.
        keys: Kept,
        /// The columns that hold them.
        columns: Vec<usize>,
        /// What the plan gives for the rows that came alone.
        part: LogicalPlan,
        /// How each column of two results becomes one.
        how: Vec<Merge>,
    },
    /// The stored rows with these keys in these columns go; what the plan gives for them comes.
    Keys { keys: Kept, columns: Vec<usize> },
    /// The stored rows whose keys and start lie in these spans go; these rows come.
    Sessions {
        /// The spans.
        spans: Spans,
        /// The columns that hold the keys.
        columns: Vec<usize>,
        /// The column that holds where a session starts.
        start: usize,
        /// The sessions within the spans as they are now.
        come: LogicalPlan,
    },
}

/// Computes the change of `table`, whose rows are `schema`'s, since the inputs' versions in `read`; a refusal says why it
/// cannot be. With `times`, how far they have come is told too.
///
/// # Errors
/// A failure of the storage. What fails while it is computed is a refusal too: computing it whole is the way out.
pub(in crate::model) async fn refresh(
    engine: &Engine,
    reading: &Reading,
    inputs: &BTreeMap<TableName, (Table, u64)>,
    table: &Table,
    schema: &SchemaRef,
    times: Option<&Timed>,
    now: DateTime<Utc>,
) -> Result<Result<Refreshed, Refusal>> {
    let inexact = match &reading.inexact {
        Ok(inexact) => inexact.clone(),
        Err(refusal) => return Ok(Err(refusal.clone())),
    };
    if !digestible(schema) {
        return Ok(Err(Refusal("rows with maps cannot be told apart".to_owned())));
    }
    for name in scans(&reading.plan) {
        if !inputs.contains_key(&name) {
            return Ok(Err(Refusal(format!("`{name}` is read without ref() or source()"))));
        }
    }
    let mut read = BTreeMap::new();
    for (name, (new, after)) in inputs {
        match Input::read(engine.lake(), name, new, *after).await? {
            Ok(input) => drop(read.insert(name.clone(), input)),
            Err(why) => return Ok(Err(Refusal(why))),
        }
    }
    let scratch = match Scratch::new(engine.spill_dir()) {
        Ok(scratch) => scratch,
        Err(error) => return Err(engine.failed(error)),
    };
    let state = reading.session.context().state();
    let mut rules = Rules {
        state: state.clone(),
        inputs: &read,
        scratch: &scratch,
        dry: false,
        steps: Vec::new(),
        reads_old: false,
        aliases: 0,
    };
    let done = async {
        let mut refreshed = Box::pin(computed(engine, reading, &mut rules, table, schema, &inexact, now)).await?;
        if let Some(times) = times
            && let Some(came) = rules.came(&times.rows).await?
        {
            refreshed.newest = newest(&state, came, &times.time).await?;
        }
        Ok(refreshed)
    };
    match done.await {
        Ok(refreshed) => Ok(Ok(refreshed)),
        Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
        Err(Stop::Failed(error)) => {
            let error = engine.failed(error);
            let why = error.why().unwrap_or_else(|| error.to_string());
            Ok(Err(Refusal(format!("computing only the change failed: {why}"))))
        }
    }
}

async fn computed(
    engine: &Engine,
    reading: &Reading,
    rules: &mut Rules<'_>,
    table: &Table,
    schema: &SchemaRef,
    inexact: &[bool],
    now: DateTime<Utc>,
) -> Result<Refreshed, Stop> {
    let (state, scratch) = (rules.state.clone(), rules.scratch);
    let way = choose(rules, &reading.plan, schema, inexact).await?;
    let steps = std::mem::take(&mut rules.steps);
    let mut class = Class::AffectedKeys;
    let delta = match way {
        Way::Nothing => return Ok(Refreshed::nothing(Class::Nothing, steps)),
        Way::Append(plan) => return append(&state, plan, table, schema, now, steps).await,
        Way::Rows(plan) => {
            let mut keeping = scratch.begin(&with_weight(schema));
            gather(&state, plan, schema, None, &mut keeping).await?;
            keeping.done()?
        }
        Way::Combine { keys, columns, part, how } => {
            class = Class::Combine;
            let mut keeping = scratch.begin(&with_weight(schema));
            let stored = stored_rows(&state, table, schema, &columns, &keys)?;
            gather(&state, stored.clone(), schema, Some(-1), &mut keeping).await?;
            gather(&state, merged(stored, part, schema, &how)?, schema, Some(1), &mut keeping).await?;
            keeping.done()?
        }
        Way::Sessions { spans, columns, start, come } => {
            let mut keeping = scratch.begin(&with_weight(schema));
            let (stored, mut exprs) = stored(&state, table, schema, &[columns, vec![start]].concat())?;
            let Some(start) = exprs.pop() else { return Ok(Refreshed::nothing(class, steps)) };
            let gone = within(&stored, &exprs, &start, &spans, "__sk")?;
            gather(&state, gone, schema, Some(-1), &mut keeping).await?;
            gather(&state, come, schema, Some(1), &mut keeping).await?;
            keeping.done()?
        }
        Way::Keys { keys, columns } => {
            let mut keeping = scratch.begin(&with_weight(schema));
            let stored = stored_rows(&state, table, schema, &columns, &keys)?;
            gather(&state, stored, schema, Some(-1), &mut keeping).await?;
            let outputs: Vec<Column> = reading.plan.schema().columns();
            let exprs: Vec<Expr> =
                columns.iter().filter_map(|at| outputs.get(*at)).cloned().map(Expr::Column).collect();
            let after = rules.restricted(&reading.plan, &exprs, &keys)?;
            gather(&state, after, schema, Some(1), &mut keeping).await?;
            keeping.done()?
        }
    };
    let applied = Applier { engine, table, schema, scratch, now }.apply(&delta).await?;
    let (came, went) = (applied.came, applied.went);
    Ok(Refreshed { class, actions: applied.actions, came, went, steps, newest: None })
}

/// Chooses by what the change is, and by what the plan's top shows of its keys.
pub(super) async fn choose(
    rules: &mut Rules<'_>,
    plan: &LogicalPlan,
    schema: &SchemaRef,
    inexact: &[bool],
) -> Result<Way, Stop> {
    if let Some(top) = top(plan, schema)? {
        if let LogicalPlan::Aggregate(aggregate) = &top.node
            && let Some(sessions) = sessions(aggregate)
            && let Some((columns, start)) = sessions.shown(&top.columns)
        {
            let Some(spans) = rules.spans(&top.node, &sessions).await? else { return Ok(Way::Nothing) };
            let rows = rules.spanned(aggregate, &sessions, &spans, Side::New)?;
            return Ok(Way::Sessions { come: over(plan, rows)?, spans, columns, start });
        }
        let Delta::Rows { plan: rows, adds_only } = rules.delta(&top.base).await? else { return Ok(Way::Nothing) };
        let keys = rules.keys(rows.clone(), &top.keys).await?;
        rules.note(&top.node, &top.keys, &keys);
        if keys.rows == 0 && !rules.dry {
            return Ok(Way::Nothing);
        }
        if adds_only && let Some(how) = mergeable(plan, &top, schema) {
            let part = over(plan, rows)?;
            return Ok(Way::Combine { keys, columns: top.columns, part, how });
        }
        return Ok(Way::Keys { keys, columns: top.columns });
    }
    let Delta::Rows { plan: rows, adds_only } = rules.delta(plan).await? else { return Ok(Way::Nothing) };
    if adds_only {
        return Ok(Way::Append(rows));
    }
    if !inexact.contains(&true) {
        return Ok(Way::Rows(rows));
    }
    // Rows computed again may differ from the stored ones in their last bits: they are known by their other columns.
    let columns: Vec<usize> = plan
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(at, field)| inexact.get(*at) == Some(&false) && storable_key(field.data_type(), schema, *at))
        .map(|(at, _)| at)
        .collect();
    if columns.is_empty() {
        return Err(Stop::Refused(Refusal("its rows have nothing to know them by but floating-point sums".to_owned())));
    }
    let outputs = rows.schema().columns();
    let exprs: Vec<Expr> = columns.iter().filter_map(|at| outputs.get(*at)).cloned().map(Expr::Column).collect();
    let keys = rules.keys(rows, &exprs).await?;
    if keys.rows == 0 && !rules.dry {
        return Ok(Way::Nothing);
    }
    Ok(Way::Keys { keys, columns })
}

/// How two results for the same group become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Merge {
    /// It is what they are grouped by.
    Same,
    /// Added.
    Sum,
    /// The lesser.
    Min,
    /// The greater.
    Max,
}

/// How each stored column combines with what the aggregate gives for rows that came, if all of them do, and do exactly.
fn mergeable(plan: &LogicalPlan, top: &Top, schema: &SchemaRef) -> Option<Vec<Merge>> {
    let LogicalPlan::Aggregate(aggregate) = &top.node else { return None };
    if top.filtered {
        return None;
    }
    let columns = aggregate.schema.columns();
    let groups = columns.get(..aggregate.group_expr.len())?;
    let fields = plan.schema().fields();
    let mut how = Vec::new();
    for (at, expr) in &top.traced {
        let field = fields.get(*at)?;
        // What is stored must be the very value.
        if schema.fields().get(*at)?.data_type() != field.data_type() {
            return None;
        }
        // What is made of the keys alone, as `window_end`, is the same for both.
        if !expr.column_refs().is_empty() && expr.column_refs().iter().all(|column| groups.contains(*column)) {
            if !keyable(field.data_type()) {
                return None;
            }
            how.push(Merge::Same);
            continue;
        }
        let column = match expr {
            Expr::Column(column) => column,
            // Digits more or fewer before the point, none behind it.
            Expr::Cast(cast) => {
                let Expr::Column(column) = cast.expr.as_ref() else { return None };
                let there = aggregate.schema.qualified_field_from_column(column).ok()?.1.data_type();
                match (there, field.data_type()) {
                    (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) if from == to => column,
                    _ => return None,
                }
            }
            _ => return None,
        };
        let place = columns.iter().position(|known| known == column)?;
        let call = aggregate.aggr_expr.get(place.checked_sub(groups.len())?)?;
        let Expr::AggregateFunction(function) = call.clone().unalias_nested().data else { return None };
        let exact = !field.data_type().is_floating() && !function.params.distinct;
        how.push(match function.func.name() {
            "count" | "sum" if exact => Merge::Sum,
            "min" if exact => Merge::Min,
            "max" if exact => Merge::Max,
            _ => return None,
        });
    }
    Some(how)
}

/// The plan with its aggregate over other rows.
fn over(plan: &LogicalPlan, rows: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    if let LogicalPlan::Aggregate(aggregate) = plan {
        let made = Aggregate::try_new(Arc::new(rows), aggregate.group_expr.clone(), aggregate.aggr_expr.clone())?;
        return Ok(LogicalPlan::Aggregate(made));
    }
    let Some(input) = plan.inputs().first().copied() else {
        return Err(DataFusionError::Internal("a plan without the aggregate it was chosen for".to_owned()));
    };
    plan.with_new_exprs(plan.expressions(), vec![over(input, rows)?])
}

/// Stored and partial results, one for each group.
fn merged(
    stored: LogicalPlan,
    part: LogicalPlan,
    schema: &SchemaRef,
    how: &[Merge],
) -> Result<LogicalPlan, DataFusionError> {
    let numbered = |plan: LogicalPlan| {
        let columns = plan.schema().columns().into_iter().enumerate();
        let exprs: Vec<Expr> = columns.map(|(at, column)| Expr::Column(column).alias(format!("c{at}"))).collect();
        LogicalPlanBuilder::from(plan).project(exprs)?.build()
    };
    let both = LogicalPlanBuilder::from(numbered(stored)?).union(numbered(part)?)?.build()?;
    let (mut groups, mut combined, mut output) = (Vec::new(), Vec::new(), Vec::new());
    for (at, how) in how.iter().enumerate() {
        let column = Expr::Column(Column::from_name(format!("c{at}")));
        let made = match how {
            Merge::Same => {
                output.push(column.clone());
                groups.push(column);
                continue;
            }
            Merge::Sum => sum(column),
            Merge::Min => min(column),
            Merge::Max => max(column),
        };
        combined.push(made.alias(format!("m{at}")));
        let wanted = schema.fields().get(at).map_or(DataType::Null, |field| field.data_type().clone());
        output.push(cast(Expr::Column(Column::from_name(format!("m{at}"))), wanted));
    }
    LogicalPlanBuilder::from(both).aggregate(groups, combined)?.project(output)?.build()
}

/// Whether a column of the result can be a key in the stored table too.
fn storable_key(data_type: &DataType, schema: &SchemaRef, at: usize) -> bool {
    keyable(data_type) && schema.fields().get(at).is_some_and(|field| field.data_type() == data_type)
}

/// An aggregate or a window whose keys are columns of the result.
struct Top {
    node: LogicalPlan,
    base: LogicalPlan,
    keys: Vec<Expr>,
    columns: Vec<usize>,
    /// Each column of the result as an expression over the aggregate or window.
    traced: Vec<(usize, Expr)>,
    /// Whether some of its rows are left out of the result.
    filtered: bool,
}

fn top(plan: &LogicalPlan, schema: &SchemaRef) -> Result<Option<Top>, DataFusionError> {
    let outputs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let mut found: Vec<(usize, Expr)> = outputs.into_iter().enumerate().collect();
    let mut at = plan;
    let mut filtered = false;
    loop {
        match at {
            LogicalPlan::Filter(_) => filtered = true,
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {}
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {}
            _ => break,
        }
        let (places, exprs): (Vec<usize>, Vec<Expr>) = found.into_iter().unzip();
        found = places.into_iter().zip(outward(at, &exprs)?).collect();
        let Some(input) = at.inputs().first().copied() else { return Ok(None) };
        at = input;
    }
    let (base, keys, visible): (LogicalPlan, Vec<Expr>, Vec<Expr>) = match at {
        LogicalPlan::Aggregate(aggregate) => {
            let visible = aggregate.schema.columns().into_iter().map(Expr::Column);
            let visible = visible.take(aggregate.group_expr.len()).collect();
            (aggregate.input.as_ref().clone(), aggregate.group_expr.clone(), visible)
        }
        LogicalPlan::Window(window) => {
            let (base, keys, _) = super::delta::stack(window);
            (base, keys.clone(), keys)
        }
        _ => return Ok(None),
    };
    let mut top =
        Top { node: at.clone(), base, keys: Vec::new(), columns: Vec::new(), traced: found.clone(), filtered };
    let fields = plan.schema().fields();
    for (key, visible) in keys.into_iter().zip(visible) {
        let place = found.iter().find(|(at, expr)| {
            *expr == visible && fields.get(*at).is_some_and(|field| storable_key(field.data_type(), schema, *at))
        });
        let Some((place, _)) = place else { return Ok(None) };
        top.keys.push(key);
        top.columns.push(*place);
    }
    Ok((!top.keys.is_empty()).then_some(top))
}

fn with_weight(schema: &SchemaRef) -> arrow::datatypes::Schema {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new(super::delta::WEIGHT, DataType::Int64, true)));
    arrow::datatypes::Schema::new(fields)
}

/// The stored rows whose `columns` are in `keys`.
fn stored_rows(
    state: &SessionState,
    table: &Table,
    schema: &SchemaRef,
    columns: &[usize],
    keys: &Kept,
) -> Result<LogicalPlan, DataFusionError> {
    let (scan, exprs) = stored(state, table, schema, columns)?;
    let keys = super::restrict::Keys { kept: keys.clone(), alias: "__sk".to_owned(), at: (0..exprs.len()).collect() };
    restrict(&scan, &exprs, &keys)
}

/// The stored rows, and some of their columns.
fn stored(
    state: &SessionState,
    table: &Table,
    schema: &SchemaRef,
    columns: &[usize],
) -> Result<(LogicalPlan, Vec<Expr>), DataFusionError> {
    let provider = table.provider(state).map_err(|e| DataFusionError::External(Box::new(e)))?;
    let scan = LogicalPlanBuilder::scan("__stored", provider_as_source(provider), None)?.build()?;
    let column = |name: &str| Expr::Column(Column::new(Some(TableReference::bare("__stored")), name));
    let exprs: Vec<Expr> =
        columns.iter().filter_map(|at| schema.fields().get(*at)).map(|field| column(field.name())).collect();
    let all: Vec<Expr> = schema.fields().iter().map(|field| column(field.name())).collect();
    Ok((LogicalPlanBuilder::from(scan).project(all)?.build()?, exprs))
}

/// Runs `plan` and gathers its rows in the stored columns, with `weight` or with the weight that they have.
async fn gather(
    state: &SessionState,
    plan: LogicalPlan,
    schema: &SchemaRef,
    weight: Option<i64>,
    keeping: &mut super::scratch::Keeping,
) -> Result<(), DataFusionError> {
    let mut rows = DataFrame::new(state.clone(), plan).execute_stream().await?;
    let full = Arc::new(with_weight(schema));
    while let Some(batch) = rows.try_next().await? {
        let n = schema.fields().len();
        let (values, weights): (_, arrow::array::ArrayRef) = match weight {
            Some(weight) => (batch.clone(), Arc::new(arrow::array::Int64Array::from(vec![weight; batch.num_rows()]))),
            None => (batch.project(&(0..n).collect::<Vec<_>>())?, Arc::clone(batch.column(n))),
        };
        let stored = to_storable(&values, schema)?;
        let mut columns = stored.columns().to_vec();
        columns.push(weights);
        keeping.add(&arrow::array::RecordBatch::try_new(Arc::clone(&full), columns)?)?;
    }
    Ok(())
}

async fn append(
    state: &SessionState,
    plan: LogicalPlan,
    table: &Table,
    schema: &SchemaRef,
    now: DateTime<Utc>,
    steps: Vec<KeyStep>,
) -> Result<Refreshed, Stop> {
    let outer = |e: crate::Error| DataFusionError::External(Box::new(e));
    let mut rows = DataFrame::new(state.clone(), plan).execute_stream().await?;
    let options = WriteOptions { file_bytes: FILE_BYTES * 4, ..WriteOptions::default() };
    let mut writer = FileWriter::new(table, Arc::clone(schema), options, now);
    while let Some(batch) = rows.try_next().await? {
        // Each row once: nothing that only adds has another weight.
        let n = schema.fields().len();
        let values = batch.project(&(0..n).collect::<Vec<_>>()).map_err(DataFusionError::from)?;
        writer.write(&to_storable(&values, schema).map_err(DataFusionError::from)?).await.map_err(outer)?;
    }
    let came = writer.rows();
    let actions = writer.finish().await.map_err(outer)?.into_iter().map(Action::Add).collect();
    Ok(Refreshed { class: Class::RowWise, actions, came, went: 0, steps, newest: None })
}
