//! Hand-made events: what generated ones seldom or never are.
use serde_json::{Value, json};
use tidemill_etl::generate::shoppers::{Event, EventKind};

use super::lake::{Lake, Landed, Movie, Row, instant, land};
use super::{movies, oracle};

fn event(kind: EventKind, at: &str, user: &str, more: &Value) -> Event {
    let mut body = json!({ "timestamp": at, "event_name": kind.name(), "user_id": user });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Event { kind, at: instant(at), key: user.to_owned(), body }
}

fn register(at: &str, user: &str, age: i64) -> Event {
    let more = json!({ "age": age, "masked_email": "a***@example.com", "preferred_language": " " });
    event(EventKind::ConsumerRegistration, at, user, &more)
}

fn sign_in(at: &str, user: &str) -> Event {
    event(EventKind::SignIn, at, user, &json!({}))
}

fn sign_out(at: &str, user: &str) -> Event {
    event(EventKind::SignOut, at, user, &json!({}))
}

fn view(at: &str, user: &str, item: &str) -> Event {
    event(EventKind::ItemView, at, user, &json!({ "item_id": item }))
}

fn checkout(at: &str, user: &str, cart: &str, movie: &str, amount: &str) -> Event {
    let more = json!({ "cart_id": cart, "payment_method": "Cash", "movie_id": movie, "purchase_amount": amount });
    event(EventKind::CheckoutToCart, at, user, &more)
}

/// Builds the models, compares them with their definitions, runs the checks.
async fn lake(events: impl IntoIterator<Item = Event>) -> (Lake, Vec<Landed>) {
    let landed = land(events);
    let lake = Lake::build(&landed, &movies(), 1, &[]).await;
    oracle::compare(&lake, &landed, &movies(), "by hand").await;
    #[cfg(feature = "polars")]
    super::polars_oracle::compare(&lake, &landed, "by hand").await;
    lake.assert_checks_pass("by hand").await;
    (lake, landed)
}

fn row(cells: &[&str]) -> Row {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn micros(at: &str) -> String {
    instant(at).timestamp_micros().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_without_a_sign_in_is_no_session() {
    let (lake, _) = lake([
        sign_out("2025-02-17T10:00:00Z", "1"),
        sign_in("2025-02-17T11:00:00Z", "1"),
        sign_out("2025-02-17T11:30:00Z", "1"),
        sign_out("2025-02-17T11:40:00Z", "1"),
        sign_out("2025-02-17T11:10:00Z", "2"),
    ])
    .await;

    let sessions = lake.rows("fact_session", &["user_id", "duration_seconds", "ended_by"]).await;
    assert_eq!(sessions, [row(&["1", "1800.0", "sign_out"])]);
    assert_eq!(lake.rows("dim_user", &["user_id", "registered_at"]).await, [row(&["1", "-"]), row(&["2", "-"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sign_in_ends_the_first_session_and_twelve_hours_end_the_last() {
    let (lake, _) = lake([
        sign_in("2025-02-17T10:00:00Z", "1"),
        sign_in("2025-02-17T10:05:00.000001Z", "1"),
        // Sent twice: the same user and instant is one sign-in.
        sign_in("2025-02-17T20:00:00Z", "2"),
        sign_in("2025-02-17T20:00:00Z", "2"),
    ])
    .await;

    let sessions = lake.rows("fact_session", &["user_id", "duration_seconds", "ended_by"]).await;
    assert_eq!(
        sessions,
        [
            row(&["1", "300.000001", "next_sign_in"]),
            row(&["1", "43200.0", "timeout"]),
            row(&["2", "43200.0", "timeout"])
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_out_is_a_variable() {
    let landed = land([sign_in("2025-02-17T10:00:00Z", "1")]);
    let lake = Lake::build(&landed, &[], 1, &[("session_timeout_hours", 2)]).await;

    assert_eq!(lake.rows("fact_session", &["duration_seconds"]).await, [row(&["7200.0"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_at_the_instant_of_a_sign_in_is_not_later() {
    let (lake, _) = lake([
        sign_in("2025-02-17T10:00:00Z", "1"),
        sign_out("2025-02-17T10:00:00Z", "1"),
        // Both at once end the session as a sign-out, and the sign-in starts the next.
        sign_in("2025-02-17T10:20:00Z", "1"),
        sign_out("2025-02-17T10:20:00Z", "1"),
        sign_out("2025-02-17T10:50:00Z", "1"),
    ])
    .await;

    let sessions = lake.rows("fact_session", &["duration_seconds", "ended_by"]).await;
    assert_eq!(sessions, [row(&["1200.0", "sign_out"]), row(&["1800.0", "sign_out"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_the_hour_and_over_midnight_is_open_in_every_hour_it_touches() {
    let (lake, _) = lake([
        sign_in("2025-02-17T22:40:00Z", "1"),
        sign_out("2025-02-18T00:15:00Z", "1"),
        // Two that never meet, but both in the hour: one ends as the other starts.
        sign_in("2025-02-17T23:01:00Z", "2"),
        sign_out("2025-02-17T23:02:00Z", "2"),
        sign_in("2025-02-17T23:02:00Z", "3"),
        sign_out("2025-02-17T23:03:00Z", "3"),
    ])
    .await;

    let open = lake.rows("active_sessions", &["measured_at", "active_sessions", "hour_max_sessions"]).await;
    let expected: Vec<Row> = [
        ("2025-02-17T22:00:00Z", "0", "1"),
        ("2025-02-17T22:15:00Z", "0", "1"),
        ("2025-02-17T22:30:00Z", "0", "1"),
        ("2025-02-17T22:45:00Z", "1", "1"),
        ("2025-02-17T23:00:00Z", "1", "2"),
        ("2025-02-17T23:15:00Z", "1", "2"),
        ("2025-02-17T23:30:00Z", "1", "2"),
        ("2025-02-17T23:45:00Z", "1", "2"),
        ("2025-02-18T00:00:00Z", "1", "1"),
        ("2025-02-18T00:15:00Z", "0", "1"),
        ("2025-02-18T00:30:00Z", "0", "1"),
        ("2025-02-18T00:45:00Z", "0", "1"),
    ]
    .map(|(at, open, most)| row(&[&micros(at), open, most]))
    .into();
    assert_eq!(open, expected);
    let hours = lake.rows("session_durations", &["hour_start", "sessions", "average_duration_seconds"]).await;
    assert_eq!(
        hours,
        [row(&[&micros("2025-02-17T22:00:00Z"), "1", "5700.0"]), row(&[&micros("2025-02-17T23:00:00Z"), "2", "60.0"])]
    );
    assert_eq!(
        lake.rows("dim_date", &["day_name", "weekend"]).await,
        [row(&["Monday", "false"]), row(&["Tuesday", "false"])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_hours_have_rows_but_idle_years_do_not() {
    let (lake, _) = lake([
        sign_in("2001-01-01T00:10:00Z", "1"),
        sign_out("2001-01-01T00:20:00Z", "1"),
        sign_in("2025-02-17T10:00:00Z", "2"),
        sign_out("2025-02-17T10:30:00Z", "2"),
        sign_in("2025-02-17T13:00:00Z", "2"),
        sign_out("2025-02-17T14:00:00Z", "2"),
    ])
    .await;

    let open = lake.rows("active_sessions", &["measured_at", "active_sessions"]).await;
    assert_eq!(open.len(), 4 + 4 * 4);
    assert!(open.contains(&row(&[&micros("2025-02-17T12:00:00Z"), "0"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_on_the_edge_belongs_to_the_window_that_begins_there() {
    let (lake, _) = lake([
        register("2025-02-17T10:00:00Z", "1", 20),
        register("2025-02-17T10:59:59.999999Z", "2", 30),
        register("2025-02-17T11:00:00Z", "3", 40),
        // The same user again, in the same hour and the same sliding hours.
        register("2025-02-17T10:20:00Z", "1", 21),
        // Before 1970 as well.
        register("1969-12-31T23:59:59.999999Z", "4", 50),
    ])
    .await;

    let windows = lake
        .query("SELECT window_start, registrations FROM gold.registration_windows WHERE window_type = 'tumbling'")
        .await;
    assert_eq!(
        windows,
        [
            row(&[&micros("1969-12-31T23:00:00Z"), "1"]),
            row(&[&micros("2025-02-17T10:00:00Z"), "2"]),
            row(&[&micros("2025-02-17T11:00:00Z"), "1"])
        ]
    );
    let sliding = lake
        .query(&format!(
            "SELECT registrations FROM gold.registration_windows WHERE window_type = 'sliding' \
             AND CAST(window_start AS BIGINT) = {}",
            micros("2025-02-17T10:15:00Z")
        ))
        .await;
    assert_eq!(sliding, [row(&["3"])]);
    assert_eq!(
        lake.query("SELECT age, preferred_language FROM gold.dim_user WHERE user_id = '1'").await,
        [row(&["20", "-"])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_sent_again_counts_once_as_its_earliest() {
    let (lake, _) = lake([
        checkout("2025-02-17T10:00:05Z", "1", "c1", "1", "8.99"),
        checkout("2025-02-17T10:00:01Z", "1", "c1", "1", "7.99"),
        checkout("2025-02-17T10:00:02Z", "1", "c1", "2", "0.01"),
        checkout("2025-02-17T10:00:03Z", "2", "c2", "1", "99999999.99"),
        checkout("2025-02-17T10:00:04Z", "2", "c3", "default-movie", "1.00"),
    ])
    .await;

    assert_eq!(
        lake.rows("movie_sales", &["movie_id", "movie_key", "title", "units", "total_sales", "aggregated_at"]).await,
        [
            row(&["1", "1", "Title 1", "2", "10000000798", &micros("2025-02-17T10:00:03Z")]),
            row(&["2", "2", "Title 2", "1", "1", &micros("2025-02-17T10:00:02Z")]),
            row(&["default-movie", "unknown", "Unknown item", "1", "100", &micros("2025-02-17T10:00:04Z")]),
        ]
    );
    assert_eq!(lake.query("SELECT sum(records), count(*) FROM gold.fact_checkout").await, [row(&["5", "4"])]);
    let total = lake.data_type("movie_sales", "total_sales").await;
    assert_eq!(total.to_string(), "Decimal128(18, 2)");
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_change_exactly_at_their_thresholds() {
    let mut events = Vec::new();
    for (user, count) in
        [("a", 1), ("b", 4), ("c", 5), ("d", 10), ("e", 11), ("f", 19), ("g", 20), ("h", 21), ("i", 50), ("j", 51)]
    {
        for nth in 0..count {
            let at = format!("2025-02-17T10:{nth:02}:00Z");
            events.push(view(&at, user, "1"));
            events.push(sign_in(&at, user));
            events.push(checkout(&at, user, &format!("{user}{nth}"), "1", "8.99"));
        }
    }
    let (lake, _) = lake(events).await;

    let segments =
        lake.rows("user_segments", &["user_id", "purchase_segment", "view_segment", "engagement_segment"]).await;
    assert_eq!(
        segments,
        [
            row(&["a", "Low", "Rare", "Less Engaged"]),
            row(&["b", "Low", "Rare", "Less Engaged"]),
            row(&["c", "Medium", "Rare", "Less Engaged"]),
            row(&["d", "Medium", "Rare", "Moderately Engaged"]),
            row(&["e", "High", "Rare", "Moderately Engaged"]),
            row(&["f", "High", "Rare", "Moderately Engaged"]),
            row(&["g", "High", "Casual", "Moderately Engaged"]),
            row(&["h", "High", "Casual", "Highly Engaged"]),
            row(&["i", "High", "Casual", "Highly Engaged"]),
            row(&["j", "High", "Frequent", "Highly Engaged"]),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_the_year_2500_stops_no_model_and_is_found_by_a_check() {
    let landed = land([
        register("2500-12-31T23:59:59Z", "1", 20),
        sign_in("2500-12-30T10:00:00Z", "1"),
        sign_in("2025-02-17T10:00:00Z", "2"),
        register("2025-02-17T10:00:00Z", "2", 20),
    ]);
    let lake = Lake::build(&landed, &[], 1, &[]).await;

    assert_eq!(lake.rows("fact_session", &["user_id"]).await.len(), 2);
    // One hour and four sliding ones for each of the two.
    assert_eq!(lake.rows("registration_windows", &["window_type"]).await.len(), 10);
    assert_eq!(lake.rows("session_durations", &["sessions"]).await.len(), 2);
    assert_eq!(lake.check("event_times_have_windows").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_find_what_they_are_for() {
    let landed = land([
        register("2025-02-17T10:00:00Z", "1", 20),
        sign_in("2025-02-17T10:00:00Z", "1"),
        view("2025-02-17T10:01:00Z", "1", "1"),
        checkout("2025-02-17T10:02:00Z", "1", "c1", "1", "8.99"),
        sign_in("2025-02-17T12:00:00Z", "1"),
    ]);
    let cases = [
        (
            "sales_match_checkouts",
            "movie_sales",
            "SELECT * REPLACE (total_sales + 0.01 AS total_sales) FROM gold.movie_sales",
        ),
        ("sales_match_checkouts", "movie_sales", "SELECT * FROM gold.movie_sales WHERE false"),
        (
            "dimension_keys_are_unique",
            "dim_movie",
            "SELECT * FROM gold.dim_movie UNION ALL SELECT * FROM gold.dim_movie",
        ),
        ("dimension_keys_are_unique", "dim_user", "SELECT * REPLACE (NULL AS user_id) FROM gold.dim_user"),
        (
            "sessions_end_after_they_start",
            "fact_session",
            "SELECT * REPLACE (started_at AS ended_at) FROM gold.fact_session",
        ),
        (
            "sessions_end_after_they_start",
            "fact_session",
            "SELECT * REPLACE (started_at + INTERVAL '3 hours' AS ended_at) FROM gold.fact_session",
        ),
        (
            "checkouts_count_once",
            "fact_checkout",
            "SELECT * FROM gold.fact_checkout UNION ALL SELECT * FROM gold.fact_checkout",
        ),
        ("facts_lose_nothing", "fact_view", "SELECT * FROM gold.fact_view WHERE false"),
        ("facts_lose_nothing", "fact_checkout", "SELECT * FROM gold.fact_checkout WHERE false"),
        ("facts_find_their_dimensions", "dim_movie", "SELECT * FROM gold.dim_movie WHERE movie_key <> '1'"),
        ("facts_find_their_dimensions", "dim_date", "SELECT * FROM gold.dim_date WHERE false"),
        (
            "active_sessions_are_possible",
            "active_sessions",
            "SELECT * REPLACE (CAST(9 AS BIGINT) AS active_sessions) FROM gold.active_sessions",
        ),
    ];

    for (check, model, broken) in cases {
        let lake =
            Lake::build(&landed, &[Movie { item_id: 1, title: "One".to_owned(), list_price_cents: Some(899) }], 1, &[])
                .await;
        lake.assert_checks_pass(check).await;
        lake.replace(model, broken).await;
        assert!(!lake.check(check).await.is_empty(), "{check} did not find {broken}");
    }
}
