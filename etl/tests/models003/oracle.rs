//! What the models must say, by plain loops over the raw events: slow, and as close to the definitions as can be.
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Weekday};
use tidemill_etl::generate::shoppers::EventKind;

use super::lake::{Lake, Landed, Movie, Row, cents};

pub(crate) const HOUR: i64 = 3_600_000_000;
pub(crate) const QUARTER: i64 = HOUR / 4;
const DAY: i64 = 24 * HOUR;

/// A session as the definition has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) ended_by: &'static str,
}

pub(crate) fn of(landed: &[Landed], kind: EventKind) -> impl Iterator<Item = &Landed> {
    landed.iter().filter(move |landed| landed.event.kind == kind)
}

fn floor(at: i64, width: i64) -> i64 {
    at.div_euclid(width) * width
}

fn row<const N: usize>(cells: [&dyn ToString; N]) -> Row {
    cells.iter().map(|cell| cell.to_string()).collect()
}

fn or_null<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// From each sign-in to the first later sign-out or sign-in of the user, else 12 hours.
pub(crate) fn sessions(landed: &[Landed]) -> Vec<Session> {
    let mut sessions = BTreeSet::new();
    for sign_in in of(landed, EventKind::SignIn) {
        let (user, start) = (&sign_in.event.key, sign_in.at());
        let next = |kind: EventKind| {
            of(landed, kind).filter(|other| other.event.key == *user && other.at() > start).map(Landed::at).min()
        };
        let (end, ended_by) = match (next(EventKind::SignOut), next(EventKind::SignIn)) {
            (None, None) => (start + 12 * HOUR, "timeout"),
            (Some(out), None) => (out, "sign_out"),
            (Some(out), Some(again)) if out <= again => (out, "sign_out"),
            (_, Some(again)) => (again, "next_sign_in"),
        };
        sessions.insert(Session { user: user.clone(), start, end, ended_by });
    }
    sessions.into_iter().collect()
}

/// Type, start and end of each window somebody registered in, with the number of distinct users.
pub(crate) fn registration_windows(landed: &[Landed]) -> Vec<Row> {
    let registrations: Vec<(i64, &str)> =
        of(landed, EventKind::ConsumerRegistration).map(|landed| (landed.at(), landed.event.key.as_str())).collect();
    let Some(first) = registrations.iter().map(|(at, _)| *at).min() else { return Vec::new() };
    let last = registrations.iter().map(|(at, _)| *at).max().unwrap();

    let mut rows = Vec::new();
    for (kind, step) in [("tumbling", HOUR), ("sliding", QUARTER)] {
        let mut start = floor(first, HOUR) - HOUR;
        while start <= last {
            let users: BTreeSet<&str> = registrations
                .iter()
                .filter(|(at, _)| start <= *at && *at < start + HOUR)
                .map(|(_, user)| *user)
                .collect();
            if !users.is_empty() {
                rows.push(row([&kind, &start, &(start + HOUR), &users.len()]));
            }
            start += step;
        }
    }
    rows.sort();
    rows
}

/// Instant, open sessions, hour, and the most open at once in that hour.
fn active_sessions(sessions: &[Session]) -> Vec<Row> {
    let Some(first) = sessions.iter().map(|session| floor(session.start, HOUR)).min() else { return Vec::new() };
    let end = sessions.iter().map(|session| session.end).max().unwrap();
    let open = |at: i64| sessions.iter().filter(|session| session.start <= at && at < session.end).count();
    let hours = || (0..).map(|hour| first + hour * HOUR).take_while(|hour| *hour < end);
    let busy: BTreeSet<i64> = hours()
        .filter(|hour| sessions.iter().any(|session| session.start < hour + HOUR && *hour < session.end))
        .collect();

    let mut rows = Vec::new();
    for hour in hours() {
        let before = busy.range(..=hour).next_back().unwrap();
        let after = busy.range(hour..).next().unwrap();
        if *before != hour && after - before > 168 * HOUR {
            continue;
        }
        // The count only grows where a session starts, so its highest is at one of these or is carried in.
        let most = sessions
            .iter()
            .map(|session| session.start)
            .filter(|start| (hour..hour + HOUR).contains(start))
            .chain([hour])
            .map(open)
            .max()
            .unwrap();
        for quarter in 0..4 {
            let at = hour + quarter * QUARTER;
            rows.push(row([&at, &open(at), &hour, &most]));
        }
    }
    rows.sort();
    rows
}

fn session_durations(sessions: &[Session]) -> Vec<Row> {
    let mut hours: BTreeMap<i64, Vec<&Session>> = BTreeMap::new();
    for session in sessions {
        hours.entry(floor(session.start, HOUR)).or_default().push(session);
    }
    let mut rows: Vec<Row> = hours
        .into_iter()
        .map(|(hour, sessions)| {
            let lengths: Vec<i64> = sessions.iter().map(|session| session.end - session.start).collect();
            let timed_out = sessions.iter().filter(|session| session.ended_by == "timeout").count();
            let mean = seconds(lengths.iter().sum::<i64>(), lengths.len());
            let longest = seconds(*lengths.iter().max().unwrap(), 1);
            row([&hour, &lengths.len(), &timed_out, &format!("{mean:?}"), &format!("{longest:?}")])
        })
        .collect();
    rows.sort();
    rows
}

#[expect(clippy::cast_precision_loss, reason = "sums of session lengths are far below 2^53 microseconds")]
fn seconds(micros: i64, count: usize) -> f64 {
    micros as f64 / count as f64 / 1e6
}

/// Each cart line once, as its earliest record, with the number of its records.
pub(crate) fn checkouts(landed: &[Landed]) -> Vec<(&Landed, usize)> {
    let mut lines: BTreeMap<(&str, &str), Vec<&Landed>> = BTreeMap::new();
    for checkout in of(landed, EventKind::CheckoutToCart) {
        lines.entry((checkout.text("cart_id"), checkout.text("movie_id"))).or_default().push(checkout);
    }
    lines
        .into_values()
        .map(|records| {
            let earliest = records.iter().min_by_key(|landed| (landed.at(), landed.partition, landed.offset)).unwrap();
            (*earliest, records.len())
        })
        .collect()
}

/// Item, cents, units and the time of the newest check-out.
pub(crate) fn movie_sales(landed: &[Landed]) -> Vec<Row> {
    let mut sales: BTreeMap<&str, (i64, usize, i64)> = BTreeMap::new();
    for (checkout, _) in checkouts(landed) {
        let sold = sales.entry(checkout.text("movie_id")).or_insert((0, 0, i64::MIN));
        *sold = (sold.0 + cents(checkout), sold.1 + 1, sold.2.max(checkout.at()));
    }
    let mut rows: Vec<Row> =
        sales.into_iter().map(|(movie, (total, units, newest))| row([&movie, &total, &units, &newest])).collect();
    rows.sort();
    rows
}

fn dim_user(landed: &[Landed]) -> Vec<Row> {
    let users: BTreeSet<&str> = landed.iter().map(|landed| landed.event.key.as_str()).collect();
    let mut rows: Vec<Row> = users
        .into_iter()
        .map(|user| {
            let times = || landed.iter().filter(|landed| landed.event.key == user).map(Landed::at);
            let first = of(landed, EventKind::ConsumerRegistration)
                .filter(|landed| landed.event.key == user)
                .min_by_key(|landed| (landed.at(), landed.partition, landed.offset));
            row([
                &user,
                &or_null(first.map(Landed::at)),
                &or_null(first.map(|first| first.event.body["age"].as_i64().unwrap())),
                &or_null(first.map(|first| first.text("masked_email"))),
                &or_null(first.map(|first| first.text("preferred_language").trim()).filter(|text| !text.is_empty())),
                &times().min().unwrap(),
                &times().max().unwrap(),
            ])
        })
        .collect();
    rows.sort();
    rows
}

fn user_segments(landed: &[Landed]) -> Vec<Row> {
    let users: BTreeSet<&str> = landed.iter().map(|landed| landed.event.key.as_str()).collect();
    let (checkouts, sessions) = (checkouts(landed), sessions(landed));
    let mut rows: Vec<Row> = users
        .into_iter()
        .map(|user| {
            let purchases = checkouts.iter().filter(|(landed, _)| landed.event.key == user).count();
            let views = of(landed, EventKind::ItemView).filter(|landed| landed.event.key == user).count();
            let sign_ins = sessions.iter().filter(|session| session.user == user).count();
            let purchase = match purchases {
                0 => "Inactive",
                1..=4 => "Low",
                5..=10 => "Medium",
                _ => "High",
            };
            let view = match views {
                0..=19 => "Rare",
                20..=50 => "Casual",
                _ => "Frequent",
            };
            let engagement = match sign_ins {
                0..=9 => "Less Engaged",
                10..=20 => "Moderately Engaged",
                _ => "Highly Engaged",
            };
            row([&user, &purchases, &views, &sign_ins, &purchase, &view, &engagement])
        })
        .collect();
    rows.sort();
    rows
}

fn dim_date(landed: &[Landed]) -> Vec<Row> {
    let days = || landed.iter().map(|landed| landed.at().div_euclid(DAY));
    let (Some(first), Some(last)) = (days().min(), days().max()) else { return Vec::new() };
    let mut rows: Vec<Row> = (first..=last)
        .map(|day| {
            let date = DateTime::from_timestamp_micros(day * DAY).unwrap().date_naive();
            row([
                &day,
                &date.year(),
                &(date.month0() / 3 + 1),
                &date.month(),
                &date.day(),
                &date.iso_week().week(),
                &date.weekday().number_from_monday(),
                &date.format("%B"),
                &date.format("%A"),
                &matches!(date.weekday(), Weekday::Sat | Weekday::Sun),
            ])
        })
        .collect();
    rows.sort();
    rows
}

/// Compares every model with its definition.
pub(crate) async fn compare(lake: &Lake, landed: &[Landed], movies: &[Movie], case: &str) {
    let case = Case { lake, name: case };
    dimensions(&case, landed, movies).await;
    facts(&case, landed, movies).await;
    aggregates(&case, landed).await;
}

struct Case<'a> {
    lake: &'a Lake,
    name: &'a str,
}

impl Case<'_> {
    async fn same(&self, model: &str, columns: &[&str], mut expected: Vec<Row>) {
        expected.sort();
        let actual = self.lake.rows(model, columns).await;
        for (place, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            assert_eq!(actual, expected, "{}: {model}, row {place} of {columns:?}", self.name);
        }
        assert_eq!(actual.len(), expected.len(), "{}: rows of {model}", self.name);
    }
}

async fn dimensions(case: &Case<'_>, landed: &[Landed], movies: &[Movie]) {
    case.same(
        "dim_user",
        &["user_id", "registered_at", "age", "masked_email", "preferred_language", "first_seen_at", "last_seen_at"],
        dim_user(landed),
    )
    .await;
    let unknown = row([&"unknown", &"-", &"Unknown item", &"-", &"-"]);
    let items = movies.iter().map(|movie| {
        let price = or_null(movie.list_price_cents);
        let currency = or_null(movie.list_price_cents.map(|_| "USD"));
        row([&movie.item_id, &movie.item_id, &movie.title, &price, &currency])
    });
    case.same(
        "dim_movie",
        &["movie_key", "item_id", "title", "list_price", "list_price_currency"],
        items.chain([unknown]).collect(),
    )
    .await;
    case.same(
        "dim_date",
        &[
            "calendar_date",
            "year",
            "quarter",
            "month",
            "day_of_month",
            "iso_week",
            "day_of_week",
            "month_name",
            "day_name",
            "weekend",
        ],
        dim_date(landed),
    )
    .await;
}

async fn facts(case: &Case<'_>, landed: &[Landed], movies: &[Movie]) {
    let known: BTreeSet<String> = movies.iter().map(|movie| movie.item_id.to_string()).collect();
    let key = |item: &str| if known.contains(item) { item.to_owned() } else { "unknown".to_owned() };
    let sessions = sessions(landed);
    case.same(
        "fact_session",
        &["user_id", "started_at", "ended_at", "start_date", "ended_by", "duration_seconds"],
        sessions
            .iter()
            .map(|session| {
                let length = seconds(session.end - session.start, 1);
                row([
                    &session.user,
                    &session.start,
                    &session.end,
                    &session.start.div_euclid(DAY),
                    &session.ended_by,
                    &format!("{length:?}"),
                ])
            })
            .collect(),
    )
    .await;
    let ids = case.lake.rows("fact_session", &["session_id"]).await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), sessions.len(), "{}: session ids", case.name);
    case.same(
        "fact_view",
        &["event_id", "viewed_at", "view_date", "user_id", "item_id", "movie_key"],
        of(landed, EventKind::ItemView)
            .map(|view| {
                let item = view.text("item_id");
                row([&view.event_id(), &view.at(), &view.at().div_euclid(DAY), &view.event.key, &item, &key(item)])
            })
            .collect(),
    )
    .await;
    case.same(
        "fact_cart",
        &["event_id", "added_at", "add_date", "user_id", "cart_id", "item_id", "movie_key"],
        of(landed, EventKind::AddedToCart)
            .map(|add| {
                let (item, cart) = (add.text("item_id"), add.text("cart_id"));
                row([&add.event_id(), &add.at(), &add.at().div_euclid(DAY), &add.event.key, &cart, &item, &key(item)])
            })
            .collect(),
    )
    .await;
    case.same(
        "fact_checkout",
        &[
            "cart_id",
            "movie_id",
            "movie_key",
            "user_id",
            "checked_out_at",
            "checkout_date",
            "payment_method",
            "purchase_amount",
            "records",
        ],
        checkouts(landed)
            .into_iter()
            .map(|(line, records)| {
                row([
                    &line.text("cart_id"),
                    &line.text("movie_id"),
                    &key(line.text("movie_id")),
                    &line.event.key,
                    &line.at(),
                    &line.at().div_euclid(DAY),
                    &line.text("payment_method"),
                    &cents(line),
                    &records,
                ])
            })
            .collect(),
    )
    .await;
}

async fn aggregates(case: &Case<'_>, landed: &[Landed]) {
    let sessions = sessions(landed);
    case.same(
        "registration_windows",
        &["window_type", "window_start", "window_end", "registrations"],
        registration_windows(landed),
    )
    .await;
    case.same(
        "active_sessions",
        &["measured_at", "active_sessions", "hour_start", "hour_max_sessions"],
        active_sessions(&sessions),
    )
    .await;
    case.same(
        "session_durations",
        &["hour_start", "sessions", "timed_out_sessions", "average_duration_seconds", "longest_duration_seconds"],
        session_durations(&sessions),
    )
    .await;
    case.same("movie_sales", &["movie_id", "total_sales", "units", "aggregated_at"], movie_sales(landed)).await;
    case.same(
        "user_segments",
        &["user_id", "purchases", "views", "sign_ins", "purchase_segment", "view_segment", "engagement_segment"],
        user_segments(landed),
    )
    .await;
}
