//! The shoppers among the other generators.
use chrono::TimeDelta;

use super::event::EventKind;
use super::generator::Generator;
use super::settings::{Extent, Settings};
use crate::generate::{Encoding, GenerateError, GeneratorKind, Made, Making, Output, Wanted};

/// How many users register if nobody says.
const USERS: u64 = 1000;

/// The generator `shoppers`.
pub const KIND: GeneratorKind = GeneratorKind {
    name: "shoppers",
    about: "shoppers over the catalogue: registrations, sessions, views, carts, check-outs, as Avro",
    outputs: &[
        output(EventKind::ConsumerRegistration),
        output(EventKind::SignIn),
        output(EventKind::SignOut),
        output(EventKind::ItemView),
        output(EventKind::AddedToCart),
        output(EventKind::CheckoutToCart),
    ],
    catalogue: true,
    rate: None,
    open,
};

const fn output(kind: EventKind) -> Output {
    Output { kind: kind.name(), topic: kind.default_topic(), partitions: 1, encoding: Encoding::Avro }
}

/// Stories that begin at `start`, or three days before `now`; until `users` have told theirs, or `events` are out.
fn open(wanted: &Wanted) -> Result<Making, GenerateError> {
    let mut shop = Settings::new(wanted.seed, wanted.start.unwrap_or(wanted.now - TimeDelta::days(3)));
    shop.users = wanted.users.unwrap_or(USERS);
    shop.extent = wanted.events.map_or(Extent::Users, Extent::Events);
    let events = Generator::new(shop, wanted.catalogue.clone())?;
    Ok(Box::new(events.map(|event| Made { kind: event.kind.name(), key: Some(event.key), body: event.body })))
}
