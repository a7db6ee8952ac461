//! What is particular to each kind; the contract is in `testkit::registry_contract`.
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};

use super::*;
use crate::testkit::registry_contract;

const ONE: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"}]}"#;
const TWO: &str = r#"{"type":"record","name":"S","fields":[{"name":"id","type":"long"}]}"#;

fn open(store: &Arc<dyn ObjectStore>) -> EmbeddedRegistry {
    EmbeddedRegistry::open(Arc::clone(store), Path::from("_tidemill/schemas"))
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

#[tokio::test]
async fn the_contract_holds_in_memory() {
    registry_contract(&open(&memory())).await;
}

#[tokio::test]
async fn the_contract_holds_on_disk_and_all_is_there_when_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let first = open(&store);
    registry_contract(&first).await;
    let subjects = first.subjects().await.unwrap();
    assert!(subjects.len() > 8);

    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let second = open(&store);

    assert_eq!(second.subjects().await.unwrap(), subjects);
    for subject in subjects {
        let versions = second.versions(&subject).await.unwrap();
        assert_eq!(versions, first.versions(&subject).await.unwrap());
        for version in versions {
            assert_eq!(second.by_id(version.id).await.unwrap(), Some(version.schema));
        }
    }
    registry_contract(&second).await;
}

#[tokio::test]
async fn ids_are_given_from_one_and_may_be_asked_for() {
    let registry = open(&memory());

    assert_eq!(registry.register("a-value", ONE, None).await.unwrap().id, 1);
    assert_eq!(registry.register("b-value", TWO, Some(100_002)).await.unwrap().id, 100_002);
    // The same schema under another subject has the same id, unless one is asked for.
    assert_eq!(registry.register("c-value", TWO, None).await.unwrap().id, 100_002);
    assert_eq!(registry.register("d-value", TWO, Some(7)).await.unwrap().id, 7);
    // A foreign id does not push ours up.
    let three = ONE.replace("\"R\"", "\"T\"");
    assert_eq!(registry.register("e-value", &three, None).await.unwrap().id, 2);
    // A subject can have one schema under a second id, for records from elsewhere.
    let again = registry.register("b-value", TWO, Some(8)).await.unwrap();
    assert_eq!((again.version, again.id), (2, 8));

    let error = registry.register("f-value", ONE, Some(100_002)).await.unwrap_err();
    assert_eq!(error.code(), "C0103");
    assert!(error.to_string().contains("100002"));
    assert_eq!(registry.latest("f-value").await.unwrap(), None);
    assert_eq!(registry.register("f-value", ONE, Some(-1)).await.unwrap_err().code(), "C0104");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_give_one_id_to_two_schemas_nor_lose_a_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..12 {
        // Each has a registry of its own, as processes have.
        let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        let registry = open(&store);
        tasks.spawn(async move {
            let own = ONE.replace("\"R\"", &format!("\"R{n}\""));
            let grown = ONE.replace("]}", &format!(r#",{{"name":"f{n}","type":"int","default":0}}]}}"#));
            let own = registry.register(&format!("own-{n}"), &own, None).await.unwrap();
            [own, registry.register("shared", &grown, None).await.unwrap()]
        });
    }
    let done: Vec<Registered> = tasks.join_all().await.into_iter().flatten().collect();

    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let registry = open(&store);
    let mut ids = std::collections::BTreeSet::new();
    for registered in &done {
        assert!(ids.insert(registered.id), "id {} twice", registered.id);
        assert_eq!(registry.by_id(registered.id).await.unwrap().as_ref(), Some(&registered.schema));
    }
    let shared: Vec<i32> = registry.versions("shared").await.unwrap().iter().map(|known| known.version).collect();
    assert_eq!(shared, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_id_left_by_a_crash_is_used_by_its_schema_only() {
    let store = memory();
    let left = serde_json::json!({"format": 1, "id": 1, "schema": ONE}).to_string();
    store.put(&Path::from("_tidemill/schemas/ids/0000000001.json"), PutPayload::from(left)).await.unwrap();
    let registry = open(&store);

    assert_eq!(registry.register("b-value", TWO, None).await.unwrap().id, 2);
    assert_eq!(registry.register("a-value", ONE, None).await.unwrap().id, 1);
}

#[tokio::test]
async fn format_1_is_read() {
    let store = memory();
    for (path, text) in [
        ("ids/0000000003.json", r#"{"format":1,"id":3,"schema":"\"string\""}"#),
        ("subjects/a=2Fb-value/000001.json", r#"{"format":1,"subject":"a/b-value","version":1,"id":3}"#),
    ] {
        store.put(&Path::parse(format!("_tidemill/schemas/{path}")).unwrap(), PutPayload::from(text)).await.unwrap();
    }
    let registry = open(&store);

    assert_eq!(registry.subjects().await.unwrap(), ["a/b-value"]);
    let latest = registry.latest("a/b-value").await.unwrap().unwrap();
    assert_eq!((latest.version, latest.id, latest.schema.as_str()), (1, 3, "\"string\""));
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let store = memory();
    for (id, text) in [(1, "{"), (2, r#"{"format":9,"id":2,"schema":""}"#), (3, r#"{"format":1,"id":4,"schema":""}"#)] {
        let path = Path::from(format!("_tidemill/schemas/ids/{id:010}.json"));
        store.put(&path, PutPayload::from(text)).await.unwrap();

        let error = open(&store).by_id(id).await.unwrap_err();

        assert_eq!(error.code(), "C0107");
        assert!(error.to_string().contains(path.as_ref()), "{error}");
    }
}

#[tokio::test]
async fn a_subject_must_fit_a_folder() {
    let registry = open(&memory());
    for subject in [String::new(), "ä".repeat(100)] {
        assert_eq!(registry.register(&subject, ONE, None).await.unwrap_err().code(), "C0105");
    }
    assert_eq!(registry.register("..", ONE, None).await.unwrap().subject, "..");
    assert_eq!(registry.subjects().await.unwrap(), [".."]);
}

/// What was written, what reads it, and the field that is named if it cannot.
#[test]
fn compatibility_is_by_avros_resolution_and_names_the_field() {
    let record = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
    let inner = |fields: &str| {
        record(&format!(r#"{{"name":"in","type":["null",{}]}}"#, record(fields).replace("\"R\"", "\"I\"")))
    };
    let field = |kind: &str| record(&format!(r#"{{"name":"f","type":{kind}}}"#));
    let two = |one: &str, other: &str| record(&format!(r#"{{"name":"x","type":{one}}},{{"name":"y","type":{other}}}"#));
    let symbols = |list: &str| field(&format!(r#"{{"type":"enum","name":"E","symbols":[{list}]}}"#));
    let decimal =
        |scale: i32| field(&format!(r#"{{"type":"bytes","logicalType":"decimal","precision":10,"scale":{scale}}}"#));
    let fixed = r#"{"type":"fixed","name":"F","size":4}"#;
    let list = |kind: &str| {
        record(&format!(r#"{{"name":"v","type":{kind}}},{{"name":"next","type":["null","R"],"default":null}}"#))
    };
    let reads = [
        (field("\"int\""), field("\"long\"")),
        (field("\"int\""), field("[\"null\",\"double\"]")),
        (field("\"int\""), record("")),
        (record(""), record(r#"{"name":"f","type":["null","int"],"default":null}"#)),
        (field("\"int\""), record(r#"{"name":"g","aliases":["f"],"type":"int"}"#)),
        (symbols("\"A\""), symbols("\"A\",\"B\"")),
        (list("\"int\""), list("\"long\"")),
        // A named type and its repetition are one type.
        (two(fixed, "\"F\""), record(&format!(r#"{{"name":"y","type":{fixed}}}"#))),
        (decimal(2), decimal(2)),
    ];
    for (writer, reader) in reads {
        let (from, to) = (compatible::parse("s", &writer).unwrap(), compatible::parse("s", &reader).unwrap());
        assert_eq!(compatible::problem(&from, &to), None, "{writer} {reader}");
    }
    let refused = [
        (field("\"long\""), field("\"int\""), "f", "it was `long` and is `int` now"),
        (field("[\"null\",\"int\"]"), field("\"int\""), "f", "`null`"),
        (field("\"string\""), field("[\"null\",\"int\"]"), "f", "`string` was written"),
        (record(""), field("[\"null\",\"int\"]"), "f", "has no default"),
        (inner(r#"{"name":"a","type":"int"}"#), inner(r#"{"name":"a","type":"string"}"#), "in.a", "`string` now"),
        (symbols("\"A\",\"B\""), symbols("\"A\""), "f", "missing in the new enum"),
        (symbols("\"A\""), symbols("\"B\""), "f", "none of the old symbols"),
        (list("\"long\""), list("\"int\""), "v", "`int` now"),
        (two(fixed, "\"F\""), two(fixed, "\"string\""), "y", "it was `fixed` and is `string` now"),
        (decimal(2), decimal(3), "f", "it was `decimal(10,2)` and is `decimal(10,3)` now"),
    ];
    for (writer, reader, field, why) in refused {
        let (from, to) = (compatible::parse("s", &writer).unwrap(), compatible::parse("s", &reader).unwrap());
        let problem = compatible::problem(&from, &to).unwrap();
        assert_eq!(problem.field.as_deref(), Some(field), "{writer} {reader}");
        assert!(problem.why.contains(why), "{}", problem.why);
    }
    let other = compatible::parse("s", &record("").replace("\"R\"", "\"S\"")).unwrap();
    let problem = compatible::problem(&compatible::parse("s", &record("")).unwrap(), &other).unwrap();
    assert_eq!(problem.field, None);
    assert!(problem.why.contains("`R`") && problem.why.contains("`S`"));
}

#[test]
fn schemas_are_the_same_if_their_json_is() {
    let base = r#"{"type":"record","name":"R","fields":[{"name":"t","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
    assert!(compatible::same(base, &base.replace(',', " , ")));
    assert!(compatible::same(r#"{"type":"fixed","name":"F","size":1}"#, r#"{"size":1,"name":"F","type":"fixed"}"#));
    assert!(!compatible::same(base, &base.replace("millis", "micros")));
    assert!(!compatible::same(base, &base.replace("\"R\",", "\"R\",\"doc\":\"new\",")));
}
