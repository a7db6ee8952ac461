//! Topics that other programs fill: schema ids that another registry gave, records that are no records, ids nobody
//! knows. What can be decoded lands; what cannot is kept whole, with its place and the reason; neighbours lose nothing.
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::project::Project;

const SIGN_IN: &str = r#"{ "type": "record", "name": "SignInEvent", "fields": [
    { "name": "timestamp", "type": "string" }, { "name": "event_name", "type": "string" },
    { "name": "user_id", "type": "string" } ] }"#;
const ITEM_VIEW: &str = r#"{ "type": "record", "name": "ItemViewEvent", "fields": [
    { "name": "timestamp", "type": "string" }, { "name": "event_name", "type": "string" },
    { "name": "user_id", "type": "string" }, { "name": "item_id", "type": "string" } ] }"#;

/// Confluent framing: a zero byte, the schema id, and Avro strings behind their lengths as zigzag.
fn record(id: u32, texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    for text in texts {
        assert!(text.len() < 64, "one byte of length");
        bytes.push(u8::try_from(text.len() * 2).unwrap());
        bytes.extend(text.bytes());
    }
    bytes
}

fn produce(project: &Project, topic: &str, records: &[Vec<u8>]) {
    let mut lines = String::new();
    for record in records {
        writeln!(lines, "{}", STANDARD.encode(record)).unwrap();
    }
    project.write("records.txt", lines);
    project.ok(&["topics", "create", topic]);
    project.ok(&["topics", "produce", topic, "--format", "base64", "--file", "records.txt"]);
}

#[test]
fn a_record_of_another_registry_is_read_to_its_last_byte() {
    let project = Project::new();
    project.catalogue("data/Movies.txt");
    project.write("view.avsc", ITEM_VIEW);
    project.ok(&["schemas", "add", "item_view_topic-value", "view.avsc", "--id", "100005"]);
    // As it was found in a real topic.
    let mut found = vec![0x00, 0x00, 0x01, 0x86, 0xa5, 0x34];
    found.extend(b"2025-02-17T14:49:15.179171\x12item_view\x0c836325\x1adefault-movie");
    assert_eq!(found, record(100_005, &["2025-02-17T14:49:15.179171", "item_view", "836325", "default-movie"]));
    produce(&project, "item_view_topic", &[found]);

    project.ok(&["dags", "run", "consumer_events", "--drain"]);

    let rows = project.rows(
        "select \"timestamp\", event_name, user_id, item_id, cast(event_at as varchar) at, _schema_id id, _offset o \
         from bronze.item_view_topic",
    );
    let known = json!([{ "timestamp": "2025-02-17T14:49:15.179171", "event_name": "item_view", "user_id": "836325",
        "item_id": "default-movie", "at": "2025-02-17T14:49:15.179171Z", "id": 100_005, "o": 0 }]);
    assert_eq!(rows, known);
    // An item that no catalogue has is the unknown one, and loses no view.
    assert_eq!(project.count("gold.fact_view"), 1);
}

#[test]
fn what_cannot_be_decoded_is_kept_and_its_neighbours_land() {
    let project = Project::new();
    project.catalogue("data/Movies.txt");
    project.write("sign_in.avsc", SIGN_IN);
    project.ok(&["schemas", "add", "sign_in_topic-value", "sign_in.avsc", "--id", "100003"]);
    let good = |user: &str| record(100_003, &["2025-02-17T14:52:13.596139", "sign_in", user]);
    let mut cut = good("1");
    cut.truncate(20);
    let mut long = good("1");
    long.extend(b"more");
    let records = vec![
        good("1"),
        cut,
        good("2"),
        record(77_777, &["2025-02-17T14:52:13.596139", "sign_in", "3"]),
        b"plain text".to_vec(),
        long,
        vec![0, 0],
        good("4"),
    ];
    produce(&project, "sign_in_topic", &records);

    project.ok(&["dags", "run", "consumer_events", "--drain"]);

    let landed = project.rows("select _offset o, user_id u, _schema_id id from bronze.sign_in_topic order by _offset");
    let row = |offset: u32, user: &str| json!({ "o": offset, "u": user, "id": 100_003 });
    assert_eq!(landed, Value::Array(vec![row(0, "1"), row(2, "2"), row(7, "4")]));
    let dead = project.rows(
        "select offset_or_line o, topic_or_file t, partition p, schema_id id, reason, raw from bronze.dead_letters order by 1",
    );
    let dead = dead.as_array().unwrap();
    let offsets: Vec<_> = dead.iter().map(|letter| letter["o"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [1, 3, 4, 5, 6], "{dead:?}");
    for letter in dead {
        let offset = usize::try_from(letter["o"].as_u64().unwrap()).unwrap();
        assert_eq!((&letter["t"], &letter["p"]), (&json!("sign_in_topic"), &json!(0)));
        assert_eq!(letter["raw"], json!(STANDARD.encode(&records[offset])), "the bytes as they came");
        assert!(letter["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{letter}");
    }
    assert_eq!((&dead[0]["id"], &dead[1]["id"]), (&json!(100_003), &json!(77_777)));

    project.ok(&["dags", "run", "consumer_events", "--drain"]);

    assert_eq!((project.count("bronze.sign_in_topic"), project.count("bronze.dead_letters")), (3, 5));
}
