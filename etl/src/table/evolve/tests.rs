//! Columns that grow inside, on a real table that a query reads.
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{evolve, merged, project};
use crate::engine::{Engine, EngineSettings};
use crate::format::json::{Decoder, to_json};
use crate::table::{Commit, FileWriter, Lake, S3Settings, Table, TableName, WriteOptions, parse_type, type_name};

fn columns(declared: &[(&str, &str)]) -> SchemaRef {
    let fields = declared.iter().map(|(name, kind)| Field::new(*name, parse_type(kind).unwrap(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn rows(columns: &SchemaRef, values: &[Value]) -> RecordBatch {
    let mut decoder = Decoder::new(Arc::clone(columns)).unwrap();
    for value in values {
        decoder.decode(value.to_string().as_bytes()).unwrap();
    }
    decoder.flush().unwrap()
}

async fn append(table: &mut Table, rows: &RecordBatch) {
    let columns = table.schema().unwrap();
    let mut commit = Commit::append(now());
    let mut writer = FileWriter::new(table, Arc::clone(&columns), WriteOptions::default(), now());
    writer.write(&project(rows, &columns, table.name()).unwrap()).await.unwrap();
    commit.actions.extend(writer.finish().await.unwrap().into_iter().map(deltalake::kernel::Action::Add));
    table.commit(commit).await.unwrap();
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_739_803_755, 0).unwrap()
}

const OLD: &[(&str, &str)] = &[
    ("id", "bigint"),
    ("user", "struct<os text>"),
    ("items", "list<struct<sku bigint>>"),
    ("seen", "map<text, struct<n bigint>>"),
];
const NEW: &[(&str, &str)] = &[
    ("seen", "map<text, struct<n bigint>>"),
    ("items", "list<struct<price decimal(10,2), sku bigint>>"),
    ("user", "struct<id bigint, os text, address struct<city text>>"),
    ("id", "bigint"),
];

#[tokio::test]
async fn old_files_have_null_in_members_that_came_later() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap(), Path::new("."), &S3Settings::default()).unwrap();
    let name = TableName::new("bronze", "orders");
    let old = columns(OLD);
    let mut table = lake.ensure(&name, &old, &[]).await.unwrap();
    append(
        &mut table,
        &rows(
            &old,
            &[
                json!({"id": 1, "user": {"os": "iOS"}, "items": [{"sku": 7}, null], "seen": {"a": {"n": 1}}}),
                json!({"id": 2}),
            ],
        ),
    )
    .await;

    assert!(evolve(&mut table, &columns(NEW), now()).await.unwrap());
    assert!(!evolve(&mut table, &columns(OLD), now()).await.unwrap(), "all of it is there");
    append(&mut table, &rows(&old, &[json!({"id": 3, "user": {"os": "old rows"}})])).await;
    let new = json!({
        "id": 4, "user": {"id": 5, "os": null, "address": {"city": "Tbilisi"}}, "items": [{"sku": 8, "price": 8.99}],
        "seen": {"a": {"n": 1}},
    });
    append(&mut table, &rows(&columns(NEW), &[new])).await;

    let settings = EngineSettings {
        memory_limit: 64 << 20,
        spill_dir: folder.path().join("spill"),
        target_partitions: 2,
        base: folder.path().to_owned(),
    };
    let engine = Engine::new(lake, settings).unwrap();
    let batches = engine.query("select * from bronze.orders order by id").await.unwrap().collect().await.unwrap();
    let got: Vec<Value> =
        batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| to_json(batch, row).unwrap())).collect();
    assert_eq!(
        got,
        [
            json!({"id": 1, "user": {"os": "iOS", "id": null, "address": null}, "items": [{"sku": 7, "price": null}, null], "seen": {"a": {"n": 1}}}),
            json!({"id": 2, "user": null, "items": null, "seen": null}),
            json!({"id": 3, "user": {"os": "old rows", "id": null, "address": null}, "items": null, "seen": null}),
            json!({"id": 4, "user": {"os": null, "id": 5, "address": {"city": "Tbilisi"}}, "items": [{"sku": 8, "price": 8.99}], "seen": {"a": {"n": 1}}}),
        ]
    );
    let members = "select id, \"user\"['address']['city'] city from bronze.orders where \"user\"['id'] is not null";
    let batches = engine.query(members).await.unwrap().collect().await.unwrap();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!((rows, to_json(&batches[0], 0).unwrap()), (1, json!({"id": 4, "city": "Tbilisi"})));

    for refused in [("user", "struct<os bigint>"), ("seen", "map<text, struct<n bigint, at timestamp>>")] {
        let error = evolve(&mut table, &columns(&[refused]), now()).await.unwrap_err();
        assert_eq!(error.code(), "T0006", "{refused:?}");
    }
}

#[test]
fn types_are_merged_member_by_member_unless_they_contradict() {
    let merge = |there: &str, wanted: &str| -> Option<String> {
        let grown: Option<DataType> = merged(&parse_type(there).unwrap(), &parse_type(wanted).unwrap());
        grown.as_ref().map(type_name)
    };
    assert_eq!(merge("struct<a text>", "struct<b list<bigint>, a text>").unwrap(), "struct<a text, b list<bigint>>");
    assert_eq!(merge("list<struct<a text>>", "list<struct<b text>>").unwrap(), "list<struct<a text, b text>>");
    assert_eq!(merge("map<text, struct<a text>>", "map<text, struct<a text>>").unwrap(), "map<text, struct<a text>>");
    for (there, wanted) in [
        ("bigint", "integer"),
        ("struct<a text>", "struct<a bigint, b text>"),
        ("list<text>", "text"),
        ("struct<a text>", "map<text, text>"),
        ("map<text, struct<a text>>", "map<text, struct<a text, b text>>"),
    ] {
        assert_eq!(merge(there, wanted), None, "{there} and {wanted}");
    }
}

#[test]
fn a_value_that_does_not_fit_is_an_error_and_never_a_null() {
    let wide = rows(&columns(&[("n", "struct<a bigint>")]), &[json!({"n": {"a": 3_000_000_000_i64}})]);
    let narrow = columns(&[("n", "struct<a integer>")]);
    let error = project(&wide, &narrow, &TableName::new("bronze", "numbers")).unwrap_err();
    assert!(error.to_string().contains('n'), "{error}");
}
