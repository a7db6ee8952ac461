//! The broker over the file: what does not stream.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::publisher::EmbeddedPublisher;
use super::source::EmbeddedSource;
use super::store::{self, Clock, offset_of, record_id};
use super::writer::{Placed, Writer};
use crate::error::Result;
use crate::position::{Bounds, Offset, Positions, TopicPartition};
use crate::record::NewRecord;
use crate::source::Source;
use crate::topic::held::off_thread;
use crate::topic::{Assignment, Broker, BrokerError, Membership, Publisher, TopicInfo, name, partition_of};

/// The biggest record we take: key, value and headers. Kafka's own default is 1 MiB.
pub(super) const MAX_RECORD: usize = 16 << 20;
/// Records deleted in one transaction, so that writers get their turn between.
const DELETE_AT_ONCE: u32 = 50_000;

/// Topics in one `SQLite` file. Cheap to clone; all clones share the writing thread.
#[derive(Clone)]
pub struct EmbeddedTopics(Arc<Shared>);

/// What the broker, its sources and its publishers share.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) writer: Writer,
    now: Clock,
    reader: Mutex<Connection>,
    /// Topics never change once made; new ones are read when asked for.
    known: Mutex<HashMap<String, Arc<Lanes>>>,
}

/// The lanes of a topic, by partition.
pub(super) struct Lanes {
    pub(super) topic: String,
    pub(super) ids: Vec<i64>,
    /// Whose turn it is among records without a key.
    turn: AtomicUsize,
}

impl Lanes {
    /// Returns the lane of a partition.
    pub(super) fn lane(&self, partition: i32) -> Result<i64, BrokerError> {
        let found = usize::try_from(partition).ok().and_then(|at| self.ids.get(at));
        found.copied().ok_or_else(|| BrokerError::NoPartition {
            topic: self.topic.clone(),
            partition,
            partitions: self.count(),
        })
    }

    fn count(&self) -> i32 {
        i32::try_from(self.ids.len()).unwrap_or(i32::MAX)
    }

    fn choose(&self, record: &NewRecord) -> i32 {
        match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, self.count()),
            (None, None) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.ids.len().max(1);
                i32::try_from(turn).unwrap_or(0)
            }
        }
    }
}

impl Shared {
    /// Runs `read` on the shared read connection, off the async threads.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let shared = Arc::clone(self);
        off_thread(move || {
            let reader = shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
            read(&reader).map_err(store::failed(&shared.path, "reading it"))
        })
        .await
    }

    /// Returns the lanes of a topic.
    pub(super) async fn lanes(self: &Arc<Self>, topic: &str) -> Result<Arc<Lanes>, BrokerError> {
        if let Some(lanes) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Ok(Arc::clone(lanes));
        }
        let wanted = topic.to_owned();
        let ids: Vec<i64> = self
            .read(move |reader| {
                let sql = "SELECT l.id FROM topics t JOIN lanes l ON l.topic = t.id WHERE t.name = ?1
                           ORDER BY l.partition";
                let mut select = reader.prepare_cached(sql)?;
                select.query_map([wanted], |row| row.get(0))?.collect()
            })
            .await?;
        if ids.is_empty() {
            let broker = self.path.display().to_string();
            return Err(BrokerError::UnknownTopic { broker, topic: topic.to_owned() });
        }
        let lanes = Arc::new(Lanes { topic: topic.to_owned(), ids, turn: AtomicUsize::new(0) });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.entry(topic.to_owned()).or_insert(lanes)))
    }

    /// Gives each record its lane and time; refuses what cannot be written.
    pub(super) fn place(&self, lanes: &Lanes, records: Vec<NewRecord>) -> Result<Vec<Placed>, BrokerError> {
        let now = (self.now)();
        let place = |record: NewRecord| {
            let bytes = size(&record);
            if bytes > MAX_RECORD {
                return Err(BrokerError::TooBig { topic: lanes.topic.clone(), bytes, limit: Some(MAX_RECORD) });
            }
            let lane = lanes.lane(lanes.choose(&record))?;
            Ok(Placed { lane, timestamp_ms: record.timestamp_ms.unwrap_or(now), record })
        };
        records.into_iter().map(place).collect()
    }
}

/// Returns the bytes of key, value and headers.
pub(super) fn size(record: &NewRecord) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    headers + record.key.as_ref().map_or(0, bytes::Bytes::len) + record.value.as_ref().map_or(0, bytes::Bytes::len)
}

impl EmbeddedTopics {
    /// Opens the topics file, or makes it with its folder. `now` gives records without a timestamp theirs.
    ///
    /// # Errors
    /// If the file cannot be made or read, is something else, or was written by a newer version.
    pub fn open(path: impl AsRef<Path>, now: Clock) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let writing = store::open_writer(&path)?;
        let reader = Mutex::new(store::open_reader(&path)?);
        let writer = Writer::start(writing, &path)?;
        Ok(Self(Arc::new(Shared { path, writer, now, reader, known: Mutex::default() })))
    }
}

#[async_trait]
impl Broker for EmbeddedTopics {
    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let all = |reader: &Connection| {
            let mut select = reader.prepare_cached("SELECT name, partitions FROM topics ORDER BY name")?;
            let rows = select.query_map([], |row| Ok(TopicInfo { name: row.get(0)?, partitions: row.get(1)? }))?;
            rows.collect()
        };
        Ok(self.0.read(all).await?)
    }

    async fn create(&self, topic: &str, partitions: i32) -> Result<bool> {
        name::check(topic, partitions)?;
        let topic = topic.to_owned();
        Ok(self.0.writer.write(move |group| group.create(&topic, partitions).map(Ok)).await?)
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>> {
        let lanes = self.0.lanes(topic).await?;
        let bounds = move |reader: &Connection| {
            let snapshot = reader.unchecked_transaction()?;
            let mut select = snapshot.prepare_cached("SELECT earliest, end FROM lanes WHERE id = ?1")?;
            let bound = |id: &i64| select.query_row([id], |row| Ok(Bounds { earliest: row.get(0)?, end: row.get(1)? }));
            lanes.ids.iter().map(bound).collect()
        };
        Ok(self.0.read(bounds).await?)
    }

    async fn offsets_at(&self, topic: &str, timestamp_ms: i64) -> Result<Vec<Offset>> {
        let lanes = self.0.lanes(topic).await?;
        let find = move |reader: &Connection| {
            let snapshot = reader.unchecked_transaction()?;
            lanes.ids.iter().map(|lane| first_at(&snapshot, *lane, timestamp_ms)).collect()
        };
        Ok(self.0.read(find).await?)
    }

    async fn delete_before(&self, partition: &TopicPartition, offset: Offset) -> Result<Offset> {
        let lane = self.0.lanes(&partition.topic).await?.lane(partition.partition)?;
        // Readers must see the gap before the first record is gone.
        let earliest = self.0.writer.write(move |group| group.raise_earliest(lane, offset).map(Ok)).await?;
        while self.0.writer.write(move |group| group.delete_some(lane, earliest, DELETE_AT_ONCE).map(Ok)).await? > 0 {}
        Ok(earliest)
    }

    async fn source(&self, assignments: &[Assignment]) -> Result<Box<dyn Source>> {
        let mut assigned = Vec::with_capacity(assignments.len());
        for assignment in assignments {
            let lane = self.0.lanes(&assignment.partition.topic).await?.lane(assignment.partition.partition)?;
            assigned.push((lane, assignment.clone()));
        }
        let path = self.0.path.clone();
        let connection = off_thread(move || store::open_reader(&path)).await?;
        Ok(Box::new(EmbeddedSource::new(connection, self.0.path.clone(), &self.0.writer.commits(), assigned)))
    }

    async fn produce(&self, topic: &str, records: Vec<NewRecord>) -> Result<Vec<(i32, Offset)>> {
        let lanes = self.0.lanes(topic).await?;
        let placed = self.0.place(&lanes, records)?;
        let written = move |group: &mut super::writer::Group<'_>| {
            let offsets = group.append(&placed)?;
            let ids = placed.iter().map(|placed| placed.lane).collect::<Vec<_>>();
            Ok(Ok((ids, offsets)))
        };
        let (ids, offsets) = self.0.writer.write(written).await?;
        let by_lane: HashMap<i64, i32> = lanes.ids.iter().copied().zip(0..).collect();
        Ok(ids.iter().zip(offsets).map(|(id, offset)| (by_lane.get(id).copied().unwrap_or(0), offset)).collect())
    }

    async fn join(&self, _: &str, _: &str) -> Result<Option<Box<dyn Membership>>> {
        Ok(None)
    }

    async fn note(&self, _: &str, _: &Positions) {}

    async fn publisher(&self, name: &str) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(EmbeddedPublisher::take_over(Arc::clone(&self.0), name).await?))
    }
}

/// Returns the first offset of a lane at or after `timestamp_ms`, its end if there is none.
fn first_at(reader: &Connection, lane: i64, timestamp_ms: i64) -> rusqlite::Result<Offset> {
    let (earliest, end): (Offset, Offset) = reader
        .prepare_cached("SELECT earliest, end FROM lanes WHERE id = ?1")?
        .query_row([lane], |row| Ok((row.get(0)?, row.get(1)?)))?;
    // Everything before `from` is older: start there.
    let from: Option<Offset> = reader
        .prepare_cached(
            "SELECT offset FROM times WHERE lane = ?1 AND newest_ms < ?2 ORDER BY newest_ms DESC, offset DESC LIMIT 1",
        )?
        .query_row(params![lane, timestamp_ms], |row| row.get(0))
        .optional()?;
    let from = from.unwrap_or(0).max(earliest);
    let found: Option<i64> = reader
        .prepare_cached("SELECT id FROM records WHERE id >= ?1 AND id < ?2 AND timestamp_ms >= ?3 ORDER BY id LIMIT 1")?
        .query_row(params![record_id(lane, from), record_id(lane, end), timestamp_ms], |row| row.get(0))
        .optional()?;
    Ok(found.map_or(end, offset_of))
}
