//! What the generator hands on.
use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// The kinds of user events, each with a schema and a topic of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A user signed up.
    ConsumerRegistration,
    /// A user signed in.
    SignIn,
    /// A user signed out.
    SignOut,
    /// A user looked at an item.
    ItemView,
    /// A user put an item into a cart.
    AddedToCart,
    /// A user paid for one line of a cart.
    CheckoutToCart,
}

impl EventKind {
    /// Every kind, in the order of a user's story.
    pub const ALL: [Self; 6] = [
        Self::ConsumerRegistration,
        Self::SignIn,
        Self::SignOut,
        Self::ItemView,
        Self::AddedToCart,
        Self::CheckoutToCart,
    ];

    /// The value of the field `event_name`; schema files are named after it too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsumerRegistration => "consumer_registration",
            Self::SignIn => "sign_in",
            Self::SignOut => "sign_out",
            Self::ItemView => "item_view",
            Self::AddedToCart => "added_to_cart",
            Self::CheckoutToCart => "checkout_to_cart",
        }
    }

    /// The topic these events go to unless settings say otherwise.
    pub const fn default_topic(self) -> &'static str {
        match self {
            Self::ConsumerRegistration => "consumer_registration_topic",
            Self::SignIn => "sign_in_topic",
            Self::SignOut => "sign_out_topic",
            Self::ItemView => "item_view_topic",
            Self::AddedToCart => "added_to_cart_topic",
            Self::CheckoutToCart => "checkout_to_cart_topic",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One event, not yet encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When it happened, whole microseconds; never before the event handed out earlier.
    pub at: DateTime<Utc>,
    /// The record's key: the user, so that a user's events of one kind stay in order.
    pub key: String,
    /// The fields in the order of the schema. Identifiers and amounts are text: `"purchase_amount": "8.99"`.
    pub body: Value,
}
