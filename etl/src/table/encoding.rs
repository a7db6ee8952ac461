//! How the columns of a file are encoded, chosen by its first rows.
//!
//! A dictionary pays where values repeat; where they do not, building one costs more than writing the values, and is
//! thrown away when it grows too large. Whole numbers and times that do not repeat mostly rise in small steps (offsets,
//! ids, moments): `DELTA_BINARY_PACKED` keeps the steps. Both are of Parquet's format 2.0, which every reader that knows
//! Delta reads.
use std::collections::HashSet;
use std::hash::Hash;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// Rows looked at. Their first values decide for the whole file: enough to tell, and nothing beside encoding them.
const SAMPLE: usize = 2_048;

fn base() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(1 << 20))
        .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
}

/// The properties of a file of which nothing is known yet.
pub fn writer_properties() -> WriterProperties {
    base().build()
}

/// The properties of a file that begins with these rows.
pub(super) fn properties_for(first: &RecordBatch) -> WriterProperties {
    let mut properties = base();
    // Bounds leave NaN out, though it is larger than any number: a reader that skips by them loses its row.
    for field in first.schema_ref().fields().iter().filter(|field| field.data_type().is_floating()) {
        let path = ColumnPath::from(field.name().as_str());
        properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    for (field, column) in first.schema_ref().fields().iter().zip(first.columns()) {
        let sample = column.slice(0, column.len().min(SAMPLE));
        if sample.len() < SAMPLE / 8 || repeats(&sample) {
            continue;
        }
        let path = ColumnPath::from(field.name().as_str());
        properties = properties.set_column_dictionary_enabled(path.clone(), false);
        if matches!(
            field.data_type(),
            DataType::Int32 | DataType::Int64 | DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)
        ) {
            properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    properties.build()
}

/// Whether at most half of the values differ. Types that are not looked into count as repeating.
fn repeats(sample: &dyn Array) -> bool {
    let most = (sample.len() - sample.null_count()) / 2;
    match sample.data_type() {
        DataType::Utf8 => few(sample.as_string::<i32>().iter().flatten(), most),
        DataType::Binary => few(sample.as_binary::<i32>().iter().flatten(), most),
        DataType::Int32 => few(natives::<Int32Type>(sample), most),
        DataType::Date32 => few(natives::<Date32Type>(sample), most),
        DataType::Int64 => few(natives::<Int64Type>(sample), most),
        DataType::Timestamp(TimeUnit::Microsecond, _) => few(natives::<TimestampMicrosecondType>(sample), most),
        DataType::Float32 => few(natives::<Float32Type>(sample).map(f32::to_bits), most),
        DataType::Float64 => few(natives::<Float64Type>(sample).map(f64::to_bits), most),
        _ => true,
    }
}

fn natives<T: ArrowPrimitiveType>(sample: &dyn Array) -> impl Iterator<Item = T::Native> {
    sample.as_primitive::<T>().iter().flatten()
}

fn few<V: Hash + Eq>(values: impl Iterator<Item = V>, most: usize) -> bool {
    let mut seen = HashSet::new();
    for value in values {
        seen.insert(value);
        if seen.len() > most {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn values_that_do_not_repeat_get_no_dictionary_and_come_back() {
        let rows = 5_000_i64;
        let columns: [(&str, ArrayRef); 4] = [
            ("rising", Arc::new((0..rows).map(|n| (n % 7 > 0).then_some(n * 3)).collect::<Int64Array>())),
            ("few", Arc::new(Int64Array::from_iter_values((0..rows).map(|n| n % 5)))),
            ("name", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("name {n}"))))),
            ("nothing", Arc::new((0..rows).map(|_| None::<i64>).collect::<Int64Array>())),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap();

        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties_for(&batch))).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();

        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
        let group = reader.metadata().row_group(0).clone();
        let encodings = |column: usize| group.column(column).encodings().collect::<Vec<_>>();
        assert!(encodings(0).contains(&Encoding::DELTA_BINARY_PACKED), "{:?}", encodings(0));
        for (column, dictionary) in [(0, false), (1, true), (2, false), (3, true)] {
            let offset = group.column(column).dictionary_page_offset();
            assert_eq!(offset.is_some(), dictionary, "column {column}");
        }
        let read: Vec<RecordBatch> = reader.with_batch_size(8_192).build().unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [batch]);
    }
}
