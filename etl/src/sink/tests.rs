//! The contract, run for memory, SQLite in a file and a real Postgres; and what only one of them can meet.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, RecordBatch};
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::common::ScalarValue;
use rusqlite::types::Value;

use super::*;
use crate::testkit::{SinkHarness, sink_contract};

type Rows = Vec<BTreeMap<String, Option<String>>>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Without zeros at the end of a fraction.
fn trimmed(number: &str) -> String {
    if number.contains('.') && !number.contains('e') {
        number.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        number.to_owned()
    }
}

struct InMemory(Memory);

#[async_trait]
impl SinkHarness for InMemory {
    async fn open(&self) -> Box<dyn Sink> {
        Box::new(MemorySink::new(&self.0))
    }

    async fn rows(&self, table: &str) -> Option<Rows> {
        let (names, rows) = self.0.rows(&format!("gold.{table}"))?;
        let text = |cell: ScalarValue| match cell {
            cell if cell.is_null() => None,
            ScalarValue::Binary(Some(bytes)) => Some(hex(&bytes)),
            ScalarValue::Decimal128(..) | ScalarValue::Float64(_) => Some(trimmed(
                arrow::util::display::array_value_to_string(&cell.to_array().unwrap(), 0).unwrap().as_str(),
            )),
            cell => Some(arrow::util::display::array_value_to_string(&cell.to_array().unwrap(), 0).unwrap()),
        };
        Some(rows.into_iter().map(|row| names.iter().cloned().zip(row.into_iter().map(text)).collect()).collect())
    }

    async fn fingerprint(&self, table: &str) -> String {
        format!("{:?}", self.0.rows(&format!("gold.{table}")))
    }

    async fn cut(&self) -> bool {
        false
    }

    fn bounded(&self) -> bool {
        false
    }

    fn wide_decimals(&self) -> bool {
        true
    }

    fn nul(&self) -> bool {
        true
    }
}

struct InSqlite(SqliteSettings);

impl InSqlite {
    fn reader(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.0.path).unwrap()
    }
}

#[async_trait]
impl SinkHarness for InSqlite {
    async fn open(&self) -> Box<dyn Sink> {
        Box::new(SqliteSink::open(self.0.clone()).await.unwrap())
    }

    async fn rows(&self, table: &str) -> Option<Rows> {
        let db = self.reader();
        let mut statement = db.prepare(&format!("SELECT * FROM {}", quoted(table))).ok()?;
        let columns: Vec<(String, String)> = statement
            .columns()
            .map(|column| (column.name().to_owned(), column.decl_type().unwrap_or_default().to_owned()))
            .collect();
        let rows = statement
            .query_map([], |row| {
                let cells = columns.iter().enumerate().map(|(at, (name, declared))| {
                    let text = match row.get::<_, Value>(at)? {
                        Value::Null => None,
                        Value::Integer(number) if declared == "BOOLEAN" => Some((number == 1).to_string()),
                        Value::Integer(number) => Some(number.to_string()),
                        Value::Real(number) => Some(number.to_string()),
                        Value::Text(text) if declared == "TEXT" && self.0.decimals == Decimals::Text => {
                            Some(trimmed(&text))
                        }
                        Value::Text(text) => Some(text),
                        Value::Blob(bytes) => Some(hex(&bytes)),
                    };
                    Ok((name.clone(), text))
                });
                cells.collect::<rusqlite::Result<BTreeMap<_, _>>>()
            })
            .unwrap();
        Some(rows.collect::<rusqlite::Result<_>>().unwrap())
    }

    async fn fingerprint(&self, table: &str) -> String {
        let rows = self.rows(table).await;
        let db = self.reader();
        let mut statement = db.prepare(&format!("SELECT rowid FROM {}", quoted(table))).unwrap();
        let ids: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        format!("{ids:?} {rows:?}")
    }

    async fn cut(&self) -> bool {
        false
    }

    fn bounded(&self) -> bool {
        true
    }

    fn wide_decimals(&self) -> bool {
        self.0.decimals == Decimals::Text
    }

    fn nul(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    sink_contract(&InMemory(Memory::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    sink_contract(&InSqlite(SqliteSettings::new(folder.path().join("new/warehouse.db")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_with_decimals_as_text_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SqliteSettings::new(folder.path().join("warehouse.db"));
    sink_contract(&InSqlite(SqliteSettings { decimals: Decimals::Text, ..settings })).await;
}

fn prices(cents: Vec<i128>) -> RecordBatch {
    let prices = Decimal128Array::from_iter_values(cents).with_precision_and_scale(10, 2).unwrap();
    RecordBatch::try_from_iter([("price", Arc::new(prices) as ArrayRef)]).unwrap()
}

fn order_of(table: &str, batch: &RecordBatch) -> Load {
    Load {
        table: table.to_owned(),
        source: table.to_owned(),
        table_id: "lake".to_owned(),
        version: 1,
        schema: batch.schema(),
        keys: Vec::new(),
        mode: Mode::Replace,
        loaded_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
    }
}

async fn load_one(sink: &mut dyn Sink, order: &Load, batch: RecordBatch) -> Result<Loaded> {
    sink.begin(order).await?;
    sink.stage(batch).await?;
    sink.commit().await
}

#[tokio::test]
async fn any_sqlite_tool_sums_and_sorts_money() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warehouse.db");
    let mut sink = open(Connection::new("sqlite", path.to_str().unwrap())).await.unwrap();
    // 9.99 and 10.00 sort wrongly as text; 8.00 would divide as a whole number if it were kept as one.
    let batch = prices(vec![999, 1_000, 899, 800]);

    for table in ["gold.prices", "silver.prices"] {
        load_one(sink.as_mut(), &order_of(table, &batch), batch.clone()).await.unwrap();
    }

    let db = rusqlite::Connection::open(path).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, f64>(0)).unwrap();
    assert!((one("SELECT sum(price) FROM prices") - 36.98).abs() < 1e-9);
    assert!((one("SELECT max(price) FROM silver_prices") - 10.0).abs() < 1e-9);
    assert!((one("SELECT price / 3 FROM prices WHERE price = 8") - 8.0 / 3.0).abs() < 1e-9);
    let ledger: (String, String) = db
        .query_row("SELECT target, loaded_at FROM _tidemill_ledger WHERE source = 'silver.prices'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(ledger, ("silver_prices".to_owned(), "2023-11-14T22:13:20.000000Z".to_owned()));
}

#[tokio::test]
async fn a_table_dropped_by_hand_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warehouse.db");
    let mut sink = SqliteSink::open(SqliteSettings::new(&path)).await.unwrap();
    let batch = prices(vec![999]);
    load_one(&mut sink, &order_of("gold.prices", &batch), batch.clone()).await.unwrap();

    let db = rusqlite::Connection::open(path).unwrap();
    db.execute_batch("DROP TABLE prices").unwrap();
    assert_eq!(sink.progress("gold.prices").await.unwrap(), None);
    let loaded = load_one(&mut sink, &order_of("gold.prices", &batch), batch).await.unwrap();

    assert!(!loaded.skipped);
    assert_eq!(db.query_row("SELECT count(*) FROM prices", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test]
async fn a_table_with_rows_that_we_did_not_make_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warehouse.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE prices (price REAL); INSERT INTO prices VALUES (1)").unwrap();
    let mut sink = SqliteSink::open(SqliteSettings::new(&path)).await.unwrap();
    let batch = prices(vec![999]);

    let error = load_one(&mut sink, &order_of("gold.prices", &batch), batch).await.unwrap_err();

    assert_eq!(error.code(), "K0010");
    assert!(error.why().unwrap().contains("something else made it"));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warehouse.db");
    std::fs::write(&path, "this is not a database, but it is long enough to be read as one".repeat(20)).unwrap();

    let error = SqliteSink::open(SqliteSettings::new(&path)).await.unwrap_err();

    assert_eq!(error.code(), "K0014");
    assert!(error.explain().place().unwrap().ends_with("warehouse.db"));
}

#[tokio::test]
async fn unknown_kinds_and_options_are_named() {
    let error = open(Connection::new("sqlight", "x")).await.err().unwrap();
    assert_eq!(error.code(), "K0001");
    assert!(error.why().unwrap().contains("sqlite"));

    let mut connection = Connection::new("sqlite", "x");
    connection.options.insert("decimal".to_owned(), "text".to_owned());
    assert_eq!(open(connection).await.err().unwrap().code(), "K0002");
}

#[tokio::test]
async fn the_blackhole_counts() {
    let mut sink = open(Connection::new("blackhole", "")).await.unwrap();
    let batch = prices(vec![1, 2, 3]);

    let loaded = load_one(sink.as_mut(), &order_of("gold.prices", &batch), batch).await.unwrap();

    assert_eq!((loaded.rows, loaded.skipped), (3, false));
}

#[cfg(feature = "postgres")]
mod postgres {
    use tokio_postgres::{Client, NoTls};
    use url::Url;

    use super::*;

    /// The database under test; dropped and made anew for each run.
    struct InPostgres {
        client: Client,
        url: String,
    }

    async fn connect(url: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        drop(tokio::spawn(connection));
        client
    }

    /// Makes a fresh database and returns its URL.
    async fn database(url: &str, name: &str) -> String {
        let admin = connect(url).await;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let mut url = Url::parse(url).unwrap();
        url.set_path(name);
        url.to_string()
    }

    #[async_trait]
    impl SinkHarness for InPostgres {
        async fn open(&self) -> Box<dyn Sink> {
            open(Connection::new("postgres", format!("{}?application_name=contract", self.url))).await.unwrap()
        }

        async fn rows(&self, table: &str) -> Option<Rows> {
            let columns = self
                .client
                .query(
                    "SELECT a.attname::text, format_type(a.atttypid, NULL) FROM pg_attribute a
                     JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = 'gold' AND c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped",
                    &[&table],
                )
                .await
                .unwrap();
            if columns.is_empty() {
                return None;
            }
            let names: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
            let casts: Vec<String> = columns
                .iter()
                .map(|row| {
                    let name = quoted(row.get::<_, &str>(0));
                    match row.get(1) {
                        "timestamp with time zone" => {
                            format!("to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
                        }
                        "bytea" => format!("encode({name}, 'hex')"),
                        "numeric" => format!("trim_scale({name})::text"),
                        _ => format!("{name}::text"),
                    }
                })
                .collect();
            let sql = format!("SELECT {} FROM gold.{}", casts.join(", "), quoted(table));
            let rows = self.client.query(&sql, &[]).await.unwrap();
            let row = |row: &tokio_postgres::Row| {
                names.iter().enumerate().map(|(at, name)| (name.clone(), row.get(at))).collect()
            };
            Some(rows.iter().map(row).collect())
        }

        async fn fingerprint(&self, table: &str) -> String {
            // xmin and ctid change with every write of a row.
            let sql = format!("SELECT xmin::text || ctid::text || t::text FROM gold.{} t", quoted(table));
            let rows = self.client.query(&sql, &[]).await.unwrap();
            rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
        }

        async fn cut(&self) -> bool {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'contract'
                       AND datname = current_database()";
            self.client.execute(cut, &[]).await.unwrap() > 0
        }

        fn bounded(&self) -> bool {
            true
        }

        fn wide_decimals(&self) -> bool {
            true
        }

        fn nul(&self) -> bool {
            false
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn postgres_keeps_the_contract() {
        let Some(url) = crate::testkit::service("POSTGRES") else { return };
        let url = database(&url, "tidemill_sink_contract").await;

        sink_contract(&InPostgres { client: connect(&url).await, url }).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn columns_of_postgres_grow() {
        let Some(url) = crate::testkit::service("POSTGRES") else { return };
        let url = database(&url, "tidemill_sink_grow").await;
        let client = connect(&url).await;
        let mut sink = open(Connection::new("postgres", &url)).await.unwrap();
        let narrow = prices(vec![899]);
        load_one(sink.as_mut(), &order_of("gold.prices", &narrow), narrow).await.unwrap();
        let wide = Decimal128Array::from(vec![123_456_789_012_345_678_i128]).with_precision_and_scale(20, 2).unwrap();
        let wide = RecordBatch::try_from_iter([("price", Arc::new(wide) as ArrayRef)]).unwrap();

        let order = Load { version: 2, mode: Mode::Append, ..order_of("gold.prices", &wide) };
        load_one(sink.as_mut(), &order, wide).await.unwrap();

        let sum = client.query_one("SELECT sum(price)::text, pg_typeof(min(price))::text FROM gold.prices", &[]).await;
        assert_eq!(sum.unwrap().get::<_, String>(0), "1234567890123465.77");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn failures_of_postgres_are_explained_without_secrets() {
        let Some(url) = crate::testkit::service("POSTGRES") else { return };
        let url = database(&url, "tidemill_sink_errors").await;
        let admin = connect(&url).await;
        admin
            .batch_execute(
                "DROP ROLE IF EXISTS tidemill_weak; CREATE ROLE tidemill_weak LOGIN PASSWORD 'hunter2';
                 REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            )
            .await
            .unwrap();
        let with = |edit: &dyn Fn(&mut Url)| {
            let mut url = Url::parse(&url).unwrap();
            edit(&mut url);
            Connection::new("postgres", url.as_str())
        };
        let weak = |url: &mut Url, password: &str| {
            url.set_username("tidemill_weak").unwrap();
            url.set_password(Some(password)).unwrap();
        };
        let cases = [
            ("K0004", with(&|url| weak(url, "wrong-s3cret"))),
            ("K0004", with(&|url| url.set_path("no_such_database"))),
            ("K0003", with(&|url| url.set_host(Some("no-such-host.invalid")).unwrap())),
            ("K0003", with(&|url| url.set_port(Some(1)).unwrap())),
            ("K0005", with(&|url| weak(url, "hunter2"))),
            ("K0002", Connection::new("postgres", "postgres://u:wrong-s3cret@h/db?nope=1")),
            ("K0002", Connection::new("postgres", "")),
            ("K0003", {
                let mut connection = with(&|_| ());
                connection.options.insert("tls".to_owned(), "require".to_owned());
                connection
            }),
        ];

        for (code, connection) in cases {
            let shown = format!("{connection:?}");
            let error = open(connection).await.err().unwrap();

            assert_eq!(error.code(), code, "{error:?}");
            let explain = error.explain();
            let all = format!("{error} {error:?} {:?} {:?} {:?} {shown}", error.why(), explain.place(), explain.fix());
            assert!(!all.contains("s3cret") && !all.contains("hunter2"), "{all}");
            assert!(explain.fix().is_some(), "{error:?}");
        }
    }
}
