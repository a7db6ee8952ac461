//! What somebody does in the first week: is everything in place, and can it be put back?
use std::fs;

use serde_json::{Value, json};

use super::project::Project;

fn states(rows: &Value) -> Vec<(&str, &str)> {
    rows.as_array().unwrap().iter().map(|row| (row["what"].as_str().unwrap(), row["state"].as_str().unwrap())).collect()
}

#[test]
fn a_doctor_finds_what_is_wrong_and_leaves_nothing_behind() {
    let project = Project::new();
    let rows = project.json(&["--json", "doctor"]);
    assert!(states(&rows).iter().all(|(_, state)| *state == "ok"), "{rows}");
    assert_eq!(states(&rows).len(), 11);
    let lake = project.root().join("lake");
    assert!(!lake.exists() || fs::read_dir(lake.join("_tidemill")).is_ok_and(|mut files| files.next().is_none()));

    project.write("sql/wrong.sql", "SELECT * FROM {{ ref('nothing') }}\n");
    project.write("dags/broken.toml", "[tasks.a]\nkind = \"shel\"\n");
    project
        .edit("tidemill.toml", |text| text + "\n[warehouse]\nurl = \"postgres://nobody:hunter2@127.0.0.1:1/none\"\n");

    let ran = project.run(&["doctor"]);

    assert_eq!(ran.code, Some(4), "{}", ran.err);
    for text in ["models", "dags", "warehouse"] {
        assert!(ran.out.lines().any(|line| line.starts_with(text) && line.contains("failed")), "{text}: {}", ran.out);
    }
    assert!(
        ran.err.contains("nothing") && ran.err.contains("shel") && ran.err.contains("3 of 11 failed"),
        "{}",
        ran.err
    );
    assert!(!ran.out.contains("hunter2") && !ran.err.contains("hunter2"), "a password is never shown");
}

#[test]
fn a_backup_brings_history_and_topics_back() {
    let project = Project::new();
    project.write("one.txt", "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n");
    project.write("two.txt", "ITEM 2\nTitle=Two\nListPrice=100USD$1.00\n");
    project.catalogue("one.txt");
    let runs = || project.json(&["--json", "runs", "list"]).as_array().unwrap().len();
    assert_eq!((runs(), project.end("movies_catalog_enriched")), (1, 1));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("monday");
    let to = to.to_str().unwrap();

    let copied = project.json(&["--json", "backup", to]);

    let files: Vec<&Value> = copied.as_array().unwrap().iter().map(|row| &row["file"]).collect();
    assert_eq!(files, [&json!("history.db"), &json!("topics.db")]);
    assert!(project.fails(4, &["backup", to]).contains("is not empty"));
    project.catalogue("two.txt");
    assert_eq!((runs(), project.end("movies_catalog_enriched")), (2, 2));

    assert!(project.fails(4, &["restore", to]).contains("--replace"));
    project.ok(&["restore", to, "--replace"]);

    assert_eq!((runs(), project.end("movies_catalog_enriched")), (1, 1));
    let state = project.root().join(".tidemill");
    let aside = fs::read_dir(&state)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("before-restore-"));
    assert_eq!(aside.count(), 1);
    // What is restored goes on as if nothing had been.
    project.catalogue("one.txt");
    assert_eq!(runs(), 2);

    fs::write(folder.path().join("monday/topics.db"), "cut short").unwrap();
    assert!(project.fails(4, &["restore", to, "--replace"]).contains("is not what was backed up"));
    assert_eq!(runs(), 2, "nothing was changed");
    fs::remove_file(folder.path().join("monday/backup.json")).unwrap();
    assert!(project.fails(4, &["restore", to, "--replace"]).contains("no whole backup"));
}
