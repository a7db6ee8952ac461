//! Functions that SQL has here beyond the engine's own.
//!
//! | function | gives |
//! |---|---|
//! | `parse_instant(text)` | a timestamp in UTC, NULL if the text is none: `2000-1-14T8:10:41` is, `2017-2-29T8:10:41` is not |
//! | `parse_date(text)` | a date, NULL if no calendar has it |
//! | `parse_price(text)` | a struct of `amount` and `currency`, NULL if the text is no price |
//! | `tumble`, `hop`, `session` | windows to group by, see [`super::window`] |
//! | `read_items('place')` | the items of a catalogue file as rows, see [`crate::format::item`] |
use std::path::PathBuf;

use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;

mod parse_price;
mod parse_time;
mod read_items;

/// Adds the functions; relative paths in SQL start at `base`, the project's folder.
pub fn register(ctx: &SessionContext, base: impl Into<PathBuf>) {
    ctx.register_udf(ScalarUDF::from(parse_price::ParsePrice::default()));
    ctx.register_udf(ScalarUDF::from(parse_time::ParseTime::instant()));
    ctx.register_udf(ScalarUDF::from(parse_time::ParseTime::date()));
    super::window::register(ctx);
    ctx.register_udtf("read_items", std::sync::Arc::new(read_items::ReadItems::new(base.into())));
}

#[cfg(test)]
mod tests;
