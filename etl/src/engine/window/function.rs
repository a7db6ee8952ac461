//! The functions of windows.
//!
//! | function | gives |
//! |---|---|
//! | `tumble(ts, size)` | the start of the window that `ts` is in; NULL for NULL |
//! | `hop(ts, slide, size)`, `session(ts, gap)` | nothing by themselves: they stand in GROUP BY until `plan` has taken them out |
//! | `hop_starts(ts, slide, size)` | the starts of the windows that `ts` is in, the earliest first |
//! | `window_shift(ts, size)` | `ts` and the size: the end of a window that starts there |
//! | `session_start(ts, gap)` | over rows in the order of `ts`, the first time of the session that each is in |
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, ListArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LimitEffect, PartitionEvaluator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, WindowFunctionDefinition, WindowUDF, WindowUDFImpl,
};

use super::size::{length, unit_of, wrong};

/// So many windows at most may hold one instant.
const MOST: i64 = 100_000;

/// One of the scalar functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Tumble,
    Hop,
    Session,
    HopStarts,
    Shift,
}

impl Call {
    const ALL: [Self; 5] = [Self::Tumble, Self::Hop, Self::Session, Self::HopStarts, Self::Shift];

    fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble",
            Self::Hop => "hop",
            Self::Session => "session",
            Self::HopStarts => "hop_starts",
            Self::Shift => "window_shift",
        }
    }

    /// What comes behind the timestamp.
    fn lengths(self) -> &'static [&'static str] {
        match self {
            Self::Tumble | Self::Shift => &["size"],
            Self::Hop | Self::HopStarts => &["slide", "size"],
            Self::Session => &["gap"],
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    call: Call,
    signature: Signature,
}

/// The functions that a session has.
pub(super) fn all() -> impl Iterator<Item = ScalarUDF> {
    Call::ALL.into_iter().map(udf)
}

/// One function.
pub(super) fn udf(call: Call) -> ScalarUDF {
    // The count is checked with the rest: what is said then tells what is missing.
    ScalarUDF::new_from_impl(WindowFunction { call, signature: Signature::variadic_any(Volatility::Immutable) })
}

/// Which of the functions an expression calls, and with what.
pub(crate) fn call_of(expr: &Expr) -> Option<(Call, &[Expr])> {
    let Expr::ScalarFunction(function) = expr else { return None };
    let found = function.func.inner().downcast_ref::<WindowFunction>()?;
    Some((found.call, &function.args))
}

/// The lengths in `args`, in the unit of timestamps of this type.
pub(super) fn lengths(call: Call, data_type: &DataType, args: &[Expr]) -> Result<Vec<i64>> {
    let unit = unit_of(call.name(), data_type)?;
    let of = |(what, arg): (&&str, &Expr)| {
        let value = if let Expr::Literal(value, _) = arg { Some(value) } else { None };
        length(call.name(), what, value, unit)
    };
    call.lengths().iter().zip(args.iter().skip(1)).map(of).collect()
}

impl WindowFunction {
    fn checked(&self, types: &[FieldRef], scalars: &[Option<&ScalarValue>]) -> Result<(DataType, Vec<i64>)> {
        let (call, wanted) = (self.call.name(), self.call.lengths());
        if types.len() != wanted.len() + 1 {
            let why = format!("it has {} arguments and takes {}", types.len(), wanted.len() + 1);
            return wrong(call, why, &format!("write `{call}(ts, {})`", wanted.join(", ")));
        }
        let ts = types.first().map_or(DataType::Null, |field| field.data_type().clone());
        let unit = unit_of(call, &ts)?;
        let mut found = Vec::new();
        for (at, what) in wanted.iter().enumerate() {
            found.push(length(call, what, scalars.get(at + 1).copied().flatten(), unit)?);
        }
        if let (Call::Hop | Call::HopStarts, [slide, size]) = (self.call, found.as_slice())
            && size / slide > MOST
        {
            let why = format!("each instant would be in {} windows, and {MOST} are the most", size / slide);
            return wrong(call, why, "use a longer slide or a shorter size");
        }
        Ok((ts, found))
    }
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &'static str {
        self.call.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Err(DataFusionError::Internal("the type of a window needs its size".to_owned()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let (ts, _) = self.checked(args.arg_fields, args.scalar_arguments)?;
        let data_type = if self.call == Call::HopStarts { list_of(ts) } else { ts };
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalars: Vec<Option<&ScalarValue>> = args
            .args
            .iter()
            .map(|arg| if let ColumnarValue::Scalar(value) = arg { Some(value) } else { None })
            .collect();
        let (ts, lengths) = self.checked(&args.arg_fields, &scalars)?;
        let Some(first) = args.args.first() else { return Err(DataFusionError::Internal("no arguments".to_owned())) };
        let scalar = matches!(first, ColumnarValue::Scalar(_));
        let times = first.to_array(if scalar { 1 } else { args.number_rows })?;
        let times = cast(&times, &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        let made = match (self.call, lengths.as_slice()) {
            (Call::Tumble, [size]) => cast(&times.unary::<_, Int64Type>(|at| floor(at, *size)), &ts)?,
            (Call::Shift, [size]) => cast(&times.unary::<_, Int64Type>(|at| at.saturating_add(*size)), &ts)?,
            (Call::HopStarts, [slide, size]) => starts(times, *slide, *size, &ts)?,
            _ => return wrong(self.call.name(), "it stands for a window, which only GROUP BY makes", BELONGS),
        };
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?)
        } else {
            ColumnarValue::Array(made)
        })
    }
}

/// Where windows belong.
pub(super) const BELONGS: &str = "put it into GROUP BY, alone and once, and select `window_start` and `window_end`; a column of that name in FROM is written with its table";

/// The greatest multiple of `size` that is no greater than `at`; towards minus infinity, so 1969 works.
fn floor(at: i64, size: i64) -> i64 {
    at.checked_sub(at.rem_euclid(size)).unwrap_or(i64::MIN)
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// For each time `t`, all `s = k · slide` with `s <= t < s + size`; none for NULL.
fn starts(times: &Int64Array, slide: i64, size: i64, ts: &DataType) -> Result<ArrayRef> {
    let each = usize::try_from(size / slide + 1).unwrap_or(1);
    let mut values: Vec<i64> = Vec::with_capacity(times.len().saturating_mul(each));
    let mut ends: Vec<i32> = Vec::with_capacity(times.len() + 1);
    ends.push(0);
    for at in times {
        if let Some(at) = at {
            let last = floor(at, slide);
            // The first start above `at - size`.
            let mut start = floor(at.saturating_sub(size), slide).saturating_add(slide);
            while start <= last {
                values.push(start);
                let Some(next) = start.checked_add(slide) else { break };
                start = next;
            }
        }
        let end = i32::try_from(values.len());
        ends.push(end.map_err(|_| DataFusionError::Execution("too many windows in one batch".to_owned()))?);
    }
    let values = cast(&Int64Array::from(values), ts)?;
    let item = Arc::new(Field::new_list_field(ts.clone(), true));
    Ok(Arc::new(ListArray::try_new(item, OffsetBuffer::new(ScalarBuffer::from(ends)), values, None)?))
}

/// `session_start(ts, gap)`.
pub(crate) fn session_start() -> WindowUDF {
    WindowUDF::from(SessionStart { signature: Signature::any(2, Volatility::Immutable) })
}

/// Whether an expression is `session_start(…) OVER (…)`.
pub(super) fn is_session_start(expr: &Expr) -> bool {
    let Expr::WindowFunction(function) = expr.clone().unalias() else { return false };
    matches!(&function.fun, WindowFunctionDefinition::WindowUDF(udf) if udf.inner().is::<SessionStart>())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionStart {
    signature: Signature,
}

impl WindowUDFImpl for SessionStart {
    fn name(&self) -> &'static str {
        "session_start"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let field = args.input_fields().first();
        let unit = unit_of("session", field.map_or(&DataType::Null, |field| field.data_type()))?;
        Ok(Box::new(Sessions { unit }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let field = args.get_input_field(0);
        let data_type = field.map_or(DataType::Null, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(args.name(), data_type, true)))
    }

    fn limit_effect(&self, _: &[Arc<dyn datafusion::physical_plan::PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}

#[derive(Debug)]
struct Sessions {
    unit: TimeUnit,
}

impl PartitionEvaluator for Sessions {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [times, gaps] = values else { return Err(DataFusionError::Internal("no times".to_owned())) };
        if rows == 0 {
            return Ok(Arc::clone(times));
        }
        let gap = length("session", "gap", Some(&ScalarValue::try_from_array(gaps, 0)?), self.unit)?;
        let numbers = cast(times, &DataType::Int64)?;
        let mut open: Option<(i64, i64)> = None;
        let starts = numbers.as_primitive::<Int64Type>().iter().map(|at| {
            let at = at?;
            let start = match open {
                Some((start, last)) if at.saturating_sub(last) < gap => start,
                _ => at,
            };
            open = Some((start, at));
            Some(start)
        });
        Ok(cast(&starts.collect::<Int64Array>(), times.data_type())?)
    }

    fn uses_window_frame(&self) -> bool {
        false
    }
}
