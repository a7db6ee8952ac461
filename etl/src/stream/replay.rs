//! Dead letters into their table, once each, after whatever made them dead was mended.
//!
//! A record is in its table if a row with its partition and offset is there: the table itself says what has been
//! replayed, whoever died between which two commits. Each commit that appends replayed rows expects the stream's count
//! of such commits ([`super::beside`]) as it found it when it looked, and raises it: two replays at once cannot both
//! append. Landing goes on meanwhile, and never touches an offset that it has passed.
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{ident, lit};
use serde::Serialize;
use serde_json::json;

use super::error::StreamError;
use super::mark::{Mark, file_of, mark};
use super::reset::{adds, moved};
use super::scan::{Wanted, scan};
use super::{beside, patient};
use crate::engine::Engine;
use crate::error::Result;
use crate::failpoint::hit;
use crate::pipeline::{Around, DeadLetter, Decoder, Landing, Place, Unique, decoder, unpacked_headers, widen};
use crate::position::TopicPartition;
use crate::record::Record;
use crate::table::{Commit, FileWriter, Guard, Table, TableFile, WriteOptions, evolve, project};

/// Letters decoded and committed together: their raw bytes, or their number, whichever is first.
const CHUNK_BYTES: usize = 16 << 20;
const CHUNK: usize = 20_000;
/// Letters whose files are marked together.
const GROUP: usize = 200_000;
/// How often another replay may be quicker.
const TRIES: u32 = 8;

/// A letter as people name it: `TOPIC/PARTITION/OFFSET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterId {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl FromStr for LetterId {
    type Err = StreamError;

    fn from_str(id: &str) -> Result<Self, StreamError> {
        let failed = || StreamError::LetterId { id: id.to_owned() };
        let (rest, offset) = id.rsplit_once('/').ok_or_else(failed)?;
        let (topic, partition) = rest.rsplit_once('/').ok_or_else(failed)?;
        let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) else { return Err(failed()) };
        Ok(Self { topic: topic.to_owned(), partition, offset })
    }
}

/// Which letters to replay: those that every part names.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// These; empty: all.
    pub ids: Vec<LetterId>,
    /// Those that died for this reason.
    pub reason: Option<String>,
}

/// What a replay works on.
pub struct Replaying<'a> {
    /// The parts of the lake.
    pub around: &'a Around,
    /// The engine.
    pub engine: &'a Engine,
    /// The streams and topics whose letters are replayed.
    pub landings: &'a [Landing],
    /// Which of their letters.
    pub choice: &'a Choice,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Letters done, for whoever watches.
    pub done: &'a AtomicU64,
}

/// What became of the letters of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The stream.
    pub stream: String,
    /// The topic.
    pub topic: String,
    /// Open letters chosen.
    pub letters: u64,
    /// Rows appended.
    pub rows: u64,
    /// Records that were in the table already.
    pub there: u64,
    /// Records that hold no row, and that is no fault.
    pub nothing: u64,
    /// Records that the stream has not reached yet, after a reset: it reads them itself.
    pub ahead: u64,
    /// Records that still cannot be read, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// Replays letters. Those that still cannot be read stay, with the reason of now.
///
/// # Errors
/// [`StreamError::Busy`] if others change the tables all the time; whatever a schema that is needed cannot be asked for.
/// What was appended until then is there, and doing it again goes on from it.
pub async fn replay(work: &Replaying<'_>) -> Result<Vec<Replayed>> {
    let dead = &work.around.dead;
    let Some(mut table) = dead.lake().try_table(dead.name()).await? else { return Ok(Vec::new()) };
    if !work.dry_run {
        widen(&mut table, (work.around.clock)()).await?;
    }
    let mut targets: HashMap<(String, String), Target> = HashMap::new();
    // The letters of one version; what we mark makes later ones.
    let pinned = table.clone();
    for files in groups(pinned.files()?) {
        group(work, &pinned, &mut table, files, &mut targets).await?;
    }
    let mut all: Vec<Replayed> = targets.into_values().map(|target| target.done).collect();
    all.sort_by(|a, b| (&a.stream, &a.topic).cmp(&(&b.stream, &b.topic)));
    Ok(all)
}

/// Files whose letters are read, replayed and marked together.
fn groups(files: Vec<TableFile>) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut letters = GROUP;
    for file in files {
        let more = file.rows.unwrap_or(GROUP);
        if letters + more > GROUP || groups.is_empty() {
            groups.push(Vec::new());
            letters = 0;
        }
        letters += more;
        if let Some(group) = groups.last_mut() {
            group.push(file.path);
        }
    }
    groups
}

/// A stream's table, and how its records are read.
struct Target {
    landing: Landing,
    table: Table,
    decoder: Decoder,
    done: Replayed,
}

/// A letter, and where it was found.
pub(super) struct Found {
    pub(super) letter: DeadLetter,
    file: String,
}

async fn group(
    work: &Replaying<'_>,
    pinned: &Table,
    table: &mut Table,
    files: Vec<String>,
    targets: &mut HashMap<(String, String), Target>,
) -> Result<()> {
    let order = ["source", "topic_or_file", "partition", "offset_or_line"];
    let wanted = Wanted {
        files: Some(files),
        filter: Some(chosen(work, pinned)?),
        order: order.iter().map(|name| ident(*name).sort(true, true)).collect(),
        file: true,
        ..Wanted::default()
    };
    let mut rows = scan(work.engine, pinned, wanted).await?;
    let mut chunk: Vec<Found> = Vec::new();
    let mut bytes = 0;
    let mut marks = HashMap::new();
    let mut touched = BTreeSet::new();
    loop {
        let batch = rows.next().await?;
        let found = batch.as_ref().map(|batch| letters(batch, pinned)).unwrap_or_default();
        let last = batch.is_none();
        for one in found {
            let other = chunk.first().is_some_and(|first| {
                (&first.letter.source, &first.letter.topic_or_file) != (&one.letter.source, &one.letter.topic_or_file)
            });
            if other || bytes >= CHUNK_BYTES || chunk.len() >= CHUNK {
                flush(work, targets, &mut chunk, &mut marks, &mut touched).await?;
                bytes = 0;
            }
            bytes += one.letter.raw.len();
            chunk.push(one);
        }
        if last {
            flush(work, targets, &mut chunk, &mut marks, &mut touched).await?;
            break;
        }
    }
    if !work.dry_run {
        mark(work.engine, table, touched, &marks, (work.around.clock)()).await?;
    }
    Ok(())
}

/// The condition on letters: open, of a record, of these streams and topics, and chosen.
fn chosen(work: &Replaying<'_>, table: &Table) -> Result<Expr> {
    let topics = work
        .landings
        .iter()
        .map(|landing| ident("source").eq(lit(&landing.stream)).and(ident("topic_or_file").eq(lit(&landing.topic))));
    let of_streams = topics.reduce(Expr::or).unwrap_or_else(|| lit(false));
    // What retention deleted has no bytes that could be read.
    let mut all = of_streams.and(ident("partition").is_not_null()).and(ident("reason").not_eq(lit("gap")));
    if table.schema()?.field_with_name("replayed_at").is_ok() {
        all = all.and(ident("replayed_at").is_null());
    }
    if let Some(reason) = &work.choice.reason {
        all = all.and(ident("reason").eq(lit(reason)));
    }
    let ids = work.choice.ids.iter().map(|id| {
        ident("topic_or_file")
            .eq(lit(&id.topic))
            .and(ident("partition").eq(lit(id.partition)))
            .and(ident("offset_or_line").eq(lit(id.offset)))
    });
    Ok(match ids.reduce(Expr::or) {
        Some(ids) => all.and(ids),
        None => all,
    })
}

/// The letters of a batch. Columns that an older table lacks are as if NULL.
pub(super) fn letters(batch: &RecordBatch, table: &Table) -> Vec<Found> {
    let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let string = |name: &str, row: usize| {
        text(name).filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned())
    };
    let binary = |name: &str, row: usize| {
        let column = batch.column_by_name(name)?.as_binary_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row).to_vec())
    };
    let int = |name: &str, row: usize| {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Int32Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let offset = |row: usize| {
        let column = batch.column_by_name("offset_or_line")?.as_primitive_opt::<Int64Type>()?;
        Some(column.value(row))
    };
    let produced = |row: usize| {
        let column = batch.column_by_name("produced_at")?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| column.value(row).div_euclid(1000))
    };
    let letter = |row: usize| Found {
        letter: DeadLetter {
            source: string("source", row).unwrap_or_default(),
            topic_or_file: string("topic_or_file", row).unwrap_or_default(),
            partition: int("partition", row),
            offset_or_line: offset(row).unwrap_or_default(),
            schema_id: int("schema_id", row),
            reason: string("reason", row).unwrap_or_default(),
            detail: string("detail", row).unwrap_or_default(),
            raw: binary("raw", row).unwrap_or_default(),
            timestamp_ms: produced(row),
            key: binary("key", row),
            headers: string("headers", row).map(|text| unpacked_headers(&text)).unwrap_or_default(),
        },
        file: file_of(batch, row, table).unwrap_or_default(),
    };
    (0..batch.num_rows()).map(letter).collect()
}

/// The record that a letter was made from.
fn record(letter: &DeadLetter) -> Record {
    // Letters of earlier versions have no time. This one fits no column of microseconds, so that the row has NULL.
    let timestamp_ms = letter.timestamp_ms.unwrap_or(i64::MIN);
    let value = (letter.reason != "tombstone").then(|| Bytes::from(letter.raw.clone()));
    Record {
        partition: Arc::new(TopicPartition::new(&letter.topic_or_file, letter.partition.unwrap_or_default())),
        offset: letter.offset_or_line,
        timestamp_ms,
        key: letter.key.clone().map(Bytes::from),
        value,
        headers: letter.headers.clone(),
    }
}

/// Replays a chunk of one topic's letters and notes what became of them.
async fn flush(
    work: &Replaying<'_>,
    targets: &mut HashMap<(String, String), Target>,
    chunk: &mut Vec<Found>,
    marks: &mut HashMap<Place, Mark>,
    touched: &mut BTreeSet<String>,
) -> Result<()> {
    let found = std::mem::take(chunk);
    let Some(first) = found.first() else { return Ok(()) };
    let key = (first.letter.source.clone(), first.letter.topic_or_file.clone());
    if !targets.contains_key(&key) {
        let landing = work.landings.iter().find(|landing| landing.stream == key.0 && landing.topic == key.1);
        let Some(landing) = landing else { return Ok(()) };
        targets.insert(key.clone(), open(work, landing).await?);
    }
    let Some(target) = targets.get_mut(&key) else { return Ok(()) };
    let number = found.len() as u64;
    target.done.letters += number;
    let outcomes = chunk_of(work, target, &found).await?;
    for one in &found {
        let letter = &one.letter;
        let mark = match outcomes.get(&(letter.partition.unwrap_or_default(), letter.offset_or_line)) {
            None | Some(Fate::Ahead) => continue,
            Some(Fate::Replayed) => Mark::Replayed,
            Some(Fate::Refused(now)) => {
                let same = |a: &DeadLetter| (a.reason.clone(), a.detail.clone(), a.schema_id);
                if same(now) == same(letter) {
                    continue;
                }
                let (reason, detail) = (now.reason.clone(), now.detail.clone());
                Mark::Refused { reason, detail, schema_id: now.schema_id }
            }
        };
        let place = (letter.source.clone(), letter.topic_or_file.clone(), letter.partition, letter.offset_or_line);
        marks.insert(place, mark);
        touched.insert(one.file.clone());
    }
    work.done.fetch_add(number, Ordering::Relaxed);
    Ok(())
}

async fn open(work: &Replaying<'_>, landing: &Landing) -> Result<Target> {
    let lake = &work.around.lake;
    let there = lake.try_table(&landing.table).await?;
    let decoder = decoder(work.around, &patient(landing), there.as_ref()).await?;
    let table = match there {
        Some(table) => table,
        None => lake.ensure(&landing.table, decoder.schema(), &[]).await?,
    };
    let done = Replayed { stream: landing.stream.clone(), topic: landing.topic.clone(), ..Replayed::default() };
    Ok(Target { landing: landing.clone(), table, decoder, done })
}

/// What became of one letter.
enum Fate {
    Replayed,
    Ahead,
    Refused(Box<DeadLetter>),
}

type Fates = HashMap<(i32, i64), Fate>;

async fn chunk_of(work: &Replaying<'_>, target: &mut Target, found: &[Found]) -> Result<Fates> {
    for _ in 0..TRIES {
        target.table.refresh().await?;
        match attempt(work, target, found).await {
            Err(error) if moved(&error) => {}
            done => return done,
        }
    }
    Err(StreamError::Busy { table: target.table.name().to_string() }.into())
}

async fn attempt(work: &Replaying<'_>, target: &mut Target, found: &[Found]) -> Result<Fates> {
    let Target { landing, table, decoder, done } = target;
    let counter = beside(&landing.stream, &landing.topic);
    let known = table.txn(&counter).await?;
    let present = present(work.engine, table, landing, found).await?;
    let mut fates = Fates::new();
    let mut counts = Replayed::default();
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut records: Vec<Record> = Vec::new();
    for one in found {
        let place = (one.letter.partition.unwrap_or_default(), one.letter.offset_or_line);
        if let std::collections::btree_map::Entry::Vacant(entry) = next.entry(place.0) {
            entry.insert(table.txn(&landing.app(place.0)).await?.unwrap_or(0));
        }
        if present.contains(&place) {
            counts.there += 1;
            fates.insert(place, Fate::Replayed);
        } else if next.get(&place.0).is_some_and(|next| place.1 >= *next) {
            counts.ahead += 1;
            fates.insert(place, Fate::Ahead);
        } else if fates.insert(place, Fate::Replayed).is_none() {
            records.push(record(&one.letter));
        }
    }
    decoder.prepare(&records).await.map_err(|blocked| blocked.error)?;
    let mut decoded = decoder.decode(&records)?;
    let appends = decoded.rows.num_rows() > 0 && !work.dry_run;
    if appends {
        // Before anything is asked of the table: this is a commit of its own, and may come after others.
        evolve(table, decoder.schema(), (work.around.clock)()).await?;
    }
    if !landing.unique_key.is_empty() {
        decoded = Unique::new(work.around.lake.clone(), landing).settle(decoded, &records).await?;
    }
    counts.rows = decoded.rows.num_rows() as u64;
    counts.nothing = decoded.nothing;
    for letter in decoded.dead {
        *counts.refused.entry(letter.reason.clone()).or_default() += 1;
        fates.insert((letter.partition.unwrap_or_default(), letter.offset_or_line), Fate::Refused(Box::new(letter)));
    }
    if counts.rows > 0 && appends {
        let now = (work.around.clock)();
        let rows = project(&decoded.rows, &table.schema()?, table.name())?;
        let mut writer = FileWriter::new(table, table.schema()?, WriteOptions::default(), now);
        writer.write(&rows).await?;
        let mut commit = Commit::append(now);
        if !landing.unique_key.is_empty() {
            alone(work, landing, table, &mut commit).await?;
        }
        commit.actions.extend(adds(writer.finish().await?));
        commit.expected.push((counter.clone(), known));
        commit.txns.push((counter, known.unwrap_or(0) + 1));
        let told = json!({ "stream": landing.stream, "topic": landing.topic, "rows": counts.rows });
        commit.info.insert("replay".to_owned(), told);
        commit.metrics = json!({ "numOutputRows": counts.rows });
        hit("replay.before_commit").await;
        table.commit(commit).await?;
        hit("replay.after_commit").await;
    }
    done.rows += counts.rows;
    done.there += counts.there;
    done.nothing += counts.nothing;
    done.ahead += counts.ahead;
    for (reason, number) in counts.refused {
        *done.refused.entry(reason).or_default() += number;
    }
    Ok(fates)
}

/// Where keys are unique, no row may come between the look at the table and the commit, and a landing that runs must look
/// anew, as it knows by heart which keys there are: its fence is raised, and it begins again.
async fn alone(work: &Replaying<'_>, landing: &Landing, table: &Table, commit: &mut Commit) -> Result<()> {
    commit.guard = Guard::Exclusive;
    let partitions = work.around.broker.bounds(&landing.topic).await?.len();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let epoch_app = landing.epoch_app(partition);
        let epoch = table.txn(&epoch_app).await?;
        commit.expected.push((epoch_app.clone(), epoch));
        commit.txns.push((epoch_app, epoch.unwrap_or(0) + 1));
    }
    Ok(())
}

/// Which of the letters' records have a row in the table.
async fn present(engine: &Engine, table: &Table, landing: &Landing, found: &[Found]) -> Result<HashSet<(i32, i64)>> {
    let mut wanted: HashSet<(i32, i64)> = HashSet::new();
    let mut spans: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for one in found {
        let (partition, offset) = (one.letter.partition.unwrap_or_default(), one.letter.offset_or_line);
        wanted.insert((partition, offset));
        let span = spans.entry(partition).or_insert((offset, offset));
        *span = (span.0.min(offset), span.1.max(offset));
    }
    let spans = spans.into_iter().map(|(partition, (low, high))| {
        ident("_partition").eq(lit(partition)).and(ident("_offset").between(lit(low), lit(high)))
    });
    let near = spans.reduce(Expr::or).unwrap_or_else(|| lit(false));
    let wanted_rows = Wanted {
        columns: vec!["_partition".to_owned(), "_offset".to_owned()],
        filter: Some(ident("_topic").eq(lit(&landing.topic)).and(near)),
        ..Wanted::default()
    };
    let mut rows = scan(engine, table, wanted_rows).await?;
    let mut present = HashSet::new();
    while let Some(batch) = rows.next().await? {
        let (partitions, offsets) =
            (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_primitive::<Int64Type>());
        let places = partitions.values().iter().copied().zip(offsets.values().iter().copied());
        present.extend(places.filter(|place| wanted.contains(place)));
    }
    Ok(present)
}
