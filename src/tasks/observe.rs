//! A landing's counters as metrics: what rose since the last look is added, how things stand is set.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidemill_etl::pipeline::{BUCKETS, Histogram, Progress};

use crate::metrics::{Kind, Metric, Metrics};

const fn metric(name: &'static str, help: &'static str, kind: Kind) -> Metric {
    Metric { name, help, kind }
}

const ROWS: Metric = metric("tidemill_stream_rows_total", "Rows landed", Kind::Counter);
const BYTES: Metric = metric("tidemill_stream_bytes_total", "Bytes of keys and values landed", Kind::Counter);
const COMMITS: Metric = metric("tidemill_stream_commits_total", "Commits made by landing", Kind::Counter);
const DEAD: Metric = metric("tidemill_stream_dead_letters_total", "Dead letters of streams by reason", Kind::Counter);
const LOST: Metric =
    metric("tidemill_stream_lost_records_total", "Records that retention deleted before they were read", Kind::Counter);
const LAG: Metric =
    metric("tidemill_stream_lag_records", "Records in the topic that are not in the table", Kind::Gauge);
const LAG_SECONDS: Metric = metric(
    "tidemill_stream_lag_seconds",
    "Age of the newest record in the table, where the topic has newer ones; else 0",
    Kind::Gauge,
);
const HELD: Metric =
    metric("tidemill_stream_held_bytes", "Bytes of records that are read and not committed", Kind::Gauge);
const WAITING: Metric = metric("tidemill_stream_waiting_records", "Records that wait for a schema", Kind::Gauge);
const COMMIT: Metric =
    metric("tidemill_stream_commit_seconds", "From a full micro-batch to its version in the log", Kind::Histogram);
const DELAY: Metric = metric(
    "tidemill_stream_delay_seconds",
    "Age of records when they could first be queried, by their producers' clocks",
    Kind::Histogram,
);

/// One landing, and what was told of it.
pub(super) struct Observed {
    pub(super) stream: String,
    pub(super) topic: String,
    pub(super) progress: Arc<Progress>,
    told: Told,
}

#[derive(Default)]
struct Told {
    counters: [u64; 4],
    reasons: BTreeMap<String, u64>,
    commit: Histogram,
    delay: Histogram,
}

impl Observed {
    pub(super) fn new(stream: &str, topic: &str) -> Self {
        let (stream, topic) = (stream.to_owned(), topic.to_owned());
        Self { stream, topic, progress: Arc::default(), told: Told::default() }
    }

    /// Tells what is new.
    pub(super) fn tell(&mut self, metrics: &Metrics, now_ms: i64) {
        let labels = [("stream", self.stream.as_str()), ("topic", self.topic.as_str())];
        let progress = &self.progress;
        let counters = [&progress.rows, &progress.bytes, &progress.commits, &progress.lost];
        for ((counter, told), metric) in counters.iter().zip(&mut self.told.counters).zip([ROWS, BYTES, COMMITS, LOST])
        {
            let now = counter.load(Relaxed);
            metrics.add(metric, &labels, (now - *told) as f64);
            *told = now;
        }
        for (reason, count) in progress.reasons() {
            let told = self.told.reasons.entry(reason.clone()).or_default();
            let [stream, topic] = labels;
            metrics.add(DEAD, &[stream, topic, ("reason", &reason)], (count - *told) as f64);
            *told = count;
        }
        let lag = progress.lag.load(Relaxed);
        let newest = progress.newest_ms.load(Relaxed);
        let behind = if lag > 0 && newest > 0 { (now_ms - newest).max(0) as f64 / 1_000.0 } else { 0.0 };
        metrics.set(LAG, &labels, lag as f64);
        metrics.set(LAG_SECONDS, &labels, behind);
        metrics.set(HELD, &labels, progress.held.load(Relaxed) as f64);
        metrics.set(WAITING, &labels, progress.waiting.load(Relaxed) as f64);
        for (metric, now, told) in
            [(COMMIT, progress.commit_time(), &mut self.told.commit), (DELAY, progress.delay(), &mut self.told.delay)]
        {
            let more = now.counts.iter().zip(&told.counts).map(|(now, told)| now - told);
            metrics.observe(metric, &labels, &BUCKETS, more, now.sum - told.sum);
            *told = now;
        }
    }
}
