//! What is wrong with a DAG file: every code, with its exact place, and all problems of a file at once.
use std::path::Path;

use tidemill_orchestrator::dag::schema;
use tidemill_orchestrator::testkit::SCRIPT;
use tidemill_orchestrator::{Dag, Dags, Problem};

fn problems(text: &str) -> Vec<Problem> {
    let (dag, problems) = Dag::parse(Path::new("movies.toml"), text, SCRIPT);
    assert_eq!(dag.is_none(), !problems.is_empty(), "a DAG comes out exactly if nothing is wrong");
    problems
}

/// One line per problem: code, place, marked text, what, label, fix.
fn show(text: &str) -> Vec<String> {
    problems(text)
        .into_iter()
        .map(|problem| {
            let marked = text.get(problem.span.clone()).unwrap_or("?");
            let fix = problem.fix.map(|fix| format!(" | {fix}")).unwrap_or_default();
            format!(
                "{} {}:{} [{marked}] {} | {}{fix}",
                problem.code, problem.line, problem.column, problem.what, problem.label
            )
        })
        .collect()
}

const TASK: &str = "\n[tasks.a]\nkind = \"script\"\n";

#[test]
fn every_code_names_its_place_and_its_fix() {
    let with = |text: &str| format!("{text}{TASK}");
    let cases: Vec<(String, &[&str])> = vec![
        ("retries = = 1".to_owned(), &["D0002 1:11 "]),
        ("a = \"open".to_owned(), &["D0002 1:"]),
        (with("[tasks.a]\nkind = \"script\""), &["D0003 3:8 [a] `a` is given twice"]),
        (with("tags = [\"x\"]\ntags = []"), &["D0003 2:1 [tags] `tags` is given twice | `tags` again"]),
        (with("shedule = 1"), &["D0004 1:1 [shedule] unknown key `shedule` in the DAG | unknown key"]),
        (
            with("tasgs = []"),
            &["D0004 1:1 [tasgs] unknown key `tasgs` in the DAG | unknown key | did you mean `tags`?"],
        ),
        (
            format!("{TASK}fiel = \"x\""),
            &["D0004 4:1 [fiel] unknown key `fiel` in task `a` of kind `script` | unknown key | did you mean `file`?"],
        ),
        (
            with("max_active_runs = \"two\""),
            &["D0005 1:20 [two] `max_active_runs` of the DAG must be an integer | expected an integer, found a string"],
        ),
        (
            format!("{TASK}rows = \"many\""),
            &["D0005 4:9 [many] `rows` of task `a` must be an integer | expected an integer, found a string"],
        ),
        (
            "[tasks.a]\nact = \"ok\"".to_owned(),
            &["D0006 1:8 [a] task `a` has no `kind` | `kind` is missing | add `kind = …`: one of \"script\""],
        ),
        (
            "[tasks.a]\nkind = \"scirpt\"".to_owned(),
            &["D0007 2:9 [scirpt] unknown kind `scirpt` of task `a` | no such kind of task | did you mean `script`?"],
        ),
        (
            format!("{TASK}after = [\"lnad\"]\n[tasks.land]\nkind = \"script\""),
            &[
                "D0008 4:11 [lnad] task `a` comes after `lnad`, which does not exist | no such task | did you mean `land`?",
            ],
        ),
        (
            format!("{TASK}after = \"b\"\n[tasks.b]\nkind = \"script\"\nafter = \"a\""),
            &["D0009 4:10 [b] tasks wait for each other: a after b after a | `a` comes after `b`"],
        ),
        (format!("{TASK}after = \"a\""), &["D0009 4:10 [a] tasks wait for each other: a after a"]),
        (
            with("[[triggers]]\nkind = \"cron\"\ncron = \"0 25 * * *\""),
            &["D0010 3:9 [0 25 * * *] `0 25 * * *` is not a cron expression | hour `25`: "],
        ),
        (
            with("[[triggers]]\nkind = \"cron\"\ncron = \"@daily\"\ntimezone = \"Europe/Berln\""),
            &[
                "D0011 4:13 [Europe/Berln] unknown time zone `Europe/Berln` | not in the IANA time zone database | did you mean `Europe/Berlin`?",
            ],
        ),
        (
            format!("{TASK}timeout = \"5 parsecs\""),
            &["D0012 4:12 [5 parsecs] `timeout` of task `a` is not a duration | unknown unit `parsecs`"],
        ),
        (format!("{TASK}every = \"5\""), &["D0012 4:10 [5] `every` of task `a` must be a duration"]),
        (
            format!("{TASK}trigger_rule = \"all_sucess\""),
            &[
                "D0013 4:17 [all_sucess] `trigger_rule` of task `a` cannot be `all_sucess` | not one of the known values | did you mean `all_success`?",
            ],
        ),
        (
            with("[[triggers]]\nkind = \"file\"\npath = \"/etc/*\""),
            &["D0013 3:9 [/etc/*] `/etc/*` is not a usable file pattern | it must be relative"],
        ),
        (format!("{TASK}file = \"{{{{ params. }}}}\""), &["D0014 4:"]),
        (
            format!("{TASK}file = \"x {{{{ params.flie }}}}\""),
            &[
                "D0015 4:14 [params.flie] a template of task `a` uses `params.flie`, a param that is not declared | not known here | declare it: `[params.flie]`",
            ],
        ),
        (
            format!("{TASK}file = \"{{{{ interval.stop }}}}\""),
            &["D0015 4:12 [interval.stop] a template of task `a` uses `interval.stop`, but `interval` has no `stop`"],
        ),
        (
            format!("{TASK}file = \"{{{{ tasks.b.result }}}}\"\n[tasks.b]\nkind = \"script\""),
            &[
                "D0015 4:12 [tasks.b.result] a template of task `a` uses `tasks.b.result`, a task that does not come before it | not known here | add `after = [\"b\"]` to task `a`",
            ],
        ),
        ("[tasks.\"a b\"]\nkind = \"script\"".to_owned(), &["D0016 1:9 [a b] a task cannot be called `a b`"]),
        (
            with("[params.n]\ntype = \"integer\"\ndefault = \"x\""),
            &["D0017 3:12 [x] the default of param `n` is not of its type | expected an integer, found a string"],
        ),
        (String::new(), &["D0018 1:1 [] DAG `movies` has no tasks"]),
        (
            with("[[triggers]]\nkind = \"continuous\"\n[params.n]\ntype = \"integer\""),
            &["D0019 2:9 [continuous] trigger 1 starts runs without param `n`"],
        ),
    ];
    for (text, wanted) in cases {
        let shown = show(&text);
        let fits =
            shown.len() == wanted.len() && shown.iter().zip(wanted).all(|(shown, wanted)| shown.starts_with(wanted));
        assert!(fits, "in\n{text}\nfound  {shown:#?}\nwanted {wanted:#?}");
    }
}

#[test]
fn all_problems_of_a_file_are_told_at_once_in_its_order() {
    let text = "max_active_runs = 0\nfoo = 1\n[defaults]\nretires = 1\n[tasks.a]\nkind = \"scrip\"\nafter = [\"b\", \"c\"]\n[tasks.b]\nkind = \"script\"\nrows = []\n[tasks.b]\nkind = \"script\"\ntimeout = \"x\"\n";
    let codes: Vec<(&str, usize)> = problems(text).into_iter().map(|problem| (problem.code, problem.line)).collect();
    assert_eq!(
        codes,
        [
            ("D0013", 1),
            ("D0004", 2),
            ("D0004", 4),
            ("D0007", 6),
            ("D0008", 7),
            ("D0005", 10),
            ("D0003", 11),
            ("D0012", 13)
        ]
    );
}

#[test]
fn a_duplicate_points_to_both_places_and_a_loop_to_all() {
    let twice = problems(&format!("{TASK}{TASK}"));
    assert_eq!(
        (twice.len(), twice[0].code, twice[0].line, twice[0].related[0].line, twice[0].related[0].column),
        (1, "D0003", 5, 2, 8)
    );
    let text = "[tasks.a]\nkind = \"script\"\nafter = \"c\"\n[tasks.b]\nkind = \"script\"\nafter = \"a\"\n[tasks.c]\nkind = \"script\"\nafter = \"b\"\n";
    let circle = problems(text);
    assert_eq!(circle[0].what, "tasks wait for each other: a after c after b after a");
    assert_eq!(
        circle[0].related.iter().map(|related| (related.line, related.label.as_str())).collect::<Vec<_>>(),
        [(9, "`c` comes after `b`"), (6, "`b` comes after `a`")]
    );
}

#[test]
fn triggers_by_the_clock_say_what_is_wrong_with_each_key() {
    let with = |text: &str| format!("[[triggers]]\nkind = \"cron\"\ncron = \"0 9 * * *\"\n{text}{TASK}");
    let cases: Vec<(String, &[&str])> = vec![
        (
            with("gap = \"nxt\""),
            &[
                "D0013 4:8 [nxt] `gap` of trigger 1 cannot be `nxt` | not one of the known values | did you mean `next`?",
            ],
        ),
        (with("overlap = \"third\""), &["D0013 4:12 [third] `overlap` of trigger 1 cannot be `third`"]),
        (
            with("catch_up_limit = 0"),
            &["D0013 4:18 [0] `catch_up_limit` of trigger 1 is out of range | must be at least 1"],
        ),
        (
            with("exclude_dates = [\"2026-02-30\"]"),
            &[
                "D0013 4:19 [2026-02-30] `2026-02-30` in `exclude_dates` of trigger 1 is neither a date nor a file of dates",
            ],
        ),
        (with("include_dates = []"), &["D0010 1:1 [] trigger 1 never ticks | no day counts on which it would"]),
        (with("every = \"1h\""), &["D0004 4:1 [every] unknown key `every` in trigger 1"]),
        (
            format!("[[triggers]]\nkind = \"every\"\nevery = \"10ms\"{TASK}"),
            &["D0013 3:10 [10ms] `every` of trigger 1 is out of range"],
        ),
        (
            format!("[[triggers]]\nkind = \"every\"{TASK}"),
            &["D0006 1:1 [] trigger 1 has no `every` | `every` is missing"],
        ),
        (
            format!("[[triggers]]\nkind = \"table\"\ntable = \"movies\"{TASK}"),
            &["D0013 3:10 [movies] `movies` is no name of a table"],
        ),
        (
            format!("[[triggers]]\nkind = \"dag\"\nparam = \"x\"{TASK}"),
            &["D0006 1:1 [] trigger 1 has no `dag`", "D0015 3:10 [x] param `x` is not declared"],
        ),
        (
            format!(
                "[[triggers]]\nkind = \"dag\"\ndag = \"a\"\nparam = \"x\"\n[params.x]\ntype = \"array\"\ndefault = []{TASK}"
            ),
            &["D0017 4:10 [x] param `x` cannot take what happened | its type is array, one event is an object"],
        ),
        (
            format!("[[triggers]]\nkind = \"file\"\npath = \"in/*\"\nmarker = \"a/b\"{TASK}"),
            &["D0013 4:11 [a/b] `marker` of trigger 1 is no end of a file name"],
        ),
        (
            format!("[[triggers]]\nkind = \"evry\"{TASK}"),
            &[
                "D0013 2:9 [evry] `kind` of trigger 1 cannot be `evry` | not one of the known values | did you mean `every`?",
            ],
        ),
    ];
    for (text, wanted) in cases {
        let shown = show(&text);
        let fits =
            shown.len() == wanted.len() && shown.iter().zip(wanted).all(|(shown, wanted)| shown.starts_with(wanted));
        assert!(fits, "in\n{text}\nfound  {shown:#?}\nwanted {wanted:#?}");
    }
}

#[test]
fn files_of_dates_lie_beside_the_dag_and_a_bad_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("holidays.txt"), "# Germany\n2026-12-25  # Christmas\n\n2026-12-26\n").unwrap();
    let text = |file: &str| {
        format!("[[triggers]]\nkind = \"cron\"\ncron = \"@daily\"\nexclude_dates = [\"2026-12-24\", \"{file}\"]{TASK}")
    };
    let path = folder.path().join("movies.toml");
    let (dag, problems) = Dag::parse(&path, &text("holidays.txt"), SCRIPT);
    assert!(problems.is_empty(), "{problems:#?}");
    let dag = dag.unwrap();
    let tidemill_orchestrator::dag::Trigger::Schedule(trigger) = &dag.triggers[0] else { panic!("{dag:?}") };
    let next = trigger.schedule.next("2026-12-23T12:00:00Z".parse().unwrap(), false).unwrap();
    assert_eq!(next.to_rfc3339(), "2026-12-27T00:00:00+00:00");

    std::fs::write(folder.path().join("bad.txt"), "2026-12-25\n25.12.2026\n").unwrap();
    let (_, problems) = Dag::parse(&path, &text("bad.txt"), SCRIPT);
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].line, problems[0].label.as_str()), (4, "line 2 of the file is `25.12.2026`"));
}

#[test]
fn columns_count_characters() {
    let found = problems("description = \"größer\" # ü\n[tasks.a]\nkind = \"script\"\ntables = [\"ü\", 1]\n");
    assert_eq!((found[0].code, found[0].line, found[0].column), ("D0005", 4, 10));
}

#[test]
fn a_folder_of_dags_and_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Dags::load(&folder.path().join("none"), SCRIPT).problems.is_empty());
    std::fs::write(folder.path().join("good.toml"), TASK).unwrap();
    std::fs::write(folder.path().join("bad.toml"), [0xFF, 0xFE]).unwrap();
    std::fs::write(folder.path().join("not a name.toml"), TASK).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
    let loaded = Dags::load(folder.path(), SCRIPT);
    assert_eq!(loaded.dags.iter().map(|dag| dag.id.as_str()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(loaded.problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["D0001", "D0016"]);
}

#[test]
fn a_dag_that_another_one_watches_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let watch = |dag: &str| format!("[[triggers]]\nkind = \"dag\"\ndag = \"{dag}\"\n{TASK}");
    std::fs::write(folder.path().join("good.toml"), watch("movies")).unwrap();
    std::fs::write(folder.path().join("slip.toml"), watch("moveis")).unwrap();
    std::fs::write(folder.path().join("movies.toml"), TASK).unwrap();
    let loaded = Dags::load(folder.path(), SCRIPT);
    assert_eq!(loaded.dags.iter().map(|dag| dag.id.as_str()).collect::<Vec<_>>(), ["good", "movies"]);
    let problem = &loaded.problems[0];
    assert_eq!((loaded.problems.len(), problem.code, problem.line, problem.column), (1, "D0008", 3, 8));
    assert_eq!(problem.fix.as_deref(), Some("did you mean `movies`?"));
}

#[test]
fn the_example_of_the_docs_is_read_as_meant() {
    let text = r#"
description = "Catalogue file to silver.movies, then enriched events"
tags = ["movies"]
max_active_runs = 1
[[triggers]]
kind = "file"
path = "data/inbox/Movies*.txt"
param = "file"
settle = "2s"
batch = "each"
[[triggers]]
kind = "cron"
cron = "0 11 * * *"
timezone = "UTC"
catch_up = false
[params.file]
type = "string"
default = "data/inbox/Movies.txt"
about = "the catalogue file"
[defaults]
retries = 2
retry_delay = "5s"
timeout = "1h"
[tasks.land]
kind = "script"
file = "{{ params.file }}"
[tasks.publish]
kind = "script"
after = ["land"]
retries = 0
"#;
    let (dag, problems) = Dag::parse(Path::new("movies_catalog.toml"), text, SCRIPT);
    assert!(problems.is_empty(), "{problems:#?}");
    let dag = dag.unwrap();
    assert_eq!(
        (dag.id.as_str(), dag.triggers.len(), dag.tasks[0].retry.retries, dag.tasks[1].retry.retries),
        ("movies_catalog", 2, 2, 0)
    );
    assert_eq!(dag.tasks[1].timeout, Some(std::time::Duration::from_hours(1)));
    let pinned: Dag = serde_json::from_str(&serde_json::to_string(&dag).unwrap()).unwrap();
    assert_eq!(pinned.revision(), dag.revision(), "a pinned definition comes back as it was");
}

#[test]
fn the_schema_knows_every_key_of_every_kind() {
    let schema = schema(SCRIPT);
    let kind = &schema["properties"]["tasks"]["additionalProperties"]["allOf"][0];
    assert_eq!(kind["if"]["properties"]["kind"]["const"], "script");
    for key in SCRIPT[0].keys.iter().map(|key| key.name).chain([
        "kind",
        "after",
        "retries",
        "retry_delay",
        "retry_max_delay",
        "timeout",
        "trigger_rule",
        "about",
    ]) {
        assert!(kind["then"]["properties"].get(key).is_some(), "{key}");
    }
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn every_code_has_its_page() {
    let source = [
        include_str!("../src/dag/parse.rs"),
        include_str!("../src/dag/load.rs"),
        include_str!("../src/dag/fields.rs"),
        include_str!("../src/dag/triggers.rs"),
        include_str!("../src/dag/template.rs"),
        include_str!("../src/error.rs"),
        include_str!("../src/history/mod.rs"),
        include_str!("../src/worker.rs"),
        include_str!("../src/plan/list.rs"),
        include_str!("../src/plan/progress.rs"),
        include_str!("../src/scheduler/driver.rs"),
    ]
    .concat();
    let mut codes: Vec<&str> = source.split('"').filter(|text| text.len() == 5 && text.starts_with("D0")).collect();
    codes.sort_unstable();
    codes.dedup();
    assert!(codes.len() > 25, "{codes:?}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    for code in codes {
        let page = std::fs::read_to_string(folder.join(format!("{code}.md")))
            .unwrap_or_else(|error| panic!("{code}: {error}"));
        assert!(page.starts_with(&format!("# {code}: ")) && page.lines().count() >= 4, "{code}");
    }
}
