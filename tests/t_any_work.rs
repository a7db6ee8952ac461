//! DAGs of any work: commands, requests, waits, branches and lists; what a misbehaving one does to the others; and what people do with runs.
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::e_a_running_mill::Mill;
use super::project::Project;

/// `[tasks.NAME]` of a shell command, with further lines.
fn shell(name: &str, command: &str, more: &str) -> String {
    format!("[tasks.{name}]\nkind = \"shell\"\ncommand = '''{command}'''\n{more}\n")
}

/// Runs a DAG to its end; gives its report, whatever the exit code.
fn run(project: &Project, dag: &str) -> Value {
    let ran = project.run(&["--json", "dags", "run", dag]);
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}\n{}{}", ran.out, ran.err))
}

/// What a report says of a task.
fn task<'r>(report: &'r Value, name: &str) -> &'r Value {
    let tasks = report["tasks"].as_array().unwrap();
    &tasks.iter().find(|task| task["instance"]["task"] == name).unwrap_or_else(|| panic!("{name} in {report:#}"))["instance"]
}

/// `task state` of each.
fn states(report: &Value) -> Vec<String> {
    let tasks = report["tasks"].as_array().unwrap().iter().map(|task| &task["instance"]);
    tasks.map(|task| format!("{} {}", task["task"].as_str().unwrap(), task["state"].as_str().unwrap())).collect()
}

fn log(project: &Project, report: &Value, task: &str) -> String {
    project.ok(&["logs", report["run"]["id"].as_str().unwrap(), task])
}

/// Waits, with a bound.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(1), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn commands_hand_results_on_choose_the_way_and_are_run_for_each_of_a_list() {
    let project = Project::new();
    let text = [
        shell("list", "echo '[\"x\", \"y\"]' > $TIDEMILL_RESULT; echo made", ""),
        shell("each", "echo item $ITEM of run $TIDEMILL_RUN; echo \\\"$ITEM!\\\" > $TIDEMILL_RESULT", "after = \"list\"\nmap = \"{{ tasks.list.result }}\"\nenv = { ITEM = \"{{ item }}-{{ index }}\" }"),
        "[tasks.way]\nkind = \"branch\"\nafter = \"each\"\nchoose = \"{{ 'many' if tasks.each.result | length > 1 else 'few' }}\"\n".to_owned(),
        shell("many", "echo {{ tasks.each.result | join(\" and \") }}", "after = \"way\""),
        shell("few", "false", "after = \"way\""),
        "[tasks.more]\nkind = \"condition\"\nafter = \"many\"\nwhen = \"{{ tasks.each.result | length > 9 }}\"\n".to_owned(),
        shell("never", "false", "after = \"more\"\ntrigger_rule = \"all_done\""),
        shell("nothing", "exit 99", ""),
    ]
    .concat();
    project.write("dags/any.toml", text);

    let report = run(&project, "any");

    assert_eq!(
        states(&report),
        [
            "list success",
            "each success",
            "each[0] success",
            "each[1] success",
            "way success",
            "many success",
            "few skipped",
            "more success",
            "never skipped",
            "nothing skipped"
        ]
    );
    assert_eq!(task(&report, "each")["result"], json!(["x-0!", "y-1!"]));
    assert!(log(&project, &report, "many").contains("x-0! and y-1!"));
    assert!(log(&project, &report, "each[1]").contains("item y-1 of run any-"));
}

#[test]
fn a_misbehaving_command_harms_nobody() {
    let project = Project::new();
    let bombs = [
        shell(
            "bomb",
            "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done",
            "timeout = \"3s\"",
        ),
        shell("deaf", "trap '' TERM; echo deaf; sleep 600", "timeout = \"1s\"\nstop_after = \"1s\""),
        shell("binary", "head -c 100000 /dev/urandom; printf '\\nend\\033[31m\\0'", ""),
        shell("orphan", "sleep 600 & echo left one behind", ""),
        shell("fails", "echo first; echo the reason >&2; exit 3", ""),
        shell("good", "echo well", ""),
    ];
    project.write("dags/bombs.toml", bombs.concat());

    let report = run(&project, "bombs");

    let wanted = ["bomb failed", "deaf failed", "binary success", "orphan success", "fails failed", "good success"];
    assert_eq!(states(&report), wanted);
    let code = |name: &str| task(&report, name)["error"]["code"].as_str().unwrap().to_owned();
    assert_eq!([code("bomb"), code("deaf"), code("fails")], ["D0110", "D0110", "D0120"]);
    assert!(task(&report, "fails")["error"]["why"].as_str().unwrap().contains("the reason"));
    let bomb = report["tasks"][0]["log"].as_str().unwrap();
    assert!(std::fs::metadata(bomb).unwrap().len() < 17 << 20, "the log has its cap");
    assert!(log(&project, &report, "deaf").contains("SIGKILL"));
    let binary = log(&project, &report, "binary");
    assert!(binary.contains("end\\x1b[31m\\x00") && binary.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
}

#[test]
fn requests_are_answered_refused_and_waited_for() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    // Says no twice before it says yes, and notes what it was asked.
    let asked = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for status in ["503 Busy", "200 OK", "404 Not Found"] {
            let (mut stream, _) = server.accept().unwrap();
            let mut buffer = vec![0; 65_536];
            let mut text = String::new();
            while !text.contains("\r\n\r\n") || text.starts_with("POST") && !text.ends_with('}') {
                let count = stream.read(&mut buffer).unwrap();
                text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            asked.push(text);
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{{\"rows\": 42}}")
                .unwrap();
        }
        asked
    });
    let project = Project::new();
    project.write(
        "dags/web.toml",
        format!(
            "[tasks.send]\nkind = \"http\"\nurl = \"http://{address}/load\"\nmethod = \"POST\"\nbody = {{ day = \"x\" }}\nretries = 2\nretry_delay = \"1ms\"\n\
             [tasks.gone]\nkind = \"http\"\nafter = \"send\"\nurl = \"http://{address}/gone\"\nretries = 2\n\
             [tasks.down]\nkind = \"http\"\nafter = \"gone\"\ntrigger_rule = \"all_done\"\nurl = \"http://127.0.0.1:1/\"\n"
        ),
    );

    let report = run(&project, "web");

    let asked = asked.join().unwrap();
    assert_eq!(states(&report), ["send success", "gone failed", "down failed"]);
    assert_eq!(
        (&task(&report, "send")["result"], &task(&report, "send")["attempt"]),
        (&json!({"status": 200, "body": {"rows": 42}}), &json!(2))
    );
    assert_eq!(
        (task(&report, "gone")["error"]["code"].as_str(), &task(&report, "gone")["attempt"]),
        (Some("D0123"), &json!(1))
    );
    assert_eq!(task(&report, "down")["error"]["code"], "D0124");
    assert!(
        asked[0].starts_with("POST /load")
            && asked[0].contains("{\"day\":\"x\"}")
            && asked[0].to_lowercase().contains("idempotency-key: web-")
    );
}

#[test]
fn a_whole_dag_is_tested_with_fixtures_and_without_waiting() {
    let project = Project::new();
    let text = [
        "[[triggers]]\nkind = \"cron\"\ncron = \"0 6 * * *\"\n",
        "[tasks.hours]\nkind = \"wait\"\nfor = \"5h\"\n",
        &shell("extract", "exit 1", "after = \"hours\"\nretries = 3\nretry_delay = \"1h\""),
        "[tasks.any]\nkind = \"condition\"\nafter = \"extract\"\nwhen = \"{{ tasks.extract.result.rows > 0 }}\"\n",
        &shell("load", "exit 1", "after = \"any\""),
        &shell("day", "echo {{ interval.start }}", "after = \"any\""),
    ]
    .map(str::to_owned)
    .concat();
    project.write("dags/nightly.toml", text);
    let fixtures =
        |rows: u32| format!("[tasks.extract]\nresult = {{ rows = {rows} }}\n[tasks.load]\nsummary = \"loaded\"\n");
    project.write("some.toml", fixtures(7));
    project.write("none.toml", fixtures(0));
    let tried = |file: &str, more: &[&str]| {
        project.json(
            &[&["--json", "dags", "test", "nightly", "--at", "2026-01-05T12:00:00Z", "--fixtures", file][..], more]
                .concat(),
        )
    };

    let some = tried("some.toml", &[]);
    let none = tried("none.toml", &["--dry"]);
    let real = project.run(&["dags", "test", "nightly"]);

    assert_eq!(states(&some), ["hours success", "extract success", "any success", "load success", "day success"]);
    assert_eq!(some["run"]["interval"]["start"], "2026-01-05T06:00:00Z");
    assert_eq!(states(&none), ["hours success", "extract success", "any success", "load skipped", "day skipped"]);
    assert_eq!(real.code, Some(4), "three retries of an hour each were not waited for: {}", real.err);
    assert_eq!(project.json(&["--json", "runs", "list", "--dag", "nightly"]), json!([]), "no trace in the history");
    project.write("wrong.toml", "[tasks.exract]\nstate = \"failed\"\n");
    assert!(project.fails(2, &["dags", "test", "nightly", "--fixtures", "wrong.toml"]).contains("`extract`"));
}

#[test]
fn people_clear_mark_ask_why_and_are_told() {
    let project = Project::new();
    let text = [
        "on_failure = { command = 'cat >> told.json' }\n",
        &shell("a", "echo a", ""),
        &shell("b", "test -e go", "after = \"a\""),
        &shell("c", "echo c", "after = \"b\""),
    ]
    .map(str::to_owned)
    .concat();
    project.write("dags/mended.toml", text);
    assert!(project.ok(&["why", "mended"]).contains("has no scheduler"));
    let mill = Mill::start(&project);
    let first = project.json(&["--json", "dags", "trigger", "mended", "--key", "order-7"]);
    let again = project.json(&["--json", "dags", "trigger", "mended", "--key", "order-7"]);
    assert_eq!((&first["made"], &again["made"], &first["run"]), (&json!(true), &json!(false), &again["run"]));
    let run = first["run"].as_str().unwrap();
    let state = || project.json(&["--json", "runs", "show", run])["run"]["state"].as_str().unwrap().to_owned();
    until("it fails", || state() == "failed");
    // The command's shell makes the file before `cat` fills it.
    let told =
        || std::fs::read(project.root().join("told.json")).ok().and_then(|told| serde_json::from_slice(&told).ok());
    until("people are told", || told().is_some());
    let told: Value = told().unwrap();
    assert_eq!(
        (&told["event"], &told["run"], &told["error"]["code"]),
        (&json!("failure"), &json!(run), &json!("D0120"))
    );
    assert!(project.ok(&["why", &format!("{run}.c")]).contains("is upstream_failed"));

    project.write("go", "");
    project.ok(&["runs", "clear", run]);

    until("it goes on to its end", || state() == "success");
    let report = project.json(&["--json", "runs", "show", run]);
    assert_eq!(
        (&task(&report, "a")["attempt"], &task(&report, "b")["attempt"]),
        (&json!(1), &json!(2)),
        "what was done is not done again"
    );
    let drawn = project.ok(&["runs", "gantt", run]);
    assert!(drawn.lines().count() == 3 && drawn.contains('█'), "{drawn}");
    project.ok(&["runs", "mark", run, "c", "--as", "failed"]);
    until("it has failed", || state() == "failed");
    assert!(project.fails(2, &["runs", "clear", run, "d"]).contains("task `d`"));
    drop(mill);
}

#[test]
fn a_range_is_filled_beside_the_schedule_and_only_where_something_is_missing() {
    let project = Project::new();
    let text = format!(
        "[[triggers]]\nkind = \"cron\"\ncron = \"0 0 * * *\"\n{}",
        shell("day", "echo {{ interval.start }} >> days", "")
    );
    project.write("dags/daily.toml", text);
    project.ok(&["dags", "pause", "daily"]);
    let fill = |more: &[&str]| {
        project.json(
            &[&["--json", "dags", "backfill", "daily", "--from", "2026-01-01", "--to", "2026-01-06"][..], more]
                .concat(),
        )
    };
    assert_eq!(fill(&["--dry-run"]).as_array().unwrap().len(), 5);
    let mill = Mill::start(&project);
    assert!(project.ok(&["why", "daily"]).contains("is paused"));
    fill(&["--reverse"]);
    let days = || {
        std::fs::read_to_string(project.root().join("days"))
            .unwrap_or_default()
            .lines()
            .map(|day| day.get(..10).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    until("all days are there", || days().len() == 5);
    assert_eq!(days(), ["2026-01-05", "2026-01-04", "2026-01-03", "2026-01-02", "2026-01-01"]);
    until("all have ended", || {
        project.json(&["--json", "runs", "list", "--dag", "daily", "--state", "success"]).as_array().unwrap().len() == 5
    });

    let missing = project.json(&[
        "--json",
        "dags",
        "backfill",
        "daily",
        "--from",
        "2025-12-31",
        "--to",
        "2026-01-07",
        "--missing",
        "--dry-run",
    ]);

    let starts: Vec<&str> =
        missing.as_array().unwrap().iter().map(|row| row["start"].as_str().unwrap().get(..10).unwrap()).collect();
    assert_eq!(starts, ["2025-12-31", "2026-01-06"]);
    drop(mill);
}

#[test]
fn a_new_version_of_a_table_and_the_end_of_a_run_start_others() {
    let project = Project::new();
    project.write(
        "dags/after_table.toml",
        format!(
            "[[triggers]]\nkind = \"table\"\ntable = \"silver.movies\"\nparam = \"what\"\n[params.what]\ntype = \"object\"\ndefault = {{}}\n{}",
            shell("see", "echo version {{ params.what.version }} >> versions", "")
        ),
    );
    project.write(
        "dags/after_dag.toml",
        format!(
            "[[triggers]]\nkind = \"dag\"\ndag = \"after_table\"\nparam = \"end\"\n[params.end]\ntype = \"object\"\ndefault = {{}}\n{}",
            shell("see", "echo {{ params.end.state }} {{ params.end.run }} >> ends", "")
        ),
    );
    let lines = |file: &str| std::fs::read_to_string(project.root().join(file)).unwrap_or_default().lines().count();
    project.catalogue("data/Movies.txt");
    let runs = |dag: &str| project.json(&["--json", "runs", "list", "--dag", dag]).as_array().unwrap().len();

    let mill = Mill::start(&project);
    // What was there before anybody watched is noted, and starts nothing.
    let noted = || {
        let history = rusqlite::Connection::open(project.root().join(".tidemill/history.db")).unwrap();
        history.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    until("the table is watched", || noted() == 1);
    assert_eq!(runs("after_table"), 0);
    // The catalogue is not UTF-8: one of its items is changed as bytes.
    let mut bytes = std::fs::read(project.root().join("data/Movies.txt")).unwrap();
    let (old, new) = (b"Binding=DVD", b"Binding=VHS");
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    bytes[at..at + old.len()].copy_from_slice(new);
    project.write("data/Changed.txt", bytes);
    project.ok(&["dags", "run", "movies_catalog", "--param", "file=data/Changed.txt"]);
    until("the version starts a run, and its end another", || lines("ends") >= 1 && lines("ends") == lines("versions"));
    drop(mill);

    let history = project.json(&["--json", "tables", "history", "silver.movies"]);
    let versions = history.as_array().unwrap().len();
    assert!(lines("versions") >= 1 && lines("versions") < versions, "not for what was there: {versions} versions");
    assert_eq!((runs("after_table"), runs("after_dag")), (lines("versions"), lines("ends")));
}
