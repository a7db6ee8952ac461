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
