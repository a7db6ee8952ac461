//! Drawing: one event's own random numbers, and what several generators draw.
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng as _};
use uuid::Builder;

/// Spreads 64 bits: the finalizer of `SplitMix64` (Steele, Lea, Flood 2014). Different inputs give different outputs.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The random numbers of event `index`: any event can be made without those before it.
pub(super) fn of_event(seed: u64, index: u64) -> StdRng {
    StdRng::seed_from_u64(mix(seed) ^ mix(mix(index)))
}

/// A random UUID, version 4.
pub(super) fn uuid(rng: &mut StdRng) -> String {
    Builder::from_random_bytes(rng.random()).into_uuid().to_string()
}

/// One of `choices`, each as likely as the other.
pub(super) fn one_of<'a>(rng: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices.choose(rng).copied().unwrap_or_default()
}
