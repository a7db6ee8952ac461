//! Other readers: the tables open as they are in the packages that people use. A small Python script reads them with
//! pyarrow, pandas, Polars and `DuckDB`; every one finds the rows that `tidemill query` finds, and the same sums.
use std::process::Command;

use serde_json::{Value, json};

use super::project::{Project, service, skipped};
use super::{ROOT, o_nested_events, texts};

/// What each package finds in a table.
fn read(python: &str, project: &Project, table: &str, column: &str) -> Value {
    let folder = project.root().join("lake").join(table.replace('.', "/"));
    let script = format!("{ROOT}/tests/services/readers.py");
    let output = Command::new(python).arg(script).arg(folder).arg(column).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{table}: {err}");
    serde_json::from_str(&out).unwrap()
}

fn compare(python: &str, project: &Project, table: &str, column: &str) {
    let sql = format!(
        "select count(*) rows, count(distinct event_id) ids, cast(round(sum({column}) * 100) as bigint) sum from {table}"
    );
    let expected = &project.rows(&sql)[0];
    let found = read(python, project, table, column);
    let readers: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(readers, ["pyarrow", "pandas", "polars", "duckdb over arrow", "duckdb over the files"]);
    for (reader, result) in found.as_object().unwrap() {
        assert_eq!(result, expected, "{table} by {reader}");
    }
}

#[test]
fn the_tables_open_unchanged_in_other_peoples_packages() {
    let name = "the_tables_open_unchanged_in_other_peoples_packages";
    let Some(python) = service("PYTHON") else {
        return skipped(name, "set TIDEMILL_TEST_PYTHON, or start it: tests/services/up python");
    };
    let logs = Project::of("ecommerce_logs");
    logs.ok(&["dags", "run", "make_logs", "--param", "events=3000", "--param", "rate=0"]);
    logs.ok(&["dags", "run", "clean_logs", "--drain"]);
    compare(&python, &logs, "silver.kafka_events", "amount");

    let events = Project::of("customer_events");
    o_nested_events::run(&events);
    compare(&python, &events, "bronze.customer_events", "_partition");
    compare(&python, &events, "gold.fact_recommendation", "position");
    assert_ne!(events.rows("select count(*) n from gold.fact_recommendation"), json!([{ "n": 0 }]));
}
