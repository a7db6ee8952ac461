//! Files as a stream: each file of a listing becomes rows of one table, once.
//!
//! A file is remembered in the table's own txns, as `{stream}/{name}` with a number for its content (size and time of
//! change, or size and tag in an object store). The rows of a file and its txn are in one commit; small files share
//! one. Types of new columns come from the first rows of the file that has them first (`infer_rows`); a column that is
//! there never changes its type, and what does not fit it is a dead letter.
//!
//! ```text
//! list ──► fetch ──► unpack ──► csv | jsonl | typed ──► stage ──► dead letters, then rows and txns in one commit
//!          ranges    gz, zstd   rows and bad rows       Parquet parts that no commit names yet
//! ```
//! What stands in no commit is not there: a crash leaves Parquet parts that nobody names, and the file is read again.
mod batch;
mod csv;
mod error;
mod fetch;
mod jsonl;
mod land;
mod list;
mod read;
mod stage;
mod target;
#[cfg(test)]
mod tests;
mod typed;

pub use error::FilesError;
pub use land::{CsvOptions, FileLimits, Files, LandedFiles, OnBadFile, OnChange, land_files};
pub use list::Order;
pub use read::{Encoding, Format};
pub use target::OnUnknown;
