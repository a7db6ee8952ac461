//! A sealed micro-batch into the lake: dead letters first, then rows and the next offsets to read in one version.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltalake::kernel::Action as LogAction;
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::dead_letter::DeadLetter;
use super::hold::{Gap, Held, Holding, take_over};
use super::landing::{Around, Landed, Landing};
use super::progress::Progress;
use crate::error::Result;
use crate::failpoint::hit;
use crate::position::{Offset, TopicPartition};
use crate::record::Record;
use crate::table::{Appender, Commit, FileWriter, Guard, Operation, WriteOptions, evolve, project};

/// A micro-batch, decoded and ready to be committed.
pub(super) struct Sealed {
    /// The table's columns as the rows need them.
    pub(super) schema: SchemaRef,
    pub(super) rows: RecordBatch,
    pub(super) dead: Vec<DeadLetter>,
    /// Of each partition: the offset after its last record, and how many records there are.
    pub(super) ends: BTreeMap<i32, (Offset, u64)>,
    /// When its records were produced, milliseconds since 1970, UTC.
    pub(super) produced: Vec<i64>,
    /// Bytes of keys and values.
    pub(super) bytes: u64,
}

/// Where partitions end in a run of records.
pub(super) fn ends(records: &[Record]) -> BTreeMap<i32, (Offset, u64)> {
    let mut ends: BTreeMap<i32, (Offset, u64)> = BTreeMap::new();
    // Records of one partition come many at once.
    for run in records.chunk_by(|a, b| a.partition.partition == b.partition.partition) {
        let Some(last) = run.last() else { continue };
        let end = ends.entry(last.partition.partition).or_default();
        end.0 = last.offset + 1;
        end.1 += run.len() as u64;
    }
    ends
}

/// Commits one micro-batch after the other. It owns the table and what is held of the topic, so that the next batch can
/// be read and decoded while it writes.
pub(super) struct Committer {
    pub(super) around: Around,
    pub(super) landing: Landing,
    pub(super) progress: Arc<Progress>,
    pub(super) table: Appender,
    /// The columns that the table is known to have, as the decoder hands them out.
    pub(super) columns: SchemaRef,
    pub(super) holding: Holding,
    pub(super) landed: Landed,
    /// Whether our fence is raised.
    pub(super) fenced: bool,
}

impl Committer {
    /// Raises the fence if that is still to do; false if the topic must be read from elsewhere.
    pub(super) async fn take_over(&mut self) -> Result<bool> {
        if self.fenced {
            return Ok(true);
        }
        hit("land.take_over").await;
        self.fenced = true;
        let stands = take_over(&mut self.table, &mut self.holding, (self.around.clock)()).await?;
        hit("land.taken_over").await;
        Ok(stands)
    }

    /// Commits a micro-batch.
    ///
    /// # Errors
    /// [`TableError::Fenced`](crate::table::TableError) if another holder took a partition: nothing was written.
    pub(super) async fn commit(&mut self, sealed: Sealed) -> Result<()> {
        let begun = Instant::now();
        let now = (self.around.clock)();
        hit("land.before_evolve").await;
        self.evolve(&sealed.schema).await?;
        let mut commit = Commit::append(now);
        let mut dead_of: BTreeMap<i32, u64> = BTreeMap::new();
        for letter in &sealed.dead {
            *dead_of.entry(letter.partition.unwrap_or_default()).or_default() += 1;
        }
        let mut ranges = Vec::new();
        for (partition, (end, records)) in &sealed.ends {
            let Some(held) = self.holding.get(partition) else { continue };
            commit.expected.push((held.app.clone(), held.committed));
            commit.expected.push((held.epoch_app.clone(), held.epoch));
            commit.txns.push((held.app.clone(), *end));
            let dead = dead_of.get(partition).copied().unwrap_or_default();
            ranges.push(json!({
                "partition": partition, "from": held.next, "to": end, "records": records, "dead": dead,
            }));
        }
        let dead = self.keep(&sealed.dead, &commit.txns, &sealed.ends).await?;
        hit("land.after_dead_letters").await;

        // Rows go out in the table's own columns: it may have some that the topic no longer fills.
        let rows = project(&sealed.rows, self.table.schema(), self.table.name())?;
        let mut writer = FileWriter::beside(&self.table, WriteOptions::default(), now);
        writer.write(&rows).await?;
        commit.actions.extend(writer.finish().await?.into_iter().map(LogAction::Add));
        hit("land.after_write").await;
        self.note(&mut commit, &ranges, sealed.dead.len());
        commit.metrics = json!({ "numOutputRows": rows.num_rows() });
        self.table.commit(commit).await?;
        hit("land.after_commit").await;
        for (partition, (end, _)) in &sealed.ends {
            if let Some(held) = self.holding.get_mut(partition) {
                held.next = *end;
                held.committed = Some(*end);
            }
        }

        self.tell();
        let rows = rows.num_rows() as u64;
        self.landed.rows += rows;
        self.landed.dead += dead;
        self.landed.commits += 1;
        self.landed.version = self.table.version();
        let progress = &self.progress;
        progress.rows.fetch_add(rows, Ordering::Relaxed);
        progress.bytes.fetch_add(sealed.bytes, Ordering::Relaxed);
        progress.commits.fetch_add(1, Ordering::Relaxed);
        // Where processes share a stream, whoever holds its first partition keeps the table in shape.
        if let Some(keeper) = &self.around.keeper
            && (!self.landing.shared || self.holding.contains_key(&0))
        {
            keeper.committed(self.table.name(), self.table.version());
        }
        let visible = (self.around.clock)().timestamp_millis();
        progress.committed(begun.elapsed(), visible, sealed.produced.iter().copied());
        debug!(topic = self.landing.topic, rows, dead, version = self.table.version(), "landed");
        Ok(())
    }

    /// Notes where the partitions stand.
    pub(super) fn tell(&self) {
        let position =
            |(partition, held): (&i32, &Held)| (TopicPartition::new(&self.landing.topic, *partition), held.next);
        self.progress.hold(self.holding.iter().map(position).collect());
    }

    /// Adds what a new schema brought, in a commit of its own, before the first row that needs it.
    async fn evolve(&mut self, wanted: &SchemaRef) -> Result<()> {
        if Arc::ptr_eq(&self.columns, wanted) {
            return Ok(());
        }
        let mut table = self.around.lake.table(self.table.name()).await?;
        evolve(&mut table, wanted, (self.around.clock)()).await?;
        self.table = Appender::open(&table).await?;
        self.columns = Arc::clone(wanted);
        Ok(())
    }

    /// Keeps dead letters with the offsets that the rows will have.
    async fn keep(
        &self,
        letters: &[DeadLetter],
        txns: &[(String, i64)],
        ends: &BTreeMap<i32, (Offset, u64)>,
    ) -> Result<u64> {
        let order: Vec<i32> = ends.keys().copied().filter(|partition| self.holding.contains_key(partition)).collect();
        let identity_of = |letter: &DeadLetter| {
            let index = order.iter().position(|partition| Some(*partition) == letter.partition).unwrap_or_default();
            (index, letter.offset_or_line)
        };
        let kept = self.around.dead.keep(letters, txns, identity_of, (self.around.clock)()).await?;
        self.progress.dead.fetch_add(kept, Ordering::Relaxed);
        self.progress.died(letters.iter().map(|letter| letter.reason.clone()));
        Ok(kept)
    }

    fn note(&self, commit: &mut Commit, ranges: &[serde_json::Value], dead: usize) {
        commit.info.insert(
            "landing".to_owned(),
            json!({
                "stream": self.landing.stream, "topic": self.landing.topic, "ranges": ranges, "dead": dead,
            }),
        );
    }

    /// Passes over what retention deleted: one dead letter with the reason `gap` for each range, then the offsets move.
    pub(super) async fn record_gaps(&mut self, gaps: &[Gap]) -> Result<()> {
        if gaps.is_empty() {
            return Ok(());
        }
        self.take_over().await?;
        let now = (self.around.clock)();
        let mut commit = Commit::new(Operation::Append, Guard::Append, now);
        let mut letters = Vec::new();
        let mut ends = BTreeMap::new();
        let mut ranges = Vec::new();
        for gap in gaps {
            let Some(held) = self.holding.get(&gap.partition) else { continue };
            warn!(topic = self.landing.topic, partition = gap.partition, from = gap.from, to = gap.to, "gap recorded");
            commit.expected.push((held.app.clone(), held.committed));
            commit.expected.push((held.epoch_app.clone(), held.epoch));
            commit.txns.push((held.app.clone(), gap.to));
            ranges.push(json!({ "partition": gap.partition, "from": gap.from, "to": gap.to, "gap": true }));
            ends.insert(gap.partition, (gap.to, 0));
            letters.push(DeadLetter {
                source: self.landing.stream.clone(),
                topic_or_file: self.landing.topic.clone(),
                partition: Some(gap.partition),
                offset_or_line: gap.from,
                schema_id: None,
                reason: "gap".to_owned(),
                detail: format!("retention removed the offsets from {} to before {}", gap.from, gap.to),
                ..DeadLetter::default()
            });
        }
        self.landed.dead += self.keep(&letters, &commit.txns, &ends).await?;
        self.note(&mut commit, &ranges, letters.len());
        hit("land.before_gap").await;
        self.table.commit(commit).await?;
        self.landed.commits += 1;
        self.landed.version = self.table.version();
        for gap in gaps {
            let lost = u64::try_from(gap.to - gap.from).unwrap_or_default();
            self.landed.lost += lost;
            self.progress.lost.fetch_add(lost, Ordering::Relaxed);
            if let Some(held) = self.holding.get_mut(&gap.partition) {
                held.next = gap.to;
                held.committed = Some(gap.to);
            }
        }
        Ok(())
    }
}
