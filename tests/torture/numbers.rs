//! What is produced: numbered records of several schemas, and some that cannot be read. What must become of each is
//! known as a digest, made here from what was written and in the checker from what is read.
use std::collections::BTreeMap;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// What must become of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// A row with this digest.
    Row(u64),
    /// A dead letter with these bytes.
    Dead(Vec<u8>),
}

/// All records of a topic, by partition and offset, with what must become of them.
#[derive(Debug, Default, Clone)]
pub(super) struct Produced {
    pub(super) partitions: Vec<BTreeMap<i64, Fate>>,
}

/// One record before it has an offset.
#[derive(Debug, Clone)]
pub(super) struct Number {
    pub(super) partition: usize,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) fate: Fate,
}

/// The schema of a writer: a number, a text, and `fields` further numbers that may be absent.
pub(super) fn schema(fields: usize) -> String {
    let more =
        (1..=fields).map(|field| format!(r#",{{"name":"extra_{field}","type":["null","long"],"default":null}}"#));
    let more = more.collect::<Vec<_>>().concat();
    format!(
        r#"{{"type":"record","name":"Number","fields":[{{"name":"seq","type":"long"}},{{"name":"body","type":"string"}}{more}]}}"#
    )
}

/// A known writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer {
    pub(super) id: i32,
    pub(super) fields: usize,
}

/// An id that no registry has given.
const UNKNOWN: i32 = 2_000_000_000;

/// A record that becomes a row.
pub(super) fn good(seq: i64, partition: usize, writer: Writer, random: &mut StdRng) -> Number {
    let key = format!("k{}", random.random_range(0..100));
    let body: String = (0..random.random_range(0..60)).map(|_| random.random_range('a'..='z')).collect();
    let mut value = framed(writer.id);
    long(seq, &mut value);
    long(i64::try_from(body.len()).unwrap(), &mut value);
    value.extend(body.as_bytes());
    let mut columns = BTreeMap::from([
        ("seq".to_owned(), seq.to_string()),
        ("body".to_owned(), body),
        ("_key".to_owned(), key.clone()),
        ("_schema_id".to_owned(), writer.id.to_string()),
    ]);
    for field in 1..=writer.fields {
        let number = random.random::<i64>();
        value.push(2); // the second branch of the union
        long(number, &mut value);
        columns.insert(format!("extra_{field}"), number.to_string());
    }
    Number { partition, key: key.into(), value: Some(value), fate: Fate::Row(digest(&columns)) }
}

/// A record that cannot become a row, for one of the first `kinds` reasons.
pub(super) fn poison(partition: usize, writer: Writer, kinds: u32, random: &mut StdRng) -> Number {
    let value = match random.random_range(0..kinds) {
        0 => None,
        1 => Some(b"no frame, no schema".to_vec()),
        2 => {
            // A text that claims to be longer than the record.
            let mut value = framed(writer.id);
            long(7, &mut value);
            long(1000, &mut value);
            value.push(b'x');
            Some(value)
        }
        _ => {
            let mut value = framed(UNKNOWN);
            value.extend(random.random::<[u8; 8]>());
            Some(value)
        }
    };
    Number { partition, key: b"poison".to_vec(), fate: Fate::Dead(value.clone().unwrap_or_default()), value }
}

/// What is to be produced.
pub(super) struct Mix<'a> {
    pub(super) many: usize,
    /// So many that cannot be read, besides one in a hundred.
    pub(super) poisons: usize,
    /// Kinds of poison, at most 4; the last one names a schema that there is not.
    pub(super) kinds: u32,
    pub(super) partitions: usize,
    pub(super) writers: &'a [Writer],
}

/// Numbers over all partitions and writers, in a random order.
pub(super) fn mixed(mix: &Mix<'_>, next: &mut i64, random: &mut StdRng) -> Vec<Number> {
    let place = |random: &mut StdRng| (random.random_range(0..mix.partitions), *mix.writers.choose(random).unwrap());
    let mut numbers = Vec::new();
    for _ in 0..mix.many {
        let (partition, writer) = place(random);
        *next += 1;
        numbers.push(if random.random_range(0..100) == 0 {
            poison(partition, writer, mix.kinds, random)
        } else {
            good(*next, partition, writer, random)
        });
    }
    for _ in 0..mix.poisons {
        let (partition, writer) = place(random);
        let at = random.random_range(0..=numbers.len());
        numbers.insert(at, poison(partition, writer, mix.kinds, random));
    }
    numbers
}

/// FNV-1a over names and values in the order of the names; a column without a value does not count.
pub(super) fn digest(columns: &BTreeMap<String, String>) -> u64 {
    let bytes = columns.iter().flat_map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b";"].concat());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn framed(id: i32) -> Vec<u8> {
    let mut value = vec![0];
    value.extend(id.to_be_bytes());
    value
}

/// Avro's long: zigzag, seven bits a byte, the lowest first.
fn long(number: i64, value: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        value.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    value.push(u8::try_from(rest).unwrap());
}
