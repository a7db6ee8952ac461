//! SIGKILL at any moment: whatever was under way when the process died goes on at the next start. Nothing is lost,
//! nothing is there twice. Moments are drawn from a fresh seed, which is printed; the number of kills is bounded.
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::project::Project;

/// How many times a process is killed at most, and for how long.
const KILLS: u32 = 12;
const AT_MOST: Duration = Duration::from_secs(20);
const EVENTS: u64 = 60_000;

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a failure must be repeatable")]
fn moments() -> StdRng {
    let seed = std::env::var("TIDEMILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("kills by TIDEMILL_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Starts the command again and again, killing it at moments below `longest`, until it ends by itself or it was
/// killed often enough; then lets it finish. Returns how often it was killed.
fn until_done(project: &Project, arguments: &[&str], moments: &mut StdRng, longest: Duration) -> u32 {
    let begun = Instant::now();
    let mut kills = 0;
    while kills < KILLS && begun.elapsed() < AT_MOST {
        let mut child = project
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moment = Instant::now() + longest.mul_f64(moments.random());
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= moment {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(0), "a crash is a pause, and fails no run");
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
    }
    project.ok(arguments);
    kills
}

fn generate(project: &Project, events: u64, moments: Option<&mut StdRng>) {
    let events = format!("events={events}");
    let arguments = ["dags", "run", "user_events", "--param", &events];
    match moments {
        None => drop(project.ok(&arguments)),
        Some(moments) => drop(until_done(project, &arguments, moments, Duration::from_millis(1200))),
    }
}

const TOPICS: [&str; 6] = [
    "consumer_registration_topic",
    "sign_in_topic",
    "sign_out_topic",
    "item_view_topic",
    "added_to_cart_topic",
    "checkout_to_cart_topic",
];

#[test]
fn every_record_of_every_topic_is_in_its_table_once() {
    let mut moments = moments();
    let project = Project::new();
    project.catalogue("data/Movies.txt");
    generate(&project, EVENTS, None);
    let ends = TOPICS.map(|topic| project.end(topic));
    assert_eq!(ends.iter().sum::<u64>(), EVENTS);

    let kills =
        until_done(&project, &["dags", "run", "consumer_events", "--drain"], &mut moments, Duration::from_secs(3));

    assert!(kills > 0);
    assert_eq!(TOPICS.map(|topic| project.end(topic)), ends, "landing leaves the topics as they are");
    for (topic, end) in TOPICS.iter().zip(ends).chain([(&"movies_catalog_enriched", 175)]) {
        let rows = project.rows(&format!(
            "select count(*) n, count(distinct _offset) d, min(_offset) lo, max(_offset) hi, max(_partition) p from bronze.{topic}"
        ));
        assert_eq!(
            rows,
            json!([{ "n": end, "d": end, "lo": 0, "hi": end - 1, "p": 0 }]),
            "{topic}, killed {kills} times"
        );
    }
    let sales = project.value(
        "with firsts as (select cart_id, movie_id, purchase_amount, row_number() over \
         (partition by cart_id, movie_id order by event_at, _partition, _offset) n from bronze.checkout_to_cart_topic) \
         select cast(sum(purchase_amount) as varchar) from firsts where n = 1",
    );
    assert_eq!(project.value("select cast(sum(total_sales) as varchar) from gold.movie_sales"), sales);
    let loaded = rusqlite::Connection::open(project.root().join("warehouse.db")).unwrap();
    let loaded: i64 = loaded.query_row("select count(*) from fact_checkout", [], |row| row.get(0)).unwrap();
    assert_eq!(u64::try_from(loaded).unwrap(), project.count("gold.fact_checkout"));
}

#[test]
fn events_are_made_as_many_as_were_asked_for() {
    let mut moments = moments();
    let project = Project::new();
    project.catalogue("data/Movies.txt");

    generate(&project, EVENTS, Some(&mut moments));

    let ends: u64 = TOPICS.iter().map(|topic| project.end(topic)).sum();
    assert_eq!(ends, EVENTS);
}

#[test]
fn a_catalogue_is_stored_and_published_once() {
    use std::fmt::Write as _;

    let mut moments = moments();
    let project = Project::new();
    let mut text = String::new();
    for item in 1..=20_000 {
        writeln!(text, "ITEM {item}\nTitle=Title {item}\nListPrice={item}USD$0.00\nActor=A\nActor=B\n").unwrap();
    }
    project.write("many.txt", text);

    until_done(
        &project,
        &["dags", "run", "movies_catalog", "--param", "file=many.txt"],
        &mut moments,
        Duration::from_millis(1500),
    );

    let rows = project
        .rows("select count(*) n, count(distinct item_id) d, cast(sum(list_price) as varchar) s from silver.movies");
    assert_eq!(rows, json!([{ "n": 20_000, "d": 20_000, "s": "2000100.00" }]));
    assert_eq!(project.end("movies_catalog_enriched"), 20_000);
}
