//! The generator's promises.
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::*;
use crate::generate::GenerateError;

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_739_803_933, 139_596_000).unwrap()
}

fn items() -> Vec<CatalogueItem> {
    (1..=200)
        .map(|item_id| CatalogueItem {
            item_id,
            list_price_cents: (item_id % 4 != 0).then_some(item_id * 37 + 99),
            currency: (item_id % 4 != 0).then(|| if item_id % 5 == 0 { "EUR" } else { "USD" }.to_owned()),
        })
        .collect()
}

fn catalogue(settings: &Settings) -> Catalogue {
    let mut catalogue = Catalogue::new(settings.seed, settings.max_items, &settings.currency);
    catalogue.extend(items());
    catalogue
}

fn events(settings: Settings) -> Vec<Event> {
    let catalogue = catalogue(&settings);
    Generator::new(settings, catalogue).unwrap().collect()
}

fn text<'a>(event: &'a Event, field: &str) -> &'a str {
    event.body[field].as_str().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_others() {
    let first = events(Settings::new(7, start()));
    let again = events(Settings::new(7, start()));
    let other = events(Settings::new(8, start()));

    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn events_come_in_event_time_order_and_say_their_own_time() {
    let events = events(Settings::new(11, start()));

    assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(events[0].at >= start());
    for event in &events {
        assert_eq!(text(event, "timestamp"), event.at.to_rfc3339_opts(SecondsFormat::Micros, true));
        assert_eq!(text(event, "timestamp").len(), "2025-02-17T14:52:13.596139Z".len());
        assert_eq!(text(event, "event_name"), event.kind.name());
        assert_eq!(text(event, "user_id"), event.key);
    }
}

#[test]
fn bodies_have_exactly_the_fields_of_their_schema() {
    let fields: BTreeMap<EventKind, &[&str]> = BTreeMap::from([
        (EventKind::ConsumerRegistration, &["age", "masked_email", "preferred_language"][..]),
        (EventKind::SignIn, &[]),
        (EventKind::SignOut, &[]),
        (EventKind::ItemView, &["item_id"]),
        (EventKind::AddedToCart, &["item_id", "cart_id"]),
        (EventKind::CheckoutToCart, &["cart_id", "payment_method", "movie_id", "purchase_amount"]),
    ]);

    let mut kinds = BTreeSet::new();
    for event in events(Settings::new(3, start())) {
        let names: Vec<&str> = event.body.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: Vec<&str> =
            ["timestamp", "event_name", "user_id"].iter().chain(fields[&event.kind]).copied().collect();
        assert_eq!(names, expected);
        kinds.insert(event.kind);
    }
    assert_eq!(kinds.len(), EventKind::ALL.len());
}

#[test]
fn every_user_registers_once_with_a_masked_address() {
    let mut users = BTreeSet::new();
    for event in events(Settings::new(5, start())).iter().filter(|event| event.kind == EventKind::ConsumerRegistration)
    {
        assert!(users.insert(event.key.clone()), "user {} registered twice", event.key);
        let (name, domain) = text(event, "masked_email").split_once('@').unwrap();
        assert_eq!((name.len(), name.get(1..)), (4, Some("***")));
        assert!(domain.starts_with("example."));
        assert!((18..=95).contains(&event.body["age"].as_i64().unwrap()));
        assert!(["eng", "geo"].contains(&text(event, "preferred_language")));
    }
    assert_eq!(users.len(), 500);
}

#[test]
fn only_items_priced_in_the_shops_currency_are_bought_and_at_their_price() {
    let settings = Settings::new(13, start());
    let prices: BTreeMap<String, i64> = items()
        .into_iter()
        .filter(|item| item.currency.as_deref() == Some("USD"))
        .filter_map(|item| Some((item.item_id.to_string(), item.list_price_cents?)))
        .collect();

    let (mut viewed_unpriced, mut bought) = (0, 0);
    for event in events(settings) {
        match event.kind {
            EventKind::CheckoutToCart => {
                let cents: i64 = text(&event, "purchase_amount").replace('.', "").parse().unwrap();
                assert_eq!(prices.get(text(&event, "movie_id")), Some(&cents));
                bought += 1;
            }
            EventKind::AddedToCart => assert!(prices.contains_key(text(&event, "item_id"))),
            EventKind::ItemView if !prices.contains_key(text(&event, "item_id")) => viewed_unpriced += 1,
            _ => {}
        }
    }
    assert!(bought > 100 && viewed_unpriced > 100, "{bought} bought, {viewed_unpriced} only looked at");
}

#[test]
fn a_checkout_pays_what_its_cart_was_given_and_some_are_sent_twice() {
    let events = events(Settings::new(17, start()));
    let added: BTreeSet<(&str, &str, &str)> = events
        .iter()
        .filter(|event| event.kind == EventKind::AddedToCart)
        .map(|event| (text(event, "user_id"), text(event, "cart_id"), text(event, "item_id")))
        .collect();

    let mut paid: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == EventKind::CheckoutToCart) {
        let line = (text(event, "user_id"), text(event, "cart_id"), text(event, "movie_id"));
        assert!(added.contains(&line), "{line:?} was paid but never added");
        *paid.entry((line.1, line.2)).or_default() += 1;
    }
    let twice = paid.values().filter(|count| **count == 2).count();
    assert!(twice > 0 && twice < paid.len() / 2, "{twice} of {} lines sent twice", paid.len());
    assert!(paid.values().all(|count| *count <= 2));
}

#[test]
fn habits_show_and_can_be_switched_off() {
    let settings = Settings::new(19, start());
    let good = Settings {
        habits: Habits {
            never_signs_out: 0.0,
            signs_in_twice: 0.0,
            stray_sign_out: 0.0,
            duplicate_checkout: 0.0,
            unknown_item: 0.0,
            ..Habits::default()
        },
        ..settings.clone()
    };
    let count = |events: &[Event], kind: EventKind| events.iter().filter(|event| event.kind == kind).count();
    let unknown = |events: &[Event]| {
        events
            .iter()
            .filter(|event| event.kind == EventKind::ItemView && text(event, "item_id") == UNKNOWN_ITEM)
            .count()
    };

    let (usual, good) = (events(settings), events(good));

    assert!(count(&usual, EventKind::SignIn) > count(&usual, EventKind::SignOut));
    assert_eq!(count(&good, EventKind::SignIn), count(&good, EventKind::SignOut));
    assert!(unknown(&usual) > 0);
    assert_eq!(unknown(&good), 0);
}

#[test]
fn extents_end_where_they_say() {
    let settings = Settings { users: 40, span: TimeDelta::hours(1), ..Settings::new(23, start()) };
    let limited = Settings { extent: Extent::Events(12_345), ..settings.clone() };
    let endless = Settings { extent: Extent::Endless, ..settings.clone() };

    assert_eq!(events(limited).len(), 12_345);
    let catalogue = catalogue(&endless);
    assert_eq!(Generator::new(endless, catalogue).unwrap().take(30_000).count(), 30_000);
    assert!(events(Settings { users: 0, ..settings }).is_empty());
}

#[test]
fn few_open_users_still_tell_all_stories() {
    let settings = Settings { max_open_users: 3, span: TimeDelta::seconds(1), users: 60, ..Settings::new(29, start()) };

    let events = events(settings);

    assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert_eq!(events.iter().filter(|event| event.kind == EventKind::ConsumerRegistration).count(), 60);
}

#[test]
fn an_empty_catalogue_is_looked_at_but_sells_nothing() {
    let settings = Settings::new(31, start());
    let empty = Catalogue::new(settings.seed, settings.max_items, "USD");

    let events: Vec<Event> = Generator::new(settings, empty).unwrap().collect();

    assert!(events.iter().any(|event| event.kind == EventKind::ItemView));
    assert!(!events.iter().any(|event| event.kind == EventKind::AddedToCart));
}

#[test]
fn the_sample_does_not_depend_on_the_order_of_the_items() {
    let mut forward = Catalogue::new(1, 50, "USD");
    let mut backward = Catalogue::new(1, 50, "USD");
    forward.extend(items());
    backward.extend(items().into_iter().rev());

    assert_eq!(forward.len(), 50);
    assert_eq!(forward.into_items(), backward.into_items());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let settings = Settings::new(1, start());
    let refused = |settings: Settings| {
        let catalogue = catalogue(&settings);
        Generator::new(settings, catalogue).err().unwrap()
    };

    let share = Habits { returns: 1.5, ..Habits::default() };
    assert_eq!(
        refused(Settings { habits: share, ..settings.clone() }),
        GenerateError::Share { setting: "returns", share: 1.5 }
    );
    let share = Habits { buys: f64::NAN, ..Habits::default() };
    assert!(matches!(refused(Settings { habits: share, ..settings.clone() }), GenerateError::Share { .. }));
    assert!(matches!(refused(Settings { span: TimeDelta::zero(), ..settings.clone() }), GenerateError::Span { .. }));
    assert_eq!(refused(Settings { users: 0, extent: Extent::Endless, ..settings.clone() }), GenerateError::Nobody);
    assert_eq!(refused(Settings { max_open_users: 0, ..settings }), GenerateError::NoRoom);
}
