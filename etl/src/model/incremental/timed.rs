//! The event time of a model's windows: how far it has come, and which rows are behind that.
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable as _, Filter, LogicalPlan, LogicalPlanBuilder, lit};

use super::delta::{Delta, Rules, Stop, weight};
use super::restrict::narrowed;
use crate::engine::window::{Call, Under, call_of, gap, under};

/// The windows that a result is grouped by, where that is what it is.
#[derive(Debug, Clone)]
pub(in crate::model) struct Timed {
    /// The rows, each once.
    pub(super) rows: LogicalPlan,
    /// The event time, over them.
    pub(super) time: Expr,
    /// From start to start, and of a window, in the unit of the timestamps; `None` for sessions.
    pub(super) hops: Option<(i64, i64)>,
}

/// The aggregate by windows nearest to the top of `plan`, with nothing above that takes rows together.
pub(in crate::model) fn timed(plan: &LogicalPlan) -> Option<Timed> {
    match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) => {
            timed(plan.inputs().first()?)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let tumbles = aggregate.group_expr.iter().find_map(|expr| match call_of(expr) {
                Some((Call::Tumble, [time, size])) => Some((time, size)),
                _ => None,
            });
            if let Some((time, size)) = tumbles {
                let size = gap(&time.get_type(aggregate.input.schema()).ok()?, size)?;
                let rows = aggregate.input.as_ref().clone();
                return Some(Timed { rows, time: time.clone(), hops: Some((size, size)) });
            }
            let (found, _) = under(&aggregate.input).ok()??;
            match &found {
                Under::Hop(hop) => Some(Timed {
                    rows: hop.rows.as_ref().clone(),
                    time: hop.time.clone(),
                    hops: Some((hop.slide, hop.size)),
                }),
                Under::Session(window) => {
                    let (time, _) = found.session()?;
                    Some(Timed { rows: window.input.as_ref().clone(), time, hops: None })
                }
            }
        }
        _ => None,
    }
}

/// An instant in microseconds as a timestamp of this type.
pub(super) fn instant(micros: i64, data_type: &DataType) -> Result<ScalarValue, DataFusionError> {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())).cast_to(data_type)
}

/// The newest event time of `rows`, in microseconds, rounded down; `None` without rows.
pub(in crate::model) async fn newest(
    state: &SessionState,
    rows: LogicalPlan,
    time: &Expr,
) -> Result<Option<i64>, DataFusionError> {
    let plan = LogicalPlanBuilder::from(rows).aggregate(Vec::<Expr>::new(), vec![max(time.clone())])?.build()?;
    let batches = DataFrame::new(state.clone(), plan).collect().await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let found = cast(batch.column(0), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))?;
    let found = cast(&found, &DataType::Int64)?;
    Ok(found.is_valid(0).then(|| found.as_primitive::<Int64Type>().value(0)))
}

impl Timed {
    /// The newest event time of all rows.
    pub(in crate::model) async fn newest(&self, state: &SessionState) -> Result<Option<i64>, DataFusionError> {
        newest(state, self.rows.clone(), &self.time).await
    }

    /// The end of the last window that is over at `watermark`, as a value of the event time.
    pub(super) fn over(&self, watermark: i64) -> Result<Option<ScalarValue>, DataFusionError> {
        let Some((slide, size)) = self.hops else { return Ok(None) };
        let data_type = self.time.get_type(self.rows.schema())?;
        let ScalarValue::Int64(Some(at)) = instant(watermark, &data_type)?.cast_to(&DataType::Int64)? else {
            return Ok(None);
        };
        let first = at.saturating_sub(size);
        let start = first.checked_sub(first.rem_euclid(slide)).unwrap_or(i64::MIN);
        Ok(Some(ScalarValue::Int64(Some(start.saturating_add(size))).cast_to(&data_type)?))
    }
}

impl Rules<'_> {
    /// The rows that came, without weights.
    pub(super) async fn came(&mut self, rows: &LogicalPlan) -> Result<Option<LogicalPlan>, Stop> {
        let Delta::Rows { plan, adds_only } = self.delta(rows).await? else { return Ok(None) };
        let plan = if adds_only {
            plan
        } else {
            let came = weight(&plan).gt(lit(0_i64));
            LogicalPlan::Filter(Filter::try_new(came, Arc::new(plan))?)
        };
        let columns: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        Ok(Some(LogicalPlanBuilder::from(plan).project(columns)?.build()?))
    }
}

/// `plan` over those rows only that pass `condition`, which is over the rows of its windows.
pub(super) fn over_some(plan: &LogicalPlan, condition: &Expr) -> Result<LogicalPlan, DataFusionError> {
    if let LogicalPlan::Aggregate(aggregate) = plan {
        let input = if under(&aggregate.input)?.is_some() {
            narrowed(&aggregate.input, condition)?
        } else {
            LogicalPlan::Filter(Filter::try_new(condition.clone(), Arc::clone(&aggregate.input))?)
        };
        let made = Aggregate::try_new(Arc::new(input), aggregate.group_expr.clone(), aggregate.aggr_expr.clone())?;
        return Ok(LogicalPlan::Aggregate(made));
    }
    let Some(input) = plan.inputs().first().copied() else { return Ok(plan.clone()) };
    plan.with_new_exprs(plan.expressions(), vec![over_some(input, condition)?])
}

/// The column of a result that has the windows' ends.
pub(super) fn ends(plan: &LogicalPlan) -> Option<(Column, DataType)> {
    let (relation, field) = plan.schema().iter().find(|(_, field)| field.name() == "window_end")?;
    matches!(field.data_type(), DataType::Timestamp(_, _))
        .then(|| (Column::new(relation.cloned(), field.name()), field.data_type().clone()))
}
