//! Merges the stories of many users into one stream in event-time order.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chrono::{DateTime, SecondsFormat, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value};
use uuid::Builder;

use super::catalogue::{Catalogue, UNKNOWN_ITEM};
use super::event::{Event, EventKind};
use super::settings::{Extent, Settings};
use super::shopper::{Action, Shopper};
use crate::generate::GenerateError;

/// The largest prime below 1,000,000,000. User ids are `a·n + b` modulo it: no two of so many users share one.
const USER_IDS: u64 = 999_999_937;

/// A user waiting for their next step. Ordered by time, then by who came first.
struct Waiting {
    at: i64,
    order: u64,
    shopper: Shopper,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// An iterator of user events in event-time order. See the [module](super) for what it promises.
pub struct Generator {
    settings: Settings,
    items: Vec<(i64, Option<i64>)>,
    rng: StdRng,
    open: BinaryHeap<Reverse<Waiting>>,
    /// Users who have come so far.
    users: u64,
    /// When the next one wants to come, microseconds since 1970.
    next_user_at: f64,
    /// Mean time between two of them, microseconds.
    mean_gap_us: f64,
    /// The time of the last event.
    now: i64,
    events: u64,
    id_factor: u64,
    id_offset: u64,
}

impl Generator {
    /// Starts at `settings.start` with the items of `catalogue`, which may have none.
    ///
    /// # Errors
    /// If the settings leave nothing to generate: a share outside 0 to 1, no span, nobody or no room for anybody.
    pub fn new(settings: Settings, catalogue: Catalogue) -> Result<Self, GenerateError> {
        settings.check()?;
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let start = settings.start.timestamp_micros();
        let span_us = settings.span.num_microseconds().unwrap_or(i64::MAX);
        let mut generator = Self {
            items: catalogue.into_items(),
            open: BinaryHeap::new(),
            users: 0,
            next_user_at: as_float(start),
            mean_gap_us: as_float(span_us) / as_float(i64::try_from(settings.users.max(1)).unwrap_or(i64::MAX)),
            now: start,
            events: 0,
            id_factor: rng.random_range(1..USER_IDS),
            id_offset: rng.random_range(0..USER_IDS),
            rng,
            settings,
        };
        generator.schedule_next_user();
        Ok(generator)
    }

    /// Users who have come so far.
    pub fn users(&self) -> u64 {
        self.users
    }

    /// Exponential gaps: users come independently of each other, at a constant rate.
    fn schedule_next_user(&mut self) {
        let uniform: f64 = self.rng.random();
        self.next_user_at += -(1.0 - uniform).ln() * self.mean_gap_us;
    }

    /// Lets the next user in if it is their turn.
    fn admit(&mut self) -> bool {
        let expected = self.settings.extent != Extent::Users || self.users < self.settings.users;
        if !expected || self.open.len() >= self.settings.max_open_users {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "microseconds since 1970 fit; the cast saturates")]
        let at = (self.next_user_at as i64).max(self.now);
        if self.open.peek().is_some_and(|Reverse(next)| next.at < at) {
            return false;
        }
        let user_id = 1 + (self.id_factor * (self.users % USER_IDS) + self.id_offset) % USER_IDS;
        let shopper = Shopper::new(user_id, at, &self.settings.habits, &self.items, &mut self.rng);
        self.open.push(Reverse(Waiting { at, order: self.users, shopper }));
        self.users += 1;
        self.schedule_next_user();
        true
    }

    fn event(&mut self, at: DateTime<Utc>, cart: &Cart, action: Action) -> Event {
        let kind = match action {
            Action::Register => EventKind::ConsumerRegistration,
            Action::SignIn => EventKind::SignIn,
            Action::View(_) => EventKind::ItemView,
            Action::Add(_) => EventKind::AddedToCart,
            Action::Pay(_) => EventKind::CheckoutToCart,
            Action::SignOut => EventKind::SignOut,
        };
        let user = cart.user_id.to_string();
        let mut body = Map::new();
        let mut text = |name: &str, value: String| {
            body.insert(name.to_owned(), Value::String(value));
        };
        text("timestamp", at.to_rfc3339_opts(SecondsFormat::Micros, true));
        text("event_name", kind.name().to_owned());
        text("user_id", user.clone());
        match action {
            Action::Register => {
                let letter = char::from(self.rng.random_range(b'a'..=b'z'));
                let domain = ["com", "net", "org"][self.rng.random_range(0..3)];
                let language = if self.rng.random_bool(0.5) { "eng" } else { "geo" };
                let age: u8 = self.rng.random_range(18..=95);
                body.insert("age".to_owned(), Value::from(age));
                body.insert("masked_email".to_owned(), Value::String(format!("{letter}***@example.{domain}")));
                body.insert("preferred_language".to_owned(), Value::from(language));
            }
            Action::View(item) => text("item_id", self.item_id(item)),
            Action::Add(item) => {
                text("item_id", self.item_id(Some(item)));
                text("cart_id", cart.text());
            }
            Action::Pay(item) => {
                let cents = self.items.get(item as usize).and_then(|(_, price)| *price).unwrap_or(0);
                text("cart_id", cart.text());
                text("payment_method", if cart.card { "Card" } else { "Cash" }.to_owned());
                text("movie_id", self.item_id(Some(item)));
                text("purchase_amount", format!("{}.{:02}", cents / 100, cents % 100));
            }
            Action::SignIn | Action::SignOut => {}
        }
        Event { kind, at, key: user, body: Value::Object(body) }
    }

    fn item_id(&self, index: Option<u32>) -> String {
        index
            .and_then(|index| self.items.get(index as usize))
            .map_or_else(|| UNKNOWN_ITEM.to_owned(), |(item_id, _)| item_id.to_string())
    }
}

/// Who acts and with which cart, at the moment of the action: the next session has another cart.
struct Cart {
    user_id: u64,
    id: u128,
    card: bool,
}

impl Cart {
    fn text(&self) -> String {
        Builder::from_random_bytes(self.id.to_be_bytes()).into_uuid().to_string()
    }
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if matches!(self.settings.extent, Extent::Events(limit) if self.events >= limit) {
            return None;
        }
        while self.admit() {}
        let Reverse(Waiting { order, mut shopper, .. }) = self.open.pop()?;
        let cart = Cart { user_id: shopper.user_id, id: shopper.cart, card: shopper.card };
        let step = shopper.take(&self.settings.habits, &self.items, &mut self.rng)?;
        if let Some(at) = shopper.next_at() {
            self.open.push(Reverse(Waiting { at, order, shopper }));
        }
        // Past the last instant chrono can name there is nothing left to generate.
        let at = DateTime::from_timestamp_micros(step.at)?;
        self.now = step.at;
        self.events += 1;
        Some(self.event(at, &cart, step.action))
    }
}

/// An integer as a float; microseconds of this millennium are exact.
#[expect(
    clippy::cast_precision_loss,
    reason = "times and rates: a rounding of microseconds over centuries is harmless"
)]
fn as_float(value: i64) -> f64 {
    value as f64
}
