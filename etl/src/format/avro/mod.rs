//! Avro records to Arrow rows and back.
//!
//! A record on a topic is framed ([`frame`]): one zero byte, the id of the schema it was written with, the body. A
//! [`Decoder`] is compiled once per (writer's schema, table) and then walks bodies straight into columns. An [`Encoder`]
//! goes the other way, and [`JsonEncoder`] takes JSON as people write it.
//!
//! | Avro | column |
//! |---|---|
//! | null | string, always NULL (Delta has no column without a type) |
//! | boolean, int, long, float, double | boolean, int, bigint, real, double |
//! | string, enum, uuid | string |
//! | bytes, fixed | binary |
//! | decimal (bytes or fixed) | decimal(p, s); p over 38 is refused |
//! | date | date |
//! | time-millis, time-micros | bigint: microseconds since midnight (Delta has no time of day) |
//! | timestamp-millis, -micros, -nanos | timestamp in UTC, microseconds; nanoseconds are floored |
//! | local-timestamp-… | timestamp without zone, microseconds |
//! | duration | struct of months, days, millis (bigint each) |
//! | array, map, record | list (`element`), map (`key_value`: `key`, `value`), struct |
//! | union of null and one type, either order | that type |
//! | any other union | struct with one member per type, named by it (`string`, `long`, the name of a record); all others are NULL |
//! | a root that is no record | one column named `value` |
//!
//! Logical types that are not listed (`big-decimal` among them) are read as the type they annotate. Every column may
//! be NULL, whatever the schema says: the table outlives the field. A type that contains itself is refused, as are more
//! than [`MAX_DEPTH`] levels or [`MAX_NODES`] types.
mod arrow_schema;
mod container;
mod decode;
mod encode;
pub mod frame;
mod from_json;
mod malformed;
mod plan;
mod rows;
mod shape;
mod wire;

#[cfg(test)]
pub(crate) mod oracle;
#[cfg(test)]
mod tests;

pub use arrow_schema::arrow_schema;
pub(crate) use container::{Container, ContainerProblem};
pub use decode::Decoder;
pub(crate) use decode::Plan;
pub use encode::{EncodeError, Encoder};
pub use from_json::{JsonEncoder, JsonProblem, encode_json};
pub use malformed::{Malformed, Reason};
pub use shape::{MAX_DEPTH, MAX_NODES};
