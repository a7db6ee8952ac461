//! Topics in Apache Kafka.
