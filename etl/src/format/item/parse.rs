//! Reads items and their attributes.
//!
//! ```text
//! ITEM 1                      header: a decimal number of 0 or more
//! Actor=Jackie Chan           attribute: split at the first `=`, no blank in the key
//! Actor=Sammo Hung            the same key again: another value
//! ListPrice=899USD$8.99
//!                             blank lines mean nothing
//! ITEM 2
//! ```
//! Each line is UTF-8 if it is valid as such, else Windows-1252: real files mix both. Anything else is *junk*: counted,
//! the first lines kept to be shown, and never fatal. A broken header (its number negative or too large, or anything
//! after `ITEM ` on the first line after a blank one) ends the item before it, so that what follows is not taken for its
//! attributes; those lines are junk until the next header.
use std::borrow::Cow;

use encoding_rs::WINDOWS_1252;
use memchr::{memchr, memchr2};

use super::cut::{Block, Cutter, Header, Limits, SHOWN, header};
use super::error::Problem;

/// The UTF-8 byte order mark, which some editors put at the start of a file.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How many junk lines are kept to be shown.
const SAMPLES: usize = 20;

/// One value of one attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What stands before the first `=`.
    pub key: Cow<'a, str>,
    /// What stands after it, without carriage returns at the end.
    pub value: Cow<'a, str>,
    /// The number of its line, from 1.
    pub line: u64,
}

/// One item with its attributes in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// The number in its header.
    pub id: i64,
    /// The line of its header, from 1.
    pub line: u64,
    /// Its attributes; keys may repeat.
    pub attributes: &'a [Attribute<'a>],
}

/// Why a line is junk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Neither a header nor `key=value`.
    Unknown,
    /// There is an `=`, but the key before it is empty or holds a blank.
    Key,
    /// `ITEM`, but not with a number that can be used.
    Header,
    /// An attribute that belongs to no item: before the first header or after a broken one.
    Orphan,
    /// Longer than the limit.
    TooLong,
}

impl Reason {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "neither a header nor an attribute",
            Self::Key => "the key before `=` is empty or holds a blank",
            Self::Header => "a header without a usable number",
            Self::Orphan => "an attribute that belongs to no item",
            Self::TooLong => "too long",
        }
    }
}

/// A line that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Junk {
    /// Its number, from 1.
    pub line: u64,
    /// Why.
    pub reason: Reason,
    /// How it begins.
    pub text: String,
}

/// What was in a file, or in a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Items, counted by header.
    pub items: u64,
    /// Attribute values that belong to an item.
    pub attributes: u64,
    /// All lines; a last one without a line end counts.
    pub lines: u64,
    /// Lines that are neither header, attribute nor blank, and attributes without an item.
    pub junk_lines: u64,
    /// The first of them.
    pub junk: Vec<Junk>,
    /// The number of the first item.
    pub first_id: Option<i64>,
    /// The number of the last item.
    pub last_id: Option<i64>,
    /// Each item's number is larger than the one before it, so none is there twice.
    pub strictly_rising: bool,
    /// Prices whose formatted part says something else than the integer before it; the integer was taken.
    pub price_differences: u64,
    /// Fields that went to `Rejected`.
    pub rejected: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            items: 0,
            attributes: 0,
            lines: 0,
            junk_lines: 0,
            junk: Vec::new(),
            first_id: None,
            last_id: None,
            strictly_rising: true,
            price_differences: 0,
            rejected: 0,
        }
    }
}

impl Tally {
    /// Adds what was found in the part of the file that follows.
    pub fn add(&mut self, next: Self) {
        self.strictly_rising &= next.strictly_rising && self.last_id.zip(next.first_id).is_none_or(|(a, b)| a < b);
        self.items += next.items;
        self.attributes += next.attributes;
        self.lines += next.lines;
        self.junk_lines += next.junk_lines;
        self.junk.extend(next.junk.into_iter().take(SAMPLES.saturating_sub(self.junk.len())));
        self.first_id = self.first_id.or(next.first_id);
        self.last_id = next.last_id.or(self.last_id);
        self.price_differences += next.price_differences;
        self.rejected += next.rejected;
    }

    /// Says whether there was an item at all.
    ///
    /// # Errors
    /// [`Problem::NoItems`] if there was none.
    pub fn check(&self) -> Result<(), Problem> {
        if self.items > 0 {
            return Ok(());
        }
        Err(Problem::NoItems { first: self.junk.first().map(|junk| junk.text.clone()).unwrap_or_default() })
    }

    fn header(&mut self, id: i64) {
        self.items += 1;
        self.strictly_rising &= self.last_id.is_none_or(|last| last < id);
        self.first_id.get_or_insert(id);
        self.last_id = Some(id);
    }

    #[cold]
    fn junk(&mut self, line: u64, reason: Reason, raw: &[u8]) {
        self.junk_lines += 1;
        if self.junk.len() < SAMPLES {
            let start = raw.get(..SHOWN).unwrap_or(raw);
            self.junk.push(Junk { line, reason, text: String::from_utf8_lossy(start).into_owned() });
        }
    }
}

/// A file of any length, pushed in pieces of any length: an item is handed on when its last line is complete.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    cutter: Cutter,
    tally: Tally,
}

impl Parser {
    /// Starts at the beginning of a file.
    pub fn new(limits: Limits) -> Self {
        Self { limits, cutter: Cutter::new(limits), tally: Tally::default() }
    }

    /// Takes the next bytes of the file and hands on the items that they complete, in order.
    ///
    /// # Errors
    /// Whatever makes the file as a whole unusable: [`Problem`].
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&Item<'_>)) -> Result<(), Problem> {
        let Self { limits, cutter, tally } = self;
        cutter.push(bytes, &mut |block| parse_block(&block, *limits, tally, &mut each))
    }

    /// Hands on the last item and tells what was in the file.
    ///
    /// # Errors
    /// [`Problem::Empty`] and [`Problem::NoItems`], and what [`Self::feed`] may return.
    pub fn finish(self, mut each: impl FnMut(&Item<'_>)) -> Result<Tally, Problem> {
        let Self { limits, cutter, mut tally } = self;
        cutter.finish(&mut |block| parse_block(&block, limits, &mut tally, &mut each))?;
        tally.check()?;
        Ok(tally)
    }
}

/// Parses one block from a [`Cutter`]; blocks need not come in order, tallies are added in the order of the file.
///
/// # Errors
/// [`Problem::TooLarge`] and [`Problem::NoItems`] over the limit for one item.
pub fn parse_block(
    block: &Block<'_>,
    limits: Limits,
    tally: &mut Tally,
    mut each: impl FnMut(&Item<'_>),
) -> Result<(), Problem> {
    let bytes = block.bytes;
    let mut attributes: Vec<Attribute<'_>> = Vec::with_capacity(64);
    let mut open: Option<(i64, u64)> = None;
    let mut last_header: Option<(i64, u64)> = None;
    let mut held = 0;
    let mut after_blank = true;
    let mut cut_short = block.cut_short.iter().copied().peekable();
    let mut number = block.first_line;
    let mut start = 0;

    while start < bytes.len() {
        let rest = bytes.get(start..).unwrap_or_default();
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        let mut line = rest.get(..length).unwrap_or_default();
        let here = number;
        let too_long = cut_short.next_if_eq(&start).is_some() || length > limits.line;
        let first = start == 0 && here == 1;
        start += length + 1;
        number += 1;
        tally.lines += 1;
        if too_long {
            tally.junk(here, Reason::TooLong, line);
            after_blank = false;
            continue;
        }
        if first {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        while let Some(shorter) = line.strip_suffix(b"\r") {
            line = shorter;
        }
        let was_after_blank = std::mem::replace(&mut after_blank, false);
        if line.is_empty() {
            after_blank = true;
        } else if line.starts_with(b"ITEM ") {
            match header(line) {
                Header::Item(id) => {
                    if let Some((id, line)) = open {
                        each(&Item { id, line, attributes: &attributes });
                        attributes.clear();
                    }
                    tally.header(id);
                    open = Some((id, here));
                    last_header = open;
                    held = 0;
                }
                found => {
                    tally.junk(here, Reason::Header, line);
                    if (found == Header::Broken || was_after_blank)
                        && let Some((id, line)) = open.take()
                    {
                        each(&Item { id, line, attributes: &attributes });
                        attributes.clear();
                    }
                }
            }
        } else {
            match attribute(line, here) {
                Ok(attribute) if open.is_some() => {
                    tally.attributes += 1;
                    attributes.push(attribute);
                }
                Ok(_) => tally.junk(here, Reason::Orphan, line),
                Err(_) if line.trim_ascii().is_empty() => after_blank = true,
                Err(reason) => tally.junk(here, reason, line),
            }
        }
        held += length + 1;
        if held > limits.item {
            return Err(match last_header {
                Some((item, line)) => Problem::TooLarge { item, line, limit: limits.item },
                None => {
                    Problem::NoItems { first: tally.junk.first().map(|junk| junk.text.clone()).unwrap_or_default() }
                }
            });
        }
    }
    if let Some((id, line)) = open {
        each(&Item { id, line, attributes: &attributes });
    }
    Ok(())
}

/// Splits a line at its first `=`.
fn attribute(line: &[u8], number: u64) -> Result<Attribute<'_>, Reason> {
    let at = memchr(b'=', line).ok_or(Reason::Unknown)?;
    let (key, value) = line.split_at(at);
    if key.is_empty() || memchr2(b' ', b'\t', key).is_some() {
        return Err(Reason::Key);
    }
    // The line decides, not its halves: a key that is valid UTF-8 beside a value that is not is Windows-1252 too.
    let (key, value) = match std::str::from_utf8(line).ok().and_then(|line| line.split_at_checked(at)) {
        Some((key, value)) => (Cow::Borrowed(key), Cow::Borrowed(value.strip_prefix('=').unwrap_or(value))),
        None => (western(key), western(value.get(1..).unwrap_or_default())),
    };
    Ok(Attribute { key, value, line: number })
}

/// Decodes Windows-1252, in which every byte means a character.
fn western(bytes: &[u8]) -> Cow<'_, str> {
    WINDOWS_1252.decode_without_bom_handling(bytes).0
}
