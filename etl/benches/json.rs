//! What one JSON record costs: 10 columns, decoded into declared columns and into columns that records bring.
//!
//! `cargo bench -p tidemill-etl --bench json`. The other side is `serde_json`, which reads a record into a tree of values.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints its table and stops at any fault")]
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chrono_tz::Tz;
use futures::executor::block_on;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tidemill_etl::format::json::{Decoder, OnUnknown};
use tidemill_etl::pipeline::body::{BodySettings, OnIncompatible, open};
use tidemill_etl::position::TopicPartition;
use tidemill_etl::record::Record;
use tidemill_etl::schema_registry::EmbeddedRegistry;

const RECORDS: usize = 10_000;
const ROUNDS: usize = 30;

fn table() -> Schema {
    Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("event_name", DataType::Utf8, true),
        Field::new("user_id", DataType::Utf8, true),
        Field::new("session", DataType::Int64, true),
        Field::new("item_id", DataType::Utf8, true),
        Field::new("country", DataType::Utf8, true),
        Field::new("quantity", DataType::Int32, true),
        Field::new("price", DataType::Float64, true),
        Field::new("paid", DataType::Boolean, true),
        Field::new("amount", DataType::Decimal128(10, 2), true),
    ])
}

fn records() -> Vec<Record> {
    (0..RECORDS)
        .map(|n| {
            let event = json!({
                "at": format!("2025-02-17T14:49:15.{n:06}Z"), "event_name": "added_to_cart",
                "user_id": format!("{:06}", n * 7_919 % 1_000_000), "session": n * 1_000_003, "item_id": format!("item-{:08}", n % 8_701),
                "country": "GE", "quantity": n % 9, "price": 8.99, "paid": n % 2 == 0, "amount": format!("{}.99", n % 1_000),
            });
            Record {
                partition: TopicPartition::new("events", 0).into(),
                offset: i64::try_from(n).unwrap(),
                timestamp_ms: 0,
                key: None,
                value: Some(event.to_string().into()),
                headers: Vec::new(),
            }
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
    let records = records();
    let values: Vec<_> = records.iter().filter_map(|record| record.value.clone()).collect();
    let bytes: usize = values.iter().map(bytes::Bytes::len).sum();

    let mut decoder = Decoder::new(Arc::new(table())).unwrap();
    let declared = measure(|| {
        for value in &values {
            decoder.decode(black_box(value)).unwrap();
        }
        black_box(decoder.flush().unwrap());
    });
    let mut body = block_on(open(
        "json",
        BodySettings {
            topic: "events".to_owned(),
            subject: "events-value".to_owned(),
            registry: Arc::new(EmbeddedRegistry::open(Arc::new(InMemory::new()), "schemas".into())),
            there: None,
            zone: Tz::UTC,
            on_incompatible: OnIncompatible::DeadLetter,
            declared: None,
            on_unknown: OnUnknown::Evolve,
        },
    ))
    .unwrap()
    .unwrap();
    let inferred = measure(|| {
        block_on(body.prepare(black_box(&records))).unwrap();
        for record in &records {
            body.read(black_box(record)).unwrap();
        }
        black_box(body.flush().unwrap());
    });
    let tree = measure(|| {
        for value in &values {
            black_box(serde_json::from_slice::<Value>(black_box(value)).unwrap());
        }
    });

    println!("{RECORDS} records of 10 columns, {} bytes each", bytes / RECORDS);
    for (name, cost) in
        [("declared columns", declared), ("columns from the records", inferred), ("serde_json::Value", tree)]
    {
        println!("{name:<26}{cost:>8.0} ns{:>8.2}x", tree / cost);
    }
}
