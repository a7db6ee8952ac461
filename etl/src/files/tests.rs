//! A folder of files, landed into a real lake, and what the table and the dead letters then hold.
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::Arc;

use apache_avro::types::Value as Avro;
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int16Array, Int32Builder, Int64Array,
    ListArray, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Int64Type};
use chrono::DateTime;
use chrono_tz::Tz;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{Engine, EngineSettings};
use crate::error::Result;
use crate::format::json::to_json;
use crate::pipeline::{DeadLetter, DeadLetters, FileLetters};
use crate::table::{Lake, S3Settings, TableName, parse_type};

struct House {
    folder: TempDir,
    lake: Lake,
    dead: DeadLetters,
    s3: S3Settings,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let s3 = S3Settings::default();
        let lake = Lake::open("lake", folder.path(), &s3).unwrap();
        let dead = DeadLetters::new(lake.clone(), TableName::new("bronze", "dead_letters"));
        Self { folder, lake, dead, s3 }
    }

    fn put(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join("in").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn files(&self) -> Files<'_> {
        Files {
            lake: &self.lake,
            dead: &self.dead,
            stream: "s".to_owned(),
            place: "in".to_owned(),
            root: None,
            base: self.folder.path(),
            s3: &self.s3,
            table: TableName::new("bronze", "t"),
            format: None,
            columns: Vec::new(),
            csv: CsvOptions::default(),
            event_time: None,
            zone: Tz::UTC,
            order: Order::Name,
            on_change: OnChange::Stop,
            on_unknown: OnUnknown::Evolve,
            on_bad_file: OnBadFile::Stop,
            limits: FileLimits::default(),
            spool: self.folder.path().join("spool"),
            progress: Arc::new(|_, _| {}),
            stop: CancellationToken::new(),
            now: DateTime::UNIX_EPOCH,
        }
    }

    async fn land(&self) -> LandedFiles {
        land(&self.files()).await.unwrap()
    }

    /// The rows of a query as JSON.
    async fn rows(&self, sql: &str) -> Vec<Value> {
        let settings = EngineSettings {
            memory_limit: 256 << 20,
            spill_dir: self.folder.path().join("spill"),
            target_partitions: 1,
            base: self.folder.path().to_owned(),
        };
        let engine = Engine::new(self.lake.clone(), settings).unwrap();
        let batches = engine.query(sql).await.unwrap().collect().await.unwrap();
        let of =
            |batch: &RecordBatch| (0..batch.num_rows()).map(|row| to_json(batch, row).unwrap()).collect::<Vec<_>>();
        batches.iter().flat_map(of).collect()
    }

    async fn types(&self) -> BTreeMap<String, String> {
        let table = self.lake.table(&TableName::new("bronze", "t")).await.unwrap();
        table.fields().unwrap().into_iter().map(|field| (field.name, field.data_type)).collect()
    }

    async fn letters(&self) -> Vec<Value> {
        self.rows(
            "SELECT topic_or_file AS file, offset_or_line AS at, reason, encode(raw, 'hex') AS raw \
             FROM bronze.dead_letters ORDER BY 1, 2",
        )
        .await
    }
}

fn types_are(found: &BTreeMap<String, String>, wanted: &[(&str, &str)]) {
    for (name, data_type) in wanted {
        assert_eq!(found.get(*name).map(String::as_str), Some(*data_type), "{name} in {found:?}");
    }
}

fn hex(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn sample() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("name", Arc::new(StringArray::from(vec![Some("a,\"b\"\n"), None, Some("ü")]))),
        ("price", Arc::new(Float64Array::from(vec![Some(1.5), Some(-2.0), None]))),
        ("good", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("day", Arc::new(Date32Array::from(vec![Some(0), Some(-1), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_000_001), None, Some(-5)]).with_timezone("UTC"))),
        ("list", Arc::new(list)),
    ])
    .unwrap()
}

/// The same rows in each format; `list` only where the format has lists.
fn written() -> Vec<(&'static str, Vec<u8>)> {
    let batch = sample();
    let mut csv = ::csv::Writer::from_writer(Vec::new());
    csv.write_record(["id", "name", "price", "good", "day", "at", "list"]).unwrap();
    let mut lines = Vec::new();
    for row in 0..batch.num_rows() {
        let object = to_json(&batch, row).unwrap();
        writeln!(lines, "{object}").unwrap();
        let cells = object.as_object().unwrap().values().map(|value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        csv.write_record(cells).unwrap();
    }
    let mut parquet = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    vec![("csv", csv.into_inner().unwrap()), ("jsonl", lines), ("parquet", parquet), ("avro", avro())]
}

fn avro() -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(
        r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"long"},{"name":"name","type":["null","string"]},
            {"name":"price","type":["null","double"]},{"name":"good","type":["null","boolean"]},
            {"name":"day","type":["null",{"type":"int","logicalType":"date"}]},
            {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
            {"name":"list","type":["null",{"type":"array","items":["null","long"]}]}]}"#,
    )
    .unwrap();
    let some = |value| Avro::Union(1, Box::new(value));
    let none = || Avro::Union(0, Box::new(Avro::Null));
    let text = |text: &str| some(Avro::String(text.to_owned()));
    let items = vec![some(Avro::Long(1)), none()];
    let rows = [
        vec![
            Avro::Long(1),
            text("a,\"b\"\n"),
            some(Avro::Double(1.5)),
            some(Avro::Boolean(true)),
            some(Avro::Date(0)),
            some(Avro::TimestampMicros(1_000_001)),
            some(Avro::Array(items)),
        ],
        vec![Avro::Long(2), none(), some(Avro::Double(-2.0)), none(), some(Avro::Date(-1)), none(), none()],
        vec![
            Avro::Long(3),
            text("ü"),
            none(),
            some(Avro::Boolean(false)),
            none(),
            some(Avro::TimestampMicros(-5)),
            some(Avro::Array(Vec::new())),
        ],
    ];
    let names = ["id", "name", "price", "good", "day", "at", "list"];
    let mut writer = apache_avro::Writer::new(&schema, Vec::new()).unwrap();
    for row in rows {
        let fields = names.iter().zip(row).map(|(name, value)| ((*name).to_owned(), value)).collect();
        writer.append_value(Avro::Record(fields)).unwrap();
    }
    writer.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_plain_and_packed_gives_the_same_rows_once() {
    let house = House::new();
    for (ending, bytes) in written() {
        house.put(&format!("x.{ending}"), &bytes);
        house.put(&format!("x.{ending}.gz"), gzip(&bytes));
        house.put(&format!("x.{ending}.zst"), zstd::encode_all(&bytes[..], 1).unwrap());
    }
    let mut files = house.files();
    // In a CSV file a list is a text, unless it is declared.
    files.columns = vec![("list".to_owned(), parse_type("list<bigint>").unwrap())];

    let landed = land(&files).await.unwrap();
    assert_eq!((landed.files, landed.rows, landed.dead, landed.commits), (12, 36, 0, 1), "{:?}", landed.problems);
    let again = land(&files).await.unwrap();
    assert_eq!((again.files, again.known, again.commits), (0, 12, 0));

    types_are(
        &house.types().await,
        &[("id", "bigint"), ("price", "double"), ("day", "date"), ("at", "timestamp (UTC)"), ("list", "list<bigint>")],
    );
    let wanted: Vec<Value> = (0..3).map(|row| to_json(&sample(), row).unwrap()).collect();
    for (ending, _) in written() {
        for packing in ["", ".gz", ".zst"] {
            let name = format!("x.{ending}{packing}");
            let sql =
                format!("SELECT id, name, price, good, day, at, list FROM bronze.t WHERE _file = '{name}' ORDER BY 1");
            assert_eq!(house.rows(&sql).await, wanted, "{name}");
        }
    }
    let places =
        house.rows("SELECT id, _line, _row FROM bronze.t WHERE _file IN ('x.csv', 'x.avro') ORDER BY 2, 3").await;
    let wanted = [(1, Some(2), None), (2, Some(4), None), (3, Some(5), None)]
        .into_iter()
        .chain((1..4).map(|n| (n, None, Some(n))));
    assert_eq!(places, wanted.map(|(id, line, row)| json!({"id": id, "_line": line, "_row": row})).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_costs_itself_and_is_kept_as_it_was() {
    let house = House::new();
    house.put("a.csv", "id,name\n1,x\n2\nnope,y\n3,\"open\n4,z\n5,\"\"\n");
    house.put("b.jsonl", "{\"id\":6}\n{\"id\":\n[7]\n\n{\"id\":\"x\"}\n{\"id\":8,\"name\":{\"a\":1}}\n");
    let mut files = house.files();
    files.columns = vec![("id".to_owned(), DataType::Int64)];

    let landed = land(&files).await.unwrap();
    assert_eq!((landed.rows, landed.dead), (5, 6), "{:?}", landed.problems);
    land(&files).await.unwrap();

    let rows = house.rows("SELECT id, name, _line FROM bronze.t ORDER BY 1").await;
    let wanted = [
        json!({"id": 1, "name": "x", "_line": 2}),
        json!({"id": 4, "name": "z", "_line": 6}),
        json!({"id": 5, "name": "", "_line": 7}),
        json!({"id": 6, "name": null, "_line": 1}),
        json!({"id": 8, "name": "{\"a\":1}", "_line": 6}),
    ];
    assert_eq!(rows, wanted);
    let letter = |file: &str, at: i64, reason: &str, raw: &str| json!({"file": file, "at": at, "reason": reason, "raw": hex(raw)});
    let wanted = [
        letter("in/a.csv", 3, "ragged", "2"),
        letter("in/a.csv", 4, "type", "nope,y"),
        letter("in/a.csv", 5, "quote", "3,\"open"),
        letter("in/b.jsonl", 2, "syntax", "{\"id\":"),
        letter("in/b.jsonl", 3, "type", "[7]"),
        letter("in/b.jsonl", 5, "type", "{\"id\":\"x\"}"),
    ];
    assert_eq!(house.letters().await, wanted);
}

/// The letters' commit came through and the rows' did not; then the settings were changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_read_again_with_other_settings_keeps_the_letters_that_are_new() {
    let house = House::new();
    let letters = |lines: &[i64]| FileLetters {
        app: "s/in/a.csv".to_owned(),
        reading: lines.iter().sum(),
        letters: lines
            .iter()
            .map(|line| DeadLetter {
                source: "s".to_owned(),
                topic_or_file: "in/a.csv".to_owned(),
                offset_or_line: *line,
                reason: "type".to_owned(),
                ..DeadLetter::default()
            })
            .collect(),
        written: (Vec::new(), 0),
    };

    let mut kept = Vec::new();
    for lines in [[3, 5].as_slice(), &[3, 5], &[3, 4, 5], &[4]] {
        kept.push(house.dead.keep_files(vec![letters(lines)], DateTime::UNIX_EPOCH).await.unwrap());
    }

    assert_eq!(kept, [2, 0, 1, 0]);
    assert_eq!(house.letters().await.iter().map(|letter| &letter["at"]).collect::<Vec<_>>(), [3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_come_from_the_first_rows_and_stay() {
    let house = House::new();
    house.put("1.csv", "n,zip,d,empty,Order ID\n1,007,2025-02-17,,9\n2,1,2025-02-18,,8\n");
    house.put("2.csv", "n,zip,d,empty,more\n2.5,8,x,,\n3,9,2025-02-19,1,true\n");
    house
        .put("3.jsonl", "{\"n\":4,\"zip\":5,\"deep\":{\"a\":[1,2],\"b\":{\"c\":1.5}}}\n{\"n\":5,\"deep\":{\"z\":1}}\n");
    house.put("4.jsonl", "{\"n\":6,\"deep\":{\"new\":1}}\n{\"N\":7}\n{\"_file\":\"x\",\"n\":8}\n");

    let landed = house.land().await;
    assert_eq!((landed.files, landed.rows, landed.dead), (4, 5, 4), "{:?}", landed.problems);

    types_are(
        &house.types().await,
        &[
            ("n", "bigint"),
            ("zip", "text"),
            ("d", "date"),
            ("empty", "bigint"),
            ("more", "boolean"),
            ("Order_ID", "bigint"),
            ("deep", "struct<a list<bigint>, b struct<c double>, z bigint>"),
        ],
    );
    let rows = house.rows("SELECT n, zip, more, deep FROM bronze.t ORDER BY 1").await;
    assert_eq!(rows[0], json!({"n": 1, "zip": "007", "more": null, "deep": null}));
    assert_eq!(rows[2], json!({"n": 3, "zip": "9", "more": true, "deep": null}));
    assert_eq!(rows[3]["zip"], "5", "text holds any value, as its JSON");
    assert_eq!(rows[4]["deep"], json!({"a": null, "b": null, "z": 1}));
    let letters = house.letters().await;
    let reasons: Vec<_> = letters.iter().map(|letter| (&letter["file"], &letter["at"], &letter["reason"])).collect();
    let wanted = [
        ("in/2.csv", 2, "type"),
        ("in/4.jsonl", 1, "unknown_field"),
        ("in/4.jsonl", 2, "unknown_field"),
        ("in/4.jsonl", 3, "unknown_field"),
    ];
    let wanted: Vec<_> = wanted.map(|(file, at, reason)| (json!(file), json!(at), json!(reason))).into();
    assert_eq!(reasons, wanted.iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn json_numbers_keep_their_digits() {
    let house = House::new();
    let line =
        "{\"d\":12345678901234567890.123456789012345678,\"big\":123456789012345678901234567890,\"mixed\":1.10}\n";
    house.put("a.jsonl", [line, "{\"mixed\":\"x\",\"big\":1}\n", "{\"d\":1,\"d\":2}\n"].concat());
    let mut files = house.files();
    files.columns = vec![("d".to_owned(), parse_type("decimal(38,18)").unwrap())];
    let landed = land(&files).await.unwrap();
    assert_eq!((landed.rows, landed.dead), (2, 1), "a name that is there twice is refused");
    let rows = house.rows("SELECT CAST(d AS varchar) d, big, mixed FROM bronze.t ORDER BY _line").await;
    let first = json!({"d": "12345678901234567890.123456789012345678", "big": "123456789012345678901234567890", "mixed": "1.10"});
    assert_eq!(rows, [first, json!({"d": null, "big": "1", "mixed": "x"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_left_out_or_refused_as_configured() {
    for (policy, rows, dead) in [(OnUnknown::Ignore, 3, 0), (OnUnknown::DeadLetter, 1, 2), (OnUnknown::Evolve, 3, 0)] {
        let house = House::new();
        house.put("a.csv", "id,extra\n1,\n2,x\n");
        house.put("b.jsonl", "{\"id\":3,\"extra\":\"y\"}\n");
        let mut files = house.files();
        files.columns = vec![("id".to_owned(), DataType::Int64)];
        files.on_unknown = policy;
        let landed = land(&files).await.unwrap();
        assert_eq!((landed.rows, landed.dead), (rows, dead), "{policy:?}");
        assert_eq!(house.types().await.contains_key("extra"), policy == OnUnknown::Evolve);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_at_fault_is_reported_and_the_others_are_landed() {
    let house = House::new();
    let whole = gzip(&b"id\n1\n2\n".repeat(1000));
    house.put("cut.csv.gz", &whole[..whole.len() - 9]);
    house.put("good.csv", "id\n1\n");
    house.put("not.csv.gz", "id\n1\n");
    house.put("wrong.parquet", "id\n1\n");
    house.put("wrong.csv", &written()[2].1);
    house.put("short.avro", &avro()[..avro().len() - 3]);
    house.put("array.json", "[\n{\"id\":1}]");
    house.put("what.txt", "x");
    house.put("twice.csv", "id,ID\n1,2\n");
    house.put("empty.csv", "");
    house.put("empty.avro", "");

    let landed = house.land().await;
    let codes: Vec<_> = landed.problems.iter().map(crate::error::Error::code).collect();
    assert_eq!(landed.files, 2, "the good one and the empty one");
    assert_eq!(codes, ["F0503", "F0504", "F0503", "F0503", "F0504", "F0505", "F0502", "F0503", "F0503"]);
    assert_eq!(house.rows("SELECT id FROM bronze.t").await, [json!({"id": 1})]);
    assert!(house.lake.try_table(&TableName::new("bronze", "dead_letters")).await.unwrap().is_none());

    let mut files = house.files();
    files.on_bad_file = OnBadFile::DeadLetter;
    let landed = land(&files).await.unwrap();
    assert_eq!((landed.files, landed.known, landed.dead, landed.problems.len()), (9, 2, 9, 0));
    assert_eq!(house.letters().await.len(), 9);
    assert_eq!(land(&files).await.unwrap().known, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_is_never_landed_unnoticed() {
    let house = House::new();
    house.put("a.csv", "id\n1\n");
    house.land().await;
    house.put("a.csv", "id\n1\n2\n");

    let landed = house.land().await;
    assert_eq!(landed.problems.iter().map(crate::error::Error::code).collect::<Vec<_>>(), ["F0506"]);
    let mut files = house.files();
    files.on_change = OnChange::Ignore;
    assert_eq!(land(&files).await.unwrap().ignored, 1);
    files.on_change = OnChange::Append;
    assert_eq!(land(&files).await.unwrap().rows, 2);
    assert_eq!(land(&files).await.unwrap().known, 1);
    let ids: Vec<_> = house.rows("SELECT id FROM bronze.t ORDER BY 1").await;
    assert_eq!(ids, [json!({"id": 1}), json!({"id": 1}), json!({"id": 2})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_times_and_dialects() {
    let house = House::new();
    house.put("a.csv", b"name;when\n'M\xfcller; & Co';2025-02-17 12:00:00\n\\N;2025-02-30\n'\\N';\n".as_slice());
    let mut files = house.files();
    files.csv.delimiter = Some(b';');
    files.csv.quote = Some(b'\'');
    files.csv.nulls = vec![String::new(), "\\N".to_owned()];
    files.csv.encoding = Encoding::Windows1252;
    files.event_time = Some("when".to_owned());
    files.zone = Tz::Europe__Berlin;
    let landed = land(&files).await.unwrap();
    assert_eq!((landed.rows, landed.dead), (1, 2), "{:?}", landed.problems);
    let rows = house.rows("SELECT name, \"when\", event_at FROM bronze.t").await;
    let wanted = json!({"name": "Müller; & Co", "when": "2025-02-17 12:00:00", "event_at": "2025-02-17T11:00:00Z"});
    assert_eq!(rows, [wanted]);

    house.put("a2.csv", "name;other\nx;y\n");
    let landed = land(&files).await.unwrap();
    assert_eq!(landed.problems.first().map(crate::error::Error::code), Some("F0512"));

    let house = House::new();
    house.put("b.tsv", "1\tx\n2\ty\n");
    let mut files = house.files();
    files.csv.header = false;
    land(&files).await.unwrap();
    let rows = house.rows("SELECT column_1, column_2, _line FROM bronze.t ORDER BY 1").await;
    assert_eq!(rows[0], json!({"column_1": 1, "column_2": "x", "_line": 1}));

    let house = House::new();
    house.put("b.csv", "1,x\n2,y\n");
    let mut files = house.files();
    files.csv.header = false;
    files.columns = vec![("no of".to_owned(), DataType::Utf8), ("who".to_owned(), DataType::Utf8)];
    land(&files).await.unwrap();
    let rows = house.rows("SELECT no_of, who FROM bronze.t ORDER BY 1").await;
    assert_eq!(rows, [json!({"no_of": "1", "who": "x"}), json!({"no_of": "2", "who": "y"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_typed_files_fit_exactly_or_are_dead_letters() {
    let house = House::new();
    house.put("1.csv", "a,b,c\n1,1.5,x\n");
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for value in 0..3 {
        maps.keys().append_value("k");
        maps.values().append_value(value);
        maps.append(true).unwrap();
    }
    let maps = maps.finish();
    let batch = RecordBatch::try_from_iter([
        ("a", Arc::new(UInt64Array::from(vec![Some(7), Some(u64::MAX), None])) as ArrayRef),
        ("b", Arc::new(Int64Array::from(vec![Some(1), Some(1), Some((1 << 53) + 1)]))),
        ("c", Arc::new(Int16Array::from(vec![1, 2, 3]))),
        ("d", Arc::new(Decimal128Array::from(vec![1, 2, 3]).with_precision_and_scale(5, 2).unwrap())),
        ("e", Arc::new(Int16Array::from(vec![-1, 0, 1]))),
        ("m", Arc::new(maps)),
    ])
    .unwrap();
    let mut parquet = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    house.put("2.parquet", parquet);

    let landed = house.land().await;
    assert_eq!((landed.rows, landed.dead), (2, 2), "{:?}", landed.problems);
    let rows = house.rows("SELECT a, b, c, d, e, m, _row FROM bronze.t WHERE _file = '2.parquet'").await;
    assert_eq!(rows, [json!({"a": 7, "b": 1.0, "c": "1", "d": 0.01, "e": -1, "m": {"k": 0}, "_row": 1})]);
    let letters = house.letters().await;
    assert_eq!(letters.iter().map(|letter| &letter["at"]).collect::<Vec<_>>(), [2, 3]);

    let batch = RecordBatch::try_from_iter([("a", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    let mut parquet = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    house.put("3.parquet", parquet);
    let landed = house.land().await;
    assert_eq!(landed.problems.iter().map(crate::error::Error::code).collect::<Vec<_>>(), ["F0507"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_the_budget_is_one_commit_of_many_parts() {
    let house = House::new();
    let mut text = String::from("id,text\n");
    let rows = 200_000;
    let mut random = StdRng::seed_from_u64(5);
    for n in 0..rows {
        let id = if n % 10_000 == 9_999 { "bad".to_owned() } else { n.to_string() };
        text += &[&id, ",", &random.random::<u64>().to_string(), "\n"].concat();
    }
    house.put("big.csv", &text);
    house.put("small.csv", "id,late\n-1,7\n");
    let mut files = house.files();
    files.limits.memory = 4 << 20;
    files.limits.infer_rows = 100;

    let landed = land(&files).await.unwrap();
    assert_eq!((landed.files, landed.rows, landed.dead), (2, rows - 20 + 1, 20), "{:?}", landed.problems);
    let counted = house.rows("SELECT count(*) n, count(DISTINCT id) d, max(_line) l, sum(late) s FROM bronze.t").await;
    assert_eq!(counted, [json!({"n": rows - 19, "d": rows - 19, "l": rows, "s": 7})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_whole_files_or_nothing() {
    let house = House::new();
    house.put("a.csv", "id\n1\n");
    let files = house.files();
    files.stop.cancel();
    assert_eq!(land(&files).await.unwrap_err().code(), "F0511");
    assert!(house.lake.try_table(&TableName::new("bronze", "t")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_land_each_file_once() {
    let house = House::new();
    for n in 0..30 {
        house.put(&format!("{n:02}.csv"), format!("id,c{}\n{n},1\n", n % 3));
    }
    let (mut one, mut two) = (house.files(), house.files());
    one.limits.commit_files = 3;
    two.limits.commit_files = 4;
    let (one, two) = tokio::join!(land(&one), land(&two));
    let both = (one.unwrap(), two.unwrap());
    let found = house.rows("SELECT count(*) n, count(DISTINCT id) d FROM bronze.t").await;
    assert_eq!(found, [json!({"n": 30, "d": 30})], "{both:?}");
}

/// Random rows, written as CSV and as JSON by other people's writers, come back as they were.
#[tokio::test(flavor = "multi_thread")]
async fn random_rows_come_back_equal() {
    let house = House::new();
    let mut random = StdRng::seed_from_u64(19);
    let mut wanted = Vec::new();
    let mut csv = ::csv::Writer::from_writer(Vec::new());
    let mut lines = Vec::new();
    csv.write_record(["n", "x", "t", "b"]).unwrap();
    for n in 0..3000_i64 {
        let letters = ["a", "\"", ",", "\n", "é", " ", "7", "\\", "'"];
        let text: String = (0..random.random_range(1..8)).map(|_| letters[random.random_range(0..9)]).collect();
        let x = f64::from(random.random_range(-1_000_000..1_000_000)) / 8.0 + 0.125;
        let row = json!({
            "n": n,
            "x": if random.random_bool(0.1) { Value::Null } else { json!(x) },
            "t": if random.random_bool(0.1) { Value::Null } else { json!(text) },
            "b": if random.random_bool(0.3) { Value::Null } else { json!(random.random::<bool>()) },
        });
        writeln!(lines, "{row}").unwrap();
        csv.write_record(row.as_object().unwrap().values().map(|value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }))
        .unwrap();
        wanted.push(row);
    }
    house.put("a.csv", csv.into_inner().unwrap());
    house.put("a.jsonl", lines);
    let landed = house.land().await;
    assert_eq!((landed.rows, landed.dead), (6000, 0), "{:?}", landed.problems);
    for name in ["a.csv", "a.jsonl"] {
        let rows = house.rows(&format!("SELECT n, x, t, b FROM bronze.t WHERE _file = '{name}' ORDER BY n")).await;
        assert!(rows == wanted, "{name}");
    }
}

/// Damaged files of every format are refused or cost rows; nothing panics, and the good file beside them is landed.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_files_never_panic() {
    let house = House::new();
    let mut random = StdRng::seed_from_u64(23);
    for n in 0..30 {
        for (ending, bytes) in written() {
            let mut bytes = bytes;
            if random.random_bool(0.3) {
                bytes = gzip(&bytes);
            }
            let packed = if bytes.starts_with(b"\x1f\x8b") { ".gz" } else { "" };
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(1..=bytes.len()));
            house.put(&format!("{n}.{ending}{packed}"), bytes);
        }
    }
    house.put("zz.csv", "good_one\n1\n");
    let landed = house.land().await;
    for problem in &landed.problems {
        assert!(!problem.why().unwrap_or_default().contains("gave up on it"), "{problem:?}");
    }
    assert_eq!(house.rows("SELECT good_one FROM bronze.t WHERE _file = 'zz.csv'").await, [json!({"good_one": 1})]);
}

/// The landing, on a large enough stack of its own.
async fn land(files: &Files<'_>) -> Result<LandedFiles> {
    Box::pin(land_files(files)).await
}
