//! Debezium's envelopes: what became of a row in a database, as connectors write it to topics.
//!
//! A record is `before`, `after`, `op`, `source`, times and perhaps a transaction. Its row has the columns of `after`, of
//! `before` for a deletion, and of `message` for a logical message; a truncation has none of them and is a row of NULLs.
//! Beside them it has what [`meta_fields`] says.
//!
//! | a connector's type | column |
//! |---|---|
//! | boolean; int8, int16, int32; int64; float; double; string | boolean; integer; bigint; real; double; text |
//! | bytes, `io.debezium.data.Bits` | binary |
//! | `io.debezium.time.Date`, `org.apache.kafka.connect.data.Date` | date |
//! | `…time.Timestamp`, `MicroTimestamp`, `NanoTimestamp` | timestamp without time zone, as the database has it |
//! | `org.apache.kafka.connect.data.Timestamp`, `…time.ZonedTimestamp` | timestamp; the latter is text in Avro |
//! | `…time.Time`, `MicroTime`, `NanoTime`, `org.apache.kafka.connect.data.Time` | bigint: microseconds since midnight |
//! | `org.apache.kafka.connect.data.Decimal` | decimal(p, s), p being 38 where the schema has none |
//! | `io.debezium.data.VariableScaleDecimal` | text: the exact number; in Avro a struct of `scale` and `value` |
//! | every other name | as its type |
//! | array, map with text keys, struct | list, map, struct |
//!
//! Nanoseconds are floored to microseconds, but for `NanoTime` in Avro, which stays what it is. In JSON without schemas there are no types to go by: columns are declared, or
//! taken from the values by the rules of [`super::json`].
mod connect;
mod envelope;
mod meta;

pub(crate) use connect::{Connect, of_envelope};
pub(crate) use envelope::{Envelope, Unreadable};
pub(crate) use meta::{Event, Meta, meta_fields, without_unavailable};
