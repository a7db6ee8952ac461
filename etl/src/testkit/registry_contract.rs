//! What every schema registry must do, run for the embedded one and for one with Confluent's HTTP API.
use std::time::Duration;

use crate::schema_registry::{Level, Registry};

/// No case should need this long; a registry that hangs must fail the test.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs every case of the contract. Subjects and types get fresh names, so that a registry can be used twice.
pub async fn registry_contract(registry: &dyn Registry) {
    let cases = async {
        what_is_unknown_is_none(registry).await;
        a_schema_comes_back_by_subject_and_by_id(registry).await;
        the_same_schema_is_registered_once(registry).await;
        versions_are_counted_from_one_and_kept_in_order(registry).await;
        defaults_are_part_of_a_schema(registry).await;
        a_schema_that_cannot_read_the_newest_is_refused(registry).await;
        text_that_is_not_avro_is_refused(registry).await;
        subjects_may_have_any_name(registry).await;
        a_level_is_kept_for_its_subject(registry).await;
        levels_say_what_may_follow(registry).await;
    };
    tokio::time::timeout(PATIENCE, cases).await.expect("the registry hangs");
}

fn fresh() -> String {
    format!("t{}", uuid::Uuid::new_v4().simple())
}

/// A record type of its own, so that no earlier run has given it an id.
fn record(name: &str, fields: &str) -> String {
    format!(r#"{{"type":"record","name":"{name}","namespace":"contract","fields":[{fields}]}}"#)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

const ID: &str = r#"{"name":"id","type":"long"}"#;
const NOTE: &str = r#"{"name":"note","type":["null","string"],"default":null}"#;

async fn what_is_unknown_is_none(registry: &dyn Registry) {
    let subject = format!("{}-value", fresh());
    assert_eq!(registry.latest(&subject).await.unwrap(), None);
    assert_eq!(registry.versions(&subject).await.unwrap(), vec![]);
    assert_eq!(registry.by_id(1_999_999_999).await.unwrap(), None);
    registry.check(&subject, &record("Any", ID)).await.unwrap();
    assert!(!registry.subjects().await.unwrap().contains(&subject));
}

async fn a_schema_comes_back_by_subject_and_by_id(registry: &dyn Registry) {
    let name = fresh();
    let subject = format!("{name}-value");
    let schema = record(&name, ID);

    let registered = registry.register(&subject, &schema, None).await.unwrap();

    assert_eq!((registered.subject.as_str(), registered.version), (subject.as_str(), 1));
    assert!(registered.id > 0);
    assert_eq!(json(&registered.schema), json(&schema));
    assert_eq!(registry.latest(&subject).await.unwrap().unwrap(), registered);
    assert_eq!(registry.versions(&subject).await.unwrap(), vec![registered.clone()]);
    assert_eq!(json(&registry.by_id(registered.id).await.unwrap().unwrap()), json(&schema));
    assert!(registry.subjects().await.unwrap().contains(&subject));
}

async fn the_same_schema_is_registered_once(registry: &dyn Registry) {
    let name = fresh();
    let (one, two) = (format!("{name}-value"), format!("{name}-copy-value"));
    let schema = record(&name, ID);
    let spaced = schema.replace(',', " ,\n ");

    let first = registry.register(&one, &schema, None).await.unwrap();
    let again = registry.register(&one, &spaced, None).await.unwrap();
    let elsewhere = registry.register(&two, &schema, None).await.unwrap();

    assert_eq!((again.version, again.id), (1, first.id));
    assert_eq!((elsewhere.version, elsewhere.id), (1, first.id));
    assert_eq!(registry.versions(&one).await.unwrap().len(), 1);
}

async fn versions_are_counted_from_one_and_kept_in_order(registry: &dyn Registry) {
    let name = fresh();
    let subject = format!("{name}-value");
    let old = record(&name, ID);
    let new = record(&name, &format!("{ID},{NOTE}"));

    let first = registry.register(&subject, &old, None).await.unwrap();
    registry.check(&subject, &new).await.unwrap();
    let second = registry.register(&subject, &new, None).await.unwrap();
    let back = registry.register(&subject, &old, None).await.unwrap();

    assert_eq!((first.version, second.version), (1, 2));
    assert_ne!(first.id, second.id);
    assert_eq!((back.version, back.id), (1, first.id));
    assert_eq!(registry.versions(&subject).await.unwrap(), vec![first, second.clone()]);
    assert_eq!(registry.latest(&subject).await.unwrap().unwrap(), second);
}

async fn defaults_are_part_of_a_schema(registry: &dyn Registry) {
    let name = fresh();
    let subject = format!("{name}-value");
    let with = |default: i32| record(&name, &format!(r#"{ID},{{"name":"n","type":"int","default":{default}}}"#));

    let first = registry.register(&subject, &with(1), None).await.unwrap();
    let second = registry.register(&subject, &with(2), None).await.unwrap();

    assert_eq!(second.version, 2);
    assert_ne!(first.id, second.id);
}

async fn a_schema_that_cannot_read_the_newest_is_refused(registry: &dyn Registry) {
    let name = fresh();
    let subject = format!("{name}-value");
    let first = registry.register(&subject, &record(&name, ID), None).await.unwrap();
    let bad = record(&name, &format!(r#"{ID},{{"name":"must_be_named","type":"string"}}"#));

    let checked = registry.check(&subject, &bad).await.unwrap_err();
    let registered = registry.register(&subject, &bad, None).await.unwrap_err();

    for error in [checked, registered] {
        assert_eq!(error.code(), "C0102", "{error:?}");
        let text = format!("{error:?} {}", error.explain().place().unwrap_or_default());
        assert!(text.contains("must_be_named"), "{text}");
    }
    assert_eq!(registry.latest(&subject).await.unwrap().unwrap(), first);
}

async fn text_that_is_not_avro_is_refused(registry: &dyn Registry) {
    let subject = format!("{}-value", fresh());
    for text in ["", "{", r#"{"type":"record"}"#, r#""no_such_type""#] {
        let error = registry.register(&subject, text, None).await.unwrap_err();
        assert_eq!(error.code(), "C0101", "{text}: {error:?}");
        assert_eq!(registry.check(&subject, text).await.unwrap_err().code(), "C0101", "{text}");
    }
    assert_eq!(registry.latest(&subject).await.unwrap(), None);
}

async fn subjects_may_have_any_name(registry: &dyn Registry) {
    let name = fresh();
    let schema = record(&name, ID);
    for odd in ["a b", "a/b", "ä", "a%2Fb", "a?b=c#d", "a+b"] {
        let subject = format!("{name}.{odd}-value");
        let registered = registry.register(&subject, &schema, None).await.unwrap();
        assert_eq!(registered.subject, subject);
        assert_eq!(registry.latest(&subject).await.unwrap().unwrap(), registered);
        assert!(registry.subjects().await.unwrap().contains(&subject), "{subject}");
    }
}

async fn a_level_is_kept_for_its_subject(registry: &dyn Registry) {
    let subject = format!("{}-value", fresh());
    registry.register(&subject, &record(&fresh(), ID), None).await.unwrap();
    assert_eq!(registry.level(None).await.unwrap(), Some(Level::Backward), "what the suite wants of the registry");
    // What is said of a subject with no level of its own differs: nothing, or NONE (Apicurio).

    for level in Level::ALL {
        registry.set_level(Some(&subject), level).await.unwrap();
        assert_eq!(registry.level(Some(&subject)).await.unwrap(), Some(level));
    }

    assert_eq!(registry.level(None).await.unwrap(), Some(Level::Backward));
}

/// For each level: which of four changes to a subject of three versions it lets through. NONE is no part of the contract:
/// Apicurio takes it for "no level of its own" and goes by the one for all.
async fn levels_say_what_may_follow(registry: &dyn Registry) {
    const WAS: &str = r#"{"name":"was","type":"string","default":""}"#;
    const NEW: &str = r#"{"name":"new","type":"string"}"#;
    const INT: &str = r#"{"name":"n","type":"int"}"#;
    const LONG: &str = r#"{"name":"n","type":"long"}"#;
    // The first has `n` as a long, without default; the second has none; the third has `was`, with one.
    let history = [format!("{ID},{LONG}"), ID.to_owned(), format!("{ID},{WAS}")];
    let changes = [
        // Adds a field without default: older readers skip it, but this reader misses it.
        ("adds", format!("{ID},{WAS},{NEW}")),
        // Drops a field without default, which no older reader can do without.
        ("drops", WAS.to_owned()),
        // Adds and drops what has defaults: fits both ways, but for the first version, whose readers want `n`.
        ("swaps", format!("{ID},{NOTE}")),
        // Fits the newest both ways; the first wrote a long.
        ("narrows", format!("{ID},{WAS},{}", INT.replace("\"int\"", r#""int","default":0"#))),
    ];
    let expected = [
        (Level::Backward, vec!["drops", "swaps", "narrows"]),
        (Level::BackwardTransitive, vec!["drops", "swaps"]),
        (Level::Forward, vec!["adds", "swaps", "narrows"]),
        (Level::ForwardTransitive, vec!["narrows"]),
        (Level::Full, vec!["swaps", "narrows"]),
        (Level::FullTransitive, vec![]),
    ];
    let name = fresh();
    let subject = format!("{name}-value");
    for fields in history {
        registry.register(&subject, &record(&name, &fields), None).await.unwrap();
        // Not before the first version: some registries keep no level for a subject that is not there yet.
        registry.set_level(Some(&subject), Level::None).await.unwrap();
    }
    for (level, fit) in expected {
        registry.set_level(Some(&subject), level).await.unwrap();
        let mut found = Vec::new();
        for (change, fields) in &changes {
            match registry.check(&subject, &record(&name, fields)).await {
                Ok(()) => found.push(*change),
                Err(error) => assert!(["C0102", "C0117"].contains(&error.code()), "{level} {change}: {error:?}"),
            }
        }
        assert_eq!(found, fit, "{level}");
    }
    assert_eq!(registry.versions(&subject).await.unwrap().len(), 3, "checking registers nothing");

    registry.set_level(Some(&subject), Level::Forward).await.unwrap();
    let error = registry.register(&subject, &record(&name, &changes[1].1), None).await.unwrap_err();
    assert!(["C0102", "C0117"].contains(&error.code()), "{error:?}");
    registry.register(&subject, &record(&name, &changes[0].1), None).await.unwrap();
}
