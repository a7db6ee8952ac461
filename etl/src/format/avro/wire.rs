//! Avro's binary encoding, value by value, with every bound checked.
//!
//! Source: Avro 1.12 specification, "Binary encoding".
use super::malformed::{Malformed, Reason, Step};

/// Items that take no bytes (an array of nulls) are bounded by this per record: nothing else would bound them.
const MAX_EMPTY_ITEMS: u64 = 65_536;

/// Reads one body from front to back.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    empty_items: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0, empty_items: MAX_EMPTY_ITEMS }
    }

    #[cold]
    #[expect(
        clippy::unnecessary_box_returns,
        reason = "every caller needs the box, to keep a good value's result small"
    )]
    pub(super) fn bad(&self, reason: Reason) -> Box<Malformed> {
        Box::new(Malformed { path: String::new(), at: self.at, reason })
    }

    /// The byte reached.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn left(&self) -> usize {
        self.body.len() - self.at
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Step {
        if self.left() == 0 { Ok(()) } else { Err(self.bad(Reason::Trailing(self.left()))) }
    }

    /// The next `size` bytes.
    pub(super) fn take(&mut self, size: usize) -> Step<&'a [u8]> {
        let taken = self.at.checked_add(size).and_then(|end| self.body.get(self.at..end));
        let Some(taken) = taken else {
            return Err(self.bad(Reason::Truncated { needed: size as u64, left: self.left() }));
        };
        self.at += size;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(super) fn boolean(&mut self) -> Step<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.bad(Reason::Boolean(other))),
        }
    }

    pub(super) fn float(&mut self) -> Step<f32> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(super) fn double(&mut self) -> Step<f64> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// A whole number: seven bits a byte, lowest first, zigzag.
    #[inline]
    pub(super) fn long(&mut self) -> Step<i64> {
        // Most numbers are lengths and branches of one byte.
        if let Some(&byte) = self.body.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(unzigzag(u64::from(byte)));
        }
        self.long_of_many_bytes()
    }

    fn long_of_many_bytes(&mut self) -> Step<i64> {
        let mut value = 0_u64;
        for (index, &byte) in self.body[self.at..].iter().take(10).enumerate() {
            // The tenth byte holds the 64th bit and nothing more.
            if index == 9 && byte > 1 {
                return Err(self.bad(Reason::Varint));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(unzigzag(value));
            }
        }
        Err(self.bad(Reason::Truncated { needed: self.left() as u64 + 1, left: self.left() }))
    }

    #[inline]
    pub(super) fn int(&mut self) -> Step<i32> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| self.bad(Reason::IntRange(value)))
    }

    /// Length-prefixed bytes. The length is checked before anything is allocated.
    #[inline]
    pub(super) fn bytes(&mut self) -> Step<&'a [u8]> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) if length < 0 => Err(self.bad(Reason::Length(length))),
            Err(_) => Err(self.bad(Reason::Truncated { needed: length.unsigned_abs(), left: self.left() })),
        }
    }

    #[inline]
    pub(super) fn text(&mut self) -> Step<&'a [u8]> {
        let bytes = self.bytes()?;
        if std::str::from_utf8(bytes).is_err() {
            return Err(self.bad(Reason::Utf8));
        }
        Ok(bytes)
    }

    /// Reads the blocks of an array or a map; `item` reads one item, which takes at least `least` bytes.
    pub(super) fn blocks(&mut self, least: usize, mut item: impl FnMut(&mut Self) -> Step) -> Step {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            let stated = if count < 0 { Some(self.long()?) } else { None };
            let count = count.unsigned_abs();
            match (self.left() as u64).checked_div(least as u64) {
                Some(most) if count > most => return Err(self.bad(Reason::Items(count))),
                None if count > self.empty_items => return Err(self.bad(Reason::Items(count))),
                Some(_) => {}
                None => self.empty_items -= count,
            }
            let start = self.at;
            for _ in 0..count {
                item(self)?;
            }
            let found = self.at - start;
            if let Some(stated) = stated
                && usize::try_from(stated) != Ok(found)
            {
                return Err(self.bad(Reason::Block { stated, found }));
            }
        }
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Appends a whole number.
pub(super) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned();
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(0x80 | low);
    }
}

/// Appends bytes with their length in front.
pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Appends a length, a count, a branch or a symbol.
pub(super) fn write_length(length: usize, out: &mut Vec<u8>) {
    // Nothing in memory is longer than i64::MAX.
    write_long(i64::try_from(length).unwrap_or(i64::MAX), out);
}

/// The two's complement of an unscaled decimal, big-endian, as short as it can be.
pub(super) fn decimal_bytes(unscaled: i128) -> ([u8; 16], usize) {
    let bytes = unscaled.to_be_bytes();
    let sign = if unscaled < 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < 15 && bytes[start] == sign && (bytes[start + 1] ^ sign) < 0x80 {
        start += 1;
    }
    (bytes, start)
}

/// The integer of a big-endian two's complement; `None` over 128 bits. No bytes are zero, as Java's and ours read it.
pub(super) fn decimal_value(bytes: &[u8]) -> Option<i128> {
    let sign = if bytes.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let extra = bytes.len().saturating_sub(16);
    let (front, rest) = bytes.split_at(extra);
    let mut whole = [sign; 16];
    whole[16 - rest.len()..].copy_from_slice(rest);
    let value = i128::from_be_bytes(whole);
    let same_sign = (value < 0) == (sign == 0xff);
    (same_sign && front.iter().all(|byte| *byte == sign)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_decimals_come_back() {
        for value in [0, 1, -1, 63, -64, 64, 300, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            write_long(value, &mut out);
            assert_eq!(Reader::new(&out).long().unwrap(), value);
        }
        for value in [0, 1, -1, 127, 128, -128, -129, 899, i128::MAX, i128::MIN] {
            let (bytes, start) = decimal_bytes(value);
            assert_eq!(decimal_value(&bytes[start..]), Some(value));
            assert!(start == 15 || decimal_value(&bytes[start + 1..]) != Some(value), "{value} is not shortest");
        }
        assert_eq!(decimal_value(&[]), Some(0));
        assert_eq!(decimal_value(&[1; 17]), None);
    }

    #[test]
    fn a_huge_length_allocates_nothing_and_is_refused() {
        let mut out = Vec::new();
        write_long(1 << 60, &mut out);
        assert!(
            matches!(Reader::new(&out).bytes().unwrap_err().reason, Reason::Truncated { needed, .. } if needed == 1 << 60)
        );
        assert!(matches!(Reader::new(&[0xff; 10]).long().unwrap_err().reason, Reason::Varint));
        assert!(matches!(Reader::new(&[0xff; 3]).long().unwrap_err().reason, Reason::Truncated { .. }));
        assert!(matches!(Reader::new(&[1]).bytes().unwrap_err().reason, Reason::Length(-1)));
    }
}
