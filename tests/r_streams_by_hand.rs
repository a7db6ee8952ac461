//! What a person does with a stream: looks where it stands, pauses it, replays what could not be decoded, proves that the
//! table is what the topic says, moves it, and lands a part of it again beside the live table.
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::project::{Project, service, skipped};

const SCHEMA: &str = r#"{ "type": "record", "name": "Click", "fields": [
    { "name": "at", "type": "string" }, { "name": "page", "type": "string" } ] }"#;
/// As another registry has it, where it got an id of its own.
const NEWER: &str = r#"{ "type": "record", "name": "Click", "fields": [
    { "name": "at", "type": "string" }, { "name": "page", "type": "string" },
    { "name": "from", "type": "string", "default": "" } ] }"#;
const LATER: u32 = 4711;

struct Clicks {
    project: Project,
    topic: String,
    known: u32,
}

impl Clicks {
    fn new() -> Self {
        Self::on(Project::new(), "clicks")
    }

    fn on(project: Project, topic: &str) -> Self {
        for dag in std::fs::read_dir(project.root().join("dags")).unwrap() {
            std::fs::remove_file(dag.unwrap().path()).unwrap();
        }
        project.write(
            "dags/clicks.toml",
            format!(
                "description = \"Clicks\"\n\n[tasks.land]\nkind = \"stream\"\nstream = \"clicks\"\ntopics = [\"{topic}\"]\n\
                 event_time = \"at\"\npartitions = 2\nretries = 0\n"
            ),
        );
        project.write(&format!("schemas/{topic}.avsc"), SCHEMA);
        project.ok(&["topics", "create", topic, "--partitions", "2"]);
        let schemas = project.json(&["--json", "schemas", "show", &format!("{topic}-value")]);
        let known = u32::try_from(schemas[0]["id"].as_u64().unwrap()).unwrap();
        Self { project, topic: topic.to_owned(), known }
    }

    /// `number` records; every fifth names the id that is not known yet.
    fn produce(&self, number: u32) {
        let mut lines = String::new();
        for n in 0..number {
            let id = if n % 5 == 2 { LATER } else { self.known };
            let mut texts = vec!["2026-01-05T10:00:00".to_owned(), format!("/{n}")];
            texts.extend((id == LATER).then(|| "mail".to_owned()));
            let mut bytes = vec![0];
            bytes.extend(id.to_be_bytes());
            for text in texts {
                bytes.push(u8::try_from(text.len() * 2).unwrap());
                bytes.extend(text.bytes());
            }
            writeln!(lines, "{}", STANDARD.encode(bytes)).unwrap();
        }
        self.project.write("records.txt", lines);
        self.project.ok(&["topics", "produce", &self.topic, "--format", "base64", "--file", "records.txt"]);
    }

    fn drain(&self) -> Value {
        let report = self.project.json(&["--json", "dags", "run", "clicks", "--drain"]);
        report["tasks"][0]["instance"].clone()
    }

    fn mend(&self) {
        self.project.write("newer.avsc", NEWER);
        let (subject, id) = (format!("{}-value", self.topic), LATER.to_string());
        self.project.ok(&["schemas", "add", &subject, "newer.avsc", "--id", &id]);
    }

    fn rows(&self) -> [u64; 2] {
        let sql =
            format!("select count(*) n, count(distinct _partition * 1000000 + _offset) d from bronze.{}", self.topic);
        let rows = self.project.rows(&sql);
        [rows[0]["n"].as_u64().unwrap(), rows[0]["d"].as_u64().unwrap()]
    }

    fn open(&self) -> u64 {
        self.project.value("select count(*) from bronze.dead_letters where replayed_at is null").as_u64().unwrap()
    }

    fn verify(&self, code: i32) -> Value {
        let ran = self.project.run(&["--json", "verify", "clicks"]);
        assert_eq!(ran.code, Some(code), "{}{}", ran.out, ran.err);
        serde_json::from_str::<Value>(&ran.out).unwrap()[0].clone()
    }
}

#[test]
fn dead_letters_are_counted_shown_and_replayed_once() {
    let clicks = Clicks::new();
    clicks.produce(50);
    clicks.drain();
    assert_eq!(clicks.rows(), [40, 40]);

    let counted = clicks.project.json(&["--json", "dead-letters", "count"]);
    let first = &counted[0];
    assert_eq!(
        (&first["stream"], &first["reason"], &first["open"]),
        (&json!("clicks"), &json!("unknown_schema"), &json!(10))
    );
    let listed =
        clicks.project.json(&["--json", "dead-letters", "list", "--stream", "clicks", "--limit", "3", "--open"]);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(clicks.project.json(&["--json", "dead-letters", "list", "--reason", "none"]), json!([]));
    let id = listed[0]["id"].as_str().unwrap();
    let shown = clicks.project.ok(&["dead-letters", "show", id]);
    assert!(shown.contains("unknown_schema") && shown.contains("000000  00 00 00 12 67"), "{shown}");
    let raw =
        clicks.project.json(&["--json", "dead-letters", "show", id])[0]["raw_base64"].as_str().unwrap().to_owned();
    assert!(raw.starts_with("AAAAEmc"), "{raw}");
    clicks.project.fails(4, &["dead-letters", "replay", "clicks"]);
    clicks.mend();

    let dry = clicks.project.json(&["--json", "dead-letters", "replay", "--dry-run"]);
    assert_eq!((&dry[0]["rows"], clicks.rows()), (&json!(10), [40, 40]));
    let done = clicks.project.json(&["--json", "dead-letters", "replay", "--stream", "clicks"]);

    assert_eq!((&done[0]["letters"], &done[0]["rows"], &done[0]["still_dead"]), (&json!(10), &json!(10), &json!(0)));
    assert_eq!(clicks.rows(), [50, 50]);
    let counted = clicks.project.json(&["--json", "dead-letters", "count"]);
    assert_eq!((&counted[0]["open"], &counted[0]["replayed"]), (&json!(0), &json!(10)));
    assert_eq!(clicks.project.json(&["--json", "dead-letters", "replay"]), json!([]));
    assert_eq!(clicks.verify(0)["different"], 0);
}

#[test]
fn a_replay_that_is_killed_goes_on_at_the_next() {
    for place in ["replay.before_commit", "replay.after_commit", "dead_letter.before_mark", "dead_letter.after_mark"] {
        let clicks = Clicks::new();
        clicks.produce(30);
        clicks.drain();
        clicks.mend();
        // Another replay does the whole work while the first stands still.
        let beside = || {
            if place == "replay.before_commit" {
                clicks.project.ok(&["dead-letters", "replay"]);
            }
        };
        clicks.project.killed_at(place, &["dead-letters", "replay"], beside);

        clicks.project.ok(&["dead-letters", "replay"]);

        assert_eq!(clicks.rows(), [30, 30], "{place}");
        assert_eq!(clicks.open(), 0, "{place}");
        assert_eq!(clicks.verify(0)["different"], 0, "{place}");
    }
}

#[test]
fn a_reset_that_is_killed_is_done_or_not() {
    let reset = ["streams", "reset", "clicks", "--topic", "clicks", "--to", "earliest", "--truncate", "--yes"];
    for (place, rows_then) in [("reset.before_commit", [24, 24]), ("reset.after_commit", [0, 0])] {
        let clicks = Clicks::new();
        clicks.produce(30);
        clicks.drain();

        clicks.project.killed_at(place, &reset, || ());

        assert_eq!(clicks.rows(), rows_then, "{place}");
        clicks.drain();
        assert_eq!((clicks.rows(), clicks.open()), ([24, 24], 6), "{place}");
        clicks.project.ok(&reset);
        assert_eq!(clicks.rows(), [0, 0], "{place}");
        clicks.drain();
        assert_eq!((clicks.rows(), clicks.open()), ([24, 24], 6), "{place}");
        assert_eq!(clicks.verify(0)["different"], 0, "{place}");
    }
}

#[test]
fn a_swap_that_is_killed_is_done_or_not() {
    let swap = ["streams", "backfill", "clicks", "swap", "--topic", "clicks"];
    let at = |clicks: &Clicks| {
        let sql = "select count(*) from bronze.clicks where event_at = timestamp '2026-01-05T06:00:00Z'";
        clicks.project.value(sql).as_u64().unwrap()
    };
    for (place, swapped) in [("swap.before_commit", 0), ("swap.after_commit", 24)] {
        let clicks = Clicks::new();
        clicks.produce(30);
        clicks.drain();
        // The zone of its times was wrong all along.
        clicks.project.edit("tidemill.toml", |text| text + "\n[streams]\ntimestamps_without_zone = \"Asia/Tbilisi\"\n");
        let topic = ["--topic", "clicks"];
        let land = ["streams", "backfill", "clicks", "land", "--from", "earliest", "--to", "latest"];
        clicks.project.ok(&[land.as_slice(), &topic].concat());

        clicks.project.killed_at(place, &swap, || ());

        assert_eq!((clicks.rows(), at(&clicks)), ([24, 24], swapped), "{place}");
        clicks.project.ok(&swap);
        assert_eq!((clicks.rows(), at(&clicks)), ([24, 24], 24), "{place}");
        clicks.produce(5);
        clicks.drain();
        assert_eq!((clicks.rows(), clicks.verify(0)["different"].clone()), ([28, 28], json!(0)), "{place}");
    }
}

#[test]
fn a_replay_that_stood_still_does_not_double_what_another_did() {
    let clicks = Clicks::new();
    clicks.produce(30);
    clicks.drain();
    clicks.mend();
    let (slow, folder) = clicks.project.stopped_at("replay.before_commit", &["--json", "dead-letters", "replay"]);
    clicks.project.ok(&["dead-letters", "replay"]);

    std::fs::write(folder.path().join("go"), "").unwrap();
    let ended = slow.wait_with_output().unwrap();

    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let said: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&said[0]["rows"], &said[0]["there_already"]), (&json!(0), &json!(6)));
    assert_eq!((clicks.rows(), clicks.open()), ([30, 30], 0));
}

#[test]
fn a_paused_stream_lands_nothing_until_it_is_resumed() {
    let clicks = Clicks::new();
    clicks.produce(20);
    clicks.project.ok(&["streams", "pause", "clicks"]);

    let task = clicks.drain();
    assert_eq!((&task["state"], &task["summary"]), (&json!("success"), &json!("paused")), "{task}");
    let listed = clicks.project.json(&["--json", "streams", "list"]);
    let row = &listed[0];
    assert_eq!((&row["stream"], &row["lag"], &row["paused"]), (&json!("clicks"), &json!(20), &json!(true)));
    assert_eq!(row["next"], json!([null, null]));
    clicks.project.ok(&["streams", "resume", "clicks"]);
    clicks.drain();

    assert_eq!(clicks.rows()[0], 16);
    let row = &clicks.project.json(&["--json", "streams", "list"])[0];
    assert_eq!((&row["lag"], &row["paused"], &row["dead"]), (&json!(0), &json!(false), &json!(4)));
    let parts = clicks.project.json(&["--json", "streams", "show", "clicks"]);
    let next: u64 = parts.as_array().unwrap().iter().map(|part| part["next"].as_u64().unwrap()).sum();
    assert_eq!(next, 20);
    let err = clicks.project.fails(2, &["streams", "pause", "click"]);
    assert!(err.contains("clicks"), "{err}");
}

#[test]
fn a_running_landing_ends_when_its_stream_is_paused() {
    let clicks = Clicks::new();
    clicks.produce(10);
    let mut child = clicks
        .project
        .command(&["dags", "run", "clicks"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let landed = || clicks.project.run(&["query", "select count(*) from bronze.clicks"]).code == Some(0);
    while !landed() {
        assert!(begun.elapsed() < Duration::from_mins(1), "nothing lands");
    }

    clicks.project.ok(&["streams", "pause", "clicks"]);

    assert_eq!(child.wait().unwrap().code(), Some(0), "a pause fails no run");
    assert_eq!(clicks.rows()[0], 8);
}

#[test]
fn a_stream_is_moved_only_if_one_says_yes() {
    let clicks = Clicks::new();
    clicks.produce(40);
    clicks.drain();
    let back = ["streams", "reset", "clicks", "--topic", "clicks", "--to", "earliest"];

    let err = clicks.project.fails(2, &back);
    assert!(err.contains("L0308") && err.contains("will be there twice"), "{err}");
    assert_eq!(clicks.drain()["result"]["rows"], 0);
    let mut sure = back.to_vec();
    sure.extend(["--truncate", "--yes"]);
    let done = clicks.project.json(&[&["--json"], sure.as_slice()].concat());

    assert_eq!((&done["removed"], clicks.rows()), (&json!(32), [0, 0]));
    clicks.drain();
    assert_eq!((clicks.rows(), clicks.open()), ([32, 32], 8));
    assert_eq!(clicks.verify(0)["different"], 0);
    let mut twice = back.to_vec();
    twice.push("--yes");
    clicks.project.ok(&twice);
    clicks.drain();
    assert_eq!((clicks.rows(), clicks.open()), ([64, 32], 8));
}

/// Takes the files of the table's newest commit out of it, as a program without manners would.
fn tamper(clicks: &Clicks) -> u64 {
    let log = clicks.project.root().join(format!("lake/bronze/{}/_delta_log", clicks.topic));
    let version = clicks.project.version(&format!("bronze.{}", clicks.topic));
    let newest = std::fs::read_to_string(log.join(format!("{version:020}.json"))).unwrap();
    let lines: Vec<Value> = newest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let added: Vec<&Value> = lines.iter().filter_map(|line| line.get("add")).collect();
    let rows = |add: &&Value| {
        let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
        stats["numRecords"].as_u64().unwrap()
    };
    let removes = added.iter().map(|add| {
        json!({ "remove": { "path": add["path"], "dataChange": true, "deletionTimestamp": 1 } }).to_string()
    });
    std::fs::write(log.join(format!("{:020}.json", version + 1)), removes.collect::<Vec<_>>().join("\n")).unwrap();
    added.iter().map(rows).sum()
}

#[test]
fn rows_that_somebody_took_out_are_found() {
    let clicks = Clicks::new();
    clicks.produce(40);
    clicks.drain();
    clicks.produce(20);
    clicks.drain();
    assert_eq!(clicks.verify(0)["different"], 0);

    let gone = tamper(&clicks);

    let found = clicks.verify(5);
    assert!(gone > 0);
    assert_eq!(found["different"], gone);
    assert_eq!(found["differences"][0]["wrong"], "missing");
    let ran = clicks.project.run(&["verify", "clicks"]);
    assert!(ran.out.contains("0 rows of 1 there"), "{}", ran.out);
}

/// Looks, replays, verifies, moves and lands again on whatever broker the project has.
fn by_hand(clicks: &Clicks) {
    let topic = clicks.topic.as_str();
    clicks.produce(200);
    clicks.drain();
    assert_eq!(clicks.verify(0)["different"], 0);
    clicks.mend();
    clicks.project.ok(&["dead-letters", "replay"]);
    assert_eq!((clicks.rows(), clicks.verify(0)["different"].clone()), ([200, 200], json!(0)));

    // The zone of its times was wrong all along.
    clicks.project.edit("tidemill.toml", |text| text + "\n[streams]\ntimestamps_without_zone = \"Asia/Tbilisi\"\n");
    assert_ne!(clicks.verify(5)["different"], 0);
    let backfill = |step: &str, more: &[&str]| {
        let words = [&["streams", "backfill", "clicks", step, "--topic", topic], more].concat();
        clicks.project.json(&[&["--json"], words.as_slice()].concat())
    };
    let landed = backfill("land", &["--from", "earliest", "--to", "latest"]);
    assert_eq!(landed["landed"]["rows"], 200);
    let changed = |compared: &Value| -> u64 {
        compared.as_array().unwrap().iter().map(|part| part["changed"].as_u64().unwrap()).sum()
    };
    assert_eq!(changed(&backfill("compare", &[])), 200);
    clicks.produce(50);
    clicks.drain();
    let swapped = backfill("swap", &[]);
    assert_eq!((&swapped["removed"], &swapped["added"]), (&json!(200), &json!(200)));
    assert_eq!(changed(&backfill("compare", &[])), 0);
    clicks.project.ok(&["streams", "backfill", "clicks", "drop", "--topic", topic]);

    assert_eq!((clicks.rows(), clicks.verify(0)["different"].clone()), ([250, 250], json!(0)));
    clicks.project.ok(&["streams", "reset", "clicks", "--topic", topic, "--to", "latest", "--yes"]);
    assert_eq!(clicks.drain()["result"]["rows"], 0);
    assert_eq!(clicks.verify(0)["different"], 0);
}

#[test]
fn a_stream_is_mended_by_hand() {
    by_hand(&Clicks::new());
}

#[test]
fn a_stream_from_kafka_is_mended_by_hand() {
    let Some(kafka) = service("KAFKA") else {
        return skipped("a_stream_from_kafka_is_mended_by_hand", "needs TIDEMILL_TEST_KAFKA");
    };
    let topic = format!("clicks_t{}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let project = Project::new();
    project.edit("tidemill.toml", |text| text + &format!("\n[topics]\nbroker = \"kafka://{kafka}\"\n"));
    by_hand(&Clicks::on(project, &topic));
}
