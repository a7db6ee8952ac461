//! Rows that are unique by a key: of two with the same key the first wins, and the other is a dead letter.
//!
//! The table itself is the memory: a key is there or it is not, so a restart changes nothing. To ask it seldom, a filter of
//! a fixed size says of most new keys that they cannot be there (Bloom 1970), and the latest keys are kept as they are,
//! because what comes twice mostly comes soon. Only for the rest are the table's key columns read. Memory does not grow
//! with the table; beyond some ten million keys the filter knows less, and the table is asked more often.
use std::collections::HashMap;

use arrow::array::{Array as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, SortField};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt as _;

use super::dead_letter::DeadLetter;
use super::decode::Decoded;
use super::error::LandingError;
use super::expression::shown;
use super::landing::Landing;
use crate::error::Result;
use crate::position::Offset;
use crate::record::Record;
use crate::table::{Lake, TableError, TableName};

/// Words of the filter: 32 MiB. Of ten million keys about 1 in 60,000 new ones is then taken for one that may be there.
const WORDS: usize = 1 << 22;
/// Bits a key sets. Nearly the best for five to twenty million keys.
const BITS: u64 = 8;
/// Keys that end a generation of the latest; two are kept, and one may be longer by one micro-batch.
const LATEST: usize = 200_000;

/// The digest of a key. Two keys with one digest do not happen: it has 128 bits.
type Key = u128;
/// Where the first record with a key was.
type Place = (i32, Offset);

/// Keeps the rows of one table unique by some of its columns.
pub(crate) struct Unique {
    lake: Lake,
    table: TableName,
    stream: String,
    topic: String,
    columns: Vec<String>,
    filter: Option<Vec<u64>>,
    latest: [HashMap<Key, Place>; 2],
}

impl Unique {
    pub(crate) fn new(lake: Lake, landing: &Landing) -> Self {
        Self {
            lake,
            table: landing.table.clone(),
            stream: landing.stream.clone(),
            topic: landing.topic.clone(),
            columns: landing.unique_key.clone(),
            filter: None,
            latest: Default::default(),
        }
    }

    /// The rows whose keys are neither in the table nor came before; a dead letter for each other one. A key with a NULL
    /// in it is no key.
    ///
    /// # Errors
    /// [`LandingError::UniqueKey`] if a column is not there; whatever reading the table meets.
    pub(crate) async fn settle(&mut self, mut decoded: Decoded, records: &[Record]) -> Result<Decoded> {
        if self.columns.is_empty() || decoded.rows.num_rows() == 0 {
            return Ok(decoded);
        }
        if self.filter.is_none() {
            let mut filter = vec![0; WORDS];
            self.read(|key| {
                set(&mut filter, key);
                true
            })
            .await?;
            self.filter = Some(filter);
        }
        // Between micro-batches only: the one before, which may not be committed yet, is always known by heart.
        let [young, old] = &mut self.latest;
        if young.len() >= LATEST {
            *old = std::mem::take(young);
        }
        let keys = self.keys(&decoded.rows)?;
        let places = places(&decoded.rows);
        let unknown = self.unknown(&keys).await?;
        let mut good = Vec::with_capacity(keys.len());
        let mut twice = Vec::new();
        for (row, (key, place)) in keys.iter().zip(&places).enumerate() {
            let Some(key) = key else {
                good.push(true);
                continue;
            };
            let first = self.latest.iter().find_map(|generation| generation.get(key)).copied();
            let is_there = first.is_some_and(|first| first != *place) || unknown.get(key) == Some(&true);
            good.push(!is_there);
            if is_there {
                twice.push((row, *place, first));
            } else {
                self.remember(*key, *place);
            }
        }
        if twice.is_empty() {
            return Ok(decoded);
        }
        let by_place: HashMap<Place, &Record> =
            records.iter().map(|record| ((record.partition.partition, record.offset), record)).collect();
        for (row, place, first) in twice {
            let key: Vec<String> = self
                .columns
                .iter()
                .filter_map(|name| Some(format!("{name} = {}", shown(decoded.rows.column_by_name(name)?, row))))
                .collect();
            let before = match first {
                Some((partition, offset)) => format!("came before, at offset {offset} of partition {partition}"),
                None => "is in the table already".to_owned(),
            };
            let (id, detail) = (schema_id(&decoded.rows, row), format!("{} {before}", key.join(", ")));
            decoded.dead.push(match by_place.get(&place) {
                Some(record) => DeadLetter::of(&self.stream, record, id, "duplicate", detail),
                // A letter without its bytes still says what became of the record.
                None => DeadLetter {
                    source: self.stream.clone(),
                    topic_or_file: self.topic.clone(),
                    partition: Some(place.0),
                    offset_or_line: place.1,
                    schema_id: id,
                    reason: "duplicate".to_owned(),
                    detail,
                    ..DeadLetter::default()
                },
            });
        }
        decoded.rows =
            filter_record_batch(&decoded.rows, &BooleanArray::from(good)).map_err(|source| self.arrow(source))?;
        Ok(decoded)
    }

    /// Of the keys that the filter cannot rule out, whether each is in the table.
    async fn unknown(&self, keys: &[Option<Key>]) -> Result<HashMap<Key, bool>> {
        let known = |key: &Key| self.latest.iter().any(|generation| generation.contains_key(key));
        let filter = self.filter.as_deref().unwrap_or_default();
        let mut unknown: HashMap<Key, bool> =
            keys.iter().flatten().filter(|key| !known(key) && has(filter, **key)).map(|key| (*key, false)).collect();
        let mut left = unknown.len();
        if left > 0 {
            self.read(|key| {
                if let Some(found) = unknown.get_mut(&key).filter(|found| !**found) {
                    *found = true;
                    left -= 1;
                }
                left > 0
            })
            .await?;
        }
        Ok(unknown)
    }

    fn remember(&mut self, key: Key, place: Place) {
        if let Some(filter) = &mut self.filter {
            set(filter, key);
        }
        let [young, _] = &mut self.latest;
        young.insert(key, place);
    }

    /// Hands every key of the table to `take` until it says no.
    async fn read(&self, mut take: impl FnMut(Key) -> bool) -> Result<()> {
        let Some(table) = self.lake.try_table(&self.table).await? else { return Ok(()) };
        self.check(&*table.schema()?)?;
        let failed = |error: datafusion::error::DataFusionError| {
            TableError::delta(
                "read the keys of",
                table.name(),
                deltalake::DeltaTableError::Generic(error.strip_backtrace()),
            )
        };
        let config = SessionConfig::new().set_bool("datafusion.execution.parquet.schema_force_view_types", false);
        let context = SessionContext::new_with_config(config);
        let provider = table.provider(&context.state())?;
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let rows = context.read_table(provider).and_then(|rows| rows.select_columns(&columns)).map_err(failed)?;
        let mut rows = rows.execute_stream().await.map_err(failed)?;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            for key in self.keys(&batch)?.into_iter().flatten() {
                if !take(key) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn check(&self, schema: &Schema) -> Result<(), LandingError> {
        match self.columns.iter().find(|column| schema.field_with_name(column).is_err()) {
            None => Ok(()),
            Some(column) => Err(LandingError::UniqueKey { topic: self.topic.clone(), column: column.clone() }),
        }
    }

    fn keys(&self, rows: &RecordBatch) -> Result<Vec<Option<Key>>> {
        self.check(rows.schema_ref())?;
        let columns: Vec<_> = self.columns.iter().filter_map(|name| rows.column_by_name(name).cloned()).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let converted = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&columns));
        let converted = converted.map_err(|source| self.arrow(source))?;
        let key = |(row, bytes): (usize, arrow::row::Row<'_>)| {
            let whole = columns.iter().all(|column| column.is_valid(row));
            let (low, _) = blake3::hash(bytes.as_ref()).as_bytes().split_first_chunk::<16>().map(|(a, b)| (*a, b))?;
            whole.then(|| Key::from_le_bytes(low))
        };
        Ok(converted.iter().enumerate().map(key).collect())
    }

    fn arrow(&self, source: arrow::error::ArrowError) -> LandingError {
        LandingError::Arrow { topic: self.topic.clone(), source }
    }
}

/// The bits of a key: places drawn by double hashing (Kirsch and Mitzenmacher 2006).
fn bits(key: Key) -> impl Iterator<Item = (usize, u64)> {
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits, and a place below 2^28")]
    let (first, step) = (key as u64, (key >> 64) as u64 | 1);
    (0..BITS).map(move |n| {
        let bit = first.wrapping_add(n.wrapping_mul(step)) % (WORDS as u64 * 64);
        (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
    })
}

fn set(filter: &mut [u64], key: Key) {
    for (word, bit) in bits(key) {
        if let Some(word) = filter.get_mut(word) {
            *word |= bit;
        }
    }
}

fn has(filter: &[u64], key: Key) -> bool {
    bits(key).all(|(word, bit)| filter.get(word).is_some_and(|word| word & bit != 0))
}

/// Where the record of each row is.
fn places(rows: &RecordBatch) -> Vec<Place> {
    use arrow::array::AsArray as _;
    use arrow::datatypes::{Int32Type, Int64Type};

    let partitions = rows.column_by_name("_partition").and_then(|c| c.as_primitive_opt::<Int32Type>());
    let offsets = rows.column_by_name("_offset").and_then(|c| c.as_primitive_opt::<Int64Type>());
    let (Some(partitions), Some(offsets)) = (partitions, offsets) else { return Vec::new() };
    (0..rows.num_rows()).map(|row| (partitions.value(row), offsets.value(row))).collect()
}

fn schema_id(rows: &RecordBatch, row: usize) -> Option<i32> {
    use arrow::array::AsArray as _;

    let ids = rows.column_by_name("_schema_id")?.as_primitive_opt::<arrow::datatypes::Int32Type>()?;
    ids.is_valid(row).then(|| ids.value(row))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
    use chrono::DateTime;
    use deltalake::kernel::Action;

    use super::*;
    use crate::pipeline::body::{OnIncompatible, OnUnknown};
    use crate::pipeline::{Limits, Reading};
    use crate::table::{Commit, S3Settings, Table, write_file};

    fn unique(lake: &Lake, column: &str) -> Unique {
        let landing = Landing {
            stream: "s".to_owned(),
            topic: "t".to_owned(),
            table: TableName::new("silver", "t"),
            format: "json".to_owned(),
            subject: "t-value".to_owned(),
            on_incompatible: OnIncompatible::default(),
            columns: None,
            on_unknown: OnUnknown::default(),
            event_time: None,
            reading: Reading::default(),
            rules: Vec::new(),
            select: Vec::new(),
            unique_key: vec![column.to_owned()],
            zone: chrono_tz::UTC,
            limits: Limits { rows: 10, bytes: 1000, linger: std::time::Duration::ZERO },
            drain: true,
            record_gaps: false,
            shared: false,
        };
        Unique::new(lake.clone(), &landing)
    }

    /// Rows at the offsets from `first` on.
    fn rows(first: i64, ids: &[Option<&str>]) -> Decoded {
        let count = i64::try_from(ids.len()).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(StringArray::from(ids.to_vec()))),
            ("_partition", Arc::new(Int32Array::from(vec![0; ids.len()]))),
            ("_offset", Arc::new(Int64Array::from_iter_values(first..first + count))),
            ("_schema_id", Arc::new(Int32Array::from(vec![None::<i32>; ids.len()]))),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        Decoded { rows, dead: Vec::new(), nothing: 0 }
    }

    fn offsets(decoded: &Decoded) -> (Vec<i64>, Vec<i64>) {
        let good = places(&decoded.rows).into_iter().map(|(_, offset)| offset).collect();
        assert!(decoded.dead.iter().all(|letter| letter.reason == "duplicate"), "{:?}", decoded.dead);
        (good, decoded.dead.iter().map(|letter| letter.offset_or_line).collect())
    }

    async fn keep(table: &mut Table, decoded: &Decoded) {
        let now = DateTime::UNIX_EPOCH;
        let mut commit = Commit::append(now);
        commit.actions.extend(write_file(table, &decoded.rows, now).await.unwrap().map(Action::Add));
        table.commit(commit).await.unwrap();
    }

    #[tokio::test]
    async fn the_first_of_a_key_wins_within_a_batch_across_batches_and_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let first = rows(0, &[Some("a"), Some("b"), Some("a"), None, None]);
        let mut table = lake.ensure(&TableName::new("silver", "t"), &first.rows.schema(), &[]).await.unwrap();
        let mut first_run = unique(&lake, "id");

        let first = first_run.settle(first, &[]).await.unwrap();
        assert_eq!(offsets(&first), (vec![0, 1, 3, 4], vec![2]));
        assert!(first.dead[0].detail.contains("id = 'a' came before, at offset 0"), "{:?}", first.dead);
        keep(&mut table, &first).await;
        let second = first_run.settle(rows(5, &[Some("c"), Some("b")]), &[]).await.unwrap();
        assert_eq!(offsets(&second), (vec![5], vec![6]));
        keep(&mut table, &second).await;

        let mut restarted = unique(&lake, "id");
        let third = restarted.settle(rows(7, &[Some("d"), Some("a"), Some("c"), Some("d")]), &[]).await.unwrap();
        assert_eq!(offsets(&third), (vec![7], vec![8, 9, 10]));
        assert!(third.dead[0].detail.contains("is in the table already"), "{:?}", third.dead);
        // Read again before it was committed: the same rows, not duplicates of themselves.
        let again = restarted.settle(rows(7, &[Some("d"), Some("a")]), &[]).await.unwrap();
        assert_eq!(offsets(&again), (vec![7], vec![8]));
    }

    #[tokio::test]
    async fn a_key_that_is_no_column_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let one = rows(0, &[Some("a")]);
        lake.ensure(&TableName::new("silver", "t"), &one.rows.schema(), &[]).await.unwrap();

        let error = unique(&lake, "event_id").settle(one, &[]).await.unwrap_err();

        assert_eq!(error.code(), "L0353");
    }
}
