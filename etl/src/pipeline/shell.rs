//! The loop around [`super::decide`]: one topic into one table.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::Schema;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use deltalake::kernel::Action as LogAction;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::body::{self, BodySettings, OnIncompatible};
use super::dead_letter::DeadLetters;
use super::decide::{Action, Event, Filling, Limits, decide};
use super::decode::{Decoder, ours};
use super::error::LandingError;
use crate::error::Result;
use crate::position::{Bounds, Offset, TopicPartition};
use crate::record::Record;
use crate::schema_registry::Registry;
use crate::source::Polled;
use crate::table::{Commit, FileWriter, Guard, Lake, Operation, Table, TableName, WriteOptions, evolve};
use crate::topic::{Assignment, Broker};

/// Reads the wall clock; handed in, because nothing here reads it by itself.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// One topic into one table.
#[derive(Clone)]
pub struct Landing {
    /// The stream's stable name: the identity of its progress. Never a run's id.
    pub stream: String,
    /// The topic.
    pub topic: String,
    /// The table.
    pub table: TableName,
    /// How its values are written: a name in [`body::KINDS`].
    pub format: String,
    /// The subject of its values in the registry.
    pub subject: String,
    /// What to do with records whose schema contradicts the table's columns.
    pub on_incompatible: OnIncompatible,
    /// The field that gives the event time.
    pub event_time: Option<String>,
    /// What local times without an offset mean.
    pub zone: Tz,
    /// What closes a micro-batch.
    pub limits: Limits,
    /// Whether to end at the offsets that were the topic's ends at the start.
    pub drain: bool,
    /// Whether a gap made by retention is noted and passed over, not an error.
    pub record_gaps: bool,
}

/// Counters that others may read while a landing runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows committed.
    pub rows: AtomicU64,
    /// Dead letters committed.
    pub dead: AtomicU64,
    /// Bytes of keys and values committed.
    pub bytes: AtomicU64,
    /// Commits made.
    pub commits: AtomicU64,
    /// Records between what is committed and the topic's end when last looked at.
    pub lag: AtomicU64,
}

/// What a landing did until it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Landed {
    /// Rows committed.
    pub rows: u64,
    /// Dead letters committed.
    pub dead: u64,
    /// Commits made.
    pub commits: u64,
    /// The table's version.
    pub version: u64,
}

/// What a landing works with.
#[derive(Clone)]
pub struct Around {
    /// The lake.
    pub lake: Lake,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// The registry.
    pub registry: Arc<dyn Registry>,
    /// The dead-letter table.
    pub dead: DeadLetters,
    /// The clock.
    pub clock: Clock,
}

struct Held {
    app: String,
    /// The next offset to read.
    next: Offset,
    /// What the table has of it: `None` before the first commit.
    committed: Option<i64>,
    epoch_app: String,
    epoch: i64,
}

/// Lands a topic until it is drained, or `stop` is cancelled; then what was read is committed and the loop ends.
///
/// # Errors
/// [`LandingError::Gap`] and [`LandingError::Ahead`] if the topic no longer has what comes next;
/// `TableError::Fenced` if another process has taken a partition over. Nothing is lost: the next start goes on.
pub async fn land(around: &Around, landing: &Landing, progress: &Progress, stop: &CancellationToken) -> Result<Landed> {
    let there = match around.lake.try_table(&landing.table).await? {
        Some(table) => Some(own_columns(&*table.schema()?)),
        None => None,
    };
    let settings = BodySettings {
        topic: landing.topic.clone(),
        subject: landing.subject.clone(),
        registry: Arc::clone(&around.registry),
        there,
        zone: landing.zone,
        on_incompatible: landing.on_incompatible,
    };
    let body = body::open(&landing.format, settings)
        .await
        .ok_or_else(|| LandingError::NoFormat { topic: landing.topic.clone(), format: landing.format.clone() })??;
    let mut decoder = Decoder::new(&landing.stream, &landing.topic, body, landing.event_time.as_deref(), landing.zone)?;
    let mut table = around.lake.ensure(&landing.table, decoder.schema(), &[]).await?;
    evolve(&mut table, decoder.schema(), (around.clock)()).await?;

    let bounds = around.broker.bounds(&landing.topic).await?;
    if landing.drain && is_drained(&table, landing, &bounds).await? {
        return Ok(Landed { version: table.version(), ..Landed::default() });
    }
    let mut held = take_over(&mut table, landing, bounds.len(), (around.clock)()).await?;
    let assignments = assign(landing, &bounds, &mut held)?;
    let mut source = around.broker.source(&assignments).await?;

    let mut landed = Landed { version: table.version(), ..Landed::default() };
    let mut records: Vec<Record> = Vec::new();
    let mut filling = Filling::default();
    let mut opened = Instant::now();
    let mut event = Event::Start;
    loop {
        if filling.rows > 0 {
            filling.age = opened.elapsed();
        }
        let last = match decide(&filling, event, &landing.limits) {
            Action::Poll(budget) => {
                event = tokio::select! {
                    biased;
                    () = stop.cancelled() => Event::Stop,
                    polled = source.poll(budget) => match polled? {
                        Polled::Records(more) => {
                            if records.is_empty() {
                                opened = Instant::now();
                            }
                            let size = |r: &Record| r.key.as_ref().map_or(0, bytes::Bytes::len) + r.value.as_ref().map_or(0, bytes::Bytes::len);
                            filling.rows += more.len();
                            filling.bytes += more.iter().map(size).sum::<usize>();
                            records.extend(more);
                            Event::Records
                        }
                        Polled::Idle => Event::Idle,
                        Polled::End => Event::End,
                    },
                };
                continue;
            }
            Action::End => return Ok(landed),
            Action::Commit => false,
            Action::CommitAndEnd => true,
        };
        let (rows, dead) = commit(around, landing, &mut decoder, &mut table, &mut held, &records).await?;
        landed.rows += rows;
        landed.dead += dead;
        landed.commits += 1;
        landed.version = table.version();
        progress.rows.fetch_add(rows, Ordering::Relaxed);
        progress.dead.fetch_add(dead, Ordering::Relaxed);
        progress.bytes.fetch_add(filling.bytes as u64, Ordering::Relaxed);
        progress.commits.fetch_add(1, Ordering::Relaxed);
        debug!(topic = landing.topic, rows, dead, version = table.version(), "landed");
        records.clear();
        filling = Filling::default();
        event = Event::Committed;
        if last {
            return Ok(landed);
        }
    }
}

/// The table's columns without those that landing adds.
fn own_columns(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().filter(|field| !ours(field.name())).cloned().collect::<Vec<_>>())
}

/// Whether the table has all there is, so that no partition needs to be taken.
async fn is_drained(table: &Table, landing: &Landing, bounds: &[Bounds]) -> Result<bool> {
    for (partition, bounds) in bounds.iter().enumerate() {
        let next = table.txn(&format!("{}/{}/{partition}", landing.stream, landing.topic)).await?.unwrap_or(0);
        if next != bounds.end {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Raises the fence of every partition in one commit without rows, and reads where each stands.
async fn take_over(
    table: &mut Table,
    landing: &Landing,
    partitions: usize,
    now: DateTime<Utc>,
) -> Result<BTreeMap<TopicPartition, Held>> {
    let mut held = BTreeMap::new();
    let mut commit = Commit::new(Operation::Fence, Guard::Append, now);
    for partition in 0..partitions {
        let partition = TopicPartition::new(&landing.topic, i32::try_from(partition).unwrap_or(i32::MAX));
        let app = format!("{}/{}/{}", landing.stream, landing.topic, partition.partition);
        let epoch_app = format!("{app}/epoch");
        let committed = table.txn(&app).await?;
        let next = committed.unwrap_or(0);
        let known = table.txn(&epoch_app).await?;
        let epoch = known.unwrap_or(0) + 1;
        commit.expected.push((epoch_app.clone(), known));
        commit.txns.push((epoch_app.clone(), epoch));
        held.insert(partition, Held { app, next, committed, epoch_app, epoch });
    }
    table.commit(commit).await?;
    Ok(held)
}

/// What to read of each partition: from where the table stands, if the topic still has that.
fn assign(
    landing: &Landing,
    bounds: &[Bounds],
    held: &mut BTreeMap<TopicPartition, Held>,
) -> Result<Vec<Assignment>, LandingError> {
    let mut assignments = Vec::new();
    for (partition, bounds) in bounds.iter().enumerate() {
        let partition = TopicPartition::new(&landing.topic, i32::try_from(partition).unwrap_or(i32::MAX));
        let Some(at) = held.get_mut(&partition) else { continue };
        let wanted = at.next;
        if wanted < bounds.earliest {
            // Before the first commit there is nothing that could have been lost.
            if wanted > 0 && !landing.record_gaps {
                return Err(LandingError::Gap { partition, wanted, earliest: bounds.earliest });
            }
            if wanted > 0 {
                info!(%partition, from = wanted, to = bounds.earliest, "gap recorded");
            }
            at.next = bounds.earliest;
        }
        if wanted > bounds.end {
            return Err(LandingError::Ahead { partition, wanted, end: bounds.end });
        }
        let to = landing.drain.then_some(bounds.end);
        assignments.push(Assignment { partition, from: at.next, to });
    }
    Ok(assignments)
}

/// Decodes a micro-batch and commits it: dead letters first, each table with the same offsets.
async fn commit(
    around: &Around,
    landing: &Landing,
    decoder: &mut Decoder,
    table: &mut Table,
    held: &mut BTreeMap<TopicPartition, Held>,
    records: &[Record],
) -> Result<(u64, u64)> {
    decoder.prepare(records).await.map_err(|blocked| blocked.error)?;
    let batch = decoder.decode(records)?;
    let now = (around.clock)();
    evolve(table, decoder.schema(), now).await?;
    let mut ends: BTreeMap<&TopicPartition, Offset> = BTreeMap::new();
    for record in records {
        ends.insert(&record.partition, record.offset + 1);
    }
    let mut commit = Commit::append(now);
    let mut ranges = Vec::new();
    for (partition, end) in &ends {
        let Some(at) = held.get(*partition) else { continue };
        commit.expected.push((at.app.clone(), at.committed));
        commit.expected.push((at.epoch_app.clone(), Some(at.epoch)));
        commit.txns.push((at.app.clone(), *end));
        ranges.push(json!({ "partition": partition.partition, "from": at.next, "to": end }));
    }
    let order: Vec<&TopicPartition> = ends.keys().copied().collect();
    let identity_of = |letter: &super::DeadLetter| {
        let index = order.iter().position(|p| Some(p.partition) == letter.partition).unwrap_or_default();
        (index, letter.offset_or_line)
    };
    let dead = around.dead.keep(&batch.dead, &commit.txns, identity_of, now).await?;

    // Rows go out in the table's own columns: it may have some that the topic no longer fills.
    let mut writer = FileWriter::new(table, table.schema()?, WriteOptions::default(), now);
    let rows = crate::table::project(&batch.rows, &table.schema()?, table.name())?;
    writer.write(&rows).await?;
    commit.actions.extend(writer.finish().await?.into_iter().map(LogAction::Add));
    commit.info.insert(
        "landing".to_owned(),
        json!({ "stream": landing.stream, "topic": landing.topic, "ranges": ranges, "dead": batch.dead.len() }),
    );
    commit.metrics = json!({ "numOutputRows": rows.num_rows() });
    table.commit(commit).await?;
    for (partition, end) in ends {
        if let Some(at) = held.get_mut(partition) {
            at.next = end;
            at.committed = Some(end);
        }
    }
    Ok((rows.num_rows() as u64, dead))
}
