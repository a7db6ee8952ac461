//! What a row of a change has beside the row itself.
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::compute::{kernels::nullif::nullif, or};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use arrow::error::ArrowError;

/// What stands in the place of a value that the database did not write to its log, because it is large and unchanged.
const UNAVAILABLE: &str = "__debezium_unavailable_value";
/// The same where bytes are written as base64.
const UNAVAILABLE_BASE64: &str = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";

/// The columns of a change, after those of its row:
///
/// - `_op`: `c` created, `u` updated, `d` deleted, `r` read by a snapshot, `t` truncated, `m` message;
/// - `_source_ts`: when the database made the change, UTC;
/// - `_lsn`: the position in the log of PostgreSQL;
/// - `_position`: the position as text, for any database: `sequence`, or log file, position and row, or the number that
///   its log counts in;
/// - `_tx`: the transaction;
/// - `_unchanged`: the columns that did not change and whose values the database did not send; they are NULL here.
pub(crate) fn meta_fields() -> Vec<FieldRef> {
    let list = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
    let fields = [
        ("_op", DataType::Utf8),
        ("_source_ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ("_lsn", DataType::Int64),
        ("_position", DataType::Utf8),
        ("_tx", DataType::Utf8),
        ("_unchanged", list),
    ];
    fields.map(|(name, data_type)| Arc::new(Field::new(name, data_type, true))).to_vec()
}

/// Where in the database's log a change was, as far as a connector says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    ts_ms: Option<String>,
    ts_us: Option<String>,
    lsn: Option<String>,
    sequence: Option<String>,
    file: Option<String>,
    pos: Option<String>,
    row: Option<String>,
    /// What Oracle, SQL Server and Db2 count in.
    scn: Option<String>,
    tx_id: Option<String>,
}

/// One change without its row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) op: String,
    pub(crate) source: Source,
    pub(crate) transaction: Option<String>,
}

impl Source {
    /// Takes up the member `name`.
    pub(crate) fn set(&mut self, name: &str, value: Option<String>) {
        let member = match name {
            "ts_ms" => &mut self.ts_ms,
            "ts_us" => &mut self.ts_us,
            "lsn" => &mut self.lsn,
            "sequence" => &mut self.sequence,
            "file" => &mut self.file,
            "pos" => &mut self.pos,
            "row" => &mut self.row,
            "scn" | "change_lsn" => &mut self.scn,
            "txId" => &mut self.tx_id,
            _ => return,
        };
        *member = value;
    }

    /// Microseconds since 1970, UTC.
    fn at(&self) -> Option<i64> {
        let micros = self.ts_us.as_ref().and_then(|micros| micros.parse().ok());
        micros.or_else(|| self.ts_ms.as_ref()?.parse::<i64>().ok()?.checked_mul(1_000))
    }

    fn position(&self) -> Option<String> {
        if let Some(sequence) = &self.sequence {
            return Some(sequence.clone());
        }
        if let (Some(file), Some(pos)) = (&self.file, &self.pos) {
            return Some(format!("{file}:{pos}:{}", self.row.as_deref().unwrap_or("0")));
        }
        self.scn.clone().or_else(|| self.lsn.clone())
    }
}

/// The columns of [`meta_fields`] but the last, as they grow.
#[derive(Default)]
pub(crate) struct Meta {
    op: Vec<String>,
    at: Vec<Option<i64>>,
    lsn: Vec<Option<i64>>,
    position: Vec<Option<String>>,
    transaction: Vec<Option<String>>,
}

impl Meta {
    pub(crate) fn push(&mut self, event: Event) {
        self.at.push(event.source.at());
        self.lsn.push(event.source.lsn.as_ref().and_then(|lsn| lsn.parse().ok()));
        self.position.push(event.source.position());
        self.transaction.push(event.transaction.or(event.source.tx_id));
        self.op.push(event.op);
    }

    /// The columns of the rows since the last flush.
    pub(crate) fn flush(&mut self) -> Vec<ArrayRef> {
        let Self { op, at, lsn, position, transaction } = std::mem::take(self);
        vec![
            Arc::new(StringArray::from(op)),
            Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")),
            Arc::new(Int64Array::from(lsn)),
            Arc::new(StringArray::from(position)),
            Arc::new(StringArray::from(transaction)),
        ]
    }
}

/// Where a column has the mark of a value that was not sent; `None` if nowhere.
fn unavailable(column: &ArrayRef) -> Option<BooleanArray> {
    let marks: BooleanArray = match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            // Both marks have lengths that few values have, so most are told by them alone.
            texts
                .iter()
                .map(|text| Some(text.is_some_and(|text| text == UNAVAILABLE || text == UNAVAILABLE_BASE64)))
                .collect()
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            values.iter().map(|value| Some(value == Some(UNAVAILABLE.as_bytes()))).collect()
        }
        DataType::List(item) if item.data_type() == &DataType::Utf8 => {
            let lists = column.as_list::<i32>();
            let is = |list: ArrayRef| list.len() == 1 && unavailable(&list).is_some();
            lists.iter().map(|list| Some(list.is_some_and(is))).collect()
        }
        DataType::Map(_, _) => {
            let maps = column.as_map();
            let keys = maps.keys().as_string_opt::<i32>()?;
            let is = |row: usize| {
                let offsets = maps.value_offsets();
                let first = usize::try_from(offsets[row]).unwrap_or_default();
                maps.value_length(row) == 1 && keys.value(first) == UNAVAILABLE
            };
            (0..maps.len()).map(|row| Some(maps.is_valid(row) && is(row))).collect()
        }
        _ => return None,
    };
    (marks.true_count() > 0).then_some(marks)
}

/// The columns with NULL for values that were not sent, and `_unchanged`, which names them.
pub(crate) fn without_unavailable(rows: &RecordBatch) -> Result<(Vec<ArrayRef>, ArrayRef), ArrowError> {
    let mut columns = Vec::with_capacity(rows.num_columns());
    let mut marked: Vec<(&str, BooleanArray)> = Vec::new();
    let mut any = BooleanArray::from(vec![false; rows.num_rows()]);
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let Some(marks) = unavailable(column) else {
            columns.push(Arc::clone(column));
            continue;
        };
        columns.push(nullif(column, &marks)?);
        any = or(&any, &marks)?;
        marked.push((field.name(), marks));
    }
    let mut names = ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true));
    for row in 0..rows.num_rows() {
        for (name, _) in marked.iter().filter(|(_, marks)| marks.value(row)) {
            names.values().append_value(name);
        }
        names.append(any.value(row));
    }
    Ok((columns, Arc::new(names.finish())))
}
