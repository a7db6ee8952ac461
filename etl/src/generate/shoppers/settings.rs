//! How many shoppers, over what time, and how well they behave.
use chrono::{DateTime, TimeDelta, Utc};

use crate::generate::GenerateError;

/// When the generator ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// When all `users` have come and their stories are over.
    Users,
    /// After this many events, wherever the stories are. Users come until then, as many as it takes.
    Events(u64),
    /// Never: users come at the same rate for good.
    Endless,
}

/// What is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Same seed, same events.
    pub seed: u64,
    /// How many new users come during `span`.
    pub users: u64,
    /// The event time the first user comes after.
    pub start: DateTime<Utc>,
    /// The time the users come in. Their stories may end after it.
    pub span: TimeDelta,
    /// When to end.
    pub extent: Extent,
    /// At most this many catalogue items are used.
    pub max_items: usize,
    /// At most this many users have an unfinished story; more have to wait to come.
    pub max_open_users: usize,
    /// The shop's currency, ISO 4217: only items priced in it are bought.
    pub currency: String,
    /// How shoppers behave.
    pub habits: Habits,
}

impl Settings {
    /// 500 users over three days from `start`, with the default habits.
    pub fn new(seed: u64, start: DateTime<Utc>) -> Self {
        Self {
            seed,
            users: 500,
            start,
            span: TimeDelta::days(3),
            extent: Extent::Users,
            max_items: 10_000,
            max_open_users: 10_000,
            currency: "USD".to_owned(),
            habits: Habits::default(),
        }
    }

    /// Refuses what cannot be generated.
    pub(super) fn check(&self) -> Result<(), GenerateError> {
        for (setting, share) in self.habits.shares() {
            if !(0.0..=1.0).contains(&share) {
                return Err(GenerateError::Share { setting, share });
            }
        }
        if self.span <= TimeDelta::zero() {
            return Err(GenerateError::Span { span: self.span });
        }
        if self.users == 0 && self.extent != Extent::Users {
            return Err(GenerateError::Nobody);
        }
        if self.max_open_users == 0 {
            return Err(GenerateError::NoRoom);
        }
        Ok(())
    }
}

/// How shoppers behave: shares between 0 and 1 of the occasions on which they do something.
///
/// The defaults follow what the real capture of this assignment shows, e.g. 16 of 69 check-outs sent twice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Habits {
    /// Sessions after which the user comes back for another one.
    pub returns: f64,
    /// Views of an item with a price after which it goes into the cart.
    pub adds: f64,
    /// Carts with something in them that are paid for.
    pub buys: f64,
    /// Sessions that nobody signs out of.
    pub never_signs_out: f64,
    /// Sessions that begin with two sign-ins.
    pub signs_in_twice: f64,
    /// New users who sign out without ever having signed in.
    pub stray_sign_out: f64,
    /// Cart lines whose check-out is sent twice.
    pub duplicate_checkout: f64,
    /// Views of an item that the catalogue does not have.
    pub unknown_item: f64,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            returns: 0.4,
            adds: 0.35,
            buys: 0.7,
            never_signs_out: 0.1,
            signs_in_twice: 0.05,
            stray_sign_out: 0.02,
            duplicate_checkout: 0.2,
            unknown_item: 0.03,
        }
    }
}

impl Habits {
    /// Every share with its name.
    fn shares(&self) -> [(&'static str, f64); 8] {
        [
            ("returns", self.returns),
            ("adds", self.adds),
            ("buys", self.buys),
            ("never_signs_out", self.never_signs_out),
            ("signs_in_twice", self.signs_in_twice),
            ("stray_sign_out", self.stray_sign_out),
            ("duplicate_checkout", self.duplicate_checkout),
            ("unknown_item", self.unknown_item),
        ]
    }
}
