//! Where the brokers are and how to log in.
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::topic::BrokerError;

/// Properties that exactly-once rests on, or that say what a client is.
const OURS: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "isolation.level",
    "metadata.broker.list",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

/// A connection to Kafka. `Debug` shows names of properties, never their values.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Properties of librdkafka passed on as they are: `security.protocol`, `sasl.…`, `ssl.…`, and so on.
    pub properties: BTreeMap<String, String>,
    /// How long to wait for a broker that does not answer.
    pub timeout: Duration,
    /// About how many bytes a reader fetches ahead, and a writer holds back.
    pub memory: usize,
}

impl KafkaSettings {
    /// Makes settings for `host:port,host:port`; a leading `kafka://` is taken off.
    pub fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.strip_prefix("kafka://").unwrap_or(brokers).trim_end_matches('/').to_owned(),
            properties: BTreeMap::new(),
            timeout: Duration::from_secs(10),
            // Twice librdkafka's batch of 1 MB for each of 32 partitions.
            memory: 64 << 20,
        }
    }

    /// Adds one property.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.properties.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Returns the biggest record a producer takes.
    pub(super) fn max_record(&self) -> usize {
        self.properties.get("message.max.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(1_000_000)
    }

    /// Returns what all clients have in common.
    pub(super) fn base(&self) -> Result<ClientConfig, BrokerError> {
        let mut config = ClientConfig::new();
        config.set("client.id", "tidemill");
        for (key, value) in &self.properties {
            if OURS.contains(&key.as_str()) {
                let cause = "Tidemill sets it, for exactly-once rests on it".to_owned();
                return Err(BrokerError::Property { key: key.clone(), cause });
            }
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Info);
        Ok(config)
    }

    /// Returns a reader's properties.
    pub(super) fn consumer(&self, isolation: &str) -> Result<ClientConfig, BrokerError> {
        let mut config = self.base()?;
        for (key, value) in [
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", isolation),
        ] {
            config.set(key, value);
        }
        Ok(config)
    }

    /// Returns a fetching reader's properties.
    pub(super) fn fetching(&self) -> Result<ClientConfig, BrokerError> {
        let mut config = self.consumer("read_committed")?;
        if !self.properties.contains_key("group.id") {
            // librdkafka wants a name even where no group is joined and nothing is committed.
            config.set("group.id", "tidemill");
        }
        // Defaults stall a full queue for a second each time.
        config.set("fetch.queue.backoff.ms", "10");
        // Of each partition. A small record takes several times its size in the client: with more of them it would be the
        // client that fills the memory, and it would not be quicker.
        config.set("queued.min.messages", "20000");
        config.set("queued.max.messages.kbytes", (self.memory >> 10).clamp(1, 2_097_151).to_string());
        Ok(config)
    }

    /// Returns a writer's properties.
    pub(super) fn producer(&self) -> Result<ClientConfig, BrokerError> {
        let mut config = self.base()?;
        for (key, value) in [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("partitioner", "murmur2_random"),
            ("queue.buffering.max.messages", "1000000"),
        ] {
            config.set(key, value);
        }
        if !self.properties.contains_key("linger.ms") {
            config.set("linger.ms", "5");
        }
        if !self.properties.contains_key("delivery.timeout.ms") {
            config.set("delivery.timeout.ms", "30000");
        }
        config.set("queue.buffering.max.kbytes", (self.memory >> 10).clamp(1_024, 2_147_483_647).to_string());
        Ok(config)
    }

    /// Removes the values of secret properties from a text of the client.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        let secret =
            |key: &str| ["password", "secret", "key", "token", "jaas", "sasl.oauth"].iter().any(|s| key.contains(s));
        let mut text = text.to_owned();
        for (key, value) in &self.properties {
            if secret(key) && !value.is_empty() {
                text = text.replace(value.as_str(), "…");
            }
        }
        text
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("properties", &self.properties.keys())
            .field("timeout", &self.timeout)
            .field("memory", &self.memory)
            .finish()
    }
}
