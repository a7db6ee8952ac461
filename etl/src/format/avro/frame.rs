//! The frame around a body: `00`, the schema id in four bytes (big-endian), the body.
use thiserror::Error;

use crate::error::Explain;

/// Bytes before the body.
pub const HEADER: usize = 5;

/// Why bytes are not a framed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameProblem {
    /// Too short to hold the header.
    #[error("read the frame: {0} bytes are fewer than the 5 of a header")]
    Short(usize),
    /// The first byte is not zero.
    #[error("read the frame: it starts with the byte {0:#04x}, not 0x00")]
    Magic(u8),
}

impl Explain for FrameProblem {
    fn code(&self) -> &'static str {
        "F0204"
    }

    fn fix(&self) -> Option<String> {
        Some("let the producer use a serializer with a schema registry, or read the topic as JSON".into())
    }
}

/// Splits a record's value into the schema id and the body.
///
/// # Errors
/// If the header is missing or does not start with zero.
pub fn split(value: &[u8]) -> Result<(i32, &[u8]), FrameProblem> {
    match value {
        [0, a, b, c, d, body @ ..] => Ok((i32::from_be_bytes([*a, *b, *c, *d]), body)),
        [first, ..] if *first != 0 => Err(FrameProblem::Magic(*first)),
        _ => Err(FrameProblem::Short(value.len())),
    }
}

/// Appends the header for `schema_id`; the body is to follow.
pub fn write(schema_id: i32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_split_again() {
        let mut out = Vec::new();
        write(100_005, &mut out);
        out.extend_from_slice(b"body");

        assert_eq!(out[..HEADER], [0, 0x00, 0x01, 0x86, 0xa5]);
        assert_eq!(split(&out), Ok((100_005, &b"body"[..])));
        assert_eq!(split(&out[..HEADER]), Ok((100_005, &b""[..])));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(split(b""), Err(FrameProblem::Short(0)));
        assert_eq!(split(&[0, 0, 0, 1]), Err(FrameProblem::Short(4)));
        assert_eq!(split(b"{\"a\":1}"), Err(FrameProblem::Magic(b'{')));
        assert_eq!(split(b"{"), Err(FrameProblem::Magic(b'{')));
    }
}
