//! A model's table against all of its SELECT, row by row.
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt as _;
use serde::Serialize;

use super::scratch::{Keeping, Kept, Scratch};
use crate::engine::{Engine, Rows, row_digest};
use crate::error::Result;
use crate::model::build::{opened, planned};
use crate::model::emission::Emission;
use crate::model::error::ModelError;
use crate::model::project::{Materialization, Model, Project};
use crate::table::{Table, TableName, storable, to_storable};

/// How far apart two floating-point numbers may be, in parts of the larger.
const TOLERANCE: f64 = 1e-9;
/// How many rows of each side are kept to be shown.
const SAMPLE: usize = 5;

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The model.
    pub model: String,
    /// The version of its table that was looked at.
    pub version: u64,
    /// The versions of its inputs that it was made from.
    pub inputs: BTreeMap<String, u64>,
    /// Rows in the table.
    pub rows: u64,
    /// Rows that the SELECT gives and the table lacks.
    pub missing: u64,
    /// Rows of the table that the SELECT does not give.
    pub surplus: u64,
    /// The first of the missing, to be shown.
    #[serde(skip)]
    pub missing_rows: Option<RecordBatch>,
    /// The first of the surplus.
    #[serde(skip)]
    pub surplus_rows: Option<RecordBatch>,
}

impl Verified {
    /// Whether both are the same.
    pub fn equal(&self) -> bool {
        self.missing == 0 && self.surplus == 0
    }
}

/// Compares the table of `model` with its SELECT over the versions of the inputs that the table was made from, as
/// multisets: NULL equals NULL, NaN equals NaN, floating-point numbers within 1e-9 of the larger, all else exactly.
///
/// `other` gives the rows of the SELECT from elsewhere, over the newest versions of the inputs.
///
/// # Errors
/// [`ModelError::Unbuilt`] if there is no table or it does not say what it was made from; [`ModelError::Emission`] for one
/// with `emit='append'`; a
/// [`TableError`](crate::table::TableError) if one of those versions is gone.
pub async fn verify(engine: &Engine, project: &Project, model: &Model, other: Option<Rows>) -> Result<Verified> {
    let unbuilt = || ModelError::Unbuilt { model: model.name.clone() };
    if matches!(model.materialization, Materialization::View | Materialization::Snapshot) {
        return Err(unbuilt().into());
    }
    if Emission::read(&model.config).is_ok_and(|emission| emission.append) {
        let why = "it shows each window once, so its table depends on the order in which rows came".to_owned();
        return Err(ModelError::Emission { model: model.name.clone(), file: model.file.clone(), why }.into());
    }
    let table = engine.lake().try_table(&model.table).await?.ok_or_else(unbuilt)?;
    let mut inputs: BTreeMap<TableName, Table> = BTreeMap::new();
    for (name, newest) in opened(engine, project, model).await? {
        let read = table.txn(&format!("{}/{name}", model.name)).await?.ok_or_else(unbuilt)?;
        let read = u64::try_from(read).unwrap_or_default();
        let then = if read == newest.version() { newest } else { engine.lake().table_at(&name, read).await? };
        inputs.insert(name, then);
    }
    let reading = planned(engine, model, &inputs).await?;
    let schema = storable(reading.plan.schema().as_arrow());
    let failed = |e: DataFusionError| engine.failed(e);
    let scratch = Scratch::new(engine.spill_dir()).map_err(failed)?;
    let state = reading.session.context().state();
    let expected = match other {
        Some(rows) => rows.into_stream(),
        None => DataFrame::new(state.clone(), reading.plan.clone()).execute_stream().await.map_err(failed)?,
    };
    let expected = kept(&scratch, &schema, expected).await.map_err(failed)?;
    let provider = table.provider(&state)?;
    let stored =
        LogicalPlanBuilder::scan("stored", provider_as_source(provider), None).and_then(LogicalPlanBuilder::build);
    let stored = DataFrame::new(state.clone(), stored.map_err(failed)?).execute_stream().await.map_err(failed)?;
    let stored = kept(&scratch, &schema, stored).await.map_err(failed)?;
    let mut found = Verified {
        model: model.name.clone(),
        version: table.version(),
        inputs: inputs.iter().map(|(name, table)| (name.to_string(), table.version())).collect(),
        rows: stored.rows,
        missing: 0,
        surplus: 0,
        missing_rows: None,
        surplus_rows: None,
    };
    compare(&state, &schema, &expected, &stored, &mut found).await.map_err(failed)?;
    Ok(found)
}

/// The rows in the stored columns.
async fn kept(
    scratch: &Scratch,
    schema: &SchemaRef,
    mut rows: SendableRecordBatchStream,
) -> Result<Kept, DataFusionError> {
    let mut keeping: Keeping = scratch.begin(schema);
    while let Some(batch) = rows.try_next().await? {
        if batch.num_columns() != schema.fields().len() {
            return Err(DataFusionError::Execution("the table has other columns than the SELECT".to_owned()));
        }
        keeping.add(&to_storable(&batch, schema)?)?;
    }
    keeping.done()
}

/// Rows in the order of the digest of their exact columns, then of their floating-point ones.
fn sorted(kept: &Kept, schema: &SchemaRef) -> Result<LogicalPlan, DataFusionError> {
    let scan = kept.scan()?;
    let columns: Vec<Expr> = scan.schema().columns().into_iter().map(Expr::Column).collect();
    let (mut exact, mut floats) = (Vec::new(), Vec::new());
    for (column, field) in columns.iter().zip(schema.fields()) {
        if field.data_type().is_floating() { floats.push(column.clone()) } else { exact.push(column.clone()) }
    }
    let digest = if exact.is_empty() {
        row_digest().call(vec![datafusion::logical_expr::lit(0_i64)])
    } else {
        row_digest().call(exact)
    };
    let mut order = vec![Expr::Column(datafusion::common::Column::from_name("__d")).sort(true, false)];
    order.extend(floats.into_iter().map(|float| float.sort(true, false)));
    let mut selected = columns;
    selected.push(digest.alias("__d"));
    LogicalPlanBuilder::from(scan).project(selected)?.sort(order)?.build()
}

async fn compare(
    state: &SessionState,
    schema: &SchemaRef,
    expected: &Kept,
    stored: &Kept,
    found: &mut Verified,
) -> Result<(), DataFusionError> {
    let mut left = Groups::open(state, expected, schema).await?;
    let mut right = Groups::open(state, stored, schema).await?;
    let (mut one, mut two) = (left.next().await?, right.next().await?);
    loop {
        let order = match (&one, &two) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => one.digest.cmp(&two.digest),
        };
        match order {
            Ordering::Less => {
                if let Some(group) = one {
                    note(
                        &group.rows,
                        (0..group.floats.len()).collect(),
                        schema,
                        &mut found.missing,
                        &mut found.missing_rows,
                    )?;
                }
                one = left.next().await?;
            }
            Ordering::Greater => {
                if let Some(group) = two {
                    note(
                        &group.rows,
                        (0..group.floats.len()).collect(),
                        schema,
                        &mut found.surplus,
                        &mut found.surplus_rows,
                    )?;
                }
                two = right.next().await?;
            }
            Ordering::Equal => {
                if let (Some(one), Some(two)) = (&one, &two) {
                    let (missing, surplus) = unmatched(&one.floats, &two.floats);
                    note(&one.rows, missing, schema, &mut found.missing, &mut found.missing_rows)?;
                    note(&two.rows, surplus, schema, &mut found.surplus, &mut found.surplus_rows)?;
                }
                (one, two) = (left.next().await?, right.next().await?);
            }
        }
    }
}

fn note(
    rows: &RecordBatch,
    which: Vec<usize>,
    schema: &SchemaRef,
    count: &mut u64,
    sample: &mut Option<RecordBatch>,
) -> Result<(), DataFusionError> {
    if which.is_empty() {
        return Ok(());
    }
    *count += which.len() as u64;
    if sample.as_ref().is_some_and(|rows| rows.num_rows() >= SAMPLE) {
        return Ok(());
    }
    let which: arrow::array::UInt64Array = which.into_iter().take(SAMPLE).map(|at| at as u64).collect();
    let columns = arrow::compute::take_arrays(&rows.columns()[..schema.fields().len()], &which, None)?;
    let rows = RecordBatch::try_new(Arc::clone(schema), columns)?;
    *sample = Some(match sample.take() {
        Some(before) => arrow::compute::concat_batches(schema, [&before, &rows])?,
        None => rows,
    });
    Ok(())
}

/// Pairs rows off whose numbers are near; gives the places of those left on each side.
fn unmatched(one: &[Vec<Option<f64>>], two: &[Vec<Option<f64>>]) -> (Vec<usize>, Vec<usize>) {
    if one.len() == two.len() && one.iter().zip(two).all(|(one, two)| near(one, two)) {
        return (Vec::new(), Vec::new());
    }
    let mut free: Vec<usize> = (0..two.len()).collect();
    let mut missing = Vec::new();
    for (at, row) in one.iter().enumerate() {
        match free.iter().position(|other| two.get(*other).is_some_and(|other| near(row, other))) {
            Some(found) => drop(free.remove(found)),
            None => missing.push(at),
        }
    }
    (missing, free)
}

fn near(one: &[Option<f64>], two: &[Option<f64>]) -> bool {
    one.iter().zip(two).all(|(one, two)| match (one, two) {
        (None, None) => true,
        (Some(one), Some(two)) => {
            // Infinities are equal to themselves, and apart from all else.
            one.total_cmp(two).is_eq()
                || (one.is_nan() && two.is_nan())
                || ((one - two).abs() <= TOLERANCE * one.abs().max(two.abs()) && one.is_finite() && two.is_finite())
        }
        _ => false,
    })
}

/// Rows whose exact columns are equal.
struct Group {
    digest: Vec<u8>,
    rows: RecordBatch,
    floats: Vec<Vec<Option<f64>>>,
}

/// The sorted rows, group by group.
struct Groups {
    rows: SendableRecordBatchStream,
    held: Option<RecordBatch>,
    columns: usize,
    floating: Vec<usize>,
}

impl Groups {
    async fn open(state: &SessionState, kept: &Kept, schema: &SchemaRef) -> Result<Self, DataFusionError> {
        let rows = DataFrame::new(state.clone(), sorted(kept, schema)?).execute_stream().await?;
        let floating =
            schema.fields().iter().enumerate().filter(|(_, f)| f.data_type().is_floating()).map(|(at, _)| at);
        Ok(Self { rows, held: None, columns: schema.fields().len(), floating: floating.collect() })
    }

    async fn more(&mut self) -> Result<bool, DataFusionError> {
        while let Some(batch) = self.rows.try_next().await? {
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = with_binary(&batch, self.columns)?;
            self.held = Some(match self.held.take() {
                Some(held) if held.num_rows() > 0 => arrow::compute::concat_batches(&batch.schema(), [&held, &batch])?,
                _ => batch,
            });
            return Ok(true);
        }
        Ok(false)
    }

    async fn next(&mut self) -> Result<Option<Group>, DataFusionError> {
        if self.held.as_ref().is_none_or(|held| held.num_rows() == 0) && !self.more().await? {
            return Ok(None);
        }
        loop {
            let Some(held) = &self.held else { return Ok(None) };
            let digests = held.column(self.columns).as_binary::<i32>();
            let first = digests.value(0).to_vec();
            let end = (0..held.num_rows()).find(|at| digests.value(*at) != first.as_slice());
            let end = match end {
                Some(end) => end,
                None if self.more().await? => continue,
                None => self.held.as_ref().map_or(0, RecordBatch::num_rows),
            };
            let Some(held) = self.held.take() else { return Ok(None) };
            let rows = held.slice(0, end);
            self.held = Some(held.slice(end, held.num_rows() - end));
            let floats = floats(&rows, &self.floating);
            return Ok(Some(Group { digest: first, rows, floats }));
        }
    }
}

/// The batch with the column at `at` as plain bytes.
fn with_binary(batch: &RecordBatch, at: usize) -> Result<RecordBatch, DataFusionError> {
    let (schema, mut columns, _) = batch.clone().into_parts();
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    if let (Some(column), Some(field)) = (columns.get_mut(at), fields.get_mut(at)) {
        *column = arrow::compute::cast(column, &DataType::Binary)?;
        *field = Arc::new(field.as_ref().clone().with_data_type(DataType::Binary));
    }
    Ok(RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns)?)
}

fn floats(rows: &RecordBatch, which: &[usize]) -> Vec<Vec<Option<f64>>> {
    let mut out = vec![Vec::with_capacity(which.len()); rows.num_rows()];
    for at in which {
        let column = rows.column(*at);
        for (row, values) in out.iter_mut().enumerate() {
            let value = column.is_valid(row).then(|| match column.data_type() {
                DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
                _ => column.as_primitive::<Float64Type>().value(row),
            });
            values.push(value);
        }
    }
    out
}
