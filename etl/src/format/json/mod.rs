//! Plain JSON records to Arrow rows, and rows to JSON.
//!
//! A [`Decoder`] takes one JSON object per record. Nothing is coerced: a number in quotes is a text, and a text where a
//! number is declared makes the record malformed, with its path. A number may become a double only if it is not whole or
//! is held exactly, and a bigint if it is whole, however it is written. Missing fields and `null` are NULL; fields that
//! no column has are left out; a name that is there twice makes the record malformed. Decimals are exact, binary is
//! base64, times are RFC 3339 (see [`Decoder::with_zone`]). `Growing` takes its columns from the records.
mod grow;
mod malformed;
mod plan;
mod read;
#[cfg(test)]
mod tests;
mod text;
mod values;
mod write;

pub(crate) use grow::Growing;
pub use grow::{MAX_COLUMNS, OnUnknown};
pub use malformed::Malformed;
pub(crate) use plan::{Node, Object, Plan};
pub use read::Decoder;
pub use text::MAX_NESTING;
pub(crate) use text::{Kind, Syntax, Text};
pub(crate) use values::{Mismatch, binary, decimal, describe, double, float, int, long, text};
pub use write::{JsonWriteError, to_json};
