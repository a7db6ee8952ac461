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

    let three = "select t.k tk, u.k uk, d.n from gold.t join gold.u on t.id = u.id join gold.d on d.k = u.k order by 1";
    let within =
        "select t.k tk, u.k uk from gold.t join gold.u on t.id = u.id where u.k in (select k from gold.d) order by 1";

    assert_eq!(project.rows(three), json!([{ "tk": "x", "uk": "a", "n": 1 }, { "tk": "z", "uk": "c", "n": 2 }]));
    assert_eq!(project.rows(within), json!([{ "tk": "x", "uk": "a" }, { "tk": "z", "uk": "c" }]));
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
