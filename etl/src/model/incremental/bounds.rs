//! What a column must lie between for a row to have one of some keys: a condition that the storage can skip files by.
use std::cmp::Ordering;

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable as _, lit};

use super::restrict::Keys;
use crate::engine::window::{Call, call_of, gap, plus};

/// A condition that every row of `schema` passes whose `exprs` are among `keys`; `None` if none is known.
pub(super) fn bounded(exprs: &[Expr], keys: &Keys, schema: &DFSchema) -> Option<Expr> {
    let conditions = exprs.iter().zip(&keys.at).filter_map(|(expr, at)| between(expr, keys.kept.ends(*at)?, schema));
    conditions.reduce(Expr::and)
}

fn between(expr: &Expr, (low, high, nulls): (ScalarValue, ScalarValue, bool), schema: &DFSchema) -> Option<Expr> {
    match expr {
        Expr::Column(_) => {
            let inside = expr.clone().gt_eq(lit(low)).and(expr.clone().lt_eq(lit(high)));
            Some(if nulls { inside.or(expr.clone().is_null()) } else { inside })
        }
        _ if nulls => None,
        // A day begins at its midnight.
        Expr::Cast(cast) if cast.field.data_type() == &DataType::Date32 => {
            let column = cast.expr.as_ref();
            let Expr::Column(_) = column else { return None };
            let there = column.get_type(schema).ok()?;
            let DataType::Timestamp(_, _) = there else { return None };
            let ScalarValue::Date32(Some(last)) = high else { return None };
            let after = ScalarValue::Date32(Some(last.checked_add(1)?));
            let from = lit(low).cast_to(&there, schema).ok()?;
            let to = lit(after).cast_to(&there, schema).ok()?;
            Some(column.clone().gt_eq(from).and(column.clone().lt(to)))
        }
        // Both give the beginning of what a time is in, so no time is before it.
        Expr::ScalarFunction(function) if matches!(function.name(), "date_bin" | "date_trunc") => {
            let column = function.args.get(1)?;
            let Expr::Column(_) = column else { return None };
            (column.get_type(schema).ok()? == low.data_type()).then(|| column.clone().gt_eq(lit(low)))
        }
        Expr::ScalarFunction(_) => {
            let (column, size) = tumbling(expr, schema)?;
            let Expr::Column(_) = column else { return None };
            Some(spanning(column, low, &high, size))
        }
        _ => None,
    }
}

/// The time that a tumbling window is of, and its size in the unit of timestamps.
fn tumbling<'e>(expr: &'e Expr, schema: &DFSchema) -> Option<(&'e Expr, i64)> {
    let (Call::Tumble, [time, size]) = call_of(expr)? else { return None };
    Some((time, gap(&time.get_type(schema).ok()?, size)?))
}

/// `time` is in a window of this size that starts from `low` to `high`.
pub(super) fn spanning(time: &Expr, low: ScalarValue, high: &ScalarValue, size: i64) -> Expr {
    let from = time.clone().gt_eq(lit(low));
    match plus(high, size) {
        Some(end) => from.and(time.clone().lt(lit(end))),
        None => from,
    }
}

/// The lowest and the highest value; `None` if there is none, or they have no order here.
pub(super) fn ends(values: &ArrayRef) -> Option<(ScalarValue, ScalarValue)> {
    let mut found: Option<(ScalarValue, ScalarValue)> = None;
    for at in (0..values.len()).filter(|at| values.is_valid(*at)) {
        let value = ScalarValue::try_from_array(values, at).ok()?;
        let Some((low, high)) = &mut found else {
            found = Some((value.clone(), value));
            continue;
        };
        match value.partial_cmp(low)? {
            Ordering::Less => *low = value,
            Ordering::Equal => {}
            Ordering::Greater => {
                if value.partial_cmp(high)? == Ordering::Greater {
                    *high = value;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int32Array;

    use super::*;

    #[test]
    fn the_ends_of_values_leave_nulls_out() {
        let values: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(3), Some(-7), None, Some(5)]));

        assert_eq!(ends(&values), Some((ScalarValue::Int32(Some(-7)), ScalarValue::Int32(Some(5)))));
        assert_eq!(ends(&(Arc::new(Int32Array::from(vec![None::<i32>])) as ArrayRef)), None);
    }
}
