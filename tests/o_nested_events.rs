//! Nested events of a film service: the pipeline `customer_events`. They are made up with the faults that real ones have, land
//! as Avro in files of 1,200, and become a star schema. What the lake says is compared with what a plain loop over the
//! same events says; a second run doubles nothing.
use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde_json::{Value, json};

use super::project::Project;

const EVENTS: u64 = 3647;

/// The events as the generator makes them.
fn events(project: &Project) -> Vec<Value> {
    let lines =
        project.ok(&["generate", "customer_events", "--seed", "42", "--events", &EVENTS.to_string(), "--dry-run"]);
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["value"].clone()).collect()
}

pub(crate) fn run(project: &Project) {
    project.ok(&["dags", "run", "make_events"]);
    project.ok(&["dags", "run", "customer_events", "--drain"]);
}

fn possible(text: &Value) -> bool {
    let date: Vec<u32> =
        text.as_str().unwrap().split('T').next().unwrap().split('-').map(|n| n.parse().unwrap()).collect();
    NaiveDate::from_ymd_opt(date[0].try_into().unwrap(), date[1], date[2]).is_some()
}

fn sum(events: &[&Value], list: &str) -> u64 {
    events.iter().map(|event| event[list].as_array().unwrap().len() as u64).sum()
}

#[test]
fn nested_events_become_a_star_schema_that_loses_and_doubles_nothing() {
    let project = Project::of("customer_events");
    let events = events(&project);
    let (good, bad): (Vec<&Value>, Vec<&Value>) = events.iter().partition(|event| possible(&event["timestamp"]));
    assert!(bad.len() > 30 && good.len() as u64 + bad.len() as u64 == EVENTS, "{} impossible", bad.len());

    run(&project);

    // Whole events, and those whose time no calendar has.
    assert_eq!(project.count("bronze.customer_events"), good.len() as u64);
    let dead = project.rows("select reason, count(*) n from bronze.dead_letters group by reason");
    assert_eq!(dead, json!([{ "reason": "event_time", "n": bad.len() }]));
    // At most 1,200 in a file, but for the last of each landing.
    let files = project.json(&["--json", "tables", "history", "bronze.customer_events"]);
    // Commits that land, not those that keep the table in shape.
    let landed = files.as_array().unwrap().iter().filter(|commit| commit["operation"] == "STREAMING UPDATE");
    let sizes: Vec<u64> = landed.filter_map(|commit| commit["metrics"]["numOutputRows"].as_u64()).collect();
    assert!(sizes.iter().all(|rows| *rows <= 1200) && sizes.len() as u64 == EVENTS.div_ceil(1200), "{sizes:?}");

    // Each list by itself: the sums, not a product.
    for (fact, list) in [
        ("fact_user_action", "user_action"),
        ("fact_search_history", "search_history"),
        ("fact_recommendation", "recommendations"),
    ] {
        assert_eq!(project.count(&format!("gold.{fact}")), sum(&good, list), "{fact}");
    }
    let empty = good
        .iter()
        .filter(|event| ["user_action", "search_history", "recommendations"].iter().any(|l| event[l] == json!([])));
    assert!(empty.count() > 10, "events with an empty list are among them");
    assert_eq!(project.count("gold.fact_event"), good.len() as u64);

    // Dates inside events.
    let mut impossible: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &good {
        let start = usize::from(!possible(&event["user_subscription"]["start_date"]));
        *impossible.entry("user_subscription.start_date").or_default() += start;
        for (field, list) in [("user_action.timestamp", "user_action"), ("search_history.timestamp", "search_history")]
        {
            let bad = event[list].as_array().unwrap().iter().filter(|one| !possible(&one["timestamp"])).count();
            *impossible.entry(field).or_default() += bad;
        }
    }
    let found = project.rows("select field, count(*) n from gold.impossible_dates group by field order by field");
    let expected: Vec<Value> = impossible.iter().map(|(field, n)| json!({ "field": field, "n": n })).collect();
    assert_eq!(found, Value::from(expected));

    // Users, and what they have now.
    let users: BTreeSet<&str> = good.iter().map(|event| event["user_id"].as_str().unwrap()).collect();
    for dim in ["dim_user", "dim_user_subscription", "dim_device", "dim_location"] {
        assert_eq!(project.count(&format!("gold.{dim}")), users.len() as u64, "{dim}");
    }
    let described = project.value("select count(*) from gold.content where described");
    assert_eq!(described, json!(good.len()), "what is watched never repeats");

    // The warehouse: the star schema, and every event as a document.
    let warehouse = rusqlite::Connection::open(project.root().join("warehouse.db")).unwrap();
    let count = |table: &str| -> u64 {
        warehouse
            .query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get::<_, i64>(0))
            .unwrap()
            .unsigned_abs()
    };
    for (table, rows) in project.tables().iter().filter_map(|(name, rows)| Some((name.strip_prefix("gold.")?, *rows))) {
        assert_eq!(count(table), rows, "{table}");
    }
    assert_eq!(count("all_data"), good.len() as u64);
    let title = "SELECT count(*) FROM all_data WHERE json_extract(data, '$.content.title') LIKE '%\"%'";
    let quoted: i64 = warehouse.query_row(title, [], |row| row.get(0)).unwrap();
    let expected = good.iter().filter(|event| event["content"]["title"].as_str().unwrap().contains('"')).count();
    assert_eq!((usize::try_from(quoted).unwrap(), expected > 100), (expected, true), "quotes and backslashes arrive");

    // Once more: nothing new, nothing twice, the same keys.
    let (tables, keys) = (project.tables(), "select max(action_id) k from gold.fact_user_action");
    let key = project.value(keys);
    run(&project);
    assert_eq!(project.tables(), tables);
    assert_eq!(project.value(keys), key);
    assert_eq!(count("all_data"), good.len() as u64);
}
