//! A plain dbt project runs as it is: its seeds, models, snapshot and tests, with nothing but `tidemill models …` in its folder.
//! What is wrong with it is said with file, line and fix before anything runs; and what its tests refuse is never seen.
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::project::Ran;
use super::{ROOT, texts, tidemill};

/// A copy of `tests/fixtures/dbt_shop`, removed with the test.
struct Shop(TempDir);

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&Path::new(ROOT).join("tests/fixtures/dbt_shop"), folder.path());
        Self(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(self.path(file), text.replace(from, to)).unwrap();
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let output = tidemill(self.0.path()).args(arguments).output().unwrap();
        let (out, err) = texts(&output);
        Ran { code: output.status.code(), out, err }
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "tidemill {}\n{}{}", arguments.join(" "), ran.out, ran.err);
        ran.out
    }

    fn rows(&self, sql: &str) -> Value {
        serde_json::from_str(&self.ok(&["query", sql, "--format", "json"])).unwrap()
    }

    /// What a build did: `name`, `name (unchanged)`, …, sorted.
    fn build(&self, arguments: &[&str]) -> Vec<String> {
        let out = self.ok(&[&["--json", "models", "build"], arguments].concat());
        let rows: Value = serde_json::from_str(&out).unwrap();
        let row = |row: &Value| {
            let unchanged = if row["unchanged"] == true { " (unchanged)" } else { "" };
            format!("{}{unchanged}", row["model"].as_str().unwrap())
        };
        let mut built: Vec<String> = rows.as_array().unwrap().iter().map(row).collect();
        built.sort();
        built
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn seeds_models_snapshot_and_tests_run_unmodified() {
    let shop = Shop::new();

    let checked = shop.run(&["models", "check"]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(checked.err.contains("3 seeds, 6 models, 15 checks: nothing is wrong"), "{}", checked.err);

    let built = shop.build(&[]);
    let tables = ["people", "people_history", "raw_payments", "raw_people", "raw_sales", "sales"];
    let views = ["stg_payments (unchanged)", "stg_people (unchanged)", "stg_sales (unchanged)"];
    let mut wanted: Vec<String> = tables.iter().chain(&views).map(|name| (*name).to_owned()).collect();
    wanted.sort();
    assert_eq!(built, wanted);

    assert_eq!(
        shop.rows("select person_id, name, sales, value from corner_shop_marts.people order by 1"),
        serde_json::json!([
            { "person_id": 1, "name": "Ada Archer", "sales": 2, "value": 20.5 },
            { "person_id": 2, "name": "Ben Boyle", "sales": 1, "value": 99.99 },
            { "person_id": 3, "name": "Cem Cakir", "sales": 1, "value": 0.2 },
            { "person_id": 4, "name": "Dora Dunn, the elder", "sales": 0, "value": 0.0 }
        ])
    );
    // A generic test that only warns finds the sale at the door.
    let tested = shop.run(&["models", "test"]);
    assert_eq!(tested.code, Some(0), "{}", tested.err);
    assert!(tested.err.contains("not_null_stg_sales_person_id found 1 rows (it only warns)"), "{}", tested.err);

    assert!(shop.build(&[]).iter().all(|name| name.ends_with("(unchanged)")));
}

#[test]
fn a_seed_that_changed_rebuilds_what_reads_it_and_the_snapshot_keeps_what_was() {
    let shop = Shop::new();
    shop.build(&[]);
    let state = || {
        shop.rows("select name, value, dbt_valid_to is null as open from history.people_history where person_id = 2 order by dbt_valid_from, open")
    };

    shop.edit("seeds/raw_payments.csv", "9999", "10000");
    let built = shop.build(&[]);
    let changed: Vec<&str> = built.iter().filter(|name| !name.ends_with(')')).map(String::as_str).collect();
    assert_eq!(changed, ["people", "people_history", "raw_payments", "sales"]);
    assert_eq!(
        state(),
        serde_json::json!([
            { "name": "Ben Boyle", "value": 99.99, "open": false },
            { "name": "Ben Boyle", "value": 100.0, "open": true }
        ])
    );

    // Ben is gone: his last row has come to its end.
    shop.edit("seeds/raw_people.csv", "2,Ben,Boyle,2026-01-05\n", "");
    shop.edit("seeds/raw_sales.csv", "12,2,2026", "12,1,2026");
    shop.build(&[]);
    assert!(state().as_array().unwrap().iter().all(|row| row["open"] == false));
    let open = shop.rows("select count(*) as n from history.people_history where dbt_valid_to is null");
    assert_eq!(open, serde_json::json!([{ "n": 3 }]));
    // Intervals of a key meet without gap or overlap.
    let torn = shop.rows(
        "select count(*) as n from history.people_history a join history.people_history b on a.person_id = b.person_id and a.dbt_valid_from < b.dbt_valid_from and (a.dbt_valid_to is null or a.dbt_valid_to > b.dbt_valid_from)",
    );
    assert_eq!(torn, serde_json::json!([{ "n": 0 }]));
}

#[test]
fn what_a_test_refuses_is_never_seen() {
    let shop = Shop::new();
    shop.edit("models/staging/staging.yml", "{floor: 0}", "{floor: 0, severity: warn}");
    shop.build(&[]);
    let before = shop.rows("select * from corner_shop_marts.sales order by sale_id");

    shop.edit("seeds/raw_payments.csv", "104,13,cash,20", "104,13,cash,-20");
    let ran = shop.run(&["models", "build"]);

    assert_eq!(ran.code, Some(5), "{}", ran.err);
    assert!(
        ran.err.contains(
            "error[M0031]: cannot show the new version of `sales`: the check `at_least_sales_amount__0` found rows"
        ),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("-0.20"), "the rows are shown: {}", ran.err);
    assert!(ran.err.contains("people was not built, as it reads sales"), "{}", ran.err);
    assert_eq!(shop.rows("select * from corner_shop_marts.sales order by sale_id"), before);

    // A check that only warns lets the rows through.
    shop.edit(
        "models/marts/marts.yml",
        "config: {where: \"amount is not null\"}",
        "config: {where: \"amount is not null\", severity: warn}",
    );
    let ran = shop.run(&["models", "build"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("at_least_sales_amount__0 found 1 rows (it only warns)"), "{}", ran.err);
    assert_ne!(shop.rows("select * from corner_shop_marts.sales order by sale_id"), before);
}

#[test]
fn bad_rows_go_beside_the_model_where_it_says_so() {
    let shop = Shop::new();
    shop.edit("models/marts/people.sql", "tags=['daily']", "tags=['daily'], rejected=true");
    shop.edit("models/marts/marts.yml", "- name: person_id\n        description: Whoever has bought something, or has joined.\n        tests:\n", "- name: name\n        tests:\n          - accepted_values: {values: ['Ada Archer', 'Ben Boyle', 'Cem Cakir']}\n      - name: person_id\n        tests:\n");

    shop.build(&[]);

    assert_eq!(shop.rows("select count(*) as n from corner_shop_marts.people"), serde_json::json!([{ "n": 3 }]));
    assert_eq!(
        shop.rows("select name, rejected_by from corner_shop_marts.people__rejected"),
        serde_json::json!([{
            "name": "Dora Dunn, the elder",
            "rejected_by": "accepted_values_people_name__Ada_Archer__Ben_Boyle__Cem_Cakir"
        }])
    );
}

#[test]
fn what_is_wrong_is_found_without_a_table() {
    let shop = Shop::new();
    shop.edit("models/marts/people.sql", "sales.sold_at", "sales.sold_on");
    shop.edit("models/staging/stg_people.sql", "joined_on", "joined_on + given_name as joined_on");
    shop.edit("models/marts/sales.sql", "ref('stg_payments')", "ref('stg_payment')");

    let ran = shop.run(&["models", "check"]);

    assert_eq!(ran.code, Some(3), "{}", ran.err);
    for wanted in [
        "error[M0001]: there is no model `stg_payment`",
        "models/marts/sales.sql:14:13",
        "did you mean `stg_payments`?",
        "models/staging/stg_people.sql:5:5",
    ] {
        assert!(ran.err.contains(wanted), "{wanted}\nis not in\n{}", ran.err);
    }

    let shop = Shop::new();
    shop.edit("models/marts/people.sql", "min(sales.sold_at)", "min(sales.sold_on)");
    let ran = shop.run(&["models", "check"]);
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    for wanted in
        ["error[M0001]: there is no column `sold_on`", "models/marts/people.sql:7:9", "did you mean `sold_at`?"]
    {
        assert!(ran.err.contains(wanted), "{wanted}\nis not in\n{}", ran.err);
    }
    assert!(!shop.path("lake/corner_shop").exists(), "nothing was run");
}

#[test]
fn a_column_leads_to_the_columns_it_is_made_of() {
    let shop = Shop::new();

    let shown = shop.ok(&["models", "lineage", "people.value"]);

    assert_eq!(
        shown.lines().take(4).collect::<Vec<_>>(),
        [
            "people.value",
            "  corner_shop_marts.sales.amount",
            "    corner_shop.stg_payments.amount",
            "      corner_shop.raw_payments.amount_cents"
        ]
    );
    assert!(shown.contains("joined by corner_shop.stg_people.person_id, corner_shop_marts.sales.person_id"), "{shown}");
    let steps: Value = serde_json::from_str(&shop.ok(&["--json", "models", "lineage", "people"])).unwrap();
    let edges: Vec<&str> = steps.as_array().unwrap().iter().map(|step| step["edge"].as_str().unwrap()).collect();
    for edge in ["value", "join", "group"] {
        assert!(edges.contains(&edge), "{edge} is not in {steps}");
    }
}

/// Four tests that find rows, and that no model's new version can wait for.
const ELSEWHERE: [&str; 4] = [
    "accepted_values_raw_people_given_name__Ada",
    "accepted_values_source_raw_people_family_name__Archer",
    "accepted_values_sales_state__returned",
    "everybody_buys",
];

#[test]
fn a_build_runs_the_tests_that_no_model_waits_for() {
    let shop = Shop::new();
    shop.build(&[]);
    shop.write(
        "seeds/seeds.yml",
        "seeds:\n  - name: raw_people\n    columns:\n      - name: given_name\n        tests:\n          - accepted_values: {values: [Ada]}\n",
    );
    shop.write(
        "models/sources.yml",
        "sources:\n  - name: raw\n    schema: corner_shop\n    tables:\n      - name: people\n        identifier: raw_people\n        columns:\n          - name: family_name\n            tests:\n              - accepted_values: {values: [Archer]}\n",
    );
    shop.edit(
        "models/marts/marts.yml",
        "      - name: amount\n",
        "      - name: state\n        tests:\n          - accepted_values: {values: [returned]}\n      - name: amount\n",
    );
    shop.write(
        "tests/everybody_buys.sql",
        "select name from {{ ref('people') }} where person_id not in (select person_id from {{ ref('sales') }} where person_id is not null)",
    );

    // Twice: what has found rows is asked again.
    for _ in 0..2 {
        let ran = shop.run(&["models", "build"]);
        assert_eq!(ran.code, Some(5), "{}", ran.err);
        for check in ELSEWHERE {
            assert!(ran.err.contains(&format!("{check} found ")), "{check} is not in\n{}", ran.err);
        }
        assert!(ran.err.contains("4 found rows"), "{}", ran.err);
        assert!(ran.out.contains("Dora Dunn, the elder"), "the rows are shown: {}", ran.out);
    }
    // Only what was selected, and its tests.
    let ran = shop.run(&["models", "build", "stg_payments"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn a_test_that_found_nothing_is_run_again_once_it_could_find_something() {
    let shop = Shop::new();
    let afterwards = || {
        let ran = shop.run(&["models", "build"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let line = ran.err.lines().find_map(|line| line.split_once(" checks afterwards").map(|(n, _)| n.to_owned()));
        line.map_or(0, |n| n.parse::<usize>().unwrap())
    };

    // The views' tests; then those that also read another table than the one whose version they were run before.
    let (first, second) = (afterwards(), afterwards());
    assert!(first > 1 && second > 1, "{first}, {second}");
    // The one that warns is always run.
    assert_eq!((afterwards(), afterwards()), (1, 1));

    // A view's text, its table, and the test's own text.
    shop.edit("models/staging/stg_payments.sql", "method,", "upper(method) as method,");
    assert!(afterwards() > 1);
    assert_eq!((afterwards(), afterwards()).1, 1);
    shop.edit("seeds/raw_payments.csv", "104,13,cash,20", "104,13,cash,30");
    assert!(afterwards() > 1);
    shop.edit("models/staging/staging.yml", "- at_least: {floor: 0}", "- at_least: {floor: 1}");
    let ran = shop.run(&["models", "build"]);
    assert_eq!(ran.code, Some(5), "{}", ran.err);
    assert!(ran.err.contains("at_least_stg_payments_amount__1 found "), "{}", ran.err);
}

#[test]
fn a_test_that_cannot_be_run_keeps_no_other_from_being_run() {
    let shop = Shop::new();
    shop.build(&[]);
    shop.write("models/sources.yml", "sources:\n  - name: raw\n    tables:\n      - name: nowhere\n");
    shop.write("tests/a_first_one.sql", "select * from {{ source('raw', 'nowhere') }}");
    shop.write("tests/zero_sales.sql", "select count(*) as n from {{ ref('sales') }}");

    let tested = shop.run(&["models", "test"]);
    let built = shop.run(&["models", "build"]);

    for ran in [tested, built] {
        assert_eq!(ran.code, Some(3), "{}", ran.err);
        assert!(ran.err.contains("tests/a_first_one.sql"), "{}", ran.err);
        assert!(ran.err.contains("zero_sales found 1 rows"), "{}", ran.err);
    }
}

#[test]
fn a_test_of_what_was_not_built_is_not_run() {
    let shop = Shop::new();
    shop.write(
        "tests/everybody_buys.sql",
        "select name from {{ ref('people') }} where person_id not in (select person_id from {{ ref('sales') }} where person_id is not null)",
    );
    shop.edit("seeds/raw_payments.csv", "104,13,cash,20", "104,13,cash,-20");

    let ran = shop.run(&["models", "build"]);

    assert_eq!(ran.code, Some(5), "{}", ran.err);
    assert!(ran.err.contains("everybody_buys was not run, as it reads sales"), "{}", ran.err);

    // Nor is one of what was never built, where only a part is.
    let ran = shop.run(&["models", "build", "raw_people", "stg_people"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let shop = Shop::new();
    let ran = shop.run(&["models", "build", "raw_people", "stg_people"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err.contains("relationships_stg_sales_person_id__person_id__ref_stg_people_ was not run"),
        "{}",
        ran.err
    );
}
