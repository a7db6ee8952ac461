//! Proves that a stream's table is what its topic says.
//!
//! The ranges that the commits name are read from the topic again, decoded as the stream decodes now, and compared with
//! the table's rows of the same offsets: how many there are, and a digest of what is in them. What does not decode must
//! be a dead letter. What the topic no longer has cannot be verified, and is told as that, never as equal.
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use datafusion::logical_expr::Expr;
use datafusion::prelude::{ident, lit};
use serde::Serialize;

use super::digest::{Seen, at_offset, differing, digests, seen};
use super::error::StreamError;
use super::patient;
use super::ranges::{Break, Lane, Told, told};
use super::rows::range;
use super::scan::{Wanted, scan};
use crate::engine::Engine;
use crate::error::Result;
use crate::pipeline::{Around, Decoder, Landing, decoder};
use crate::position::TopicPartition;
use crate::record::Record;
use crate::source::{Budget, Polled};
use crate::table::{Table, project};
use crate::topic::Assignment;

/// Records compared together: their number, or their bytes, whichever is first.
const CHUNK: usize = 50_000;
const CHUNK_BYTES: usize = 32 << 20;
/// Differences told one by one; all are counted.
const TOLD: usize = 20;

/// What a verification works on.
pub struct Verifying<'a> {
    /// The parts of the lake.
    pub around: &'a Around,
    /// The engine.
    pub engine: &'a Engine,
    /// The stream and topic.
    pub landing: &'a Landing,
    /// Offsets compared, for whoever watches.
    pub done: &'a AtomicU64,
    /// Offsets to be compared.
    pub total: &'a AtomicU64,
}

/// What was found of one topic.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// The stream.
    pub stream: String,
    /// The topic.
    pub topic: String,
    /// The table.
    pub table: String,
    /// The version compared.
    pub version: u64,
    /// Each partition.
    pub partitions: Vec<Partition>,
    /// How many differences there are.
    pub different: u64,
    /// The first differences, in the order of partition and offset.
    pub differences: Vec<Difference>,
    /// Whether the log still names every commit. If not, what is older is taken to have been landed once.
    pub whole_log: bool,
}

/// What was found of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// The partition.
    pub partition: i32,
    /// The first offset landed.
    pub from: i64,
    /// The next offset to read, as the table has it.
    pub to: i64,
    /// Records read again from the topic.
    pub records: u64,
    /// Rows of the table proven equal.
    pub rows: u64,
    /// Records that are dead letters, not replayed.
    pub dead: u64,
    /// Of those, how many could be read now.
    pub readable: u64,
    /// Records that hold no row, and that is no fault.
    pub nothing: u64,
    /// Offsets that retention had deleted before they were read, as recorded.
    pub gaps: i64,
    /// Offsets that cannot be verified: the topic has them no longer.
    pub gone: i64,
    /// Rows of the table that cannot be verified: their record is gone, or cannot be read now.
    pub unverified: u64,
    /// Sum of the digests of the rows that the topic gives, as 32 hexadecimal digits.
    pub topic_digest: String,
    /// Sum of the digests of the rows that the table has for them.
    pub table_digest: String,
}

/// One difference between topic and table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// What is wrong.
    #[serde(flatten)]
    pub wrong: Wrong,
}

/// What can be wrong with an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "wrong", rename_all = "snake_case")]
pub enum Wrong {
    /// The record has no row, and no dead letter.
    Missing {
        /// Rows there should be.
        expected: u64,
        /// Rows there are.
        found: u64,
    },
    /// There are more rows than were landed.
    Doubled {
        /// Rows there should be.
        expected: u64,
        /// Rows there are.
        found: u64,
    },
    /// A row holds another value.
    Column {
        /// The column.
        column: String,
        /// What the topic says.
        topic: String,
        /// What the table says.
        table: String,
    },
    /// A record that cannot be read has no dead letter.
    NoLetter {
        /// Why it cannot be read.
        reason: String,
    },
    /// A row of a record that holds none.
    Nothing,
    /// A row outside of everything that was landed.
    Outside,
    /// A commit's range does not begin where the one before ended, or the last does not end at the progress.
    Range(Break),
}

/// Verifies the table of `work.landing` at its newest version. Landing may go on meanwhile.
///
/// # Errors
/// If the table, the topic or a schema cannot be read. A difference is no error.
pub async fn verify(work: &Verifying<'_>) -> Result<Verified> {
    let landing = work.landing;
    let table = work.around.lake.table(&landing.table).await?;
    let Told { mut lanes, whole } = told(&table, landing).await?;
    let letters = work.around.dead.lake().try_table(work.around.dead.name()).await?;
    let decoder = decoder(work.around, &patient(landing), Some(&table)).await?;
    let found = Verified {
        stream: landing.stream.clone(),
        topic: landing.topic.clone(),
        table: landing.table.to_string(),
        version: table.version(),
        whole_log: whole,
        ..Verified::default()
    };
    let mut run = Run { work, table, letters, decoder, found };
    let bounds = work.around.broker.bounds(&landing.topic).await?;
    let mut parts = Vec::new();
    for (index, bounds) in bounds.iter().enumerate() {
        let partition = i32::try_from(index).unwrap_or(i32::MAX);
        let Some(to) = run.table.txn(&landing.app(partition)).await? else { continue };
        let mut lane = lanes.remove(&partition).unwrap_or_default();
        if !whole {
            run.older(partition, to, &mut lane).await?;
        }
        run.breaks(partition, to, &lane);
        let from = lane.start().unwrap_or(to);
        work.total.fetch_add(u64::try_from(to - from).unwrap_or_default(), Ordering::Relaxed);
        parts.push((partition, from, to, lane, bounds.earliest));
    }
    run.outside(&parts.iter().map(|(partition, from, to, ..)| (*partition, *from, *to)).collect::<Vec<_>>()).await?;
    for (partition, from, to, lane, earliest) in parts {
        run.partition(Partition { partition, from, to, ..Partition::default() }, &lane, earliest).await?;
    }
    run.found.differences.sort_by_key(|one| (one.partition, one.offset));
    Ok(run.found)
}

/// The dead letter of an offset.
#[derive(Debug, Clone, Copy, Default)]
struct Letter {
    open: bool,
    /// It has no time and key: an earlier version kept it.
    plain: bool,
}

struct Run<'a> {
    work: &'a Verifying<'a>,
    table: Table,
    letters: Option<Table>,
    decoder: Decoder,
    found: Verified,
}

/// Sums that go into a [`Partition`].
#[derive(Default)]
struct Sums {
    topic: u128,
    table: u128,
}

/// What the topic says of some offsets.
#[derive(Default)]
struct Said {
    rows: Option<RecordBatch>,
    /// Row and digest of each offset that gives a row.
    by_offset: BTreeMap<i64, (usize, u128)>,
    refused: BTreeMap<i64, String>,
    nothing: Vec<i64>,
}

impl Run<'_> {
    fn differ(&mut self, partition: i32, offset: i64, wrong: Wrong) {
        self.found.different += 1;
        if self.found.differences.len() < TOLD {
            self.found.differences.push(Difference { partition, offset, wrong });
        }
    }

    /// The commits before the log begins are gone: what they landed is what the table has of before.
    async fn older(&self, partition: i32, to: i64, lane: &mut Lane) -> Result<()> {
        let known = lane.start().unwrap_or(to);
        let wanted = Wanted {
            columns: vec!["_offset".to_owned()],
            filter: Some(range(&self.work.landing.topic, partition, i64::MIN, Some(known))),
            ..Wanted::default()
        };
        let mut rows = scan(self.work.engine, &self.table, wanted).await?;
        let mut lowest: Option<i64> = None;
        while let Some(batch) = rows.next().await? {
            let least = arrow::compute::min(batch.column(0).as_primitive::<Int64Type>());
            lowest = [lowest, least].into_iter().flatten().min();
        }
        if let Some(lowest) = lowest {
            lane.landed.insert(0, (lowest, known));
        }
        Ok(())
    }

    fn breaks(&mut self, partition: i32, to: i64, lane: &Lane) {
        for one in &lane.breaks {
            self.differ(partition, one.from, Wrong::Range(one.clone()));
        }
        if let Some(next) = lane.next
            && next != to
        {
            let version = self.table.version();
            self.differ(partition, to, Wrong::Range(Break { version, expected: next, from: to }));
        }
    }

    /// Rows of this topic in no range that was landed.
    async fn outside(&mut self, parts: &[(i32, i64, i64)]) -> Result<()> {
        let topic = &self.work.landing.topic;
        let inside = parts.iter().map(|(partition, from, to)| range(topic, *partition, *from, Some(*to)));
        let inside = inside.reduce(Expr::or).unwrap_or_else(|| lit(false));
        let wanted = Wanted {
            columns: vec!["_partition".to_owned(), "_offset".to_owned()],
            filter: Some(inside.is_not_true()),
            ..Wanted::default()
        };
        let mut rows = scan(self.work.engine, &self.table, wanted).await?;
        while let Some(batch) = rows.next().await? {
            let partitions = batch.column(0).as_primitive::<arrow::datatypes::Int32Type>();
            let offsets = batch.column(1).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                self.differ(partitions.value(row), offsets.value(row), Wrong::Outside);
            }
        }
        Ok(())
    }

    async fn partition(&mut self, mut part: Partition, lane: &Lane, earliest: i64) -> Result<()> {
        part.gaps = lane.gaps.iter().map(|(from, to)| to - from).sum();
        let mut sums = Sums::default();
        // What retention has deleted since.
        let readable = part.from.max(earliest.min(part.to));
        let mut at = part.from;
        let step = i64::try_from(CHUNK).unwrap_or(i64::MAX);
        while at < readable {
            let to = (at + step).min(readable);
            self.gone(&mut part, lane, (at, to)).await?;
            at = to;
        }
        if readable < part.to {
            self.read(&mut part, lane, &mut sums, readable).await?;
        }
        part.topic_digest = format!("{:032x}", sums.topic);
        part.table_digest = format!("{:032x}", sums.table);
        self.found.partitions.push(part);
        Ok(())
    }

    /// Offsets that the topic has no longer: all that can be said is whether there are more rows than were landed.
    async fn gone(&mut self, part: &mut Partition, lane: &Lane, span: (i64, i64)) -> Result<()> {
        part.gone += span.1 - span.0;
        let columns: SchemaRef = Arc::new(Schema::empty());
        for (offset, seen) in self.seen(part.partition, &columns, span).await? {
            part.unverified += seen.rows;
            let expected = lane.times(offset);
            if seen.rows > expected {
                self.differ(part.partition, offset, Wrong::Doubled { expected, found: seen.rows });
            }
        }
        self.advance(span);
        Ok(())
    }

    fn advance(&self, (from, to): (i64, i64)) {
        self.work.done.fetch_add(u64::try_from(to - from).unwrap_or_default(), Ordering::Relaxed);
    }

    async fn seen(&self, partition: i32, columns: &SchemaRef, span: (i64, i64)) -> Result<BTreeMap<i64, Seen>> {
        seen(self.work.engine, &self.table, columns, (&self.work.landing.topic, partition), span).await
    }

    /// Reads the topic from `from` on and compares it piece by piece.
    async fn read(&mut self, part: &mut Partition, lane: &Lane, sums: &mut Sums, from: i64) -> Result<()> {
        let partition = TopicPartition::new(&self.work.landing.topic, part.partition);
        let assignment = Assignment { partition, from, to: Some(part.to) };
        let mut source = self.work.around.broker.source(&[assignment]).await?;
        let budget = Budget { rows: CHUNK, bytes: CHUNK_BYTES, linger: Duration::from_millis(500) };
        let mut at = from;
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        loop {
            let end = match source.poll(budget).await? {
                Polled::Records(more) => {
                    bytes +=
                        more.iter().map(|record| record.value.as_ref().map_or(0, bytes::Bytes::len)).sum::<usize>();
                    records.extend(more);
                    false
                }
                Polled::Idle => false,
                Polled::End => true,
            };
            if end || records.len() >= CHUNK || bytes >= CHUNK_BYTES {
                let to = if end { part.to } else { records.last().map_or(at, |record| record.offset + 1) };
                self.compare(part, lane, sums, &records, (at, to)).await?;
                self.advance((at, to));
                at = to;
                records.clear();
                bytes = 0;
            }
            if end {
                return Ok(());
            }
        }
    }

    /// The columns that topic and table both have, with the table's types.
    fn common(&self) -> Result<SchemaRef> {
        let topic = self.decoder.schema();
        let schema = self.table.schema()?;
        let both = schema.fields().iter().filter(|field| topic.field_with_name(field.name()).is_ok());
        Ok(Arc::new(Schema::new(both.cloned().collect::<Vec<_>>())))
    }

    async fn decode(&mut self, records: &[Record]) -> Result<(Said, SchemaRef)> {
        self.decoder.prepare(records).await.map_err(|blocked| blocked.error)?;
        let decoded = self.decoder.decode(records)?;
        let columns = self.common()?;
        let rows = project(&decoded.rows, &columns, self.table.name())?;
        let digests = digests(&rows).map_err(StreamError::arrow(self.table.name()))?;
        let offsets = decoded.rows.column_by_name("_offset").and_then(|c| c.as_primitive_opt::<Int64Type>());
        let offsets = offsets.map(|offsets| offsets.values().to_vec()).unwrap_or_default();
        let mut said = Said { rows: Some(rows), ..Said::default() };
        for (row, (offset, digest)) in offsets.into_iter().zip(digests).enumerate() {
            said.by_offset.insert(offset, (row, digest));
        }
        said.refused.extend(decoded.dead.into_iter().map(|letter| (letter.offset_or_line, letter.reason)));
        let silent = records.iter().map(|record| record.offset);
        said.nothing = silent.filter(|at| !said.by_offset.contains_key(at) && !said.refused.contains_key(at)).collect();
        Ok((said, columns))
    }

    /// The dead letters of these offsets.
    async fn letters(&self, partition: i32, (from, to): (i64, i64)) -> Result<BTreeMap<i64, Letter>> {
        let mut found: BTreeMap<i64, Letter> = BTreeMap::new();
        let Some(table) = &self.letters else { return Ok(found) };
        let landing = self.work.landing;
        let schema = table.schema()?;
        let there = |name: &str| schema.field_with_name(name).is_ok();
        let columns = ["offset_or_line", "replayed_at", "produced_at"].into_iter().filter(|name| there(name));
        let filter = ident("source")
            .eq(lit(&landing.stream))
            .and(ident("topic_or_file").eq(lit(&landing.topic)))
            .and(ident("partition").eq(lit(partition)))
            .and(ident("offset_or_line").gt_eq(lit(from)))
            .and(ident("offset_or_line").lt(lit(to)))
            .and(ident("reason").not_eq(lit("gap")));
        let columns = columns.map(str::to_owned).collect();
        let mut rows =
            scan(self.work.engine, table, Wanted { columns, filter: Some(filter), ..Wanted::default() }).await?;
        while let Some(batch) = rows.next().await? {
            let null = |name: &str, row: usize| batch.column_by_name(name).is_none_or(|column| column.is_null(row));
            for (row, offset) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                let (open, plain) = (null("replayed_at", row), null("produced_at", row));
                let letter = found.entry(*offset).or_default();
                letter.open |= open;
                letter.plain |= plain;
            }
        }
        Ok(found)
    }

    /// Compares what the topic says of `[from, to)` with what the table has.
    async fn compare(
        &mut self,
        part: &mut Partition,
        lane: &Lane,
        sums: &mut Sums,
        records: &[Record],
        span: (i64, i64),
    ) -> Result<()> {
        part.records += records.len() as u64;
        let (said, columns) = self.decode(records).await?;
        let letters = self.letters(part.partition, span).await?;
        let mut table = self.seen(part.partition, &columns, span).await?;
        for (offset, (row, digest)) in &said.by_offset {
            let expected = lane.times(*offset);
            let letter = letters.get(offset).copied();
            let found = table.remove(offset);
            let rows = found.map_or(0, |seen| seen.rows);
            if rows > expected {
                self.differ(part.partition, *offset, Wrong::Doubled { expected, found: rows });
            } else if rows == 0 && expected > 0 && letter.is_some_and(|letter| letter.open) {
                part.dead += 1;
                part.readable += 1;
                continue;
            } else if rows == 0 && expected > 0 || rows < expected && letter.is_none() {
                self.differ(part.partition, *offset, Wrong::Missing { expected, found: rows });
            }
            let Some(found) = found else {
                sums.topic = sums.topic.wrapping_add(digest.wrapping_mul(u128::from(expected)));
                continue;
            };
            let mut wanted = *digest;
            let equal = found.same && found.digest == wanted;
            if !equal && !self.look(part, &said, *row, (*offset, letter), &columns).await? {
                // It differs only in what an earlier version did not keep of dead letters.
                wanted = found.digest;
                part.rows += rows;
            } else if equal && rows <= expected {
                part.rows += rows;
            }
            let times = if letter.is_some() { rows.min(expected) } else { expected };
            sums.topic = sums.topic.wrapping_add(wanted.wrapping_mul(u128::from(times)));
            sums.table = sums.table.wrapping_add(found.digest.wrapping_mul(u128::from(rows)));
        }
        for offset in &said.nothing {
            part.nothing += 1;
            if table.remove(offset).is_some() {
                self.differ(part.partition, *offset, Wrong::Nothing);
            }
        }
        for (offset, reason) in said.refused {
            self.refused(part, lane, (offset, reason), letters.get(&offset).copied(), table.remove(&offset));
        }
        // Rows whose record is gone from the topic: compaction took it.
        for (offset, seen) in table {
            let expected = lane.times(offset);
            part.unverified += seen.rows;
            if seen.rows > expected {
                self.differ(part.partition, offset, Wrong::Doubled { expected, found: seen.rows });
            }
        }
        Ok(())
    }

    fn refused(
        &mut self,
        part: &mut Partition,
        lane: &Lane,
        (offset, reason): (i64, String),
        letter: Option<Letter>,
        found: Option<Seen>,
    ) {
        let expected = lane.times(offset);
        match found {
            Some(seen) if seen.rows > expected => {
                self.differ(part.partition, offset, Wrong::Doubled { expected, found: seen.rows });
            }
            // It could be read when it was landed or replayed.
            Some(seen) => part.unverified += seen.rows,
            None if letter.is_some_and(|letter| letter.open) => part.dead += 1,
            None if expected == 0 => {}
            None => self.differ(part.partition, offset, Wrong::NoLetter { reason }),
        }
    }

    /// Names the columns that differ at an offset; whether there are any that count.
    async fn look(
        &mut self,
        part: &Partition,
        said: &Said,
        row: usize,
        (offset, letter): (i64, Option<Letter>),
        columns: &SchemaRef,
    ) -> Result<bool> {
        let plain = letter.is_some_and(|letter| letter.plain);
        if self.found.differences.len() >= TOLD && !plain {
            self.found.different += 1;
            return Ok(true);
        }
        let Some(rows) = &said.rows else { return Ok(false) };
        let lane = (self.work.landing.topic.as_str(), part.partition);
        let mut columns_told: BTreeMap<String, (String, String)> = BTreeMap::new();
        for batch in at_offset(self.work.engine, &self.table, columns, lane, offset).await? {
            for at in 0..batch.num_rows() {
                let found = differing((rows, row), (&batch, at)).map_err(StreamError::arrow(self.table.name()))?;
                for (column, topic, table) in found {
                    if let Entry::Vacant(entry) = columns_told.entry(column) {
                        entry.insert((topic, table));
                    }
                }
            }
        }
        if plain {
            columns_told.retain(|column, _| column != "_timestamp" && column != "_key");
        }
        let Some((column, (topic, table))) = columns_told.into_iter().next() else { return Ok(false) };
        self.differ(part.partition, offset, Wrong::Column { column, topic, table });
        Ok(true)
    }
}
