//! One file to batches, on a thread that may block: what it is, unpacked, and handed to its format's reader.
use std::fs::File;
use std::io::{self, Cursor, Read, Seek as _, Write as _};
use std::path::PathBuf;

use object_store::local::LocalFileSystem;

use super::batch::{Batch, Origin};
use super::error::FilesError;
use super::fetch::{FetchError, Source};
use super::target::Target;
use super::{csv, jsonl, typed};
use crate::format::csv::Dialect;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values, RFC 4180.
    Csv,
    /// One JSON object per line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Avro object container file.
    Avro,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::JsonLines => "JSON lines",
            Self::Parquet => "Parquet",
            Self::Avro => "an Avro container file",
        }
    }
}

/// What a file is packed with, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

/// How a text file's bytes are read as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// UTF-8; a byte order mark is left out. Rows that are not UTF-8 are dead letters.
    #[default]
    Utf8,
    /// Windows code page 1252, which ISO 8859-1 is a part of. Every byte is a character.
    Windows1252,
}

/// Packing, format and whether cells are between tabs, by a file's name.
pub(super) fn by_name(name: &str) -> (Packing, Option<Format>, bool) {
    let lower = name.to_lowercase();
    let (rest, packing) = match lower.rsplit_once('.') {
        Some((rest, "gz")) => (rest, Packing::Gzip),
        Some((rest, "zst" | "zstd")) => (rest, Packing::Zstd),
        _ => (lower.as_str(), Packing::None),
    };
    let ending = rest.rsplit_once('.').map(|(_, ending)| ending);
    let format = match ending {
        Some("csv" | "tsv") => Some(Format::Csv),
        Some("jsonl" | "ndjson" | "json") => Some(Format::JsonLines),
        Some("parquet") => Some(Format::Parquet),
        Some("avro") => Some(Format::Avro),
        _ => None,
    };
    (packing, format, ending == Some("tsv"))
}

/// How one file is read.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) origin: Origin,
    pub(super) dialect: Dialect,
    pub(super) header: bool,
    /// Names of the columns by position, for a file without a header.
    pub(super) names: Vec<String>,
    /// Cells that are NULL unless they are in quotes.
    pub(super) nulls: Vec<String>,
    pub(super) encoding: Encoding,
    /// Rows that the types of new columns are taken from; 0: all.
    pub(super) infer_rows: usize,
    /// A row of more bytes is refused.
    pub(super) max_row: usize,
    /// A batch is closed after about this many bytes of the file.
    pub(super) batch_bytes: usize,
}

impl Plan {
    pub(super) fn is_null(&self, text: &str) -> bool {
        self.nulls.iter().any(|null| null == text)
    }

    /// A failure to read: of the storage, or of what unpacks the bytes.
    pub(super) fn io(&self, error: io::Error) -> FilesError {
        io_error(&self.origin.shown, error)
    }

    pub(super) fn damaged(&self, why: &impl ToString) -> FilesError {
        FilesError::Damaged { file: self.origin.shown.clone(), why: why.to_string() }
    }
}

fn io_error(file: &str, error: io::Error) -> FilesError {
    let why = if error.kind() == io::ErrorKind::UnexpectedEof {
        "it ends before what it is packed with says it should: it was cut short".to_owned()
    } else {
        error.to_string()
    };
    match error.into_inner().map(<dyn std::error::Error + Send + Sync>::downcast::<FetchError>) {
        Some(Ok(fetch)) => match fetch.0 {
            object_store::Error::Precondition { .. } | object_store::Error::NotModified { .. } => {
                FilesError::Moving { file: file.to_owned() }
            }
            source => FilesError::Storage { doing: "read", place: file.to_owned(), source },
        },
        _ => FilesError::Damaged { file: file.to_owned(), why },
    }
}

/// A text of the file in a message.
pub(super) fn show(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// Reads the file whole and hands its batches to `send`, until that says that nobody wants more.
pub(super) fn read(
    source: &Source,
    packing: Packing,
    format: Format,
    local: bool,
    spool: &PathBuf,
    plan: Plan,
    send: &mut dyn FnMut(Batch) -> bool,
) -> Result<(), FilesError> {
    let file = plan.origin.shown.clone();
    let encoding = plan.encoding;
    let open = || open(source, packing, format, encoding, &file);
    match format {
        Format::Csv => csv::read(&open, plan, send),
        Format::JsonLines => jsonl::read(&open, plan, send),
        Format::Avro => typed::read_avro(open()?, plan, send),
        Format::Parquet => {
            if let Some(bytes) = source.small().map_err(|error| io_error(&file, error))?
                && packing == Packing::None
            {
                check(format, &bytes, &file)?;
                return typed::read_parquet(bytes, plan, send);
            }
            if local && packing == Packing::None {
                // Parquet is read from its end: on disk it lies as it is needed.
                let failed = |source| FilesError::Storage { doing: "read", place: file.clone(), source };
                let path = LocalFileSystem::new().path_to_filesystem(&source.meta.location).map_err(failed)?;
                let opened = File::open(path).map_err(|error| io_error(&file, error))?;
                return typed::read_parquet(opened, plan, send);
            }
            let opened = spooled(&mut open()?, spool, &file)?;
            typed::read_parquet(opened, plan, send)
        }
    }
}

/// The bytes in a temporary file without a name, which is gone when it is closed.
fn spooled(reader: &mut dyn Read, folder: &PathBuf, file: &str) -> Result<File, FilesError> {
    let failed = |source| FilesError::Spool { file: file.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut out = tempfile::tempfile_in(folder).map_err(failed)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error(file, error)),
        };
        out.write_all(piece.get(..count).unwrap_or_default()).map_err(failed)?;
    }
    out.rewind().map_err(failed)?;
    Ok(out)
}

/// The file's content from its start, once its first bytes are what the name says.
fn open(
    source: &Source,
    packing: Packing,
    format: Format,
    encoding: Encoding,
    file: &str,
) -> Result<Box<dyn Read>, FilesError> {
    let failed = |error| io_error(file, error);
    let (first, packed) = peek(source.open().map_err(failed)?, 8).map_err(failed)?;
    let wrong = |expected, found: &str| FilesError::Content {
        file: file.to_owned(),
        expected,
        found: format!("its first bytes are {found}"),
    };
    let unpacked: Box<dyn Read> = match packing {
        Packing::None => packed,
        Packing::Gzip if first.starts_with(b"\x1f\x8b") => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Packing::Zstd if first.starts_with(b"\x28\xb5\x2f\xfd") => {
            Box::new(zstd::stream::read::Decoder::new(packed).map_err(failed)?)
        }
        Packing::Gzip => return Err(wrong("gzip", &described(&first))),
        Packing::Zstd => return Err(wrong("zstd", &described(&first))),
    };
    let (first, content) = peek(unpacked, 512).map_err(failed)?;
    check(format, &first, file)?;
    Ok(match encoding {
        Encoding::Windows1252 if format == Format::Csv => Box::new(Transcoder::new(content)),
        _ => content,
    })
}

/// The first bytes, and a reader that begins with them.
fn peek(mut reader: Box<dyn Read>, count: u64) -> io::Result<(Vec<u8>, Box<dyn Read>)> {
    let mut first = Vec::new();
    reader.by_ref().take(count).read_to_end(&mut first)?;
    Ok((first.clone(), Box::new(Cursor::new(first).chain(reader))))
}

/// Formats by their first bytes.
const KNOWN: [(&[u8], &str); 9] = [
    (b"PAR1", "those of Parquet"),
    (b"Obj\x01", "those of an Avro container file"),
    (b"\x1f\x8b", "those of gzip"),
    (b"\x28\xb5\x2f\xfd", "those of zstd"),
    (b"PK\x03\x04", "those of a zip archive or a workbook"),
    (b"ORC", "those of ORC"),
    (b"%PDF", "those of a PDF"),
    (b"\xff\xfe", "those of UTF-16"),
    (b"\xfe\xff", "those of UTF-16"),
];

fn described(first: &[u8]) -> String {
    if first.is_empty() {
        return "missing: the file is empty".to_owned();
    }
    let known = KNOWN.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| {
        let shown = first.get(..first.len().min(8)).unwrap_or_default();
        format!("`{}`", String::from_utf8_lossy(shown).escape_debug())
    })
}

/// Checks the first bytes of the content. An empty text file is one without rows; an empty Parquet or Avro file is none.
fn check(format: Format, first: &[u8], file: &str) -> Result<(), FilesError> {
    let right = match format {
        Format::Parquet => first.starts_with(b"PAR1"),
        Format::Avro => first.starts_with(b"Obj\x01"),
        Format::Csv | Format::JsonLines => {
            // A text may begin with the letters of another format; no text goes on with such bytes.
            let foreign = first.iter().any(|byte| *byte >= 0x80 || (*byte < 0x20 && !byte.is_ascii_whitespace()));
            let known = foreign && KNOWN.iter().any(|(magic, _)| first.starts_with(magic));
            !known && !first.contains(&0)
        }
    };
    if right {
        return Ok(());
    }
    let found = if matches!(format, Format::Csv | Format::JsonLines) && described(first).starts_with('`') {
        "it holds bytes of zero: it is no text".to_owned()
    } else {
        format!("its first bytes are {}", described(first))
    };
    Err(FilesError::Content { file: file.to_owned(), expected: format.name(), found })
}

/// Windows-1252 as UTF-8.
struct Transcoder {
    input: Box<dyn Read>,
    out: Vec<u8>,
    at: usize,
}

impl Transcoder {
    fn new(input: Box<dyn Read>) -> Self {
        Self { input, out: Vec::new(), at: 0 }
    }
}

impl Read for Transcoder {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.out.len() {
            let mut piece = [0; 16 << 10];
            let count = self.input.read(&mut piece)?;
            // One byte is one character: pieces can be taken for themselves.
            let text = encoding_rs::WINDOWS_1252.decode_without_bom_handling(piece.get(..count).unwrap_or_default()).0;
            self.out.clear();
            self.out.extend_from_slice(text.as_bytes());
            self.at = 0;
        }
        let rest = self.out.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out.get_mut(..count).unwrap_or_default().copy_from_slice(rest.get(..count).unwrap_or_default());
        self.at += count;
        Ok(count)
    }
}
