//! The same project on Apache Kafka and an S3 server, by settings alone: the same numbers come out. Where a
//! service cannot be reached or refuses us, one clear error says so, and no secret is in it.
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use super::project::{Project, service, skipped};

/// Topics, and what the generator calls their events; the catalogue's events are published, not generated.
const TOPICS: [(&str, &str); 7] = [
    ("consumer_registration_topic", "consumer_registration"),
    ("sign_in_topic", "sign_in"),
    ("sign_out_topic", "sign_out"),
    ("item_view_topic", "item_view"),
    ("added_to_cart_topic", "added_to_cart"),
    ("checkout_to_cart_topic", "checkout_to_cart"),
    ("movies_catalog_enriched", ""),
];

/// Calls every topic `…_MARK` in the project's DAGs, models, checks and schemas: a Kafka outlives its tests.
fn rename_topics(project: &Project, mark: &str) {
    for folder in ["dags", "sql/consumer_segmentation", "sql/checks"] {
        for file in fs::read_dir(project.root().join(folder)).unwrap() {
            let file = Path::new(folder).join(file.unwrap().file_name());
            project.edit(file.to_str().unwrap(), |text| {
                TOPICS.iter().fold(text, |text, (topic, _)| {
                    text.replace(&format!("\"{topic}\""), &format!("\"{topic}_{mark}\""))
                        .replace(&format!("'bronze', '{topic}'"), &format!("'bronze', '{topic}_{mark}'"))
                })
            });
        }
    }
    let mut generated = "\n[tasks.generate.topics]\n".to_owned();
    for (topic, kind) in TOPICS {
        let schemas = project.root().join("schemas");
        fs::rename(schemas.join(format!("{topic}.avsc")), schemas.join(format!("{topic}_{mark}.avsc"))).unwrap();
        if !kind.is_empty() {
            writeln!(generated, "{kind} = \"{topic}_{mark}\"").unwrap();
        }
    }
    project.edit("dags/user_events.toml", |text| text + &generated);
}

/// Runs the main job; gives the numbers that must be the same everywhere.
fn numbers(project: &Project) -> (Vec<(String, u64)>, Value, u64) {
    project.catalogue("data/Movies.txt");
    project.ok(&["dags", "run", "user_events", "--param", "events=4000"]);
    let report = project.json(&["--json", "dags", "run", "consumer_events", "--drain"]);
    let tasks = report["tasks"].as_array().unwrap();
    let load = tasks.iter().find(|task| task["instance"]["task"] == "load").unwrap();
    let loaded = load["instance"]["result"]["rows"].as_u64().unwrap();
    let gold = project.tables().into_iter().filter(|(name, _)| name.starts_with("gold.")).collect();
    let sales = project.rows(
        "select movie_id, units, cast(total_sales as varchar) total, cast(aggregated_at as varchar) at \
         from gold.movie_sales order by movie_id",
    );
    (gold, sales, loaded)
}

#[test]
fn the_same_numbers_come_out() {
    let needed = ["KAFKA", "S3", "S3_BUCKET", "S3_REGION", "S3_ACCESS_KEY", "S3_SECRET_KEY"];
    let found: Vec<String> = needed.iter().filter_map(|name| service(name)).collect();
    let [kafka, s3, bucket, region, access, secret] = found.as_slice() else {
        return skipped("the_same_numbers_come_out", "needs real services: see tests/services/README.md");
    };
    let mark = format!("t{}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let embedded = numbers(&Project::new());
    let project = Project::new();
    rename_topics(&project, &mark);
    let registry = service("REGISTRY").map(|url| format!("\n[schemas]\nregistry = \"{url}\"\n")).unwrap_or_default();
    project.edit("tidemill.toml", |text| {
        text + &format!(
            "\n[topics]\nbroker = \"kafka://{kafka}\"\n{registry}\n[lake]\nurl = \"s3://{bucket}/{mark}\"\n\n\
             [lake.s3]\nendpoint = \"{s3}\"\nregion = \"{region}\"\naccess_key_id = \"{access}\"\n\
             secret_access_key = \"{secret}\"\nallow_http = true\n"
        )
    });

    let real = numbers(&project);

    assert_eq!(real, embedded);
    assert!(!project.root().join("lake").exists());
    // The same again: nothing lands, nothing is published, nothing is loaded.
    let [_, published] = project.catalogue("data/Movies.txt");
    assert_eq!(published["records"], 0);
    project.ok(&["dags", "run", "user_events", "--param", "events=4000"]);
    project.ok(&["dags", "run", "consumer_events", "--drain"]);
    assert_eq!(project.tables().into_iter().filter(|(name, _)| name.starts_with("gold.")).collect::<Vec<_>>(), real.0);
    for (topic, _) in TOPICS {
        let topic = format!("{topic}_{mark}");
        let rows = project.rows(&format!("select count(*) n, count(distinct _offset) d from bronze.{topic}"));
        assert_eq!(rows[0]["n"], rows[0]["d"], "{topic}: {rows}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_one_clear_error() {
    let project = Project::new();
    // Port 9 of loopback refuses at once.
    let err = project.fails(4, &["--set", "topics.broker=kafka://127.0.0.1:9", "topics", "list"]);

    assert!(err.starts_with("error[B") && err.contains("127.0.0.1:9"), "{err}");
}

#[test]
fn a_warehouse_that_refuses_us_is_told_without_the_secret() {
    let Some(postgres) = service("POSTGRES") else {
        return skipped("a_warehouse_that_refuses_us_is_told_without_the_secret", "needs TIDEMILL_TEST_POSTGRES");
    };
    let project = Project::new();
    project.edit("dags/consumer_events.toml", |text| text.replace("retries = 3", "retries = 0"));
    project.catalogue("data/Movies.txt");
    let (_, place) = postgres.split_once('@').unwrap();
    let url = format!("warehouse.url=postgres://nobody_we_know@{place}");

    let ran = project.run(&[
        "--set",
        &url,
        "--set",
        "warehouse.password=hunter2",
        "dags",
        "run",
        "consumer_events",
        "--drain",
    ]);

    assert_eq!(ran.code, Some(4), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("error[K") && ran.err.contains("nobody_we_know"), "{}", ran.err);
    assert!(!ran.err.contains("hunter2") && !ran.out.contains("hunter2"), "{}", ran.err);
    let logs = project.ok(&["logs", "consumer_events"]);
    assert!(!logs.contains("hunter2"), "{logs}");
}
