//! Plain JSON records to Arrow rows, and rows to JSON.
//!
//! A [`Decoder`] takes one JSON object per record. Nothing is coerced: a number in quotes is a text, and a text where a
//! number is declared makes the record malformed, with its path. Missing fields and `null` are NULL; fields that no
//! column has are left out. Decimals are exact, binary is base64, times are RFC 3339 (see [`Decoder::with_zone`]).
mod read;
#[cfg(test)]
mod tests;
mod values;
mod write;

pub use read::{Decoder, Malformed};
pub(crate) use values::{Mismatch, binary, decimal, describe, double, float, int, long, text};
pub use write::{JsonWriteError, to_json};
