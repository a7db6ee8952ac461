//! Rules, types and clean events: the pipeline `ecommerce_logs`. A quarter of the events are wrong in one way each. Those
//! that keep all rules are in the table, in the clean topic and in the warehouse, each once; of the others the dead letters
//! say which rule failed.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use serde_json::{Value, json};

use super::project::{Project, service, skipped};

const EVENTS: u64 = 4000;

/// The fault of an event by the rules of the assignment, found by looking, not by what the event says of itself.
fn fault(event: &Value) -> Option<&'static str> {
    let known = ["PAGE_VIEW", "ADD_TO_CART", "PURCHASE"];
    let blank = |field: &str| event[field].as_str().is_none_or(str::is_empty);
    if blank("customer_id") {
        Some("customer_id")
    } else if !event["event_type"].as_str().is_some_and(|of| known.contains(&of)) {
        Some("event_type")
    } else if event["amount"].as_f64().is_none_or(|amount| amount <= 0.0) {
        Some("amount")
    } else {
        blank("currency").then_some("currency")
    }
}

/// The values of a topic, in its order.
fn values(project: &Project, topic: &str) -> Vec<Value> {
    let lines = project.ok(&["topics", "tail", topic, "--from", "0", "--limit", "100000"]);
    lines.lines().map(|line| value(&serde_json::from_str(line).unwrap())).collect()
}

/// The JSON that a record holds, however `tail` shows it.
fn value(record: &Value) -> Value {
    match &record["value"] {
        Value::String(text) => serde_json::from_str(text).unwrap(),
        other => other.clone(),
    }
}

fn cents(number: &Value) -> i64 {
    let text = number.as_str().map_or_else(|| number.to_string(), str::to_owned);
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    whole.parse::<i64>().unwrap() * 100 + format!("{part:0<2}").parse::<i64>().unwrap()
}

/// Writes raw values to the topic.
fn produce(project: &Project, values: &[String]) {
    let mut child = project
        .command(&["topics", "produce", "raw_events", "--format", "base64"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for value in values {
        writeln!(input, "{}", base64::engine::general_purpose::STANDARD.encode(value)).unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_keeps_the_rules_is_in_table_topic_and_warehouse_once_and_the_rest_says_why() {
    let project = Project::of("ecommerce_logs");
    project.ok(&["dags", "run", "make_logs", "--param", &format!("events={EVENTS}"), "--param", "rate=0"]);
    let made = values(&project, "raw_events");
    assert_eq!(made.len() as u64, EVENTS);
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let mut good: BTreeMap<String, &Value> = BTreeMap::new();
    for event in &made {
        match fault(event) {
            Some(fault) => *faults.entry(fault).or_default() += 1,
            None => drop(good.insert(event["event_id"].as_str().unwrap().to_owned(), event)),
        }
    }
    assert_eq!(faults.len(), 4);
    let total: i64 = good.values().map(|event| cents(&event["amount"])).sum();

    project.ok(&["dags", "run", "clean_logs", "--drain"]);

    let reasons = "select reason, count(*) n from bronze.dead_letters group by reason order by reason";
    let expected = |faults: &BTreeMap<&str, u64>| -> Value {
        faults.iter().map(|(reason, n)| json!({ "reason": reason, "n": n })).collect()
    };
    assert_eq!(project.rows(reasons), expected(&faults));
    check(&project, &good, total);
    let detail = project.value("select min(detail) from bronze.dead_letters where reason = 'amount'");
    assert!(detail.as_str().unwrap().contains("amount = -"), "{detail}");

    // Again: nothing new anywhere. Then one event a second time, one that lies about itself, and one that is no JSON.
    let tables = project.tables();
    project.ok(&["dags", "run", "clean_logs", "--drain"]);
    assert_eq!(project.tables(), tables);
    let twice = good.values().next().unwrap().to_string();
    let mut liar: Value = serde_json::from_str(&twice).unwrap();
    liar["event_id"] = json!("a-liar");
    liar["amount"] = json!(-1);
    liar["is_valid"] = json!(true);
    let modest = json!({ "event_id": "modest", "customer_id": "CUSTOMER_1", "event_type": "PURCHASE", "amount": 12.3,
        "currency": "IND", "timestamp": "2026-01-05T10:00:00+00:00", "is_valid": false, "invalid_field": "amount" });
    produce(&project, &[twice, liar.to_string(), modest.to_string(), "{oops".to_owned()]);
    project.ok(&["dags", "run", "clean_logs", "--drain"]);

    good.insert("modest".to_owned(), &modest);
    check(&project, &good, total + 1230);
    let dead = project.rows(reasons);
    let count = |reason: &str| {
        dead.as_array().unwrap().iter().find(|row| row["reason"] == reason).map_or(0, |row| row["n"].as_u64().unwrap())
    };
    assert_eq!((count("duplicate"), count("amount")), (1, faults["amount"] + 1), "{dead}");
    assert_eq!(
        dead.as_array().unwrap().iter().map(|row| row["n"].as_u64().unwrap()).sum::<u64>(),
        faults.values().sum::<u64>() + 3
    );
}

/// Table, clean topic and warehouse hold exactly these events.
fn check(project: &Project, good: &BTreeMap<String, &Value>, total: i64) {
    let rows = project.rows(
        "select count(*) n, count(distinct event_id) ids, cast(sum(amount) as varchar) total from silver.kafka_events",
    );
    let money = format!("{}.{:02}", total / 100, total % 100);
    assert_eq!(rows, json!([{ "n": good.len(), "ids": good.len(), "total": money }]));

    let clean = values(project, "clean_events");
    assert_eq!(clean.len(), good.len());
    for event in &clean {
        let made = good[event["event_id"].as_str().unwrap()];
        assert_eq!(cents(&event["amount"]), cents(&made["amount"]), "{event}");
        for field in ["customer_id", "event_type", "currency"] {
            assert_eq!(event[field], made[field]);
        }
        assert!(event.get("_offset").is_none() && event.get("is_valid").is_none(), "{event}");
    }

    let warehouse = rusqlite::Connection::open(project.root().join("warehouse.db")).unwrap();
    let sql = "SELECT count(*), count(DISTINCT event_id), CAST(round(sum(amount) * 100) AS INTEGER), count(created_at) \
               FROM kafka_events_silver";
    let found: (i64, i64, i64, i64) =
        warehouse.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let n = i64::try_from(good.len()).unwrap();
    assert_eq!(found, (n, n, total, n));
}

#[test]
fn a_rule_about_a_field_that_nobody_sends_is_named() {
    let project = Project::of("ecommerce_logs");
    project.ok(&["dags", "run", "make_logs", "--param", "events=10", "--param", "rate=0"]);
    project.edit("dags/clean_logs.toml", |text| text.replace("expr = \"event_type IN", "expr = \"sum(event_type) IN"));

    let told = project.fails(4, &["dags", "run", "clean_logs", "--drain"]);

    assert!(told.contains("L0350") && told.contains("`event_type`") && told.contains("more than one row"), "{told}");
}

/// Runs both pipelines with their warehouse in Postgres, in a schema of the test's own.
#[tokio::test]
async fn in_postgres_columns_have_the_types_of_the_assignment_and_events_are_documents() {
    let name = "in_postgres_columns_have_the_types_of_the_assignment_and_events_are_documents";
    let Some(url) = service("POSTGRES") else { return skipped(name, "needs TIDEMILL_TEST_POSTGRES") };
    let schema = format!("t{}", std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let warehouse = format!("\n[warehouse]\nurl = \"{url}\"\nschema = \"{schema}\"\n");
    // Tables of the lake's schema `gold` go to the database's schema of that name, which other tests have too.
    let no_gold = |text: String| text.replace("schema = \"gold\"", "schema = \"none\"");
    let logs = Project::of("ecommerce_logs");
    logs.edit("tidemill.toml", |text| text + &warehouse);
    logs.edit("dags/clean_logs.toml", no_gold);
    let events = Project::of("customer_events");
    events.edit("tidemill.toml", |text| text + &warehouse);
    events.edit("dags/customer_events.toml", no_gold);

    logs.ok(&["dags", "run", "make_logs", "--param", "events=1500", "--param", "rate=0"]);
    logs.ok(&["dags", "run", "clean_logs", "--drain"]);
    logs.ok(&["dags", "run", "clean_logs", "--drain"]);
    events.ok(&["dags", "run", "make_events", "--param", "events=1500"]);
    events.ok(&["dags", "run", "customer_events", "--drain"]);

    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    drop(tokio::spawn(connection));
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a \
               WHERE a.attrelid = ($1::text || '.kafka_events_silver')::regclass AND a.attnum > 0 ORDER BY a.attnum";
    let columns = client.query(sql, &[&schema]).await.unwrap();
    let columns: Vec<(String, String)> = columns.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [
        ("event_id", "text"),
        ("customer_id", "text"),
        ("event_type", "text"),
        ("amount", "numeric(10,2)"),
        ("currency", "text"),
        ("event_timestamp", "timestamp with time zone"),
        ("created_at", "timestamp with time zone"),
    ];
    assert_eq!(columns.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect::<Vec<_>>(), expected);
    let one = async |sql: String| client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0);
    let of_table = "select concat_ws('|', count(*), count(distinct event_id), cast(sum(amount) as varchar)) from silver.kafka_events";
    let loaded = format!(
        "SELECT concat_ws('|', count(*), count(distinct event_id), sum(amount)) FROM {schema}.kafka_events_silver"
    );
    assert_eq!(json!(one(loaded).await), logs.value(of_table));
    // The unique key is the database's own: a second row with an id that is there is refused.
    let again = format!("INSERT INTO {schema}.kafka_events_silver SELECT * FROM {schema}.kafka_events_silver LIMIT 1");
    assert_eq!(
        client.execute(&again, &[]).await.unwrap_err().code().map(tokio_postgres::error::SqlState::code),
        Some("23505")
    );
    let titles = format!(
        "SELECT string_agg(data->'content'->>'title', '|' ORDER BY event_id) FROM {schema}.all_data WHERE pg_typeof(data) = 'jsonb'::regtype"
    );
    let landed = "select string_agg(content['title'], '|' order by event_id) from bronze.customer_events";
    assert_eq!(json!(one(titles).await), events.value(landed), "every title as it was, quotes and backslashes too");
    client.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
}
