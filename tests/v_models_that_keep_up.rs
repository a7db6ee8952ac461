//! A model that says `incremental` is brought up to date by what changed in its inputs: `models explain` says how, `models
//! verify` proves it. (That it is so whatever the model and its inputs: `etl/tests/models_keep_up/`.)
use serde_json::{Value, json};

use super::project::Project;

fn shop() -> Project {
    let project = Project::new();
    project.write("one.txt", "ITEM 1\nTitle=One\nListPrice=100USD$1.00\n\nITEM 2\nTitle=Two\nListPrice=300GBP£3.00\n");
    project
        .write("two.txt", "ITEM 1\nTitle=One\nListPrice=250USD$2.50\n\nITEM 3\nTitle=Three\nListPrice=100USD$1.00\n");
    project.write(
        "sql/worth.sql",
        "{{ config(materialized='incremental') }}\nSELECT list_price_currency, count(*) AS items, sum(list_price) AS worth \
         FROM {{ source('silver', 'movies') }} GROUP BY list_price_currency\n",
    );
    project.write(
        "sql/shouted.sql",
        "{{ config(materialized='incremental') }}\nSELECT item_id, upper(title) AS title FROM {{ source('silver', 'movies') }}\n",
    );
    project.write(
        "sql/newest.sql",
        "{{ config(materialized='incremental') }}\nSELECT max(item_id) AS item_id FROM {{ ref('shouted') }}\n",
    );
    project.catalogue("one.txt");
    project
}

fn built(project: &Project, model: &str) -> Value {
    project.json(&["--json", "models", "build", model])[0].clone()
}

#[test]
fn what_changed_is_all_that_is_computed() {
    let project = shop();
    for model in ["worth", "shouted", "newest"] {
        assert_eq!(built(&project, model)["class"], "full", "{model}: there was nothing yet");
        assert_eq!(built(&project, model)["unchanged"], true, "{model}");
    }

    project.catalogue("two.txt");
    let (worth, shouted, newest) = (built(&project, "worth"), built(&project, "shouted"), built(&project, "newest"));

    // The dollars went and came, the pounds stayed; of the titles, one came.
    assert_eq!((&worth["class"], &worth["changed"]), (&json!("affected-keys"), &json!([1, 1])));
    assert_eq!(shouted["changed"], json!([1, 0]));
    assert_eq!(newest["class"], "full");
    assert!(newest["full_because"].as_str().unwrap().contains("without GROUP BY"), "{newest}");
    let rows = project.rows("select list_price_currency c, items, cast(worth as varchar) w from gold.worth order by c");
    assert_eq!(rows, json!([{ "c": "GBP", "items": 1, "w": "3.00" }, { "c": "USD", "items": 2, "w": "3.50" }]));
    for model in ["worth", "shouted", "newest"] {
        let found = project.json(&["--json", "models", "verify", model]);
        assert_eq!((&found["missing"], &found["surplus"]), (&json!(0), &json!(0)), "{model}: {found}");
        project.ok(&["models", "verify", model, "--engine", "datafusion"]);
    }
}

#[test]
fn explain_says_how_and_why_not_more_cheaply() {
    let project = shop();
    project.ok(&["models", "build", "+newest"]);

    let row_wise = project.json(&["--json", "models", "explain", "shouted"]);
    let by_key = project.json(&["--json", "models", "explain", "worth"]);
    let whole = project.json(&["--json", "models", "explain", "newest"]);

    assert_eq!((&row_wise["class"], &row_wise["inputs"][1]["class"]), (&json!("row-wise"), &json!("affected-keys")));
    assert_eq!((&by_key["class"], &by_key["inputs"][1]["class"]), (&json!("combine"), &json!("affected-keys")));
    assert!(by_key["inputs"][1]["keys"][0]["key"][0].as_str().unwrap().contains("list_price_currency"), "{by_key}");
    assert_eq!(whole["class"], "full");
    let text = project.ok(&["models", "explain", "worth"]);
    assert!(text.contains("rows appended: combine") && text.contains("never read"), "{text}");
}

#[test]
fn a_restored_table_reads_again_what_it_forgot() {
    let project = shop();
    project.ok(&["models", "build", "worth"]);
    let first = project.version("gold.worth");
    project.catalogue("two.txt");
    project.ok(&["models", "build", "worth"]);
    project.ok(&["tables", "restore", "gold.worth", "--to", &first.to_string()]);
    assert_eq!(built(&project, "worth")["changed"], json!([1, 1]), "its progress was restored with it");
    project.ok(&["models", "verify", "worth"]);
    project.fails(2, &["models", "verify", "worht"]);
}

/// A project of these seeds and models.
fn of(seeds: &[(&str, &str)], models: &[(&str, &str)]) -> Project {
    let project = Project::new();
    std::fs::remove_dir_all(project.root().join("sql")).unwrap();
    for (name, rows) in seeds {
        project.write(&format!("sql/seeds/{name}.csv"), rows);
    }
    for (name, text) in models {
        project.write(&format!("sql/{name}.sql"), text);
    }
    project
}

const INCREMENTAL: &str = "{{ config(materialized='incremental') }}\n";

#[test]
fn a_join_of_columns_with_one_name_loses_no_row() {
    let seeds = [("t", "id,k\n1,x\n2,y\n3,z\n"), ("u", "id,k\n1,a\n2,b\n3,c\n"), ("d", "k,n\na,1\nc,2\n")];
    let project = of(&seeds, &[]);
    project.ok(&["models", "build"]);

    let three =
        "select t.k tk, u.k uk, d.n from seeds.t join seeds.u on t.id = u.id join seeds.d on d.k = u.k order by 1";
    let within = "select t.k tk, u.k uk from seeds.t join seeds.u on t.id = u.id where u.k in (select k from seeds.d) order by 1";

    assert_eq!(project.rows(three), json!([{ "tk": "x", "uk": "a", "n": 1 }, { "tk": "z", "uk": "c", "n": 2 }]));
    assert_eq!(project.rows(within), json!([{ "tk": "x", "uk": "a" }, { "tk": "z", "uk": "c" }]));
}

#[test]
fn a_limit_holds_where_no_column_is_read() {
    let project = of(&[("t", "id\n1\n2\n3\n4\n5\n")], &[]);
    project.ok(&["models", "build"]);
    for (sql, rows) in [
        ("select 1 as n from seeds.t limit 1", 1),
        ("select 1 as n from seeds.t limit 2 offset 4", 1),
        ("select 1 as n from seeds.t union all select 2 as n from seeds.t limit 7", 7),
        ("select 1 as n from seeds.t where id > 2 limit 2", 2),
        ("select 1 as n from seeds.t", 5),
    ] {
        assert_eq!(project.rows(sql).as_array().unwrap().len(), rows, "{sql}");
    }
    assert_eq!(project.value("select count(*) from (select 1 from seeds.t limit 3)"), json!(3));
}

#[test]
fn what_a_plan_does_not_show_counts_too() {
    let values = |last: &str| {
        format!("select * from (values (1,'a'),(2,'b'),(3,'c'),(4,'d'),(5,'e'),(6,'f'),(7,'{last}')) as x(id, name)\n")
    };
    let project = of(&[], &[("plain", &values("g")), ("kept", &format!("{INCREMENTAL}{}", values("g")))]);
    project.ok(&["models", "build"]);

    project.write("sql/plain.sql", values("h"));
    project.write("sql/kept.sql", format!("{INCREMENTAL}-- another last one\n{}", values("h")));
    project.ok(&["models", "build"]);

    for table in ["plain", "kept"] {
        assert_eq!(project.value(&format!("select name from gold.{table} where id = 7")), json!("h"), "{table}");
        let version = project.version(&format!("gold.{table}"));
        let text = std::fs::read_to_string(project.root().join(format!("sql/{table}.sql"))).unwrap();
        project.write(&format!("sql/{table}.sql"), text.replace("select *", "SELECT  * -- all\n"));
        project.ok(&["models", "build"]);
        assert_eq!(project.version(&format!("gold.{table}")), version, "{table}: comments and format rebuild nothing");
    }
}

#[test]
fn a_model_kept_in_another_way_meanwhile_is_computed_whole() {
    let first = format!("{INCREMENTAL}select id, v as x from {{{{ ref('t') }}}}\n");
    let project = of(&[("t", "id,v\n1,1\n2,2\n")], &[("flip", &first)]);
    project.ok(&["models", "build"]);
    project.write("sql/flip.sql", "select id, v * 100 as x from {{ ref('t') }}\n");
    project.ok(&["models", "build"]);
    assert_eq!(project.value("select sum(x) from gold.flip"), json!(300));

    project.write("sql/flip.sql", &first);
    project.ok(&["models", "build"]);

    assert_eq!(project.value("select sum(x) from gold.flip"), json!(3));
    project.ok(&["models", "verify", "flip"]);
}

#[test]
fn a_total_beside_other_rows_is_there_once() {
    let text = format!(
        "{INCREMENTAL}select k, n, count(*) over (partition by k) as c from (select 'total' as k, count(*) as n from \
         {{{{ ref('t') }}}} union all select k, v as n from {{{{ ref('u') }}}})\n"
    );
    let project = of(&[("t", "id\n1\n2\n3\n"), ("u", "k,v\na,1\nb,2\nc,3\n")], &[("totals", &text)]);
    project.ok(&["models", "build"]);
    project.write("sql/seeds/u.csv", "k,v\na,1\nb,2\nc,3\nb,5\n");

    project.ok(&["models", "build"]);

    assert_eq!(project.count("gold.totals"), 5);
    project.ok(&["models", "verify", "totals"]);
}

#[test]
fn what_gives_something_else_each_time_is_never_up_to_date() {
    let project = of(
        &[("t", "id\n1\n")],
        &[("at", "select id, now() as built_at from {{ ref('t') }}\n"), ("still", "select id from {{ ref('t') }}\n")],
    );
    project.ok(&["models", "build"]);
    let (at, still) = (project.version("gold.at"), project.version("gold.still"));

    project.ok(&["models", "build"]);

    assert_eq!((project.version("gold.at"), project.version("gold.still")), (at + 1, still));
    let found = project.json(&["--json", "models", "check"]);
    assert_eq!((found.as_array().unwrap().len(), &found[0]["warning"]), (1, &json!(true)), "{found}");
    assert!(found[0]["what"].as_str().unwrap().contains("now"), "{found}");
}

#[test]
fn a_table_named_without_ref_is_an_input_too() {
    let project = of(&[], &[("orders", "select 2 as x\n"), ("direct", "select x from gold.orders\n")]);
    project.ok(&["models", "build"]);
    project.write("sql/orders.sql", "select 22 as x\n");

    project.ok(&["models", "build"]);

    assert_eq!(project.value("select x from gold.direct"), json!(22));
    let listed = project.json(&["--json", "models", "list", "direct"]);
    assert_eq!(listed[0]["reads"], "gold.orders");
}

#[test]
fn what_is_read_from_a_file_or_a_version_counts() {
    let project = of(
        &[("t", "id\n1\n")],
        &[
            ("items", "select count(*) as n from read_items('items.txt')\n"),
            ("old", "select count(*) as n from seeds.t version as of 1\n"),
        ],
    );
    project.write("items.txt", "ITEM 1\nTitle=One\n");
    project.ok(&["models", "build", "t"]);
    project.write("sql/seeds/t.csv", "id\n1\n2\n");
    project.ok(&["models", "build", "t"]);
    project.ok(&["models", "build"]);
    let counts = || [project.value("select n from gold.items"), project.value("select n from gold.old")];
    assert_eq!(counts(), [json!(1), json!(1)]);

    project.write("items.txt", "ITEM 1\nTitle=One\n\nITEM 2\nTitle=Two\n");
    project.write("sql/old.sql", "select count(*) as n from seeds.t version as of 2\n");
    project.ok(&["models", "build"]);

    assert_eq!(counts(), [json!(2), json!(2)]);
}

#[test]
fn nan_and_minus_zero_are_numbers_like_others() {
    let kept = format!("{INCREMENTAL}select id, cast(v as double) as x from {{{{ ref('t') }}}}\n");
    let below = format!("{INCREMENTAL}select id, x from {{{{ ref('kept') }}}}\n");
    let project = of(&[("t", "id,v\n1,-0.0\n2,NaN\n")], &[("kept", &kept), ("below", &below)]);
    project.ok(&["models", "build"]);
    project.write("sql/seeds/t.csv", "id,v\n1,0.0\n2,NaN\n3,10.0\n4,1.0\n");

    project.ok(&["models", "build"]);

    assert_eq!(project.rows("select id from gold.kept where x > 5 order by id"), json!([{ "id": 2 }, { "id": 3 }]));
    assert_eq!(project.value("select cast(x as varchar) from gold.below where id = 1"), json!("0.0"));
    for model in ["kept", "below"] {
        project.ok(&["models", "verify", model]);
    }
}

#[test]
fn two_who_build_at_once_do_it_once() {
    let project = of(&[("t", "id\n1\n")], &[("copy", "select id from {{ ref('t') }}\n")]);
    project.ok(&["models", "build", "t"]);
    let (slow, folder) = project.stopped_at("commit.before_put", &["models", "build", "copy"]);
    project.ok(&["models", "build", "copy"]);
    let version = project.version("gold.copy");

    std::fs::write(folder.path().join("go"), "").unwrap();
    let ended = slow.wait_with_output().unwrap();

    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(project.version("gold.copy"), version);
}

#[test]
fn an_expression_without_end_is_refused() {
    let deep = format!("select 1{} as x\n", "+1".repeat(20_000));
    let project = of(&[], &[("deep", &deep)]);

    let found = project.run(&["models", "check"]);

    assert_eq!(found.code, Some(3), "{}", found.err);
    assert!(found.err.contains("nested more than 1000 deep") && found.err.contains("deep.sql"), "{}", found.err);
}

#[test]
fn a_table_that_somebody_else_wrote_to_is_made_anew() {
    let counts = format!("{INCREMENTAL}select k, count(*) as n from {{{{ ref('t') }}}} group by k\n");
    let project = of(&[("t", "k\na\na\nb\n")], &[("counts", &counts)]);
    project.ok(&["models", "build"]);
    let first = project.version("gold.counts");
    project.write("sql/seeds/t.csv", "k\na\na\nb\nb\n");
    project.ok(&["models", "build"]);
    // Not by our restore, which puts progress back too.
    let log = project.root().join(format!("lake/gold/counts/_delta_log/{:020}.json", first + 2));
    let last =
        std::fs::read_to_string(project.root().join(format!("lake/gold/counts/_delta_log/{:020}.json", first + 1)))
            .unwrap();
    let file = last.lines().find(|line| line.starts_with("{\"add\"")).unwrap();
    let path = serde_json::from_str::<Value>(file).unwrap()["add"]["path"].clone();
    let gone = json!({ "remove": { "path": path, "dataChange": true, "deletionTimestamp": 1_767_000_000_000_u64 } });
    std::fs::write(log, format!("{gone}\n")).unwrap();

    let again = &project.json(&["--json", "models", "build", "counts"])[0];

    assert!(again["full_because"].as_str().unwrap().contains("somebody else"), "{again}");
    assert_eq!(project.value("select sum(n) from gold.counts"), json!(4));
    project.ok(&["models", "verify", "counts"]);
}

#[test]
fn a_table_left_over_from_before_its_model_was_a_view_is_not_loaded() {
    let project = of(&[], &[("m", "select 1 as x\n"), ("n", "select 1 as x\n")]);
    project.write("dags/sales.toml", "[tasks.load]\nkind = \"load\"\ntables = [\"gold.m\"]\n");
    project.write("dags/all.toml", "[tasks.load]\nkind = \"load\"\nschema = \"gold\"\n");
    project.ok(&["models", "build"]);
    project.write("sql/m.sql", "{{ config(materialized='view') }}\nselect 2 as x\n");
    project.ok(&["models", "build"]);

    assert!(project.fails(4, &["dags", "run", "sales"]).contains("is a view"));
    let report = project.json(&["--json", "dags", "run", "all"]);
    assert_eq!(report["tasks"][0]["instance"]["result"]["tables"], 1, "{report}");
}

#[test]
fn what_cannot_be_planned_is_said_in_a_sentence_with_a_fix() {
    let wrong: &[(&str, &str, &str, &str)] = &[
        ("unknown", "uppr(k) as x", "there is no function `uppr`", "did you mean `upper`?"),
        ("totals", "sum(k) as x", "there is no `sum` of (varchar)", ""),
        ("parts", "lpad(id) as x", "there is no `lpad` of (bigint)", ""),
        ("twice", "id, k as id", "two columns are called `id`", "give one of them another name: `… as name`"),
        ("same", "k, k", "two columns are called `k`", "give one of them another name: `… as name`"),
        (
            "capitals",
            "mixed",
            "there is no column `mixed`",
            "write it as `\"Mixed\"`: without the quotes, capitals are small letters",
        ),
        (
            "alike",
            "id as a, k as \"A\"",
            "the columns `a` and `A` differ only in capitals, and a table has one of them",
            "give it another name: `… as name`",
        ),
        ("nameless", "id as \"\"", "column 1 of the result has no name", "give it another name: `… as name`"),
    ];
    let texts: Vec<(&str, String)> = wrong
        .iter()
        .map(|(name, columns, ..)| (*name, format!("select\n{columns}\nfrom {{{{ ref('t') }}}}\n")))
        .collect();
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let project = of(&[("t", "id,k,Mixed\n1,a,b\n")], &texts);

    let ran = project.run(&["--json", "models", "check"]);

    assert_eq!(ran.code, Some(3), "{}", ran.err);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    for (name, _, what, fix) in wrong {
        let file = format!("sql/{name}.sql");
        let problem = found.as_array().unwrap().iter().find(|row| row["file"] == file.as_str());
        let problem = problem.unwrap_or_else(|| panic!("{name}: {found}"));
        let told = (&problem["what"], problem["fix"].as_str().unwrap_or_default(), &problem["line"]);
        assert_eq!(told, (&json!(what), *fix, &json!(2)), "{problem}");
    }
    assert_eq!(found.as_array().unwrap().len(), wrong.len(), "{found}");
}

const SNAPSHOT: &str = "{{ config(materialized='snapshot', unique_key=['a', 'b'], strategy='timestamp', updated_at='at') }}\n\
                        select * from {{ ref('rows') }}; -- that is all;\n";

#[test]
fn a_snapshot_tells_keys_of_several_columns_apart() {
    let first = "a,b,n,at\nx|y,z,1,2026-01-01T00:00:00Z\nx,y|z,2,2026-01-01T00:00:00Z\n\\,|,3,2026-01-01T00:00:00Z\n";
    let project = of(&[("rows", first)], &[("kept", SNAPSHOT)]);
    project.ok(&["models", "build"]);

    let next = first.replace("1,2026-01-01", "10,2026-02-01").replace("2,2026-01-01", "20,2026-03-01");
    project.write("sql/seeds/rows.csv", next);
    project.ok(&["models", "build"]);

    let rows = project.rows("select n, cast(dbt_valid_to as date) as ended from gold.kept order by n");
    assert_eq!(
        rows,
        json!([
            { "n": 1, "ended": "2026-02-01" },
            { "n": 2, "ended": "2026-03-01" },
            { "n": 3, "ended": null },
            { "n": 10, "ended": null },
            { "n": 20, "ended": null }
        ])
    );
    assert_eq!(project.value("select count(distinct dbt_scd_id) from gold.kept"), json!(5));
}

#[test]
fn a_snapshot_of_columns_that_are_not_there_is_refused() {
    let text = SNAPSHOT.replace("strategy='timestamp', updated_at='at'", "strategy='check', check_cols=['n', 'vale']");
    let project = of(&[("rows", "a,b,n,value\nx,y,1,2\n")], &[("kept", &text)]);

    let checked = project.fails(3, &["models", "check"]);
    let built = project.fails(3, &["models", "build"]);

    assert!(checked.contains("the SELECT has no column `vale`, which `check_cols` names"), "{checked}");
    assert!(checked.contains("sql/kept.sql:1:") && checked.contains("did you mean `value`?"), "{checked}");
    assert!(built.contains("`vale`") && built.contains("did you mean `value`?"), "{built}");
}
