//! One user's story: what they do next, and when.
use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;

use super::settings::Habits;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// Views of one session, at most.
const MAX_VIEWS: usize = 40;
/// Lines of one cart, at most.
const MAX_LINES: usize = 8;
/// Sessions of one user, at most: whoever comes back for ever would never leave memory.
const MAX_SESSIONS: u8 = 30;

/// A place in the generator's list of items; `None`: an item that the catalogue does not have.
pub(super) type ItemIndex = Option<u32>;

/// What a user does at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Register,
    SignIn,
    View(ItemIndex),
    Add(u32),
    Pay(u32),
    SignOut,
}

/// An action with its time in microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) at: i64,
    pub(super) action: Action,
}

/// The items with their prices in cents, in no order: earlier ones are looked at more.
pub(super) type Items = [(i64, Option<i64>)];

/// A user whose story is not over.
#[derive(Debug)]
pub(super) struct Shopper {
    pub(super) user_id: u64,
    /// The cart of this session.
    pub(super) cart: u128,
    /// Whether this cart is paid by card.
    pub(super) card: bool,
    sessions: u8,
    keen: bool,
    steps: VecDeque<Step>,
}

impl Shopper {
    /// A new user who registers at `at`.
    pub(super) fn new(user_id: u64, at: i64, habits: &Habits, items: &Items, rng: &mut StdRng) -> Self {
        // One in eight looks and returns much more than the rest, so that every segment has members.
        let keen = rng.random_bool(0.125);
        let mut shopper = Self { user_id, cart: 0, card: false, sessions: 0, keen, steps: VecDeque::new() };
        shopper.step(at, Action::Register);
        let after = at + rng.random_range(2 * SECOND..=60 * SECOND);
        if rng.random_bool(habits.stray_sign_out) {
            shopper.step(after, Action::SignOut);
        } else {
            shopper.plan_session(after, habits, items, rng);
        }
        shopper
    }

    /// The next step, without taking it.
    pub(super) fn next_at(&self) -> Option<i64> {
        self.steps.front().map(|step| step.at)
    }

    /// Takes the next step. After a session's last step the user may decide to come back.
    pub(super) fn take(&mut self, habits: &Habits, items: &Items, rng: &mut StdRng) -> Option<Step> {
        let step = self.steps.pop_front()?;
        if self.steps.is_empty() && self.sessions > 0 && self.sessions < MAX_SESSIONS {
            let returns = if self.keen { habits.returns.sqrt().sqrt() } else { habits.returns };
            if rng.random_bool(returns) {
                // The action of the session that just ended still needs its cart: plan keeps it apart by time only,
                // so the caller reads `cart` before the next call.
                let longest = if self.keen { 12 } else { 72 };
                self.plan_session(step.at + rng.random_range(HOUR / 2..=longest * HOUR), habits, items, rng);
            }
        }
        Some(step)
    }

    fn step(&mut self, at: i64, action: Action) {
        self.steps.push_back(Step { at, action });
    }

    /// Plans everything from a sign-in at `start` to the sign-out.
    fn plan_session(&mut self, start: i64, habits: &Habits, items: &Items, rng: &mut StdRng) {
        self.sessions += 1;
        self.cart = rng.random();
        self.card = rng.random_bool(0.8);
        let mut now = start;
        self.step(now, Action::SignIn);
        if rng.random_bool(habits.signs_in_twice) {
            now += rng.random_range(SECOND..=120 * SECOND);
            self.step(now, Action::SignIn);
        }
        let mut lines: Vec<u32> = Vec::new();
        let more = if self.keen { 0.9 } else { 0.7 };
        for _ in 0..MAX_VIEWS {
            now += rng.random_range(3 * SECOND..=180 * SECOND);
            let item = choose(items, habits, rng);
            self.step(now, Action::View(item));
            if let Some(item) = item.filter(|index| priced(items, *index))
                && lines.len() < MAX_LINES
                && !lines.contains(&item)
                && rng.random_bool(habits.adds)
            {
                now += rng.random_range(SECOND..=30 * SECOND);
                self.step(now, Action::Add(item));
                lines.push(item);
            }
            if !rng.random_bool(more) {
                break;
            }
        }
        if !lines.is_empty() && rng.random_bool(habits.buys) {
            now += rng.random_range(5 * SECOND..=240 * SECOND);
            let mut again = Vec::new();
            for item in lines {
                self.step(now, Action::Pay(item));
                if rng.random_bool(habits.duplicate_checkout) {
                    again.push(item);
                }
                now += rng.random_range(1_000..=40_000);
            }
            for item in again {
                now += rng.random_range(50_000..=5 * SECOND);
                self.step(now, Action::Pay(item));
            }
        }
        if !rng.random_bool(habits.never_signs_out) {
            now += rng.random_range(SECOND..=600 * SECOND);
            self.step(now, Action::SignOut);
        }
    }
}

/// An item to look at; small places come more often, as few items make most of the sales.
fn choose(items: &Items, habits: &Habits, rng: &mut StdRng) -> ItemIndex {
    if items.is_empty() || rng.random_bool(habits.unknown_item) {
        return None;
    }
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let place = rng.random_range(0..count);
    Some(rng.random_range(0..=place))
}

fn priced(items: &Items, index: u32) -> bool {
    items.get(index as usize).is_some_and(|(_, price)| price.is_some())
}
