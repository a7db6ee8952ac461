//! Sizes of windows: intervals of a fixed length, in the unit of the timestamps.
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};

use crate::engine::EngineError;

/// What is wrong with a window function, as an error of the engine's that finds its way through DataFusion.
pub(super) fn wrong<T>(function: &'static str, why: impl Into<String>, fix: &str) -> Result<T> {
    let error = EngineError::Window { function, why: why.into(), fix: fix.to_owned() };
    Err(DataFusionError::External(Box::new(crate::Error::from(error))))
}

fn nanos_of(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// The unit of timestamps; an error for anything else.
pub(super) fn unit_of(function: &'static str, data_type: &DataType) -> Result<TimeUnit> {
    match data_type {
        DataType::Timestamp(unit, _) => Ok(*unit),
        other => wrong(
            function,
            format!("its first argument is of the type {other}, not a timestamp"),
            "give it a column of event times; `CAST(x AS TIMESTAMP)` makes one of dates and texts",
        ),
    }
}

/// The length of a literal interval in `unit`: above zero, and of whole units.
pub(super) fn length(function: &'static str, what: &str, value: Option<&ScalarValue>, unit: TimeUnit) -> Result<i64> {
    let write = "write it as `INTERVAL '15 minutes'`";
    let Some(value) = value else {
        return wrong(function, format!("its {what} is no literal interval"), write);
    };
    let (months, days, nanos) = match value {
        ScalarValue::IntervalMonthDayNano(Some(value)) => (value.months, value.days, i128::from(value.nanoseconds)),
        ScalarValue::IntervalDayTime(Some(value)) => (0, value.days, i128::from(value.milliseconds) * 1_000_000),
        ScalarValue::IntervalYearMonth(Some(months)) => (*months, 0, 0),
        ScalarValue::Null => return wrong(function, format!("its {what} is NULL"), write),
        other => {
            let kind = other.data_type();
            debug_assert!(
                !matches!(kind, DataType::Interval(IntervalUnit::MonthDayNano)) || other.is_null(),
                "all are known"
            );
            return wrong(function, format!("its {what} is of the type {kind}, not an interval"), write);
        }
    };
    if months != 0 {
        let why = format!("its {what} has months or years, which are not equally long");
        return wrong(
            function,
            why,
            "group by `date_trunc('month', ts)` for calendar months; days here are 24 hours, UTC",
        );
    }
    let nanos = i128::from(days) * 86_400_000_000_000 + nanos;
    if nanos <= 0 {
        return wrong(function, format!("its {what} is not above zero"), write);
    }
    let each = nanos_of(unit);
    if nanos % each != 0 {
        let why = format!("its {what} is finer than the timestamps, which count in {unit:?}s");
        return wrong(function, why, "use a longer one, or cast the timestamps to a finer type");
    }
    match i64::try_from(nanos / each) {
        Ok(length) => Ok(length),
        Err(_) => wrong(function, format!("its {what} is longer than timestamps reach"), "use a shorter one"),
    }
}

/// A timestamp and a length in its unit, added; `None` for anything else and beyond what timestamps reach.
pub(crate) fn plus(at: &ScalarValue, length: i64) -> Option<ScalarValue> {
    Some(match at {
        ScalarValue::TimestampSecond(Some(at), zone) => {
            ScalarValue::TimestampSecond(Some(at.checked_add(length)?), zone.clone())
        }
        ScalarValue::TimestampMillisecond(Some(at), zone) => {
            ScalarValue::TimestampMillisecond(Some(at.checked_add(length)?), zone.clone())
        }
        ScalarValue::TimestampMicrosecond(Some(at), zone) => {
            ScalarValue::TimestampMicrosecond(Some(at.checked_add(length)?), zone.clone())
        }
        ScalarValue::TimestampNanosecond(Some(at), zone) => {
            ScalarValue::TimestampNanosecond(Some(at.checked_add(length)?), zone.clone())
        }
        _ => return None,
    })
}
