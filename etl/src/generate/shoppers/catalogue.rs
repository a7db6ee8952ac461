//! The items that made-up shoppers look at and buy: a bounded sample of the catalogue.
use std::collections::BTreeMap;

use crate::generate::draw::mix;

/// What an item id looks like that no catalogue has.
pub const UNKNOWN_ITEM: &str = "default-movie";

/// The largest amount that fits `DECIMAL(10, 2)`, in cents.
const MAX_CENTS: i64 = 9_999_999_999;

/// One item as the catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueItem {
    /// The item's number.
    pub item_id: i64,
    /// The list price in hundredths; `None`: not given.
    pub list_price_cents: Option<i64>,
    /// The price's currency, ISO 4217.
    pub currency: Option<String>,
}

/// A sample of at most `max_items` items, the same one whatever order the items are offered in.
///
/// Every item has a number drawn from the seed and its own id; the items with the smallest numbers stay (a "bottom-k"
/// sample). An id offered twice counts once, as offered last.
#[derive(Debug, Clone)]
pub struct Catalogue {
    seed: u64,
    max_items: usize,
    currency: String,
    /// Drawn number and id to the price in cents, if the item can be bought.
    chosen: BTreeMap<(u64, i64), Option<i64>>,
}

impl Catalogue {
    /// An empty sample that takes at most `max_items`; only prices in `currency` count as prices.
    pub fn new(seed: u64, max_items: usize, currency: impl Into<String>) -> Self {
        Self { seed, max_items, currency: currency.into(), chosen: BTreeMap::new() }
    }

    /// Considers one item.
    pub fn offer(&mut self, item: &CatalogueItem) {
        let price = item
            .list_price_cents
            .filter(|cents| (0..=MAX_CENTS).contains(cents))
            .filter(|_| item.currency.as_deref() == Some(self.currency.as_str()));
        let drawn = mix(self.seed ^ mix(item.item_id.cast_unsigned()));
        self.chosen.insert((drawn, item.item_id), price);
        if self.chosen.len() > self.max_items {
            self.chosen.pop_last();
        }
    }

    /// How many items the sample has.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether the sample has no item: then shoppers look at unknown items only, and buy nothing.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Ids and prices in the order of the drawn numbers, which is no order at all.
    pub(super) fn into_items(self) -> Vec<(i64, Option<i64>)> {
        self.chosen.into_iter().map(|((_, item_id), price)| (item_id, price)).collect()
    }
}

impl Extend<CatalogueItem> for Catalogue {
    fn extend<I: IntoIterator<Item = CatalogueItem>>(&mut self, items: I) {
        for item in items {
            self.offer(&item);
        }
    }
}
