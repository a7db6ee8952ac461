//! Files as a stream: a folder's files become rows of one table, each file once, whatever they are packed in and
//! however often the process dies. Bad rows are dead letters, bad files are reported, and an arriving file starts its
//! own run.
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::project::{Project, service, skipped};

const DAG: &str = r#"
description = "Orders as their shops send them"

[[triggers]]
kind = "file"
path = "data/inbox/orders/**/*.csv*"
param = "file"
settle = "100ms"

[params.file]
type = "string"
default = "data/inbox/orders"

[tasks.land]
kind = "files"
stream = "orders"
path = "{{ params.file }}"
root = "data/inbox/orders"
table = "bronze.orders"
event_time = "at"
columns = { amount = "decimal(10,2)" }
"#;

/// A project with one DAG, and what else its task says.
fn orders(more: &str) -> Project {
    let project = Project::new();
    project.write("dags/orders.toml", format!("{DAG}{more}"));
    project
}

/// What landing says it did.
fn landed(project: &Project) -> Value {
    let report = project.json(&["--json", "dags", "run", "orders"]);
    report["tasks"][0]["instance"]["result"].clone()
}

fn gzip(project: &Project, file: &str) {
    let status = Command::new("gzip").arg(project.root().join(file)).status().unwrap();
    assert!(status.success());
}

#[test]
fn each_file_is_landed_once_and_bad_rows_are_kept() {
    let project = orders("");
    project.write("data/inbox/orders/a.csv", "id,amount,at\n1,9.50,2026-01-05 10:00:00\n2,oops,2026-01-05 10:00:01\n");
    project.write("data/inbox/orders/north/b.csv", "id,amount,at,shop\n3,1,2026-01-05T10:00:02Z,x\n4,2\n");
    gzip(&project, "data/inbox/orders/north/b.csv");
    project.write(
        "data/inbox/orders/c.jsonl",
        "{\"id\":5,\"amount\":3.25,\"at\":\"2026-01-05T10:00:03+01:00\"}\n{\"id\":6}\n",
    );

    let first = landed(&project);
    let second = landed(&project);

    assert_eq!(first, json!({"files": 3, "files_known": 0, "rows": 3, "dead_letters": 3, "commits": 1}));
    assert_eq!(second, json!({"files": 0, "files_known": 3, "rows": 0, "dead_letters": 0, "commits": 0}));
    let rows = project.rows(
        "select id, cast(amount as varchar) amount, shop, cast(event_at as varchar) at, _file, _line \
         from bronze.orders order by id",
    );
    let wanted = json!([
        {"id": 1, "amount": "9.50", "shop": null, "at": "2026-01-05T10:00:00Z", "_file": "a.csv", "_line": 2},
        {"id": 3, "amount": "1.00", "shop": "x", "at": "2026-01-05T10:00:02Z", "_file": "north/b.csv.gz", "_line": 2},
        {"id": 5, "amount": "3.25", "shop": null, "at": "2026-01-05T09:00:03Z", "_file": "c.jsonl", "_line": 1},
    ]);
    assert_eq!(rows, wanted);
    let letters = project.rows(
        "select topic_or_file file, offset_or_line line, reason, arrow_cast(raw, 'Utf8') raw from bronze.dead_letters order by 1",
    );
    let wanted = json!([
        {"file": "data/inbox/orders/a.csv", "line": 3, "reason": "type", "raw": "2,oops,2026-01-05 10:00:01"},
        {"file": "data/inbox/orders/c.jsonl", "line": 2, "reason": "event_time", "raw": "{\"id\":6}"},
        {"file": "data/inbox/orders/north/b.csv.gz", "line": 3, "reason": "ragged", "raw": "4,2"},
    ]);
    assert_eq!(letters, wanted);
}

#[test]
fn a_file_at_fault_fails_the_run_by_name_and_holds_up_no_other() {
    let project = orders("");
    project.write("data/inbox/orders/a.csv", "id,amount,at\n1,1,2026-01-05T10:00:00Z\n");
    project.write("data/inbox/orders/b.csv.gz", "this is no gzip");
    project.write("data/inbox/orders/c.csv", "id,amount,at\n2,1,2026-01-05T10:00:00Z\n");

    let told = project.fails(4, &["dags", "run", "orders"]);
    assert!(told.contains("F0503") && told.contains("data/inbox/orders/b.csv.gz"), "{told}");
    assert_eq!(project.count("bronze.orders"), 2);

    project.write("data/inbox/orders/a.csv", "id,amount,at\n1,1,2026-01-05T10:00:00Z\n7,1,2026-01-05T10:00:00Z\n");
    std::fs::remove_file(project.root().join("data/inbox/orders/b.csv.gz")).unwrap();
    let told = project.fails(4, &["dags", "run", "orders"]);
    assert!(told.contains("F0506") && told.contains("a.csv") && told.contains("on_change"), "{told}");
    assert_eq!(project.count("bronze.orders"), 2);

    project.edit("dags/orders.toml", |text| text + "on_change = \"append\"\n");
    project.ok(&["dags", "run", "orders"]);
    assert_eq!(project.count("bronze.orders"), 4);

    project.edit("dags/orders.toml", |text| text + "on_unknown = \"drop\"\n");
    let told = project.fails(4, &["dags", "run", "orders"]);
    assert!(told.contains("F0508") && told.contains("dead_letter"), "{told}");
}

#[test]
fn killed_while_landing_nothing_is_lost_or_doubled() {
    let project = orders("");
    project.edit("tidemill.toml", |text| text + "\n[files]\nmemory = \"16MiB\"\ncommit_files = 3\n");
    let (files, lines) = (8_u64, 20_000_u64);
    for file in 0..files {
        let mut text = String::from("id,amount,at\n");
        for line in 0..lines {
            // One in a thousand is bad.
            let amount = if line % 1000 == 999 { "bad" } else { "1.25" };
            writeln!(text, "{},{amount},2026-01-05T10:00:00Z", file * lines + line).unwrap();
        }
        project.write(&format!("data/inbox/orders/{file}.csv"), text);
    }
    let mut moments = moments();
    let mut kills = 0;
    while kills < 6 {
        let mut child = project
            .command(&["dags", "run", "orders"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moment = Instant::now() + Duration::from_secs(4).mul_f64(moments.random());
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= moment {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(0), "a crash is a pause, and fails no run");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    landed(&project);

    let found = project.rows("select count(*) n, count(distinct id) d, count(distinct _file) f from bronze.orders");
    let good = files * lines / 1000 * 999;
    assert_eq!(found, json!([{"n": good, "d": good, "f": files}]), "killed {kills} times");
    let dead =
        project.rows("select count(*) n, count(distinct (topic_or_file || offset_or_line)) d from bronze.dead_letters");
    assert_eq!(dead, json!([{"n": files * lines / 1000, "d": files * lines / 1000}]), "killed {kills} times");
}

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a failure must be repeatable")]
fn moments() -> StdRng {
    let seed = std::env::var("TIDEMILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("kills by TIDEMILL_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn an_arriving_file_starts_its_own_run() {
    let project = orders("");
    project.write("data/inbox/orders/a.csv", "id,amount,at\n1,1,2026-01-05T10:00:00Z\n");
    let mut mill = project
        .command(&["up", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let runs = |wanted: usize| {
        loop {
            let runs = project.json(&["--json", "runs", "list", "--dag", "orders"]);
            let runs = runs.as_array().unwrap();
            if runs.len() >= wanted && runs.iter().all(|run| run["state"] == "success") {
                break runs.len();
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "waited in vain: {runs:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };

    runs(1);
    project.write("data/inbox/orders/south/a.csv", "id,amount,at\n2,1,2026-01-05T10:00:00Z\n");
    let count = runs(2);
    mill.kill().unwrap();
    mill.wait().unwrap();

    assert_eq!(count, 2, "one for each file");
    let rows = project.rows("select id, _file from bronze.orders order by id");
    assert_eq!(rows, json!([{"id": 1, "_file": "a.csv"}, {"id": 2, "_file": "south/a.csv"}]));
}

#[test]
fn files_and_lake_in_an_object_store() {
    let needed = ["S3", "S3_BUCKET", "S3_REGION", "S3_ACCESS_KEY", "S3_SECRET_KEY"];
    let found: Vec<String> = needed.iter().filter_map(|name| service(name)).collect();
    let [s3, bucket, region, access, secret] = found.as_slice() else {
        return skipped("files_and_lake_in_an_object_store", "needs an S3 server: see tests/services/README.md");
    };
    let mark = format!("files{}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let project = orders("");
    project.edit("tidemill.toml", |text| {
        text + &format!(
            "\n[lake]\nurl = \"s3://{bucket}/{mark}\"\n\n[lake.s3]\nendpoint = \"{s3}\"\nregion = \"{region}\"\n\
             access_key_id = \"{access}\"\nsecret_access_key = \"{secret}\"\nallow_http = true\n"
        )
    });
    let local = project.root().join("data/inbox/orders/x.csv");
    let put = |name: &str, text: &str| {
        project.write("data/inbox/orders/x.csv", text);
        let url = format!("{s3}/{bucket}/{mark}-in/{name}");
        // Signed: what somebody without a name has put, nobody may overwrite.
        let signed = ["--aws-sigv4", &format!("aws:amz:{region}:s3"), "--user", &format!("{access}:{secret}")];
        let mut command = Command::new("curl");
        command.args(signed).args(["-sf", "-o", "/dev/null", "-T"]).arg(&local).arg(url);
        let done = command.status().unwrap();
        assert!(done.success(), "{name}");
    };
    put("a.csv", "id,amount,at\n1,1,2026-01-05T10:00:00Z\n");
    put("deep/b.csv", "id,amount,at\n2,1,2026-01-05T10:00:00Z\n3,x,2026-01-05T10:00:00Z\n");
    let mut big = String::from("id,amount,at\n");
    for id in 10..400_010 {
        writeln!(big, "{id},1,2026-01-05T10:00:00Z").unwrap();
    }
    put("big.csv", &big);
    project.edit("dags/orders.toml", |text| {
        text.replace("\"{{ params.file }}\"", &format!("\"s3://{bucket}/{mark}-in/**/*.csv\""))
            .replace("root = \"data/inbox/orders\"\n", "")
    });

    assert_eq!(landed(&project)["files"], 3);
    assert_eq!(landed(&project)["files_known"], 3);
    put("a.csv", "id,amount,at\n1,1,2026-01-05T10:00:00Z\n");
    assert_eq!(landed(&project)["files_known"], 3, "the same bytes again are the same file");
    put("a.csv", "id,amount,at\n1,2,2026-01-05T10:00:00Z\n");
    let told = project.fails(4, &["dags", "run", "orders"]);

    assert!(told.contains("F0506") && told.contains("a.csv"), "{told}");
    let found = project.rows("select count(*) n, count(distinct id) d, count(distinct _file) f from bronze.orders");
    assert_eq!(found, json!([{"n": 400_002, "d": 400_002, "f": 3}]));
    assert_eq!(project.count("bronze.dead_letters"), 1);
}
