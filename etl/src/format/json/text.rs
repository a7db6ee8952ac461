//! JSON text as a walk that copies nothing.
//!
//! The whole of RFC 8259 and nothing beside it: no NaN, no comments, no trailing commas, no bytes that are not UTF-8, no
//! lone surrogates. Numbers keep the digits they were written with. More than [`MAX_NESTING`] open objects and arrays are
//! refused, so that no record can exhaust the stack.
use std::borrow::Cow;

use thiserror::Error;

/// How many objects and arrays may be open at once.
pub const MAX_NESTING: usize = 128;

/// Where a text stops being JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{problem} at byte {at}")]
pub(crate) struct Syntax {
    /// The offset of the byte.
    pub(crate) at: usize,
    pub(crate) problem: &'static str,
}

/// What a value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Boolean,
    Number,
    Text,
    Array,
    Object,
}

/// A number as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number<'a> {
    pub(crate) digits: &'a str,
    /// Without fraction and exponent.
    pub(crate) whole: bool,
}

/// A position in a text.
#[derive(Clone)]
pub(crate) struct Text<'a> {
    all: &'a str,
    at: usize,
    open: usize,
}

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How many bytes there are before the first quote, backslash or control character. Eight at a time: in a byte that is
/// zero after the xor, and in one below 0x20, the subtraction borrows into the highest bit; a borrow can make a false
/// mark only behind a true one.
fn plain(bytes: &[u8]) -> usize {
    let below = |word: u64, limit: u64| word.wrapping_sub(LOW.wrapping_mul(limit)) & !word & HIGH;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8).and_then(|chunk| <[u8; 8]>::try_from(chunk).ok()) {
        let word = u64::from_le_bytes(chunk);
        let quote = below(word ^ LOW.wrapping_mul(u64::from(b'"')), 1);
        let slash = below(word ^ LOW.wrapping_mul(u64::from(b'\\')), 1);
        let marks = quote | slash | below(word, 0x20);
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(rest.len())
}

impl<'a> Text<'a> {
    /// At the start of `bytes`, which must be UTF-8.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Syntax> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { all: text, at: 0, open: 0 }),
            Err(error) => Err(Syntax { at: error.valid_up_to(), problem: "bytes that are not UTF-8" }),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        self.all.as_bytes()
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn bad<T>(&self, problem: &'static str) -> Result<T, Syntax> {
        Err(Syntax { at: self.at, problem })
    }

    fn between(&self, from: usize, to: usize) -> &'a str {
        self.all.get(from..to).unwrap_or_default()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    /// What the next value is.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind, Syntax> {
        self.space();
        match self.byte() {
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(_) => self.bad("expected a value"),
            None => self.bad("the text ends where a value should be"),
        }
    }

    /// The offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn word(&mut self, word: &'static str) -> Result<(), Syntax> {
        if self.bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            return Ok(());
        }
        self.bad("expected a value")
    }

    pub(crate) fn null(&mut self) -> Result<(), Syntax> {
        self.word("null")
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, Syntax> {
        let value = self.byte() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    fn digits(&mut self) -> Result<(), Syntax> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start { self.bad("expected a digit") } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number<'a>, Syntax> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.byte() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Number { digits: self.between(start, self.at), whole })
    }

    /// A text, copied only if it has escapes.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Syntax> {
        // The opening quote was seen by `kind` or `key`.
        self.at += 1;
        let start = self.at;
        self.at += plain(self.bytes().get(start..).unwrap_or_default());
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(self.between(start, self.at - 1)));
        }
        let mut text = self.between(start, self.at).to_owned();
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return self.bad("a control character inside a text"),
                None => return self.bad("the text ends inside a string"),
            }
            let from = self.at;
            self.at += plain(self.bytes().get(from..).unwrap_or_default());
            text.push_str(self.between(from, self.at));
        }
    }

    /// One escape, from its backslash.
    fn escape(&mut self) -> Result<char, Syntax> {
        let start = self.at;
        self.at += 1;
        let byte = self.byte();
        self.at += 1;
        Ok(match byte {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex()?;
                let code = match first {
                    0xd800..=0xdbff if self.word("\\u").is_ok() => {
                        let second = self.hex()?;
                        if !(0xdc00..=0xdfff).contains(&second) {
                            return Err(Syntax { at: start, problem: "half of a surrogate pair" });
                        }
                        0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    other => other,
                };
                // What is left that is no character is half of a surrogate pair.
                return char::from_u32(code).ok_or(Syntax { at: start, problem: "half of a surrogate pair" });
            }
            _ => return Err(Syntax { at: start, problem: "no such escape" }),
        })
    }

    fn hex(&mut self) -> Result<u32, Syntax> {
        let digits = self.bytes().get(self.at..self.at + 4).unwrap_or_default();
        let mut code = 0;
        for &digit in digits {
            let Some(value) = char::from(digit).to_digit(16) else {
                return self.bad("expected four hexadecimal digits");
            };
            code = code * 16 + value;
        }
        if digits.len() < 4 {
            return self.bad("expected four hexadecimal digits");
        }
        self.at += 4;
        Ok(code)
    }

    /// Enters an object or array, of which `kind` saw the bracket.
    #[inline]
    pub(crate) fn enter(&mut self) -> Result<Items, Syntax> {
        let close = if self.byte() == Some(b'{') { b'}' } else { b']' };
        if self.open == MAX_NESTING {
            return self.bad("more than 128 objects and arrays inside each other");
        }
        self.open += 1;
        self.at += 1;
        Ok(Items { close, first: true })
    }

    /// Whether there is another member; if not, the object or array was left.
    #[inline]
    pub(crate) fn more(&mut self, items: &mut Items) -> Result<bool, Syntax> {
        self.space();
        let next = self.byte();
        if next == Some(items.close) {
            self.at += 1;
            self.open -= 1;
            return Ok(false);
        }
        if items.first {
            items.first = false;
        } else if next == Some(b',') {
            self.at += 1;
        } else {
            return self.bad(if items.close == b'}' { "expected `,` or `}`" } else { "expected `,` or `]`" });
        }
        Ok(true)
    }

    /// The name of an object's member, with its colon.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<Cow<'a, str>, Syntax> {
        self.space();
        if self.byte() != Some(b'"') {
            return self.bad("expected a name in quotes");
        }
        let key = self.string()?;
        self.space();
        if self.byte() != Some(b':') {
            return self.bad("expected `:`");
        }
        self.at += 1;
        Ok(key)
    }

    /// Walks over the next value and returns it as it is written.
    pub(crate) fn skip(&mut self) -> Result<&'a str, Syntax> {
        self.kind()?;
        let start = self.at;
        self.walk(&mut false)?;
        Ok(self.between(start, self.at))
    }

    /// As [`Text::skip`], for an object that often is `known`, which was walked over before: then it is only compared.
    pub(crate) fn skip_known(&mut self, known: &str) -> Result<&'a str, Syntax> {
        self.kind()?;
        let rest = self.bytes().get(self.at..).unwrap_or_default();
        if known.starts_with('{') && rest.starts_with(known.as_bytes()) {
            let start = self.at;
            self.at += known.len();
            return Ok(self.between(start, self.at));
        }
        self.skip()
    }

    /// As [`Text::skip`], and whether there is anything in the value but nulls, empty objects and empty arrays.
    pub(crate) fn skip_shape(&mut self) -> Result<bool, Syntax> {
        let mut shaped = false;
        self.walk(&mut shaped)?;
        Ok(shaped)
    }

    fn walk(&mut self, shaped: &mut bool) -> Result<(), Syntax> {
        match self.kind()? {
            Kind::Null => return self.null(),
            Kind::Boolean => self.boolean().map(drop)?,
            Kind::Number => self.number().map(drop)?,
            Kind::Text => self.string().map(drop)?,
            Kind::Array => {
                let mut items = self.enter()?;
                while self.more(&mut items)? {
                    self.walk(shaped)?;
                }
                return Ok(());
            }
            Kind::Object => {
                let mut items = self.enter()?;
                while self.more(&mut items)? {
                    self.key()?;
                    self.walk(shaped)?;
                }
                return Ok(());
            }
        }
        *shaped = true;
        Ok(())
    }

    /// Nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        self.space();
        if self.at < self.all.len() { self.bad("more text after the value") } else { Ok(()) }
    }
}

/// How far the members of an object or array were walked.
pub(crate) struct Items {
    close: u8,
    first: bool,
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::Value;

    use super::*;

    /// The value as `serde_json` builds it, through this walk.
    fn tree(text: &mut Text<'_>) -> Result<Value, Syntax> {
        Ok(match text.kind()? {
            Kind::Null => text.null().map(|()| Value::Null)?,
            Kind::Boolean => text.boolean()?.into(),
            Kind::Number => {
                let number = text.number()?;
                serde_json::from_str(number.digits).unwrap_or_else(|_| number.digits.into())
            }
            Kind::Text => text.string()?.into_owned().into(),
            Kind::Array => {
                let (mut items, mut all) = (text.enter()?, Vec::new());
                while text.more(&mut items)? {
                    all.push(tree(text)?);
                }
                all.into()
            }
            Kind::Object => {
                let (mut items, mut all) = (text.enter()?, serde_json::Map::new());
                while text.more(&mut items)? {
                    let key = text.key()?.into_owned();
                    all.insert(key, tree(text)?);
                }
                all.into()
            }
        })
    }

    fn ours(bytes: &[u8]) -> Result<Value, Syntax> {
        let mut text = Text::new(bytes)?;
        let value = tree(&mut text)?;
        text.end()?;
        let mut skipped = Text::new(bytes)?;
        assert!(skipped.skip().is_ok() && skipped.end().is_ok(), "walked, and not walked over");
        Ok(value)
    }

    fn agrees(bytes: &[u8], seed: u64) -> bool {
        let theirs: Result<Value, _> = serde_json::from_slice(bytes);
        let shown = String::from_utf8_lossy(bytes);
        match (ours(bytes), theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "seed {seed}: {shown}"),
            (Err(_), Err(_)) => return false,
            // Theirs has no number beyond a double, and counts nesting one level earlier.
            (Ok(_), Err(error)) if error.to_string().starts_with("number out of range") => return false,
            (ours, theirs) => panic!("seed {seed}: {ours:?} and {theirs:?} of {shown}"),
        }
        true
    }

    #[test]
    fn it_reads_what_serde_json_reads_and_refuses_what_it_refuses() {
        for text in [
            r#"{"a":[1,-0,0.5,1e3,-2E-7,12345678901234567890],"b":"\u00e4\ud83d\ude00\n\/","c":{"":null},"d":true}"#,
            r" [ ] ",
            "{}",
            "\"\"",
            "0",
            "-",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "1e+",
            "nul",
            "nulll",
            "truefalse",
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r"{a:1}",
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#""\ud800\n""#,
            r#""\x""#,
            r#""\u12""#,
            "\"\\u+123\"",
            "\"a\nb\"",
            "\"\u{7f}\"",
            "\"",
            "[",
            "NaN",
            "Infinity",
            "[1 2]",
            "1 2",
            "",
            "\u{feff}1",
            "1e999",
            "\"12345678\\\"12345678\"",
            "\"1234567\u{1f}\"",
            "\"äöüäöüäöü\"",
        ] {
            agrees(text.as_bytes(), 0);
        }
        assert!(!agrees(b"\"\xff\"", 0) && !agrees(b"\"\xed\xa0\x80\"", 0));
    }

    #[test]
    fn it_agrees_with_serde_json_on_broken_text() {
        let seed: u64 = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        let whole = r#"{"a b": [1, -2.5e-3, "x\u00e4\ud83d\ude00y\\", null, true, {}, []], "deep": {"er": [[{"k": "12345678901234567"}]]}, "n": 18446744073709551616}"#;
        assert!(agrees(whole.as_bytes(), seed));
        let (mut good, mut bad) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = whole.as_bytes().to_vec();
            for _ in 0..rng.random_range(1..3) {
                let at = rng.random_range(0..bytes.len());
                let piece = b"\"\\{}[]:,0123456789eE+-. \ntfnuxA\xc3\xa4\xff\x00";
                let byte = piece[rng.random_range(0..piece.len())];
                match rng.random_range(0..4) {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            if agrees(&bytes, seed) { good += 1 } else { bad += 1 }
        }
        assert!(good > 100 && bad > 5_000, "{good} good, {bad} bad");
    }

    #[test]
    fn depth_is_limited_and_does_not_exhaust_the_stack() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Text::new(nested(MAX_NESTING).as_bytes()).unwrap().skip().is_ok());
        for text in [nested(MAX_NESTING + 1), "[".repeat(1_000_000), "{\"a\":".repeat(1_000_000)] {
            assert!(Text::new(text.as_bytes()).unwrap().skip().is_err());
        }
    }

    #[test]
    fn only_nulls_and_empty_things_have_no_shape() {
        for (text, shaped) in [
            ("null", false),
            ("[]", false),
            ("{}", false),
            ("[null,[],{}]", false),
            (r#"{"a":null,"b":{"c":[]}}"#, false),
            ("0", true),
            ("\"\"", true),
            ("[[],[0]]", true),
            (r#"{"a":null,"b":{"c":[false]}}"#, true),
        ] {
            assert_eq!(Text::new(text.as_bytes()).unwrap().skip_shape(), Ok(shaped), "{text}");
        }
    }
}
