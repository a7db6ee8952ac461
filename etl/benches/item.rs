//! How fast a catalogue is read on one core: `cargo bench -p tidemill-etl --bench item`.
//!
//! The input is the sample of `data/` repeated to 256 MB in memory; `TIDEMILL_BENCH_MB` changes that.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a person at a terminal")]
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tidemill_etl::format::item::{Limits, Parser, RowBuilder, RowLimits};

/// What one chunk of a file has, as the reader fetches it.
const CHUNK: usize = 4 << 20;

fn main() {
    let sample = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/Movies.txt")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the size of the input is the caller's choice")]
    let megabytes = std::env::var("TIDEMILL_BENCH_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(256_usize);
    let input = sample.repeat((megabytes * 1_000_000).div_ceil(sample.len()));
    for _ in 0..3 {
        report("parse", &input, parse(&input));
        report("parse and rows", &input, parse_and_rows(&input));
    }
}

fn parse(input: &[u8]) -> (Duration, u64) {
    let start = Instant::now();
    let mut attributes = 0;
    let mut parser = Parser::new(Limits::default());
    for chunk in input.chunks(CHUNK) {
        parser.feed(chunk, |item| attributes += item.attributes.len()).unwrap();
    }
    let tally = parser.finish(|item| attributes += item.attributes.len()).unwrap();
    assert_eq!(tally.attributes, attributes as u64);
    (start.elapsed(), tally.items)
}

fn parse_and_rows(input: &[u8]) -> (Duration, u64) {
    let start = Instant::now();
    let mut rows = 0;
    let mut builder = RowBuilder::new(RowLimits::default(), None).unwrap();
    let mut parser = Parser::new(Limits::default());
    for chunk in input.chunks(CHUNK) {
        parser.feed(chunk, |item| builder.push(item).unwrap()).unwrap();
        rows += builder.take().0.iter().map(RecordBatch::num_rows).sum::<usize>();
    }
    let mut tally = parser.finish(|item| builder.push(item).unwrap()).unwrap();
    rows += builder.finish(&mut tally).unwrap().0.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(tally.items, rows as u64);
    (start.elapsed(), tally.items)
}

fn report(what: &str, input: &[u8], (took, items): (Duration, u64)) {
    let bytes = u32::try_from(input.len()).map_or(f64::NAN, f64::from);
    println!("{what:<15} {:>6.0} MB/s  {items} items in {took:.2?}", bytes / 1e6 / took.as_secs_f64());
}
