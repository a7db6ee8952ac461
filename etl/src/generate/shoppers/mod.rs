//! Made-up shoppers on real catalogue items: the events of seed 003, from nothing but a seed.
//!
//! [`Generator`] is an iterator of [`Event`]s in event-time order. It is pure: the same [`Settings`] and the same
//! [`Catalogue`] give the same events, on any day and in any place. It knows no clock and no topic; the caller decides
//! how fast events go out and where to. Memory is bounded by `max_items` (the catalogue is a sample) and by
//! `max_open_users` (users whose story is not over).
//!
//! A user's story: register → sign in → view items → put some into a cart → check out, one event a cart line →
//! sign out → perhaps come back. [`Habits`] say how often it goes otherwise: nobody signs out, sign-ins and check-outs
//! are sent twice, items are looked at that no catalogue has. Only items with a price in the shop's currency are
//! bought, at that price. Real mail addresses never exist here: only the masked form is made.
mod catalogue;
mod event;
mod generator;
mod kind;
mod settings;
mod shopper;
#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, CatalogueItem, UNKNOWN_ITEM};
pub use event::{Event, EventKind};
pub use generator::Generator;
pub use kind::KIND;
pub use settings::{Extent, Habits, Settings};
