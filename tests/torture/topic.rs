//! Puts records into a topic without any of our own code: through SQLite by the layout that the embedded topics document,
//! or through librdkafka.
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rusqlite::{Connection, TransactionBehavior, params};

use super::numbers::{Number, Produced};

/// How long a broker may take; it may be restarted meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where the topic is.
pub(super) enum Topic {
    /// The file of the embedded topics.
    Embedded { file: PathBuf, topic: String },
    /// A Kafka.
    Kafka { broker: String, topic: String, producer: Box<BaseProducer<Delivered>> },
}

/// Where librdkafka says that records went: (number, partition, offset).
#[derive(Default)]
pub(super) struct Delivered(Mutex<Vec<(usize, i32, i64)>>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Self::DeliveryOpaque) {
        let message = result.as_ref().unwrap_or_else(|(error, _)| panic!("a record was not taken: {error}"));
        self.0.lock().unwrap().push((*number, message.partition(), message.offset()));
    }
}

impl Topic {
    pub(super) fn kafka(broker: &str, topic: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", broker)
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .create_with_context(Delivered::default())
            .unwrap();
        Self::Kafka { broker: broker.to_owned(), topic: topic.to_owned(), producer: Box::new(producer) }
    }

    /// Appends records in their order and notes at which offset each of them is.
    pub(super) fn append(&self, numbers: &[Number], produced: &mut Produced) {
        match self {
            Self::Embedded { file, topic } => embedded(file, topic, numbers, produced),
            Self::Kafka { topic, producer, .. } => {
                for (number, record) in numbers.iter().enumerate() {
                    let partition = i32::try_from(record.partition).unwrap();
                    let mut new = BaseRecord::with_opaque_to(topic, Box::new(number)).partition(partition);
                    new = new.key(record.key.as_slice());
                    if let Some(value) = &record.value {
                        new = new.payload(value.as_slice());
                    }
                    producer.send(new).map_err(|(error, _)| error).unwrap();
                }
                producer.flush(PATIENCE).unwrap();
                for (number, partition, offset) in std::mem::take(&mut *producer.context().0.lock().unwrap()) {
                    let partition = usize::try_from(partition).unwrap();
                    produced.partitions[partition].insert(offset, numbers[number].fate.clone());
                }
            }
        }
    }

    /// Deletes what is before `offset`, as retention does.
    pub(super) fn delete_before(&self, partition: usize, offset: i64) {
        match self {
            Self::Embedded { file, topic } => {
                let mut file = Connection::open(file).unwrap();
                let change = file.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
                let lane = lane(&change, topic, partition).0;
                change
                    .execute("DELETE FROM records WHERE id >= ?1 << 40 AND id < (?1 << 40 | ?2)", [lane, offset])
                    .unwrap();
                change.execute("UPDATE lanes SET earliest = ?2 WHERE id = ?1", [lane, offset]).unwrap();
                change.commit().unwrap();
            }
            Self::Kafka { broker, topic, .. } => {
                let admin: AdminClient<DefaultClientContext> =
                    ClientConfig::new().set("bootstrap.servers", broker).create().unwrap();
                let mut offsets = TopicPartitionList::new();
                let partition = i32::try_from(partition).unwrap();
                offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
                let deleted = admin.delete_records(&offsets, &AdminOptions::new());
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(deleted).unwrap();
            }
        }
    }
}

/// The lane of a partition, and its end.
fn lane(file: &Connection, topic: &str, partition: usize) -> (i64, i64) {
    let sql = "SELECT l.id, l.end FROM lanes l JOIN topics t ON t.id = l.topic WHERE t.name = ?1 AND l.partition = ?2";
    file.query_row(sql, params![topic, i64::try_from(partition).unwrap()], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
}

fn embedded(file: &Path, topic: &str, numbers: &[Number], produced: &mut Produced) {
    let mut file = Connection::open(file).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let layout: i64 = change.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(layout, 1, "the embedded topics have a layout that this does not know");
    for record in numbers {
        let (lane, offset) = lane(&change, topic, record.partition);
        let sql = "INSERT INTO records (id, timestamp_ms, key, value) VALUES (?1 << 40 | ?2, ?3, ?4, ?5)";
        change.execute(sql, params![lane, offset, 1_700_000_000_000_i64, record.key, record.value]).unwrap();
        let sql = "UPDATE lanes SET end = ?2, newest_ms = max(newest_ms, 1700000000000) WHERE id = ?1";
        change.execute(sql, [lane, offset + 1]).unwrap();
        produced.partitions[record.partition].insert(offset, record.fate.clone());
    }
    change.commit().unwrap();
}
