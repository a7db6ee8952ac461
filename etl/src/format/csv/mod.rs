//! CSV records, poison-safe: a record that cannot be read costs the line it begins on, and no other.
//!
//! RFC 4180: cells may be in quotes, and then hold delimiters, line breaks and doubled quotes. A quote that is never
//! closed, or closed in the middle of a cell, would swallow what follows: such a record is taken as the one line it
//! begins on, and reading goes on with the line after it.
mod cell;
mod nested;
mod split;

pub(crate) use cell::{append, double, exact_double, whole};
pub use split::Dialect;
pub(crate) use split::{Cells, Found, Splitter};
