//! What can be wrong with one record.
use thiserror::Error;

use crate::error::Explain;
use crate::format::error::{join, shown};

/// One record that cannot become a row. It is refused alone; its neighbours are not touched.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("read {} at byte {at} of the body: {reason}", shown(path))]
pub struct Malformed {
    /// The field, as `location.city`, `tags[]` or `attributes{}`; empty at the end of the record.
    pub path: String,
    /// The byte of the body (without the frame) that was reached.
    pub at: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Reason {
    /// The body ends within a value.
    #[error("{needed} bytes are needed, {left} are left")]
    Truncated {
        /// How many bytes the value has.
        needed: u64,
        /// How many the body still has.
        left: usize,
    },
    /// The body goes on after the last field.
    #[error("{0} bytes are left over after the last field")]
    Trailing(usize),
    /// A whole number of more than 64 bits.
    #[error("a whole number is longer than 64 bits")]
    Varint,
    /// A whole number that its type cannot hold.
    #[error("{0} does not fit an int")]
    IntRange(i64),
    /// A length or a count below zero.
    #[error("a length of {0}")]
    Length(i64),
    /// Neither 0 nor 1.
    #[error("{0:#04x} is no boolean")]
    Boolean(u8),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A union branch that does not exist.
    #[error("branch {index} of a union of {branches}")]
    Union {
        /// The branch in the record.
        index: i64,
        /// How many there are.
        branches: usize,
    },
    /// An enum symbol that does not exist.
    #[error("symbol {index} of an enum of {symbols}")]
    Enum {
        /// The symbol in the record.
        index: i32,
        /// How many there are.
        symbols: usize,
    },
    /// A block of items that is not as long as it says.
    #[error("a block of items says {stated} bytes and has {found}")]
    Block {
        /// The size in the record.
        stated: i64,
        /// The size of its items.
        found: usize,
    },
    /// More items than the bytes that are left can hold.
    #[error("{0} items are more than the record can hold")]
    Items(u64),
    /// A decimal of more digits than its type.
    #[error("a decimal of more than {0} digits")]
    Decimal(u8),
    /// A time outside of what a column can hold.
    #[error("the time {0} is out of range")]
    Time(i64),
    /// A uuid that is not 16 bytes long.
    #[error("a uuid of {0} bytes")]
    Uuid(usize),
    /// No value for a column that is required.
    #[error("null in a required column")]
    Null,
    /// A branch of the writer's union that the column cannot hold.
    #[error("the column cannot hold {0}")]
    Branch(String),
    /// More than 2 GiB of one column between two flushes.
    #[error("the batch is full: over 2 GiB in one column")]
    Full,
}

impl Reason {
    /// A stable word for counting: `truncated`, `trailing`, `utf8`, …
    pub fn word(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "truncated",
            Self::Trailing(_) => "trailing",
            Self::Varint | Self::IntRange(_) => "integer",
            Self::Length(_) | Self::Block { .. } | Self::Items(_) => "length",
            Self::Boolean(_) => "boolean",
            Self::Utf8 => "utf8",
            Self::Union { .. } | Self::Branch(_) => "union",
            Self::Enum { .. } => "enum",
            Self::Decimal(_) => "decimal",
            Self::Time(_) => "time",
            Self::Uuid(_) => "uuid",
            Self::Null => "null",
            Self::Full => "full",
        }
    }
}

impl Explain for Malformed {
    fn code(&self) -> &'static str {
        "F0203"
    }

    fn fix(&self) -> Option<String> {
        Some("see which schema the producer really wrote with; the record's bytes are in the dead letters".into())
    }
}

/// The walk's own result: small, as it is returned for every value.
pub(super) type Step<T = ()> = Result<T, Box<Malformed>>;

/// Names the record field or list in which a value is bad.
pub(super) fn within(name: &str) -> impl FnOnce(Box<Malformed>) -> Box<Malformed> {
    move |mut bad| {
        let inner = std::mem::take(&mut bad.path);
        bad.path = match inner.as_bytes().first() {
            None => name.to_owned(),
            Some(b'[' | b'{') => format!("{name}{inner}"),
            Some(_) => join(name, &inner),
        };
        bad
    }
}
