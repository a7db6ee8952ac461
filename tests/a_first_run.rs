//! A first run: `tidemill demo` writes the sample project, runs the whole of it, and shows what it found. A second run
//! in the same folder has nothing to do, and doubles nothing. The figures of the full catalogue are known to the cent.
use serde_json::{Value, json};

use super::project::{Project, full_catalogue, skipped};
use super::{texts, tidemill};

const TOPICS: [&str; 7] = [
    "added_to_cart_topic",
    "checkout_to_cart_topic",
    "consumer_registration_topic",
    "item_view_topic",
    "movies_catalog_enriched",
    "sign_in_topic",
    "sign_out_topic",
];

fn demo(project: &Project) -> (String, String) {
    let output = tidemill(&project.root()).args(["demo", "--dir", ".", "--exit"]).output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    (out, err)
}

/// The rows of every table of the warehouse, and its ledger.
fn warehouse(project: &Project) -> Vec<(String, i64)> {
    let database = rusqlite::Connection::open(project.root().join("warehouse.db")).unwrap();
    let mut names = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let count = |name: &String| database.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0));
    names.iter().map(|name| (name.clone(), count(name).unwrap())).collect()
}

#[test]
fn the_demo_shows_its_tables_and_a_second_one_changes_nothing() {
    let project = Project::new();
    let (shown, told) = demo(&project);
    assert!(shown.contains("Top sales") && shown.contains("Dearest items"), "{shown}");
    assert!(
        !shown.contains("movies_catalog.land") && told.contains("movies_catalog.land"),
        "results apart from the rest"
    );
    let tables = project.tables();
    let ends = TOPICS.map(|topic| project.end(topic));
    let loaded = warehouse(&project);
    assert_eq!(tables.len(), 20, "{tables:?}");
    assert_eq!(ends.iter().sum::<u64>(), 20_175, "{ends:?}");
    assert!(loaded.iter().any(|(name, rows)| name.ends_with("movie_sales") && *rows > 0), "{loaded:?}");

    let (again, _) = demo(&project);

    assert_eq!(again, shown);
    assert_eq!(project.tables(), tables);
    assert_eq!(TOPICS.map(|topic| project.end(topic)), ends);
    assert_eq!(warehouse(&project), loaded);
}

#[test]
fn the_warehouse_has_what_the_lake_has() {
    let project = Project::new();
    demo(&project);

    let loaded = warehouse(&project);

    let gold: Vec<(String, u64)> = project.tables().into_iter().filter(|(name, _)| name.starts_with("gold.")).collect();
    assert_eq!(gold.len(), 12);
    for (name, rows) in gold {
        let name = name.trim_start_matches("gold.");
        let found = loaded.iter().find(|(loaded, _)| loaded == name).unwrap_or_else(|| panic!("{name}: {loaded:?}"));
        assert_eq!(u64::try_from(found.1).unwrap(), rows, "{name}");
    }
}

#[test]
fn a_query_prints_pure_json_on_standard_output() {
    let project = Project::new();
    project.catalogue("data/Movies.txt");

    let ran = project.run(&["query", "select count(*) n from silver.movies", "--format", "json"]);

    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "[{\"n\":175}]\n", ""));
}

#[test]
fn the_full_catalogue_is_known_to_the_cent() {
    let Some(file) = full_catalogue() else {
        return skipped("the_full_catalogue_is_known_to_the_cent", "set TIDEMILL_TEST_MOVIES to the full Movies.txt");
    };
    let project = Project::new();
    let file = file.to_str().unwrap();
    let [landed, published] = project.catalogue(file);
    assert_eq!((&landed["inserted"], &published["records"]), (&json!(8701), &json!(8701)));
    assert_eq!(project.ok(&["query", "select count(*) n from silver.movies", "--format", "json"]), "[{\"n\":8701}]\n");
    let sums = "select count(list_price) prices, cast(sum(list_price) as varchar) total, count(trade_in_value) trades, \
                cast(sum(trade_in_value) as varchar) worth, min(list_price_currency) lo, max(list_price_currency) hi \
                from silver.movies";
    let sums: Value = project.rows(sums);
    let known = json!([{ "prices": 6494, "total": "364532.64", "trades": 2613, "worth": "15341.01", "lo": "USD", "hi": "USD" }]);
    assert_eq!(sums, known);
    let (end, version) = (project.end("movies_catalog_enriched"), project.version("silver.movies"));

    let [landed, published] = project.catalogue(file);

    assert_eq!((&landed["unchanged"], &published["records"]), (&json!(8701), &json!(0)));
    assert_eq!((project.end("movies_catalog_enriched"), project.version("silver.movies")), (end, version));
}
