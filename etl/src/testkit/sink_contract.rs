//! What every warehouse sink must do, run for memory, SQLite and Postgres.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListBuilder, MapBuilder, RecordBatch, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;

use crate::sink::{Load, Loaded, Mode, Sink, SinkError, load};

/// How the contract looks at one kind of sink from outside.
#[async_trait]
pub trait SinkHarness: Send + Sync {
    /// Opens a sink; all of them lead to the same place.
    async fn open(&self) -> Box<dyn Sink>;

    /// Returns the rows of `gold.{table}` as a reader sees them, or `None` if there is no such table. Column name to text:
    /// booleans as `true` and `false`, instants as `2024-02-29T12:00:00.000000Z`, NaN as `NaN`, bytes in hexadecimal,
    /// decimals without zeros at the end, NULL as `None`.
    async fn rows(&self, table: &str) -> Option<Vec<BTreeMap<String, Option<String>>>>;

    /// Returns a text that changes whenever a row of `gold.{table}` is written, even with the same values.
    async fn fingerprint(&self, table: &str) -> String;

    /// Cuts the connection of every open sink, from outside. False if this kind has none.
    async fn cut(&self) -> bool;

    /// Whether staged batches are let go of; only `memory` keeps them.
    fn bounded(&self) -> bool;

    /// Whether decimals of 38 digits can be kept.
    fn wide_decimals(&self) -> bool;

    /// Whether text can hold the character U+0000.
    fn nul(&self) -> bool;
}

type Rows = Vec<BTreeMap<String, Option<String>>>;

/// Runs every case of the contract. Each has a table of its own, so a database needs to be fresh only once.
pub async fn sink_contract(harness: &dyn SinkHarness) {
    a_version_replaces_the_one_before(harness).await;
    a_replay_writes_nothing(harness).await;
    an_older_version_is_refused(harness).await;
    a_table_made_anew_starts_over(harness).await;
    an_abort_leaves_the_old_content(harness).await;
    staged_rows_are_invisible(harness).await;
    a_failing_input_leaves_the_old_content(harness).await;
    a_lost_connection_leaves_the_old_content(harness).await;
    two_loads_of_one_version_show_it_once(harness).await;
    upserts_write_only_what_differs(harness).await;
    the_later_of_two_staged_rows_wins_an_upsert(harness).await;
    replacing_by_key_writes_only_what_differs(harness).await;
    rows_are_appended(harness).await;
    keys_are_held_to(harness).await;
    new_columns_are_added_and_missing_ones_become_null(harness).await;
    narrower_types_are_refused(harness).await;
    somebody_elses_table_is_left_alone(harness).await;
    every_type_comes_back(harness).await;
    decimals_are_exact(harness).await;
    nul_characters_are_kept_or_named(harness).await;
    strange_names_are_quoted(harness).await;
    any_table_name_can_have_a_key(harness).await;
    an_empty_version_empties_the_table(harness).await;
    a_hundred_thousand_rows_pass_through(harness).await;
}

fn order(table: &str, version: i64, schema: &SchemaRef) -> Load {
    Load {
        table: format!("gold.{table}"),
        source: format!("gold.{table}"),
        table_id: "lake-1".to_owned(),
        version,
        schema: Arc::clone(schema),
        keys: Vec::new(),
        mode: Mode::Replace,
        loaded_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
    }
}

fn stream_of(schema: &SchemaRef, batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let batches = stream::iter(batches.into_iter().map(Ok));
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), batches))
}

/// `id` and `title`, the table of most cases.
fn movies(rows: &[(i64, Option<&str>)]) -> RecordBatch {
    let ids = Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id));
    let titles: StringArray = rows.iter().map(|(_, title)| *title).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids) as ArrayRef, true),
        ("title", Arc::new(titles) as ArrayRef, true),
    ])
    .unwrap()
}

fn one(name: &str, values: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([(name, values, true)]).unwrap()
}

async fn run(harness: &dyn SinkHarness, order: &Load, batch: RecordBatch) -> Result<Loaded, crate::Error> {
    let mut sink = harness.open().await;
    load(sink.as_mut(), order, stream_of(&order.schema, vec![batch])).await
}

/// Loads version `version` of `batch` and expects that to work.
async fn put(harness: &dyn SinkHarness, table: &str, version: i64, batch: RecordBatch) -> Loaded {
    run(harness, &order(table, version, &batch.schema()), batch).await.unwrap()
}

async fn code(harness: &dyn SinkHarness, order: &Load, batch: RecordBatch) -> &'static str {
    run(harness, order, batch).await.expect_err("the load must be refused").code()
}

async fn titles(harness: &dyn SinkHarness, table: &str) -> Vec<String> {
    let mut found: Vec<_> = harness
        .rows(table)
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|mut row| {
            let id = row.remove("id").flatten().unwrap_or_default();
            let title = row.remove("title").flatten();
            format!("{id}={}", title.as_deref().unwrap_or("NULL"))
        })
        .collect();
    found.sort();
    found
}

async fn column(harness: &dyn SinkHarness, table: &str, column: &str) -> Vec<Option<String>> {
    let rows: Rows = harness.rows(table).await.unwrap();
    rows.into_iter().map(|mut row| row.remove(column).expect("the column is there")).collect()
}

async fn a_version_replaces_the_one_before(harness: &dyn SinkHarness) {
    let loaded = put(harness, "replaced", 1, movies(&[(1, Some("a")), (2, None)])).await;
    assert_eq!(loaded, Loaded { rows: 2, written: 2, deleted: 0, skipped: false });
    assert_eq!(titles(harness, "replaced").await, ["1=a", "2=NULL"]);

    let loaded = put(harness, "replaced", 4, movies(&[(3, Some("c"))])).await;
    assert_eq!((loaded.rows, loaded.deleted), (1, 2));
    assert_eq!(titles(harness, "replaced").await, ["3=c"]);
    let held = harness.open().await.progress("gold.replaced").await.unwrap().unwrap();
    assert_eq!((held.version, held.rows, held.table_id.as_str()), (4, 1, "lake-1"));
    assert_eq!(harness.open().await.progress("gold.never_loaded").await.unwrap(), None);
}

async fn a_replay_writes_nothing(harness: &dyn SinkHarness) {
    put(harness, "replayed", 7, movies(&[(1, Some("a")), (2, Some("b"))])).await;
    let before = harness.fingerprint("replayed").await;

    let loaded = put(harness, "replayed", 7, movies(&[(1, Some("other")), (2, Some("b"))])).await;

    assert_eq!(loaded, Loaded { rows: 2, written: 0, deleted: 0, skipped: true });
    assert_eq!(harness.fingerprint("replayed").await, before);
}

async fn an_older_version_is_refused(harness: &dyn SinkHarness) {
    put(harness, "older", 7, movies(&[(1, Some("new"))])).await;

    let batch = movies(&[(1, Some("old"))]);
    assert_eq!(code(harness, &order("older", 6, &batch.schema()), batch).await, "K0008");

    assert_eq!(titles(harness, "older").await, ["1=new"]);
}

async fn a_table_made_anew_starts_over(harness: &dyn SinkHarness) {
    put(harness, "anew", 7, movies(&[(1, Some("first life"))])).await;

    let batch = movies(&[(1, Some("second life"))]);
    let again = Load { table_id: "lake-2".to_owned(), ..order("anew", 0, &batch.schema()) };
    run(harness, &again, batch).await.unwrap();

    assert_eq!(titles(harness, "anew").await, ["1=second life"]);
}

async fn an_abort_leaves_the_old_content(harness: &dyn SinkHarness) {
    put(harness, "aborted", 1, movies(&[(1, Some("old"))])).await;
    let batch = movies(&[(1, Some("new"))]);
    let mut sink = harness.open().await;

    sink.begin(&order("aborted", 2, &batch.schema())).await.unwrap();
    sink.stage(batch.clone()).await.unwrap();
    sink.abort().await.unwrap();

    assert_eq!(titles(harness, "aborted").await, ["1=old"]);
    assert_eq!(sink.progress("gold.aborted").await.unwrap().unwrap().version, 1);
    // The same sink goes on, and what was staged before is not in it.
    let next = movies(&[(9, Some("next"))]);
    load(sink.as_mut(), &order("aborted", 2, &next.schema()), stream_of(&next.schema(), vec![next])).await.unwrap();
    assert_eq!(titles(harness, "aborted").await, ["9=next"]);
    assert!(sink.commit().await.is_err(), "there is nothing to commit");
}

async fn staged_rows_are_invisible(harness: &dyn SinkHarness) {
    put(harness, "staged", 1, movies(&[(1, Some("old"))])).await;
    let batch = movies(&[(2, Some("new"))]);
    let mut sink = harness.open().await;

    sink.begin(&order("staged", 2, &batch.schema())).await.unwrap();
    sink.stage(batch).await.unwrap();

    assert_eq!(titles(harness, "staged").await, ["1=old"], "a reader is not blocked and sees the old rows");
    sink.commit().await.unwrap();
    assert_eq!(titles(harness, "staged").await, ["2=new"]);
    // Dropped without a word: as an abort.
    let batch = movies(&[(3, Some("newer"))]);
    sink.begin(&order("staged", 3, &batch.schema())).await.unwrap();
    sink.stage(batch).await.unwrap();
    drop(sink);
    assert_eq!(titles(harness, "staged").await, ["2=new"]);
}

async fn a_failing_input_leaves_the_old_content(harness: &dyn SinkHarness) {
    put(harness, "failing", 1, movies(&[(1, Some("old"))])).await;
    let batch = movies(&[(2, Some("new"))]);
    let order = order("failing", 2, &batch.schema());
    let parts = vec![Ok(batch), Err(DataFusionError::External("the disk is gone".into()))];
    let rows = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&order.schema), stream::iter(parts)));
    let mut sink = harness.open().await;

    let error = load(sink.as_mut(), &order, rows).await.unwrap_err();

    assert_eq!(error.code(), "K0017");
    assert!(error.why().unwrap().contains("the disk is gone"));
    assert_eq!(titles(harness, "failing").await, ["1=old"]);
}

async fn a_lost_connection_leaves_the_old_content(harness: &dyn SinkHarness) {
    put(harness, "cut", 1, movies(&[(1, Some("old"))])).await;
    let batch = movies(&[(2, Some("new"))]);
    let order = order("cut", 2, &batch.schema());
    let mut sink = harness.open().await;
    sink.begin(&order).await.unwrap();
    sink.stage(batch.clone()).await.unwrap();
    if !harness.cut().await {
        return;
    }

    let lost = match sink.stage(batch.clone()).await {
        Err(error) => error,
        Ok(()) => sink.commit().await.expect_err("nothing can be committed"),
    };

    assert_eq!(lost.code(), "K0011", "{lost:?}");
    assert_eq!(titles(harness, "cut").await, ["1=old"]);
    // The same sink connects again by itself.
    load(sink.as_mut(), &order, stream_of(&order.schema, vec![batch])).await.unwrap();
    assert_eq!(titles(harness, "cut").await, ["2=new"]);
}

async fn two_loads_of_one_version_show_it_once(harness: &dyn SinkHarness) {
    let batch = movies(&[(1, Some("a"))]);
    let order = Load { mode: Mode::Append, ..order("raced", 1, &batch.schema()) };
    let (mut left, mut right) = (harness.open().await, harness.open().await);

    left.begin(&order).await.unwrap();
    right.begin(&order).await.unwrap();
    left.stage(batch.clone()).await.unwrap();
    right.stage(batch).await.unwrap();
    let (left, right) = futures::join!(left.commit(), right.commit());

    let mut skipped = [left.unwrap().skipped, right.unwrap().skipped];
    skipped.sort_unstable();
    assert_eq!(skipped, [false, true]);
    assert_eq!(titles(harness, "raced").await, ["1=a"]);
}

fn keyed(mode: Mode, table: &str, version: i64, schema: &SchemaRef) -> Load {
    Load { mode, keys: vec!["id".to_owned()], ..order(table, version, schema) }
}

async fn upserts_write_only_what_differs(harness: &dyn SinkHarness) {
    let first = movies(&[(1, Some("a")), (2, None), (3, Some("c"))]);
    run(harness, &keyed(Mode::Upsert, "upserted", 1, &first.schema()), first).await.unwrap();

    let second = movies(&[(1, Some("a")), (2, Some("b")), (4, Some("d"))]);
    let loaded = run(harness, &keyed(Mode::Upsert, "upserted", 2, &second.schema()), second).await.unwrap();
    assert_eq!((loaded.rows, loaded.written, loaded.deleted), (3, 2, 0));
    assert_eq!(titles(harness, "upserted").await, ["1=a", "2=b", "3=c", "4=d"]);

    let before = harness.fingerprint("upserted").await;
    let same = movies(&[(2, Some("b")), (4, Some("d"))]);
    let loaded = run(harness, &keyed(Mode::Upsert, "upserted", 3, &same.schema()), same).await.unwrap();
    assert_eq!((loaded.written, loaded.skipped), (0, false));
    assert_eq!(harness.fingerprint("upserted").await, before);
}

async fn the_later_of_two_staged_rows_wins_an_upsert(harness: &dyn SinkHarness) {
    let batch = movies(&[(1, Some("first")), (2, Some("x")), (1, Some("second"))]);
    run(harness, &keyed(Mode::Upsert, "twice", 1, &batch.schema()), batch).await.unwrap();

    assert_eq!(titles(harness, "twice").await, ["1=second", "2=x"]);
}

async fn replacing_by_key_writes_only_what_differs(harness: &dyn SinkHarness) {
    let first = movies(&[(1, Some("a")), (2, Some("b")), (3, None)]);
    run(harness, &keyed(Mode::Replace, "by_key", 1, &first.schema()), first.clone()).await.unwrap();
    let before = harness.fingerprint("by_key").await;
    let loaded = run(harness, &keyed(Mode::Replace, "by_key", 2, &first.schema()), first).await.unwrap();
    assert_eq!((loaded.rows, loaded.written, loaded.deleted, loaded.skipped), (3, 0, 0, false));
    assert_eq!(harness.fingerprint("by_key").await, before);

    let second = movies(&[(1, Some("a")), (3, Some("c")), (4, Some("d"))]);
    let loaded = run(harness, &keyed(Mode::Replace, "by_key", 3, &second.schema()), second).await.unwrap();

    assert_eq!((loaded.rows, loaded.written, loaded.deleted), (3, 2, 1));
    assert_eq!(titles(harness, "by_key").await, ["1=a", "3=c", "4=d"]);
}

async fn rows_are_appended(harness: &dyn SinkHarness) {
    let batch = movies(&[(1, Some("a"))]);
    for version in 1..=3 {
        let order = Load { mode: Mode::Append, ..order("appended", version, &batch.schema()) };
        run(harness, &order, batch.clone()).await.unwrap();
        run(harness, &order, batch.clone()).await.unwrap();
    }

    assert_eq!(titles(harness, "appended").await, ["1=a", "1=a", "1=a"]);
}

async fn keys_are_held_to(harness: &dyn SinkHarness) {
    let good = movies(&[(1, Some("a"))]);
    let schema = good.schema();
    run(harness, &keyed(Mode::Replace, "keys", 1, &schema), good.clone()).await.unwrap();

    let twice = movies(&[(1, Some("a")), (1, Some("b"))]);
    assert_eq!(code(harness, &keyed(Mode::Replace, "keys", 2, &schema), twice).await, "K0009");
    let null = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef,
            Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef,
        ],
    )
    .unwrap();
    let error = run(harness, &keyed(Mode::Replace, "keys", 2, &schema), null).await.unwrap_err();
    assert_eq!(error.code(), "K0009");
    assert!(error.why().unwrap().contains("`id` is NULL in row 2"), "{error:?}");
    let keyless = Load { mode: Mode::Upsert, ..order("keys", 2, &schema) };
    assert_eq!(code(harness, &keyless, good.clone()).await, "K0009");
    let unknown = Load { keys: vec!["nope".to_owned()], ..order("keys", 2, &schema) };
    assert_eq!(code(harness, &unknown, good).await, "K0009");

    assert_eq!(titles(harness, "keys").await, ["1=a"]);
}

async fn new_columns_are_added_and_missing_ones_become_null(harness: &dyn SinkHarness) {
    put(harness, "evolved", 1, movies(&[(1, Some("a"))])).await;
    let wider = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef, true),
        ("year", Arc::new(Int32Array::from(vec![Some(1999), None])) as ArrayRef, true),
        ("title", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef, true),
    ])
    .unwrap();
    let order = Load { mode: Mode::Append, ..order("evolved", 2, &wider.schema()) };
    run(harness, &order, wider).await.unwrap();
    let mut years = column(harness, "evolved", "year").await;
    years.sort();
    assert_eq!(years, [None, None, Some("1999".to_owned())]);
    assert_eq!(titles(harness, "evolved").await, ["1=a", "1=a", "2=b"]);

    put(harness, "evolved", 3, one("id", Arc::new(Int64Array::from(vec![5])))).await;

    assert_eq!(titles(harness, "evolved").await, ["5=NULL"]);
    assert_eq!(column(harness, "evolved", "year").await, [None]);
}

async fn narrower_types_are_refused(harness: &dyn SinkHarness) {
    put(harness, "narrowed", 1, movies(&[(1, Some("a"))])).await;
    let narrow = one("title", Arc::new(Int64Array::from(vec![1])));
    let order = order("narrowed", 2, &narrow.schema());

    let error = run(harness, &order, narrow).await.unwrap_err();

    assert_eq!(error.code(), "K0006");
    let told = format!("{error} {:?}", error.explain().place());
    assert!(told.contains("title") && told.contains("narrowed"), "{told}");
    assert!(error.explain().fix().is_some());
    assert!(matches!(error.downcast_ref::<SinkError>(), Some(SinkError::TypeChanged { .. })));
    assert_eq!(titles(harness, "narrowed").await, ["1=a"]);
}

async fn somebody_elses_table_is_left_alone(harness: &dyn SinkHarness) {
    put(harness, "owned", 1, movies(&[(1, Some("mine"))])).await;
    let batch = movies(&[(1, Some("yours"))]);
    let order = Load { source: "silver.owned".to_owned(), ..order("owned", 1, &batch.schema()) };

    assert_eq!(code(harness, &order, batch).await, "K0010");

    assert_eq!(titles(harness, "owned").await, ["1=mine"]);
}

fn nested() -> [(&'static str, ArrayRef); 3] {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("a\"b"), None]);
    list.append_null();
    let mut map = MapBuilder::new(None, StringBuilder::new(), ListBuilder::new(StringBuilder::new()));
    map.keys().append_value("Actor");
    map.values().append_value([Some("Ann"), Some("Bo")]);
    map.append(true).unwrap();
    map.append(false).unwrap();
    let price: ArrayRef =
        Arc::new(Decimal128Array::from(vec![Some(899), None]).with_precision_and_scale(10, 2).unwrap());
    let field = Arc::new(Field::new("price", price.data_type().clone(), true));
    [
        ("list", Arc::new(list.finish())),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(StructArray::from(vec![(field, price)]))),
    ]
}

async fn every_type_comes_back(harness: &dyn SinkHarness) {
    // 2024-02-29T12:00:00.000001Z, and an instant before 1970.
    let instants = TimestampMicrosecondArray::from(vec![1_709_208_000_000_001, -1]).with_timezone("UTC");
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN]))),
        ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
        ("ratio", Arc::new(Float64Array::from(vec![f64::NAN, 0.1]))),
        ("text", Arc::new(StringArray::from(vec!["Amélie 🎬 'q' \"d\" \\ \t", ""]))),
        ("blob", Arc::new(BinaryArray::from(vec![&[0_u8, 255][..], &[][..]]))),
        ("day", Arc::new(Date32Array::from(vec![19_782, -1]))),
        ("at", Arc::new(instants)),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>, None]))),
    ];
    columns.extend(nested());
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    put(harness, "types", 1, batch.unwrap()).await;

    let mut rows = harness.rows("types").await.unwrap();
    rows.sort_by_key(|row| row.get("flag").cloned());
    let first = rows.pop().unwrap();
    let second = rows.pop().unwrap();
    let expected = [
        ("id", Some("9223372036854775807"), Some("-9223372036854775808")),
        ("flag", Some("true"), Some("false")),
        ("ratio", Some("NaN"), Some("0.1")),
        ("text", Some("Amélie 🎬 'q' \"d\" \\ \t"), Some("")),
        ("blob", Some("00ff"), Some("")),
        ("day", Some("2024-02-29"), Some("1969-12-31")),
        ("at", Some("2024-02-29T12:00:00.000001Z"), Some("1969-12-31T23:59:59.999999Z")),
        ("nothing", None, None),
    ];
    for (name, one, two) in expected {
        assert_eq!(first.get(name).unwrap().as_deref(), one, "{name}");
        assert_eq!(second.get(name).unwrap().as_deref(), two, "{name}");
    }
    let json = |row: &BTreeMap<String, Option<String>>, name: &str| {
        let text = row.get(name).unwrap().clone();
        text.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    assert_eq!(json(&first, "list"), Some(serde_json::json!(["a\"b", null])));
    assert_eq!(json(&first, "map"), Some(serde_json::json!({"Actor": ["Ann", "Bo"]})));
    let price = json(&first, "struct").unwrap();
    let price = price.get("price").unwrap().to_string();
    assert_eq!(price.trim_matches('"'), "8.99");
    assert_eq!((json(&second, "list"), json(&second, "map")), (None, None));
    assert_eq!(json(&second, "struct"), Some(serde_json::json!({"price": null})));
}

async fn decimals_are_exact(harness: &dyn SinkHarness) {
    let values = vec![Some(36_453_264), Some(-1), Some(999_999_999_999_999), Some(800), None];
    let cents = Decimal128Array::from(values).with_precision_and_scale(20, 2).unwrap();
    put(harness, "cents", 1, one("total", Arc::new(cents))).await;
    let texts: Vec<_> = column(harness, "cents", "total").await.into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(texts, ["364532.64", "-0.01", "9999999999999.99", "8", ""]);

    let most = 99_999_999_999_999_999_999_999_999_999_999_999_999_i128;
    let widest = Decimal128Array::from(vec![1, most, -most]).with_precision_and_scale(38, 2).unwrap();
    let batch = one("total", Arc::new(widest));
    let order = order("widest", 1, &batch.schema());
    if harness.wide_decimals() {
        run(harness, &order, batch).await.unwrap();
        let texts: Vec<_> = column(harness, "widest", "total").await.into_iter().flatten().collect();
        let most = "999999999999999999999999999999999999.99";
        assert_eq!(texts, ["0.01", most, &format!("-{most}")]);
    } else {
        let error = run(harness, &order, batch).await.unwrap_err();
        assert_eq!(error.code(), "K0007");
        assert!(error.explain().place().unwrap().ends_with("column `total`, row 2"), "{:?}", error.explain().place());
        assert_eq!(harness.rows("widest").await, None, "nothing of it is shown");
    }
}

async fn nul_characters_are_kept_or_named(harness: &dyn SinkHarness) {
    put(harness, "nul", 1, movies(&[(1, Some("old"))])).await;
    let batch = movies(&[(2, Some("fine")), (3, Some("a\0b"))]);
    let order = order("nul", 2, &batch.schema());

    let outcome = run(harness, &order, batch).await;

    if harness.nul() {
        outcome.unwrap();
        assert_eq!(titles(harness, "nul").await, ["2=fine", "3=a\0b"]);
    } else {
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), "K0007");
        assert!(error.explain().place().unwrap().ends_with("column `title`, row 2"), "{:?}", error.explain().place());
        assert_eq!(titles(harness, "nul").await, ["1=old"]);
    }
}

async fn strange_names_are_quoted(harness: &dyn SinkHarness) {
    let table = "order\" by; drop table movies --";
    put(harness, table, 1, one("select \"x\" '1'", Arc::new(Int64Array::from(vec![7])))).await;

    assert_eq!(column(harness, table, "select \"x\" '1'").await, [Some("7".to_owned())]);

    let twins = RecordBatch::try_from_iter([
        ("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("A", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
    ])
    .unwrap();
    assert_eq!(code(harness, &order("twins", 1, &twins.schema()), twins).await, "K0012");
}

async fn any_table_name_can_have_a_key(harness: &dyn SinkHarness) {
    let longest = "t".repeat(63);
    for table in ["sqlite", "key", &longest] {
        let batch = movies(&[(1, Some("a"))]);
        let loaded = run(harness, &keyed(Mode::Upsert, table, 1, &batch.schema()), batch).await.unwrap();
        assert_eq!(loaded.written, 1, "{table}");
    }
}

async fn an_empty_version_empties_the_table(harness: &dyn SinkHarness) {
    put(harness, "emptied", 1, movies(&[(1, Some("a"))])).await;
    let schema = movies(&[]).schema();
    let mut sink = harness.open().await;

    load(sink.as_mut(), &order("emptied", 2, &schema), stream_of(&schema, Vec::new())).await.unwrap();

    assert_eq!(harness.rows("emptied").await, Some(Vec::new()));
}

async fn a_hundred_thousand_rows_pass_through(harness: &dyn SinkHarness) {
    const BATCHES: i64 = 100;
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("title", DataType::Utf8, true)]));
    // Each batch is watched from its making: how many are alive at once is what the sink holds on to.
    let alive: Arc<Mutex<Vec<Weak<dyn Array>>>> = Arc::default();
    let most = Arc::new(Mutex::new(0));
    let (watch, peak, made) = (Arc::clone(&alive), Arc::clone(&most), Arc::clone(&schema));
    let batches = stream::iter((0..BATCHES).map(move |batch| {
        let ids = Int64Array::from_iter_values(batch * 1_000..(batch + 1) * 1_000);
        let titles: StringArray = ids.values().iter().map(|id| Some(format!("title {id}"))).collect();
        let titles: ArrayRef = Arc::new(titles);
        let mut watch = watch.lock().unwrap();
        watch.retain(|array| array.strong_count() > 0);
        watch.push(Arc::downgrade(&titles));
        let mut peak = peak.lock().unwrap();
        *peak = watch.len().max(*peak);
        RecordBatch::try_new(Arc::clone(&made), vec![Arc::new(ids), titles]).map_err(DataFusionError::from)
    }));
    let rows = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches));
    let mut sink = harness.open().await;

    let loaded = load(sink.as_mut(), &keyed(Mode::Replace, "many", 1, &schema), rows).await.unwrap();

    assert_eq!((loaded.rows, loaded.written), (100_000, 100_000));
    assert_eq!(harness.rows("many").await.unwrap().len(), 100_000);
    if harness.bounded() {
        assert!(*most.lock().unwrap() <= 3, "{} batches were alive at once", most.lock().unwrap());
    }
}
