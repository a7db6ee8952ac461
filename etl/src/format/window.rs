//! A stream of bytes seen through a window that grows as far as one record needs.
use std::io::{self, Read};

use memchr::memchr;

/// Bytes asked for at a time.
const STEP: usize = 64 << 10;
/// How much of a line that is too long is kept, to show it.
const KEPT: usize = 64 << 10;

/// The bytes that were read and not yet consumed.
pub(crate) struct Window<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    consumed: u64,
}

/// A line as it stands in the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The line without its end.
    pub(crate) bytes: Vec<u8>,
    /// Its length, if `bytes` is only its beginning.
    pub(crate) cut_from: Option<u64>,
}

impl<R: Read> Window<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0, ended: false, consumed: 0 }
    }

    /// What is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Whether nothing comes after [`Window::bytes`].
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes consumed so far.
    #[cfg(test)]
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Reads on; the window at least doubles, so that looking at it again from its start costs no more than reading it.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let wanted = self.buffer.len() + self.buffer.len().max(STEP);
        while self.buffer.len() < wanted && !self.ended {
            let from = self.buffer.len();
            self.buffer.resize(wanted, 0);
            let read = self.input.read(self.buffer.get_mut(from..).unwrap_or_default());
            self.buffer.truncate(from + read.as_ref().map_or(0, |n| (*n).min(wanted - from)));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Leaves `count` bytes behind.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.buffer.len() - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    /// The next line without its end (`\n` or `\r\n`), or `None` after the last. One of more than `limit` bytes is cut.
    pub(crate) fn line(&mut self, limit: usize) -> io::Result<Option<Line>> {
        let mut looked = 0;
        loop {
            let bytes = self.bytes();
            let found = memchr(b'\n', bytes.get(looked..).unwrap_or_default()).map(|at| looked + at);
            if let Some(end) = found.filter(|end| *end <= limit) {
                let line = without_return(bytes.get(..end).unwrap_or_default()).to_vec();
                self.consume(end + 1);
                return Ok(Some(Line { bytes: line, cut_from: None }));
            }
            if found.is_some() || bytes.len() > limit {
                return self.long_line().map(Some);
            }
            if self.ended {
                if bytes.is_empty() {
                    return Ok(None);
                }
                let line = without_return(bytes).to_vec();
                self.consume(usize::MAX);
                return Ok(Some(Line { bytes: line, cut_from: None }));
            }
            looked = bytes.len();
            self.fill()?;
        }
    }

    /// Leaves a line of any length behind, in bounded memory, and keeps its beginning.
    fn long_line(&mut self) -> io::Result<Line> {
        let begun = self.consumed;
        let bytes = self.bytes().get(..KEPT.min(self.bytes().len())).unwrap_or_default().to_vec();
        loop {
            if let Some(end) = memchr(b'\n', self.bytes()) {
                self.consume(end + 1);
                break;
            }
            self.consume(usize::MAX);
            if self.ended {
                break;
            }
            self.fill()?;
        }
        Ok(Line { bytes, cut_from: Some(self.consumed - begun) })
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            out[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn lines_come_whole_however_the_bytes_arrive() {
        let text = b"one\r\n\ntwo\nthree";
        for slow in [true, false] {
            let input: Box<dyn Read> = if slow { Box::new(Slow(text)) } else { Box::new(&text[..]) };
            let mut window = Window::new(input);
            let mut lines = Vec::new();
            while let Some(line) = window.line(100).unwrap() {
                lines.push(String::from_utf8(line.bytes).unwrap());
            }
            assert_eq!(lines, ["one", "", "two", "three"]);
            assert_eq!(window.consumed(), text.len() as u64);
        }
    }

    #[test]
    fn a_line_that_is_too_long_costs_itself() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"\nnext\n");
        let mut window = Window::new(&text[..]);
        let long = window.line(1000).unwrap().unwrap();
        assert_eq!((long.bytes.len(), long.cut_from), (KEPT, Some((1 << 20) + 1)));
        assert_eq!(window.line(1000).unwrap().unwrap().bytes, b"next");
        assert_eq!(window.line(1000).unwrap(), None);
    }
}
