//! What librdkafka says beside its answers: its log tells why a broker cannot be reached.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::settings::KafkaSettings;
use crate::topic::BrokerError;

/// What was heard last. One per client; clones share it.
#[derive(Clone)]
pub(super) struct Heard(Arc<Inner>);

struct Inner {
    settings: KafkaSettings,
    trouble: Mutex<Option<String>>,
    login: AtomicBool,
    down: AtomicBool,
}

impl Heard {
    pub(super) fn new(settings: &KafkaSettings) -> Self {
        let (trouble, login, down) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner { settings: settings.clone(), trouble, login, down }))
    }

    /// Notes a line of the client's log.
    pub(super) fn note(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let line = self.0.settings.without_secrets(line);
        if !matches!(facility, "FAIL" | "ERROR" | "SASLFAIL" | "SSL") {
            tracing::debug!(facility, line, "kafka client");
            return;
        }
        tracing::debug!(?level, facility, line, "kafka client");
        if line.ends_with("brokers are down") {
            self.0.down.store(true, Ordering::Relaxed);
            return;
        }
        let lower = line.to_lowercase();
        if ["authentication", "ssl handshake failed", "certificate", "sasl"].iter().any(|word| lower.contains(word)) {
            self.0.login.store(true, Ordering::Relaxed);
        }
        // `[thrd:host:port/bootstrap]: host:port/bootstrap: Connect to ipv4#… failed: Connection refused (after 0ms …)`
        let told = line.split_once("]: ").map_or(line.as_str(), |(_, told)| told);
        let told = told.split_once(": ").filter(|(who, _)| !who.contains(' ')).map_or(told, |(_, told)| told);
        let told = told.split_once(" (after ").map_or(told, |(told, _)| told);
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(told.to_owned());
    }

    /// Whether all brokers were lost since the last call of [`Heard::well`].
    pub(super) fn down(&self) -> bool {
        self.0.down.load(Ordering::Relaxed)
    }

    /// Whether a broker refused the log-in since the last call of [`Heard::well`].
    pub(super) fn login_refused(&self) -> bool {
        self.0.login.load(Ordering::Relaxed)
    }

    /// Notes that a broker has answered.
    pub(super) fn well(&self) {
        self.0.down.store(false, Ordering::Relaxed);
        self.0.login.store(false, Ordering::Relaxed);
    }

    /// Nobody answered: says why, as far as it was heard.
    pub(super) fn unreachable(&self, otherwise: &str) -> BrokerError {
        let settings = &self.0.settings;
        let brokers = settings.brokers.clone();
        let heard = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let cause = heard.unwrap_or_else(|| otherwise.to_owned());
        if self.login_refused() {
            return BrokerError::Login { brokers, cause };
        }
        BrokerError::Unreachable { brokers, seconds: settings.timeout.as_secs(), cause }
    }

    /// Makes an error of the client explain itself.
    pub(super) fn explain(&self, error: &KafkaError, doing: &str, topic: Option<&str>) -> BrokerError {
        use RDKafkaErrorCode as Code;

        let brokers = self.0.settings.brokers.clone();
        let cause = self.0.settings.without_secrets(&error.to_string());
        if let KafkaError::ClientConfig(_, said, key, _) = error {
            return BrokerError::Property { key: key.clone(), cause: self.0.settings.without_secrets(said) };
        }
        if let KafkaError::ClientCreation(said) = error {
            let cause = self.0.settings.without_secrets(said);
            return BrokerError::Property { key: "of the connection".to_owned(), cause };
        }
        match error.rdkafka_error_code() {
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::MessageTimedOut
                | Code::TimedOutQueue
                | Code::NetworkException,
            ) => self.unreachable(&cause),
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
                BrokerError::Login { brokers, cause }
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => match topic {
                Some(topic) => BrokerError::UnknownTopic { broker: brokers, topic: topic.to_owned() },
                None => BrokerError::Client { brokers, doing: doing.to_owned(), cause, retry: false },
            },
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed,
            ) => BrokerError::Forbidden { brokers, doing: doing.to_owned() },
            code => {
                let lasting = [
                    Code::InvalidTopic,
                    Code::InvalidConfig,
                    Code::PolicyViolation,
                    Code::InvalidPartitions,
                    Code::InvalidReplicationFactor,
                    Code::UnsupportedVersion,
                    Code::UnsupportedFeature,
                    Code::InvalidTransactionTimeout,
                    Code::InvalidTimestamp,
                    Code::InvalidRecord,
                    Code::BadMessage,
                ];
                let retry = code.is_some_and(|code| !lasting.contains(&code));
                BrokerError::Client { brokers, doing: doing.to_owned(), cause, retry }
            }
        }
    }
}

impl ClientContext for Heard {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.note(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Heard {}
