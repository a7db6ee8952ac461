//! Schemas beside the tables they describe: a folder of the lake, so that the lake can be read on its own.
//!
//! ```text
//! {prefix}/ids/0000000001.json                         {"format":1,"id":1,"schema":"{…}"}
//! {prefix}/ids/0000000002.json                         {"format":2,"id":2,"schema":"{…}","references":[{"name":"a.B",
//!                                                       "subject":"b","version":1}],"resolved":"{…}"}
//! {prefix}/subjects/orders-value/000001.json           {"format":1,"subject":"orders-value","version":1,"id":1}
//! {prefix}/subjects/orders-value/000001.deleted.json   {"format":1}   out of sight, still to be asked for
//! {prefix}/subjects/orders-value/000001.gone.json      {"format":1}   as if it had never been
//! {prefix}/levels/all.json                             {"format":1,"level":"BACKWARD"}
//! {prefix}/levels/subjects/orders-value.json           {"format":1,"level":"FULL"}
//! ```
//!
//! Ids and versions are never changed and never removed. They are written only if they are absent, and that is what decides
//! between processes: whoever creates `ids/N` has given N its one meaning, whoever creates the next version of a subject has
//! appended it; the other starts again. A crash between the two files leaves an id without subject: harmless, the same
//! schema takes it next time. Two processes that register one schema at once may give it two ids; they never give one id to
//! two schemas. Deleting adds a mark beside the version: its number and its id are not given again.
//!
//! A schema that refers to others is kept as it was written and, `resolved`, with their types put in: what its id means
//! depends on no other file. It has format 2; what needs no more than format 1 is written as that.
//!
//! Levels are settings: the last one written holds.
//!
//! Subjects are file names: letters, digits, `_`, `-` and inner dots stand for themselves, other bytes are `=XX`.
mod add;
mod delete;
mod file;
mod level;
mod registry;

pub use registry::{Draft, EmbeddedRegistry, Entry, Stored};
