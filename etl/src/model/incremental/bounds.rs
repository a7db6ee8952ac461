//! What a column must lie between for a row to have one of some keys: a condition that the storage can skip files by.
use std::cmp::Ordering;

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable as _, lit};

use super::restrict::Keys;

/// A condition that every row of `schema` passes whose `exprs` are among `keys`; `None` if none is known.
pub(super) fn bounded(exprs: &[Expr], keys: &Keys, schema: &DFSchema) -> Option<Expr> {
    let small = keys.kept.small.as_ref()?;
    let conditions =
        exprs.iter().zip(&keys.at).filter_map(|(expr, at)| between(expr, small.columns().get(*at)?, schema));
    conditions.reduce(Expr::and)
}

fn between(expr: &Expr, keys: &ArrayRef, schema: &DFSchema) -> Option<Expr> {
    let (low, high) = ends(keys)?;
    match expr {
        Expr::Column(_) => {
            let inside = expr.clone().gt_eq(lit(low)).and(expr.clone().lt_eq(lit(high)));
            Some(if keys.null_count() > 0 { inside.or(expr.clone().is_null()) } else { inside })
        }
        _ if keys.null_count() > 0 => None,
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
        _ => None,
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
