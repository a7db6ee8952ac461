//! Models of a task with `atomic = true` are seen together: whoever reads through Tidemill sees all of them as they were
//! before a run, or all as they are after it.
use serde_json::{Value, json};

use super::project::Project;

const TEXTS: [&str; 3] = [
    "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n",
    "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n\nITEM 2\nTitle=Two\nListPrice=300GBP£3.00\n",
    "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n\nITEM 2\nTitle=Two\nListPrice=300GBP£3.00\n\nITEM 3\nTitle=Three\nListPrice=500GBP£5.00\n",
];

/// `units` counts the items, `counted` reads it, and `titles` reads the items itself.
fn shop() -> Project {
    let project = Project::new();
    for (file, text) in ["one.txt", "two.txt", "three.txt"].iter().zip(TEXTS) {
        project.write(file, text);
    }
    project.write("sql/units.sql", "SELECT count(*) AS n FROM {{ source('silver', 'movies') }}\n");
    project.write("sql/counted.sql", "SELECT n FROM {{ ref('units') }}\n");
    project.write(
        "sql/titles.sql",
        "{{ config(materialized='incremental') }}\nSELECT item_id, title FROM {{ source('silver', 'movies') }}\n",
    );
    project.write("dags/sets.toml", dag(true));
    project.catalogue("one.txt");
    project
}

fn dag(atomic: bool) -> String {
    format!(
        "[tasks.models]\nkind = \"models\"\nselect = [\"units\", \"counted\", \"titles\"]\natomic = {atomic}\n\n\
         [tasks.load]\nkind = \"load\"\nafter = [\"models\"]\ntables = [\"gold.units\", \"gold.titles\"]\n"
    )
}

const RUN: [&str; 3] = ["dags", "run", "sets"];

/// What a reader sees in the three tables.
fn seen(project: &Project) -> Value {
    let sql =
        "select (select n from gold.units) u, (select n from gold.counted) c, (select count(*) from gold.titles) t";
    project.rows(sql)[0].clone()
}

fn all(n: u64) -> Value {
    json!({ "u": n, "c": n, "t": n })
}

fn newest(project: &Project) -> u64 {
    project.json(&["--json", "models", "publications"])[0]["publication"].as_u64().unwrap_or(0)
}

#[test]
fn a_run_that_is_killed_before_its_end_shows_nothing_of_it() {
    let project = shop();
    project.ok(&RUN);
    assert_eq!((seen(&project), newest(&project)), (all(1), 1));

    project.catalogue("two.txt");
    project.killed_at("publication.before_put", &RUN, || {
        assert_eq!(project.value("select n from gold.units version as of 1"), json!(1));
        assert_eq!(
            project.value(&format!("select n from gold.units version as of {}", project.version("gold.units"))),
            json!(2)
        );
        assert_eq!(seen(&project), all(1), "all is built, and nothing of it is shown");
    });
    assert_eq!((seen(&project), newest(&project)), (all(1), 1));
    project.ok(&RUN);
    assert_eq!((seen(&project), newest(&project)), (all(2), 2));

    project.catalogue("three.txt");
    project.killed_at("publication.after_put", &RUN, || assert_eq!(seen(&project), all(3)));
    project.ok(&RUN);
    assert_eq!((seen(&project), newest(&project)), (all(3), 3), "what is shown already is not published again");
    // What Polars reads and what a load takes is the same set.
    assert_eq!(
        project.json(&["query", "select n from gold.units", "--engine", "polars", "--format", "json"]),
        json!([{ "n": 3 }])
    );
}

#[test]
fn one_model_that_fails_keeps_all_as_they_were() {
    let project = shop();
    project.ok(&RUN);
    project.catalogue("two.txt");
    project.write("sql/checks/few_titles.sql", "SELECT item_id FROM {{ ref('titles') }} WHERE item_id > 1\n");

    project.fails(5, &RUN);

    assert_eq!(
        project.value(&format!("select n from gold.units version as of {}", project.version("gold.units"))),
        json!(2)
    );
    assert_eq!(seen(&project), all(1), "units could be built, and waits for titles");
    std::fs::remove_file(project.root().join("sql/checks/few_titles.sql")).unwrap();
    project.ok(&RUN);
    assert_eq!(seen(&project), all(2));
}

#[test]
fn a_rollback_shows_an_earlier_set_and_the_next_run_catches_up() {
    let project = shop();
    for file in ["one.txt", "two.txt", "three.txt"] {
        project.catalogue(file);
        project.ok(&RUN);
    }
    assert_eq!((seen(&project), newest(&project)), (all(3), 3));

    project.killed_at("publication.before_put", &["models", "rollback", "--to", "1"], || {
        assert_eq!(seen(&project), all(3), "restored one by one, shown together");
    });
    assert_eq!(seen(&project), all(3));
    let done = project.json(&["--json", "models", "rollback", "--to", "1"]);
    assert_eq!((&done[0]["publication"], &done[0]["to"]), (&json!(4), &json!(1)), "{done}");
    assert_eq!(seen(&project), all(1));
    assert!(project.fails(4, &["models", "rollback", "--to", "9"]).contains("the newest is 4"));

    project.ok(&RUN);
    assert_eq!(seen(&project), all(3));
    project.ok(&["models", "verify", "titles"]);
    project.ok(&["models", "rollback"]);
    assert_eq!(seen(&project), all(1), "without a number, to the one before");
}

#[test]
fn what_people_build_moves_on_and_a_task_may_stop_publishing_together() {
    let project = shop();
    project.ok(&RUN);
    project.catalogue("two.txt");

    project.ok(&["models", "build", "units"]);

    assert_eq!(seen(&project), json!({ "u": 2, "c": 1, "t": 1 }), "who builds one by hand sees it");
    project.catalogue("three.txt");
    project.ok(&["models", "build", "counted"]);
    assert_eq!(seen(&project), json!({ "u": 2, "c": 2, "t": 1 }));
    project.write("dags/sets.toml", dag(false));
    project.ok(&RUN);
    assert_eq!(seen(&project), all(3));
    project.write("one.txt", format!("{}\nITEM 4\nTitle=Four\n", TEXTS[2]));
    project.catalogue("one.txt");
    project.ok(&["models", "build", "units", "titles"]);
    assert_eq!(seen(&project), json!({ "u": 4, "c": 3, "t": 4 }), "nothing is published together any more");
}

#[test]
fn what_others_read_of_a_set_moves_on_with_it() {
    let project = shop();
    let hours = "SELECT window_start, window_end, count(*) AS n FROM {{ source('bronze', 'ticks') }} \
                 GROUP BY tumble(at, INTERVAL '1 hour')\n";
    project.write("sql/hours.sql", format!("{{{{ config(materialized='incremental', watermark='0') }}}}\n{hours}"));
    project.write("sql/outside.sql", "SELECT n FROM {{ ref('units') }}\n");
    project.write(
        "sql/ticks.sql",
        "{{ config(schema='bronze') }}\nSELECT CAST(1 AS BIGINT) AS n, TIMESTAMP '2026-01-05T06:30:00Z' AS at\n",
    );
    project.edit("dags/sets.toml", |text| text.replace("\"units\",", "\"units\", \"ticks\", \"hours\","));
    project.ok(&RUN);
    project.ok(&["models", "build", "outside"]);
    let outside = || project.value("select n from gold.outside");
    let finals = || project.rows("select count(*) c from gold.hours__final")[0]["c"].clone();
    assert_eq!((outside(), finals()), (json!(1), json!(1)));

    project.catalogue("two.txt");
    project.edit("sql/ticks.sql", |text| format!("{text}UNION ALL SELECT 2, TIMESTAMP '2026-01-05T09:30:00Z'\n"));
    project.killed_at("publication.before_put", &RUN, || {
        project.ok(&["models", "build", "outside"]);
        assert_eq!((outside(), finals()), (json!(1), json!(1)), "what is built is not shown yet");
    });
    project.ok(&RUN);
    project.ok(&["models", "build", "outside"]);

    assert_eq!((outside(), finals()), (json!(2), json!(2)), "it was looked at again, though no log had moved");
}
