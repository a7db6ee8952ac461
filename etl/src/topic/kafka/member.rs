//! A place in the group of processes that share a topic, and how far the group is, for tools that show lag.
//!
//! The group is used for one thing: who reads which partition. Records are read by assignment (`source.rs`), and who may
//! commit is said by the fence in the table, so a member that was taken for dead and comes back can do no harm.
//!
//! Kafka's classic protocol: on every change all members give up everything first (`Rebalance::Revoke`), then get their
//! new part. The callback of the revocation holds the group until [`Membership::released`], but no longer than `LET_GO`.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::sync::watch;

use super::client::Kafka;
use super::heard::Heard;
use crate::error::Result;
use crate::position::Positions;
use crate::topic::{BrokerError, Membership};

/// A member that is silent for this long is taken for dead: the least that brokers allow by default.
const SESSION: &str = "6000";
const HEARTBEAT: &str = "1000";
/// How long a change of the group waits for us to commit what we have read. Below `max.poll.interval.ms`.
const LET_GO: Duration = Duration::from_mins(1);
/// How often the group is attended to.
const ATTEND: Duration = Duration::from_millis(100);

/// What the group says, seen from the async side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Given {
    partitions: Vec<i32>,
    /// Raised at every change, so that a change to the same partitions is one too.
    change: u64,
    /// Whether the group is gone for good.
    lost: Option<String>,
}

/// What the callback and the member share.
struct Shared {
    heard: Heard,
    given: watch::Sender<Given>,
    /// The last change whose partitions are not held any more.
    released: Mutex<u64>,
    let_go: Condvar,
    ended: AtomicBool,
}

/// The group's callbacks.
struct Callbacks(Arc<Shared>);

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.heard.note(level, facility, line);
    }
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(_) = rebalance {
            self.0.revoke();
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            // Membership is all that is wanted of this client: records are read by another.
            if let Err(error) = consumer.pause(list) {
                tracing::debug!(%error, "a member cannot be kept from fetching");
            }
            let mut partitions: Vec<i32> = list.elements().iter().map(TopicPartitionListElem::partition).collect();
            partitions.sort_unstable();
            self.0.given.send_modify(|given| {
                given.partitions = partitions;
                given.change += 1;
            });
        }
    }
}

impl Shared {
    /// Takes everything away, and waits until it is let go.
    fn revoke(&self) {
        let mut had = false;
        let mut change = 0;
        self.given.send_modify(|given| {
            had = !given.partitions.is_empty();
            given.partitions.clear();
            given.change += 1;
            change = given.change;
        });
        if !had {
            return;
        }
        let deadline = Instant::now() + LET_GO;
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        while *released < change && !self.ended.load(Ordering::Relaxed) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                tracing::warn!("what was read is not committed in time; the group goes on without it");
                return;
            };
            let step = left.min(ATTEND);
            released = self.let_go.wait_timeout(released, step).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A member of a group.
pub(super) struct Member {
    shared: Arc<Shared>,
    given: watch::Receiver<Given>,
}

impl Member {
    /// Joins; the first share comes later.
    pub(super) fn join(kafka: &Kafka, group: &str, topic: &str) -> Result<Self, BrokerError> {
        kafka.partitions(topic)?;
        let heard = Heard::new(&kafka.settings);
        let (sender, given) = watch::channel(Given::default());
        let shared = Arc::new(Shared {
            heard: heard.clone(),
            given: sender,
            released: Mutex::new(0),
            let_go: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let mut config = kafka.settings.base()?;
        for (key, value) in [
            ("group.id", group),
            ("session.timeout.ms", SESSION),
            ("heartbeat.interval.ms", HEARTBEAT),
            ("partition.assignment.strategy", "range"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "latest"),
            // It is paused at once; what it fetches before that is thrown away.
            ("queued.min.messages", "1"),
            ("queued.max.messages.kbytes", "64"),
        ] {
            config.set(key, value);
        }
        let explain = |error: &KafkaError| heard.explain(error, "joining the group", Some(topic));
        let consumer: BaseConsumer<Callbacks> =
            config.create_with_context(Callbacks(Arc::clone(&shared))).map_err(|error| explain(&error))?;
        consumer.subscribe(&[topic]).map_err(|error| explain(&error))?;
        let attending = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("kafka-member".to_owned())
            .spawn(move || attend(&consumer, &attending))
            .map_err(|error| BrokerError::Client {
                brokers: kafka.settings.brokers.clone(),
                doing: "joining the group".to_owned(),
                cause: error.to_string(),
                retry: true,
            })?;
        Ok(Self { shared, given })
    }
}

/// Serves the group until the member is dropped, then leaves it, so that others need not wait for the session's end.
fn attend(consumer: &BaseConsumer<Callbacks>, shared: &Shared) {
    while !shared.ended.load(Ordering::Relaxed) {
        match consumer.poll(ATTEND) {
            // A record that was fetched before the pause.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "group");
                if let KafkaError::Global(code) | KafkaError::MessageConsumption(code) = error
                    && matches!(
                        code,
                        rdkafka::error::RDKafkaErrorCode::GroupAuthorizationFailed
                            | rdkafka::error::RDKafkaErrorCode::Fatal
                    )
                {
                    shared.given.send_modify(|given| given.lost = Some(error.to_string()));
                    return;
                }
            }
        }
    }
    consumer.unsubscribe();
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.let_go.notify_all();
    }
}

#[async_trait]
impl Membership for Member {
    fn partitions(&mut self) -> Vec<i32> {
        self.given.borrow_and_update().partitions.clone()
    }

    async fn changed(&mut self) -> Result<()> {
        // The sender lives as long as we do.
        if self.given.changed().await.is_err() {
            return Ok(());
        }
        match &self.given.borrow().lost {
            None => Ok(()),
            Some(cause) => Err(BrokerError::Client {
                brokers: String::new(),
                doing: "being a member of the group".to_owned(),
                cause: cause.clone(),
                retry: true,
            }
            .into()),
        }
    }

    fn released(&mut self) {
        let change = self.given.borrow().change;
        *self.shared.released.lock().unwrap_or_else(PoisonError::into_inner) = change;
        self.shared.let_go.notify_all();
    }
}

/// Tells the broker how far a group is.
pub(super) fn note(kafka: &Kafka, group: &str, positions: &Positions) -> Result<(), KafkaError> {
    let mut consumers = kafka.noting.lock().unwrap_or_else(PoisonError::into_inner);
    if !consumers.contains_key(group) {
        let config = kafka.settings.consumer("read_committed").map_err(|_| KafkaError::Canceled)?;
        let mut config = config;
        config.set("group.id", group);
        consumers.insert(group.to_owned(), config.create_with_context(kafka.heard.clone())?);
    }
    let Some(consumer) = consumers.get(group) else { return Ok(()) };
    let mut list = TopicPartitionList::new();
    for (partition, next) in positions {
        list.add_partition_offset(&partition.topic, partition.partition, At::Offset(*next))?;
    }
    consumer.commit(&list, CommitMode::Async)
}
