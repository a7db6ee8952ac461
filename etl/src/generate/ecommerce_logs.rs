//! Events of a shop as flat JSON, of which a quarter is wrong, each in one way.
//!
//! An event says of itself whether it is valid (`is_valid`) and what is wrong with it (`invalid_field`). That is the
//! producer's word: whoever lands the events has to look for themselves.
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::draw::{of_event, one_of, uuid};
use super::{Encoding, GenerateError, GeneratorKind, Made, Making, Output, Wanted};

/// The generator `ecommerce_logs`.
pub const KIND: GeneratorKind = GeneratorKind {
    name: "ecommerce_logs",
    about: "page views, carts and purchases as JSON, a quarter of them invalid; 2 events a second unless `rate` says otherwise",
    outputs: &[Output { kind: "event", topic: "raw_events", partitions: 1, encoding: Encoding::Json }],
    catalogue: false,
    rate: Some(2.0),
    open,
};

/// The number of the first customer. The default number of them gives `CUSTOMER_2705` to `CUSTOMER_3105`.
const FIRST_CUSTOMER: u64 = 2705;
const CUSTOMERS: u64 = 401;
/// The part of the events that are wrong.
const INVALID: f64 = 0.25;
/// How far back events lie.
const SPAN: TimeDelta = TimeDelta::days(14);
/// What an event may be about.
pub const EVENT_TYPES: [&str; 3] = ["PAGE_VIEW", "ADD_TO_CART", "PURCHASE"];
/// What events with a wrong type say.
const WRONG_TYPES: [&str; 3] = ["CLICK", "VIEW", "PAY"];
/// The fields that may be wrong, each as likely as the other.
pub const FAULTS: [&str; 4] = ["customer_id", "event_type", "amount", "currency"];

/// Events at random instants of the 14 days from `start`, or before `now`. Endless unless `events` are asked for.
fn open(wanted: &Wanted) -> Result<Making, GenerateError> {
    let customers = wanted.users.unwrap_or(CUSTOMERS);
    if customers == 0 {
        return Err(GenerateError::Nobody);
    }
    let start = wanted.start.unwrap_or(wanted.now - SPAN);
    let seed = wanted.seed;
    Ok(Box::new((0..wanted.events.unwrap_or(u64::MAX)).map(move |index| event(seed, index, start, customers))))
}

fn event(seed: u64, index: u64, start: DateTime<Utc>, customers: u64) -> Made {
    let rng = &mut of_event(seed, index);
    let event_id = uuid(rng);
    let customer = format!("CUSTOMER_{}", FIRST_CUSTOMER + rng.random_range(0..customers));
    let event_type = one_of(rng, &EVENT_TYPES);
    let cents: u32 = rng.random_range(20_000..=500_000);
    let at = start + TimeDelta::microseconds(rng.random_range(0..SPAN.num_microseconds().unwrap_or(1)));
    let fault = rng.random_bool(INVALID).then(|| one_of(rng, &FAULTS));
    let customer = (fault != Some("customer_id")).then_some(customer);
    let body = json!({
        "event_id": event_id,
        "customer_id": customer,
        "event_type": if fault == Some("event_type") { one_of(rng, &WRONG_TYPES) } else { event_type },
        "amount": if fault == Some("amount") { wrong_amount(rng) } else { Value::from(f64::from(cents) / 100.0) },
        "currency": (fault != Some("currency")).then_some("IND"),
        "timestamp": at.to_rfc3339_opts(SecondsFormat::Micros, false),
        "is_valid": fault.is_none(),
        "invalid_field": fault,
    });
    Made { kind: "event", key: customer, body }
}

/// From -5000 to -100, and not rounded to hundredths.
fn wrong_amount(rng: &mut StdRng) -> Value {
    Value::from(rng.random_range(-5000.0..-100.0))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::generate::shoppers::Catalogue;

    const NOW: DateTime<Utc> = DateTime::from_timestamp_micros(1_767_571_200_000_000).unwrap();

    fn wanted(seed: u64, events: u64) -> Wanted {
        let catalogue = Catalogue::new(seed, 0, "");
        Wanted { seed, users: None, events: Some(events), start: None, now: NOW, catalogue }
    }

    #[test]
    fn the_same_seed_gives_the_same_events_from_any_place_on() {
        let all: Vec<Made> = open(&wanted(7, 500)).unwrap().collect();
        let mut later = open(&wanted(7, 500)).unwrap();

        assert_eq!(later.nth(299).as_ref(), all.get(299));
        assert_eq!(later.collect::<Vec<_>>(), all[300..]);
        assert_ne!(open(&wanted(8, 500)).unwrap().collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_quarter_is_wrong_in_exactly_one_way_each() {
        let mut faults: BTreeMap<String, u32> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for made in open(&wanted(3, 8_000)).unwrap() {
            let body = &made.body;
            let amount = body["amount"].as_f64().unwrap();
            let wrong = [
                body["customer_id"].is_null(),
                !EVENT_TYPES.contains(&body["event_type"].as_str().unwrap()),
                amount <= 0.0,
                body["currency"].is_null(),
            ];
            let found: Vec<&str> =
                FAULTS.into_iter().zip(wrong).filter(|(_, wrong)| *wrong).map(|(name, _)| name).collect();
            assert!(found.len() <= 1, "{body}");
            assert_eq!(body["invalid_field"].as_str(), found.first().copied(), "{body}");
            assert_eq!(body["is_valid"].as_bool(), Some(found.is_empty()), "{body}");
            assert_eq!(made.key.as_deref(), body["customer_id"].as_str());
            if amount > 0.0 {
                assert!((200.0..=5000.0).contains(&amount));
                assert!((amount * 100.0 - (amount * 100.0).round()).abs() < 1e-6, "{amount} is not in hundredths");
            }
            let at: DateTime<Utc> = body["timestamp"].as_str().unwrap().parse().unwrap();
            assert!(at >= NOW - SPAN && at < NOW, "{at}");
            assert!(body["timestamp"].as_str().unwrap().ends_with("+00:00"));
            assert!(ids.insert(body["event_id"].as_str().unwrap().to_owned()), "an id came twice");
            *faults.entry(found.first().map_or("none", |name| name).to_owned()).or_default() += 1;
        }
        // A quarter of 8,000 is 2,000; four standard deviations are 155, of each kind of fault 87.
        let valid = faults.remove("none").unwrap();
        assert!(valid.abs_diff(6_000) < 155, "{valid} valid");
        assert_eq!(faults.len(), 4);
        assert!(faults.values().all(|count| count.abs_diff(500) < 87), "{faults:?}");
    }

    #[test]
    fn customers_are_those_of_the_seed() {
        let customers: BTreeSet<String> = open(&wanted(5, 8_000)).unwrap().filter_map(|made| made.key).collect();

        assert_eq!(customers.len(), 401);
        assert_eq!(customers.first().map(String::as_str), Some("CUSTOMER_2705"));
        assert_eq!(customers.last().map(String::as_str), Some("CUSTOMER_3105"));
    }
}
