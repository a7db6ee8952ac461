//! Changes as Debezium's connectors write them, after its documentation.
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::{columns, landed, open, records, registry, settings};
use crate::format::avro::{encode_json, frame};
use crate::testkit::body_contract;

const PLACEHOLDER: &str = "__debezium_unavailable_value";

fn of(values: &[Value]) -> Vec<crate::record::Record> {
    records(values.iter().map(|value| (!value.is_null()).then(|| value.to_string().into_bytes())))
}

fn source() -> Value {
    json!({
        "version": "3.0.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1_739_803_755_179_i64, "snapshot": "false",
        "db": "shop", "sequence": "[\"24023119\",\"24023128\"]", "ts_us": 1_739_803_755_179_171_i64, "schema": "public",
        "table": "orders", "txId": 571, "lsn": 24_023_128, "xmin": null,
    })
}

fn change(op: &str, before: &Value, after: &Value) -> Value {
    json!({"before": before, "after": after, "source": source(), "op": op, "ts_ms": 1_739_803_756_000_i64, "transaction": null})
}

/// What Kafka Connect's JSON converter writes beside a payload of these columns.
fn schema(fields: &[Value]) -> Value {
    let row = |name: &str| json!({"type": "struct", "fields": fields, "optional": true, "name": "shop.public.orders.Value", "field": name});
    json!({"type": "struct", "optional": false, "name": "shop.public.orders.Envelope", "fields": [
        row("before"), row("after"),
        {"type": "struct", "fields": [], "optional": false, "name": "io.debezium.connector.postgresql.Source", "field": "source"},
        {"type": "string", "optional": false, "field": "op"}, {"type": "int64", "optional": true, "field": "ts_ms"},
    ]})
}

#[expect(clippy::needless_pass_by_value, reason = "called with json!(…)")]
fn field(name: &str, kind: &str, logical: &str, parameters: Value) -> Value {
    json!({"type": kind, "optional": true, "field": name, "name": logical, "version": 1, "parameters": parameters})
}

#[tokio::test]
async fn a_change_is_a_row_of_its_after_or_before_with_operation_and_position() {
    let mut body = open("debezium-json", settings(&registry())).await.unwrap().unwrap();
    let (rows, refused) = landed(
        &mut *body,
        &of(&[
            change("r", &json!(null), &json!({"id": 1, "note": "a"})),
            change("u", &json!({"id": 1, "note": "a"}), &json!({"id": 1, "note": "b", "tags": ["x"]})),
            change("d", &json!({"id": 1, "note": "b", "tags": null}), &json!(null)),
            json!(null),
            change("t", &json!(null), &json!(null)),
            json!({"ts_ms": 1_739_803_756_000_i64}),
            json!({"schema": null, "payload": change("c", &json!(null), &json!({"id": 2, "note": null}))}),
            json!({"op": "c", "after": {"id": 3}, "source": {"file": "mysql-bin.000003", "pos": 154, "row": 1, "ts_ms": 1}, "transaction": {"id": "tx-9"}}),
        ]),
    )
    .await;

    assert_eq!(refused, Vec::<String>::new());
    let seen: Vec<Value> = rows.iter().map(|row| json!([row["_op"], row["id"], row["note"], row["tags"]])).collect();
    assert_eq!(
        seen,
        [
            json!(["r", 1, "a", null]),
            json!(["u", 1, "b", ["x"]]),
            json!(["d", 1, "b", null]),
            json!(["t", null, null, null]),
            json!(["c", 2, null, null]),
            json!(["c", 3, null, null]),
        ]
    );
    assert_eq!((&rows[0]["_lsn"], &rows[0]["_position"]), (&json!(24_023_128), &json!("[\"24023119\",\"24023128\"]")));
    assert_eq!((&rows[0]["_source_ts"], &rows[0]["_tx"]), (&json!("2025-02-17T14:49:15.179171Z"), &json!("571")));
    assert_eq!((&rows[5]["_position"], &rows[5]["_tx"]), (&json!("mysql-bin.000003:154:1"), &json!("tx-9")));
}

#[tokio::test]
async fn values_that_the_database_did_not_send_are_null_and_named() {
    let mut body = open("debezium-json", settings(&registry())).await.unwrap().unwrap();
    let (rows, refused) = landed(
        &mut *body,
        &of(&[
            change("c", &json!(null), &json!({"id": 1, "note": "long", "raw": "AAH/", "tags": ["a", "b"]})),
            change("u", &json!(null), &json!({"id": 1, "note": PLACEHOLDER, "raw": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==", "tags": [PLACEHOLDER]})),
            change("u", &json!(null), &json!({"id": 1, "note": null, "raw": "AAH/", "tags": [PLACEHOLDER, PLACEHOLDER]})),
        ]),
    )
    .await;

    assert_eq!(refused, Vec::<String>::new());
    assert_eq!((&rows[0]["_unchanged"], &rows[2]["_unchanged"]), (&json!(null), &json!(null)));
    assert_eq!(rows[1]["_unchanged"], json!(["note", "raw", "tags"]));
    assert_eq!((&rows[1]["note"], &rows[1]["raw"], &rows[1]["tags"]), (&json!(null), &json!(null), &json!(null)));
    assert_eq!(rows[2]["tags"], json!([PLACEHOLDER, PLACEHOLDER]));
}

#[tokio::test]
async fn a_schema_beside_the_payload_gives_the_types() {
    let fields = [
        field("id", "int64", "", json!(null)),
        field("small", "int16", "", json!(null)),
        field("day", "int32", "io.debezium.time.Date", json!(null)),
        field("at_ms", "int64", "io.debezium.time.Timestamp", json!(null)),
        field("at_us", "int64", "io.debezium.time.MicroTimestamp", json!(null)),
        field("at_ns", "int64", "io.debezium.time.NanoTimestamp", json!(null)),
        field("zoned", "string", "io.debezium.time.ZonedTimestamp", json!(null)),
        field("clock", "int64", "io.debezium.time.MicroTime", json!(null)),
        field("connect_at", "int64", "org.apache.kafka.connect.data.Timestamp", json!(null)),
        field(
            "price",
            "bytes",
            "org.apache.kafka.connect.data.Decimal",
            json!({"scale": "2", "connect.decimal.precision": "10"}),
        ),
        json!({"type": "struct", "optional": true, "field": "any", "name": "io.debezium.data.VariableScaleDecimal", "fields": [
            {"type": "int32", "field": "scale"}, {"type": "bytes", "field": "value"}]}),
        field("raw", "bytes", "", json!(null)),
        json!({"type": "array", "items": {"type": "string"}, "optional": true, "field": "tags"}),
        json!({"type": "map", "keys": {"type": "string"}, "values": {"type": "string"}, "optional": true, "field": "attributes"}),
    ];
    let after = json!({
        "id": 7, "small": 3, "day": 20_136, "at_ms": 1_739_803_755_179_i64, "at_us": 1_739_803_755_179_171_i64, "at_ns": -1,
        "zoned": "2025-02-17T14:49:15.179171+04:00", "clock": 1_500_000, "connect_at": 0, "price": "A4M=", "any": {"scale": 3, "value": "/w=="},
        "raw": "AAH/", "tags": ["a"], "attributes": {"k": "v"},
    });
    let mut body = open("debezium-json", settings(&registry())).await.unwrap().unwrap();
    let with = |after: &Value| json!({"schema": schema(&fields), "payload": change("c", &json!(null), after)});
    let mut too_many_digits = after.clone();
    too_many_digits["price"] = json!("AlQL5AA=");
    let mut text = after.clone();
    text["id"] = json!("7");
    let (rows, refused) =
        landed(&mut *body, &of(&[with(&after), with(&too_many_digits), with(&text), with(&json!({"id": 8}))])).await;

    assert_eq!(
        refused,
        [
            r#"type: read `price`: expected the bytes of a decimal as base64 text, found the text "AlQL5AA=""#,
            r#"type: read `id`: expected a whole number of 64 bits, found the text "7""#,
        ]
    );
    assert_eq!(
        columns(body.columns())[..14],
        [
            "id bigint",
            "small integer",
            "day date",
            "at_ms timestamp without time zone",
            "at_us timestamp without time zone",
            "at_ns timestamp without time zone",
            "zoned timestamp (UTC)",
            "clock bigint",
            "connect_at timestamp (UTC)",
            "price decimal(10,2)",
            "any text",
            "raw binary",
            "tags list<text>",
            "attributes map<text, text>",
        ]
    );
    let row = &rows[0];
    assert_eq!((&row["day"], &row["at_ms"]), (&json!("2025-02-17"), &json!("2025-02-17T14:49:15.179")));
    assert_eq!(
        (&row["at_ns"], &row["zoned"]),
        (&json!("1969-12-31T23:59:59.999999"), &json!("2025-02-17T10:49:15.179171Z"))
    );
    assert_eq!(
        (&row["price"], &row["any"], &row["connect_at"]),
        (&json!(8.99), &json!("-0.001"), &json!("1970-01-01T00:00:00Z"))
    );
    assert_eq!((&row["tags"], &row["attributes"], &row["raw"]), (&json!(["a"]), &json!({"k": "v"}), &json!("AAH/")));
    assert_eq!((&rows[1]["id"], &rows[1]["zoned"]), (&json!(8), &json!(null)));
}

#[tokio::test]
async fn a_schema_that_contradicts_the_table_refuses_its_records_or_stops_the_stream() {
    let id = |kind: &str| schema(&[field("id", kind, "", json!(null)), field("more", "string", "", json!(null))]);
    let of_type = |kind: &str, value: Value| json!({"schema": id(kind), "payload": change("c", &json!(null), &json!({"id": value}))});
    let values = of(&[of_type("int64", json!(1)), of_type("string", json!("2")), of_type("int32", json!(3))]);

    let mut body = open("debezium-json", settings(&registry())).await.unwrap().unwrap();
    let (rows, refused) = landed(&mut *body, &values).await;
    assert_eq!(rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), [json!(1), json!(3)]);
    assert_eq!(refused, ["incompatible_schema: read `id`: the writer has text, the table has bigint"]);

    let mut settings = settings(&registry());
    settings.on_incompatible = super::OnIncompatible::Stop;
    let mut body = open("debezium-json", settings).await.unwrap().unwrap();
    let blocked = body.prepare(&values).await.unwrap_err();
    assert_eq!((blocked.index, blocked.error.code()), (1, "L0212"));
}

#[tokio::test]
async fn what_is_no_envelope_is_refused_alone() {
    let mut body = open("debezium-json", settings(&registry())).await.unwrap().unwrap();
    let good = change("c", &json!(null), &json!({"id": 1}));
    let values = of(&[
        good.clone(),
        json!({"id": 1}),
        json!({"op": "x", "after": {}}),
        json!({"op": "c"}),
        json!({"op": "c", "after": 1}),
        json!(7),
        good,
    ]);
    let (rows, refused) = landed(&mut *body, &values).await;
    assert_eq!(rows.len(), 2);
    assert_eq!(
        refused,
        [
            "no_envelope: read the record as Debezium's envelope: there is no `op`",
            "no_envelope: read the record as Debezium's envelope: there is no operation `x`",
            "no_envelope: read the record as Debezium's envelope: operation `c` without `after`",
            "no_envelope: read the record as Debezium's envelope: `after` is no object",
            "no_envelope: read the record as Debezium's envelope: expected an object",
        ]
    );
}

#[tokio::test]
async fn debezium_json_keeps_the_contract() {
    let (mut rows, mut refused) = (0, 0);
    for seed in [1, 2, 3].into_iter().chain((0..15).map(|_| rand::random())) {
        let mut rng = StdRng::seed_from_u64(seed);
        let typed = rng.random::<bool>();
        let kinds = ["int32", "int64", "string", "boolean", "double"];
        let values = (0..60).map(|_| {
            let names = ["a", "b", "c"];
            let value = |rng: &mut StdRng| {
                [json!(1), json!(null), json!("x"), json!([]), json!({"k": [2.5]}), json!(true), json!(PLACEHOLDER)]
                    .choose(rng)
                    .unwrap()
                    .clone()
            };
            let mut row = serde_json::Map::new();
            for name in names {
                if rng.random_range(0..3) > 0 {
                    row.insert(name.to_owned(), value(&mut rng));
                }
            }
            let op = *["c", "u", "d", "r", "t", "x"].choose(&mut rng).unwrap();
            let mut record = change(op, &Value::Object(row.clone()), &Value::Object(row));
            if typed && rng.random_range(0..4) > 0 {
                let mut fields = Vec::new();
                for name in names {
                    if rng.random_range(0..4) > 0 {
                        let other = usize::from(rng.random_range(0..9) == 0);
                        fields.push(field(name, kinds[other * rng.random_range(0..5)], "", json!(null)));
                    }
                }
                record = json!({"schema": schema(&fields), "payload": record});
            }
            let mut bytes = record.to_string().into_bytes();
            match rng.random_range(0..12) {
                0 => bytes.truncate(rng.random_range(0..bytes.len())),
                1 => return None,
                _ => {}
            }
            Some(bytes)
        });
        let values = records(values.collect::<Vec<_>>());
        let registry = registry();
        let open = move |there| {
            let mut settings = settings(&registry);
            settings.there = there;
            Box::pin(async { open("debezium-json", settings).await.unwrap().unwrap() })
                as futures::future::BoxFuture<'static, _>
        };
        let (taken, left) = body_contract(&open, &values, seed).await;
        rows += taken;
        refused += left;
    }
    assert!(rows > 100 && refused > 100, "{rows} rows, {refused} refused");
}

/// What Confluent's Avro converter registers for a table of these columns.
fn avro_schema(fields: &[Value]) -> Value {
    json!({"type": "record", "name": "Envelope", "namespace": "shop.public.orders", "connect.name": "shop.public.orders.Envelope", "fields": [
        {"name": "before", "default": null, "type": ["null", {"type": "record", "name": "Value", "connect.name": "shop.public.orders.Value", "fields": fields}]},
        {"name": "after", "default": null, "type": ["null", "Value"]},
        {"name": "source", "type": {"type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql", "fields": [
            {"name": "connector", "type": "string"}, {"name": "ts_ms", "type": "long"},
            {"name": "snapshot", "default": "false", "type": [{"type": "string", "connect.name": "io.debezium.data.Enum"}, "null"]},
            {"name": "sequence", "default": null, "type": ["null", "string"]}, {"name": "txId", "default": null, "type": ["null", "long"]},
            {"name": "lsn", "default": null, "type": ["null", "long"]}]}},
        {"name": "transaction", "default": null, "type": ["null", {"type": "record", "name": "block", "namespace": "event", "fields": [
            {"name": "id", "type": "string"}, {"name": "total_order", "type": "long"}, {"name": "data_collection_order", "type": "long"}]}]},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "default": null, "type": ["null", "long"]}]})
}

fn avro_change(id: i32, schema: &apache_avro::Schema, op: &str, before: &Value, after: &Value) -> Vec<u8> {
    let source = json!({"connector": "postgresql", "ts_ms": 1_739_803_755_179_i64, "snapshot": "false", "sequence": null, "txId": 571, "lsn": 24_023_128});
    let record = json!({"before": before, "after": after, "source": source, "transaction": null, "op": op, "ts_ms": 1});
    let mut bytes = Vec::new();
    frame::write(id, &mut bytes);
    bytes.extend(encode_json(&record, schema).unwrap());
    bytes
}

#[tokio::test]
async fn envelopes_in_avro_are_rows_too_and_evolve_with_their_schemas() {
    let registry = registry();
    let int = |name: &str| json!({"name": name, "type": "int"});
    let old = avro_schema(&[int("id"), json!({"name": "note", "default": null, "type": ["null", "string"]})]);
    let new = avro_schema(&[
        int("id"),
        json!({"name": "note", "default": null, "type": ["null", "string"]}),
        json!({"name": "at", "default": null, "type": ["null", {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}]}),
        json!({"name": "day", "default": 0, "type": {"type": "int", "connect.default": 0, "connect.name": "io.debezium.time.Date"}}),
    ]);
    let first = registry.register("orders-value", &old.to_string(), None).await.unwrap().id;
    let second = registry.register("orders-value", &new.to_string(), None).await.unwrap().id;
    let (old, new) = (apache_avro::Schema::parse(&old).unwrap(), apache_avro::Schema::parse(&new).unwrap());
    let null = json!(null);

    let mut body = open("debezium-avro", settings(&registry)).await.unwrap().unwrap();
    assert_eq!(columns(body.columns())[0], "_op text");
    let values = records([
        Some(avro_change(first, &old, "c", &null, &json!({"id": 1, "note": "a"}))),
        Some(avro_change(
            second,
            &new,
            "u",
            &null,
            &json!({"id": 1, "note": PLACEHOLDER, "at": 1_739_803_755_179_171_i64, "day": 20_136}),
        )),
        None,
        Some(avro_change(first, &old, "d", &json!({"id": 1, "note": "b"}), &null)),
        Some(avro_change(first, &old, "t", &null, &null)),
    ]);
    let (rows, refused) = landed(&mut *body, &values).await;

    assert_eq!(refused, Vec::<String>::new());
    let seen: Vec<Value> = rows
        .iter()
        .map(|row| json!([row["_op"], row["id"], row["note"], row["day"], row["_unchanged"], row["_lsn"]]))
        .collect();
    assert_eq!(
        seen,
        [
            json!(["c", 1, "a", null, null, 24_023_128]),
            json!(["u", 1, null, "2025-02-17", ["note"], 24_023_128]),
            json!(["d", 1, "b", null, null, 24_023_128]),
            json!(["t", null, null, null, null, 24_023_128]),
        ]
    );
    assert_eq!((&rows[1]["at"], &rows[1]["_tx"]), (&json!("2025-02-17T14:49:15.179171"), &json!("571")));
}

#[tokio::test]
async fn debezium_avro_keeps_the_contract() {
    let registry = registry();
    let columns = ["int", "string", "double"]
        .map(|kind| json!({"name": format!("f_{kind}"), "default": null, "type": ["null", kind]}));
    let mut schemas = Vec::new();
    for (subject, fields) in [("one", &columns[..2]), ("two", &columns[1..]), ("three", &columns[..])] {
        let schema = avro_schema(fields);
        let id = registry.register(subject, &schema.to_string(), None).await.unwrap().id;
        schemas.push((id, apache_avro::Schema::parse(&schema).unwrap()));
    }
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let values = (0..200).map(|n| {
        let (id, schema) = schemas.choose(&mut rng).unwrap();
        let row = json!({"f_int": n, "f_string": PLACEHOLDER.repeat(n % 3), "f_double": 0.5});
        let row = Value::Object(
            row.as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| {
                    let text = schema.canonical_form();
                    text.contains(name.as_str())
                })
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        );
        let op = *["c", "u", "d", "t"].choose(&mut rng).unwrap();
        let mut bytes = avro_change(*id, schema, op, &row, if op == "d" { &Value::Null } else { &row });
        match rng.random_range(0..12) {
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            1 => bytes[4] = 99,
            2 => return None,
            _ => {}
        }
        Some(bytes)
    });
    let values = records(values.collect::<Vec<_>>());
    let open = move |there| {
        let mut settings = settings(&registry);
        settings.there = there;
        Box::pin(async { open("debezium-avro", settings).await.unwrap().unwrap() })
            as futures::future::BoxFuture<'static, _>
    };
    let (rows, refused) = body_contract(&open, &values, seed).await;
    assert!(rows > 100 && refused > 10, "{rows} rows, {refused} refused");
}
