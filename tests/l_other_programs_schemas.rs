//! Schemas for everybody: other people's clients and serializers work against the registry that `tidemill up` serves, what
//! they write lands, and our own client finds there what the contract of registries wants.
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tidemill_etl::schema_registry::{ConfluentRegistry, Registry as _};
use tidemill_etl::secret::Secret;
use tidemill_etl::testkit::registry_contract;

use super::e_a_running_mill::Mill;
use super::project::{Project, service, skipped};
use super::{ROOT, texts};

const PASSWORD: &str = "low-tide-27";

/// The sample project with a token, and where its registry will be.
fn served() -> (Project, Mill) {
    let project = Project::new();
    project.catalogue("data/Movies.txt");
    project.edit("tidemill.toml", |text| format!("{text}\n[server]\ntoken = \"{PASSWORD}\"\n"));
    let mill = Mill::start(&project);
    (project, mill)
}

#[test]
fn the_contract_holds_at_a_running_mill_and_is_kept_by_the_next() {
    let (project, mill) = served();
    let open = |mill: &Mill| {
        let url = format!("http://{}/registry", mill.address());
        ConfluentRegistry::open(&url, Some(("anyone".to_owned(), Secret::new(PASSWORD)))).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();

    let before = runtime.block_on(async {
        let registry = open(&mill);
        registry_contract(&registry).await;
        registry.subjects().await.unwrap()
    });
    mill.stop();
    let mill = Mill::start(&project);
    let after = runtime.block_on(async { open(&mill).subjects().await.unwrap() });
    mill.stop();

    assert!(before.contains(&"sign_in_topic-value".to_owned()), "{before:?}");
    assert_eq!(after, before);
    // The command line works on the same store.
    project.ok(&["schemas", "compatibility", "sign_in_topic-value", "full"]);
    let level = project.json(&["--json", "schemas", "compatibility", "sign_in_topic-value"]);
    assert_eq!(level, json!({ "subject": "sign_in_topic-value", "level": "FULL", "own": true }));
    let all = project.json(&["--json", "schemas", "compatibility", "--all"]);
    assert_eq!(all["level"], "BACKWARD");
    let error = project.fails(2, &["schemas", "compatibility", "--all", "sideways"]);
    assert!(error.contains("C0120"), "{error}");
}

#[test]
fn confluents_own_client_and_serializers_work_and_what_they_write_lands() {
    let Some(python) = service("PYTHON") else {
        return skipped(
            "confluents_own_client_and_serializers_work_and_what_they_write_lands",
            "needs TIDEMILL_TEST_PYTHON: `tests/services/up python`",
        );
    };
    let (project, mill) = served();
    let script = Path::new(ROOT).join("tests/python/registry.py");
    let url = format!("http://{}/registry", mill.address());

    let output = Command::new(python).arg(script).args([&url, PASSWORD]).output().unwrap();

    let (records, err) = texts(&output);
    assert!(output.status.success(), "{err}");
    mill.stop();
    project.write("records.txt", &records);
    project.ok(&["topics", "create", "sign_in_topic"]);
    project.ok(&["topics", "produce", "sign_in_topic", "--format", "base64", "--file", "records.txt"]);
    project.ok(&["dags", "run", "consumer_events", "--drain"]);
    let rows = project.rows("select user_id, _schema_id from bronze.sign_in_topic order by _offset");
    let users: Vec<_> = rows.as_array().unwrap().iter().map(|row| &row["user_id"]).collect();
    assert_eq!(users, [&json!("0"), &json!("1"), &json!("2")], "{rows}");
    let id = project.json(&["--json", "schemas", "show", "sign_in_topic-value"])[1]["id"].clone();
    assert!(rows.as_array().unwrap().iter().all(|row| row["_schema_id"] == id), "{rows} {id}");
}
