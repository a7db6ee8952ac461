//! Reads assigned partitions from given positions, never as a member of a group.
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as At, TopicPartitionList};
use tokio::time::Instant;

use super::batch::{Came, Queue, Raw};
use super::client::{Kafka, metadata};
use super::heard::Heard;
use crate::error::Result;
use crate::position::{Offset, TopicPartition};
use crate::record::Record;
use crate::source::{Budget, Polled, Source};
use crate::topic::held::Held;
use crate::topic::{Assignment, BrokerError};

/// The longest wait in the client; a longer one goes round again, so that dropping a source ends it soon.
const WAIT: Duration = Duration::from_millis(100);

/// A reader over some partitions.
pub(super) struct KafkaSource {
    reader: Held<Reader, Result<Fetched, BrokerError>>,
    paused: Arc<BTreeSet<i32>>,
}

impl KafkaSource {
    /// Checks the partitions and starts fetching.
    pub(super) fn open(kafka: &Kafka, assignments: Vec<Assignment>) -> Result<Self, BrokerError> {
        for assignment in &assignments {
            let (topic, partition) = (&assignment.partition.topic, assignment.partition.partition);
            let mut partitions = kafka.known_partitions(topic)?;
            if partition >= partitions {
                // Topics may grow.
                partitions = kafka.partitions(topic)?;
            }
            if !(0..partitions).contains(&partition) {
                return Err(BrokerError::NoPartition { topic: topic.clone(), partition, partitions });
            }
        }
        let heard = Heard::new(&kafka.settings);
        let explain = |error: &KafkaError| heard.explain(error, "opening a reader", None);
        let consumer: BaseConsumer<Heard> =
            kafka.settings.fetching()?.create_with_context(heard.clone()).map_err(|error| explain(&error))?;
        let lanes: Vec<Lane> = assignments
            .into_iter()
            .map(|assignment| Lane {
                done: assignment.to.is_some_and(|to| assignment.from >= to),
                next: assignment.from,
                partition: Arc::new(assignment.partition.clone()),
                handle: 0,
                assignment,
            })
            .collect();
        let mut assigned = TopicPartitionList::new();
        for lane in lanes.iter().filter(|lane| !lane.done) {
            let partition = &lane.assignment.partition;
            assigned
                .add_partition_offset(&partition.topic, partition.partition, At::Offset(lane.next))
                .map_err(|error| explain(&error))?;
        }
        let queue = Queue::of(consumer).ok_or_else(|| BrokerError::Property {
            key: "group.id".to_owned(),
            cause: "it must not be empty".to_owned(),
        })?;
        queue.consumer().assign(&assigned).map_err(|error| explain(&error))?;
        let patience = kafka.settings.timeout;
        let reader = Reader {
            queue,
            heard,
            lanes,
            at: 0,
            ready: VecDeque::new(),
            failed: None,
            paused: Arc::default(),
            patience,
            down_since: None,
        };
        Ok(Self { reader: Held::new(reader), paused: Arc::default() })
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn poll(&mut self, budget: Budget) -> Result<Polled> {
        let deadline = Instant::now() + budget.linger;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now()).min(WAIT);
            let paused = Arc::clone(&self.paused);
            let fetch = move |reader: &mut Reader| {
                reader.rest(paused);
                reader.fetch(budget, wait)
            };
            match self.reader.run(fetch).await?? {
                Fetched::Records(records) => return Ok(Polled::Records(records)),
                Fetched::End => return Ok(Polled::End),
                Fetched::Nothing if Instant::now() >= deadline => return Ok(Polled::Idle),
                Fetched::Nothing => {}
            }
        }
    }

    fn pause(&mut self, partitions: &BTreeSet<i32>) {
        self.paused = Arc::new(partitions.clone());
    }
}

enum Fetched {
    Records(Vec<Record>),
    Nothing,
    End,
}

/// The blocking half.
struct Reader {
    queue: Queue,
    heard: Heard,
    lanes: Vec<Lane>,
    /// The lane of the last record: the next one is most likely of it, too.
    at: usize,
    /// Taken from the client, not yet handed out. At most what the client had fetched.
    ready: VecDeque<Record>,
    /// What ended this reader; it is said again each time.
    failed: Option<BrokerError>,
    /// Partitions that rest for now.
    paused: Arc<BTreeSet<i32>>,
    patience: Duration,
    down_since: Option<std::time::Instant>,
}

struct Lane {
    assignment: Assignment,
    /// As records carry it.
    partition: Arc<TopicPartition>,
    /// The topic as the client knows it; 0 before its first record.
    handle: usize,
    next: Offset,
    done: bool,
}

impl Lane {
    /// Notes that nothing before `offset` is left to come; returns whether this ended the lane.
    fn reach(&mut self, offset: Offset) -> bool {
        self.next = self.next.max(offset);
        let ended = !self.done && self.assignment.to.is_some_and(|to| self.next >= to);
        self.done |= ended;
        ended
    }
}

impl Reader {
    /// Lets exactly these partitions rest. What was fetched of them already is still handed out: at most what the
    /// client holds.
    fn rest(&mut self, paused: Arc<BTreeSet<i32>>) {
        if paused == self.paused {
            return;
        }
        let of = |partitions: &BTreeSet<i32>, but: &BTreeSet<i32>| {
            let mut list = TopicPartitionList::new();
            for lane in self.lanes.iter().filter(|lane| !lane.done) {
                let number = lane.partition.partition;
                if partitions.contains(&number) && !but.contains(&number) {
                    list.add_partition(&lane.partition.topic, number);
                }
            }
            list
        };
        let consumer = self.queue.consumer();
        for outcome in [consumer.pause(&of(&paused, &self.paused)), consumer.resume(&of(&self.paused, &paused))] {
            if let Err(error) = outcome {
                tracing::debug!(%error, "partitions cannot rest, or go on");
            }
        }
        self.paused = paused;
    }

    fn fetch(&mut self, budget: Budget, wait: Duration) -> Result<Fetched, BrokerError> {
        let rows = budget.rows.max(1);
        if self.ready.is_empty() {
            if let Some(failed) = &self.failed {
                return Err(failed.clone());
            }
            if self.lanes.iter().all(|lane| lane.done) {
                return Ok(Fetched::End);
            }
            self.fill(rows, budget.bytes, wait);
        }
        if self.ready.is_empty() {
            if let Some(failed) = &self.failed {
                return Err(failed.clone());
            }
            self.check_alive()?;
            return Ok(if self.lanes.iter().all(|lane| lane.done) { Fetched::End } else { Fetched::Nothing });
        }
        if self.ready.len() <= rows && self.ready.iter().map(Record::size).sum::<usize>() <= budget.bytes {
            return Ok(Fetched::Records(std::mem::take(&mut self.ready).into()));
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < rows {
            let Some(next) = self.ready.front() else { break };
            bytes += next.size();
            if bytes > budget.bytes && !records.is_empty() {
                break;
            }
            records.extend(self.ready.pop_front());
        }
        Ok(Fetched::Records(records))
    }

    /// Takes from the client until the budget is met or nothing is at hand.
    fn fill(&mut self, rows: usize, budget: usize, mut wait: Duration) {
        let mut bytes = 0;
        while self.ready.len() < rows && bytes < budget && self.failed.is_none() {
            let Self { queue, lanes, at, ready, .. } = self;
            let mut ended = Vec::new();
            let mut troubles = Vec::new();
            let mut taken = Taken::default();
            let came = queue.take(rows - ready.len(), wait, |came| match came {
                Came::Record(raw) => {
                    let Some(lane) = find_by_handle(lanes, at, &raw) else { return };
                    let offset = raw.offset;
                    let past = lane.assignment.to.is_some_and(|to| offset >= to);
                    if !past && offset >= lane.next && !lane.done {
                        bytes += taken.push(lane, raw);
                    }
                    if lane.reach(offset + 1) {
                        ended.push(*at);
                    }
                }
                Came::End { topic, partition, offset } => {
                    if find(lanes, at, topic, partition).is_some_and(|lane| lane.reach(offset)) {
                        ended.push(*at);
                    }
                }
                Came::Failed { topic, partition, error } => troubles.push((topic.to_owned(), partition, error)),
            });
            taken.hand_on(ready);
            self.pause(&ended);
            for (topic, partition, error) in troubles {
                self.failed = self.failed.take().or_else(|| self.trouble(&topic, partition, &error));
            }
            if came == 0 {
                return;
            }
            self.heard.well();
            self.down_since = None;
            // Markers and ends are no records: wait on for the rest of the time only if nothing is there yet.
            wait = Duration::ZERO;
        }
    }

    /// Stops fetching what was read to its end.
    fn pause(&self, ended: &[usize]) {
        let mut list = TopicPartitionList::new();
        for lane in ended.iter().filter_map(|at| self.lanes.get(*at)) {
            list.add_partition(&lane.assignment.partition.topic, lane.assignment.partition.partition);
        }
        if let Err(error) = (list.count() > 0).then(|| self.queue.consumer().pause(&list)).transpose() {
            // Records past the end are dropped anyway.
            tracing::debug!(%error, "partitions that are done cannot be paused");
        }
    }

    /// Says what a failure means, or `None` if the client goes on by itself.
    fn trouble(&self, topic: &str, partition: i32, error: &KafkaError) -> Option<BrokerError> {
        use RDKafkaErrorCode as Code;

        match error.rdkafka_error_code()? {
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset => {
                Some(self.out_of_range(topic, partition, error))
            }
            // No group is joined, so none is needed; lost connections come back.
            Code::GroupAuthorizationFailed
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::WaitingForCoordinator
            | Code::CoordinatorNotAvailable => None,
            _ => Some(self.heard.explain(error, "reading", (!topic.is_empty()).then_some(topic))),
        }
    }

    fn out_of_range(&self, topic: &str, partition: i32, error: &KafkaError) -> BrokerError {
        let found = self.lanes.iter().find(|lane| lane.assignment.partition.is(topic, partition));
        let wanted = found.map_or(0, |lane| lane.next);
        let topic = topic.to_owned();
        match self.queue.consumer().fetch_watermarks(&topic, partition, self.patience) {
            Ok((earliest, _)) if wanted < earliest => BrokerError::Gap { topic, partition, wanted, earliest },
            Ok((_, end)) if wanted > end => BrokerError::PastEnd { topic, partition, wanted, end },
            Ok(_) => self.heard.explain(error, "reading", Some(&topic)),
            Err(error) => self.heard.explain(&error, "asking for offsets", Some(&topic)),
        }
    }

    /// Fails if all brokers have been lost for longer than our patience.
    fn check_alive(&mut self) -> Result<(), BrokerError> {
        if !self.heard.down() {
            return Ok(());
        }
        let since = *self.down_since.get_or_insert_with(std::time::Instant::now);
        match metadata(self.queue.consumer(), &self.heard, Some(&self.lanes[0].assignment.partition.topic), WAIT) {
            Ok(_) => self.down_since = None,
            Err(error) if since.elapsed() >= self.patience => return Err(error),
            Err(error @ BrokerError::Login { .. }) => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

/// Returns the lane of a record; `at` is where it was found last.
fn find_by_handle<'l>(lanes: &'l mut [Lane], at: &mut usize, raw: &Raw<'_>) -> Option<&'l mut Lane> {
    let is = |lane: &Lane| lane.handle == raw.handle && lane.partition.partition == raw.partition;
    if !lanes.get(*at).is_some_and(is) {
        let known = lanes.iter().position(is);
        *at = match known {
            Some(known) => known,
            None => lanes.iter().position(|lane| lane.assignment.partition.is(raw.topic.read(), raw.partition))?,
        };
    }
    let lane = lanes.get_mut(*at)?;
    lane.handle = raw.handle;
    Some(lane)
}

/// Returns the lane of a partition; `at` is where it was found last.
fn find<'l>(lanes: &'l mut [Lane], at: &mut usize, topic: &str, partition: i32) -> Option<&'l mut Lane> {
    if !lanes.get(*at).is_some_and(|lane| lane.assignment.partition.is(topic, partition)) {
        *at = lanes.iter().position(|lane| lane.assignment.partition.is(topic, partition))?;
    }
    lanes.get_mut(*at)
}

/// Records copied out of the client's memory. All their bytes go into one block: a block of its own for each key and
/// value costs more than the copy.
#[derive(Default)]
struct Taken {
    block: Vec<u8>,
    records: Vec<Copied>,
}

struct Copied {
    partition: Arc<TopicPartition>,
    offset: Offset,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(String, Bytes)>,
}

impl Taken {
    /// Copies a record; returns its size.
    fn push(&mut self, lane: &Lane, raw: Raw<'_>) -> usize {
        let before = self.block.len();
        let mut copy = |bytes: &[u8]| {
            let from = self.block.len();
            self.block.extend_from_slice(bytes);
            from..self.block.len()
        };
        let (key, value) = (raw.key.map(&mut copy), raw.value.map(&mut copy));
        let headers: usize = raw.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.records.push(Copied {
            partition: Arc::clone(&lane.partition),
            offset: raw.offset,
            timestamp_ms: raw.timestamp_ms,
            key,
            value,
            headers: raw.headers,
        });
        self.block.len() - before + headers
    }

    /// Hands the records on, each with its part of the block.
    fn hand_on(self, ready: &mut VecDeque<Record>) {
        let block = Bytes::from(self.block);
        ready.extend(self.records.into_iter().map(|copied| Record {
            partition: copied.partition,
            offset: copied.offset,
            timestamp_ms: copied.timestamp_ms,
            key: copied.key.map(|range| block.slice(range)),
            value: copied.value.map(|range| block.slice(range)),
            headers: copied.headers,
        }));
    }
}
