//! Writes records and learns where each one went.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer};
use rdkafka::util::IntoOpaque;
use tokio::sync::oneshot;

use super::heard::Heard;
use super::settings::KafkaSettings;
use crate::position::Offset;
use crate::record::NewRecord;
use crate::topic::BrokerError;

/// How long to wait when the client holds as much as it may.
const FULL: Duration = Duration::from_millis(2);

/// Refuses records that cannot be written, before the first is.
pub(super) fn check(topic: &str, partitions: i32, max: usize, records: &[NewRecord]) -> Result<(), BrokerError> {
    for record in records {
        if let Some(partition) = record.partition.filter(|partition| !(0..partitions).contains(partition)) {
            return Err(BrokerError::NoPartition { topic: topic.to_owned(), partition, partitions });
        }
        let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let body =
            record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len);
        if headers + body > max {
            return Err(BrokerError::TooBig { topic: topic.to_owned(), bytes: headers + body, limit: Some(max) });
        }
    }
    Ok(())
}

/// Hands one record to a producer, waiting while it is full.
pub(super) fn hand_over<C>(
    producer: &ThreadedProducer<C>,
    topic: &str,
    record: &NewRecord,
    opaque: C::DeliveryOpaque,
) -> Result<(), KafkaError>
where
    C: ProducerContext + 'static,
    C::DeliveryOpaque: IntoOpaque,
{
    let mut base: BaseRecord<'_, [u8], [u8], C::DeliveryOpaque> = BaseRecord::with_opaque_to(topic, opaque);
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    base.partition = record.partition;
    base.timestamp = record.timestamp_ms;
    if !record.headers.is_empty() {
        let empty = OwnedHeaders::new_with_capacity(record.headers.len());
        base.headers = Some(
            record
                .headers
                .iter()
                .fold(empty, |headers, (key, value)| headers.insert(Header { key, value: Some(value.as_ref()) })),
        );
    }
    loop {
        match producer.send(base) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                base = back;
                std::thread::sleep(FULL);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// The idempotent producer behind `produce`.
pub(super) struct Producing {
    producer: ThreadedProducer<Reports>,
    heard: Heard,
}

impl Producing {
    pub(super) fn open(settings: &KafkaSettings) -> Result<Self, BrokerError> {
        let heard = Heard::new(settings);
        let producer = settings
            .producer()?
            .create_with_context(Reports(heard.clone()))
            .map_err(|error| heard.explain(&error, "opening", None))?;
        Ok(Self { producer, heard })
    }

    /// Whether it failed for good.
    pub(super) fn broken(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// Hands over all records; the answer comes later.
    pub(super) fn send(&self, topic: &str, records: &[NewRecord]) -> Result<Waiting, BrokerError> {
        let (tell, told) = oneshot::channel();
        let batch = Arc::new(Batch {
            heard: self.heard.clone(),
            topic: topic.to_owned(),
            max: records.iter().map(|record| record.value.as_ref().map_or(0, bytes::Bytes::len)).max().unwrap_or(0),
            open: Mutex::new(Open {
                given: vec![(0, 0); records.len()],
                left: records.len(),
                error: None,
                tell: Some(tell),
            }),
        });
        if records.is_empty() {
            batch.finish(&mut batch.open.lock().unwrap_or_else(PoisonError::into_inner));
        }
        for (at, record) in records.iter().enumerate() {
            let slot = Box::new(Slot { batch: Arc::clone(&batch), at });
            if let Err(error) = hand_over(&self.producer, topic, record, slot) {
                return Err(batch.explain(&error));
            }
        }
        Ok(Waiting { told, heard: self.heard.clone() })
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        // Nobody waits for what is still on its way.
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }
}

/// Where each record went, or why one could not be written.
type Answer = Result<Vec<(i32, Offset)>, BrokerError>;

/// The answer to one `produce`, as it comes in.
pub(super) struct Waiting {
    told: oneshot::Receiver<Answer>,
    heard: Heard,
}

impl Waiting {
    /// Waits until every record is written, or one failed. `delivery.timeout.ms` bounds it.
    pub(super) async fn done(self) -> Result<Vec<(i32, Offset)>, BrokerError> {
        match self.told.await {
            Ok(done) => done,
            Err(_) => Err(self.heard.unreachable("the producer was closed")),
        }
    }
}

/// One call of `produce`.
struct Batch {
    heard: Heard,
    topic: String,
    max: usize,
    open: Mutex<Open>,
}

struct Open {
    given: Vec<(i32, Offset)>,
    left: usize,
    error: Option<KafkaError>,
    tell: Option<oneshot::Sender<Answer>>,
}

impl Batch {
    fn explain(&self, error: &KafkaError) -> BrokerError {
        explain_write(&self.heard, error, &self.topic, self.max)
    }

    fn finish(&self, open: &mut Open) {
        if let Some(tell) = open.tell.take() {
            let done = match &open.error {
                Some(error) => Err(self.explain(error)),
                None => Ok(std::mem::take(&mut open.given)),
            };
            // A caller that went away wants no answer.
            drop(tell.send(done));
        }
    }
}

/// Makes a failed write explain itself; `bytes` is the size of the biggest record.
pub(super) fn explain_write(heard: &Heard, error: &KafkaError, topic: &str, bytes: usize) -> BrokerError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => {
            BrokerError::TooBig { topic: topic.to_owned(), bytes, limit: None }
        }
        _ => heard.explain(error, &format!("writing to topic `{topic}`"), Some(topic)),
    }
}

/// Where the report of one record goes.
pub(super) struct Slot {
    batch: Arc<Batch>,
    at: usize,
}

/// Takes delivery reports.
struct Reports(Heard);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.note(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Box<Slot>) {
        let mut open = slot.batch.open.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                if let Some(given) = open.given.get_mut(slot.at) {
                    *given = (message.partition(), message.offset());
                }
            }
            Err((error, _)) => open.error = open.error.take().or_else(|| Some(error.clone())),
        }
        open.left -= 1;
        if open.left == 0 {
            slot.batch.finish(&mut open);
        }
    }
}
