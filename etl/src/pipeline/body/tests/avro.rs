//! Avro: schemas that alternate and grow, ids that nobody knows, and apache-avro as the judge of what a row is.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apache_avro::types::Value as AvroValue;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use rand::Rng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::{BodySettings, OnIncompatible, columns, landed, open, records, registry, settings};
use crate::error::{Error, Result};
use crate::format::avro::oracle::{Cell, Random, expected, rows};
use crate::format::avro::{arrow_schema, encode_json, frame};
use crate::record::Record;
use crate::schema_registry::{Level, Registered, Registry, RegistryError};
use crate::table::{TableName, project};
use crate::testkit::body_contract;

fn framed(id: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(id, &mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

#[expect(clippy::needless_pass_by_value, reason = "called with json!(…)")]
fn record(fields: Value) -> Value {
    json!({"type": "record", "name": "Event", "fields": fields})
}

#[expect(clippy::needless_pass_by_value, reason = "called with json!(…)")]
fn device(fields: Value) -> Value {
    json!({"name": "devices", "type": {"type": "array", "items": {"type": "record", "name": "Device", "fields": fields}}})
}

async fn registered(registry: &Arc<dyn Registry>, subject: &str, schema: &Value) -> i32 {
    registry.register(subject, &schema.to_string(), None).await.unwrap().id
}

fn written(id: i32, schema: &Value, value: &Value) -> Vec<u8> {
    framed(id, &encode_json(value, &apache_avro::Schema::parse(schema).unwrap()).unwrap())
}

#[tokio::test]
async fn a_newer_schema_adds_columns_and_members_and_older_records_have_null_there() {
    let registry = registry();
    let old = record(json!([{"name": "id", "type": "long"}, device(json!([{"name": "os", "type": "string"}]))]));
    let new = record(json!([
        device(json!([{"name": "version", "default": 0, "type": "int"}, {"name": "os", "type": "string"}])),
        {"name": "id", "type": "long"},
        {"name": "note", "default": null, "type": ["null", "string"]},
    ]));
    let first = registered(&registry, "events-value", &old).await;
    let mut body = open("avro", settings(&registry)).await.unwrap().unwrap();
    let second = registered(&registry, "events-value", &new).await;

    let (rows, refused) = landed(
        &mut *body,
        &records([
            Some(written(first, &old, &json!({"id": 1, "devices": [{"os": "iOS"}]}))),
            Some(written(second, &new, &json!({"id": 2, "note": "n", "devices": [{"os": "iOS", "version": 17}]}))),
            Some(written(first, &old, &json!({"id": 3, "devices": []}))),
        ]),
    )
    .await;

    assert_eq!(refused, Vec::<String>::new());
    assert_eq!(columns(body.columns()), ["id bigint", "devices list<struct<os text, version integer>>", "note text"]);
    assert_eq!(
        rows,
        [
            json!({"id": 1, "devices": [{"os": "iOS", "version": null}], "note": null}),
            json!({"id": 2, "devices": [{"os": "iOS", "version": 17}], "note": "n"}),
            json!({"id": 3, "devices": [], "note": null}),
        ]
    );
}

#[tokio::test]
async fn a_contradiction_names_the_field_and_both_schemas_and_does_as_the_setting_says() {
    let registry = registry();
    let good = record(json!([{"name": "id", "type": "long"}, device(json!([{"name": "os", "type": "string"}]))]));
    let bad = record(
        json!([{"name": "id", "type": "long"}, device(json!([{"name": "os", "type": "long"}, {"name": "more", "type": "int"}]))]),
    );
    let first = registered(&registry, "events-value", &good).await;
    let second = registered(&registry, "elsewhere", &bad).await;
    let values = records([
        Some(written(first, &good, &json!({"id": 1, "devices": []}))),
        Some(written(second, &bad, &json!({"id": 2, "devices": [{"os": 3, "more": 4}]}))),
        Some(written(first, &good, &json!({"id": 3, "devices": []}))),
    ]);

    let mut body = open("avro", settings(&registry)).await.unwrap().unwrap();
    let (rows, refused) = landed(&mut *body, &values).await;
    assert_eq!(rows.len(), 2);
    assert_eq!(
        refused,
        [format!(
            "incompatible_schema: schema {second} contradicts the table, whose column `devices` is as schema {first} has it: \
             read `devices[].os`: the writer has long, the table has Utf8"
        )]
    );
    assert_eq!(columns(body.columns())[1], "devices list<struct<os text>>");

    let stop = BodySettings { on_incompatible: OnIncompatible::Stop, ..settings(&registry) };
    let mut body = open("avro", stop).await.unwrap().unwrap();
    let blocked = body.prepare(&values).await.unwrap_err();
    assert_eq!((blocked.index, blocked.error.code()), (1, "L0209"));
    let why = blocked.error.why().unwrap();
    assert!(
        why.contains("devices[].os")
            && why.contains(&format!("schema {first} "))
            && why.contains(&format!("schema {second} ")),
        "{why}"
    );
}

/// A registry that can be switched off; all else is the real one.
struct Switched {
    registry: Arc<dyn Registry>,
    down: AtomicBool,
}

#[async_trait]
impl Registry for Switched {
    async fn subjects(&self) -> Result<Vec<String>> {
        self.registry.subjects().await
    }

    async fn versions(&self, subject: &str) -> Result<Vec<Registered>> {
        self.registry.versions(subject).await
    }

    async fn latest(&self, subject: &str) -> Result<Option<Registered>> {
        self.registry.latest(subject).await
    }

    async fn by_id(&self, id: i32) -> Result<Option<String>> {
        if self.down.load(Ordering::Relaxed) {
            let source = object_store::Error::Generic { store: "registry", source: "connection refused".into() };
            let error = RegistryError::Storage { doing: "read", path: id.to_string(), source };
            return Err(Error::from(error));
        }
        self.registry.by_id(id).await
    }

    async fn register(&self, subject: &str, schema: &str, id: Option<i32>) -> Result<Registered> {
        self.registry.register(subject, schema, id).await
    }

    async fn check(&self, subject: &str, schema: &str) -> Result<()> {
        self.registry.check(subject, schema).await
    }

    async fn level(&self, subject: Option<&str>) -> Result<Option<Level>> {
        self.registry.level(subject).await
    }

    async fn set_level(&self, subject: Option<&str>, level: Level) -> Result<()> {
        self.registry.set_level(subject, level).await
    }
}

#[tokio::test]
async fn while_the_registry_is_down_known_ids_go_on_and_unknown_ids_wait() {
    let inner = registry();
    let switched = Arc::new(Switched { registry: Arc::clone(&inner), down: AtomicBool::new(false) });
    let schema = record(json!([{"name": "id", "type": "long"}]));
    let other = record(json!([{"name": "id", "type": "long"}, {"name": "n", "default": 0, "type": "long"}]));
    let known = registered(&inner, "events-value", &schema).await;
    let unknown = registered(&inner, "elsewhere", &other).await;
    let registry: Arc<dyn Registry> = Arc::<Switched>::clone(&switched);
    let mut body = open("avro", settings(&registry)).await.unwrap().unwrap();
    let one = |id: i64| Some(written(known, &schema, &json!({"id": id})));
    landed(&mut *body, &records([one(1)])).await;

    switched.down.store(true, Ordering::Relaxed);
    let (rows, refused) = landed(&mut *body, &records([one(2), one(3)])).await;
    assert_eq!((rows.len(), refused.len()), (2, 0));
    let waiting = records([one(4), Some(written(unknown, &other, &json!({"id": 5, "n": 1}))), one(6)]);
    assert_eq!(body.prepare(&waiting).await.unwrap_err().index, 1);
    assert!(body.read(&waiting[0]).is_ok());
    body.flush().unwrap();

    switched.down.store(false, Ordering::Relaxed);
    let (rows, refused) = landed(&mut *body, &waiting).await;
    assert_eq!((rows.len(), refused.len()), (3, 0));
}

#[tokio::test]
async fn ids_that_nobody_gave_are_dead_letters_however_many_there_are() {
    let registry = registry();
    let schema = record(json!([{"name": "id", "type": "long"}]));
    let known = registered(&registry, "events-value", &schema).await;
    let mut body = open("avro", settings(&registry)).await.unwrap().unwrap();
    for from in [1_000, 8_000, 15_000] {
        let values: Vec<_> = (from..from + 7_000)
            .map(|id| Some(framed(id, &[2])))
            .chain([Some(written(known, &schema, &json!({"id": 1})))])
            .collect();
        let (rows, refused) = landed(&mut *body, &records(values)).await;
        assert_eq!((rows.len(), refused.len()), (1, 7_000));
        assert_eq!(refused[0], format!("unknown_schema: the registry has no schema {from}"));
    }
}

/// The record type with some of its fields, in another order; the records inside it too.
fn version(full: &Value, random: &mut Random) -> Value {
    let mut schema = full.clone();
    if let Some(fields) = schema.get_mut("fields").and_then(Value::as_array_mut) {
        let keep = random.rng.random_range(0..fields.len());
        let mut index = 0;
        fields.retain(|_| {
            index += 1;
            index == keep + 1 || random.rng.random_range(0..3) > 0
        });
        fields.shuffle(&mut random.rng);
        for field in fields {
            field["type"] = version(&field["type"].clone(), random);
        }
        return schema;
    }
    for inside in ["items", "values"] {
        if let Some(inner) = schema.get(inside).cloned() {
            schema[inside] = version(&inner, random);
        }
    }
    if let Some(branches) = schema.as_array_mut().filter(|branches| branches.len() == 2) {
        for branch in branches {
            *branch = version(&branch.clone(), random);
        }
    }
    schema
}

/// The schema in which every field may be missing: what a reader of all versions has.
fn wide(full: &Value) -> Value {
    let mut schema = full.clone();
    for inside in ["items", "values"] {
        if let Some(inner) = schema.get(inside).cloned() {
            schema[inside] = wide(&inner);
        }
    }
    if let Some(branches) = schema.as_array_mut() {
        for branch in branches {
            *branch = wide(&branch.clone());
        }
    }
    for field in schema.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
        let inner = wide(&field["type"].clone());
        let mut branches = match inner {
            Value::Array(branches) => branches.into_iter().filter(|branch| branch != "null").collect(),
            Value::String(null) if null == "null" => Vec::new(),
            one => vec![one],
        };
        branches.insert(0, json!("null"));
        field["type"] = branches.into();
        field["default"] = Value::Null;
    }
    schema
}

/// The same value with decimals of at least 16 bytes: the judge takes fewer for a smaller type than the schema's.
fn padded(value: AvroValue) -> AvroValue {
    let inner = |value: Box<AvroValue>| Box::new(padded(*value));
    match value {
        AvroValue::Decimal(decimal) => {
            let bytes = Vec::<u8>::try_from(&decimal).unwrap();
            let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { 0xff } else { 0 };
            let more = vec![sign; 16_usize.saturating_sub(bytes.len())];
            AvroValue::Decimal([more, bytes].concat().into())
        }
        AvroValue::Union(branch, value) => AvroValue::Union(branch, inner(value)),
        AvroValue::Array(items) => AvroValue::Array(items.into_iter().map(padded).collect()),
        AvroValue::Map(items) => AvroValue::Map(items.into_iter().map(|(key, item)| (key, padded(item))).collect()),
        AvroValue::Record(fields) => {
            AvroValue::Record(fields.into_iter().map(|(name, field)| (name, padded(field))).collect())
        }
        other => other,
    }
}

#[tokio::test]
async fn versions_that_alternate_give_the_rows_that_apache_avro_resolves() {
    let (mut compared, mut refused) = (0, 0);
    for seed in [1, 2, 3].into_iter().chain((0..12).map(|_| rand::random())) {
        let mut random = Random::new(seed);
        let full = random.record(0);
        let reader_text = wide(&full);
        let reader = apache_avro::Schema::parse(&reader_text).unwrap();
        let registry = registry();
        let mut writers = Vec::new();
        for n in 0..3 {
            let text = version(&full, &mut random);
            // Under a subject each: what they have in common is the table.
            let id = registered(&registry, &format!("version-{n}"), &text).await;
            writers.push((id, apache_avro::Schema::parse(&text).unwrap()));
        }
        let mut values: Vec<(Vec<u8>, Option<AvroValue>)> = Vec::new();
        for _ in 0..90 {
            let (id, writer) = writers[random.rng.random_range(0..writers.len())].clone();
            let value = random.value(&writer);
            let body = GenericDatumWriter::builder(&writer).build().unwrap().write_value_to_vec(value.clone()).unwrap();
            values.push((framed(id, &body), Some(value)));
            match random.rng.random_range(0..8) {
                0 => values.push((framed(777_777, &body), None)),
                1 => values.push((framed(id, &[&body[..], &[0]].concat()), None)),
                2 => values.push((vec![7; 3], None)),
                _ => {}
            }
        }
        let all: Vec<Record> = records(values.iter().map(|(bytes, _)| Some(bytes.clone())));
        // The subject of the topic itself has the first version.
        let start = BodySettings { subject: "version-0".to_owned(), ..settings(&registry) };
        let mut body = open("avro", start).await.unwrap().unwrap();

        body.prepare(&all).await.unwrap();
        let mut taken = Vec::new();
        for (record, (_, value)) in all.iter().zip(&values) {
            match (body.read(record), value) {
                (Ok(_), Some(value)) => taken.push(value.clone()),
                (Err(_), None) => refused += 1,
                (outcome, _) => panic!("seed {seed}: {outcome:?} of {value:?}"),
            }
        }
        let landed = body.flush().unwrap();

        let columns: SchemaRef = Arc::new(arrow_schema(&reader).unwrap());
        let landed = rows(&project(&landed, &columns, &TableName::new("bronze", "events")).unwrap());
        for (row, value) in landed.iter().zip(&taken) {
            let resolved = (padded(value.clone()).resolve(&reader))
                .unwrap_or_else(|error| panic!("seed {seed}: {error}: {reader_text} of {value:?}"));
            let wanted: Cell = expected(&resolved, &reader);
            assert_eq!(row, &wanted, "seed {seed}: {full}");
            compared += 1;
        }
        assert_eq!(landed.len(), taken.len(), "seed {seed}");
        let subject = Arc::clone(&registry);
        let open = move |there| {
            let start = BodySettings { subject: "version-0".to_owned(), there, ..settings(&subject) };
            Box::pin(async { open("avro", start).await.unwrap().unwrap() }) as futures::future::BoxFuture<'static, _>
        };
        body_contract(&open, &all, seed).await;
    }
    assert!(compared > 500 && refused > 100, "{compared} compared, {refused} refused");
}
