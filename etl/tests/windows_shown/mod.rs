//! When windows are final, shown as they come or once.
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chrono::{DateTime, Utc};
use datafusion::arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use deltalake::kernel::Action;
use tidemill_etl::engine::{Engine, EngineSettings};
use tidemill_etl::model::{Project, build};
use tidemill_etl::table::{Commit, Lake, S3Settings, TableName, write_file};

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// A lake with events, and models that group them by hour.
struct World {
    folder: tempfile::TempDir,
    engine: Engine,
    project: Project,
}

fn open(folder: &Path) -> Engine {
    let lake = Lake::open("lake", folder, &S3Settings::default()).unwrap();
    let settings = EngineSettings {
        memory_limit: 64 << 20,
        spill_dir: folder.join("spill"),
        target_partitions: 2,
        base: PathBuf::from(folder),
    };
    Engine::new(lake, settings).unwrap()
}

fn events(rows: &[(&str, &str)]) -> RecordBatch {
    let at = |text: &&str| DateTime::parse_from_rfc3339(&format!("2026-03-01T{text}:00Z")).unwrap().timestamp_micros();
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(time, _)| at(time))).with_timezone("UTC");
    let keys = StringArray::from_iter_values(rows.iter().map(|(_, key)| key));
    RecordBatch::try_from_iter_with_nullable([("at", Arc::new(times) as _, true), ("k", Arc::new(keys) as _, true)])
        .unwrap()
}

impl World {
    async fn new(models: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = open(folder.path());
        let name = TableName::new("bronze", "events");
        engine.lake().ensure(&name, &events(&[]).schema(), &[]).await.unwrap();
        std::fs::create_dir_all(folder.path().join("sql")).unwrap();
        for (name, sql) in models {
            std::fs::write(folder.path().join(format!("sql/{name}.sql")), sql).unwrap();
        }
        let project = Project::load(&folder.path().join("sql"), &serde_json::Map::new()).unwrap();
        Self { folder, engine, project }
    }

    async fn come(&self, rows: &[(&str, &str)]) {
        let mut table = self.engine.lake().table(&TableName::new("bronze", "events")).await.unwrap();
        let mut commit = Commit::append(NOW);
        commit.actions.extend(write_file(&table, &events(rows), NOW).await.unwrap().map(Action::Add));
        table.commit(commit).await.unwrap();
    }

    async fn build(&self) {
        for model in self.project.order(&[]).unwrap() {
            let built = build(&self.engine, &self.project, model, NOW).await.unwrap();
            assert_eq!(built.full_because, None);
        }
    }

    async fn rows(&self, sql: &str) -> Vec<String> {
        let batches = self.engine.query(sql).await.unwrap().collect().await.unwrap();
        let options = FormatOptions::default().with_null("-").with_timestamp_tz_format(Some("%H:%M"));
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<_> =
                batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
            let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ");
            rows.extend((0..batch.num_rows()).map(row));
        }
        rows.sort();
        rows
    }
}

const HOURLY: &str = "SELECT window_start, window_end, count(*) AS n FROM {{ source('bronze', 'events') }} \
                      GROUP BY tumble(at, INTERVAL '1 hour')";

#[tokio::test]
async fn a_window_is_final_when_the_watermark_has_passed_its_end_and_late_rows_still_correct_it() {
    let text = format!("{{{{ config(materialized='incremental', watermark='10 minutes') }}}}\n{HOURLY}");
    let world = World::new(&[("hourly", &text)]).await;
    let finals = "SELECT window_start, n, final FROM gold.hourly__final";

    world.come(&[("10:00", "a"), ("10:30", "b"), ("11:05", "a")]).await;
    world.build().await;
    assert_eq!(world.rows(finals).await, ["10:00 2 false", "11:00 1 false"]);

    world.come(&[("11:10", "a")]).await;
    world.build().await;
    assert_eq!(world.rows(finals).await, ["10:00 2 true", "11:00 2 false"]);

    // Late by an hour, and nothing newer: the watermark stays.
    world.come(&[("10:59", "c"), ("09:00", "c")]).await;
    world.build().await;
    assert_eq!(world.rows(finals).await, ["09:00 1 true", "10:00 3 true", "11:00 2 false"]);
}

#[tokio::test]
async fn a_table_has_its_watermark_also_when_it_is_computed_whole_and_sessions_have_one_too() {
    let whole = format!("{{{{ config(materialized='table', watermark='0') }}}}\n{HOURLY}");
    let sessions = "{{ config(materialized='incremental', watermark='1 minute') }}\nSELECT k, window_start, window_end, count(*) AS n \
                    FROM {{ source('bronze', 'events') }} GROUP BY session(at, INTERVAL '20 minutes'), k";
    let world = World::new(&[("whole", &whole), ("sessions", sessions)]).await;

    world.come(&[("10:00", "a"), ("10:10", "a"), ("11:00", "b")]).await;
    world.build().await;

    assert_eq!(world.rows("SELECT window_start, final FROM gold.whole__final").await, ["10:00 true", "11:00 false"]);
    assert_eq!(
        world.rows("SELECT k, window_start, window_end, n, final FROM gold.sessions__final").await,
        ["a 10:00 10:30 2 true", "b 11:00 11:20 1 false"]
    );
}

#[tokio::test]
async fn append_shows_a_window_once_and_late_rows_go_beside_it() {
    let once = format!("{{{{ config(materialized='incremental', watermark='10 minutes', emit='append') }}}}\n{HOURLY}");
    let hops = "{{ config(materialized='incremental', watermark='0', emit='append') }}\nSELECT window_start, window_end, k, count(*) AS n \
                FROM {{ source('bronze', 'events') }} GROUP BY hop(at, INTERVAL '30 minutes', INTERVAL '1 hour'), k";
    let world = World::new(&[("once", &once), ("hops", hops)]).await;
    let shown = "SELECT window_start, n FROM gold.once";

    world.come(&[("10:00", "a"), ("10:30", "b"), ("11:05", "a")]).await;
    world.build().await;
    assert_eq!(world.rows(shown).await, [""; 0]);
    assert_eq!(world.rows("SELECT window_start, k, n FROM gold.hops").await, ["09:30 a 1", "10:00 a 1", "10:00 b 1"]);

    world.come(&[("11:10", "a")]).await;
    world.build().await;
    assert_eq!(world.rows(shown).await, ["10:00 2"]);

    world.come(&[("10:59", "late"), ("11:20", "b")]).await;
    world.build().await;
    world.come(&[("12:10", "c")]).await;
    world.build().await;
    assert_eq!(world.rows(shown).await, ["10:00 2", "11:00 3"]);
    assert_eq!(world.rows("SELECT at, watermark FROM gold.once__late").await, ["10:59 11:00"]);
    // Too late for one of its two windows, in time for the other.
    assert_eq!(world.rows("SELECT at, k FROM gold.hops__late").await, ["10:59 late"]);
    let late = "SELECT window_start, n FROM gold.hops WHERE k = 'late'";
    assert_eq!(world.rows(late).await, ["10:30 1"]);
    assert_eq!(
        world.rows("SELECT window_start, n FROM gold.hops WHERE k = 'b'").await,
        ["10:00 1", "10:30 2", "11:00 1"]
    );
}

#[tokio::test]
async fn files_away_from_the_touched_windows_are_not_read() {
    let select = |by: &str| {
        format!(
            "{{{{ config(materialized='incremental') }}}}\nSELECT window_start, window_end, k, count(DISTINCT at) AS n \
             FROM {{{{ source('bronze', 'events') }}}} GROUP BY {by}, k"
        )
    };
    let models = [
        ("hours", select("tumble(at, INTERVAL '1 hour')")),
        ("sliding", select("hop(at, INTERVAL '30 minutes', INTERVAL '1 hour')")),
        ("sessions", select("session(at, INTERVAL '20 minutes')")),
    ];
    let world = World::new(&models.each_ref().map(|(name, sql)| (*name, sql.as_str()))).await;
    world.come(&[("06:00", "a"), ("06:10", "a")]).await;
    let old = world.engine.lake().table(&TableName::new("bronze", "events")).await.unwrap().files().unwrap();
    world.come(&[("10:30", "a"), ("10:45", "a"), ("11:10", "b")]).await;
    world.build().await;

    // Whoever reads the hours of before fails now.
    for file in old {
        std::fs::remove_file(world.folder.path().join("lake/bronze/events").join(file.path)).unwrap();
    }
    world.come(&[("10:50", "a")]).await;
    world.build().await;

    let rows = async |model: &str| world.rows(&format!("SELECT window_start, k, n FROM gold.{model}")).await;
    assert_eq!(rows("hours").await, ["06:00 a 2", "10:00 a 3", "11:00 b 1"]);
    assert_eq!(rows("sessions").await, ["06:00 a 2", "10:30 a 3", "11:10 b 1"]);
    assert_eq!(rows("sliding").await, ["05:30 a 2", "06:00 a 2", "10:00 a 3", "10:30 a 3", "10:30 b 1", "11:00 b 1"]);
}

/// A future that is dropped after so many looks at it.
struct Cut<F> {
    inner: Pin<Box<F>>,
    left: u32,
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.inner.as_mut().poll(context).map(Some)
    }
}

#[tokio::test]
async fn a_build_that_stops_anywhere_shows_no_window_and_no_late_row_twice() {
    let once = format!("{{{{ config(materialized='incremental', watermark='0', emit='append') }}}}\n{HOURLY}");
    let mut world = World::new(&[("once", &once)]).await;
    world.come(&[("10:00", "a"), ("11:00", "a")]).await;
    world.build().await;

    world.come(&[("10:30", "late"), ("12:00", "a")]).await;
    let mut more = false;
    for left in 1..4_000 {
        let model = &world.project.models["once"];
        let inner = Box::pin(build(&world.engine, &world.project, model, NOW));
        let ended = Cut { inner, left }.await;
        world.engine = open(world.folder.path());
        // More comes when the late rows are there and the windows are not.
        let late = TableName::new("gold", "once__late");
        if !more
            && world.engine.lake().try_table(&late).await.unwrap().is_some_and(|table| table.rows().unwrap() > Some(0))
        {
            assert!(ended.is_none(), "one of the cuts is between the two commits");
            world.come(&[("10:45", "late"), ("12:30", "a")]).await;
            more = true;
        }
        if ended.is_some() {
            break;
        }
    }
    world.build().await;

    assert_eq!(world.rows("SELECT window_start, n FROM gold.once").await, ["10:00 1", "11:00 1"]);
    assert_eq!(world.rows("SELECT at FROM gold.once__late").await, ["10:30", "10:45"]);
}

#[tokio::test]
async fn a_watermark_without_windows_and_sessions_shown_once_are_errors() {
    let plain =
        "{{ config(materialized='incremental', watermark='1 hour') }}\nSELECT * FROM {{ source('bronze', 'events') }}";
    let sessions = "{{ config(materialized='incremental', watermark='0', emit='append') }}\nSELECT window_end, count(*) AS n \
                    FROM {{ source('bronze', 'events') }} GROUP BY session(at, INTERVAL '1 hour')";
    let world = World::new(&[("plain", plain), ("sessions", sessions)]).await;

    for model in world.project.models.values() {
        let error = build(&world.engine, &world.project, model, NOW).await.unwrap_err();

        assert_eq!(error.code(), "M0040", "{}", model.name);
    }
}
