//! Records and progress in one Kafka transaction.
//!
//! Progress is a record (key: the publisher's name) in the compacted topic `_tidemill.progress`, written in the same
//! transaction as the records. It is read back after `init_transactions()`, which ends what an older holder left
//! open and fences it; so what we read then is final. The read goes to the *high watermark*, not to the last stable
//! offset: another publisher's open transaction may hold the latter back before our own committed progress.
//!
//! A commit is durable when the coordinator says so, but readers see it only once its marker is in every partition, which
//! the coordinator writes afterwards. Who publishes and then reads to the end must find what was published, so a commit
//! waits for its markers: until each partition's last stable offset lies behind our last record.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::client::{Kafka, KafkaBroker};
use super::heard::Heard;
use super::producer::{check, explain_write, hand_over};
use crate::error::Result;
use crate::position::TopicPartition;
use crate::record::NewRecord;
use crate::source::{Budget, Polled};
use crate::topic::held::{Held, off_thread};
use crate::topic::{Assignment, Broker, BrokerError, Publisher};

/// Where publishers note how far they are.
const PROGRESS: &str = "_tidemill.progress";
/// How long the coordinator may take. A new cluster makes its transaction log first.
const COORDINATOR: Duration = Duration::from_mins(1);
/// How long a commit waits for its markers, and how long between two looks. Another publisher's open transaction may hide
/// what is committed for longer; nothing is lost by going on.
const MARKERS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(5));
/// How long another publisher's open transaction may hide progress: Kafka's default timeout and some.
const OTHERS: Duration = Duration::from_secs(90);

/// The holder of a publisher's name.
pub(super) struct KafkaPublisher {
    step: Held<Step, Result<(), BrokerError>>,
    name: String,
    progress: Option<String>,
}

impl KafkaPublisher {
    /// Fences earlier holders and reads the progress they left.
    pub(super) async fn take_over(kafka: Arc<Kafka>, broker: &KafkaBroker, name: &str) -> Result<Self> {
        let compacted =
            [("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("min.cleanable.dirty.ratio", "0.1")];
        kafka.make(PROGRESS, 1, &compacted).await?;
        let (shared, publisher) = (Arc::clone(&kafka), name.to_owned());
        let (step, end) = off_thread(move || {
            let step = Step::open(shared, publisher)?;
            let end = step.progress_end()?;
            Ok((step, end))
        })
        .await?;
        let progress = read_progress(broker, name, end).await?;
        Ok(Self { step: Held::new(step), name: name.to_owned(), progress })
    }

    async fn run(&mut self, work: impl FnOnce(&mut Step) -> Result<(), BrokerError> + Send + 'static) -> Result<()> {
        if self.step.busy() {
            // Its result is lost, and with it what is in the open transaction.
            let cause = "an earlier call was not waited for".to_owned();
            return Err(BrokerError::CommitUnknown { publisher: self.name.clone(), cause }.into());
        }
        let work = |step: &mut Step| {
            if let Some(ended) = &step.ended {
                return Err(ended.clone());
            }
            let done = work(step);
            if let Err(error @ (BrokerError::Fenced { .. } | BrokerError::CommitUnknown { .. })) = &done {
                step.ended = Some(error.clone());
            }
            done
        };
        Ok(self.step.run(work).await??)
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    fn progress(&self) -> Option<&str> {
        self.progress.as_deref()
    }

    async fn stage(&mut self, topic: &str, records: Vec<NewRecord>) -> Result<()> {
        let topic = topic.to_owned();
        self.run(move |step| step.stage(&topic, &records)).await
    }

    async fn commit(&mut self, progress: &str) -> Result<()> {
        let note = progress.to_owned();
        self.run(move |step| step.commit(note)).await?;
        self.progress = Some(progress.to_owned());
        Ok(())
    }

    async fn abort(&mut self) -> Result<()> {
        self.run(Step::abort).await
    }
}

/// Reads the newest committed progress of `name` before `end`.
async fn read_progress(broker: &KafkaBroker, name: &str, end: i64) -> Result<Option<String>> {
    let from = broker.bounds(PROGRESS).await?.first().map_or(0, |bounds| bounds.earliest);
    let partition = TopicPartition::new(PROGRESS, 0);
    let mut source = broker.source(&[Assignment { partition, from, to: Some(end) }]).await?;
    let budget = Budget { rows: 10_000, bytes: 4 << 20, linger: Duration::from_millis(100) };
    let mut progress = None;
    let deadline = tokio::time::Instant::now() + OTHERS;
    loop {
        match source.poll(budget).await? {
            Polled::Records(records) => {
                for record in records.into_iter().filter(|record| record.key.as_deref() == Some(name.as_bytes())) {
                    progress = record.value.map(|value| String::from_utf8_lossy(&value).into_owned());
                }
            }
            Polled::End => return Ok(progress),
            Polled::Idle if tokio::time::Instant::now() < deadline => {}
            Polled::Idle => {
                return Err(BrokerError::Client {
                    brokers: name.to_owned(),
                    doing: "reading the publisher's progress".to_owned(),
                    cause: "another publisher's transaction is open for too long".to_owned(),
                    retry: true,
                }
                .into());
            }
        }
    }
}

/// The transactional producer; blocking.
struct Step {
    kafka: Arc<Kafka>,
    name: String,
    producer: ThreadedProducer<Deliveries>,
    heard: Heard,
    written: Arc<Mutex<Written>>,
    open: bool,
    /// Why this holder can do nothing any more.
    ended: Option<BrokerError>,
}

impl Step {
    fn open(kafka: Arc<Kafka>, name: String) -> Result<Self, BrokerError> {
        let heard = Heard::new(&kafka.settings);
        let written = Arc::new(Mutex::default());
        let mut config = kafka.settings.producer()?;
        config.set("transactional.id", format!("tidemill-{name}"));
        let deliveries = Deliveries { heard: heard.clone(), written: Arc::clone(&written) };
        let producer: ThreadedProducer<Deliveries> = config
            .create_with_context(deliveries)
            .map_err(|error| heard.explain(&error, "opening a publisher", None))?;
        let step = Self { kafka, name, producer, heard, written, open: false, ended: None };
        step.again(COORDINATOR, Producer::init_transactions).map_err(|error| {
            if fenced(&error) {
                return BrokerError::Fenced { publisher: step.name.clone() };
            }
            step.heard.explain(&error, &format!("taking over publisher `{}`", step.name), None)
        })?;
        Ok(step)
    }

    /// Returns the end of the progress topic, uncommitted records included.
    fn progress_end(&self) -> Result<i64, BrokerError> {
        let explain =
            |error: &KafkaError| self.heard.explain(error, "reading the publisher's progress", Some(PROGRESS));
        let config = self.kafka.settings.consumer("read_uncommitted")?;
        let asking: BaseConsumer<Heard> =
            config.create_with_context(self.heard.clone()).map_err(|error| explain(&error))?;
        let (_, end) =
            asking.fetch_watermarks(PROGRESS, 0, self.kafka.settings.timeout).map_err(|error| explain(&error))?;
        Ok(end)
    }

    /// Calls the coordinator until it answers with something that trying again cannot change.
    fn again(
        &self,
        patience: Duration,
        call: impl Fn(&ThreadedProducer<Deliveries>, Duration) -> Result<(), KafkaError>,
    ) -> Result<(), KafkaError> {
        let deadline = Instant::now() + patience;
        loop {
            match call(&self.producer, deadline.saturating_duration_since(Instant::now())) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                done => return done,
            }
        }
    }

    fn begin(&mut self) -> Result<(), BrokerError> {
        if !self.open {
            *self.written() = Written::default();
            self.producer.begin_transaction().map_err(|error| self.give_up(&error))?;
            self.open = true;
        }
        Ok(())
    }

    fn stage(&mut self, topic: &str, records: &[NewRecord]) -> Result<(), BrokerError> {
        let partitions = self.kafka.known_partitions(topic)?;
        check(topic, partitions, self.kafka.settings.max_record(), records)?;
        self.begin()?;
        for record in records {
            if let Err(error) = hand_over(&self.producer, topic, record, ()) {
                return Err(self.give_up(&error));
            }
        }
        let failed = self.written().failed.clone();
        failed.map_or(Ok(()), |error| Err(self.give_up(&error)))
    }

    fn commit(&mut self, progress: String) -> Result<(), BrokerError> {
        self.begin()?;
        let key = Some(Bytes::copy_from_slice(self.name.as_bytes()));
        let note = NewRecord { partition: Some(0), key, value: Some(progress.into()), ..NewRecord::default() };
        if let Err(error) = hand_over(&self.producer, PROGRESS, &note, ()) {
            return Err(self.give_up(&error));
        }
        match self.again(COORDINATOR, Producer::commit_transaction) {
            Ok(()) => {
                self.open = false;
                self.wait_for_markers();
                Ok(())
            }
            Err(KafkaError::Transaction(error)) if error.is_retriable() => Err(self.unknown(&error.to_string())),
            Err(KafkaError::Transaction(error)) if !error.txn_requires_abort() && !error.is_fatal() => {
                Err(self.unknown(&error.to_string()))
            }
            Err(error) => Err(self.give_up(&error)),
        }
    }

    /// Waits until readers can see what was just committed.
    fn wait_for_markers(&self) {
        let last = std::mem::take(&mut self.written().last);
        let deadline = Instant::now() + MARKERS.0;
        let seen =
            || self.kafka.stable_ends(last.keys()).is_some_and(|ends| last.iter().all(|(at, last)| ends[at] > *last));
        while !last.is_empty() && !seen() && Instant::now() < deadline {
            std::thread::sleep(MARKERS.1);
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        if !self.open {
            return Ok(());
        }
        self.open = false;
        self.again(COORDINATOR, Producer::abort_transaction)
            .map_err(|error| self.ended_by(&error).unwrap_or_else(|| self.unknown(&error.to_string())))
    }

    /// Throws the open step away after `error`, and says what that makes of the publisher.
    fn give_up(&mut self, error: &KafkaError) -> BrokerError {
        if let Some(ended) = self.ended_by(error) {
            return ended;
        }
        let first = self.written().failed.clone();
        if let Err(ended) = self.abort() {
            return ended;
        }
        // Too big or forbidden stays so; all else may pass.
        let cause = first.as_ref().unwrap_or(error);
        let lasting = explain_write(&self.heard, cause, "of the step", 0);
        if matches!(lasting, BrokerError::TooBig { .. } | BrokerError::Forbidden { .. }) {
            return lasting;
        }
        BrokerError::Aborted { publisher: self.name.clone(), cause: cause.to_string() }
    }

    /// Says why the producer is of no use any more, if it is so.
    fn ended_by(&self, error: &KafkaError) -> Option<BrokerError> {
        let fatal = self.producer.client().fatal_error();
        if fenced(error) || fatal.as_ref().is_some_and(|(code, _)| fencing(*code)) {
            return Some(BrokerError::Fenced { publisher: self.name.clone() });
        }
        fatal.map(|(_, cause)| self.unknown(&cause))
    }

    fn unknown(&self, cause: &str) -> BrokerError {
        BrokerError::CommitUnknown { publisher: self.name.clone(), cause: cause.to_owned() }
    }
}

fn fenced(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => fencing(error.code()),
        error => error.rdkafka_error_code().is_some_and(fencing),
    }
}

fn fencing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

/// What became of the records of the open transaction.
#[derive(Default)]
struct Written {
    /// Why the first one that could not be written could not.
    failed: Option<KafkaError>,
    /// The last offset of each partition.
    last: HashMap<TopicPartition, i64>,
}

/// Notes what became of each record.
struct Deliveries {
    heard: Heard,
    written: Arc<Mutex<Written>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.heard.note(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(record) => {
                written.last.insert(TopicPartition::new(record.topic(), record.partition()), record.offset());
            }
            Err((error, _)) => {
                written.failed.get_or_insert_with(|| error.clone());
            }
        }
    }
}
