//! What tells rows apart: 128 bits of BLAKE3 over arrow's row format, and of many rows the sum, in which order does not
//! count but number does.
use std::collections::BTreeMap;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;

use super::error::StreamError;
use super::rows::range;
use super::scan::{Wanted, scan};
use crate::engine::Engine;
use crate::error::Result;
use crate::table::{Table, project};

/// The digest of each row, over all columns of the batch. Types count: compare only rows with the same.
pub(super) fn digests(batch: &RecordBatch) -> Result<Vec<u128>, ArrowError> {
    let fields = batch.columns().iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(batch.columns())?;
    let digest = |row: arrow::row::Row<'_>| {
        let mut head = [0; 16];
        head.copy_from_slice(blake3::hash(row.as_ref()).as_bytes().split_at(16).0);
        u128::from_le_bytes(head)
    };
    Ok(rows.iter().map(digest).collect())
}

/// The rows of a table at one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// How many.
    pub(super) rows: u64,
    /// The first one's digest.
    pub(super) digest: u128,
    /// Whether all are the same.
    pub(super) same: bool,
}

/// The rows of `[from, to)` of a partition, by offset. The digests are over `columns`; of none, they
/// say nothing.
pub(super) async fn seen(
    engine: &Engine,
    table: &Table,
    columns: &SchemaRef,
    lane: (&str, i32),
    (from, to): (i64, i64),
) -> Result<BTreeMap<i64, Seen>> {
    let mut names: Vec<String> = vec!["_offset".to_owned()];
    names.extend(columns.fields().iter().map(|field| field.name().clone()).filter(|name| name != "_offset"));
    let filter = Some(range(lane.0, lane.1, from, Some(to)));
    let mut rows = scan(engine, table, Wanted { columns: names, filter, ..Wanted::default() }).await?;
    let mut all: BTreeMap<i64, Seen> = BTreeMap::new();
    while let Some(batch) = rows.next().await? {
        let offsets = batch.column(0).as_primitive::<Int64Type>().clone();
        let digests = if columns.fields().is_empty() {
            vec![0; batch.num_rows()]
        } else {
            digests(&project(&batch, columns, table.name())?).map_err(StreamError::arrow(table.name()))?
        };
        for (offset, digest) in offsets.values().iter().zip(digests) {
            let seen = all.entry(*offset).or_insert(Seen { rows: 0, digest, same: true });
            seen.rows += 1;
            seen.same &= seen.digest == digest;
        }
    }
    Ok(all)
}

/// The rows of one offset, in `columns`.
pub(super) async fn at_offset(
    engine: &Engine,
    table: &Table,
    columns: &SchemaRef,
    lane: (&str, i32),
    offset: i64,
) -> Result<Vec<RecordBatch>> {
    let names = columns.fields().iter().map(|field| field.name().clone()).collect();
    let filter = Some(range(lane.0, lane.1, offset, Some(offset + 1)));
    let mut rows = scan(engine, table, Wanted { columns: names, filter, ..Wanted::default() }).await?;
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await? {
        batches.push(project(&batch, columns, table.name())?);
    }
    Ok(batches)
}

/// The columns in which two rows differ, with both values as text.
pub(super) fn differing(
    (left, left_row): (&RecordBatch, usize),
    (right, right_row): (&RecordBatch, usize),
) -> Result<Vec<(String, String, String)>, ArrowError> {
    let mut found = Vec::new();
    for (index, field) in left.schema().fields().iter().enumerate() {
        let (a, b) = (left.project(&[index])?.slice(left_row, 1), right.project(&[index])?.slice(right_row, 1));
        if digests(&a)? != digests(&b)? {
            let text = |batch: &RecordBatch| {
                let column = batch.column(0);
                if column.is_null(0) { Ok("NULL".to_owned()) } else { array_value_to_string(column, 0) }
            };
            found.push((field.name().clone(), text(&a)?, text(&b)?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch(numbers: &[Option<i64>], texts: &[Option<&str>]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap()
    }

    #[test]
    fn a_digest_tells_null_from_empty_and_one_column_from_the_next() {
        let rows = batch(&[Some(1), Some(1), None, Some(1)], &[Some(""), None, Some(""), Some("")]);
        let found = digests(&rows).unwrap();
        assert_eq!(found[0], found[3]);
        assert!(found[0] != found[1] && found[0] != found[2] && found[1] != found[2], "{found:?}");
    }

    #[test]
    fn differing_columns_are_named_with_their_values() {
        let (left, right) = (batch(&[Some(1), Some(2)], &[Some("a"), Some("b")]), batch(&[Some(2)], &[None]));
        let found = differing((&left, 1), (&right, 0)).unwrap();
        assert_eq!(found, [("t".to_owned(), "b".to_owned(), "NULL".to_owned())]);
        assert_eq!(differing((&left, 0), (&left, 0)).unwrap(), []);
    }
}
