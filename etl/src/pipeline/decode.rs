//! Records into rows of the table, or dead letters. One bad record never costs its neighbours.
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use chrono_tz::Tz;

use super::body::{Blocked, Body, Taken};
use super::columns::Projection;
use super::dead_letter::DeadLetter;
use super::error::LandingError;
use super::rules::{Rule, Rules};
use crate::error::Result;
use crate::format::instant;
use crate::record::Record;

/// Columns that landing adds to every table of a topic, after the record's own.
pub const META_COLUMNS: [&str; 6] = ["_topic", "_partition", "_offset", "_timestamp", "_key", "_schema_id"];
/// The column that holds the event time, where a field was named for it.
const EVENT_AT: &str = "event_at";

/// What a batch of records came to.
#[derive(Debug)]
pub struct Decoded {
    /// Rows in the table's columns, in the order of the records.
    pub rows: RecordBatch,
    /// What could not become a row, in the order of the records.
    pub dead: Vec<DeadLetter>,
    /// Records that say nothing a row could hold, and that is no fault.
    pub nothing: u64,
}

/// How strictly texts are read as event times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// As ISO 8601 writes them: `2000-01-14T08:10:41`.
    #[default]
    Iso,
    /// Also where they are not padded: `2000-1-14T8:10:41`. A day that no calendar has is no time either way.
    Lenient,
}

/// Whether landing adds this column to a table, for which an event time is named or not; all others are the record's own.
pub(crate) fn ours(column: &str, event_time: bool) -> bool {
    event_time && column == EVENT_AT || META_COLUMNS.contains(&column)
}

/// Decodes the records of one topic.
pub struct Decoder {
    stream: String,
    topic: String,
    body: Box<dyn Body>,
    /// All columns that rules and `select` see.
    source: SchemaRef,
    /// All columns of the table.
    table: SchemaRef,
    /// The body's columns that these were made of.
    own: SchemaRef,
    event_time: Option<String>,
    reading: Reading,
    zone: Tz,
    rules: Option<Rules>,
    select: Option<Projection>,
}

/// The rows of a micro-batch that are still good.
struct Left {
    rows: RecordBatch,
    /// Which of the records taken each row is of; `None`: all are left.
    places: Option<Vec<usize>>,
}

impl Left {
    fn place(&self, row: usize) -> usize {
        self.places.as_ref().map_or(row, |places| places.get(row).copied().unwrap_or(usize::MAX))
    }

    fn keep(&mut self, good: &BooleanArray) -> std::result::Result<(), ArrowError> {
        if good.true_count() == good.len() {
            return Ok(());
        }
        self.places = Some((0..good.len()).filter(|row| good.value(*row)).map(|row| self.place(row)).collect());
        self.rows = filter_record_batch(&self.rows, good)?;
        Ok(())
    }
}

impl Decoder {
    /// A decoder into the columns of `body` and those that landing adds. `event_time` names the field (text, a
    /// timestamp, or milliseconds) that `event_at` is made from; text without an offset is in `zone`.
    ///
    /// # Errors
    /// [`LandingError::NoEventTime`] if no column can be called `event_time`.
    pub fn new(stream: &str, topic: &str, body: Box<dyn Body>, event_time: Option<&str>, zone: Tz) -> Result<Self> {
        let columns = body.columns();
        if let Some(field) = event_time
            && !body.open_ended()
            && columns.field_with_name(field).is_err()
        {
            return Err(LandingError::NoEventTime { topic: topic.to_owned(), field: field.to_owned() }.into());
        }
        let mut decoder = Self {
            stream: stream.to_owned(),
            topic: topic.to_owned(),
            own: Arc::clone(columns),
            source: Arc::new(Schema::empty()),
            table: Arc::new(Schema::empty()),
            body,
            event_time: event_time.map(str::to_owned),
            reading: Reading::Iso,
            zone,
            rules: None,
            select: None,
        };
        decoder.compile()?;
        Ok(decoder)
    }

    /// Reads event times like this.
    #[must_use]
    pub fn reading(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Makes a dead letter of each record that breaks one of `rules`: the first one is the reason.
    ///
    /// # Errors
    /// [`LandingError::Rule`] if a rule cannot be asked of the columns known now.
    pub fn rules(mut self, rules: Vec<Rule>) -> Result<Self> {
        self.rules = (!rules.is_empty()).then(|| Rules::new(rules));
        self.compile()?;
        Ok(self)
    }

    /// Gives the table the columns `select`, name and SQL over the record's columns, instead of the record's own;
    /// `there` are those that it has already.
    ///
    /// # Errors
    /// [`LandingError::Column`] if one cannot be made of the columns known now.
    pub fn select(mut self, select: Vec<(String, String)>, there: Option<Schema>) -> Result<Self> {
        self.select = (!select.is_empty()).then(|| Projection::new(select, there));
        self.compile()?;
        Ok(self)
    }

    /// Brings columns, rules and `select` up to the body's columns.
    fn compile(&mut self) -> Result<()> {
        self.source = self.columns();
        let open = self.body.open_ended();
        let timed = self.event_time.is_some();
        if let Some(rules) = &mut self.rules {
            rules.compile(&self.topic, &self.source, open)?;
        }
        self.table = match &mut self.select {
            None => Arc::clone(&self.source),
            Some(select) => {
                select.compile(&self.topic, &self.source, open)?;
                let added = self.source.fields().iter().filter(|field| ours(field.name(), timed));
                let own = select.fields().filter(|field| !ours(field.name(), timed));
                Arc::new(Schema::new(own.chain(added).cloned().collect::<Vec<_>>()))
            }
        };
        Ok(())
    }

    fn columns(&self) -> SchemaRef {
        // Names of ours that a record has too are ours: a row tells truly where it came from.
        let mut all: Vec<_> = self
            .body
            .columns()
            .fields()
            .iter()
            .filter(|f| !ours(f.name(), self.event_time.is_some()))
            .cloned()
            .collect();
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut add = |name: &str, data_type| all.push(Arc::new(Field::new(name, data_type, true)));
        if self.event_time.is_some() {
            add(EVENT_AT, utc.clone());
        }
        let types = [DataType::Utf8, DataType::Int32, DataType::Int64, utc, DataType::Utf8, DataType::Int32];
        for (name, data_type) in META_COLUMNS.iter().zip(types) {
            add(name, data_type);
        }
        Arc::new(Schema::new(all))
    }

    /// The columns of the table as they are known now; they may have grown after [`Decoder::prepare`].
    pub fn schema(&self) -> &SchemaRef {
        &self.table
    }

    /// Gets ready for these records; see [`Body::prepare`].
    ///
    /// # Errors
    /// [`Blocked`] if a record has to wait; those before it can be decoded.
    pub async fn prepare(&mut self, records: &[Record]) -> std::result::Result<(), Blocked> {
        let prepared = self.body.prepare(records).await;
        if !Arc::ptr_eq(&self.own, self.body.columns()) {
            self.own = Arc::clone(self.body.columns());
            self.compile().map_err(|error| Blocked { index: 0, error })?;
        }
        prepared
    }

    /// Decodes a micro-batch that was prepared. The rows come in the order of the records.
    ///
    /// # Errors
    /// Only faults of this program: a record that cannot be read is a dead letter.
    pub fn decode(&mut self, records: &[Record]) -> Result<Decoded> {
        let mut dead = Vec::new();
        let mut nothing = 0;
        let mut taken: Vec<usize> = Vec::with_capacity(records.len());
        let mut ids: Vec<Option<i32>> = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match self.body.read(record) {
                Ok(Taken::Row(id)) => {
                    taken.push(index);
                    ids.push(id);
                }
                Ok(Taken::Nothing) => nothing += 1,
                Err(refused) => {
                    let letter = self.letter(record, refused.schema_id, refused.reason, refused.detail);
                    dead.push((index, letter));
                }
            }
        }
        let batch = self.body.flush()?;
        let (rows, untimely) = self.finish(&batch, &taken, &ids, records).map_err(|source| self.arrow(source))?;
        if !untimely.is_empty() {
            dead.extend(untimely);
            dead.sort_by_key(|(index, _)| *index);
        }
        Ok(Decoded { rows, dead: dead.into_iter().map(|(_, letter)| letter).collect(), nothing })
    }

    fn finish(
        &self,
        batch: &RecordBatch,
        taken: &[usize],
        ids: &[Option<i32>],
        records: &[Record],
    ) -> std::result::Result<(RecordBatch, Vec<(usize, DeadLetter)>), ArrowError> {
        let mut dead = Vec::new();
        let own = batch
            .schema_ref()
            .fields()
            .iter()
            .zip(batch.columns())
            .filter(|(field, _)| !ours(field.name(), self.event_time.is_some()));
        let mut columns: Vec<ArrayRef> = own.map(|(_, column)| Arc::clone(column)).collect();
        let mut timely: Option<BooleanArray> = None;
        if let Some(field) = &self.event_time {
            let source = batch.column_by_name(field);
            let at = match source {
                Some(source) => self.event_at(source)?,
                // Fields are still being found out, and no record so far had this one.
                None => TimestampMicrosecondArray::new_null(batch.num_rows()).with_timezone("UTC"),
            };
            if at.null_count() > 0 {
                for row in (0..at.len()).filter(|row| at.is_null(*row)) {
                    let detail = match source.and_then(|source| source.as_string_opt::<i32>()) {
                        Some(text) if text.is_valid(row) => {
                            format!("field `{field}`: `{}` is not a date and time", text.value(row))
                        }
                        _ => format!("field `{field}` is NULL"),
                    };
                    dead.extend(self.letter_at(row, taken, ids, records, "event_time", detail));
                }
                timely = Some(arrow::compute::is_not_null(&at)?);
            }
            columns.push(Arc::new(at));
        }
        let of = || taken.iter().filter_map(|index| records.get(*index));
        columns.push(Arc::new(StringArray::from_iter_values(taken.iter().map(|_| self.topic.as_str()))));
        columns.push(Arc::new(Int32Array::from_iter_values(of().map(|r| r.partition.partition))));
        columns.push(Arc::new(Int64Array::from_iter_values(of().map(|r| r.offset))));
        let stamps: TimestampMicrosecondArray = of().map(|r| r.timestamp_ms.checked_mul(1000)).collect();
        columns.push(Arc::new(stamps.with_timezone("UTC")));
        let keys = of().map(|r| r.key.as_ref().map(|key| String::from_utf8_lossy(key)));
        columns.push(Arc::new(keys.collect::<StringArray>()));
        columns.push(Arc::new(ids.iter().copied().collect::<Int32Array>()));
        let mut left = Left { rows: RecordBatch::try_new(Arc::clone(&self.source), columns)?, places: None };
        if let Some(timely) = timely {
            left.keep(&timely)?;
        }
        if let Some(rules) = &self.rules {
            let (good, broken) = rules.ask(&left.rows)?;
            for broken in broken {
                let place = left.place(broken.row);
                dead.extend(self.letter_at(place, taken, ids, records, &broken.rule, broken.detail));
            }
            left.keep(&good)?;
        }
        if let Some(select) = &self.select {
            let (own, unmade) = select.make(&left.rows)?;
            let own = select
                .fields()
                .zip(own)
                .filter(|(field, _)| !ours(field.name(), self.event_time.is_some()))
                .map(|(_, column)| column);
            let source = left.rows.schema();
            let added = source
                .fields()
                .iter()
                .zip(left.rows.columns())
                .filter(|(field, _)| ours(field.name(), self.event_time.is_some()));
            let all: Vec<ArrayRef> = own.chain(added.map(|(_, column)| Arc::clone(column))).collect();
            left.rows = RecordBatch::try_new(Arc::clone(&self.table), all)?;
            let good: BooleanArray =
                (0..left.rows.num_rows()).map(|row| Some(unmade.iter().all(|bad| bad.row != row))).collect();
            for unmade in unmade {
                dead.extend(self.letter_at(left.place(unmade.row), taken, ids, records, "select", unmade.detail));
            }
            left.keep(&good)?;
        }
        Ok((left.rows, dead))
    }

    /// A letter about the record that the row at `place` was made of, with its index.
    fn letter_at(
        &self,
        place: usize,
        taken: &[usize],
        ids: &[Option<i32>],
        records: &[Record],
        reason: &str,
        detail: String,
    ) -> Option<(usize, DeadLetter)> {
        let index = *taken.get(place)?;
        let id = ids.get(place).copied().flatten();
        Some((index, self.letter(records.get(index)?, id, reason, detail)))
    }

    /// Event times in UTC; NULL where there is none to be read.
    fn event_at(&self, source: &ArrayRef) -> std::result::Result<TimestampMicrosecondArray, ArrowError> {
        let times = match source.data_type() {
            DataType::Utf8 => {
                let text = source.as_string::<i32>();
                text.iter().map(|text| text.and_then(|text| event_time(text, self.zone, self.reading))).collect()
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
        DeadLetter::of(&self.stream, record, schema_id, reason, detail)
    }

    fn arrow(&self, source: ArrowError) -> LandingError {
        LandingError::Arrow { topic: self.topic.clone(), source }
    }
}

/// Microseconds since 1970, UTC: RFC 3339, or the same without an offset, which then is `zone`'s local time; also
/// with a blank for the `T` and an offset behind.
fn event_time(text: &str, zone: Tz, reading: Reading) -> Option<i64> {
    let text = text.trim();
    if reading == Reading::Iso && !instant::padded(text) {
        return None;
    }
    instant::parse_lenient(text, zone)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_time_without_an_offset_is_local_to_the_setting() {
        let at = |text, zone| {
            event_time(text, zone, Reading::Iso).and_then(DateTime::from_timestamp_micros).map(|at| at.to_rfc3339())
        };
        let utc = chrono_tz::UTC;
        assert_eq!(at("2025-02-17T14:52:13.596139", utc).as_deref(), Some("2025-02-17T14:52:13.596139+00:00"));
        assert_eq!(at("2025-02-17T14:52:13+04:00", utc).as_deref(), Some("2025-02-17T10:52:13+00:00"));
        assert_eq!(at("2025-02-17 14:52:13", chrono_tz::Asia::Tbilisi).as_deref(), Some("2025-02-17T10:52:13+00:00"));
    }

    #[test]
    fn an_impossible_date_is_no_time() {
        for text in ["2017-2-29T1:0:0", "2017-02-29T10:00:00", "2001-06-31T10:00:00", "yesterday", "", "2025-02-17"] {
            assert_eq!(event_time(text, chrono_tz::UTC, Reading::Lenient), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_padded_is_a_time_for_the_lenient_only() {
        let at = |text, reading| event_time(text, chrono_tz::UTC, reading);
        for (text, padded) in [
            ("2000-1-14T8:10:41", "2000-01-14T08:10:41"),
            ("2000-1-4 8:1:4.5", "2000-01-04T08:01:04.500"),
            ("2000-1-4T8:1:4+04:00", "2000-01-04T04:01:04"),
            ("2012-11-29T17:31:37Z", "2012-11-29T17:31:37"),
        ] {
            assert_eq!(at(text, Reading::Lenient), at(padded, Reading::Iso), "{text}");
            assert!(at(padded, Reading::Iso).is_some());
        }
        assert_eq!(at("2000-1-14T8:10:41", Reading::Iso), None);
        assert_eq!(at("2000-01-14T8:10:41", Reading::Iso), None);
    }
}
