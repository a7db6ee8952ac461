//! Windows that are shown once: those that have become final, and the rows that came too late for one that was shown.
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Utc};
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, lit};
use deltalake::kernel::Add;
use futures::TryStreamExt as _;

use super::Refusal;
use super::delta::{Rules, Stop};
use super::input::Input;
use super::refresh::Reading;
use super::scratch::Scratch;
use super::timed::{Timed, ends, instant, newest, over_some};
use crate::engine::Engine;
use crate::error::Result;
use crate::table::{FileWriter, Table, TableName, WriteOptions, storable, to_storable};

/// The column of a late row that has the watermark it came behind.
const BEHIND: &str = "watermark";

/// Each input with the version last looked at.
pub(in crate::model) type Since = BTreeMap<TableName, (Table, u64)>;

/// A SELECT whose windows are shown once.
pub(in crate::model) struct Emitter<'a> {
    state: SessionState,
    plan: &'a LogicalPlan,
    times: &'a Timed,
    size: i64,
    end: Column,
    end_type: DataType,
}

impl<'a> Emitter<'a> {
    /// A reason if its windows cannot be shown once.
    pub(in crate::model) fn new(reading: &'a Reading, times: &'a Timed) -> Result<Self, String> {
        let Some((slide, size)) = times.hops else {
            return Err(
                "a late row can join sessions that were shown: only `tumble` and `hop` can be shown once".to_owned()
            );
        };
        if slide > size {
            return Err("its slide is longer than its size".to_owned());
        }
        let Some((end, end_type)) = ends(reading.plan()) else {
            return Err("its result has no timestamp `window_end`".to_owned());
        };
        if let Err(refusal) = &reading.inexact {
            return Err(format!("the same rows would not always give the same windows: {refusal}"));
        }
        Ok(Self { state: reading.state(), plan: reading.plan(), times, size, end, end_type })
    }

    /// The columns of late rows: those that the SELECT reads, and the watermark.
    pub(in crate::model) fn late_columns(&self) -> SchemaRef {
        let names = self.late_names();
        let fields = self.times.rows.schema().fields().iter().zip(names);
        let mut fields: Vec<_> = fields.map(|(field, name)| field.as_ref().clone().with_name(name)).collect();
        let instants = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        fields.push(arrow::datatypes::Field::new(BEHIND, instants, true));
        storable(&Schema::new(fields))
    }

    /// Names that a table can have, each once.
    fn late_names(&self) -> Vec<String> {
        let mut names: Vec<String> = vec![BEHIND.to_owned()];
        for field in self.times.rows.schema().fields() {
            let name: String = field.name().chars().map(|c| if " ,;{}()\n\t=".contains(c) { '_' } else { c }).collect();
            let mut unique = name.clone();
            let mut n = 2;
            while names.iter().any(|known| known.eq_ignore_ascii_case(&unique)) {
                unique = format!("{name}_{n}");
                n += 1;
            }
            names.push(unique);
        }
        names.split_off(1)
    }

    /// Writes the windows that end behind `after` and by `until`, which are watermarks, as files that no commit names; how
    /// many rows they have comes with them.
    pub(in crate::model) async fn windows(
        &self,
        engine: &Engine,
        (table, schema): (&Table, &SchemaRef),
        after: Option<i64>,
        until: i64,
        now: DateTime<Utc>,
    ) -> Result<(Vec<Add>, u64)> {
        let failed = |e| engine.failed(e);
        let plan = self.ended(after, until).map_err(failed)?;
        write(engine, &self.state, plan, table, schema, now).await
    }

    fn ended(&self, after: Option<i64>, until: i64) -> Result<LogicalPlan, DataFusionError> {
        let mut plan = self.plan.clone();
        let end = Expr::Column(self.end.clone());
        let mut ended = end.clone().lt_eq(lit(instant(until, &self.end_type)?));
        let mut rows = None;
        if let Some(after) = after {
            ended = ended.and(end.gt(lit(instant(after, &self.end_type)?)));
            // Of windows that end behind it, no row is a size or more before it.
            if let Some(over) = self.times.over(after)? {
                let from = crate::engine::window::plus(&over, self.size.saturating_neg());
                rows = from.map(|from| self.times.time.clone().gt_eq(lit(from)));
            }
        }
        if let Some(rows) = rows {
            plan = over_some(&plan, &rows)?;
        }
        Ok(LogicalPlan::Filter(Filter::try_new(ended, Arc::new(plan))?))
    }

    /// The newest event time of all rows, in microseconds.
    pub(in crate::model) async fn newest(&self, engine: &Engine) -> Result<Option<i64>> {
        self.times.newest(&self.state).await.map_err(|e| engine.failed(e))
    }

    /// The newest event time of the rows that came since then; or why they are not known.
    pub(in crate::model) async fn newest_since(
        &self,
        engine: &Engine,
        since: &Since,
    ) -> Result<Result<Option<i64>, Refusal>> {
        let run =
            async |came: LogicalPlan| newest(&self.state, came, &self.times.time).await.map_err(|e| engine.failed(e));
        self.came(engine, since, run).await.map(|found| found.map(Option::flatten))
    }

    /// Writes the rows that came since then and are in a window that ends by `watermark`, as files that no commit names.
    pub(in crate::model) async fn late(
        &self,
        engine: &Engine,
        since: &Since,
        watermark: i64,
        (table, schema): (&Table, &SchemaRef),
        now: DateTime<Utc>,
    ) -> Result<Result<Vec<Add>, Refusal>> {
        let run = async |came: LogicalPlan| {
            let plan = self.behind(came, watermark).map_err(|e| engine.failed(e))?;
            write(engine, &self.state, plan, table, schema, now).await
        };
        let written = self.came(engine, since, run).await?;
        Ok(written.map(|written| written.map(|(adds, _)| adds).unwrap_or_default()))
    }

    fn behind(&self, came: LogicalPlan, watermark: i64) -> Result<LogicalPlan, DataFusionError> {
        let Some(over) = self.times.over(watermark)? else {
            return Err(DataFusionError::Internal("no sizes".to_owned()));
        };
        let late = self.times.time.clone().lt(lit(over));
        let names = self.late_names();
        let columns = came.schema().columns().into_iter().zip(names);
        let mut exprs: Vec<Expr> = columns.map(|(column, name)| Expr::Column(column).alias(name)).collect();
        exprs.push(lit(ScalarValue::TimestampMicrosecond(Some(watermark), Some("UTC".into()))).alias(BEHIND));
        LogicalPlanBuilder::from(came).filter(late)?.project(exprs)?.build()
    }

    /// Hands the rows that came since then to `run`; `None` if there are none.
    async fn came<T>(
        &self,
        engine: &Engine,
        since: &Since,
        run: impl AsyncFnOnce(LogicalPlan) -> Result<T>,
    ) -> Result<Result<Option<T>, Refusal>> {
        let mut inputs = BTreeMap::new();
        for (name, (new, after)) in since {
            match Input::read(engine.lake(), name, new, *after).await? {
                Ok(input) => drop(inputs.insert(name.clone(), input)),
                Err(why) => return Ok(Err(Refusal(why))),
            }
        }
        let scratch = Scratch::new(engine.spill_dir()).map_err(|e| engine.failed(e))?;
        let mut rules = Rules {
            state: self.state.clone(),
            inputs: &inputs,
            scratch: &scratch,
            dry: false,
            steps: Vec::new(),
            reads_old: false,
            aliases: 0,
        };
        match rules.came(&self.times.rows).await {
            Ok(Some(came)) => run(came).await.map(|made| Ok(Some(made))),
            Ok(None) => Ok(Ok(None)),
            Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
            Err(Stop::Failed(error)) => Err(engine.failed(error)),
        }
    }
}

/// Runs `plan` into files that no commit names.
async fn write(
    engine: &Engine,
    state: &SessionState,
    plan: LogicalPlan,
    table: &Table,
    schema: &SchemaRef,
    now: DateTime<Utc>,
) -> Result<(Vec<Add>, u64)> {
    let failed = |e| engine.failed(e);
    let mut rows = DataFrame::new(state.clone(), plan).execute_stream().await.map_err(failed)?;
    let mut writer = FileWriter::new(table, Arc::clone(schema), WriteOptions::default(), now);
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        writer.write(&to_storable(&batch, schema).map_err(|e| failed(e.into()))?).await?;
    }
    let count = writer.rows();
    Ok((writer.finish().await?, count))
}
