//! Bronze and silver tables in memory, and the models built from them.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::array::{
    ArrayRef, AsArray, Date32Array, Decimal128Array, Int32Array, Int64Array, ListBuilder, MapBuilder, RecordBatch,
    StringArray, StringBuilder, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use datafusion::datasource::MemTable;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::Value;
use tidemill_etl::engine::window::plan;
use tidemill_etl::generate::shoppers::{Event, EventKind};
use tidemill_etl::model::Project;

/// An event with the place it landed at.
#[derive(Debug, Clone)]
pub(crate) struct Landed {
    pub(crate) event: Event,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Landed {
    pub(crate) fn at(&self) -> i64 {
        self.event.at.timestamp_micros()
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.event.body[field].as_str().unwrap()
    }

    pub(crate) fn event_id(&self) -> String {
        format!("{}/{}/{}", self.event.kind.default_topic(), self.partition, self.offset)
    }
}

/// Gives every event a partition by its key and the next offset there.
pub(crate) fn land(events: impl IntoIterator<Item = Event>) -> Vec<Landed> {
    let mut ends: BTreeMap<(EventKind, i32), i64> = BTreeMap::new();
    events
        .into_iter()
        .map(|event| {
            let partition = i32::try_from(event.key.bytes().map(u32::from).sum::<u32>() % 3).unwrap();
            let end = ends.entry((event.kind, partition)).or_default();
            let offset = *end;
            *end += 1;
            Landed { event, partition, offset }
        })
        .collect()
}

/// A row of `silver.movies`.
#[derive(Debug, Clone)]
pub(crate) struct Movie {
    pub(crate) item_id: i64,
    pub(crate) title: String,
    pub(crate) list_price_cents: Option<i64>,
}

/// The project's models, run on tables in memory.
pub(crate) struct Lake {
    context: SessionContext,
    project: Project,
}

/// One row as text, in a form that is exact: times in microseconds, decimals in their smallest unit, `-` for NULL.
pub(crate) type Row = Vec<String>;

/// The project's models and checks, as the product itself renders them.
fn project(vars: &[(&str, i64)]) -> Project {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    Project::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql"), &vars).unwrap()
}

/// The models of seed 003, each after what it reads.
pub(crate) fn model_names() -> Vec<String> {
    let project = project(&[]);
    let models = project.order(&["consumer_segmentation".to_owned()]).unwrap();
    models.into_iter().map(|model| model.name.clone()).collect()
}

impl Lake {
    /// Lands the events and builds every model. `shuffle` is the seed of the order the rows lie in.
    pub(crate) async fn build(landed: &[Landed], movies: &[Movie], shuffle: u64, vars: &[(&str, i64)]) -> Self {
        let context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(3).with_batch_size(1_000));
        let mut rng = StdRng::seed_from_u64(shuffle);
        tidemill_etl::engine::function::register(&context, "");
        for schema in ["bronze", "silver", "gold"] {
            context.sql(&format!("CREATE SCHEMA {schema}")).await.unwrap();
        }
        for kind in EventKind::ALL {
            let of_kind: Vec<&Landed> = landed.iter().filter(|landed| landed.event.kind == kind).collect();
            register(&context, &format!("bronze.{}", kind.default_topic()), &bronze(kind, &of_kind), &mut rng);
        }
        register(&context, "silver.movies", &silver_movies(movies), &mut rng);

        let project = project(vars);
        for model in project.order(&["consumer_segmentation".to_owned()]).unwrap() {
            let plan = plan(&context, &model.sql).await.unwrap_or_else(|error| panic!("{}: {error}", model.name));
            let frame = context.execute_logical_plan(plan).await.unwrap();
            let table = collect(frame, &model.name).await;
            context.register_table(model.table.to_string(), Arc::new(table)).unwrap();
        }
        Self { context, project }
    }

    /// All rows of a gold table, sorted; `*` for all columns.
    pub(crate) async fn rows(&self, model: &str, columns: &[&str]) -> Vec<Row> {
        self.query(&format!("SELECT {} FROM gold.{model}", columns.join(", "))).await
    }

    /// The columns of a gold table.
    pub(crate) async fn columns(&self, model: &str) -> Vec<String> {
        let frame = self.context.sql(&format!("SELECT * FROM gold.{model}")).await.unwrap();
        frame.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The type of a column of a gold table.
    pub(crate) async fn data_type(&self, model: &str, column: &str) -> DataType {
        let frame = self.context.sql(&format!("SELECT {column} FROM gold.{model}")).await.unwrap();
        frame.schema().field(0).data_type().clone()
    }

    /// Runs a query; its rows, sorted.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Row> {
        let frame = self.context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut rows = Vec::new();
        for batch in frame.collect().await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|column| cell(column, row)).collect::<Row>());
            }
        }
        rows.sort();
        rows
    }

    /// Runs every check of the project; none may return a row.
    pub(crate) async fn assert_checks_pass(&self, case: &str) {
        for check in self.project.checks.keys() {
            let rows = self.check(check).await;
            assert!(rows.is_empty(), "{case}: check {check} found {} rows: {:?}", rows.len(), rows.first());
        }
    }

    /// Runs one check.
    pub(crate) async fn check(&self, check: &str) -> Vec<Row> {
        self.query(&self.project.checks[check].sql).await
    }

    /// Replaces a gold table by what a query gives: for showing that a check can fail.
    pub(crate) async fn replace(&self, model: &str, sql: &str) {
        let frame = self.context.sql(sql).await.unwrap();
        let table = collect(frame, model).await;
        self.context.deregister_table(format!("gold.{model}")).unwrap();
        self.context.register_table(format!("gold.{model}"), Arc::new(table)).unwrap();
    }
}

/// The rows of a query as a table, with every column nullable as in a Delta table.
async fn collect(frame: DataFrame, name: &str) -> MemTable {
    let fields = frame.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let batches = batches
        .into_iter()
        .map(|batch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    MemTable::try_new(schema, vec![batches]).unwrap()
}

/// Puts the rows in a random order into two partitions of small batches.
fn register(context: &SessionContext, name: &str, batch: &RecordBatch, rng: &mut StdRng) {
    let mut order: Vec<u32> = (0..u32::try_from(batch.num_rows()).unwrap()).collect();
    order.shuffle(rng);
    let shuffled = take_record_batch(batch, &UInt32Array::from(order)).unwrap();
    let half = shuffled.num_rows() / 2;
    let parts = vec![vec![shuffled.slice(0, half)], vec![shuffled.slice(half, shuffled.num_rows() - half)]];
    let table = MemTable::try_new(batch.schema(), parts).unwrap();
    context.register_table(name, Arc::new(table)).unwrap();
}

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The table that landing makes of a topic: the fields of the schema, the derived event time, and the place.
fn bronze(kind: EventKind, landed: &[&Landed]) -> RecordBatch {
    let text = |field: &str| -> ArrayRef {
        Arc::new(landed.iter().map(|landed| Some(landed.text(field))).collect::<StringArray>())
    };
    let micros =
        |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) };
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("timestamp", text("timestamp")), ("event_name", text("event_name")), ("user_id", text("user_id"))];
    match kind {
        EventKind::ConsumerRegistration => {
            let ages = landed.iter().map(|landed| landed.event.body["age"].as_i64().unwrap());
            let ages: Int32Array = ages.map(|age| Some(i32::try_from(age).unwrap())).collect();
            columns.push(("age", Arc::new(ages)));
            columns.push(("masked_email", text("masked_email")));
            columns.push(("preferred_language", text("preferred_language")));
        }
        EventKind::SignIn | EventKind::SignOut => {}
        EventKind::ItemView => columns.push(("item_id", text("item_id"))),
        EventKind::AddedToCart => {
            columns.push(("item_id", text("item_id")));
            columns.push(("cart_id", text("cart_id")));
        }
        EventKind::CheckoutToCart => {
            for field in ["cart_id", "payment_method", "movie_id"] {
                columns.push((field, text(field)));
            }
            let cents: Decimal128Array = landed.iter().map(|landed| Some(i128::from(cents(landed)))).collect();
            columns.push(("purchase_amount", Arc::new(cents.with_precision_and_scale(10, 2).unwrap())));
        }
    }
    let topic: StringArray = landed.iter().map(|_| Some(kind.default_topic())).collect();
    let keys: StringArray = landed.iter().map(|landed| Some(landed.event.key.as_str())).collect();
    columns.extend([
        ("event_at", micros(landed.iter().map(|landed| landed.at()).collect())),
        ("_topic", Arc::new(topic) as ArrayRef),
        ("_partition", Arc::new(Int32Array::from_iter_values(landed.iter().map(|landed| landed.partition)))),
        ("_offset", Arc::new(Int64Array::from_iter_values(landed.iter().map(|landed| landed.offset)))),
        ("_timestamp", micros(landed.iter().map(|landed| landed.at() / 1_000 * 1_000).collect())),
        ("_key", Arc::new(keys)),
        ("_schema_id", Arc::new(Int32Array::from(vec![100_002; landed.len()]))),
    ]);
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The purchase amount of a check-out in cents.
pub(crate) fn cents(landed: &Landed) -> i64 {
    let (whole, fraction) = landed.text("purchase_amount").split_once('.').unwrap();
    assert_eq!(fraction.len(), 2);
    whole.parse::<i64>().unwrap() * 100 + fraction.parse::<i64>().unwrap()
}

fn silver_movies(movies: &[Movie]) -> RecordBatch {
    let money = |cents: Vec<Option<i64>>| -> ArrayRef {
        let cents: Decimal128Array = cents.into_iter().map(|cents| cents.map(i128::from)).collect();
        Arc::new(cents.with_precision_and_scale(10, 2).unwrap())
    };
    let prices: Vec<Option<i64>> = movies.iter().map(|movie| movie.list_price_cents).collect();
    let currencies: StringArray = prices.iter().map(|price| price.map(|_| "USD")).collect();
    let none = || Arc::new(StringArray::from(vec![None::<&str>; movies.len()]));
    let mut attributes = MapBuilder::new(None, StringBuilder::new(), ListBuilder::new(StringBuilder::new()));
    for _ in movies {
        attributes.keys().append_value("Format");
        attributes.values().values().append_value("DVD");
        attributes.values().append(true);
        attributes.append(true).unwrap();
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("item_id", Arc::new(Int64Array::from_iter_values(movies.iter().map(|movie| movie.item_id)))),
        ("title", Arc::new(StringArray::from_iter_values(movies.iter().map(|movie| movie.title.as_str())))),
        ("genre", none()),
        ("product_group", none()),
        ("list_price", money(prices.clone())),
        ("list_price_currency", Arc::new(currencies)),
        ("trade_in_value", money(vec![None; movies.len()])),
        ("release_date", Arc::new(Date32Array::from(vec![None; movies.len()]))),
        ("attributes", Arc::new(attributes.finish())),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), *name != "item_id"))
        .collect();
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "-".to_owned();
    }
    match column.data_type() {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
            cast(&column.slice(row, 1), &DataType::Utf8).unwrap().as_string::<i32>().value(0).to_owned()
        }
        DataType::Int32 | DataType::Int64 => {
            cast(&column.slice(row, 1), &DataType::Int64).unwrap().as_primitive::<Int64Type>().value(0).to_string()
        }
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, 2) => column.as_primitive::<Decimal128Type>().value(row).to_string(),
        DataType::Date32 => column.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        kind if *kind == utc() => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        kind => panic!("no model may have a column of type {kind}: {column:?}"),
    }
}

/// An instant from RFC 3339.
pub(crate) fn instant(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}
