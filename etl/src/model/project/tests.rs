//! Whole projects, read from files.
use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::model::{ModelError, ModelProblem};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn ours(&self) -> Layout {
        Layout::tidemill(&self.0.path().join("sql"), &serde_json::Map::new())
    }

    fn dbt(&self) -> Layout {
        Layout::dbt(self.0.path(), &serde_json::Map::new()).unwrap()
    }

    fn read(&self) -> Project {
        Project::read(&self.ours(), &BTreeMap::new()).unwrap()
    }

    fn read_dbt(&self) -> Project {
        Project::read(&self.dbt(), &BTreeMap::new()).unwrap()
    }
}

/// The problems: file, the marked text, what, and the fix.
fn problems(layout: &Layout) -> Vec<(String, String, String, Option<String>)> {
    let (_, problems) = Project::survey(layout, &BTreeMap::new());
    let shown = |problem: ModelProblem| {
        let text = std::fs::read_to_string(&problem.file).unwrap();
        let marked = problem.span.and_then(|span| text.get(span)).unwrap_or_default().to_owned();
        let file = problem.file.file_name().unwrap().to_string_lossy().into_owned();
        (file, marked, problem.what, problem.fix)
    };
    problems.into_iter().map(shown).collect()
}

fn problem(file: &str, marked: &str, what: &str, fix: Option<&str>) -> (String, String, String, Option<String>) {
    (file.to_owned(), marked.to_owned(), what.to_owned(), fix.map(str::to_owned))
}

#[test]
fn templates_say_what_dbt_lets_them_say() {
    let folder = Folder::new(&[
        (
            "sql/marts/sales.sql",
            "{{ config(materialized='incremental', unique_key=['day', 'method'], tags=['daily']) }}\n\
             {% set methods = [] %}{% for m in var('methods', ['Cash', 'Card']) %}{% do methods.append(m.lower()) %}{% endfor %}\n\
             select day,\n{% for m in methods %}  sum(case when method = '{{ m }}' then {{ cents('amount') }} end) as {{ 'sum_{}'.format(m) }}{{ ', ' if not loop.last }}\n{% endfor %}\
             from {{ ref('orders') }} join {{ source('bronze', 'users') }} u on true {% if is_incremental() %}where false{% endif %}",
        ),
        ("sql/orders.sql", "{{ config(materialized='view', schema='silver') }} select * from {{ ref('codes') }}"),
        ("sql/macros/money.sql", "{% macro cents(column) %}{{ return(to_cents(column) ~ '::bigint') }}{% endmacro %}"),
        ("sql/macros/more.sql", "{%- macro to_cents(column) -%}({{ column }} * 100){%- endmacro -%}"),
        ("sql/seeds/codes.csv", "code\n1\n"),
        ("sql/checks/no_sales.sql", "select * from {{ ref('sales') }} where false"),
    ]);

    let project = folder.read();

    let sales = &project.models["sales"];
    let sql = sales.sql.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        sql,
        "select day, sum(case when method = 'cash' then (amount * 100)::bigint end) as sum_cash, sum(case when method = 'card' then (amount * 100)::bigint end) as sum_card from silver.orders join bronze.users u on true"
    );
    assert_eq!(sales.materialization, Materialization::Incremental);
    assert_eq!(sales.unique_key, ["day", "method"]);
    assert!(sales.tags.contains("daily"));
    let inputs: Vec<String> = project.inputs(sales).iter().map(ToString::to_string).collect();
    assert_eq!(inputs, ["bronze.users", "seeds.codes"]);
    assert_eq!(project.checks["no_sales"].refs.iter().collect::<Vec<_>>(), ["sales"]);
}

#[test]
fn every_problem_has_its_file_place_and_fix() {
    let folder = Folder::new(&[
        ("sql/a.sql", "select *\nfrom {{ ref('ordesr') }}"),
        ("sql/b.sql", "{{ config(materialised='view') }}\nselect 1 as x"),
        ("sql/c.sql", "select x\nfrom {{ reff('orders') }}"),
        ("sql/d.sql", "select\n  {% if true %} 1"),
        ("sql/orders.sql", "{{ config(materialized='tabel') }} select 1 as x"),
        ("sql/e.sql", "select 1 as x\nfrom t where and x = 1"),
        ("sql/f.sql", "select '{{ adapter.get_columns_in_relation(this) }}' as x"),
        ("sql/g.sql", "select {{ dbt_utils.star(ref('orders')) }} as x"),
        ("sql/h.sql", "{{ config(pre_hook='drop table x') }} select 1 as x"),
        ("sql/i.sql", "select {{ exceptions.raise_compiler_error('not like this') }}"),
        ("sql/j.sql", "select {{ var('since') }} as x, {{ env_var('NO_SUCH') }} as y"),
    ]);

    let found = problems(&folder.ours());

    let expected = [
        problem("a.sql", "ref('ordesr')", "there is no model `ordesr`", Some("did you mean `orders`?")),
        problem("b.sql", "materialised", "`materialised` cannot be configured", Some("did you mean `materialized`?")),
        problem("c.sql", "reff('orders')", "the template knows no `reff`", Some("did you mean `ref`?")),
        problem("e.sql", "x", "this is no SQL that can be read", None),
        problem(
            "f.sql",
            "adapter.get_columns_in_relation(this)",
            "`adapter.get_columns_in_relation()` is not supported: SQL is made from the files alone, without asking a database",
            None,
        ),
        problem(
            "g.sql",
            "dbt_utils.star(ref('orders'))",
            "the template knows no `dbt_utils`",
            Some("macros of packages are not supported: copy what you use into the folder of macros"),
        ),
        problem("h.sql", "pre_hook", "`pre_hook` is not supported", Some("take it out")),
        problem("i.sql", "exceptions.raise_compiler_error('not like this')", "not like this", None),
        problem("orders.sql", "materialized", "`materialized='tabel'` is not known", Some("did you mean `table`?")),
    ];
    for wanted in &expected {
        assert!(found.contains(wanted), "{wanted:#?}\nis not in\n{found:#?}");
    }
    assert!(
        found
            .iter()
            .any(|(file, marked, what, _)| file == "d.sql" && !marked.is_empty() && what.contains("cannot be read"))
    );
    assert!(
        found
            .iter()
            .any(|(file, marked, what, _)| file == "j.sql" && marked == "var('since')" && what.contains("is not set"))
    );
    assert_eq!(found.len(), expected.len() + 2, "{found:#?}");
}

#[test]
fn a_ring_is_shown_where_it_goes_on() {
    let folder = Folder::new(&[
        ("sql/a.sql", "select * from {{ ref('b') }}"),
        ("sql/b.sql", "select 1 as n union all\nselect * from {{ ref('a') }}"),
    ]);

    let found = problems(&folder.ours());

    let wanted = problem(
        "a.sql",
        "{{ ref('b') }}",
        "the models read each other in a ring: a → b → a",
        Some("take one of the references out"),
    );
    assert_eq!(found, [wanted]);
}

#[test]
fn every_ring_is_told_and_who_reads_itself() {
    let folder = Folder::new(&[
        ("sql/a.sql", "select * from {{ ref('b') }}, {{ ref('c') }}"),
        ("sql/b.sql", "select * from {{ ref('a') }}"),
        ("sql/c.sql", "select * from {{ ref('d') }}"),
        ("sql/d.sql", "select * from {{ ref('e') }}"),
        ("sql/e.sql", "select * from {{ ref('c') }}, {{ ref('a') }}"),
        ("sql/own.sql", "select 1 as n union all select * from {{ ref('own') }}"),
        ("sql/reader.sql", "select * from {{ ref('a') }}, {{ ref('own') }}"),
    ]);

    let told: Vec<(String, String)> =
        problems(&folder.ours()).into_iter().map(|(file, _, what, _)| (file, what)).collect();

    let wanted = [
        ("own.sql", "the model `own` reads itself"),
        ("a.sql", "the models read each other in a ring: a → b → a"),
        ("a.sql", "the models read each other in a ring: a → c → d → e → a"),
        ("c.sql", "the models read each other in a ring: c → d → e → c"),
    ];
    assert_eq!(told, wanted.map(|(file, what)| (file.to_owned(), what.to_owned())));
}

#[test]
fn what_is_no_select_is_refused_where_it_stands() {
    let folder = Folder::new(&[
        ("sql/a.sql", "-- made by hand\ncreate table x as select 1 as n"),
        ("sql/b.sql", "with a as (select 1 as n) select * from a"),
        ("sql/checks/c.sql", "delete from {{ ref('b') }}"),
    ]);

    let fix = Some("write the SELECT that gives the rows; what becomes of them is said with `config(…)`");
    let what = |which: &str| format!("this is `{which}`, and only a SELECT can stand here");
    let wanted =
        [problem("a.sql", "create", &what("CREATE TABLE"), fix), problem("c.sql", "delete", &what("DELETE"), fix)];
    assert_eq!(problems(&folder.ours()), wanted);
}

const NAMING: &str = "\
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set default_schema = target.schema -%}
    {%- if node.resource_type == 'seed' -%}
        {{ default_schema }}_raw
    {%- elif node.config.materialized == 'view' and 'shared' in node.tags -%}
        {{ node.fqn[1] }}_{{ target.name }}
    {%- elif custom_schema_name is none -%}
        {{ default_schema }}
    {%- else -%}
        {{ custom_schema_name | trim }}
    {%- endif -%}
{%- endmacro %}";

#[test]
fn a_macro_says_where_models_seeds_and_snapshots_are_kept() {
    let folder = Folder::new(&[
        ("dbt_project.yml", "name: shop\nprofile: x\n"),
        ("macros/naming.sql", NAMING),
        ("models/plain.sql", "{{ config(materialized='table') }} select '{{ target['schema'] }}' as n"),
        ("models/marts/named.sql", "{{ config(schema='marts', materialized='table') }} select 1 as n"),
        ("models/marts/open.sql", "{{ config(tags=['shared']) }} select * from {{ ref('codes') }}"),
        ("seeds/codes.csv", "code\n1\n"),
        (
            "snapshots/kept.sql",
            "{% snapshot kept %}{{ config(schema='history', strategy='check', unique_key='n', check_cols='all') }} select * from {{ ref('plain') }}{% endsnapshot %}",
        ),
    ]);

    let project = folder.read_dbt();

    let tables: Vec<String> = project
        .models
        .values()
        .map(|model| model.table.to_string())
        .chain(project.seeds.values().map(|seed| seed.table.to_string()))
        .collect();
    assert_eq!(tables, ["history.kept", "marts.named", "marts_tidemill.open", "shop.plain", "shop_raw.codes"]);
    assert_eq!(project.models["plain"].sql.trim(), "select 'shop' as n");
    assert!(project.models["open"].sql.contains("from shop_raw.codes"));
}

#[test]
fn a_macro_that_cannot_say_where_is_one_problem() {
    let slip = NAMING.replace("target.schema", "taget.schema");
    let folder = Folder::new(&[
        ("dbt_project.yml", "name: shop\nprofile: x\n"),
        ("macros/naming.sql", slip.as_str()),
        ("models/a.sql", "select 1 as n"),
        ("models/b.sql", "select 1 as n"),
        ("seeds/codes.csv", "code\n1\n"),
    ]);

    let found = problems(&folder.dbt());

    let wanted = problem("naming.sql", "taget.schema", "the template knows no `taget`", Some("did you mean `target`?"));
    assert_eq!(found, [wanted]);
}

#[test]
fn a_macro_of_another_file_is_called_with_what_stands_in_the_block() {
    let folder = Folder::new(&[
        (
            "sql/macros/blocks.sql",
            "{% macro each(names) %}{% for name in names %}{{ caller(name, loop.index) | trim | upper }}{{ ', ' if not loop.last }}{% endfor %}{% endmacro %}\n\
             {% macro wrapped(with='()') %}{{ with[0] }}{{ caller() | trim }}{{ with[1] }}{% endmacro %}\n\
             {% macro twice() %}{% set inner = caller() | trim %}{% call wrapped('[]') %}{{ inner }} + {{ inner }}{% endcall %}{% endmacro %}",
        ),
        (
            "sql/macros/more.sql",
            "{% macro boxed() %}{% set inner = caller() %}{% call twice() %}{{ inner }}{% endcall %}{% endmacro %}",
        ),
        (
            "sql/a.sql",
            "{% set ending = 'x' %}select {% call(name, at) each(['a', 'b']) %} {{ name }}_{{ ending }}{{ at }} {% endcall %},\n\
             {% call wrapped() %} 1 + {% call wrapped('()') %} 2 {% endcall %} {% endcall %} as n, make_array{% call boxed() %} 3 {% endcall %} as m\n\
             from {% call wrapped() %}select * from {{ ref('b') }}{% endcall %}",
        ),
        ("sql/b.sql", "select 1 as a_x1, 2 as b_x2"),
        ("sql/c.sql", "select {% call wrapped() %}\n{{ rfe('b') }}{% endcall %} as n"),
    ]);

    let (project, _) = Project::survey(&folder.ours(), &BTreeMap::new());

    let a = &project.models["a"];
    let sql = a.sql.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(sql, "select A_X1, B_X2, (1 + (2)) as n, make_array[3 + 3] as m from (select * from gold.b)");
    assert_eq!(a.refs.iter().collect::<Vec<_>>(), ["b"]);
    let found = problems(&folder.ours());
    assert_eq!(found, [problem("c.sql", "rfe('b')", "value of type undefined is not callable", None)]);
}

#[test]
fn a_dbt_project_is_read_as_it_is() {
    let folder = Folder::new(&[
        (
            "dbt_project.yml",
            "name: shop\nprofile: x\nmodels:\n  shop:\n    staging:\n      +materialized: view\n      +schema: staging\n      +tags: raw\nseeds:\n  shop:\n    +column_types: {code: varchar}\n",
        ),
        ("models/staging/stg_orders.sql", "select * from {{ ref('raw_orders') }}"),
        (
            "models/orders.sql",
            "{{ config(materialized='table', alias='all_orders') }} select * from {{ ref('shop', 'stg_orders') }} left join {{ source('crm', 'people') }} p on true",
        ),
        ("models/gone.sql", "{{ config(enabled=false) }} select * from {{ ref('nothing') }}"),
        ("models/docs.md", "{% docs an_order %}\nOne order.\n{% enddocs %}"),
        (
            "models/schema.yml",
            "models:\n  - name: orders\n    description: \"{{ doc('an_order') }}\"\n    config: {tags: daily}\n    columns:\n      - name: id\n        tests:\n          - unique\n          - not_null: {severity: warn, where: \"id > 0\"}\n      - name: status\n        data_tests:\n          - accepted_values:\n              arguments: {values: [placed, shipped]}\n              config: {severity: warn, error_if: '>10'}\n      - name: customer_id\n        tests:\n          - relationships: {to: ref('raw_orders'), field: id}\n          - positive: {name: above_zero}\nsources:\n  - name: crm\n    schema: bronze\n    tables:\n      - name: people\n        identifier: users\n        columns:\n          - {name: id, tests: [not_null]}\n",
        ),
        (
            "tests/generic/positive.sql",
            "{% test positive(model, column_name) %}\nselect * from {{ model }} where {{ column_name }} <= 0\n{% endtest %}",
        ),
        (
            "tests/orders_are_there.sql",
            "{{ config(severity='warn') }} select 1 as n where not exists (select 1 from {{ ref('orders') }})",
        ),
        ("seeds/raw_orders.csv", "id,code\n1,a\n"),
        (
            "snapshots/people.sql",
            "{% snapshot people_history %}{{ config(target_schema='history', strategy='check', unique_key='id', check_cols='all') }}\nselect * from {{ source('crm', 'people') }}{% endsnapshot %}",
        ),
    ]);

    let project = folder.read_dbt();

    let names: Vec<String> =
        project.models.values().map(|m| format!("{} {} {}", m.name, m.table, m.materialization.name())).collect();
    assert_eq!(
        names,
        [
            "orders shop.all_orders table",
            "people_history history.people_history snapshot",
            "stg_orders shop_staging.stg_orders view"
        ]
    );
    let orders = &project.models["orders"];
    assert_eq!(orders.description, "One order.");
    assert_eq!(orders.tags.iter().collect::<Vec<_>>(), ["daily"]);
    assert!(orders.sql.contains("from shop_staging.stg_orders left join bronze.users p"));
    assert_eq!(project.seeds["raw_orders"].table.to_string(), "shop.raw_orders");
    let checks: Vec<&str> = project.checks.keys().map(String::as_str).collect();
    assert_eq!(
        checks,
        [
            "above_zero",
            "accepted_values_orders_status__placed__shipped",
            "not_null_orders_id",
            "not_null_source_crm_people_id",
            "orders_are_there",
            "relationships_orders_customer_id__id__ref_raw_orders_",
            "unique_orders_id"
        ]
    );
    let accepted = &project.checks["accepted_values_orders_status__placed__shipped"];
    assert_eq!((accepted.severity, accepted.fails.holds(10), accepted.fails.holds(11)), (Severity::Warn, false, true));
    assert!(project.checks["not_null_orders_id"].sql.contains("where id > 0"));
    assert!(project.checks["relationships_orders_customer_id__id__ref_raw_orders_"].refs.contains("raw_orders"));
    assert_eq!(project.checks["above_zero"].sql.trim(), "select * from shop.all_orders where customer_id <= 0");
    assert_eq!(project.checks_about("orders").count(), 5);
}

#[test]
fn what_is_wrong_in_yaml_is_marked_there() {
    let folder = Folder::new(&[
        ("sql/orders.sql", "select 1 as id"),
        (
            "sql/schema.yml",
            "models:\n  - name: orders\n    colums: []\n    columns:\n      - name: id\n        tests:\n          - uniqe\n          - accepted_values: {value: [1]}\n          - dbt_utils.at_least_one\n          - relationships: {to: ref('order'), field: id}\n    config: {materialised: view}\n",
        ),
    ]);

    let found = problems(&folder.ours());

    for wanted in [
        problem("schema.yml", "colums", "`colums` is no key of a model", Some("did you mean `columns`?")),
        problem("schema.yml", "uniqe", "there is no check `uniqe`", Some("did you mean `unique`?")),
        problem(
            "schema.yml",
            "accepted_values",
            "`accepted_values` has no list `values`",
            Some("add `values: [a, b]`"),
        ),
        problem(
            "schema.yml",
            "dbt_utils.at_least_one",
            "the check `dbt_utils.at_least_one` is of a package, and packages are not supported",
            Some("copy it as a macro `test_NAME` into the folder of macros"),
        ),
        problem("schema.yml", "relationships", "there is no model `order`", Some("did you mean `orders`?")),
        problem(
            "schema.yml",
            "materialised",
            "`materialised` cannot be configured",
            Some("did you mean `materialized`?"),
        ),
    ] {
        assert!(found.contains(&wanted), "{wanted:#?}\nis not in\n{found:#?}");
    }
}

#[test]
fn selectors_choose_by_name_place_tag_and_distance() {
    let folder = Folder::new(&[
        ("sql/staging/a.sql", "{{ config(tags='raw') }} select * from {{ source('bronze', 'events') }}"),
        ("sql/staging/b.sql", "{{ config(tags=['raw', 'slow']) }} select * from {{ ref('codes') }}"),
        ("sql/marts/c.sql", "select * from {{ ref('a') }}, {{ ref('b') }}"),
        ("sql/marts/d.sql", "{{ config(materialized='view') }} select * from {{ ref('c') }}"),
        ("sql/seeds/codes.csv", "x\n1\n"),
        ("sql/checks/d_is_empty.sql", "select * from {{ ref('d') }}"),
    ]);
    let project = folder.read();
    let chosen = |select: &[&str], exclude: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let selection = project.select(&texts(select), &texts(exclude)).unwrap();
        let names =
            selection.seeds.iter().map(|s| s.name.as_str()).chain(selection.models.iter().map(|m| m.name.as_str()));
        names.chain(selection.checks.iter().map(|c| c.name.as_str())).collect::<Vec<_>>().join(" ")
    };

    assert_eq!(chosen(&[], &[]), "codes a b c d d_is_empty");
    assert_eq!(chosen(&["+c"], &[]), "codes a b c");
    assert_eq!(chosen(&["1+d"], &[]), "c d d_is_empty");
    assert_eq!(chosen(&["b+1"], &[]), "b c");
    assert_eq!(chosen(&["source:bronze+"], &[]), "a c d d_is_empty");
    assert_eq!(chosen(&["tag:raw,tag:slow"], &[]), "b");
    assert_eq!(chosen(&["tag:slow c"], &[]), "b c");
    assert_eq!(chosen(&["staging", "d"], &["a"]), "b d d_is_empty");
    assert_eq!(chosen(&["path:sql/marts"], &["config.materialized:view"]), "c");
    assert_eq!(chosen(&["@a"], &[]), "codes a b c d d_is_empty");
    assert_eq!(chosen(&["d_is_empty"], &[]), "d_is_empty");

    let error = project.select(&["stagin".to_owned()], &[]).unwrap_err();
    assert!(error.downcast_ref::<ModelError>().is_some_and(|e| matches!(e, ModelError::Unknown { .. })));
}

#[test]
fn a_place_in_rendered_sql_leads_to_the_file() {
    let folder = Folder::new(&[(
        "sql/a.sql",
        "{# a #}\n{% set cols = ['id', 'naem'] %}\nselect {% for c in cols %}{{ c }}, {% endfor %}\n  pirce\nfrom {{ source('x', 'y') }}",
    )]);
    let project = folder.read();
    let model = &project.models["a"];

    let leads = |word: &str| {
        let at = model.sql.find(word).unwrap();
        model.authored.text.get(project.source_span(model, at..at + word.len()).unwrap())
    };

    assert_eq!(leads("pirce"), Some("pirce"));
    assert_eq!(leads("naem"), Some("{{ c }}"));
    assert!(Path::new(&model.file).ends_with("sql/a.sql"));
}
