//! Avro object container files: a header with the writer's schema, then blocks of records.
//!
//! Source: Avro 1.12 specification, "Object Container Files". A block ends with the file's own marker of 16 bytes:
//! where a block is damaged, reading goes on after the next marker.
use std::collections::HashMap;
use std::io::{self, Read};

use apache_avro::Schema;
use memchr::memmem;
use thiserror::Error;

use crate::format::window::Window;

/// What the file begins with.
const MAGIC: &[u8] = b"Obj\x01";
const MARKER: usize = 16;
/// A header of more bytes is refused.
const HEADER: usize = 64 << 20;

/// Why a file cannot be read at all, or not to its end.
#[derive(Debug, Error)]
pub(crate) enum ContainerProblem {
    /// The bytes did not come.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as such a file does.
    #[error("it does not begin with the bytes of an Avro container file")]
    Magic,
    /// The header cannot be read.
    #[error("its header cannot be read: {0}")]
    Header(String),
    /// A codec that is not built in.
    #[error("its blocks are compressed with `{0}`; known are null, deflate, snappy, zstandard and bzip2")]
    Codec(String),
    /// It ends within a block.
    #[error("it ends within a block, after {0} rows")]
    Truncated(u64),
}

#[derive(Debug, Clone, Copy)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
    Bzip2,
}

/// One block.
#[derive(Debug)]
pub(crate) struct Block {
    /// The number of its first record, from 1, by the counts that the blocks before it state.
    pub(crate) first: u64,
    /// How many records it states.
    pub(crate) records: u64,
    /// The records one after the other, or what is wrong and the bytes as they are in the file.
    pub(crate) body: Result<Vec<u8>, (String, Vec<u8>)>,
}

/// A container file being read.
pub(crate) struct Container<R> {
    window: Window<R>,
    schema: Schema,
    codec: Codec,
    marker: [u8; MARKER],
    next: u64,
    limit: usize,
}

impl<R: Read> Container<R> {
    /// Reads the header. Blocks of more than `limit` bytes, as they are or unpacked, are taken as damaged.
    pub(crate) fn open(input: R, limit: usize) -> Result<Self, ContainerProblem> {
        let mut window = Window::new(input);
        let (meta, marker, size) = loop {
            window.fill()?;
            if !window.bytes().starts_with(MAGIC) {
                return Err(ContainerProblem::Magic);
            }
            match header(window.bytes()) {
                Some(Ok(found)) => break found,
                Some(Err(why)) => return Err(ContainerProblem::Header(why.to_owned())),
                None if window.ended() => return Err(ContainerProblem::Header("the file ends within it".to_owned())),
                None if window.bytes().len() > HEADER => {
                    return Err(ContainerProblem::Header("it is larger than 64 MiB".to_owned()));
                }
                None => {}
            }
        };
        window.consume(size);
        let text = meta.get("avro.schema").map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let text = text.ok_or_else(|| ContainerProblem::Header("it has no `avro.schema`".to_owned()))?;
        let schema = Schema::parse_str(&text).map_err(|error| ContainerProblem::Header(error.to_string()))?;
        let codec = match meta.get("avro.codec").map(Vec::as_slice) {
            None | Some(b"" | b"null") => Codec::Null,
            Some(b"deflate") => Codec::Deflate,
            Some(b"snappy") => Codec::Snappy,
            Some(b"zstandard") => Codec::Zstandard,
            Some(b"bzip2") => Codec::Bzip2,
            Some(other) => return Err(ContainerProblem::Codec(String::from_utf8_lossy(other).into_owned())),
        };
        Ok(Self { window, schema, codec, marker, next: 1, limit })
    }

    /// What the records were written with.
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The next block, `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Block>, ContainerProblem> {
        let head = loop {
            if self.window.bytes().is_empty() && self.window.ended() {
                return Ok(None);
            }
            match block_head(self.window.bytes()) {
                Some(head) => break head,
                None if self.window.ended() => return Err(ContainerProblem::Truncated(self.next - 1)),
                None => self.window.fill()?,
            }
        };
        let stated = head.ok().and_then(|(records, size, at)| {
            Some((u64::try_from(records).ok()?, usize::try_from(size).ok().filter(|size| *size <= self.limit)?, at))
        });
        let first = self.next;
        let Some((records, size, at)) = stated else {
            let raw = self.skip_to_marker(0)?;
            let why = "it does not begin with a count and a size that can be".to_owned();
            return Ok(Some(Block { first, records: 0, body: Err((why, raw)) }));
        };
        let end = at + size + MARKER;
        while self.window.bytes().len() < end {
            if self.window.ended() {
                return Err(ContainerProblem::Truncated(first - 1));
            }
            self.window.fill()?;
        }
        let bytes = self.window.bytes();
        let packed = bytes.get(at..at + size).unwrap_or_default();
        if bytes.get(at + size..end) != Some(&self.marker[..]) {
            let raw = self.skip_to_marker(0)?;
            self.next = first.saturating_add(records);
            return Ok(Some(Block { first, records, body: Err(("its end marker is not where it says".into(), raw)) }));
        }
        let body = unpack(self.codec, packed, self.limit).map_err(|why| (why, packed.to_vec()));
        self.window.consume(end);
        self.next = first.saturating_add(records);
        Ok(Some(Block { first, records, body }))
    }

    /// Leaves everything behind up to the end of the next marker; returns the beginning of it.
    fn skip_to_marker(&mut self, mut from: usize) -> Result<Vec<u8>, ContainerProblem> {
        let mut kept: Vec<u8> = Vec::new();
        loop {
            let bytes = self.window.bytes();
            let room = self.limit.min(1 << 20).saturating_sub(kept.len());
            if let Some(found) = memmem::find(bytes.get(from..).unwrap_or_default(), &self.marker) {
                let end = from + found;
                kept.extend_from_slice(bytes.get(..end.min(room)).unwrap_or_default());
                self.window.consume(end + MARKER);
                return Ok(kept);
            }
            if self.window.ended() {
                return Err(ContainerProblem::Truncated(self.next - 1));
            }
            // The marker may lie across the edge.
            let behind = bytes.len().saturating_sub(MARKER - 1);
            kept.extend_from_slice(bytes.get(..behind.min(room)).unwrap_or_default());
            self.window.consume(behind);
            from = 0;
            self.window.fill()?;
        }
    }
}

/// A zigzag number at the start of `bytes`: its value and size; `None` if it goes on beyond them.
fn long(bytes: &[u8]) -> Option<Result<(i64, usize), &'static str>> {
    let mut value: u64 = 0;
    for (place, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(place).ok()?).unwrap_or(0);
        if byte < 0x80 {
            let half = i64::try_from(value >> 1).unwrap_or(i64::MAX);
            return Some(Ok((if value & 1 == 1 { !half } else { half }, place + 1)));
        }
    }
    (bytes.len() >= 10).then_some(Err("a whole number is longer than 64 bits"))
}

type Head = (i64, i64, usize);

/// Count, size, and where the records begin.
fn block_head(bytes: &[u8]) -> Option<Result<Head, &'static str>> {
    let (records, a) = match long(bytes)? {
        Ok(found) => found,
        Err(why) => return Some(Err(why)),
    };
    Some(long(bytes.get(a..)?)?.map(|(size, b)| (records, size, a + b)))
}

type Header = (HashMap<String, Vec<u8>>, [u8; MARKER], usize);

/// The header's entries, the marker, and the header's size; `None` if it goes on beyond `bytes`.
fn header(bytes: &[u8]) -> Option<Result<Header, &'static str>> {
    let mut at = MAGIC.len();
    let mut meta = HashMap::new();
    macro_rules! number {
        () => {
            match long(bytes.get(at..)?)? {
                Ok((value, size)) => {
                    at += size;
                    value
                }
                Err(why) => return Some(Err(why)),
            }
        };
    }
    macro_rules! text {
        () => {{
            let Ok(size) = usize::try_from(number!()) else { return Some(Err("a length below zero")) };
            let Some(end) = at.checked_add(size) else { return Some(Err("a length that cannot be")) };
            let text = bytes.get(at..end)?;
            at = end;
            text.to_vec()
        }};
    }
    loop {
        let count = number!();
        if count == 0 {
            break;
        }
        if count < 0 {
            // The block's size in bytes follows.
            number!();
        }
        for _ in 0..count.unsigned_abs() {
            let key = text!();
            let value = text!();
            meta.insert(String::from_utf8_lossy(&key).into_owned(), value);
        }
    }
    let marker = bytes.get(at..at + MARKER)?.try_into().ok()?;
    Some(Ok((meta, marker, at + MARKER)))
}

fn unpack(codec: Codec, packed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let bounded = |reader: &mut dyn Read| {
        let mut out = Vec::new();
        reader.take(limit as u64 + 1).read_to_end(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    };
    let out: Result<Vec<u8>, String> = match codec {
        Codec::Null => Ok(packed.to_vec()),
        Codec::Deflate => bounded(&mut flate2::read::DeflateDecoder::new(packed)),
        Codec::Zstandard => {
            let mut reader = zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())?;
            bounded(&mut reader)
        }
        Codec::Bzip2 => bounded(&mut bzip2::read::BzDecoder::new(packed)),
        Codec::Snappy => snappy(packed, limit),
    };
    let out = out.map_err(|why| format!("it cannot be unpacked: {why}"))?;
    if out.len() > limit { Err(format!("unpacked it is larger than {limit} bytes")) } else { Ok(out) }
}

/// Snappy, then the check sum of the unpacked bytes.
fn snappy(packed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let (packed, sum) = packed.split_last_chunk::<4>().ok_or("it has no check sum")?;
    let size = snap::raw::decompress_len(packed).map_err(|error| error.to_string())?;
    if size > limit {
        return Err(format!("it would be {size} bytes"));
    }
    let out = snap::raw::Decoder::new().decompress_vec(packed).map_err(|error| error.to_string())?;
    if crc32fast::hash(&out) == u32::from_be_bytes(*sum) { Ok(out) } else { Err("its check sum differs".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[{"name":"n","type":"long"}]}"#;
    const END: [u8; MARKER] = *b"0123456789abcdef";

    fn varint(value: i64, out: &mut Vec<u8>) {
        let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while zigzag >= 0x80 {
            out.push(u8::try_from(zigzag & 0x7f).unwrap() | 0x80);
            zigzag >>= 7;
        }
        out.push(u8::try_from(zigzag).unwrap());
    }

    fn pack(codec: &str, body: &[u8]) -> Vec<u8> {
        match codec {
            "null" => body.to_vec(),
            "deflate" => {
                let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(body).unwrap();
                writer.finish().unwrap()
            }
            "zstandard" => zstd::encode_all(body, 1).unwrap(),
            "bzip2" => {
                let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                writer.write_all(body).unwrap();
                writer.finish().unwrap()
            }
            "snappy" => {
                let mut out = snap::raw::Encoder::new().compress_vec(body).unwrap();
                out.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
                out
            }
            other => panic!("{other}"),
        }
    }

    /// A file of blocks of numbers, and where each block begins.
    fn file(codec: &str, blocks: &[&[i64]]) -> (Vec<u8>, Vec<usize>) {
        let mut out = MAGIC.to_vec();
        varint(2, &mut out);
        for text in ["avro.schema", SCHEMA, "avro.codec", codec] {
            varint(i64::try_from(text.len()).unwrap(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
        varint(0, &mut out);
        out.extend_from_slice(&END);
        let mut starts = Vec::new();
        for block in blocks {
            starts.push(out.len());
            let mut body = Vec::new();
            block.iter().for_each(|n| varint(*n, &mut body));
            let packed = pack(codec, &body);
            varint(i64::try_from(block.len()).unwrap(), &mut out);
            varint(i64::try_from(packed.len()).unwrap(), &mut out);
            out.extend_from_slice(&packed);
            out.extend_from_slice(&END);
        }
        (out, starts)
    }

    fn read(bytes: &[u8]) -> Result<Vec<(u64, u64, bool)>, ContainerProblem> {
        let mut container = Container::open(bytes, 1 << 20)?;
        let mut blocks = Vec::new();
        while let Some(block) = container.next()? {
            blocks.push((block.first, block.records, block.body.is_ok()));
        }
        Ok(blocks)
    }

    #[test]
    fn every_codec_is_unpacked() {
        for codec in ["null", "deflate", "snappy", "zstandard", "bzip2"] {
            let (bytes, _) = file(codec, &[&[1, 2, 3], &[4]]);
            let mut container = Container::open(&bytes[..], 1 << 20).unwrap();
            let block = container.next().unwrap().unwrap();
            assert_eq!(block.body.unwrap(), [2, 4, 6], "{codec}");
            assert_eq!(container.next().unwrap().unwrap().first, 4);
            assert!(container.next().unwrap().is_none());
        }
        let (bytes, _) = file("null", &[]);
        let at = bytes.windows(4).position(|w| w == b"null").unwrap();
        let mut other = bytes.clone();
        other[at..at + 4].copy_from_slice(b"lzma");
        assert!(matches!(Container::open(&other[..], 100), Err(ContainerProblem::Codec(name)) if name == "lzma"));
    }

    #[test]
    fn a_file_that_apache_avro_writes_is_read() {
        let schema = Schema::parse_str(SCHEMA).unwrap();
        let mut writer = apache_avro::Writer::new(&schema, Vec::new()).unwrap();
        for n in 0..1000_i64 {
            let mut record = apache_avro::types::Record::new(&schema).unwrap();
            record.put("n", n);
            writer.append_value(record).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        assert_eq!(read(&bytes).unwrap().iter().map(|(_, records, _)| records).sum::<u64>(), 1000);
    }

    #[test]
    fn a_damaged_block_costs_itself() {
        let (bytes, starts) = file("snappy", &[&[1, 2], &[3, 4, 5], &[6]]);
        let mut flipped = bytes.clone();
        flipped[starts[1] + 4] ^= 0x10;
        assert_eq!(read(&flipped).unwrap(), [(1, 2, true), (3, 3, false), (6, 1, true)]);
        let mut longer = bytes.clone();
        longer[starts[1] + 1] += 2;
        assert_eq!(read(&longer).unwrap(), [(1, 2, true), (3, 3, false), (6, 1, true)]);
    }

    #[test]
    fn a_file_cut_short_is_never_taken_as_whole() {
        let (bytes, starts) = file("deflate", &[&[1, 2], &[3, 4, 5]]);
        for end in 0..bytes.len() {
            let whole = starts.contains(&end);
            assert_eq!(read(&bytes[..end]).is_ok(), whole, "cut at {end}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = StdRng::seed_from_u64(3);
        let (bytes, _) = file("deflate", &[&[1, 2], &[3, 4, 5], &[6; 100]]);
        for _ in 0..5000 {
            let mut hostile = bytes.clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..hostile.len());
                hostile[at] = random.random();
            }
            drop(read(&hostile));
        }
    }
}
