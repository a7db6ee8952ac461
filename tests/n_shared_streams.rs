//! Two processes share the partitions of a topic on Apache Kafka: the group says who reads which, and when one of them
//! is killed the other takes its partitions over. Every record is in the table once.
use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::project::{Project, service, skipped};

const PARTITIONS: usize = 4;
/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_mins(2);

fn project(kafka: &str, topic: &str, lake: Option<&Project>) -> Project {
    let project = Project::new();
    let lake = lake.map_or_else(|| "lake".to_owned(), |other| other.root().join("lake").display().to_string());
    project.write(
        "tidemill.toml",
        format!("[topics]\nbroker = \"kafka://{kafka}\"\n[streams]\nlinger_ms = 50\n[lake]\nurl = \"{lake}\"\n"),
    );
    project.write(
        "dags/shared.toml",
        format!(
            "[tasks.land]\nkind = \"stream\"\nstream = \"shared\"\ntopics = [\"{topic}\"]\nformat = \"json\"\n\
             shared = true\nrun_for = \"1h\"\nretries = 5\nretry_delay = \"1s\"\n"
        ),
    );
    project
}

fn member(project: &Project) -> Child {
    let mut command = project.command(&["dags", "run", "shared"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Writes records numbered from `from` to before `to`.
fn produce(project: &Project, topic: &str, from: usize, to: usize) {
    use base64::Engine as _;
    use std::fmt::Write as _;

    let mut lines = String::new();
    for n in from..to {
        let record = json!({ "n": n }).to_string();
        writeln!(lines, "{}", base64::engine::general_purpose::STANDARD.encode(record)).unwrap();
    }
    project.write("records.txt", lines);
    project.ok(&["topics", "produce", topic, "--file", "records.txt", "--format", "base64"]);
}

/// The partitions that each holder took over, in the order of the commits.
fn taken_over(project: &Project, topic: &str) -> Vec<BTreeSet<String>> {
    let log = project.root().join("lake/bronze").join(topic).join("_delta_log");
    let Ok(entries) = std::fs::read_dir(log) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let raised = |file: &std::path::PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        let apps = text.lines().filter_map(|line| {
            let action: Value = serde_json::from_str(line).unwrap();
            action["txn"]["appId"].as_str().map(str::to_owned)
        });
        apps.filter(|app| app.ends_with("/epoch")).collect::<BTreeSet<_>>()
    };
    files.iter().map(raised).filter(|apps| !apps.is_empty()).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_member_that_is_killed_loses_its_partitions_and_nothing_else() {
    let Some(kafka) = service("KAFKA") else {
        return skipped("shared streams", "TIDEMILL_TEST_KAFKA names no broker");
    };
    let topic = format!("shared_{}", std::process::id());
    let one = project(&kafka, &topic, None);
    let two = project(&kafka, &topic, Some(&one));
    one.ok(&["topics", "create", &topic, "--partitions", &PARTITIONS.to_string()]);
    let table = format!("bronze.{topic}");
    let all: BTreeSet<String> = (0..PARTITIONS).map(|p| format!("shared/{topic}/{p}/epoch")).collect();
    let mut made = 0;
    let mut more = |count: usize| {
        produce(&one, &topic, made, made + count);
        made += count;
        made
    };

    let mut first = member(&one);
    let mut second = member(&two);
    // Whoever holds partitions raises their fence with the first records: they are shared out when two have raised one
    // each, of different partitions, and together all.
    until("both members have a part", || {
        more(40);
        let taken = taken_over(&one, &topic);
        taken.iter().any(|apps| {
            apps.len() < PARTITIONS && taken.iter().any(|other| (apps | other) == all && other.is_disjoint(apps))
        })
    });
    first.kill().unwrap();
    first.wait().unwrap();
    until("the one that is left has all partitions", || {
        more(40);
        taken_over(&one, &topic).last() == Some(&all)
    });
    let expected = more(500);
    until("the other has everything", || {
        one.run(&["query", &format!("select count(*) n from {table}"), "--format", "json"])
            .out
            .contains(&format!(":{expected}"))
    });

    let rows = one.rows(&format!(
        "select count(*) rows, count(distinct n) numbers, count(distinct _partition * 1000000 + _offset) places, \
         min(n) lo, max(n) hi from {table}"
    ));
    assert_eq!(
        rows,
        json!([{ "rows": expected, "numbers": expected, "places": expected, "lo": 0, "hi": expected - 1 }])
    );
    second.kill().unwrap();
    second.wait().unwrap();
}
