//! Lake tables: Delta tables below one root, `{root}/{schema}/{table}/`.
//!
//! One commit carries rows and progress together ([`Commit`]): nothing else in the program remembers what is done.
//! Commits are written by us, as one put-if-absent of the next log file, because the outcome of a failed put is
//! *unknown* and only the caller can tell what its own commit looks like (see `commit`).
mod appended;
mod appender;
mod change;
mod checkpoint;
mod commit;
mod encoding;
mod error;
mod evolve;
mod head;
mod keeper;
mod lake;
pub mod maintain;
mod optimize;
mod origin;
mod owner;
mod publication;
mod restore;
mod snapshot;
mod sql_type;
mod stamp;
mod stats;
mod storable;
#[cfg(test)]
mod tests;
mod upsert;
mod vacuum;
mod write;

pub use appended::Appended;
pub use appender::Appender;
pub(crate) use change::{Change, Changed};
pub use checkpoint::{checkpoint, clean_log};
pub use commit::{Commit, Committed, Guard, Operation};
pub use encoding::writer_properties;
pub use error::TableError;
pub use evolve::{evolve, project};
pub(crate) use evolve::{grown, merged};
pub use keeper::{Keeper, Policies};
pub(crate) use lake::options;
pub use lake::{Lake, S3Settings, TableName};
pub use optimize::{Optimized, optimize};
pub use publication::{Publication, RolledBack, Shown, rollback};
pub use restore::{Restored, drop_table, restore};
pub(crate) use snapshot::type_name;
pub use snapshot::{Field, HistoryEntry, Table, TableFile};
pub use sql_type::{TypeNameError, parse_type};
pub use stamp::Stamp;
pub use storable::{storable, to_storable};
pub(crate) use upsert::listing;
pub use upsert::{Staged, UpsertOutcome, upsert};
pub use vacuum::{VacuumOptions, Vacuumed, vacuum};
pub(crate) use write::remove_files;
pub use write::{FileWriter, WriteOptions, write_file};
