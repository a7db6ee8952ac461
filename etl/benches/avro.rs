//! What one Avro record costs: 10 columns in about 80 bytes, decoded into columns and encoded from them.
//!
//! `cargo bench -p tidemill-etl --bench avro`. The other side is apache-avro, which reads a record into a tree of values.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints its table and stops at any fault")]
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::json;
use tidemill_etl::format::avro::{Decoder, Encoder, JsonEncoder, arrow_schema};

const RECORDS: usize = 10_000;
const ROUNDS: usize = 30;

fn schema() -> Schema {
    Schema::parse(&json!({"type": "record", "name": "Event", "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "event_name", "type": "string"},
        {"name": "user_id", "type": "string"},
        {"name": "session", "type": "long"},
        {"name": "item_id", "type": ["null", "string"]},
        {"name": "country", "type": "string"},
        {"name": "quantity", "type": "int"},
        {"name": "price", "type": "double"},
        {"name": "paid", "type": "boolean"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
    ]}))
    .unwrap()
}

fn bodies(schema: &Schema) -> Vec<Vec<u8>> {
    let encoder = JsonEncoder::new(schema).unwrap();
    (0..RECORDS)
        .map(|n| {
            let event = json!({
                "at": 1_739_803_755_179_171_i64 + 1_000 * i64::try_from(n).unwrap(), "event_name": "added_to_cart",
                "user_id": format!("{:06}", n * 7_919 % 1_000_000), "session": n * 1_000_003, "item_id": format!("item-{:08}", n % 8_701),
                "country": "GE", "quantity": n % 9, "price": 8.99, "paid": n % 2 == 0, "amount": format!("{}.99", n % 1_000),
            });
            encoder.encode(&event).unwrap()
        })
        .collect()
}

/// Nanoseconds per record of the best of all rounds: the others were disturbed.
fn measure(mut round: impl FnMut()) -> f64 {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed()
        })
        .min()
        .unwrap_or(Duration::ZERO);
    best.as_secs_f64() * 1e9 / f64::from(u32::try_from(RECORDS).unwrap())
}

fn main() {
    let schema = schema();
    let bodies = bodies(&schema);
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    let table = Arc::new(arrow_schema(&schema).unwrap());

    let mut decoder = Decoder::new(&schema, Arc::clone(&table)).unwrap();
    let decode = measure(|| {
        for body in &bodies {
            decoder.decode(black_box(body)).unwrap();
        }
        black_box(decoder.flush().unwrap());
    });
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let decode_apache = measure(|| {
        for body in &bodies {
            black_box(reader.read_value(&mut black_box(&body[..])).unwrap());
        }
    });

    for body in &bodies {
        decoder.decode(body).unwrap();
    }
    let batch = decoder.flush().unwrap();
    let encoder = Encoder::new(&schema, &table).unwrap().framed(1);
    let encode = measure(|| drop(black_box(encoder.encode(black_box(&batch)).unwrap())));
    let values: Vec<_> = bodies.iter().map(|body| reader.read_value(&mut &body[..]).unwrap()).collect();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let encode_apache = measure(|| {
        let mut out = Vec::new();
        for value in &values {
            writer.write_value_ref(&mut out, black_box(value)).unwrap();
        }
        black_box(out);
    });

    println!("{RECORDS} records of 10 columns, {} bytes each", bytes / RECORDS);
    println!("{:<10}{:>14}{:>14}{:>8}", "", "tidemill", "apache-avro", "ratio");
    for (name, ours, theirs) in [("decode", decode, decode_apache), ("encode", encode, encode_apache)] {
        println!("{name:<10}{ours:>11.0} ns{theirs:>11.0} ns{:>7.1}x", theirs / ours);
    }
}
