//! Topics in Apache Kafka, by librdkafka.
//!
//! What exactly-once rests on is set here and cannot be changed by a connection's properties:
//!
//! | reading | writing |
//! |---|---|
//! | `assign()`, never a group: start positions come from our tables | `enable.idempotence`, `acks=all` |
//! | `auto.offset.reset=error`: a deleted position is an incident, never a jump | the Java client's partitioner |
//! | `isolation.level=read_committed`: aborted steps are invisible | `transactional.id = tidemill-{publisher}` |
//! | `enable.auto.commit=false`, `enable.auto.offset.store=false` | progress in `_tidemill.progress`, same transaction |
//!
//! librdkafka blocks, so every call runs off the async threads; every wait has an end.
mod batch;
mod client;
mod heard;
mod member;
mod producer;
mod publisher;
mod settings;
mod source;

#[cfg(test)]
mod tests;

pub use client::KafkaBroker;
pub use settings::KafkaSettings;
