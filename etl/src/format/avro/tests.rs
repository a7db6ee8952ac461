//! One type, one fault, one rule at a time; random mixtures are in [`super::oracle`].
use std::sync::Arc;

use apache_avro::Schema;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef, TimeUnit};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Decoder, Encoder, JsonEncoder, Reason, arrow_schema, encode_json, frame};
use crate::error::Explain;
use crate::format::error::SchemaError;
use crate::format::json::to_json;

fn schema(json: &Value) -> Schema {
    Schema::parse(json).unwrap()
}

fn record(fields: &Value) -> Schema {
    schema(&json!({"type": "record", "name": "R", "fields": fields}))
}

fn one(field_type: &Value) -> Schema {
    record(&json!([{"name": "f", "type": field_type}]))
}

fn columns(schema: &Schema) -> SchemaRef {
    Arc::new(arrow_schema(schema).unwrap())
}

fn column(field_type: &Value) -> DataType {
    columns(&one(field_type)).field(0).data_type().clone()
}

fn table(fields: Vec<Field>) -> SchemaRef {
    Arc::new(arrow::datatypes::Schema::new(fields))
}

/// Why this body is refused, and at which path.
fn refused(field_type: &Value, body: &[u8]) -> (String, Reason) {
    let schema = one(field_type);
    let mut decoder = Decoder::new(&schema, columns(&schema)).unwrap();
    let bad = decoder.decode(body).unwrap_err();
    assert_eq!((decoder.rows(), decoder.flush().unwrap().num_rows()), (0, 0));
    (bad.path, bad.reason)
}

fn through(writer: &Schema, target: SchemaRef, value: &Value) -> Value {
    let mut decoder = Decoder::new(writer, target).unwrap();
    decoder.decode(&encode_json(value, writer).unwrap()).unwrap();
    to_json(&decoder.flush().unwrap(), 0).unwrap()
}

#[test]
fn every_type_has_its_column() {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let wall = DataType::Timestamp(TimeUnit::Microsecond, None);
    for (avro, wanted) in [
        (json!("null"), DataType::Utf8),
        (json!("boolean"), DataType::Boolean),
        (json!("int"), DataType::Int32),
        (json!("long"), DataType::Int64),
        (json!("float"), DataType::Float32),
        (json!("double"), DataType::Float64),
        (json!("bytes"), DataType::Binary),
        (json!("string"), DataType::Utf8),
        (json!({"type": "fixed", "name": "F", "size": 3}), DataType::Binary),
        (json!({"type": "enum", "name": "E", "symbols": ["A"]}), DataType::Utf8),
        (json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}), DataType::Decimal128(10, 2)),
        (json!({"type": "bytes", "logicalType": "big-decimal"}), DataType::Binary),
        (json!({"type": "int", "logicalType": "date"}), DataType::Date32),
        (json!({"type": "int", "logicalType": "time-millis"}), DataType::Int64),
        (json!({"type": "long", "logicalType": "time-micros"}), DataType::Int64),
        (json!({"type": "long", "logicalType": "timestamp-millis"}), utc.clone()),
        (json!({"type": "long", "logicalType": "timestamp-micros"}), utc.clone()),
        (json!({"type": "long", "logicalType": "timestamp-nanos"}), utc),
        (json!({"type": "long", "logicalType": "local-timestamp-nanos"}), wall),
        (json!({"type": "string", "logicalType": "uuid"}), DataType::Utf8),
        (json!(["null", "long"]), DataType::Int64),
        (json!(["long", "null"]), DataType::Int64),
        (json!(["long"]), DataType::Int64),
    ] {
        assert_eq!(column(&avro), wanted, "{avro}");
    }
    let either = column(&json!(["null", "string", "long"]));
    let DataType::Struct(members) = either else { panic!("{either}") };
    assert_eq!(members.iter().map(|member| member.name().as_str()).collect::<Vec<_>>(), ["string", "long"]);
}

#[test]
fn lists_and_maps_are_named_as_delta_names_them() {
    use deltalake::kernel::StructType;
    use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};

    let schema = columns(&record(&json!([
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "attributes", "type": {"type": "map", "values": {"type": "array", "items": "string"}}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
    ])));

    let kernel: StructType = schema.as_ref().try_into_kernel().unwrap();
    let back: arrow::datatypes::Schema = (&kernel).try_into_arrow().unwrap();

    assert_eq!(&back, schema.as_ref());
}

#[test]
fn what_no_table_can_hold_is_refused_with_its_field() {
    let tree = schema(&json!({"type": "record", "name": "Tree", "fields": [
        {"name": "value", "type": "int"},
        {"name": "children", "type": {"type": "array", "items": "Tree"}},
    ]}));
    let error = arrow_schema(&tree).unwrap_err();
    assert_eq!(error.to_string(), "store `children[]`: the type `Tree` contains itself");
    assert_eq!(error.code(), "F0201");

    let wide = one(&json!({"type": "bytes", "logicalType": "decimal", "precision": 39, "scale": 2}));
    assert_eq!(
        arrow_schema(&wide).unwrap_err().to_string(),
        "store `f` of type decimal(39, 2): a column holds at most 38 digits"
    );

    let mut deep = json!("int");
    for _ in 0..70 {
        deep = json!({"type": "array", "items": deep});
    }
    assert!(matches!(arrow_schema(&one(&deep)), Err(SchemaError::TooLarge { .. })));

    // Thirty records, each of which has the next one twice: 2^30 columns.
    let mut fields = vec![json!({"name": "a", "type": {"type": "record", "name": "R0", "fields": []}})];
    for n in 1..30 {
        let before = format!("R{}", n - 1);
        fields.push(json!({"name": format!("f{n}"), "type": {"type": "record", "name": format!("R{n}"), "fields": [
            {"name": "x", "type": before}, {"name": "y", "type": before},
        ]}}));
    }
    assert!(matches!(
        arrow_schema(&schema(&json!({"type": "record", "name": "All", "fields": fields}))),
        Err(SchemaError::TooLarge { .. })
    ));
}

#[test]
fn a_name_is_the_type_it_was_given_to() {
    let schema = schema(&json!({"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "from", "type": {"type": "record", "name": "Place", "fields": [{"name": "city", "type": "string"}]}},
        {"name": "to", "type": ["null", "Place"]},
    ]}));
    let value = json!({"from": {"city": "Batumi"}, "to": {"city": "Kutaisi"}});
    assert_eq!(through(&schema, columns(&schema), &value), value);
    assert_eq!(
        through(
            &schema,
            columns(&schema),
            &json!({"from": {"city": "Batumi"}, "to": {"shop.Place": {"city": "Kutaisi"}}})
        ),
        value
    );
}

#[test]
fn a_root_that_is_no_record_is_one_column() {
    let schema = schema(&json!("string"));
    assert_eq!(through(&schema, columns(&schema), &json!("text")), json!({"value": "text"}));
}

#[test]
fn every_fault_has_its_reason_and_its_path() {
    let list = json!({"type": "array", "items": "int"});
    let nothing = json!({"type": "array", "items": "null"});
    for (avro, body, path, reason) in [
        (json!("string"), &b"\x08abc"[..], "f", Reason::Truncated { needed: 4, left: 3 }),
        (json!("string"), b"", "f", Reason::Truncated { needed: 1, left: 0 }),
        (json!("string"), b"\x04ab!", "", Reason::Trailing(1)),
        (json!("string"), b"\x04\xc3\x28", "f", Reason::Utf8),
        (json!("string"), b"\x01", "f", Reason::Length(-1)),
        (json!("boolean"), b"\x02", "f", Reason::Boolean(2)),
        (json!("int"), b"\x80\x80\x80\x80\x10", "f", Reason::IntRange(1 << 31)),
        (json!("long"), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "f", Reason::Varint),
        (json!("double"), b"1234567", "f", Reason::Truncated { needed: 8, left: 7 }),
        (json!(["null", "int"]), b"\x04", "f", Reason::Union { index: 2, branches: 2 }),
        (json!(["null", "int", "string"]), b"\x01", "f", Reason::Union { index: -1, branches: 3 }),
        (json!({"type": "enum", "name": "E", "symbols": ["A"]}), b"\x02", "f", Reason::Enum { index: 1, symbols: 1 }),
        (list.clone(), b"\x04\x02", "f[]", Reason::Items(2)),
        (list.clone(), b"\x02\x80\x00", "f[]", Reason::Truncated { needed: 1, left: 0 }),
        // Minus one item in four bytes, and it takes one.
        (list.clone(), b"\x01\x08\x02\x00", "f[]", Reason::Block { stated: 4, found: 1 }),
        (list, b"\x01\x01\x02\x00", "f[]", Reason::Block { stated: -1, found: 1 }),
        (nothing, b"\x80\x80\x80\x80\x80\x80\x80\x80\x01\x00", "f[]", Reason::Items(1 << 55)),
        (
            json!({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 0}),
            b"\x02\x64",
            "f",
            Reason::Decimal(2),
        ),
        (
            json!({"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0}),
            b"\x24\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            "f",
            Reason::Decimal(38),
        ),
    ] {
        assert_eq!(refused(&avro, body), (path.to_owned(), reason), "{avro}");
    }
    let deep =
        json!({"type": "record", "name": "A", "fields": [{"name": "b", "type": {"type": "map", "values": "boolean"}}]});
    assert_eq!(refused(&deep, b"\x02\x02k\x07\x00").0, "f.b{}");
}

#[test]
fn lengths_that_lie_cost_no_memory() {
    let nested = json!({"type": "array", "items": {"type": "array", "items": "null"}});
    let schema = one(&nested);
    let mut decoder = Decoder::new(&schema, columns(&schema)).unwrap();
    // Every inner array claims 60 000 items of no bytes.
    let mut body = Vec::new();
    super::wire::write_long(1_000, &mut body);
    for _ in 0..1_000 {
        super::wire::write_long(60_000, &mut body);
        body.push(0);
    }
    body.push(0);

    assert!(matches!(decoder.decode(&body).unwrap_err().reason, Reason::Items(60_000)));
    assert_eq!(decoder.size(), schema_overhead(&decoder));
}

fn schema_overhead(decoder: &Decoder) -> usize {
    Decoder::new(
        &one(&json!({"type": "array", "items": {"type": "array", "items": "null"}})),
        SchemaRef::clone(decoder.schema()),
    )
    .unwrap()
    .size()
}

#[test]
fn items_may_come_in_several_blocks_with_their_sizes() {
    let schema = one(&json!({"type": "array", "items": "int"}));
    let mut decoder = Decoder::new(&schema, columns(&schema)).unwrap();
    decoder.decode(b"\x03\x04\x02\x04\x02\x06\x00").unwrap();
    assert_eq!(to_json(&decoder.flush().unwrap(), 0).unwrap(), json!({"f": [1, 2, 3]}));
}

#[test]
fn types_are_promoted_as_avro_says_and_no_further() {
    let promoted = |from: &str, to: DataType, value: Value| {
        through(&one(&json!(from)), table(vec![Field::new("f", to, true)]), &json!({"f": value}))["f"].clone()
    };
    assert_eq!(promoted("int", DataType::Int64, json!(7)), json!(7));
    assert_eq!(promoted("int", DataType::Float32, json!(7)), json!(7.0));
    assert_eq!(promoted("int", DataType::Float64, json!(7)), json!(7.0));
    assert_eq!(promoted("long", DataType::Float32, json!(7)), json!(7.0));
    assert_eq!(promoted("long", DataType::Float64, json!(-7)), json!(-7.0));
    assert_eq!(promoted("float", DataType::Float64, json!(0.5)), json!(0.5));
    assert_eq!(promoted("string", DataType::Binary, json!("ab")), json!("YWI="));
    assert_eq!(promoted("bytes", DataType::Utf8, json!("YWI=")), json!("ab"));

    let refused = |from: &Value, to: DataType| {
        Decoder::new(&one(from), table(vec![Field::new("f", to, true)])).err().unwrap().to_string()
    };
    assert_eq!(refused(&json!("int"), DataType::Utf8), "read `f`: the writer has int, the table has Utf8");
    assert_eq!(refused(&json!("string"), DataType::Int32), "read `f`: the writer has string, the table has Int32");
    for (from, to) in [
        (json!("long"), DataType::Int32),
        (json!("double"), DataType::Float32),
        (json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}), DataType::Decimal128(10, 3)),
        (json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}), DataType::Decimal128(9, 2)),
        (json!({"type": "long", "logicalType": "timestamp-micros"}), DataType::Int64),
        (json!({"type": "long", "logicalType": "timestamp-micros"}), DataType::Timestamp(TimeUnit::Microsecond, None)),
        (json!(["null", "string"]), DataType::Int64),
    ] {
        assert!(refused(&from, to).starts_with("read `f`: the writer has "));
    }
}

#[test]
fn fields_are_found_by_name_then_by_alias_and_else_have_their_default() {
    let writer = record(&json!([
        {"name": "gone", "type": {"type": "array", "items": "string"}},
        {"name": "userId", "type": "int"},
        {"name": "name", "type": "string"},
    ]));
    let reader = record(&json!([
        {"name": "name", "type": "string"},
        {"name": "user_id", "type": "long", "aliases": ["userId"]},
        {"name": "country", "type": "string", "default": "GE"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}, "default": "\u{3}\u{83}"},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": ["new"]},
        {"name": "note", "type": ["null", "string"], "default": null},
        {"name": "later", "type": ["null", "string"]},
    ]));
    let body = encode_json(&json!({"gone": ["x"], "userId": 7, "name": "Nino"}), &writer).unwrap();

    let mut decoder = Decoder::with_reader(&writer, &reader, columns(&reader)).unwrap();
    decoder.decode(&body).unwrap();

    assert_eq!(
        to_json(&decoder.flush().unwrap(), 0).unwrap(),
        json!({"name": "Nino", "user_id": 7, "country": "GE", "price": 8.99, "tags": ["new"], "note": null, "later": null})
    );
    let required = table(vec![Field::new("country", DataType::Utf8, false)]);
    let error = Decoder::new(&writer, required).err().unwrap();
    assert_eq!(error.to_string(), "fill `country`: the writer does not have it, and the column (Utf8) is required");
    assert_eq!(error.code(), "F0202");
}

#[test]
fn null_in_a_required_column_is_a_matter_of_one_record() {
    let writer = one(&json!(["string", "null"]));
    let mut decoder = Decoder::new(&writer, table(vec![Field::new("f", DataType::Utf8, false)])).unwrap();
    decoder.decode(b"\x00\x02a").unwrap();
    assert_eq!(decoder.decode(b"\x02").unwrap_err().reason, Reason::Null);
    decoder.decode(b"\x00\x02b").unwrap();
    assert_eq!(decoder.flush().unwrap().column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn branches_that_a_column_cannot_hold_are_a_matter_of_one_record() {
    let writer = one(&json!(["null", "int", "string", "long"]));
    let mut decoder = Decoder::new(&writer, table(vec![Field::new("f", DataType::Int64, true)])).unwrap();
    for value in [json!({"int": 1}), json!({"long": 2}), json!(null)] {
        decoder.decode(&encode_json(&json!({"f": value}), &writer).unwrap()).unwrap();
    }
    let bad = decoder.decode(&encode_json(&json!({"f": "three"}), &writer).unwrap()).unwrap_err();
    assert_eq!((bad.path.as_str(), bad.reason), ("f", Reason::Branch("string".into())));
    let batch = decoder.flush().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(1), Some(2), None]);
}

#[test]
fn a_type_may_become_one_of_several() {
    let writer = one(&json!("int"));
    let reader = one(&json!(["null", "string", "long"]));
    let mut decoder = Decoder::with_reader(&writer, &reader, columns(&reader)).unwrap();
    decoder.decode(b"\x0e").unwrap();
    assert_eq!(to_json(&decoder.flush().unwrap(), 0).unwrap(), json!({"f": {"string": null, "long": 7}}));
}

// ---- JSON ----

fn problem(field_type: &Value, value: &Value) -> String {
    JsonEncoder::new(&one(field_type)).unwrap().encode(&json!({"f": value})).unwrap_err().to_string()
}

#[test]
fn plain_json_goes_through_avro_and_comes_back() {
    let logical = |of: &str, name: &str| json!({"type": of, "logicalType": name});
    let decimal = json!({"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 2});
    let money = json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2});
    let fixed = json!({"type": "fixed", "name": "F", "size": 5, "logicalType": "decimal", "precision": 10, "scale": 2});
    for (avro, given, read) in [
        (money.clone(), json!(8.99), json!(8.99)),
        (money, json!("-0.10"), json!(-0.1)),
        (fixed, json!("-8.99"), json!(-8.99)),
        (decimal.clone(), json!(8.99), json!(8.99)),
        (decimal, json!("123456789012345678901234567890.12"), json!("123456789012345678901234567890.12")),
        (json!("bytes"), json!("AAH/"), json!("AAH/")),
        (json!("double"), json!("NaN"), json!("NaN")),
        (json!("float"), json!(0.1), json!(0.1)),
        (logical("long", "timestamp-millis"), json!("2025-02-17T14:49:15.179171"), json!("2025-02-17T14:49:15.179Z")),
        (logical("long", "timestamp-micros"), json!("2025-02-17T18:49:15+04:00"), json!("2025-02-17T14:49:15Z")),
        (logical("long", "timestamp-nanos"), json!(1_500), json!("1970-01-01T00:00:00.000001Z")),
        (logical("long", "timestamp-nanos"), json!(-1), json!("1969-12-31T23:59:59.999999Z")),
        (logical("long", "local-timestamp-micros"), json!("2025-02-17T14:49:15"), json!("2025-02-17T14:49:15")),
        (logical("int", "date"), json!("2025-02-17"), json!("2025-02-17")),
        (logical("int", "time-millis"), json!("00:00:01.5"), json!(1_500_000)),
        (logical("long", "time-micros"), json!("00:00:01.5"), json!(1_500_000)),
        (json!({"type": "map", "values": "int"}), json!({"a": 1}), json!({"a": 1})),
        (json!(["null", "string"]), json!({"string": "x"}), json!("x")),
        (json!(["null", "string"]), json!("x"), json!("x")),
        (json!(["string", "null"]), json!(null), json!(null)),
        (json!(["null", {"type": "map", "values": "int"}]), json!({"map": 1}), json!({"map": 1})),
        (json!(["null", {"type": "map", "values": "int"}]), json!({"map": {"a": 1}}), json!({"a": 1})),
        (json!(["int", "string"]), json!("x"), json!({"int": null, "string": "x"})),
    ] {
        let schema = one(&avro);
        assert_eq!(through(&schema, columns(&schema), &json!({"f": given})), json!({"f": read}), "{avro}: {given}");
    }
}

#[test]
fn json_that_does_not_fit_says_where_and_what_was_expected() {
    let money = json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2});
    for (avro, value, wanted) in [
        (json!("int"), json!("7"), r#"encode `f`: expected a whole number of 32 bits, found the text "7""#),
        (json!("int"), json!(7.5), "encode `f`: expected a whole number of 32 bits, found the number 7.5"),
        (json!("string"), json!(7), "encode `f`: expected a text, found the number 7"),
        (money.clone(), json!(8.999), "encode `f`: expected at most 2 digits after the point, found the number 8.999"),
        (money, json!("1,299.00"), r#"encode `f`: expected a number or a number in quotes, found the text "1,299.00""#),
        (json!(["null", "int"]), json!("x"), r#"encode `f`: expected a whole number of 32 bits, found the text "x""#),
        (
            json!(["null", "int", "long"]),
            json!(1),
            r#"encode `f`: expected a value with its type, as {"int": …}, found the number 1, which fits int and long"#,
        ),
        (
            json!({"type": "array", "items": "int"}),
            json!([1, "x"]),
            r#"encode `f[1]`: expected a whole number of 32 bits, found the text "x""#,
        ),
        (
            json!({"type": "map", "values": "int"}),
            json!({"a": null}),
            "encode `f{a}`: expected a whole number of 32 bits, found null",
        ),
        (
            json!({"type": "long", "logicalType": "timestamp-micros"}),
            json!("now"),
            r#"encode `f`: expected timestamp-micros, found the text "now""#,
        ),
    ] {
        assert_eq!(problem(&avro, &value), wanted);
    }
    let encoder = JsonEncoder::new(&record(
        &json!([{"name": "user_id", "type": "string"}, {"name": "item_id", "type": "string"}]),
    ))
    .unwrap();
    assert_eq!(
        encoder.encode(&json!({"user_id": "7"})).unwrap_err().to_string(),
        "encode `item_id`: expected string, found nothing, and it has no default"
    );
    let unknown = encoder.encode(&json!({"user_id": "7", "itemid": "8"})).unwrap_err();
    assert_eq!(unknown.path, "itemid");
    assert_eq!(unknown.fix().unwrap(), "did you mean `item_id`?");
    let colour = one(&json!({"type": "enum", "name": "E", "symbols": ["RED", "GREEN"]}));
    assert_eq!(
        encode_json(&json!({"f": "GREN"}), &colour).unwrap_err().explain().fix().unwrap(),
        "did you mean `GREEN`?"
    );
}

// ---- rows to bodies ----

fn encode(schema: &Schema, batch: &RecordBatch) -> Result<Vec<Bytes>, String> {
    Encoder::new(schema, &batch.schema()).unwrap().encode(batch).map_err(|error| error.to_string())
}

#[test]
fn rows_become_framed_records() {
    let schema = one(&json!(["null", "string"]));
    let mut decoder = Decoder::new(&schema, columns(&schema)).unwrap();
    decoder.decode(b"\x02\x02a").unwrap();
    decoder.decode(b"\x00").unwrap();
    let batch = decoder.flush().unwrap();

    let encoder = Encoder::new(&schema, &batch.schema()).unwrap().framed(258);
    assert_eq!(encoder.encode(&batch).unwrap(), [&b"\0\0\0\x01\x02\x02\x02a"[..], b"\0\0\0\x01\x02\0"]);
}

#[test]
fn rows_that_the_schema_cannot_say_are_refused_by_column_and_row() {
    let nullable = one(&json!(["null", "string"]));
    let mut decoder = Decoder::new(&nullable, columns(&nullable)).unwrap();
    decoder.decode(b"\x02\x02a").unwrap();
    decoder.decode(b"\x00").unwrap();
    let batch = decoder.flush().unwrap();

    assert_eq!(
        encode(&one(&json!("string")), &batch).unwrap_err(),
        "encode `f` of row 1: NULL, and the schema has no null here"
    );
    let colour = json!(["null", {"type": "enum", "name": "E", "symbols": ["b"]}]);
    assert_eq!(encode(&one(&colour), &batch).unwrap_err(), "encode `f` of row 0: the enum has no `a`");
    assert!(matches!(Encoder::new(&one(&json!("int")), &batch.schema()), Err(SchemaError::Mismatch { .. })));
    let more = record(&json!([{"name": "f", "type": ["null", "string"]}, {"name": "g", "type": "int"}]));
    assert!(matches!(Encoder::new(&more, &batch.schema()), Err(SchemaError::Missing { .. })));
    let default =
        record(&json!([{"name": "f", "type": ["null", "string"]}, {"name": "g", "type": "int", "default": -1}]));
    assert_eq!(encode(&default, &batch).unwrap(), [&b"\x02\x02a\x01"[..], b"\0\x01"]);
}

#[test]
fn rows_of_a_query_are_encoded_whatever_texts_they_hold() {
    let list = |item: DataType| DataType::List(Arc::new(Field::new("item", item, true)));
    let schema = record(&json!([
        {"name": "a", "type": ["null", "string"]},
        {"name": "b", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "c", "type": "long"},
        {"name": "d", "type": "string"},
        {"name": "e", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
    ]));
    let plain = table(vec![
        Field::new("a", DataType::Utf8, true),
        Field::new("b", list(DataType::Utf8), true),
        Field::new("c", DataType::Int32, true),
        Field::new("d", DataType::Utf8, true),
        Field::new("e", DataType::Decimal128(20, 2), true),
    ]);
    let mut rows = crate::format::json::Decoder::new(plain).unwrap();
    rows.decode(br#"{"a": "x", "b": ["y", null], "c": 3, "d": "z", "e": 8.99}"#).unwrap();
    rows.decode(br#"{"a": null, "b": [], "c": 3, "d": "z", "e": 100}"#).unwrap();
    let batch = rows.flush().unwrap();
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let types =
        [DataType::Utf8View, list(DataType::LargeUtf8), DataType::Int16, dictionary, DataType::Decimal128(20, 2)];
    let columns = batch.columns().iter().zip(&types).map(|(column, to)| arrow::compute::cast(column, to).unwrap());
    let names = ["a", "b", "c", "d", "e"];
    let batch = RecordBatch::try_from_iter_with_nullable(
        names.into_iter().zip(columns).map(|(name, column)| (name, column, true)),
    )
    .unwrap();

    assert_eq!(
        encode(&schema, &batch.slice(0, 1)).unwrap(),
        [&b"\x02\x02x\x04\x02\x02y\x00\x00\x06\x02z\x04\x03\x83"[..]]
    );
    assert_eq!(
        encode(&schema, &batch).unwrap_err(),
        "encode `e` of row 1: more than 4 digits, or more than the fixed holds"
    );
}

// ---- the schemas that are shipped ----

const SHIPPED: [(&str, &str); 7] = [
    ("consumer_registration", include_str!("../../../../schemas/consumer_registration_topic.avsc")),
    ("sign_in", include_str!("../../../../schemas/sign_in_topic.avsc")),
    ("sign_out", include_str!("../../../../schemas/sign_out_topic.avsc")),
    ("item_view", include_str!("../../../../schemas/item_view_topic.avsc")),
    ("added_to_cart", include_str!("../../../../schemas/added_to_cart_topic.avsc")),
    ("checkout_to_cart", include_str!("../../../../schemas/checkout_to_cart_topic.avsc")),
    ("movies_catalog_enriched", include_str!("../../../../schemas/movies_catalog_enriched.avsc")),
];

#[test]
fn every_shipped_schema_parses_and_explains_each_field() {
    for (name, text) in SHIPPED {
        let Schema::Record(record) = Schema::parse_str(text).unwrap() else { panic!("{name} is no record") };
        assert_eq!(record.fields[0].name, "timestamp");
        assert_eq!(record.fields[1].name, "event_name");
        assert!(record.fields[1].doc.as_ref().unwrap().contains(&format!("`{name}`")));
        assert!(record.fields.iter().all(|field| field.doc.is_some()), "{name}");
    }
}

#[test]
fn a_record_of_the_real_stream_is_read_to_its_last_byte() {
    let mut value = b"\x00\x00\x01\x86\xa5".to_vec();
    for text in ["2025-02-17T14:49:15.179171", "item_view", "836325", "default-movie"] {
        super::wire::write_bytes(text.as_bytes(), &mut value);
    }
    assert_eq!((value[5], value[32], value[42], value[49], value.len()), (0x34, 0x12, 0x0c, 0x1a, 63));

    let schema = Schema::parse_str(SHIPPED[3].1).unwrap();
    let mut decoder = Decoder::new(&schema, columns(&schema)).unwrap();
    let (id, body) = frame::split(&value).unwrap();
    decoder.decode(body).unwrap();

    assert_eq!(id, 100_005);
    assert_eq!(
        to_json(&decoder.flush().unwrap(), 0).unwrap(),
        json!({"timestamp": "2025-02-17T14:49:15.179171", "event_name": "item_view", "user_id": "836325", "item_id": "default-movie"})
    );
}

#[test]
fn prices_of_the_shipped_schemas_are_exact() {
    let schema = Schema::parse_str(SHIPPED[5].1).unwrap();
    let event = json!({"timestamp": "2025-02-17T14:49:15Z", "event_name": "checkout_to_cart", "user_id": "1", "cart_id": "c",
        "payment_method": "Card", "movie_id": "1", "purchase_amount": "99999999.99"});
    let mut decoder = Decoder::new(&schema, columns(&schema)).unwrap();
    decoder.decode(&encode_json(&event, &schema).unwrap()).unwrap();
    let batch = decoder.flush().unwrap();
    let amounts = batch.column(6).as_primitive::<arrow::datatypes::Decimal128Type>();
    assert_eq!((amounts.data_type(), amounts.value(0)), (&DataType::Decimal128(10, 2), 9_999_999_999));
}
