//! What a topic may be called: Kafka's rules, so that an embedded topic can move to Kafka under its name.
use super::BrokerError;

/// Checks a topic's name and partition count.
pub(super) fn check(topic: &str, partitions: i32) -> Result<(), BrokerError> {
    let problem = if topic.is_empty() {
        Some("it is empty")
    } else if topic.len() > 249 {
        Some("it is longer than 249 characters")
    } else if topic == "." || topic == ".." {
        Some("`.` and `..` are not names")
    } else if !topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        Some("only a-z, A-Z, 0-9, `.`, `_` and `-` are allowed")
    } else if own(topic) {
        Some("names starting with `__` or `_tidemill.` are the broker's own")
    } else if !(1..=10_000).contains(&partitions) {
        Some("it needs 1 to 10000 partitions")
    } else {
        None
    };
    problem.map_or(Ok(()), |problem| Err(BrokerError::TopicName { topic: topic.to_owned(), problem }))
}

/// Whether a topic is the broker's or Tidemill's own book-keeping.
pub(super) fn own(topic: &str) -> bool {
    topic.starts_with("__") || topic.starts_with("_tidemill.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_kafka_would_refuse_are_refused() {
        for bad in ["", ".", "..", "a b", "ä", "a/b", "__x", "_tidemill.progress"] {
            assert!(check(bad, 1).is_err(), "{bad}");
        }
        assert!(check(&"x".repeat(250), 1).is_err());
        assert!(check("x", 0).is_err());
        assert!(check("user_events.v1-eu", 64).is_ok());
    }
}
