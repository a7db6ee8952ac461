//! Records into rows of the table, or dead letters. One bad record never costs its neighbours.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apache_avro::Schema as AvroSchema;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use chrono::{DateTime, NaiveDateTime, TimeZone as _};
use chrono_tz::Tz;

use super::dead_letter::DeadLetter;
use super::error::LandingError;
use crate::error::Result;
use crate::format::avro::{self, frame};
use crate::record::Record;
use crate::schema_registry::Registry;

/// Columns that landing adds to every table of a topic, after the record's own.
pub const META_COLUMNS: [&str; 6] = ["_topic", "_partition", "_offset", "_timestamp", "_key", "_schema_id"];
/// The column that holds the event time, where a field was named for it.
const EVENT_AT: &str = "event_at";

/// What a batch of records came to.
#[derive(Debug)]
pub struct Decoded {
    /// Rows in the table's columns, in the order of the records.
    pub rows: RecordBatch,
    /// What could not become a row.
    pub dead: Vec<DeadLetter>,
}

enum Writer {
    Known(Box<avro::Decoder>),
    /// Its records cannot become rows of this table: why, in a word and in full.
    Refused(&'static str, String),
}

/// Decodes the records of one topic.
pub struct Decoder {
    stream: String,
    topic: String,
    registry: Arc<dyn Registry>,
    /// The record's own columns.
    body: SchemaRef,
    /// All columns of the table.
    table: SchemaRef,
    event_time: Option<String>,
    zone: Tz,
    writers: HashMap<i32, Writer>,
}

impl Decoder {
    /// A decoder into the columns that the table `there` has already and those that any of `versions` writes. Where
    /// they disagree about a type the earlier one holds, and records that cannot become it are dead letters.
    /// `event_time` names the field (text or a timestamp) that `event_at` is made from; text without an offset is in
    /// `zone`.
    ///
    /// # Errors
    /// If a schema has a type that cannot be stored, or none has the field `event_time`.
    pub fn new(
        stream: &str,
        topic: &str,
        registry: Arc<dyn Registry>,
        versions: &[AvroSchema],
        there: Option<&Schema>,
        event_time: Option<&str>,
        zone: Tz,
    ) -> Result<Self> {
        let ours = |name: &str| name == EVENT_AT || META_COLUMNS.contains(&name);
        let mut own: Vec<Arc<Field>> = Vec::new();
        // Every column may be NULL: a writer that lacks a field then still has rows.
        let mut add = |field: &Arc<Field>| {
            if !ours(field.name()) && !own.iter().any(|known| known.name() == field.name()) {
                own.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            }
        };
        there.into_iter().flat_map(|schema| schema.fields().iter()).for_each(&mut add);
        for version in versions {
            avro::arrow_schema(version)?.fields().iter().for_each(&mut add);
        }
        let body = Arc::new(Schema::new(own.clone()));
        let mut all = own;
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut add = |name: &str, data_type| all.push(Arc::new(Field::new(name, data_type, true)));
        if let Some(field) = event_time {
            if body.field_with_name(field).is_err() {
                return Err(LandingError::NoEventTime { topic: topic.to_owned(), field: field.to_owned() }.into());
            }
            add(EVENT_AT, utc.clone());
        }
        let types = [DataType::Utf8, DataType::Int32, DataType::Int64, utc, DataType::Utf8, DataType::Int32];
        for (name, data_type) in META_COLUMNS.iter().zip(types) {
            add(name, data_type);
        }
        Ok(Self {
            stream: stream.to_owned(),
            topic: topic.to_owned(),
            registry,
            body,
            table: Arc::new(Schema::new(all)),
            event_time: event_time.map(str::to_owned),
            zone,
            writers: HashMap::new(),
        })
    }

    /// The columns of the table.
    pub fn schema(&self) -> &SchemaRef {
        &self.table
    }

    /// Decodes a micro-batch. The rows come in the order of the records.
    ///
    /// # Errors
    /// A registry that cannot be asked about an id not seen before: nothing is lost, the batch is tried again.
    pub async fn decode(&mut self, records: &[Record]) -> Result<Decoded> {
        let mut dead = Vec::new();
        // Which records each writer's decoder took, in order.
        let mut taken: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let Some(value) = &record.value else {
                dead.push((
                    index,
                    self.letter(record, None, "tombstone", "the record has a key but no value".to_owned()),
                ));
                continue;
            };
            let (id, body) = match frame::split(value) {
                Ok(framed) => framed,
                Err(problem) => {
                    dead.push((index, self.letter(record, None, "not_framed", problem.to_string())));
                    continue;
                }
            };
            if !self.writers.contains_key(&id) {
                let writer = self.writer(id).await?;
                self.writers.insert(id, writer);
            }
            match self.writers.get_mut(&id) {
                Some(Writer::Known(decoder)) => match decoder.decode(body) {
                    Ok(()) => taken.entry(id).or_default().push(index),
                    Err(bad) => {
                        let (word, text) = (bad.reason.word(), bad.to_string());
                        dead.push((index, self.letter(record, Some(id), word, text)));
                    }
                },
                Some(Writer::Refused(reason, detail)) => {
                    let (reason, detail) = (*reason, detail.clone());
                    dead.push((index, self.letter(record, Some(id), reason, detail)));
                }
                None => {}
            }
        }
        let (batch, order, ids) = self.gather(taken)?;
        let (rows, late) = self.finish(&batch, &order, &ids, records).map_err(|source| self.arrow(source))?;
        dead.extend(late);
        dead.sort_by_key(|(index, _)| *index);
        Ok(Decoded { rows, dead: dead.into_iter().map(|(_, letter)| letter).collect() })
    }

    async fn writer(&self, id: i32) -> Result<Writer> {
        let Some(text) = self.registry.by_id(id).await? else {
            return Ok(Writer::Refused("unknown_schema", format!("the registry has no schema {id}")));
        };
        let schema = match AvroSchema::parse_str(&text) {
            Ok(schema) => schema,
            Err(error) => return Ok(Writer::Refused("unknown_schema", format!("schema {id} is not Avro: {error}"))),
        };
        Ok(match avro::Decoder::new(&schema, Arc::clone(&self.body)) {
            Ok(decoder) => Writer::Known(Box::new(decoder)),
            Err(error) => Writer::Refused("incompatible_schema", format!("schema {id}: {error}")),
        })
    }

    /// The rows of all writers as one batch, in the order of the records, with record index and schema id of each.
    fn gather(&mut self, taken: BTreeMap<i32, Vec<usize>>) -> Result<(RecordBatch, Vec<usize>, Vec<i32>)> {
        let mut batches = Vec::new();
        let mut order = Vec::new();
        let mut ids = Vec::new();
        for (id, indexes) in taken {
            let Some(Writer::Known(decoder)) = self.writers.get_mut(&id) else { continue };
            batches.push(decoder.flush()?);
            ids.extend(std::iter::repeat_n(id, indexes.len()));
            order.extend(indexes);
        }
        let mut batch = match batches.as_slice() {
            [one] => one.clone(),
            many => concat_batches(&self.body, many).map_err(|source| self.arrow(source))?,
        };
        if batches.len() > 1 {
            let mut permutation: Vec<usize> = (0..order.len()).collect();
            permutation.sort_by_key(|row| order.get(*row).copied());
            let indexes = UInt64Array::from_iter_values(permutation.iter().map(|row| *row as u64));
            batch = take_record_batch(&batch, &indexes).map_err(|source| self.arrow(source))?;
            order = permutation.iter().filter_map(|row| order.get(*row).copied()).collect();
            ids = permutation.iter().filter_map(|row| ids.get(*row).copied()).collect();
        }
        Ok((batch, order, ids))
    }

    fn finish(
        &self,
        batch: &RecordBatch,
        order: &[usize],
        ids: &[i32],
        records: &[Record],
    ) -> std::result::Result<(RecordBatch, Vec<(usize, DeadLetter)>), ArrowError> {
        let mut dead = Vec::new();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        let mut good: Option<BooleanArray> = None;
        if let Some(field) = &self.event_time {
            let source = batch.column_by_name(field).ok_or_else(|| ArrowError::SchemaError(field.clone()))?;
            let at = self.event_at(source)?;
            for row in (0..at.len()).filter(|row| at.is_null(*row)) {
                if let Some((index, record)) = order.get(row).and_then(|i| records.get(*i).map(|r| (*i, r))) {
                    let detail = match source.as_string_opt::<i32>() {
                        Some(text) if text.is_valid(row) => {
                            format!("field `{field}`: `{}` is not a date and time", text.value(row))
                        }
                        _ => format!("field `{field}` is NULL"),
                    };
                    dead.push((index, self.letter(record, ids.get(row).copied(), "event_time", detail)));
                }
            }
            if at.null_count() > 0 {
                good = Some((0..at.len()).map(|row| Some(at.is_valid(row))).collect());
            }
            columns.push(Arc::new(at));
        }
        let of = |index: &usize| records.get(*index);
        columns.push(Arc::new(StringArray::from_iter_values(order.iter().map(|_| self.topic.as_str()))));
        columns.push(Arc::new(order.iter().map(|i| of(i).map(|r| r.partition.partition)).collect::<Int32Array>()));
        columns.push(Arc::new(order.iter().map(|i| of(i).map(|r| r.offset)).collect::<Int64Array>()));
        let stamps = order.iter().map(|i| of(i).and_then(|r| r.timestamp_ms.checked_mul(1000)));
        columns.push(Arc::new(stamps.collect::<TimestampMicrosecondArray>().with_timezone("UTC")));
        let keys = order.iter().map(|i| of(i).and_then(|r| r.key.as_ref()).map(|key| String::from_utf8_lossy(key)));
        columns.push(Arc::new(keys.collect::<StringArray>()));
        columns.push(Arc::new(Int32Array::from(ids.to_vec())));
        let rows = RecordBatch::try_new(Arc::clone(&self.table), columns)?;
        Ok((
            match good {
                Some(good) => filter_record_batch(&rows, &good)?,
                None => rows,
            },
            dead,
        ))
    }

    /// Event times in UTC; NULL where there is none to be read.
    fn event_at(&self, source: &ArrayRef) -> std::result::Result<TimestampMicrosecondArray, ArrowError> {
        let times = match source.data_type() {
            DataType::Utf8 => {
                let text = source.as_string::<i32>();
                text.iter().map(|text| text.and_then(|text| instant(text, self.zone))).collect()
            }
            // A number in a timestamp column is UTC already; one without a zone is taken as UTC too.
            DataType::Timestamp(_, _) | DataType::Date32 => {
                let utc = arrow::compute::cast(source, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
                utc.as_primitive::<TimestampMicrosecondType>().clone()
            }
            // Milliseconds since 1970, as many producers write them.
            DataType::Int64 => {
                let millis = source.as_primitive::<arrow::datatypes::Int64Type>();
                millis.iter().map(|ms| ms.and_then(|ms| ms.checked_mul(1000))).collect()
            }
            other => return Err(ArrowError::SchemaError(format!("an event time cannot be read from {other}"))),
        };
        Ok(TimestampMicrosecondArray::with_timezone(times, "UTC"))
    }

    fn letter(&self, record: &Record, schema_id: Option<i32>, reason: &str, detail: String) -> DeadLetter {
        DeadLetter {
            source: self.stream.clone(),
            topic_or_file: record.partition.topic.clone(),
            partition: Some(record.partition.partition),
            offset_or_line: record.offset,
            schema_id,
            reason: reason.to_owned(),
            detail,
            raw: record.value.as_ref().map(|value| value.to_vec()).unwrap_or_default(),
        }
    }

    fn arrow(&self, source: ArrowError) -> LandingError {
        LandingError::Arrow { topic: self.topic.clone(), source }
    }
}

/// Microseconds since 1970, UTC: RFC 3339, or the same without an offset, which then is `zone`'s local time. A local
/// time that a clock change skips or repeats is taken at its earlier reading; one that is skipped is no time.
fn instant(text: &str, zone: Tz) -> Option<i64> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.timestamp_micros());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(local) = NaiveDateTime::parse_from_str(text, format) {
            return zone.from_local_datetime(&local).earliest().map(|at| at.timestamp_micros());
        }
    }
    DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|at| at.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_an_offset_is_local_to_the_setting() {
        let at = |text, zone| instant(text, zone).and_then(DateTime::from_timestamp_micros).map(|at| at.to_rfc3339());
        let utc = chrono_tz::UTC;
        assert_eq!(at("2025-02-17T14:52:13.596139", utc).as_deref(), Some("2025-02-17T14:52:13.596139+00:00"));
        assert_eq!(at("2025-02-17T14:52:13+04:00", utc).as_deref(), Some("2025-02-17T10:52:13+00:00"));
        assert_eq!(at("2025-02-17 14:52:13", chrono_tz::Asia::Tbilisi).as_deref(), Some("2025-02-17T10:52:13+00:00"));
    }

    #[test]
    fn an_impossible_date_is_no_time() {
        for text in ["2017-02-29T10:00:00", "2001-06-31T10:00:00", "yesterday", "", "2025-02-17"] {
            assert_eq!(instant(text, chrono_tz::UTC), None, "{text}");
        }
    }
}
