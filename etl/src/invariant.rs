//! What must always hold about data, by id: one list for the checker of the tests, debug builds, and production.
//!
//! The write path says what it relies on with [`hold`]. A debug build stops there; what ships counts it, logs it and goes
//! on to the commit, which refuses what would do harm. `/metrics` shows the counts; any but zero is a bug.
use std::sync::atomic::{AtomicU64, Ordering};

/// Every invariant by its id.
pub const INVARIANTS: &[(&str, &str)] = &[
    ("P1", "no record is lost: below a partition's progress each is a row as it was produced, or a dead letter"),
    ("P2", "no record is visible twice, and none that was not produced"),
    ("P3", "rows of a partition become visible in the order of their offsets"),
    ("P4", "progress never goes back, and a fence only rises"),
    ("P5", "a record that cannot become a row is one dead letter, with its bytes; no other record is"),
    ("P6", "a version is whole: its files are there and hold what the log says of them, and no version is missing"),
    ("P7", "a commit's ranges begin where the last ended, and its rows lie in them"),
];

static BROKEN: [AtomicU64; INVARIANTS.len()] = [const { AtomicU64::new(0) }; INVARIANTS.len()];

/// Counts and logs it if an invariant does not hold; a debug build panics.
///
/// # Panics
/// In debug builds, if it does not hold.
pub fn hold(id: &'static str, holds: bool, found: impl FnOnce() -> String) {
    if !holds {
        broken(id, &found());
    }
}

#[cold]
fn broken(id: &'static str, found: &str) {
    count(id);
    tracing::error!(id, found, "an invariant is broken");
    debug_assert!(false, "{id}: {found}");
}

fn count(id: &str) {
    if let Some(index) = INVARIANTS.iter().position(|(known, _)| *known == id)
        && let Some(counter) = BROKEN.get(index)
    {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often each invariant was found broken since the process started.
pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    INVARIANTS.iter().zip(&BROKEN).map(|((id, _), counter)| (*id, counter.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_counted_by_its_id() {
        let before = counts().find(|(id, _)| *id == "P4").unwrap().1;
        count("P4");

        assert!(counts().find(|(id, _)| *id == "P4").unwrap().1 > before);
        hold("P1", true, || unreachable!("it holds"));
    }

    #[test]
    #[should_panic(expected = "P7: it is not so")]
    fn a_debug_build_stops_at_once() {
        hold("P7", false, || "it is not so".to_owned());
    }
}
