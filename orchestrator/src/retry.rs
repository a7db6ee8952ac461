//! How long to wait before the next attempt: exponential backoff with jitter, and the jitter is a function of its inputs.
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::{Retry, TaskError};

/// How often a task is tried again, and how long to wait in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u32,
    /// Wait before the second attempt; it doubles from there.
    pub delay: Duration,
    /// The longest wait.
    pub max_delay: Duration,
    /// Only failures with these codes are tried again, whatever they say of themselves; `K*` is every code that begins with `K`. Empty: those
    /// that may pass by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { retries: 0, delay: Duration::from_secs(5), max_delay: Duration::from_hours(1), only: Vec::new() }
    }
}

impl RetryPolicy {
    /// Whether a failure is one to try again after.
    pub fn covers(&self, error: &TaskError) -> bool {
        if self.only.is_empty() {
            return error.retry == Retry::Later;
        }
        self.only.iter().any(|code| match code.strip_suffix('*') {
            Some(beginning) => error.code.starts_with(beginning),
            None => *error.code == **code,
        })
    }

    /// Returns how long to wait after the failed attempt `attempt` (from 1), or `None` if it was the last.
    ///
    /// The wait is `delay × 2^(attempt − 1)`, at most `max_delay`, then scaled by a factor in `[0.75, 1.0]` drawn from `seed`: the
    /// same seed gives the same wait, so a decision can be repeated, and tasks that failed together do not return together.
    pub fn wait(&self, attempt: u32, seed: &str) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        let full = self.delay.saturating_mul(1 << doublings).min(self.max_delay);
        let mut hash = fnv64(seed.as_bytes());
        hash = (hash ^ u64::from(attempt)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The upper 16 bits are the best mixed ones.
        let share = u32::try_from(hash >> 48).unwrap_or_default();
        Some(full.saturating_sub(full.mul_f64(0.25 * f64::from(share) / 65_536.0)))
    }
}

/// FNV-1a, 64 bits. It only has to spread, not to resist anyone.
pub(crate) fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_then_end() {
        let policy = RetryPolicy {
            retries: 6,
            delay: Duration::from_secs(5),
            max_delay: Duration::from_mins(1),
            only: Vec::new(),
        };
        for (attempt, full) in [(1, 5.0), (2, 10.0), (3, 20.0), (4, 40.0), (5, 60.0), (6, 60.0)] {
            let wait = policy.wait(attempt, "movies/land").unwrap().as_secs_f64();
            assert!(wait <= full && wait >= 0.75 * full, "attempt {attempt}: {wait} of {full}");
        }
        assert_eq!(policy.wait(7, "movies/land"), None);
        assert_eq!(policy.wait(3, "a"), policy.wait(3, "a"));
        assert_ne!(policy.wait(3, "a"), policy.wait(3, "b"));
    }

    #[test]
    fn named_errors_only() {
        let error = |code: &str, retry| TaskError::new(code, "x", retry);
        let all = RetryPolicy::default();
        assert!(all.covers(&error("K0001", Retry::Later)) && !all.covers(&error("K0001", Retry::Never)));
        let some = RetryPolicy { only: vec!["K*".to_owned(), "D0110".to_owned()], ..all };
        for (code, wanted) in [("K0001", true), ("D0110", true), ("D0111", false), ("F0101", false)] {
            assert_eq!(some.covers(&error(code, Retry::Later)), wanted, "{code}");
        }
        assert!(some.covers(&error("K0001", Retry::Never)), "who names it knows why");
    }

    #[test]
    fn the_longest_waits_do_not_overflow() {
        let policy =
            RetryPolicy { retries: u32::MAX, delay: Duration::MAX, max_delay: Duration::MAX, only: Vec::new() };
        assert!(policy.wait(u32::MAX, "x").is_some());
    }
}
