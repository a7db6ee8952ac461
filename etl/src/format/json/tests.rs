//! JSON records, good and bad.
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono_tz::Tz;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{Decoder, to_json};

fn table() -> SchemaRef {
    let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int32, true)];
    let inner = vec![Field::new("os", DataType::Utf8, true), Field::new("version", DataType::Float64, true)];
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("local", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("day", DataType::Date32, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("tags", DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true),
        Field::new(
            "counts",
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false),
            true,
        ),
        Field::new("device", DataType::Struct(inner.into()), true),
    ]))
}

fn whole() -> Value {
    json!({
        "id": 7, "price": 8.99, "at": "2025-02-17T14:49:15.179171Z", "local": "2025-02-17T14:49:15", "day": "2025-02-17",
        "raw": "AAH/", "ok": true, "tags": ["a", null], "counts": {"x": 1, "y": null}, "device": {"os": "iOS", "version": 17.5},
    })
}

fn bad(field: &str, value: Value) -> String {
    let mut record = whole();
    record[field] = value;
    Decoder::new(table()).unwrap().decode(record.to_string().as_bytes()).unwrap_err().to_string()
}

#[test]
fn a_record_comes_back_as_it_was_and_missing_fields_are_null() {
    let mut decoder = Decoder::new(table()).unwrap();
    decoder.decode(whole().to_string().as_bytes()).unwrap();
    decoder.decode(br#"{"id": 8, "unknown": {"a": [1]}}"#).unwrap();

    let batch = decoder.flush().unwrap();

    assert_eq!(to_json(&batch, 0).unwrap(), whole());
    let second = to_json(&batch, 1).unwrap();
    assert_eq!((&second["id"], &second["device"], &second["tags"]), (&json!(8), &json!(null), &json!(null)));
}

#[test]
fn times_without_a_zone_are_in_the_zone_that_was_set() {
    for (zone, wanted) in [(Tz::UTC, "2025-02-17T14:49:15Z"), (Tz::Asia__Tbilisi, "2025-02-17T10:49:15Z")] {
        let mut decoder = Decoder::new(table()).unwrap().with_zone(zone);
        decoder.decode(br#"{"id": 1, "at": "2025-02-17T14:49:15"}"#).unwrap();
        assert_eq!(to_json(&decoder.flush().unwrap(), 0).unwrap()["at"], json!(wanted));
    }
}

#[test]
fn nothing_is_coerced_and_every_fault_names_its_path() {
    assert_eq!(bad("id", json!("7")), r#"read `id`: expected a whole number of 64 bits, found the text "7""#);
    assert_eq!(bad("id", json!(null)), "read `id`: expected a value (the column is required), found null");
    assert_eq!(
        bad("price", json!(8.999)),
        "read `price`: expected at most 2 digits after the point, found the number 8.999"
    );
    assert_eq!(bad("tags", json!(["a", 1])), "read `tags[1]`: expected a text, found the number 1");
    assert_eq!(bad("counts", json!({"x": true})), "read `counts{x}`: expected a whole number of 32 bits, found true");
    assert_eq!(
        bad("device", json!({"os": [], "version": 1})),
        "read `device.os`: expected a text, found an array of 0"
    );
    assert_eq!(
        bad("day", json!("2017-02-29")),
        r#"read `day`: expected a date as 2025-02-17, found the text "2017-02-29""#
    );
    assert!(bad("local", json!("2025-02-17T14:49:15Z")).starts_with("read `local`: expected a time without zone"));

    let mut decoder = Decoder::new(table()).unwrap();
    assert_eq!(
        decoder.decode(b"[1]").unwrap_err().to_string(),
        "read the record: expected an object, found an array of 1"
    );
    assert_eq!(decoder.decode(b"{\"id\": 1").unwrap_err().word(), "syntax");
    assert_eq!(decoder.decode(b"{\"id\": 1} {}").unwrap_err().word(), "syntax");
    assert_eq!(decoder.decode(b"").unwrap_err().word(), "syntax");
}

#[test]
fn a_bad_record_never_costs_its_neighbours() {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let records: Vec<Vec<u8>> = (0..500)
        .map(|id| {
            let mut record = whole();
            record["id"] = json!(id);
            let keys: Vec<String> = record.as_object().unwrap().keys().cloned().collect();
            if rng.random() {
                record[&keys[rng.random_range(0..keys.len())]] =
                    [json!([{"os": {}}]), json!(1), json!(null), json!("x")][rng.random_range(0..4)].clone();
            }
            let mut bytes = record.to_string().into_bytes();
            if rng.random_range(0..5) == 0 {
                bytes.truncate(rng.random_range(0..bytes.len()));
            }
            bytes
        })
        .collect();

    let mut mixed = Decoder::new(table()).unwrap();
    let good: Vec<&Vec<u8>> = records.iter().filter(|record| mixed.decode(record).is_ok()).collect();
    let mut alone = Decoder::new(table()).unwrap();
    for record in &good {
        alone.decode(record).unwrap();
    }

    assert!((100..450).contains(&good.len()), "seed {seed}: {} good", good.len());
    assert_eq!(mixed.flush().unwrap(), alone.flush().unwrap(), "seed {seed}");
}
