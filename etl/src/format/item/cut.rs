//! Cuts a byte stream of any length into blocks of whole items.
//!
//! A block begins at a header line (the first block: at the start of the file) and ends before another one, so each
//! block can be parsed by itself, on any thread, and the results put together in order. Almost all blocks are slices of
//! what was pushed; only the item that straddles two pushes is copied. Where the cuts fall depends on how the bytes were
//! pushed; what is in the blocks, put together, does not.
//!
//! Memory: one unfinished item (at most [`Limits::item`]), one unfinished line (at most [`Limits::line`]) and one piece of
//! input. A line over the limit is not kept: its beginning stays in the block, marked in [`Block::cut_short`].
use memchr::{memchr, memchr_iter, memmem};

use super::error::Problem;
use super::parse::BOM;

/// How long lines and items may be. What is longer would cost memory in proportion to the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A line of more bytes, its line end not counted, is junk.
    pub line: usize,
    /// An item of more bytes, lines over the limit not counted, is an error.
    pub item: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // The longest value seen in real catalogues has 1,970 characters, the longest item 20 kB.
        Self { line: 1 << 20, item: 16 << 20 }
    }
}

/// What is kept of a line over the limit, to show it.
pub(super) const SHOWN: usize = 120;

// Larger pushes are taken in pieces of this size: it bounds what one push can add to the carry.
const PIECE: usize = 8 << 20;

/// Whole items, or, in the first block of a file without a header at its start, the lines before the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// The lines with their line ends; the last line of a file may have none.
    pub bytes: &'a [u8],
    /// The number of the first line, from 1.
    pub first_line: u64,
    /// Where in `bytes` those lines begin of which only the beginning was kept, rising.
    pub cut_short: &'a [usize],
}

/// What a line that begins with `ITEM ` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// A header with its item number.
    Item(i64),
    /// A header in form, but its number is negative or too large.
    Broken,
    /// Something else.
    Not,
}

/// Reads a line as a header: `ITEM `, a decimal number, nothing else but spaces and carriage returns.
pub(super) fn header(line: &[u8]) -> Header {
    let Some(rest) = line.strip_prefix(b"ITEM ") else { return Header::Not };
    let rest = rest.trim_ascii();
    let (sign, digits) = match rest.split_first() {
        Some((b'-' | b'+', digits)) => (true, digits),
        _ => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Header::Not;
    }
    let number = digits.iter().try_fold(0_i64, |number, digit| {
        number.checked_mul(10).and_then(|number| number.checked_add(i64::from(digit - b'0')))
    });
    match number {
        Some(number) if !sign => Header::Item(number),
        _ => Header::Broken,
    }
}

/// Counts line feeds.
fn lines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

/// Finds the first or the last header line that lies wholly in `bytes`, with its line feeds on both sides.
///
/// A line over the limit is no header, even if it is one in form: where it is cut depends on the pushes.
fn cut_at(bytes: &[u8], limits: Limits, mut candidates: impl Iterator<Item = usize>) -> Option<usize> {
    candidates.find_map(|line_feed| {
        let start = line_feed + 1;
        let rest = bytes.get(start..)?;
        let end = memchr(b'\n', rest)?;
        (end <= limits.line && matches!(header(rest.get(..end)?), Header::Item(_))).then_some(start)
    })
}

/// Cuts what is pushed into blocks of whole items; see the module's head.
#[derive(Debug)]
pub struct Cutter {
    limits: Limits,
    /// The unfinished block.
    carry: Vec<u8>,
    /// The number of the first line in `carry`.
    first_line: u64,
    /// How many lines in `carry` are complete.
    complete: u64,
    /// Where the last, incomplete line of `carry` begins.
    open: usize,
    /// Lines of `carry` of which only the beginning was kept.
    cut_short: Vec<usize>,
    /// The bytes of `carry` that belong to them.
    spared: usize,
    /// The rest of the current line is thrown away.
    skipping: bool,
    /// Bytes pushed so far.
    pushed: u64,
}

impl Cutter {
    /// Starts at the beginning of a file.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            carry: Vec::new(),
            first_line: 1,
            complete: 0,
            open: 0,
            cut_short: Vec::new(),
            spared: 0,
            skipping: false,
            pushed: 0,
        }
    }

    /// Takes the next bytes of the file and hands on the blocks that they complete, in order.
    ///
    /// # Errors
    /// [`Problem::Binary`] on a NUL byte, [`Problem::TooLarge`] and [`Problem::NoItems`] over the limits, and what
    /// `each` returns.
    pub fn push(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Block<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        bytes.chunks(PIECE).try_for_each(|piece| self.piece(piece, each))
    }

    /// Hands on what is left as the last block.
    ///
    /// # Errors
    /// [`Problem::Empty`] if nothing was pushed, and what `each` returns.
    pub fn finish(self, each: &mut impl FnMut(Block<'_>) -> Result<(), Problem>) -> Result<(), Problem> {
        if self.pushed == 0 {
            return Err(Problem::Empty);
        }
        if self.carry.is_empty() {
            return Ok(());
        }
        each(Block { bytes: &self.carry, first_line: self.first_line, cut_short: &self.cut_short })
    }

    fn piece(
        &mut self,
        mut piece: &[u8],
        each: &mut impl FnMut(Block<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.pushed += piece.len() as u64;
        if let Some(at) = memchr(0, piece) {
            let before = lines(piece.get(..at).unwrap_or_default());
            return Err(Problem::Binary { line: self.first_line + self.complete + before });
        }
        if self.skipping {
            let Some(end) = memchr(b'\n', piece) else { return Ok(()) };
            self.skipping = false;
            piece = piece.get(end..).unwrap_or_default();
        }
        let Some(first) = cut_at(piece, self.limits, memmem::find_iter(piece, b"\nITEM ")) else {
            return self.keep(piece, each);
        };
        let last = cut_at(piece, self.limits, memmem::rfind_iter(piece, b"\nITEM ")).unwrap_or(first);
        let (head, rest) = piece.split_at(first);
        let (middle, tail) = rest.split_at(last - first);

        let mut line = self.first_line + self.complete + lines(head);
        self.carry.extend_from_slice(head);
        each(Block { bytes: &self.carry, first_line: self.first_line, cut_short: &self.cut_short })?;
        if !middle.is_empty() {
            each(Block { bytes: middle, first_line: line, cut_short: &[] })?;
            line += lines(middle);
        }
        self.restart(line);
        self.keep(tail, each)
    }

    /// Empties the carry; what comes next begins a block on line `line`.
    fn restart(&mut self, line: u64) {
        self.carry.clear();
        self.cut_short.clear();
        (self.first_line, self.complete, self.open, self.spared) = (line, 0, 0, 0);
    }

    /// Adds bytes without a header line of their own to the carry. A header may straddle its end and their beginning.
    fn keep(&mut self, bytes: &[u8], each: &mut impl FnMut(Block<'_>) -> Result<(), Problem>) -> Result<(), Problem> {
        let mut seen = self.carry.len();
        self.carry.extend_from_slice(bytes);
        while let Some(at) = memchr(b'\n', self.carry.get(seen..).unwrap_or_default()) {
            let mut end = seen + at;
            let line = self.carry.get(self.open..end).unwrap_or_default();
            let short = self.cut_short.last() == Some(&self.open);
            if line.len() > self.limits.line && !short {
                let kept = self.open + SHOWN.min(self.limits.line);
                self.carry.drain(kept..end);
                self.cut_short.push(self.open);
                end = kept;
                self.spared += end + 1 - self.open;
            } else if short {
                self.spared += end + 1 - self.open;
            } else if self.open > 0 && matches!(header(line), Header::Item(_)) {
                let (before, _) = self.carry.split_at(self.open);
                each(Block { bytes: before, first_line: self.first_line, cut_short: &self.cut_short })?;
                let (open, first_line) = (self.open, self.first_line + self.complete);
                let rest = self.carry.split_off(open);
                self.restart(first_line);
                self.carry.extend_from_slice(&rest);
                end -= open;
            }
            self.complete += 1;
            self.open = end + 1;
            seen = self.open;
        }
        if self.carry.len() - self.open > self.limits.line && self.cut_short.last() != Some(&self.open) {
            self.carry.truncate(self.open + SHOWN.min(self.limits.line));
            self.cut_short.push(self.open);
            self.skipping = true;
        }
        if self.open - self.spared > self.limits.item {
            return Err(self.over());
        }
        Ok(())
    }

    /// What the unfinished block is called when it outgrows the limit.
    fn over(&self) -> Problem {
        let start = self.carry.strip_prefix(BOM).filter(|_| self.first_line == 1).unwrap_or(&self.carry);
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match header(line) {
            Header::Item(item) if self.cut_short.first() != Some(&0) => {
                Problem::TooLarge { item, line: self.first_line, limit: self.limits.item }
            }
            _ => Problem::NoItems { first: String::from_utf8_lossy(line).chars().take(SHOWN).collect() },
        }
    }
}
