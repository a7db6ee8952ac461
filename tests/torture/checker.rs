//! Judges a lake by what was produced, by the invariants P1 to P7 of `etl/src/invariant.rs`. It reads `_delta_log` and
//! Parquet by itself and knows nothing of how they came to be.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tidemill_etl::invariant::INVARIANTS;

use super::files::Files;
use super::log::{self, Added, Log};
use super::numbers::{Fate, Produced, digest};

/// At most this many of a kind are told; the rest is counted.
const TOLD: usize = 5;

/// What was found broken, by invariant.
#[derive(Default)]
pub(super) struct Findings(BTreeMap<&'static str, Vec<String>>);

impl Findings {
    pub(super) fn add(&mut self, id: &'static str, what: String) {
        self.0.entry(id).or_default().push(what);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is about this invariant.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, found) in &self.0 {
            let holds = INVARIANTS.iter().find(|(known, _)| known == id).map_or("", |(_, holds)| *holds);
            writeln!(f, "{id} is broken {} times ({holds}):", found.len())?;
            found.iter().take(TOLD).try_for_each(|what| writeln!(f, "  {what}"))?;
        }
        Ok(())
    }
}

/// How much must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// What the progress says, after a kill.
    SoFar,
    /// Everything that was produced.
    All,
}

/// The stream that is judged.
pub(super) struct Checker {
    pub(super) files: Files,
    pub(super) stream: String,
    pub(super) topic: String,
    /// Offsets by partition that retention deleted unread.
    pub(super) gaps: Vec<(usize, Range<i64>)>,
    /// Files are never changed: what was read once holds.
    read: BTreeMap<String, Vec<Row>>,
}

/// A row of either table.
#[derive(Debug, Clone)]
struct Row {
    partition: i64,
    offset: i64,
    /// Of the columns that were produced; 0 for a dead letter.
    digest: u64,
    raw: Vec<u8>,
}

impl Checker {
    pub(super) fn new(files: Files, stream: &str, topic: &str) -> Self {
        let (stream, topic) = (stream.to_owned(), topic.to_owned());
        Self { files, stream, topic, gaps: Vec::new(), read: BTreeMap::new() }
    }

    /// Compares the lake with what was produced.
    pub(super) fn judge(&mut self, produced: &Produced, want: Want) -> Findings {
        let mut findings = Findings::default();
        let table = log::read(&self.files, &format!("bronze/{}", self.topic), &mut findings);
        let letters = log::read(&self.files, "bronze/dead_letters", &mut findings);
        let rows = table.as_ref().map(|log| self.visible(log, &mut findings)).unwrap_or_default();
        let dead = letters.as_ref().map(|log| self.visible(log, &mut findings)).unwrap_or_default();
        let progress = |partition: usize| {
            let app = format!("{}/{}/{partition}", self.stream, self.topic);
            table.as_ref().and_then(|log| log.txns.get(&app).copied())
        };
        let mut visible = once("P2", "the row", &rows, &mut findings);
        let mut kept = once("P5", "the dead letter", &dead, &mut findings);
        for (partition, records) in produced.partitions.iter().enumerate() {
            let next = progress(partition).unwrap_or(0);
            let end = records.last_key_value().map_or(0, |(offset, _)| offset + 1);
            if next > end || (want == Want::All && next != end) {
                findings.add("P1", format!("partition {partition}: progress is {next}, the end {end}"));
            }
            for (offset, fate) in records {
                let at = (i64::try_from(partition).unwrap(), *offset);
                let (row, letter) = (visible.remove(&at), kept.remove(&at));
                let mut gaps = self.gaps.iter().filter(|(of, gap)| *of == partition && gap.contains(offset));
                match gaps.next() {
                    Some((_, gap)) => {
                        judge_gap(at, *offset == gap.start, row.is_some(), letter.as_ref(), next, &mut findings);
                    }
                    None => judge_one(at, fate, row.as_ref(), letter.as_ref(), next, &mut findings),
                }
            }
        }
        for at in visible.keys() {
            findings.add("P2", format!("a row of {at:?}, which was not produced"));
        }
        for at in kept.keys() {
            findings.add("P5", format!("a dead letter of {at:?}, which was not produced"));
        }
        if let Some(log) = &table {
            self.order_and_ranges(log, &mut findings);
        }
        findings
    }

    /// All rows that a reader of the table sees.
    fn visible(&mut self, log: &Log, findings: &mut Findings) -> Vec<Row> {
        let mut rows = Vec::new();
        for added in log.live.values() {
            match self.rows_of(log, added) {
                Some(found) => {
                    true_stats(added, found, findings);
                    rows.extend(found.iter().cloned());
                }
                None => findings.add("P6", format!("{}/{} is named and cannot be read", log.folder, added.path)),
            }
        }
        rows
    }

    /// The rows of a file; `None` if it is not there, or not Parquet.
    fn rows_of(&mut self, log: &Log, added: &Added) -> Option<&Vec<Row>> {
        let path = format!("{}/{}", log.folder, added.path);
        if !self.read.contains_key(&path) {
            let reader = ParquetRecordBatchReaderBuilder::try_new(self.files.read(&path)?).ok()?.build().ok()?;
            let mut rows = Vec::new();
            for batch in reader {
                let batch = batch.ok()?;
                let of_letters = batch.column_by_name("offset_or_line").is_some();
                rows.extend(if of_letters { self.letters(&batch) } else { numbers(&batch) });
            }
            self.read.insert(path.clone(), rows);
        }
        self.read.get(&path)
    }

    /// The dead letters of our stream and topic.
    fn letters(&self, batch: &RecordBatch) -> Vec<Row> {
        let text = |name: &str, row| array_value_to_string(batch.column_by_name(name).unwrap(), row).unwrap();
        let ours = |row: &usize| text("source", *row) == self.stream && text("topic_or_file", *row) == self.topic;
        let partitions = batch.column_by_name("partition").unwrap().as_primitive::<Int32Type>();
        let offsets = batch.column_by_name("offset_or_line").unwrap().as_primitive::<Int64Type>();
        let raws = batch.column_by_name("raw").unwrap().as_binary::<i32>();
        let row = |row| Row {
            partition: partitions.value(row).into(),
            offset: offsets.value(row),
            digest: 0,
            raw: raws.value(row).to_vec(),
        };
        (0..batch.num_rows()).filter(ours).map(row).collect()
    }

    /// P3 and P7, over every version that is left.
    fn order_and_ranges(&mut self, log: &Log, findings: &mut Findings) {
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        let mut landed: BTreeMap<i64, i64> = BTreeMap::new();
        for version in &log.versions {
            let number = version.number;
            let mut ranges: BTreeMap<i64, Range<i64>> = BTreeMap::new();
            let of_us = version.info["landing"]["topic"] == self.topic.as_str();
            let stated = if of_us { version.info["landing"]["ranges"].as_array() } else { None };
            for range in stated.into_iter().flatten() {
                let value = |name: &str| range[name].as_i64().unwrap_or(-1);
                let (partition, from, to) = (value("partition"), value("from"), value("to"));
                let begin = landed.get(&partition).copied();
                let joins = begin.is_none_or(|begin| begin == from);
                if !joins || from > to {
                    findings.add(
                        "P7",
                        format!("version {number}: partition {partition} goes [{from}, {to}) after {begin:?}"),
                    );
                }
                let app = format!("{}/{}/{partition}", self.stream, self.topic);
                if !version.txns.contains(&(app, to)) {
                    findings
                        .add("P7", format!("version {number}: partition {partition} ends at {to}, and no txn says so"));
                }
                landed.insert(partition, to);
                ranges.insert(partition, from..to);
            }
            for added in version.added.iter().filter(|added| added.data_change) {
                // What a later version replaced may have been vacuumed.
                let Some(rows) = self.rows_of(log, added) else { continue };
                for row in rows {
                    let before = last.insert(row.partition, row.offset);
                    if before.is_some_and(|before| before >= row.offset) {
                        findings.add("P3", format!("version {number}: {row:?} after offset {before:?}"));
                    }
                    if !ranges.get(&row.partition).is_some_and(|range| range.contains(&row.offset)) {
                        findings.add("P7", format!("version {number}: {row:?} is not in its ranges"));
                    }
                }
            }
        }
    }
}

fn numbers(batch: &RecordBatch) -> Vec<Row> {
    let partitions = batch.column_by_name("_partition").unwrap().as_primitive::<Int32Type>();
    let offsets = batch.column_by_name("_offset").unwrap().as_primitive::<Int64Type>();
    let schema = batch.schema();
    let counted = |name: &str| !["_topic", "_partition", "_offset", "_timestamp"].contains(&name);
    let row = |row| {
        let columns = schema.fields().iter().zip(batch.columns());
        let values = columns.filter(|(field, column)| counted(field.name()) && column.is_valid(row));
        let values = values.map(|(field, column)| (field.name().clone(), array_value_to_string(column, row).unwrap()));
        let digest = digest(&values.collect());
        Row { partition: partitions.value(row).into(), offset: offsets.value(row), digest, raw: Vec::new() }
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Rows by their place, each of which must be there once.
fn once(id: &'static str, what: &str, rows: &[Row], findings: &mut Findings) -> BTreeMap<(i64, i64), Row> {
    let mut found = BTreeMap::new();
    for row in rows {
        let at = (row.partition, row.offset);
        if found.insert(at, row.clone()).is_some() {
            findings.add(id, format!("{what} of {at:?} is there twice"));
        }
    }
    found
}

/// What nobody could read is no row, and one letter at its first offset says so.
fn judge_gap(at: (i64, i64), first: bool, row: bool, letter: Option<&Row>, next: i64, findings: &mut Findings) {
    if row {
        findings.add("P2", format!("a row of {at:?}, which was deleted before it was read"));
    }
    match letter {
        Some(letter) if !first || !letter.raw.is_empty() => {
            findings.add("P5", format!("a dead letter of {at:?}, which was deleted before it was read"));
        }
        None if first && at.1 < next => findings.add("P5", format!("no dead letter for the gap at {at:?}")),
        _ => {}
    }
}

/// What became of one record is what had to.
fn judge_one(at: (i64, i64), fate: &Fate, row: Option<&Row>, letter: Option<&Row>, next: i64, findings: &mut Findings) {
    let landed = at.1 < next;
    match (fate, row, letter) {
        (Fate::Row(digest), Some(row), None) if row.digest == *digest => {}
        (Fate::Row(_), Some(_), None) => findings.add("P1", format!("the row of {at:?} is not what was produced")),
        (Fate::Dead(raw), None, Some(letter)) if letter.raw == *raw => {}
        (Fate::Dead(_), None, Some(_)) => findings.add("P5", format!("the letter of {at:?} has other bytes")),
        (_, None, None) if !landed => {}
        (_, None, None) => findings.add("P1", format!("{at:?} is nowhere, and progress is {next}")),
        (Fate::Row(_), _, Some(_)) => findings.add("P5", format!("{at:?} is a dead letter and need not be")),
        (Fate::Dead(_), Some(_), _) => findings.add("P2", format!("a row of {at:?}, which cannot be one")),
    }
    if row.is_some() && !landed {
        findings.add("P4", format!("{at:?} is visible and progress is {next}"));
    }
}

/// The log's numbers about a file are the file's.
fn true_stats(added: &Added, rows: &[Row], findings: &mut Findings) {
    let Some(stats) = &added.stats else { return };
    let name = if rows.iter().any(|row| row.digest != 0) { "_offset" } else { return };
    if stats["numRecords"].as_u64() != Some(rows.len() as u64) {
        findings.add("P6", format!("{} has {} rows, its stats say {}", added.path, rows.len(), stats["numRecords"]));
    }
    let offsets: BTreeSet<i64> = rows.iter().map(|row| row.offset).collect();
    for (bound, offset) in [("minValues", offsets.first()), ("maxValues", offsets.last())] {
        let stated = &stats[bound][name];
        if *stated != Value::Null && stated.as_i64() != offset.copied() {
            findings.add("P6", format!("{}: {bound} of {name} is {stated}, the rows have {offset:?}", added.path));
        }
    }
}
