//! Sessions that a change touches, and nothing else of their groups' histories.
//!
//! Take all times of a group that were there before or are there now, and call the sessions among them *spans*. A session of
//! before, or of now, lies within one span, since with more rows sessions only grow together. So the spans that hold a changed row
//! hold all sessions that the change touches, whole, and no row outside them is less than the gap away from one inside.
//!
//! Spans are found by reading the rows around the change: as far as the gap on both sides, and farther as long as one of them
//! reaches the end of what was read.
use std::sync::Arc;

use datafusion::common::{Column, JoinConstraint, JoinType, NullEquality, TableReference};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable as _, Filter, Join, LogicalPlan, LogicalPlanBuilder, Window, lit,
};

use super::delta::{Delta, Rules, Side, Stop, unioned};
use super::proof::keyable;
use super::restrict::{Keys, restrict};
use super::scratch::Kept;
use crate::engine::window::{Under, session_start, time_of, under};

/// An aggregate by sessions.
pub(super) struct Sessions {
    /// The rows.
    base: LogicalPlan,
    /// What tells groups apart but for the session, over the rows.
    keys: Vec<Expr>,
    /// Where these are in GROUP BY.
    places: Vec<usize>,
    /// Where the session is in GROUP BY.
    place: usize,
    /// The event time, over the rows.
    time: Expr,
    gap: i64,
    /// As it was written.
    gap_expr: Expr,
}

/// What a change touches: keys, then the first and the last time of the span.
pub(super) struct Spans {
    kept: Kept,
    first: i64,
    last: i64,
}

/// Sessions below `aggregate`.
pub(super) fn sessions(aggregate: &Aggregate) -> Option<Sessions> {
    let (Under::Session(window), by) = under(&aggregate.input).ok()?? else { return None };
    let base = window.input.as_ref().clone();
    let [expr] = window.window_expr.as_slice() else { return None };
    let Expr::WindowFunction(function) = expr.clone().unalias_nested().data else { return None };
    let [time, gap_expr] = function.params.args.as_slice() else { return None };
    let column = Expr::Column(window.schema.columns().pop()?);
    let group = |expr: &Expr| by.replaced(&expr.clone().unalias_nested().data);
    let groups: Vec<Expr> = aggregate.group_expr.iter().map(group).collect::<Result<_, _>>().ok()?;
    let place = groups.iter().position(|group| *group == column)?;
    let keys = function.params.partition_by.clone();
    let places = keys.iter().map(|key| groups.iter().position(|group| group == key)).collect::<Option<_>>()?;
    let gap = crate::engine::window::gap(&time.get_type(base.schema()).ok()?, gap_expr)?;
    Some(Sessions { base, keys, places, place, time: time.clone(), gap, gap_expr: gap_expr.clone() })
}

impl Sessions {
    /// The columns of a result that hold the keys, and the one that holds the start, by those that hold GROUP BY's.
    pub(super) fn shown(&self, columns: &[usize]) -> Option<(Vec<usize>, usize)> {
        let keys = self.places.iter().map(|at| columns.get(*at).copied()).collect::<Option<_>>()?;
        Some((keys, *columns.get(self.place)?))
    }
}

/// An aggregate's input with its sessions over other rows.
fn over(input: &LogicalPlan, rows: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    if let LogicalPlan::Window(window) = input {
        return Ok(LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(rows))?));
    }
    let Some(below) = input.inputs().first().copied() else {
        return Err(DataFusionError::Internal("sessions without a window".to_owned()));
    };
    input.with_new_exprs(input.expressions(), vec![over(below, rows)?])
}

/// Those rows of `plan` whose `keys` and `time` lie in a span.
pub(super) fn within(
    plan: &LogicalPlan,
    keys: &[Expr],
    time: &Expr,
    spans: &Spans,
    alias: &str,
) -> Result<LogicalPlan, DataFusionError> {
    let n = keys.len();
    let column = |at: usize| Expr::Column(Column::new(Some(TableReference::bare(alias)), format!("c{at}")));
    let narrowed = if n == 0 {
        plan.clone()
    } else {
        let keyed = Keys { kept: spans.kept.clone(), alias: format!("{alias}k"), at: (0..n).collect() };
        restrict(plan, keys, &keyed)?
    };
    let narrowed = between(narrowed, time, spans.first, spans.last)?;
    let scan = LogicalPlanBuilder::from(spans.kept.scan()?).alias(alias)?.build()?;
    let inside = time.clone().gt_eq(column(n)).and(time.clone().lt_eq(column(n + 1)));
    Ok(LogicalPlan::Join(Join::try_new(
        Arc::new(scan),
        Arc::new(narrowed),
        (0..n).map(column).zip(keys.iter().cloned()).collect(),
        Some(inside),
        JoinType::RightSemi,
        JoinConstraint::On,
        NullEquality::NullEqualsNull,
        false,
    )?))
}

/// The rows with a time from `first` to `last`, both included.
fn between(plan: LogicalPlan, time: &Expr, first: i64, last: i64) -> Result<LogicalPlan, DataFusionError> {
    let data_type = time.get_type(plan.schema())?;
    let condition =
        time.clone().gt_eq(lit(time_of(&data_type, first)?)).and(time.clone().lt_eq(lit(time_of(&data_type, last)?)));
    Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?))
}

impl Rules<'_> {
    /// The spans that a change of the rows touches; `None` if there are none.
    pub(super) async fn spans(&mut self, plan: &LogicalPlan, sessions: &Sessions) -> Result<Option<Spans>, Stop> {
        let Delta::Rows { plan: rows, .. } = self.delta(&sessions.base).await? else { return Ok(None) };
        let n = sessions.keys.len();
        for key in &sessions.keys {
            let data_type = key.get_type(rows.schema())?;
            if !keyable(&data_type) {
                return Err(super::Refusal(format!("`{key}` is of the type {data_type}, which cannot be a key")).into());
            }
        }
        let mut exprs = sessions.keys.clone();
        exprs.push(sessions.time.clone());
        let changed = if self.dry {
            let times = [sessions.time.clone(), sessions.time.clone()];
            let exprs = sessions.keys.iter().cloned().chain(times).enumerate();
            let exprs: Vec<Expr> = exprs.map(|(at, expr)| expr.alias(format!("c{at}"))).collect();
            let plan = LogicalPlanBuilder::from(rows).project(exprs)?.build()?;
            self.scratch.nothing(&plan)?
        } else {
            self.keys(rows, &exprs).await?
        };
        exprs.pop();
        exprs.push(Expr::Column(Column::from_name("session")));
        if self.dry {
            self.note(plan, &exprs, &changed);
            return Ok(Some(Spans { kept: changed, first: 0, last: 0 }));
        }
        let Some((low, high)) = changed.span(n) else { return Ok(None) };
        let column = |at: usize| Expr::Column(Column::from_name(format!("c{at}")));
        let keys: Vec<Expr> = (0..n).map(column).collect();
        let new = self.image(&sessions.base, Side::New)?;
        let new = if n == 0 {
            new
        } else {
            let scan = changed.scan()?;
            let keys = self.keys(scan, &keys).await?;
            self.restricted(&new, &sessions.keys, &keys)?
        };
        let (mut below, mut above) = (sessions.gap, sessions.gap);
        loop {
            let (from, to) = (low.saturating_sub(below), high.saturating_add(above));
            let read = between(new.clone(), &sessions.time, from, to)?;
            let mut shown: Vec<Expr> = sessions.keys.clone();
            shown.push(sessions.time.clone());
            shown.push(lit(0_i64));
            let shown: Vec<Expr> =
                shown.into_iter().enumerate().map(|(at, expr)| expr.alias(format!("c{at}"))).collect();
            let read = LogicalPlanBuilder::from(read).project(shown)?.build()?;
            let mut marked: Vec<Expr> = (0..=n).map(|at| column(at).alias(format!("c{at}"))).collect();
            marked.push(lit(1_i64).alias(format!("c{}", n + 1)));
            let fresh = LogicalPlanBuilder::from(changed.scan()?).project(marked)?.build()?;
            let mut function =
                WindowFunction::new(Arc::new(session_start()), vec![column(n), sessions.gap_expr.clone()]);
            function.params.partition_by.clone_from(&keys);
            function.params.order_by = vec![column(n).sort(true, false)];
            let window = Expr::from(function).alias("__s");
            let both = Window::try_new(vec![window], Arc::new(unioned(vec![read, fresh])?))?;
            let start = Expr::Column(Column::from_name("__s"));
            let mut groups = keys.clone();
            groups.push(start.clone());
            let ends = [max(column(n)).alias("__e"), max(column(n + 1)).alias("__f")];
            let mut shown = keys.clone();
            shown.extend([start, Expr::Column(Column::from_name("__e"))]);
            let spans = LogicalPlanBuilder::from(LogicalPlan::Window(both))
                .aggregate(groups, ends)?
                .filter(Expr::Column(Column::from_name("__f")).eq(lit(1_i64)))?
                .project(shown)?
                .build()?;
            let kept = self.scratch.keep(&self.state, spans).await?;
            let (Some((first, _)), Some((_, last))) = (kept.span(n), kept.span(n + 1)) else { return Ok(None) };
            // A row that was not read could be less than the gap away.
            let more_below = first.saturating_sub(from) < sessions.gap && from > i64::MIN;
            let more_above = to.saturating_sub(last) < sessions.gap && to < i64::MAX;
            if !more_below && !more_above {
                self.note(plan, &exprs, &kept);
                return Ok(Some(Spans { kept, first, last }));
            }
            let wider = |reach: i64| reach.saturating_mul(4).max(reach.saturating_add(high.saturating_sub(low)));
            below = if more_below { wider(below) } else { below };
            above = if more_above { wider(above) } else { above };
        }
    }

    /// The rows that an aggregate by sessions takes together, as they were or are within spans.
    pub(super) fn spanned(
        &mut self,
        aggregate: &Aggregate,
        sessions: &Sessions,
        spans: &Spans,
        side: Side,
    ) -> Result<LogicalPlan, Stop> {
        let rows = self.image(&sessions.base, side)?;
        let alias = self.alias();
        let rows = within(&rows, &sessions.keys, &sessions.time, spans, &alias)?;
        Ok(over(&aggregate.input, rows)?)
    }

    /// The change of an aggregate by sessions: those within the touched spans, before and after.
    pub(super) async fn by_sessions(
        &mut self,
        plan: &LogicalPlan,
        aggregate: &Aggregate,
        sessions: &Sessions,
    ) -> Result<Delta, Stop> {
        let Some(spans) = self.spans(plan, sessions).await? else { return Ok(Delta::Same) };
        let mut sides = Vec::new();
        for side in [Side::Old, Side::New] {
            let input = self.spanned(aggregate, sessions, &spans, side)?;
            let made = Aggregate::try_new(Arc::new(input), aggregate.group_expr.clone(), aggregate.aggr_expr.clone())?;
            sides.push(LogicalPlan::Aggregate(made));
        }
        let (Some(after), Some(before)) = (sides.pop(), sides.pop()) else { return Ok(Delta::Same) };
        self.difference(before, after, plan.schema()).await
    }
}
