//! Counters and gauges, and their form for Prometheus (text format 0.0.4).
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts of values by size.
    Histogram,
}

/// A metric: declared once as a constant beside the code that feeds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric {
    /// With unit, and `_total` for counters: `tidemill_rows_total`.
    pub(crate) name: &'static str,
    /// One line for people.
    pub(crate) help: &'static str,
    /// How it behaves.
    pub(crate) kind: Kind,
}

/// Metrics with different labels at once; further ones are counted in `tidemill_metrics_refused_total`.
///
/// 10,000: some hundred tables and tasks with some metrics each; a label that never repeats is a mistake.
const MAX_SERIES: usize = 10_000;

type Labels = Vec<(&'static str, String)>;

/// All metrics of the process.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Families>);

#[derive(Debug, Default)]
struct Families {
    by_name: BTreeMap<&'static str, (Metric, BTreeMap<Labels, f64>)>,
    histograms: BTreeMap<&'static str, (Metric, BTreeMap<Labels, Spread>)>,
    series: usize,
    refused: u64,
}

/// A histogram's buckets, each with its upper end, and the sum of what was observed.
#[derive(Debug, Default)]
struct Spread {
    ends: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

const ROWS: Metric = Metric { name: "tidemill_rows_total", help: "Rows committed to lake tables", kind: Kind::Counter };
const DEAD_LETTERS: Metric = Metric {
    name: "tidemill_dead_letters_total",
    help: "Records and values kept as dead letters",
    kind: Kind::Counter,
};
const PUBLISHED: Metric =
    Metric { name: "tidemill_published_records_total", help: "Records written to topics", kind: Kind::Counter };
const LOADED: Metric =
    Metric { name: "tidemill_loaded_rows_total", help: "Rows loaded into the warehouse", kind: Kind::Counter };

impl Metrics {
    /// Counts rows committed to a table.
    pub(crate) fn rows(&self, table: &str, rows: u64) {
        self.add(ROWS, &[("table", table)], rows as f64);
    }

    /// Counts dead letters by the kind of task that met them.
    pub(crate) fn dead_letters(&self, kind: &str, letters: u64) {
        self.add(DEAD_LETTERS, &[("reason", kind)], letters as f64);
    }

    /// Counts records written to a topic.
    pub(crate) fn published(&self, topic: &str, records: u64) {
        self.add(PUBLISHED, &[("topic", topic)], records as f64);
    }

    /// Counts rows loaded into the warehouse.
    pub(crate) fn loaded(&self, table: &str, rows: u64) {
        self.add(LOADED, &[("table", table)], rows as f64);
    }

    /// Adds to a counter.
    pub(crate) fn add(&self, metric: Metric, labels: &[(&'static str, &str)], by: f64) {
        self.change(metric, labels, |value| *value += by);
    }

    /// Sets a gauge.
    pub(crate) fn set(&self, metric: Metric, labels: &[(&'static str, &str)], to: f64) {
        self.change(metric, labels, |value| *value = to);
    }

    /// Adds observations to a histogram: `counts` by bucket, the last one for those beyond all `ends`.
    pub(crate) fn observe(
        &self,
        metric: Metric,
        labels: &[(&'static str, &str)],
        ends: &'static [f64],
        counts: impl Iterator<Item = u64>,
        sum: f64,
    ) {
        let labels: Labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Families { histograms, series, refused, .. } = &mut *all;
        let (_, known) = histograms.entry(metric.name).or_insert_with(|| (metric, BTreeMap::new()));
        if !known.contains_key(&labels) {
            if *series >= MAX_SERIES {
                *refused += 1;
                return;
            }
            *series += 1;
        }
        let spread = known.entry(labels).or_default();
        spread.ends = ends;
        spread.counts.resize(ends.len() + 1, 0);
        spread.counts.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
        spread.sum += sum;
    }

    fn change(&self, metric: Metric, labels: &[(&'static str, &str)], change: impl FnOnce(&mut f64)) {
        let labels: Labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Families { by_name, series, refused, .. } = &mut *all;
        let (_, known) = by_name.entry(metric.name).or_insert_with(|| (metric, BTreeMap::new()));
        if !known.contains_key(&labels) {
            if *series >= MAX_SERIES {
                *refused += 1;
                return;
            }
            *series += 1;
        }
        change(known.entry(labels).or_default());
    }

    /// All metrics as Prometheus reads them, by name and labels.
    pub(crate) fn render(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (metric, series) in all.by_name.values() {
            head(&mut text, *metric);
            for (labels, value) in series {
                line(&mut text, metric.name, &braces(labels, None), *value);
            }
        }
        for (metric, series) in all.histograms.values() {
            head(&mut text, *metric);
            for (labels, spread) in series {
                spread.render(metric.name, labels, &mut text);
            }
        }
        let broken = Metric {
            name: "tidemill_invariants_broken_total",
            help: "Promises about data found broken, by id; any but zero is a bug",
            kind: Kind::Counter,
        };
        head(&mut text, broken);
        for (id, count) in tidemill_etl::invariant::counts() {
            line(&mut text, broken.name, &format!("{{id=\"{id}\"}}"), count as f64);
        }
        let refused = Metric {
            name: "tidemill_metrics_refused_total",
            help: "Values with labels beyond the limit of series",
            kind: Kind::Counter,
        };
        head(&mut text, refused);
        line(&mut text, refused.name, "", u32::try_from(all.refused).unwrap_or(u32::MAX).into());
        text
    }
}

impl Spread {
    fn render(&self, name: &str, labels: &Labels, text: &mut String) {
        let mut below = 0;
        for (index, count) in self.counts.iter().enumerate() {
            below += count;
            let end = self.ends.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            line(text, &format!("{name}_bucket"), &braces(labels, Some(&end)), below as f64);
        }
        line(text, &format!("{name}_sum"), &braces(labels, None), self.sum);
        line(text, &format!("{name}_count"), &braces(labels, None), below as f64);
    }
}

fn braces(labels: &Labels, end: Option<&str>) -> String {
    let mut all: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    all.extend(end.map(|end| format!("le=\"{end}\"")));
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn head(text: &mut String, metric: Metric) {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let name = metric.name;
    text.extend(["# HELP ", name, " ", metric.help, "\n# TYPE ", name, " ", kind, "\n"]);
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    text.extend([name, labels, " ", &value.to_string(), "\n"]);
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: Metric = Metric { name: "tidemill_rows_total", help: "Rows committed", kind: Kind::Counter };
    const LAG: Metric = Metric { name: "tidemill_lag_records", help: "Records not yet read", kind: Kind::Gauge };

    #[test]
    fn prometheus_gets_its_form() {
        let metrics = Metrics::default();
        metrics.add(ROWS, &[("table", "a\"b")], 2.0);
        metrics.add(ROWS, &[("table", "a\"b")], 3.0);
        metrics.set(LAG, &[], 7.0);
        metrics.set(LAG, &[], 1.5);

        let text = metrics.render();
        let (ours, broken): (Vec<_>, Vec<_>) = text.lines().partition(|line| !line.contains("invariants_broken"));
        assert_eq!(broken.len(), 2 + tidemill_etl::invariant::INVARIANTS.len(), "{broken:?}");
        assert_eq!(
            ours.join("\n") + "\n",
            "# HELP tidemill_lag_records Records not yet read\n# TYPE tidemill_lag_records gauge\ntidemill_lag_records 1.5\n\
             # HELP tidemill_rows_total Rows committed\n# TYPE tidemill_rows_total counter\ntidemill_rows_total{table=\"a\\\"b\"} 5\n\
             # HELP tidemill_metrics_refused_total Values with labels beyond the limit of series\n# TYPE tidemill_metrics_refused_total counter\ntidemill_metrics_refused_total 0\n"
        );
    }

    #[test]
    fn a_histogram_counts_what_is_at_or_below_each_end() {
        const DELAY: Metric = Metric { name: "d_seconds", help: "Delay", kind: Kind::Histogram };
        let metrics = Metrics::default();
        metrics.observe(DELAY, &[("stream", "s")], &[0.1, 1.0], [1, 2, 1].into_iter(), 3.5);
        metrics.observe(DELAY, &[("stream", "s")], &[0.1, 1.0], [1, 0, 0].into_iter(), 0.05);

        let text = metrics.render();
        assert!(
            text.starts_with(
                "# HELP d_seconds Delay\n# TYPE d_seconds histogram\n\
                 d_seconds_bucket{stream=\"s\",le=\"0.1\"} 2\nd_seconds_bucket{stream=\"s\",le=\"1\"} 4\n\
                 d_seconds_bucket{stream=\"s\",le=\"+Inf\"} 5\nd_seconds_sum{stream=\"s\"} 3.55\nd_seconds_count{stream=\"s\"} 5\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn labels_that_never_repeat_do_not_fill_the_memory() {
        let metrics = Metrics::default();
        for n in 0..MAX_SERIES + 5 {
            metrics.set(LAG, &[("id", &n.to_string())], 1.0);
        }

        let text = metrics.render();
        assert_eq!(text.lines().filter(|line| line.starts_with("tidemill_lag_records{")).count(), MAX_SERIES);
        assert!(text.ends_with("tidemill_metrics_refused_total 5\n"));
    }
}
