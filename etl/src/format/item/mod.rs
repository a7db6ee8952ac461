//! The catalogue format: a dump of items with flattened attributes, such as `Movies.txt`.
//!
//! [`Cutter`] cuts bytes into blocks of whole items, [`parse_block`] reads the items of a block, [`RowBuilder`] makes
//! Arrow rows of them, and [`ItemReader`] does all of it over a file of any size, in order, with bounded memory.
//! [`Parser`] is the same without Arrow, for one thread.
mod cut;
mod error;
mod parse;
mod price;
mod read;
mod rows;

pub use cut::{Block, Cutter, Limits};
pub use error::{ItemError, Problem};
pub use parse::{Attribute, Item, Junk, Parser, Reason, Tally, parse_block};
pub use price::{Currency, Price, PriceProblem, Written, parse_price};
pub use read::{ItemBatch, ItemReader, Progress, ReadOptions};
pub use rows::{Rejected, RowBuilder, RowLimits, item_schema};

#[cfg(test)]
mod tests;
