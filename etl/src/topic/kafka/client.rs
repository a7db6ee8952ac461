//! The broker: what does not stream.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset as At, TopicPartitionList};

use super::heard::Heard;
use super::member::{self, Member};
use super::producer::Producing;
use super::publisher::KafkaPublisher;
use super::settings::KafkaSettings;
use super::source::KafkaSource;
use crate::error::Result;
use crate::position::{Bounds, Offset, Positions, TopicPartition};
use crate::record::NewRecord;
use crate::source::Source;
use crate::topic::held::off_thread;
use crate::topic::{Assignment, Broker, BrokerError, Membership, Publisher, TopicInfo, name};

/// How long one question waits before we look why there is no answer.
const ASK: Duration = Duration::from_secs(1);

/// Topics in Apache Kafka. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct KafkaBroker(Arc<Kafka>);

/// What the broker, its sources and its publishers share.
pub(super) struct Kafka {
    pub(super) settings: KafkaSettings,
    pub(super) heard: Heard,
    asking: BaseConsumer<Heard>,
    producing: Mutex<Option<Arc<Producing>>>,
    /// Partitions of topics seen, so that writing does not ask each time.
    known: Mutex<HashMap<String, i32>>,
    /// Clients by whose groups lag tools see how far we are.
    pub(super) noting: Mutex<HashMap<String, BaseConsumer<Heard>>>,
}

impl KafkaBroker {
    /// Checks the settings and makes the client. It connects when first used.
    ///
    /// # Errors
    /// If a property is unknown, has a wrong value, or is one that Tidemill sets.
    pub fn open(settings: KafkaSettings) -> Result<Self> {
        let heard = Heard::new(&settings);
        settings.producer()?.create_native_config().map_err(|e| heard.explain(&e, "opening", None))?;
        let asking = settings
            .consumer("read_committed")?
            .create_with_context(heard.clone())
            .map_err(|error| heard.explain(&error, "opening", None))?;
        let (producing, known, noting) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Kafka { settings, heard, asking, producing, known, noting })))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Kafka) -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let kafka = Arc::clone(&self.0);
        off_thread(move || work(&kafka)).await
    }
}

impl Kafka {
    /// Asks about one topic or all, for as long as the settings allow.
    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, BrokerError> {
        metadata(&self.asking, &self.heard, topic, self.settings.timeout)
    }

    /// Returns how many partitions a topic has.
    pub(super) fn partitions(&self, topic: &str) -> Result<i32, BrokerError> {
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            let metadata = self.metadata(Some(topic))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let error = match found.and_then(MetadataTopic::error) {
                Some(error) if error.is_error() => KafkaError::MetadataFetch(error.into()),
                _ => match found.map(MetadataTopic::partitions) {
                    // Every partition has its leader, so that what follows does not fail for a new topic.
                    Some(all) if !all.is_empty() && all.iter().all(|one| one.leader() >= 0) => {
                        let count = i32::try_from(all.len()).unwrap_or(i32::MAX);
                        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned(), count);
                        return Ok(count);
                    }
                    Some(all) if !all.is_empty() => KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable),
                    _ => KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition),
                },
            };
            let passing = error.rdkafka_error_code() == Some(RDKafkaErrorCode::LeaderNotAvailable);
            if !passing || Instant::now() >= deadline {
                return Err(self.heard.explain(&error, "asking for the topic", Some(topic)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns how many partitions a topic has, from memory if we asked before.
    pub(super) fn known_partitions(&self, topic: &str) -> Result<i32, BrokerError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        known.map_or_else(|| self.partitions(topic), Ok)
    }

    /// Asks for one offset per partition: `at` is a time in milliseconds, the beginning or the end.
    fn offsets(&self, topic: &str, partitions: i32, at: At) -> Result<Vec<At>, BrokerError> {
        let explain = |error: &KafkaError| self.heard.explain(error, "asking for offsets", Some(topic));
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, at).map_err(|error| explain(&error))?;
        }
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            let answer = self.asking.offsets_for_times(list.clone(), ASK.max(self.settings.timeout / 2));
            let wrong = match &answer {
                Ok(found) => found.elements().iter().find_map(|element| element.error().err()),
                Err(error) => Some(error.clone()),
            };
            match (answer, wrong) {
                (Ok(found), None) => {
                    let by_partition: BTreeMap<i32, At> =
                        found.elements().iter().map(|element| (element.partition(), element.offset())).collect();
                    return Ok(by_partition.into_values().collect());
                }
                (_, Some(error)) if Instant::now() >= deadline => return Err(explain(&error)),
                // A leader that moves, or one that is not ready right after the topic was made.
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Returns the last stable offset of each partition, if they can be had now.
    pub(super) fn stable_ends<'a>(
        &self,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> Option<HashMap<TopicPartition, Offset>> {
        let mut list = TopicPartitionList::new();
        for at in partitions {
            list.add_partition_offset(&at.topic, at.partition, At::End).ok()?;
        }
        let found = self.asking.offsets_for_times(list, ASK).ok()?;
        let end = |element: &TopicPartitionListElem<'_>| {
            element.error().ok()?;
            Some((TopicPartition::new(element.topic(), element.partition()), element.offset().to_raw()?))
        };
        found.elements().iter().map(end).collect()
    }

    pub(super) fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, BrokerError> {
        let partitions = self.partitions(topic)?;
        let earliest = self.offsets(topic, partitions, At::Beginning)?;
        let ends = self.offsets(topic, partitions, At::End)?;
        let number = |at: At| at.to_raw().unwrap_or(0).max(0);
        Ok(earliest.into_iter().zip(ends).map(|(a, b)| Bounds { earliest: number(a), end: number(b) }).collect())
    }

    /// Returns the shared producer; a broken one is replaced.
    fn producing(&self) -> Result<Arc<Producing>, BrokerError> {
        let mut producing = self.producing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = producing.as_ref().filter(|ready| !ready.broken()) {
            return Ok(Arc::clone(ready));
        }
        let made = Arc::new(Producing::open(&self.settings)?);
        *producing = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Makes a topic and waits until it can be used; returns whether it was not there.
    pub(super) async fn make(
        self: &Arc<Self>,
        topic: &str,
        partitions: i32,
        config: &[(&str, &str)],
    ) -> Result<bool, BrokerError> {
        // Asking first gives the better error if nobody is there.
        let (kafka, wanted) = (Arc::clone(self), topic.to_owned());
        match off_thread(move || kafka.partitions(&wanted)).await {
            Ok(_) => return Ok(false),
            Err(BrokerError::UnknownTopic { .. }) => {}
            Err(error) => return Err(error),
        }
        let explain = |error: &KafkaError| self.heard.explain(error, &format!("making topic `{topic}`"), None);
        let admin: AdminClient<Heard> =
            self.settings.base()?.create_with_context(self.heard.clone()).map_err(|error| explain(&error))?;
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        new.config.extend(config.iter().copied());
        let wait = self.settings.timeout;
        let options = AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait));
        let made = admin.create_topics([&new], &options).await.map_err(|error| explain(&error))?;
        let made = match made.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => false,
            Some(Err((_, code))) => return Err(explain(&KafkaError::AdminOp(code))),
            _ => true,
        };
        let (kafka, wanted) = (Arc::clone(self), topic.to_owned());
        off_thread(move || kafka.wait_for(&wanted)).await?;
        Ok(made)
    }

    /// Waits until a new topic is known to the broker we ask.
    fn wait_for(&self, topic: &str) -> Result<(), BrokerError> {
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            match self.partitions(topic) {
                Err(BrokerError::UnknownTopic { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other.map(drop),
            }
        }
    }
}

/// Asks `client` about one topic or all; gives up after `patience`, or at once if the log-in is refused.
pub(super) fn metadata(
    client: &BaseConsumer<Heard>,
    heard: &Heard,
    topic: Option<&str>,
    patience: Duration,
) -> Result<Metadata, BrokerError> {
    let deadline = Instant::now() + patience;
    loop {
        match client.fetch_metadata(topic, ASK.min(patience)) {
            Ok(metadata) => {
                heard.well();
                return Ok(metadata);
            }
            Err(error) => {
                // Nobody else takes this client's events.
                while client.poll(Duration::ZERO).is_some() {}
                if heard.login_refused() || Instant::now() >= deadline {
                    return Err(heard.explain(&error, "asking for topics", topic));
                }
            }
        }
    }
}

#[async_trait]
impl Broker for KafkaBroker {
    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let metadata = self.blocking(|kafka| kafka.metadata(None)).await?;
        let mut topics: Vec<TopicInfo> = metadata
            .topics()
            .iter()
            .filter(|topic| !name::own(topic.name()))
            .map(|topic| TopicInfo {
                name: topic.name().to_owned(),
                partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    async fn create(&self, topic: &str, partitions: i32) -> Result<bool> {
        name::check(topic, partitions)?;
        Ok(self.0.make(topic, partitions, &[]).await?)
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>> {
        let topic = topic.to_owned();
        Ok(self.blocking(move |kafka| kafka.bounds(&topic)).await?)
    }

    async fn offsets_at(&self, topic: &str, timestamp_ms: i64) -> Result<Vec<Offset>> {
        let topic = topic.to_owned();
        let find = move |kafka: &Kafka| {
            let bounds = kafka.bounds(&topic)?;
            let partitions = i32::try_from(bounds.len()).unwrap_or(i32::MAX);
            let found = kafka.offsets(&topic, partitions, At::Offset(timestamp_ms.max(0)))?;
            // No such record, or only one that is not committed yet: the end.
            let at = |(at, bounds): (At, &Bounds)| match at {
                At::Offset(offset) => offset.min(bounds.end),
                _ => bounds.end,
            };
            Ok(found.into_iter().zip(&bounds).map(at).collect())
        };
        Ok(self.blocking(find).await?)
    }

    async fn delete_before(&self, partition: &TopicPartition, offset: Offset) -> Result<Offset> {
        let (topic, number) = (partition.topic.as_str(), partition.partition);
        let bounds = self.bounds(topic).await?;
        let partitions = i32::try_from(bounds.len()).unwrap_or(i32::MAX);
        let here = usize::try_from(number).ok().and_then(|at| bounds.get(at));
        let here = here.ok_or(BrokerError::NoPartition { topic: topic.to_owned(), partition: number, partitions })?;
        if offset <= here.earliest {
            return Ok(here.earliest);
        }
        let kafka = &self.0;
        let explain = |error: &KafkaError| kafka.heard.explain(error, "deleting records", Some(topic));
        let admin: AdminClient<Heard> =
            kafka.settings.base()?.create_with_context(kafka.heard.clone()).map_err(|error| explain(&error))?;
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, number, At::Offset(offset.min(here.end))).map_err(|e| explain(&e))?;
        let options = AdminOptions::new().request_timeout(Some(kafka.settings.timeout));
        let done = admin.delete_records(&before, &options).await.map_err(|error| explain(&error))?;
        let mut left = here.earliest;
        for element in done.elements() {
            element.error().map_err(|error| explain(&error))?;
            left = element.offset().to_raw().unwrap_or(left);
        }
        Ok(left)
    }

    async fn source(&self, assignments: &[Assignment]) -> Result<Box<dyn Source>> {
        let assignments = assignments.to_vec();
        let open = move |kafka: &Kafka| KafkaSource::open(kafka, assignments);
        Ok(Box::new(self.blocking(open).await?))
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<(i32, Offset)>> {
        let wanted = topic.to_owned();
        let send = move |kafka: &Kafka| {
            let partitions = kafka.known_partitions(&wanted)?;
            super::producer::check(&wanted, partitions, kafka.settings.max_record(), &records)?;
            kafka.producing()?.send(&wanted, &records)
        };
        let waiting = self.blocking(send).await?;
        Ok(waiting.done().await?)
    }

    async fn join(&self, group: &str, topic: &str) -> Result<Option<Box<dyn Membership>>> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let member = self.blocking(move |kafka| Member::join(kafka, &group, &topic)).await?;
        Ok(Some(Box::new(member)))
    }

    async fn note(&self, group: &str, positions: &Positions) {
        let (named, positions) = (group.to_owned(), positions.clone());
        let noted = self.blocking(move |kafka| Ok(member::note(kafka, &named, &positions))).await;
        if let Ok(Err(error)) = noted {
            tracing::debug!(group, %error, "lag tools are not told how far the group is");
        }
    }

    async fn publisher(&self, name: &str) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(KafkaPublisher::take_over(Arc::clone(&self.0), self, name).await?))
    }
}
