//! Plain JSON: columns from the records, and records that fit none.
use arrow::datatypes::{Field, Schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{BodySettings, OnUnknown, columns, landed, open, records, registry, settings};
use crate::table::parse_type;
use crate::testkit::body_contract;

fn texts(texts: &[&str]) -> Vec<crate::record::Record> {
    records(texts.iter().map(|text| Some(text.as_bytes().to_vec())))
}

fn declared(columns: &[(&str, &str)]) -> Schema {
    Schema::new(
        columns.iter().map(|(name, kind)| Field::new(*name, parse_type(kind).unwrap(), true)).collect::<Vec<_>>(),
    )
}

#[tokio::test]
async fn each_field_becomes_a_column_by_its_first_value() {
    let mut body = open("json", settings(&registry())).await.unwrap().unwrap();
    let (rows, refused) = landed(
        &mut *body,
        &texts(&[
            r#"{"ok": true, "n": 7, "price": 8.99, "big": 18446744073709551615, "at": "2025-02-17", "none": null, "empty": [], "e": 1e3}"#,
            r#"{"n": -2.0e1, "price": 9, "tags": ["a", null], "grid": [[1], [2.5]], "user": {"id": 1, "os": null, "x": {}}, "none": false}"#,
            r#"{"user": {"os": "iOS", "id": null}, "items": [{"sku": 1}, {"sku": 2, "n": [3]}], "big": 1, "e": null}"#,
        ]),
    )
    .await;

    assert_eq!(refused, Vec::<String>::new());
    assert_eq!(
        columns(body.columns()),
        [
            "ok boolean",
            "n bigint",
            "price double",
            "big decimal(38,0)",
            "at text",
            "e double",
            "tags list<text>",
            "grid list<list<double>>",
            "user struct<id bigint, os text>",
            "none boolean",
            "items list<struct<sku bigint, n list<bigint>>>",
        ]
    );
    assert_eq!(rows[0]["big"], json!("18446744073709551615"));
    assert_eq!((&rows[1]["n"], &rows[1]["price"]), (&json!(-20), &json!(9.0)));
    assert_eq!(rows[1]["user"], json!({"id": 1, "os": null}));
    assert_eq!(rows[2]["items"], json!([{"sku": 1, "n": null}, {"sku": 2, "n": [3]}]));
}

#[tokio::test]
async fn what_does_not_fit_costs_its_record_and_brings_no_column() {
    let mut body = open("json", settings(&registry())).await.unwrap().unwrap();
    let (rows, refused) = landed(
        &mut *body,
        &texts(&[
            r#"{"n": 1, "user": {"id": 1}}"#,
            r#"{"n": 1.5, "new": 1}"#,
            r#"{"user": {"id": "x"}}"#,
            r#"{"n": 9223372036854775808}"#,
            r#"{"n": 2, "n": 2}"#,
            r#"{"gone": null, "gone": null}"#,
            r#"{"N": 2}"#,
            r#"{"a b": 2}"#,
            r#"{"_Offset": 2}"#,
            r#"{"far": 1e999}"#,
            r#"{"mixed": [1, "x"]}"#,
            r#"[{"n": 1}]"#,
            r#"{"n": 1"#,
            r#"{"n": NaN}"#,
            r#"{"text": "\ud800"}"#,
            "",
            r#"{"n": 3}"#,
        ]),
    )
    .await;

    assert_eq!(rows, [json!({"n": 1, "user": {"id": 1}}), json!({"n": 3, "user": null})]);
    assert_eq!(
        refused,
        [
            "type: read `n`: expected a whole number of 64 bits, found the number 1.5",
            r#"type: read `user.id`: expected a whole number of 64 bits, found the text "x""#,
            "type: read `n`: expected a whole number of 64 bits, found the number 9223372036854775808",
            "repeated_field: read `n`: the name is there twice",
            "repeated_field: read `gone`: the name is there twice",
            "unknown_field: read `N`: a Delta table cannot have it beside `n`: the names differ by case only",
            "unknown_field: read `a b`: a column of a Delta table cannot have this name: it is empty, or has a blank or one of ,;{}()=",
            "unknown_field: read `_Offset`: a Delta table cannot have it beside `_offset`: the names differ by case only",
            "type: read `far`: expected a number, found the number 1e999",
            r#"type: read `mixed[1]`: expected a whole number of 64 bits, found the text "x""#,
            "type: read the record: expected an object, found an array of 1",
            "syntax: read the record as JSON: expected `,` or `}` at byte 7",
            "syntax: read the record as JSON: expected a value at byte 6",
            "syntax: read the record as JSON: half of a surrogate pair at byte 10",
            "syntax: read the record as JSON: the text ends where a value should be at byte 0",
        ]
    );
    assert_eq!(columns(body.columns()), ["n bigint", "user struct<id bigint>"]);
}

#[tokio::test]
async fn declared_columns_are_filled_and_other_fields_do_as_the_setting_says() {
    let records = texts(&[
        r#"{"id": 1, "at": "2025-02-17T14:49:15+04:00", "price": 8.99, "more": {"a": 1}}"#,
        r#"{"id": 2, "price": "1.005"}"#,
        r#"{"id": 3, "more": null}"#,
    ]);
    for (on_unknown, rows, refused, more) in [
        (OnUnknown::Evolve, 2, 1, true),
        (OnUnknown::Ignore, 2, 1, false),
        // A field that was not declared is there, whatever its value.
        (OnUnknown::DeadLetter, 0, 3, false),
    ] {
        let mut settings = settings(&registry());
        settings.on_unknown = on_unknown;
        settings.declared = Some(declared(&[("id", "bigint"), ("at", "timestamp"), ("price", "decimal(10,2)")]));
        let mut body = open("json", settings).await.unwrap().unwrap();
        let got = landed(&mut *body, &records).await;
        assert_eq!((got.0.len(), got.1.len()), (rows, refused), "{on_unknown:?}: {got:?}");
        assert_eq!(body.columns().field_with_name("more").is_ok(), more, "{on_unknown:?}");
        if let Some(first) = got.0.first() {
            assert_eq!((&first["at"], &first["price"]), (&json!("2025-02-17T10:49:15Z"), &json!(8.99)));
        }
    }
}

#[tokio::test]
async fn a_declaration_that_contradicts_the_table_stops_the_stream_before_the_first_record() {
    let settings = BodySettings {
        there: Some(declared(&[("id", "bigint"), ("user", "struct<id bigint>")])),
        declared: Some(declared(&[("user", "struct<id text>")])),
        ..settings(&registry())
    };
    let error = open("json", settings).await.unwrap().err().unwrap();
    assert_eq!(error.code(), "L0211");
    assert_eq!(
        error.to_string(),
        "land the topic `events`: `user` is declared as struct<id text>, and in the table it is struct<id bigint>"
    );
}

#[tokio::test]
async fn a_name_for_every_user_does_not_make_a_column_for_every_user() {
    let many = |from: usize, to: usize| {
        let fields: serde_json::Map<String, Value> = (from..to).map(|n| (format!("u{n}"), json!(n))).collect();
        Value::Object(fields).to_string()
    };
    let mut body = open("json", settings(&registry())).await.unwrap().unwrap();
    let (rows, refused) =
        landed(&mut *body, &texts(&[&many(0, 1_500), &many(1_500, 2_500), &many(1_500, 2_000)])).await;
    assert_eq!((rows.len(), refused.len(), body.columns().fields().len()), (2, 1, 2_000));
    assert!(refused[0].starts_with("unknown_field: read the record: with its new fields"), "{refused:?}");

    let deep = format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100));
    let (_, refused) = landed(&mut *body, &texts(&[&deep])).await;
    assert!(refused[0].contains("at most 64 levels"), "{refused:?}");
}

/// A random object of few names, so that records meet in their fields and contradict each other.
fn object(rng: &mut StdRng, depth: u32) -> String {
    let count = rng.random_range(0..if depth == 0 { 7 } else { 4 });
    let names = ["a", "b", "c", "d", "e", "f", "A", "\\u0061", "", "g h", "_key"];
    let members: Vec<String> = (0..count)
        .map(|_| {
            // Names that a table cannot have, and a second spelling of one that it can, are rare.
            let among = if rng.random_range(0..12) == 0 { names.len() } else { 6 };
            format!("\"{}\":{}", names[rng.random_range(0..among)], value(rng, depth + 1))
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

fn value(rng: &mut StdRng, depth: u32) -> String {
    let simple = [
        "null",
        "null",
        "[]",
        "{}",
        "[[]]",
        "[null,{}]",
        "1",
        "-7",
        "2.0",
        "0.5",
        "1e400",
        "18446744073709551615",
        "true",
        "\"t\"",
        "\"\"",
    ];
    match rng.random_range(0..if depth > 3 { 8 } else { 12 }) {
        0..8 => simple[rng.random_range(0..simple.len())].to_owned(),
        8 | 9 => object(rng, depth),
        _ => {
            let items: Vec<String> = (0..rng.random_range(0..3)).map(|_| value(rng, depth + 1)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

#[tokio::test]
async fn json_keeps_the_contract() {
    let (mut rows, mut refused) = (0, 0);
    for seed in [1, 2, 3].into_iter().chain((0..30).map(|_| rand::random())) {
        let mut rng = StdRng::seed_from_u64(seed);
        let values = (0..60).map(|_| match rng.random_range(0..20) {
            0 => None,
            1 => {
                let mut bytes = object(&mut rng, 0).into_bytes();
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
                Some(bytes)
            }
            _ => Some(object(&mut rng, 0).into_bytes()),
        });
        let records = records(values.collect::<Vec<_>>());
        let on_unknown =
            [OnUnknown::Evolve, OnUnknown::Evolve, OnUnknown::Ignore, OnUnknown::DeadLetter][rng.random_range(0..4)];
        let declares = on_unknown != OnUnknown::Evolve || rng.random();
        let registry = registry();
        let (taken, left) = body_contract(
            &move |there| {
                let mut settings = settings(&registry);
                settings.there = there;
                settings.on_unknown = on_unknown;
                settings.declared =
                    declares.then(|| declared(&[("a", "bigint"), ("b", "struct<a list<double>, c text>")]));
                Box::pin(async { open("json", settings).await.unwrap().unwrap() })
            },
            &records,
            seed,
        )
        .await;
        rows += taken;
        refused += left;
    }
    assert!(rows > 200 && refused > 200, "{rows} rows, {refused} refused");
}
