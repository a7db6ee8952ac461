//! Windows through SQL, against what is written out by hand.
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SessionStateBuilder;
use datafusion::optimizer::Optimizer;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::{Panes, planned, register};

/// A session, with panes or without.
fn session(panes: bool) -> SessionContext {
    let mut rules = Optimizer::new().rules;
    if panes {
        rules.insert(0, Arc::new(Panes));
    }
    let config =
        SessionConfig::new().with_target_partitions(2).set_bool("datafusion.sql_parser.parse_float_as_decimal", true);
    let state =
        SessionStateBuilder::new().with_config(config).with_default_features().with_optimizer_rules(rules).build();
    let context = SessionContext::new_with_state(state);
    register(&context);
    context
}

const EVENTS: &str = "(SELECT CAST(t AS TIMESTAMP) AS t, k, n, CAST(n AS DOUBLE) AS f, CAST(n AS DECIMAL(5, 2)) AS d FROM (VALUES \
     ('2026-01-01T10:00:00', 'a', 1), ('2026-01-01T10:00:59.999999', 'a', 2), ('2026-01-01T10:01:00', 'b', 3), \
     ('2026-01-01T10:03:10', 'a', 4), ('1969-12-31T23:59:59', 'b', 5), (NULL, 'a', 6), ('2026-01-01T10:01:30', NULL, NULL)) \
     v(t, k, n)) e";

async fn rows(context: &SessionContext, sql: &str) -> Result<Vec<String>, crate::Error> {
    let sql = sql.replace("EVENTS", EVENTS);
    let failed = |e: datafusion::error::DataFusionError| match e.find_root() {
        datafusion::error::DataFusionError::External(_) => {
            let datafusion::error::DataFusionError::External(inner) = e else { panic!("wrapped: {e}") };
            *inner.downcast::<crate::Error>().unwrap()
        }
        _ => crate::engine::EngineError::from_datafusion(e, 0).into(),
    };
    let statement = crate::engine::parse(&sql).map_err(failed)?;
    let plan = planned(&context.state(), statement).await.map_err(failed)?;
    let batches = context.execute_logical_plan(plan).await.unwrap().collect().await.map_err(failed)?;
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let mut rows: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" "))
        .collect();
    rows.sort();
    Ok(rows)
}

#[tokio::test]
async fn a_tumbling_window_holds_its_start_and_not_its_end_and_1969_works() {
    let sql = "SELECT window_start, window_end, count(*) AS n FROM EVENTS GROUP BY tumble(t, INTERVAL '1 minute')";

    assert_eq!(
        rows(&session(true), sql).await.unwrap(),
        [
            "1969-12-31T23:59:00 1970-01-01T00:00:00 1",
            "2026-01-01T10:00:00 2026-01-01T10:01:00 2",
            "2026-01-01T10:01:00 2026-01-01T10:02:00 2",
            "2026-01-01T10:03:00 2026-01-01T10:04:00 1",
        ]
    );
}

#[tokio::test]
async fn hopping_windows_start_at_multiples_of_the_slide_and_hold_each_row_once_each() {
    let sql = "SELECT k, window_start, window_end, sum(n) AS n FROM EVENTS WHERE k = 'a' \
               GROUP BY hop(t, INTERVAL '1 minute', INTERVAL '2 minutes'), k";

    assert_eq!(
        rows(&session(true), sql).await.unwrap(),
        [
            "a 2026-01-01T09:59:00 2026-01-01T10:01:00 3",
            "a 2026-01-01T10:00:00 2026-01-01T10:02:00 3",
            "a 2026-01-01T10:02:00 2026-01-01T10:04:00 4",
            "a 2026-01-01T10:03:00 2026-01-01T10:05:00 4",
        ]
    );
}

#[tokio::test]
async fn a_session_ends_a_gap_behind_its_last_row_and_a_row_there_begins_another() {
    let sql = "SELECT k, window_start, window_end, count(*) AS n FROM (VALUES \
               (TIMESTAMP '2026-01-01 10:00:00', 'a'), (TIMESTAMP '2026-01-01 10:04:59', 'a'), \
               (TIMESTAMP '2026-01-01 10:09:59', 'a'), (TIMESTAMP '2026-01-01 10:02:00', 'b'), (NULL, 'b')) v(t, k) \
               GROUP BY session(t, INTERVAL '5 minutes'), k";

    assert_eq!(
        rows(&session(true), sql).await.unwrap(),
        [
            "a 2026-01-01T10:00:00 2026-01-01T10:09:59 2",
            "a 2026-01-01T10:09:59 2026-01-01T10:14:59 1",
            "b 2026-01-01T10:02:00 2026-01-01T10:07:00 1",
        ]
    );
}

#[tokio::test]
async fn panes_give_what_every_row_in_every_window_gives() {
    let aggregates = "count(*) AS a, count(n) AS b, sum(n) AS c, sum(d) AS d, min(n) AS e, max(k) AS f, avg(f) AS g, avg(n) AS h, \
                      count(DISTINCT k) AS i, count(*) FILTER (WHERE n > 2) AS j, bool_and(n > 1) AS l, sum(f) AS m";
    for (slide, size) in [("1 minute", "3 minutes"), ("40 seconds", "1 minute"), ("1 second", "1 minute")] {
        for (key, by) in [("k, ", ", k"), ("", "")] {
            let sql = format!(
                "SELECT {key}window_start, {aggregates} FROM EVENTS \
                 GROUP BY hop(t, INTERVAL '{slide}', INTERVAL '{size}'){by} HAVING count(*) > 0"
            );

            let (with, without) =
                (rows(&session(true), &sql).await.unwrap(), rows(&session(false), &sql).await.unwrap());

            assert_eq!(with, without, "{sql}");
            assert!(with.len() > 5);
        }
    }
}

#[tokio::test]
async fn rows_are_not_multiplied_by_windows() {
    let sql = format!(
        "SELECT window_start, count(*) AS n, count(DISTINCT k) AS k FROM {EVENTS} GROUP BY hop(t, INTERVAL '1 second', INTERVAL '60 seconds')"
    );
    let context = session(true);
    let plan = planned(&context.state(), crate::engine::parse(&sql).unwrap()).await.unwrap();

    let plan = context.state().optimize(&plan).unwrap().display_indent().to_string();

    let (_, below) = plan.split_once("Unnest").unwrap();
    assert!(below.contains("Aggregate: groupBy=[[tumble("), "rows are aggregated before they go into windows:\n{plan}");
}

#[tokio::test]
async fn a_slide_longer_than_the_size_leaves_times_out() {
    let sql = "SELECT window_start, sum(n) AS n FROM EVENTS GROUP BY hop(t, INTERVAL '1 hour', INTERVAL '1 minute')";

    assert_eq!(rows(&session(true), sql).await.unwrap(), ["2026-01-01T10:00:00 3"]);
}

#[tokio::test]
async fn window_names_work_in_having_order_by_and_over_windows_of_windows() {
    let sql = "SELECT window_start AS day, count(*) AS minutes, max(m.window_end) AS last FROM ( \
                 SELECT window_start, window_end, count(*) AS n, rank() OVER (ORDER BY window_start) AS r FROM EVENTS \
                 GROUP BY tumble(t, INTERVAL '1' MINUTE) HAVING window_end > TIMESTAMP '2000-01-01' ORDER BY window_end \
               ) m GROUP BY tumble(m.window_start, INTERVAL '1 day') ORDER BY window_start";

    assert_eq!(rows(&session(true), sql).await.unwrap(), ["2026-01-01T00:00:00 3 2026-01-01T10:04:00"]);
}

#[tokio::test]
async fn a_window_can_be_grouped_by_its_alias_or_place() {
    for by in ["w", "1"] {
        let sql = format!(
            "SELECT hop(t, INTERVAL '1 hour', INTERVAL '1 hour') AS w, window_end, count(*) AS n FROM EVENTS GROUP BY {by}"
        );

        assert_eq!(
            rows(&session(true), &sql).await.unwrap(),
            ["1969-12-31T23:00:00 1970-01-01T00:00:00 1", "2026-01-01T10:00:00 2026-01-01T11:00:00 5"]
        );
    }
}

#[tokio::test]
async fn wrong_use_is_said() {
    let cases = [
        ("GROUP BY tumble(k, INTERVAL '1 hour')", "its first argument is of the type Utf8, not a timestamp"),
        (
            "GROUP BY tumble(CAST(t AS DATE), INTERVAL '1 hour')",
            "its first argument is of the type Date32, not a timestamp",
        ),
        ("GROUP BY tumble(t, INTERVAL '0 hours')", "its size is not above zero"),
        ("GROUP BY tumble(t, INTERVAL '-1 hours')", "its size is not above zero"),
        ("GROUP BY tumble(t, INTERVAL '1 month')", "its size has months or years, which are not equally long"),
        ("GROUP BY tumble(t, '1 hour')", "its size is of the type Utf8, not an interval"),
        ("GROUP BY tumble(t)", "it has 1 arguments and takes 2"),
        ("GROUP BY hop(t, INTERVAL '1 hour')", "it has 2 arguments and takes 3"),
        (
            "GROUP BY hop(t, INTERVAL '1 microsecond', INTERVAL '1 hour')",
            "each instant would be in 3600000000 windows, and 100000 are the most",
        ),
        ("GROUP BY session(t, NULL)", "its gap is NULL"),
        (
            "GROUP BY session(arrow_cast(t, 'Timestamp(s)'), INTERVAL '500 milliseconds')",
            "its gap is finer than the timestamps, which count in Seconds",
        ),
        ("GROUP BY tumble(t, INTERVAL '1 hour'), session(t, INTERVAL '1 hour')", "GROUP BY has 2 windows"),
        ("WHERE session(t, INTERVAL '1 hour') > t", "it is outside of GROUP BY"),
    ];
    for (by, why) in cases {
        let error = rows(&session(true), &format!("SELECT count(*) AS n FROM EVENTS {by}")).await.unwrap_err();

        assert_eq!((error.code(), error.why().as_deref()), ("Q0020", Some(why)), "{by}");
        assert!(error.explain().fix().is_some());
    }
}

#[tokio::test]
async fn the_examples_of_the_docs_give_what_the_docs_say() {
    let page = include_str!("../../../../docs/windows.md");
    let mut examples = 0;
    for example in page.split("```sql\n").skip(1) {
        let (sql, rest) = example.split_once("```").unwrap();
        let Some(expected) = rest.trim_start().strip_prefix("```text\n") else { continue };
        let (expected, _) = expected.split_once("```").unwrap();

        assert_eq!(rows(&session(true), sql).await.unwrap(), expected.lines().collect::<Vec<_>>(), "{sql}");
        examples += 1;
    }
    assert_eq!(examples, 2);
}
