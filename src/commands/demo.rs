//! `tidemill demo`: the whole sample project on embedded parts, and what it found.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};
use tidemill_etl::output;

use super::{Context, init, program, up};
use crate::cli::Demo;
use crate::failure::{Exit, Result};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::project::Project;
use crate::report::seconds;
use crate::runner::{Runner, exit_of, failure_of};
use crate::settings::FILE;
use crate::tasks::count;

/// Where it works if nobody says.
const FOLDER: &str = "tidemill-demo";
/// The sample catalogue of the project.
const CATALOGUE: &str = "data/Movies.txt";

/// What a person would want to see: a title and a query. All fit a terminal of 100 columns.
const SHOWN: [(&str, &str); 8] = [
    (
        "Dearest items",
        "SELECT item_id, CASE WHEN character_length(title) > 60 THEN left(title, 59) || '…' ELSE title END AS title, \
         list_price, list_price_currency AS currency FROM silver.movies \
         WHERE list_price IS NOT NULL ORDER BY list_price DESC, item_id LIMIT 5",
    ),
    (
        "Cheapest items",
        "SELECT item_id, CASE WHEN character_length(title) > 60 THEN left(title, 59) || '…' ELSE title END AS title, \
         list_price, list_price_currency AS currency FROM silver.movies \
         WHERE list_price IS NOT NULL ORDER BY list_price, item_id LIMIT 5",
    ),
    (
        "Registrations per hour (tumbling)",
        "SELECT window_start, window_end, registrations FROM gold.registration_windows \
         WHERE window_type = 'tumbling' ORDER BY registrations DESC, window_start LIMIT 5",
    ),
    (
        "Registrations in a rolling hour (sliding every 15 minutes)",
        "SELECT window_start, window_end, registrations FROM gold.registration_windows \
         WHERE window_type = 'sliding' ORDER BY registrations DESC, window_start LIMIT 5",
    ),
    (
        "Top sales",
        "SELECT movie_id, CASE WHEN character_length(title) > 40 THEN left(title, 39) || '…' ELSE title END AS title, \
         units, total_sales, date_trunc('second', aggregated_at) AS aggregated_at FROM gold.movie_sales \
         ORDER BY total_sales DESC, movie_id LIMIT 5",
    ),
    (
        "Busiest quarter hours",
        "SELECT measured_at, active_sessions, hour_max_sessions FROM gold.active_sessions \
         ORDER BY active_sessions DESC, measured_at LIMIT 5",
    ),
    (
        "Average session, by hour of its start",
        "SELECT hour_start, sessions, round(average_duration_seconds / 60, 1) AS average_minutes \
         FROM gold.session_durations ORDER BY sessions DESC, hour_start LIMIT 5",
    ),
    (
        "Consumer segments",
        "SELECT purchase_segment, engagement_segment, count(*) AS users FROM gold.user_segments \
         GROUP BY purchase_segment, engagement_segment ORDER BY users DESC, purchase_segment, engagement_segment",
    ),
];

pub(super) async fn run(context: &Context, demo: &Demo) -> Result<Exit> {
    let begun = Instant::now();
    let dir: PathBuf = crate::project::start(&context.global)?.join(demo.dir.clone().unwrap_or_else(|| FOLDER.into()));
    if !dir.join(FILE).exists() {
        let written = init::write_project(&dir)?;
        context.report.note(format_args!("wrote the sample project ({} files) to {}", written.written, dir.display()));
    }
    let project = Project::at(dir, &context.global.set, &context.environment)?;
    let house = Lakehouse::new(project.clone());
    let runner = Runner::open(&house, &Arc::new(Metrics::default()))?;
    if let Some(problems) = runner.problems() {
        return Err(problems);
    }
    let steps: [(&str, Map<String, Value>); 3] = [
        ("movies_catalog", Map::from_iter([("file".to_owned(), json!(CATALOGUE))])),
        ("user_events", Map::new()),
        ("consumer_events", Map::new()),
    ];
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    for (dag, params) in steps {
        let report = runner.run(&context.report, dag, params, true, &context.stop).await?;
        if let Some(failure) = failure_of(&report) {
            return Err(failure);
        }
        if exit_of(&report) != Exit::Done {
            return Ok(exit_of(&report));
        }
        let results =
            report.tasks.into_iter().map(|task| (format!("{dag}.{}", task.instance.task), task.instance.result));
        done.extend(results);
    }
    let counted = |task: &str, what: &str| count(done.get(task).and_then(|result| result[what].as_u64()).unwrap_or(0));
    let loaded = counted("consumer_events.load", "rows");
    context.report.note(format_args!(
        "\nprocessed {} items, {} new events and {} new records; {loaded} rows went into the warehouse",
        counted("movies_catalog.land", "items"),
        counted("user_events.generate", "events"),
        counted("consumer_events.land", "rows"),
    ));
    let (engine, _) = house.engine_with_models().await?;
    let mut results = Map::new();
    for (title, sql) in SHOWN {
        let rows = engine.query(sql).await?;
        let mut text = Vec::new();
        if context.report.json() {
            output::json(rows, &mut text).await?;
            results.insert(title.to_owned(), serde_json::from_slice(&text).unwrap_or_default());
        } else {
            output::table(rows, &mut text).await?;
            context.report.line(&format!("\n{title}"))?;
            context.report.output(|out| out.write_all(&text))?;
        }
    }
    let took = seconds(begun.elapsed());
    if context.report.json() {
        context.report.one(&Value::Object(results))?;
    }
    let shown = project.root.display();
    context.report.note(format_args!("\nall of it took {took}; the project is in {shown}"));
    let query = "select * from gold.user_segments limit 5";
    context.report.note(format_args!("try: {} -C {shown} query \"{query}\"", program()));
    if demo.exit {
        return Ok(Exit::Done);
    }
    drop(runner);
    up::serve(context, project, Some(SocketAddr::from((Ipv4Addr::LOCALHOST, demo.port)))).await
}
