//! When a micro-batch is full. Pure: told what happened and how long the batch has been open, it says what to do.
use std::time::Duration;

use crate::source::Budget;

/// What closes a micro-batch, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// This many records.
    pub rows: usize,
    /// About this many bytes of keys and values.
    pub bytes: usize,
    /// This long after its first record.
    pub linger: Duration,
}

/// The open micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filling {
    /// Records in it.
    pub rows: usize,
    /// Bytes in it.
    pub bytes: usize,
    /// How long ago its first record came.
    pub age: Duration,
}

/// What just happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The loop begins.
    Start,
    /// Records came and are counted in [`Filling`] already.
    Records,
    /// Nothing came in time.
    Idle,
    /// Nothing will come any more.
    End,
    /// The batch was committed; [`Filling`] is empty again.
    Committed,
    /// Somebody asked us to stop.
    Stop,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask the source for more, at most this much.
    Poll(Budget),
    /// Commit what is there.
    Commit,
    /// Commit what is there and leave.
    CommitAndEnd,
    /// Leave; there is nothing to commit.
    End,
}

/// The next step of the landing loop.
pub fn decide(filling: &Filling, event: Event, limits: &Limits) -> Action {
    let empty = filling.rows == 0;
    let full = filling.rows >= limits.rows || filling.bytes >= limits.bytes || (!empty && filling.age >= limits.linger);
    match event {
        Event::End | Event::Stop if empty => Action::End,
        Event::End | Event::Stop => Action::CommitAndEnd,
        Event::Start | Event::Records | Event::Idle | Event::Committed if full => Action::Commit,
        Event::Start | Event::Records | Event::Idle | Event::Committed => Action::Poll(Budget {
            rows: limits.rows - filling.rows,
            bytes: limits.bytes.saturating_sub(filling.bytes).max(1),
            linger: if empty { limits.linger } else { limits.linger.saturating_sub(filling.age) },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { rows: 10, bytes: 1000, linger: Duration::from_millis(250) };

    fn filling(rows: usize, bytes: usize, age_ms: u64) -> Filling {
        Filling { rows, bytes, age: Duration::from_millis(age_ms) }
    }

    #[test]
    fn a_batch_closes_on_rows_bytes_or_linger() {
        for full in [filling(10, 5, 0), filling(1, 1000, 0), filling(1, 5, 250)] {
            assert_eq!(decide(&full, Event::Records, &LIMITS), Action::Commit, "{full:?}");
        }
    }

    #[test]
    fn an_empty_batch_is_never_committed() {
        for event in [Event::Start, Event::Idle, Event::Committed] {
            let action = decide(&filling(0, 0, 9_999), event, &LIMITS);
            assert!(matches!(action, Action::Poll(_)), "{event:?} {action:?}");
        }
        assert_eq!(decide(&filling(0, 0, 0), Event::End, &LIMITS), Action::End);
        assert_eq!(decide(&filling(0, 0, 0), Event::Stop, &LIMITS), Action::End);
    }

    #[test]
    fn what_was_read_is_committed_before_leaving() {
        assert_eq!(decide(&filling(1, 1, 0), Event::End, &LIMITS), Action::CommitAndEnd);
        assert_eq!(decide(&filling(1, 1, 0), Event::Stop, &LIMITS), Action::CommitAndEnd);
    }

    #[test]
    fn a_poll_never_asks_for_more_than_is_left() {
        let Action::Poll(budget) = decide(&filling(4, 900, 100), Event::Records, &LIMITS) else {
            panic!("not full yet");
        };
        assert_eq!(budget, Budget { rows: 6, bytes: 100, linger: Duration::from_millis(150) });
    }
}
