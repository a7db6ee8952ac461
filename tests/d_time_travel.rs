//! Old versions of a table can be read, by number or by time, and reading is all that a query can do.
use serde_json::json;

use super::project::Project;

/// Version 1 has one item at 1.00; version 2 has it at 2.00, and a second.
fn two_versions() -> Project {
    let project = Project::new();
    project.write("one.txt", "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n");
    project.write("two.txt", "ITEM 1\nTitle=One\nListPrice=200USD$2.00\n\nITEM 2\nTitle=Two\n");
    project.catalogue("one.txt");
    project.catalogue("two.txt");
    project
}

const SUMS: &str = "select count(*) n, cast(sum(list_price) as varchar) s from silver.movies";

#[test]
fn an_old_version_is_read_as_it_was() {
    let project = two_versions();
    let newest = project.version("silver.movies");

    let old = project.rows(&format!("{SUMS} version as of {}", newest - 1));

    assert_eq!(old, json!([{ "n": 1, "s": "1.00" }]));
    assert_eq!(project.rows(&format!("{SUMS} version as of {newest}")), json!([{ "n": 2, "s": "2.00" }]));
    assert_eq!(project.rows(SUMS), json!([{ "n": 2, "s": "2.00" }]));
    let both = "select new.item_id, cast(new.list_price - old.list_price as varchar) rise from silver.movies new \
                join silver.movies version as of 1 old on new.item_id = old.item_id";
    assert_eq!(project.rows(both), json!([{ "item_id": 1, "rise": "1.00" }]), "two versions in one query");
}

#[test]
fn a_time_names_the_version_of_that_time() {
    let project = two_versions();
    let history = project.json(&["--json", "tables", "history", "silver.movies"]);
    let at = |version: u64| {
        let found = history.as_array().unwrap().iter().find(|row| row["version"] == version);
        found.unwrap()["at"].as_str().unwrap().to_owned()
    };

    let old = project.rows(&format!("{SUMS} timestamp as of '{}'", at(1)));

    assert_eq!(old, json!([{ "n": 1, "s": "1.00" }]));
    assert_eq!(project.rows(&format!("{SUMS} timestamp as of '{}'", at(2))), json!([{ "n": 2, "s": "2.00" }]));
    assert!(at(0) <= at(1) && at(1) <= at(2), "times rise with versions: {history}");
}

#[test]
fn a_version_that_never_was_is_an_error() {
    let project = two_versions();
    for asked in ["version as of 99", "timestamp as of '2001-01-01T00:00:00Z'", "timestamp as of 'tomorrow'"] {
        let err = project.fails(2, &["query", &format!("select * from silver.movies {asked}")]);

        assert!(err.starts_with("error[Q"), "{asked}: {err}");
    }
}

#[test]
fn a_query_only_reads() {
    let project = two_versions();
    let before = project.tables();
    for sql in [
        "delete from silver.movies",
        "update silver.movies set title = 'x'",
        "drop table silver.movies",
        "insert into silver.movies select * from silver.movies",
        "create table x as select 1",
        "create external table t stored as csv location 'data/Movies.txt'",
        "copy (select 1) to 'x.csv'",
        "set datafusion.execution.batch_size = 1",
    ] {
        let err = project.fails(2, &["query", sql]);

        assert!(err.contains("only SELECT is allowed"), "{sql}: {err}");
    }
    assert_eq!(project.tables(), before);
    assert!(!project.root().join("x.csv").exists());
}
