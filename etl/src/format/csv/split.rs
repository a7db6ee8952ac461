//! Bytes to records of cells.
use std::io::{self, Read};

use memchr::{memchr, memchr_iter, memchr2};

use crate::format::window::{Line, Window};

/// How a CSV file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Between cells.
    pub delimiter: u8,
    /// Around cells that hold delimiters, line breaks or quotes; `None`: no cell is quoted.
    pub quote: Option<u8>,
    /// Before a character that is to be taken as it is, inside quotes; `None`: a quote is doubled.
    pub escape: Option<u8>,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"'), escape: None }
    }
}

/// The cells of one record.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    text: Vec<u8>,
    /// Where each cell ends in `text`, and whether it was in quotes.
    ends: Vec<(usize, bool)>,
}

impl Cells {
    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    fn end(&mut self, quoted: bool) {
        self.ends.push((self.text.len(), quoted));
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The cells in order, each with whether it was in quotes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let mut from = 0;
        self.ends.iter().map(move |&(end, quoted)| {
            let cell = self.text.get(from..end).unwrap_or_default();
            from = end;
            (cell, quoted)
        })
    }
}

/// What was found at a place of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A record: its first line, from 1. The cells are in the caller's [`Cells`].
    Record { line: u64 },
    /// A line that begins no record.
    Bad { line: u64, why: &'static str, raw: Line },
}

enum Parsed {
    /// A record that ends before this byte.
    Whole(usize),
    More,
    Bad(&'static str),
}

/// Cuts a stream of bytes into records.
pub(crate) struct Splitter<R> {
    window: Window<R>,
    dialect: Dialect,
    limit: usize,
    line: u64,
    /// The bytes of the last record found, if the caller asks for them.
    raw: Vec<u8>,
}

impl<R: Read> Splitter<R> {
    /// Records of more than `limit` bytes are refused.
    pub(crate) fn new(input: R, dialect: Dialect, limit: usize) -> Self {
        Self { window: Window::new(input), dialect, limit, line: 1, raw: Vec::new() }
    }

    /// Bytes that were read into records so far.
    #[cfg(test)]
    fn consumed(&self) -> u64 {
        self.window.consumed()
    }

    /// The bytes of the last record, without its line's end.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Leaves the byte order mark behind, if there is one. To be called first.
    pub(crate) fn skip_mark(&mut self) -> io::Result<()> {
        self.window.fill()?;
        if self.window.bytes().starts_with(b"\xef\xbb\xbf") {
            self.window.consume(3);
        }
        Ok(())
    }

    /// The next record or bad line; empty lines are neither. `None` at the end.
    pub(crate) fn next(&mut self, cells: &mut Cells) -> io::Result<Option<Found>> {
        loop {
            let bytes = self.window.bytes();
            if bytes.is_empty() && self.window.ended() {
                return Ok(None);
            }
            let shown = bytes.get(..bytes.len().min(self.limit)).unwrap_or(bytes);
            let last = self.window.ended() && shown.len() == bytes.len();
            cells.clear();
            match parse(self.dialect, shown, last, cells) {
                Parsed::Whole(end) => {
                    let line = self.line;
                    let raw = bytes.get(..end).unwrap_or_default();
                    self.line += memchr_iter(b'\n', raw).count() as u64;
                    let text = raw.strip_suffix(b"\n").unwrap_or(raw);
                    let text = text.strip_suffix(b"\r").unwrap_or(text);
                    let empty = text.is_empty();
                    self.raw.clear();
                    self.raw.extend_from_slice(text);
                    self.window.consume(end);
                    if !empty {
                        return Ok(Some(Found::Record { line }));
                    }
                }
                Parsed::More if shown.len() < bytes.len() || bytes.len() >= self.limit => {
                    return self.bad("it is longer than the limit, or a quote is not closed").map(Some);
                }
                Parsed::More if !self.window.ended() => self.window.fill()?,
                Parsed::More => return self.bad("a quote is opened and not closed").map(Some),
                Parsed::Bad(why) => return self.bad(why).map(Some),
            }
        }
    }

    fn bad(&mut self, why: &'static str) -> io::Result<Found> {
        let line = self.line;
        let raw = self.window.line(self.limit)?.unwrap_or(Line { bytes: Vec::new(), cut_from: None });
        self.line += 1;
        Ok(Found::Bad { line, why, raw })
    }
}

/// Reads one record at the start of `bytes`; `last`: nothing comes after them.
fn parse(dialect: Dialect, bytes: &[u8], last: bool, cells: &mut Cells) -> Parsed {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let quoted = dialect.quote.filter(|quote| rest.first() == Some(quote));
        if let Some(quote) = quoted {
            match within_quotes(dialect, quote, bytes, at + 1, last, cells) {
                Ok(after) => at = after,
                Err(other) => return other,
            }
            cells.end(true);
            match bytes.get(at..).unwrap_or_default() {
                [] if last => return Parsed::Whole(at),
                [b'\n', ..] => return Parsed::Whole(at + 1),
                [b'\r', b'\n', ..] => return Parsed::Whole(at + 2),
                [b'\r'] if last => return Parsed::Whole(at + 1),
                [] | [b'\r'] => return Parsed::More,
                [next, ..] if *next == dialect.delimiter => at += 1,
                _ => return Parsed::Bad("a quote is closed in the middle of a cell"),
            }
        } else {
            let Some(end) = memchr2(dialect.delimiter, b'\n', rest) else {
                if !last {
                    return Parsed::More;
                }
                let cell = rest.strip_suffix(b"\r").unwrap_or(rest);
                cells.text.extend_from_slice(cell);
                cells.end(false);
                return Parsed::Whole(bytes.len());
            };
            let cell = rest.get(..end).unwrap_or_default();
            let ends = rest.get(end) == Some(&b'\n');
            let cell = if ends { cell.strip_suffix(b"\r").unwrap_or(cell) } else { cell };
            cells.text.extend_from_slice(cell);
            cells.end(false);
            at += end + 1;
            if ends {
                return Parsed::Whole(at);
            }
        }
    }
}

/// Takes a quoted cell's text; returns the place after its closing quote.
fn within_quotes(
    dialect: Dialect,
    quote: u8,
    bytes: &[u8],
    mut at: usize,
    last: bool,
    cells: &mut Cells,
) -> Result<usize, Parsed> {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let found = match dialect.escape {
            Some(escape) => memchr2(quote, escape, rest),
            None => memchr(quote, rest),
        };
        let Some(found) = found else { return Err(Parsed::More) };
        cells.text.extend_from_slice(rest.get(..found).unwrap_or_default());
        let special = rest.get(found).copied();
        let next = rest.get(found + 1).copied();
        let doubled = next.is_some() && next == special && special == Some(quote);
        if doubled || (dialect.escape.is_some() && special == dialect.escape && special != Some(quote)) {
            match next {
                Some(next) => cells.text.push(next),
                None => return Err(Parsed::More),
            }
            at += found + 2;
        } else if next.is_none() && !last {
            return Err(Parsed::More);
        } else {
            return Ok(at + found + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    type Records = Vec<(u64, Vec<String>)>;

    fn read(text: &[u8], dialect: Dialect, limit: usize) -> (Records, Vec<(u64, String)>) {
        let mut splitter = Splitter::new(text, dialect, limit);
        splitter.skip_mark().unwrap();
        let mut cells = Cells::default();
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        while let Some(found) = splitter.next(&mut cells).unwrap() {
            match found {
                Found::Record { line } => {
                    let texts = cells.iter().map(|(cell, _)| String::from_utf8_lossy(cell).into_owned()).collect();
                    good.push((line, texts));
                }
                Found::Bad { line, raw, .. } => bad.push((line, String::from_utf8_lossy(&raw.bytes).into_owned())),
            }
        }
        (good, bad)
    }

    fn texts(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn quoted_cells_hold_anything_and_lines_are_counted() {
        let text = b"\xef\xbb\xbfa,b\r\n\"x,\"\"y\"\"\nz\",2\r\n\r\n\"\",3\nlast,\"4\"";
        let (good, bad) = read(text, Dialect::default(), 1000);
        let wanted = [(1, vec!["a", "b"]), (2, vec!["x,\"y\"\nz", "2"]), (5, vec!["", "3"]), (6, vec!["last", "4"])];
        assert_eq!(good, wanted.map(|(line, cells)| (line, texts(&cells))));
        assert!(bad.is_empty());
    }

    #[test]
    fn a_quote_that_is_not_closed_costs_its_line_only() {
        let text = b"a,b\n1,\"open\n2,x\n3,\"y\"\n4,z\n5,\"never\n6,w\n";
        let (good, bad) = read(text, Dialect::default(), 1000);
        let lines: Vec<u64> = good.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 7]);
        assert_eq!(bad, [(2, "1,\"open".to_owned()), (6, "5,\"never".to_owned())]);
    }

    #[test]
    fn other_dialects() {
        let escaped = Dialect { delimiter: b';', quote: Some(b'\''), escape: Some(b'\\') };
        let (good, bad) = read(b"'it\\'s; \\\\ so';2\n", escaped, 1000);
        assert_eq!(good, [(1, texts(&["it's; \\ so", "2"]))]);
        assert!(bad.is_empty());
        let plain = Dialect { quote: None, ..Dialect::default() };
        assert_eq!(read(b"\"a,b\"\n", plain, 1000).0, [(1, texts(&["\"a", "b\""]))]);
    }

    #[test]
    fn what_the_csv_crate_writes_is_read_back() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..300 {
            let width = random.random_range(1..5);
            let rows: Vec<Vec<String>> = (0..random.random_range(0..20))
                .map(|_| {
                    (0..width)
                        .map(|_| {
                            let letters = ["a", "\"", ",", "\n", "\r\n", "é", " ", "\u{0}", "7"];
                            (0..random.random_range(0..6)).map(|_| letters[random.random_range(0..9)]).collect()
                        })
                        .collect()
                })
                .collect();
            let mut writer = csv::Writer::from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let (good, bad) = read(&text, Dialect::default(), 1 << 20);
            assert_eq!(good.into_iter().map(|(_, cells)| cells).collect::<Vec<_>>(), rows);
            assert!(bad.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_no_line_is_lost() {
        let mut random = StdRng::seed_from_u64(11);
        for _ in 0..2000 {
            let alphabet = b"a,\"\n\r\\;'\xff\x00";
            let text: Vec<u8> =
                (0..random.random_range(0..200)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
            let dialect = Dialect {
                escape: random.random_bool(0.5).then_some(b'\\'),
                quote: random.random_bool(0.8).then_some(b'"'),
                ..Dialect::default()
            };
            let mut splitter = Splitter::new(&text[..], dialect, random.random_range(1..100));
            let mut cells = Cells::default();
            let mut last = 0;
            while let Some(found) = splitter.next(&mut cells).unwrap() {
                let (Found::Record { line } | Found::Bad { line, .. }) = found;
                assert!(line > last, "lines rise");
                last = line;
            }
            assert_eq!(splitter.consumed(), text.len() as u64);
        }
    }
}
