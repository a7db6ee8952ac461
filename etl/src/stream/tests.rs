//! Streams on an embedded topic of two partitions, and what a person does with them.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use chrono::DateTime;
use deltalake::kernel::Action;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{Engine, EngineSettings};
use crate::format::avro::{JsonEncoder, frame};
use crate::pipeline::body::{OnIncompatible, OnUnknown};
use crate::pipeline::{Around, DeadLetters, Landed, Landing, Limits, Progress, land};
use crate::record::NewRecord;
use crate::schema_registry::{EmbeddedRegistry, Registry as _};
use crate::table::{Commit, FileWriter, Guard, Lake, Operation, S3Settings, Table, TableName, WriteOptions};
use crate::topic::{Broker as _, EmbeddedTopics};

mod backfill;
mod replay;
mod reset;
mod verify;

const FIRST: &str = r#"{ "type": "record", "name": "E", "fields": [
    { "name": "n", "type": "long" }, { "name": "at", "type": "string" } ] }"#;
const SECOND: &str = r#"{ "type": "record", "name": "E", "fields": [
    { "name": "n", "type": "long" }, { "name": "at", "type": "string" },
    { "name": "more", "type": ["null", "string"], "default": null } ] }"#;
/// The id that another registry gave [`SECOND`], before ours knows it.
const LATER: i32 = 77;

struct Sea {
    around: Around,
    engine: Engine,
    landing: Landing,
    first: i32,
    now: Arc<AtomicI64>,
    _folder: tempfile::TempDir,
}

impl Sea {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open("lake", folder.path(), &S3Settings::default()).unwrap();
        let now = Arc::new(AtomicI64::new(1_700_000_000_000));
        let millis = Arc::clone(&now);
        let broker = EmbeddedTopics::open(folder.path().join("topics.db"), {
            let millis = Arc::clone(&millis);
            Arc::new(move || millis.load(Ordering::Relaxed))
        });
        let broker = Arc::new(broker.unwrap());
        let registry = EmbeddedRegistry::open(Arc::clone(lake.store()) as _, lake.path("_schemas"));
        let first = registry.register("t-value", FIRST, None).await.unwrap().id;
        broker.create("t", 2).await.unwrap();
        let settings = EngineSettings {
            memory_limit: 64 << 20,
            spill_dir: folder.path().join("spill"),
            target_partitions: 2,
            base: folder.path().to_path_buf(),
        };
        let engine = Engine::new(lake.clone(), settings).unwrap();
        let dead = DeadLetters::new(lake.clone(), TableName::new("bronze", "dead_letters"));
        let clock: crate::pipeline::Clock =
            Arc::new(move || DateTime::from_timestamp_millis(millis.fetch_add(1, Ordering::Relaxed)).unwrap());
        let landing = Landing {
            stream: "s".to_owned(),
            topic: "t".to_owned(),
            table: TableName::new("bronze", "t"),
            format: "avro".to_owned(),
            subject: "t-value".to_owned(),
            on_incompatible: OnIncompatible::DeadLetter,
            event_time: Some("at".to_owned()),
            zone: chrono_tz::UTC,
            limits: Limits { rows: 40, bytes: 1 << 20, linger: Duration::from_millis(5) },
            drain: true,
            record_gaps: false,
            columns: None,
            on_unknown: OnUnknown::Evolve,
            reading: crate::pipeline::Reading::default(),
            rules: Vec::new(),
            select: Vec::new(),
            unique_key: Vec::new(),
            shared: false,
        };
        let around = Around { lake, broker, registry: Arc::new(registry), dead, clock, keeper: None };
        Self { around, engine, landing, first, now, _folder: folder }
    }

    fn record(&self, n: i64, id: i32) -> NewRecord {
        let (schema, value) = if id == self.first {
            (FIRST, json!({ "n": n, "at": "2026-01-05T10:00:00" }))
        } else {
            (SECOND, json!({ "n": n, "at": "2026-01-05T10:00:00", "more": format!("more {n}") }))
        };
        let encoder = JsonEncoder::new(&apache_avro::Schema::parse_str(schema).unwrap()).unwrap();
        let mut framed = Vec::new();
        frame::write(id, &mut framed);
        framed.extend(encoder.encode(&value).unwrap());
        NewRecord {
            partition: Some(i32::try_from(n % 2).unwrap()),
            timestamp_ms: Some(1_600_000_000_000 + n),
            key: Some(Bytes::from(format!("key {n}"))),
            value: Some(framed.into()),
            headers: vec![("h".to_owned(), Bytes::from_static(b"\xff"))],
        }
    }

    /// Writes the records `from..to`, every tenth with the schema that is not known yet.
    async fn produce(&self, from: i64, to: i64) {
        let records = (from..to).map(|n| self.record(n, if n % 10 == 3 { LATER } else { self.first }));
        self.around.broker.produce("t", records.collect()).await.unwrap();
    }

    async fn land(&self) -> Landed {
        self.land_as(&self.landing).await
    }

    async fn land_as(&self, landing: &Landing) -> Landed {
        let progress = Arc::new(Progress::default());
        land(&self.around, landing, &progress, &CancellationToken::new()).await.unwrap()
    }

    /// Makes the schema known that some records wait for.
    async fn mend(&self) {
        let registered = self.around.registry.register("t-value", SECOND, Some(LATER)).await.unwrap();
        assert_eq!(registered.id, LATER);
    }

    async fn replay(&self) -> Replayed {
        self.replay_of(&Choice::default(), false).await
    }

    async fn replay_of(&self, choice: &Choice, dry_run: bool) -> Replayed {
        let done = AtomicU64::new(0);
        let landings = [self.landing.clone()];
        let work =
            Replaying { around: &self.around, engine: &self.engine, landings: &landings, choice, dry_run, done: &done };
        let mut all = replay(&work).await.unwrap();
        assert!(all.len() <= 1, "{all:?}");
        all.pop().unwrap_or_default()
    }

    async fn rows(&self, sql: &str) -> Vec<RecordBatch> {
        self.engine.query(sql).await.unwrap().collect().await.unwrap()
    }

    /// The only number that a query gives.
    async fn number(&self, sql: &str) -> i64 {
        let rows = self.rows(sql).await;
        rows[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    /// Rows, different places, sum of `n`.
    async fn sums(&self, table: &str) -> [i64; 3] {
        let of = |what: &'static str| async move { self.number(&format!("select {what} from {table}")).await };
        [
            of("count(*)").await,
            of("count(distinct _partition * 1000000 + _offset)").await,
            of("cast(coalesce(sum(n), 0) as bigint)").await,
        ]
    }

    async fn open_letters(&self) -> i64 {
        self.number("select count(*) from bronze.dead_letters where replayed_at is null").await
    }

    async fn table(&self) -> Table {
        self.around.lake.table(&self.landing.table).await.unwrap()
    }

    async fn verify(&self) -> Verified {
        self.verify_as(&self.landing).await
    }

    async fn verify_as(&self, landing: &Landing) -> Verified {
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = Verifying { around: &self.around, engine: &self.engine, landing, done: &done, total: &total };
        let found = verify(&work).await.unwrap();
        assert_eq!(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        found
    }

    /// Replaces the whole content of the table by what a query gives, as another program might.
    async fn rewrite(&self, sql: &str) {
        self.rewrite_table(self.table().await, sql).await;
    }

    async fn rewrite_letters(&self, sql: &str) {
        self.rewrite_table(self.around.lake.table(self.around.dead.name()).await.unwrap(), sql).await;
    }

    async fn rewrite_table(&self, mut table: Table, sql: &str) {
        let now = (self.around.clock)();
        let mut rows = self.engine.query(sql).await.unwrap();
        let mut writer = FileWriter::new(&table, table.schema().unwrap(), WriteOptions::default(), now);
        while let Some(batch) = rows.next().await.unwrap() {
            let rows = crate::table::project(&batch, &table.schema().unwrap(), table.name()).unwrap();
            writer.write(&rows).await.unwrap();
        }
        let mut commit = Commit::new(Operation::Amend, Guard::Exclusive, now);
        commit.actions.extend(table.removes(|_| false, now).unwrap().into_iter().map(Action::Remove));
        commit.actions.extend(writer.finish().await.unwrap().into_iter().map(Action::Add));
        table.commit(commit).await.unwrap();
    }
}

fn sum(from: i64, to: i64, skip: impl Fn(i64) -> bool) -> i64 {
    (from..to).filter(|n| !skip(*n)).sum()
}
