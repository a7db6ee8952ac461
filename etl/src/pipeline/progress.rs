//! What others may see of a landing while it runs: counters that only rise, and how things stand now.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::position::{Bounds, Positions, TopicPartition};

/// Upper ends of the buckets of both histograms, in seconds, each bucket including its end.
pub const BUCKETS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 60.0, 600.0];

/// Counts of observed spans of time by bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Observations in each bucket of [`BUCKETS`], not summed up; the last entry is for those beyond.
    pub counts: [u64; BUCKETS.len() + 1],
    /// The sum of all, in seconds.
    pub sum: f64,
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        let bucket = BUCKETS.partition_point(|end| *end < seconds);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += seconds;
    }
}

/// Counters of one landing.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows committed.
    pub rows: AtomicU64,
    /// Dead letters committed.
    pub dead: AtomicU64,
    /// Bytes of keys and values committed.
    pub bytes: AtomicU64,
    /// Commits made.
    pub commits: AtomicU64,
    /// Records that retention deleted before they were read.
    pub lost: AtomicU64,
    /// Records between what is committed and the topic's end when last looked at.
    pub lag: AtomicU64,
    /// Bytes of keys and values held: read, and not yet committed.
    pub held: AtomicU64,
    /// When the newest committed record was produced, milliseconds since 1970, UTC; 0 before the first.
    pub newest_ms: AtomicI64,
    /// Records that wait for a schema that cannot be asked for now.
    pub waiting: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    reasons: BTreeMap<String, u64>,
    commit: Histogram,
    delay: Histogram,
    /// The next offset to read of each partition, as committed.
    positions: Positions,
}

impl Progress {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dead letters committed, by reason.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        self.inner().reasons.clone()
    }

    /// How long commits took, from the sealed micro-batch to the version in the log.
    pub fn commit_time(&self) -> Histogram {
        self.inner().commit.clone()
    }

    /// How old records were when they could first be queried, by the times their producers gave them.
    pub fn delay(&self) -> Histogram {
        self.inner().delay.clone()
    }

    /// The next offset to read of each partition that this process holds, as committed.
    pub fn positions(&self) -> Positions {
        self.inner().positions.clone()
    }

    /// Notes how far the topic goes: what is between that and what is committed is the lag.
    pub fn look(&self, bounds: &[Bounds]) {
        let behind = |(partition, next): (&TopicPartition, &i64)| {
            let end = usize::try_from(partition.partition).ok().and_then(|at| bounds.get(at)).map_or(*next, |b| b.end);
            u64::try_from(end - next).unwrap_or(0)
        };
        let lag = self.inner().positions.iter().map(behind).sum();
        self.lag.store(lag, Ordering::Relaxed);
    }

    /// Notes what is held, and where it stands.
    pub(super) fn hold(&self, positions: Positions) {
        self.inner().positions = positions;
    }

    pub(super) fn died(&self, reasons: impl Iterator<Item = String>) {
        let mut inner = self.inner();
        for reason in reasons {
            *inner.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Notes a commit that took `took` and was visible at `now_ms`; `produced` are its records' times.
    pub(super) fn committed(&self, took: Duration, now_ms: i64, produced: impl Iterator<Item = i64>) {
        let mut newest = self.newest_ms.load(Ordering::Relaxed);
        let mut inner = self.inner();
        inner.commit.observe(took.as_secs_f64());
        for at in produced {
            newest = newest.max(at);
            inner.delay.observe((now_ms.saturating_sub(at).max(0) as f64) / 1_000.0);
        }
        drop(inner);
        self.newest_ms.fetch_max(newest, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_in_the_first_bucket_that_ends_at_or_after_it() {
        let mut histogram = Histogram::default();
        for seconds in [0.0, 0.01, 0.011, 600.0, 601.0] {
            histogram.observe(seconds);
        }
        assert_eq!(histogram.counts[0], 2);
        assert_eq!(histogram.counts[1], 1);
        assert_eq!(histogram.counts[BUCKETS.len() - 1], 1);
        assert_eq!(histogram.counts[BUCKETS.len()], 1);
    }

    #[test]
    fn a_record_from_the_future_has_no_delay() {
        let progress = Progress::default();
        progress.committed(Duration::from_millis(20), 1_000, [500, 2_000].into_iter());
        assert_eq!(progress.newest_ms.load(Ordering::Relaxed), 2_000);
        let delay = progress.delay();
        assert_eq!(delay.counts.iter().sum::<u64>(), 2);
        assert!((delay.sum - 0.5).abs() < 1e-9);
    }
}
