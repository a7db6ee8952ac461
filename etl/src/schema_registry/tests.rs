//! What is particular to each kind; the contract is in `testkit::registry_contract`.
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};

use super::*;
use crate::secret::Secret;
use crate::testkit::{registry_contract, service};
use crate::{Error, Retry};

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

#[cfg(feature = "s3")]
#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_on_s3_and_for_many_at_once() {
    let Some(url) = service("S3") else { return };
    let of = |name: &str| service(&format!("S3_{name}")).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(
        object_store::aws::AmazonS3Builder::new()
            .with_endpoint(url)
            .with_allow_http(true)
            .with_bucket_name(of("BUCKET"))
            .with_region(of("REGION"))
            .with_access_key_id(of("ACCESS_KEY"))
            .with_secret_access_key(of("SECRET_KEY"))
            .build()
            .unwrap(),
    );
    let prefix = Path::from(format!("registry-{}", uuid::Uuid::new_v4().simple()));
    registry_contract(&EmbeddedRegistry::open(Arc::clone(&store), prefix.clone())).await;

    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let registry = EmbeddedRegistry::open(Arc::clone(&store), prefix.clone());
        let schema = ONE.replace("\"R\"", &format!("\"R{n}\""));
        tasks.spawn(async move { registry.register(&format!("own-{n}"), &schema, None).await.unwrap().id });
    }
    let ids: std::collections::BTreeSet<i32> = tasks.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 8);
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

/// One of each file that was ever written; new formats are added, none is taken out.
#[tokio::test]
async fn every_format_is_read() {
    let store = memory();
    for (path, text) in [
        ("ids/0000000003.json", r#"{"format":1,"id":3,"schema":"\"string\""}"#),
        (
            "ids/0000000004.json",
            r#"{"format":2,"id":4,"schema":"{\"type\":\"array\",\"items\":\"F\"}","references":[{"name":"F","subject":"f","version":1}],"resolved":"{\"type\":\"array\",\"items\":{\"type\":\"fixed\",\"name\":\"F\",\"size\":2}}"}"#,
        ),
        ("subjects/a=2Fb-value/000001.json", r#"{"format":1,"subject":"a/b-value","version":1,"id":3}"#),
        ("subjects/c/000001.json", r#"{"format":1,"subject":"c","version":1,"id":3}"#),
        ("subjects/c/000001.deleted.json", r#"{"format":1}"#),
        ("subjects/c/000002.json", r#"{"format":1,"subject":"c","version":2,"id":4}"#),
        ("subjects/d/000001.json", r#"{"format":1,"subject":"d","version":1,"id":3}"#),
        ("subjects/d/000001.deleted.json", r#"{"format":1}"#),
        ("subjects/d/000001.gone.json", r#"{"format":1}"#),
        ("levels/all.json", r#"{"format":1,"level":"FORWARD"}"#),
        ("levels/subjects/c.json", r#"{"format":1,"level":"NONE"}"#),
    ] {
        store.put(&Path::parse(format!("_tidemill/schemas/{path}")).unwrap(), PutPayload::from(text)).await.unwrap();
    }
    let registry = open(&store);

    assert_eq!(registry.subjects().await.unwrap(), ["a/b-value", "c"]);
    let latest = registry.latest("a/b-value").await.unwrap().unwrap();
    assert_eq!((latest.version, latest.id, latest.schema.as_str()), (1, 3, "\"string\""));
    let entries = registry.entries("c").await.unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.version, entry.id, entry.deleted)).collect();
    assert_eq!(seen, [(1, 3, true), (2, 4, false)]);
    assert_eq!(entries[1].stored.references, draft("", &[("F", "f", 1)]).references);
    assert!(apache_avro::Schema::parse_str(&registry.by_id(4).await.unwrap().unwrap()).is_ok());
    assert_eq!(registry.names(true).await.unwrap(), ["a/b-value", "c"]);
    assert_eq!(registry.level_of("a/b-value").await.unwrap(), Level::Forward);
    assert_eq!(registry.level_of("c").await.unwrap(), Level::None);
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
    assert!(identity::same(base, &base.replace(',', " , ")));
    assert!(identity::same(r#"{"type":"fixed","name":"F","size":1}"#, r#"{"size":1,"name":"F","type":"fixed"}"#));
    assert!(!identity::same(base, &base.replace("millis", "micros")));
    assert!(!identity::same(base, &base.replace("\"R\",", "\"R\",\"doc\":\"new\",")));
    let named = r#"{"type":"record","name":"a.R","fields":[{"name":"r","type":["null","a.R"],"default":null,"order":"ascending"},
        {"name":"i","type":{"type":"int"},"aliases":[]}]}"#;
    let spaced = r#"{"type":"record","name":"R","namespace":"a","fields":[{"name":"r","type":["null","R"],"default":null},
        {"name":"i","type":"int"}]}"#;
    assert!(identity::same(named, spaced));
    assert!(!identity::same(named, &spaced.replace("\"a\"", "\"b\"")));
}

fn draft(schema: &str, references: &[(&str, &str, i32)]) -> Draft {
    let reference = |(name, subject, version): &(&str, &str, i32)| Reference {
        name: (*name).to_owned(),
        subject: (*subject).to_owned(),
        version: *version,
    };
    Draft { schema: schema.to_owned(), references: references.iter().map(reference).collect() }
}

const CITY: &str = r#"{"type":"record","name":"City","namespace":"geo","fields":[{"name":"name","type":"string"},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["TOWN","VILLAGE"]}}]}"#;
const PLACE: &str = r#"{"type":"record","name":"Place","namespace":"geo","fields":[{"name":"city","type":"City"},
    {"name":"also","type":["null","Kind"],"default":null}]}"#;
const TRIP: &str = r#"{"type":"record","name":"Trip","fields":[{"name":"kind","type":"geo.Kind"},
    {"name":"from","type":"geo.Place"},{"name":"to","type":{"type":"array","items":"geo.Place"}},{"name":"over","type":"geo.City"}]}"#;

async fn trip(registry: &EmbeddedRegistry) -> Entry {
    registry.add("city", &draft(CITY, &[]), None).await.unwrap();
    registry.add("place", &draft(PLACE, &[("geo.City", "city", 1)]), None).await.unwrap();
    let references = [("geo.Place", "place", -1), ("geo.City", "city", 1)];
    registry.add("trip", &draft(TRIP, &references), None).await.unwrap()
}

#[tokio::test]
async fn a_schema_with_references_can_be_read_on_its_own() {
    let store = memory();
    let entry = trip(&open(&store)).await;
    assert_eq!(entry.stored.schema, TRIP, "kept as it was written");
    assert_eq!(entry.stored.references[0].version, 1, "`-1` is the newest at that time");

    let text = open(&store).by_id(entry.id).await.unwrap().unwrap();

    let whole = apache_avro::Schema::parse_str(&text).unwrap();
    let by_hand = apache_avro::Schema::parse_str(
        r#"{"type":"record","name":"Trip","fields":[
        {"name":"kind","type":{"type":"enum","name":"geo.Kind","symbols":["TOWN","VILLAGE"]}},
        {"name":"from","type":{"type":"record","name":"geo.Place","fields":[
            {"name":"city","type":{"type":"record","name":"geo.City","fields":[
                {"name":"name","type":"string"},{"name":"kind","type":"geo.Kind"}]}},
            {"name":"also","type":["null","geo.Kind"],"default":null}]}},
        {"name":"to","type":{"type":"array","items":"geo.Place"}},
        {"name":"over","type":"geo.City"}]}"#,
    )
    .unwrap();
    assert_eq!(whole.canonical_form(), by_hand.canonical_form());
    assert_eq!(open(&store).latest("trip").await.unwrap().unwrap().schema, text);
    // The same again is the same, whatever the order of its references.
    let references = [("geo.City", "city", 1), ("geo.Place", "place", 1)];
    let again = open(&store).add("trip", &draft(TRIP, &references), None).await.unwrap();
    assert_eq!((again.version, again.id), (1, entry.id));
    let error = open(&store).add("x", &draft(TRIP, &[("geo.City", "city", 2)]), None).await.unwrap_err();
    assert_eq!(Error::from(error).code(), "C0118");
    let error = open(&store).add("x", &draft(TRIP, &[("geo.City", "city", 1)]), None).await.unwrap_err();
    assert_eq!(Error::from(error).code(), "C0101", "geo.Place is nowhere");
}

#[test]
fn a_type_without_namespace_is_found_from_inside_one() {
    let other = r#"{"type":"fixed","name":"F","size":2}"#;
    let user =
        r#"{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":".F"},{"name":"y","type":".F"}]}"#;

    let whole = reference::resolve(user, &[other]).unwrap();

    apache_avro::Schema::parse_str(&whole).unwrap();
    assert!(whole.contains(r#""type":".F""#) && whole.matches("fixed").count() == 1, "{whole}");
}

#[tokio::test]
async fn what_others_refer_to_is_not_deleted() {
    let registry = open(&memory());
    let entry = trip(&registry).await;

    for subject in ["city", "place"] {
        let error = Error::from(registry.delete(subject, 1, false).await.unwrap_err());
        assert_eq!(error.code(), "C0119");
        assert!(error.why().unwrap().contains(&entry.id.to_string()), "{error:?}");
    }
    let users = registry.users("city", 1).await.unwrap();
    assert_eq!(users.iter().map(|user| user.subject.as_str()).collect::<Vec<_>>(), ["place", "trip"]);
    registry.delete("trip", 1, false).await.unwrap();
    registry.delete("place", 1, true).await.unwrap();
    registry.delete("city", 1, true).await.unwrap();
    let text = registry.by_id(entry.id).await.unwrap().unwrap();
    apache_avro::Schema::parse_str(&text).unwrap();
}

#[tokio::test]
async fn what_is_deleted_is_out_of_sight_and_its_number_and_id_are_not_given_again() {
    let store = memory();
    let registry = open(&store);
    let grown = ONE.replace("]}", r#",{"name":"f","type":"int","default":0}]}"#);
    registry.register("a", ONE, None).await.unwrap();
    registry.register("a", &grown, None).await.unwrap();

    registry.delete("a", 2, false).await.unwrap();
    // Another process sees it at once.
    let other = open(&store);
    assert_eq!(other.latest("a").await.unwrap().unwrap().version, 1);
    assert!(other.entries("a").await.unwrap()[1].deleted);
    assert_eq!(other.by_id(2).await.unwrap().unwrap(), grown);
    // Now only `ONE` counts, and the same schema again is a new version with its old id.
    let again = other.register("a", &grown, None).await.unwrap();
    assert_eq!((again.version, again.id), (3, 2));

    for version in 1..=3 {
        registry.delete("a", version, true).await.unwrap();
    }
    assert_eq!(other.subjects().await.unwrap(), Vec::<String>::new());
    assert_eq!(other.names(true).await.unwrap(), Vec::<String>::new());
    assert_eq!(other.by_id(2).await.unwrap().unwrap(), grown, "records with it may still be there");
    let back = other.register("a", TWO, None).await.unwrap();
    assert_eq!((back.version, back.id), (4, 3));
}

#[tokio::test]
async fn levels_of_a_subject_go_before_the_one_for_all() {
    let store = memory();
    let registry = open(&store);
    assert_eq!(registry.level_of("a").await.unwrap(), Level::Backward);
    registry.set_level(None, Level::Full).await.unwrap();
    registry.set_level(Some("a"), Level::None).await.unwrap();
    let other = open(&store);
    assert_eq!(other.level_of("a").await.unwrap(), Level::None);
    assert_eq!(other.level_of("b").await.unwrap(), Level::Full);
    for subject in ["a", "b"] {
        other.register(subject, ONE, None).await.unwrap();
    }
    let bad = ONE.replace("long", "string");
    other.check("a", &bad).await.unwrap();
    assert_eq!(other.check("b", &bad).await.unwrap_err().code(), "C0102");
    assert_eq!(other.level(Some("b")).await.unwrap(), None);
    assert_eq!(other.clear_level(Some("a")).await.unwrap(), Some(Level::None));
    assert_eq!(other.clear_level(Some("a")).await.unwrap(), None);
    assert_eq!(registry.level_of("a").await.unwrap(), Level::Full);
    assert_eq!(Level::parse("full_Transitive"), Some(Level::FullTransitive));
    assert_eq!(Level::parse("sideways"), None);
}

/// What only grows with the depth or the number of types ends in words, not in a full stack or an hour of work.
#[test]
fn tangled_schemas_are_refused_in_time() {
    let chain: Vec<String> = (0..2000)
        .map(|n| {
            format!(r#"{{"type":"record","name":"R{n}","fields":[{{"name":"next","type":["null","R{}"]}}]}}"#, n + 1)
        })
        .chain([r#"{"type":"record","name":"R2000","fields":[]}"#.to_owned()])
        .rev()
        .collect();
    let deep = compatible::parse("s", &format!("[{}]", chain.join(","))).unwrap();
    assert!(compatible::problem(&deep, &deep).is_some_and(|problem| problem.why.contains("too deep")));
}

#[tokio::test]
async fn the_contract_holds_over_http() {
    let Some(url) = service("REGISTRY") else { return };
    let registry = ConfluentRegistry::open(&url, None).unwrap();
    registry_contract(&registry).await;
    // What one has registered, another sees, with nothing remembered.
    let other = ConfluentRegistry::open(&format!("{url}/"), None).unwrap();
    for subject in registry.subjects().await.unwrap() {
        let versions = registry.versions(&subject).await.unwrap();
        assert_eq!(other.versions(&subject).await.unwrap(), versions);
    }
    registry_contract(&other).await;
}

#[tokio::test]
async fn a_chosen_id_is_had_or_refused_over_http_but_nothing_else_is_written() {
    let Some(url) = service("REGISTRY") else { return };
    let registry = ConfluentRegistry::open(&url, None).unwrap();
    let unique = uuid::Uuid::new_v4().simple();
    let subject = format!("chosen-{unique}-value");
    let schema = ONE.replace("\"R\"", &format!("\"R{unique}\""));

    match registry.register(&subject, &schema, Some(1_000_000_007)).await {
        Ok(registered) => assert_eq!(registered.id, 1_000_000_007),
        Err(error) => {
            assert_eq!(error.code(), "C0115");
            assert_eq!(registry.latest(&subject).await.unwrap(), None);
        }
    }
    // Asking for the id it has already is no wish at all; another schema's is refused.
    let own = registry.register(&subject, &schema, None).await.unwrap();
    assert_eq!(registry.register(&subject, &schema, Some(own.id)).await.unwrap(), own);
    let elsewhere = registry.register(&format!("copy-{subject}"), &schema, Some(own.id)).await.unwrap();
    assert_eq!(elsewhere.id, own.id);
    let error = registry.register(&format!("bad-{subject}"), TWO, Some(own.id)).await.unwrap_err();
    assert_eq!(error.code(), "C0103");
}

/// Answers one connection after the other with the given status and body; returns what was asked.
async fn answering(answers: Vec<(&'static str, String)>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a/path", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).await.unwrap();
                request.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some((head, sent)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if sent.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    break;
                }
            }
            asked.push(String::from_utf8(request).unwrap());
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            // The client hangs up on an answer that is too long.
            let _cut = stream.write_all(body.as_bytes()).await;
        }
        asked
    });
    (url, task)
}

async fn error_of(status: &'static str, body: &str) -> Error {
    let (url, _task) = answering(vec![(status, body.to_owned())]).await;
    ConfluentRegistry::open(&url, None).unwrap().subjects().await.unwrap_err()
}

#[tokio::test]
async fn failures_say_whether_trying_again_helps() {
    let said = r#"{"error_code":50001,"message":"the backend store is down"}"#;
    let down = error_of("500 Oops", said).await;
    assert_eq!((down.code(), down.explain().retry()), ("C0113", Retry::Later));
    assert_eq!(down.why().unwrap(), "the backend store is down");
    let busy = error_of("429 Slow down", "").await;
    assert_eq!((busy.code(), busy.explain().retry()), ("C0113", Retry::Later));
    for status in ["401 No", "403 No"] {
        let denied = error_of(status, "").await;
        assert_eq!((denied.code(), denied.explain().retry()), ("C0112", Retry::AfterPerson));
    }
    for (status, body) in [("200 OK", "<html>"), ("404 Not Found", ""), ("418 Teapot", "no")] {
        let odd = error_of(status, body).await;
        assert_eq!((odd.code(), odd.explain().retry()), ("C0113", Retry::Never), "{body}");
    }
    let long = error_of("200 OK", &format!("[\"{}\"]", "x".repeat(20 << 20))).await;
    assert_eq!(long.code(), "C0113");
    assert!(long.why().unwrap().contains("longer than"), "{long:?}");
}

#[tokio::test]
async fn a_registry_that_is_down_is_tried_later_and_what_is_known_stays_known() {
    let (url, task) = answering(vec![("200 OK", r#"{"schema":"\"string\""}"#.to_owned())]).await;
    let registry = ConfluentRegistry::open(&url, None).unwrap();
    assert_eq!(registry.by_id(5).await.unwrap().unwrap(), "\"string\"");
    task.await.unwrap();

    let error = registry.by_id(6).await.unwrap_err();
    assert_eq!((error.code(), error.explain().retry()), ("C0111", Retry::Later));
    assert!(error.explain().place().unwrap().ends_with("/a/path/schemas/ids/6"));
    assert_eq!(registry.by_id(5).await.unwrap().unwrap(), "\"string\"");
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let registry = ConfluentRegistry::patient(&url, None, std::time::Duration::from_millis(50)).unwrap();
    let error = registry.subjects().await.unwrap_err();
    assert_eq!((error.code(), error.explain().retry()), ("C0111", Retry::Later));
}

#[tokio::test]
async fn the_login_is_sent_but_never_shown() {
    for (user, login) in [("", Some(("ann".to_owned(), Secret::new("pa@ss+1")))), ("ann:pa%40ss+1@", None)] {
        let (url, task) = answering(vec![("200 OK", "[]".to_owned())]).await;
        let url = url.replace("http://", &format!("http://{user}"));
        let registry = ConfluentRegistry::open(&url, login).unwrap();
        registry.subjects().await.unwrap();

        let asked = task.await.unwrap().remove(0);
        assert!(asked.starts_with("GET /a/path/subjects HTTP/1.1"), "{asked}");
        // ann:pa@ss+1
        assert!(asked.to_lowercase().contains("authorization: basic yw5uonbhqhnzkze="), "{asked}");
        let error = registry.subjects().await.unwrap_err();
        let shown = format!("{registry:?} {error:?} {error} {:?} {:?}", error.explain().place(), error.why());
        assert!(!shown.contains("pa@ss") && !shown.contains("pa%40ss") && !shown.contains("ann"), "{shown}");
    }
    for url in ["ftp://ann:secret@host", "no url, secret"] {
        let error = ConfluentRegistry::open(url, None).unwrap_err();
        assert_eq!(error.code(), "C0114");
        assert!(!format!("{error:?}").contains("secret"));
    }
}

#[tokio::test]
async fn an_id_is_imported_where_the_registry_imports() {
    let version = serde_json::json!({"subject": "s/1", "version": 3, "id": 77, "schema": ONE}).to_string();
    let ok = |body: &str| ("200 OK", body.to_owned());
    let (url, task) = answering(vec![
        ("404 Not Found", String::new()),
        ("404 Not Found", String::new()),
        ok(r#"{"mode":"IMPORT"}"#),
        ok(r#"{"id":77}"#),
        ok("[3]"),
        ok(&version),
    ])
    .await;

    let registered = ConfluentRegistry::open(&url, None).unwrap().register("s/1", ONE, Some(77)).await.unwrap();

    assert_eq!((registered.version, registered.id), (3, 77));
    let asked = task.await.unwrap();
    assert!(asked[2].starts_with("GET /a/path/mode/s%2F1 "), "{}", asked[2]);
    assert!(asked[3].starts_with("POST /a/path/subjects/s%2F1/versions "), "{}", asked[3]);
    assert!(asked[3].contains(r#""id":77,"version":1"#), "{}", asked[3]);
}

#[tokio::test]
async fn schemas_of_other_languages_are_never_taken_for_avro() {
    let told = r#"{"subject":"s","version":1,"id":4,"schemaType":"JSON","schema":"{\"type\":\"string\"}"}"#;
    let (url, _task) = answering(vec![("200 OK", told.to_owned()); 2]).await;
    let registry = ConfluentRegistry::open(&url, None).unwrap();

    assert_eq!(registry.latest("s").await.unwrap_err().code(), "C0116");
    let text = registry.by_id(4).await.unwrap().unwrap();
    assert!(apache_avro::Schema::parse_str(&text).is_err(), "{text}");
}
