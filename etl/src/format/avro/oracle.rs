//! Random schemas and values against apache-avro, which is slow and right.
//!
//! A failure prints its seed; `SEEDS` keeps those that ever failed.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::UuidSchema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Days, Decimal, Duration, Millis, Months, Schema};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::{Decoder, Encoder, arrow_schema};

const SEEDS: &[u64] = &[1, 2, 3];
const SCHEMAS: usize = 40;
const VALUES: usize = 100;

/// A value as both sides see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Boolean(bool),
    Int(i64),
    /// The bits of a double.
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    Decimal(i128),
    List(Vec<Cell>),
    Map(BTreeMap<String, Cell>),
    Struct(Vec<Cell>),
}

fn seeds() -> impl Iterator<Item = u64> {
    SEEDS.iter().copied().chain([rand::random()])
}

// ---- random schemas ----

pub(crate) struct Random {
    pub(crate) rng: StdRng,
    names: usize,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), names: 0 }
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    pub(crate) fn record(&mut self, depth: u32) -> serde_json::Value {
        let count = self.rng.random_range(1..=if depth == 0 { 12 } else { 4 });
        let fields: Vec<_> =
            (0..count).map(|i| json!({"name": format!("f{i}"), "type": self.schema(depth + 1)})).collect();
        json!({"type": "record", "name": self.name("Record"), "fields": fields})
    }

    fn schema(&mut self, depth: u32) -> serde_json::Value {
        let logical = |of: &str, name: &str| json!({"type": of, "logicalType": name});
        match self.rng.random_range(0..if depth > 3 { 24 } else { 30 }) {
            0 => json!("null"),
            1 => json!("boolean"),
            2 => json!("int"),
            3 => json!("long"),
            4 => json!("float"),
            5 => json!("double"),
            6 => json!("bytes"),
            7 | 8 => json!("string"),
            9 => json!({"type": "fixed", "name": self.name("Fixed"), "size": self.rng.random_range(1..20)}),
            10 => json!({"type": "enum", "name": self.name("Enum"), "symbols": ["RED", "GREEN", "BLUE"]}),
            11 => {
                let precision = self.rng.random_range(1..=38);
                let scale = self.rng.random_range(0..=precision);
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            12 => {
                let size = self.rng.random_range(1..=16_u32);
                // As many digits as fit: floor(log10(2^(8n-1) - 1)).
                let precision = (8 * size - 1) * 30_103 / 100_000;
                let precision = self.rng.random_range(1..=precision.max(1)).min(38);
                json!({"type": "fixed", "name": self.name("Money"), "size": size, "logicalType": "decimal", "precision": precision, "scale": 0})
            }
            13 => logical("int", "date"),
            14 => logical("int", "time-millis"),
            15 => logical("long", "time-micros"),
            16 => logical("long", "timestamp-millis"),
            17 => logical("long", "timestamp-micros"),
            18 => logical("long", "timestamp-nanos"),
            19 => logical("long", "local-timestamp-millis"),
            20 => logical("long", "local-timestamp-micros"),
            21 => logical("string", "uuid"),
            22 => json!({"type": "fixed", "name": self.name("Id"), "size": 16, "logicalType": "uuid"}),
            23 => json!({"type": "fixed", "name": self.name("Span"), "size": 12, "logicalType": "duration"}),
            24 => json!({"type": "array", "items": self.schema(depth + 1)}),
            25 => json!({"type": "map", "values": self.schema(depth + 1)}),
            26 => self.record(depth),
            27 => self.nullable(depth, true),
            28 => self.nullable(depth, false),
            _ => {
                let mut branches =
                    vec![json!("int"), json!("string"), self.record(depth), json!({"type": "array", "items": "long"})];
                if self.rng.random() {
                    let at = self.rng.random_range(0..=branches.len());
                    branches.insert(at, json!("null"));
                }
                json!(branches)
            }
        }
    }

    fn nullable(&mut self, depth: u32, null_first: bool) -> serde_json::Value {
        let inner = loop {
            let inner = self.schema(depth + 1);
            if !inner.is_array() && inner != json!("null") {
                break inner;
            }
        };
        if null_first { json!(["null", inner]) } else { json!([inner, "null"]) }
    }

    // ---- random values ----

    pub(crate) fn value(&mut self, schema: &Schema) -> Value {
        let rng = &mut self.rng;
        match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(rng.random()),
            Schema::Int => Value::Int(rng.random::<i32>() >> rng.random_range(0..32)),
            Schema::Long => Value::Long(rng.random::<i64>() >> rng.random_range(0..64)),
            Schema::Float => Value::Float(rng.random::<f32>() * 1e6),
            Schema::Double => {
                Value::Double(if rng.random_range(0..9) == 0 { f64::INFINITY } else { rng.random::<f64>() - 0.5 })
            }
            Schema::Bytes => Value::Bytes((0..rng.random_range(0..9)).map(|_| rng.random()).collect()),
            Schema::String => Value::String(self.text()),
            Schema::Fixed(fixed) => Value::Fixed(fixed.size, (0..fixed.size).map(|_| rng.random()).collect()),
            Schema::Enum(inner) => {
                let at = rng.random_range(0..inner.symbols.len());
                Value::Enum(u32::try_from(at).unwrap(), inner.symbols[at].clone())
            }
            Schema::Decimal(inner) => {
                let limit = 10_i128.pow(u32::try_from(inner.precision).unwrap());
                let unscaled = rng.random_range(-(limit - 1)..limit)
                    / 10_i128.pow(rng.random_range(0..=u32::try_from(inner.precision).unwrap()));
                let (bytes, start) = super::wire::decimal_bytes(unscaled);
                Value::Decimal(Decimal::from(&bytes[start..]))
            }
            Schema::Date => Value::Date(rng.random_range(-800_000..800_000)),
            Schema::TimeMillis => Value::TimeMillis(rng.random_range(0..86_400_000)),
            Schema::TimeMicros => Value::TimeMicros(rng.random_range(0..86_400_000_000)),
            Schema::TimestampMillis => Value::TimestampMillis(rng.random_range(-1_000_000_000_000..4_000_000_000_000)),
            Schema::TimestampMicros => Value::TimestampMicros(rng.random()),
            Schema::TimestampNanos => Value::TimestampNanos(rng.random()),
            Schema::LocalTimestampMillis => {
                Value::LocalTimestampMillis(rng.random_range(-1_000_000_000_000..4_000_000_000_000))
            }
            Schema::LocalTimestampMicros => Value::LocalTimestampMicros(rng.random()),
            Schema::Uuid(_) => Value::Uuid(uuid::Uuid::from_u128(rng.random())),
            Schema::Duration(_) => Value::Duration(Duration::new(
                Months::new(rng.random()),
                Days::new(rng.random()),
                Millis::new(rng.random()),
            )),
            Schema::Array(inner) => {
                let count = rng.random_range(0..4);
                Value::Array((0..count).map(|_| self.value(&inner.items)).collect())
            }
            Schema::Map(inner) => {
                let count = rng.random_range(0..4);
                Value::Map((0..count).map(|i| (format!("{i}{}", self.text()), self.value(&inner.types))).collect())
            }
            Schema::Record(inner) => Value::Record(
                inner.fields.iter().map(|field| (field.name.clone(), self.value(&field.schema))).collect(),
            ),
            Schema::Union(inner) => {
                let at = rng.random_range(0..inner.variants().len());
                let value = self.value(&inner.variants()[at]);
                Value::Union(u32::try_from(at).unwrap(), Box::new(value))
            }
            other => panic!("no values for {other:?}"),
        }
    }

    fn text(&mut self) -> String {
        let count = self.rng.random_range(0..8);
        (0..count).map(|_| ['a', 'ß', '√', '🎬', '"', '\0'][self.rng.random_range(0..6)]).collect()
    }
}

// ---- what apache-avro says ----

pub(crate) fn expected(value: &Value, schema: &Schema) -> Cell {
    match (value, schema) {
        (Value::Union(index, inner), Schema::Union(union)) => {
            let branches = union.variants();
            let live = branches.iter().filter(|branch| !matches!(branch, Schema::Null)).count();
            let index = usize::try_from(*index).unwrap();
            let cell = expected(inner, &branches[index]);
            if live < 2 || matches!(branches[index], Schema::Null) {
                return cell;
            }
            let mut members = Vec::new();
            for (at, branch) in branches.iter().enumerate() {
                if !matches!(branch, Schema::Null) {
                    members.push(if at == index { cell.clone() } else { Cell::Null });
                }
            }
            Cell::Struct(members)
        }
        (Value::Null, _) => Cell::Null,
        (Value::Boolean(value), _) => Cell::Boolean(*value),
        (Value::Int(value) | Value::Date(value), _) => Cell::Int(i64::from(*value)),
        (Value::TimeMillis(value), _) => Cell::Int(i64::from(*value) * 1_000),
        (Value::TimestampMillis(value) | Value::LocalTimestampMillis(value), _) => Cell::Int(value * 1_000),
        (Value::TimestampNanos(value), _) => Cell::Int(value.div_euclid(1_000)),
        (
            Value::Long(value)
            | Value::TimeMicros(value)
            | Value::TimestampMicros(value)
            | Value::LocalTimestampMicros(value),
            _,
        ) => Cell::Int(*value),
        (Value::Float(value), _) => Cell::Float(f64::from(*value).to_bits()),
        (Value::Double(value), _) => Cell::Float(value.to_bits()),
        (Value::Bytes(bytes) | Value::Fixed(_, bytes), _) => Cell::Bytes(bytes.clone()),
        (Value::String(text) | Value::Enum(_, text), _) => Cell::Text(text.clone()),
        (Value::Uuid(id), _) => Cell::Text(id.to_string()),
        (Value::Decimal(decimal), _) => {
            // A zero of no bytes is read by apache-avro and cannot be written by it.
            let bytes: Vec<u8> = decimal.try_into().unwrap_or_default();
            Cell::Decimal(super::wire::decimal_value(&bytes).unwrap())
        }
        (Value::Duration(span), _) => Cell::Struct(vec![
            Cell::Int(i64::from(u32::from(span.months()))),
            Cell::Int(i64::from(u32::from(span.days()))),
            Cell::Int(i64::from(u32::from(span.millis()))),
        ]),
        (Value::Array(items), Schema::Array(inner)) => {
            Cell::List(items.iter().map(|item| expected(item, &inner.items)).collect())
        }
        (Value::Map(items), Schema::Map(inner)) => {
            Cell::Map(items.iter().map(|(key, item)| (key.clone(), expected(item, &inner.types))).collect())
        }
        (Value::Record(fields), Schema::Record(inner)) => Cell::Struct(
            fields.iter().zip(&inner.fields).map(|((_, value), field)| expected(value, &field.schema)).collect(),
        ),
        (value, schema) => panic!("{value:?} for {schema:?}"),
    }
}

// ---- what the columns say ----

fn cell(array: &dyn Array, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Boolean => Cell::Boolean(array.as_boolean().value(row)),
        DataType::Int32 => Cell::Int(i64::from(array.as_primitive::<Int32Type>().value(row))),
        DataType::Date32 => Cell::Int(i64::from(array.as_primitive::<Date32Type>().value(row))),
        DataType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Timestamp(_, _) => Cell::Int(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        DataType::Float32 => Cell::Float(f64::from(array.as_primitive::<Float32Type>().value(row)).to_bits()),
        DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(row).to_bits()),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        DataType::Decimal128(_, _) => Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        DataType::List(_) => Cell::List(cells(array.as_list::<i32>().value(row).as_ref())),
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            let keys = entries.column(0).as_string::<i32>();
            Cell::Map(keys.iter().map(|key| key.unwrap().to_owned()).zip(cells(entries.column(1))).collect())
        }
        DataType::Struct(_) => {
            Cell::Struct(array.as_struct().columns().iter().map(|column| cell(column, row)).collect())
        }
        other => panic!("no cell for {other}"),
    }
}

fn cells(array: &dyn Array) -> Vec<Cell> {
    (0..array.len()).map(|row| cell(array, row)).collect()
}

pub(crate) fn rows(batch: &RecordBatch) -> Vec<Cell> {
    (0..batch.num_rows())
        .map(|row| Cell::Struct(batch.columns().iter().map(|column| cell(column, row)).collect()))
        .collect()
}

fn decoder(schema: &Schema) -> Decoder {
    Decoder::new(schema, Arc::new(arrow_schema(schema).unwrap())).unwrap()
}

fn bodies(random: &mut Random, schema: &Schema) -> (Vec<Value>, Vec<Vec<u8>>) {
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    let values: Vec<Value> = (0..VALUES).map(|_| random.value(schema)).collect();
    let bodies = values.iter().map(|value| writer.write_value_to_vec(value.clone()).unwrap()).collect();
    (values, bodies)
}

fn has_uuid(schema: &Schema) -> bool {
    match schema {
        Schema::Uuid(UuidSchema::String) => true,
        Schema::Array(inner) => has_uuid(&inner.items),
        Schema::Map(inner) => has_uuid(&inner.types),
        Schema::Union(inner) => inner.variants().iter().any(has_uuid),
        Schema::Record(inner) => inner.fields.iter().any(|field| has_uuid(&field.schema)),
        _ => false,
    }
}

#[test]
fn rows_are_what_apache_avro_reads_and_are_written_back_the_same() {
    let mut compared = 0_usize;
    for seed in seeds() {
        let mut random = Random::new(seed);
        for _ in 0..SCHEMAS {
            let text = random.record(0);
            let schema = Schema::parse(&text).unwrap();
            let (values, bodies) = bodies(&mut random, &schema);
            let wanted: Vec<Cell> = values.iter().map(|value| expected(value, &schema)).collect();

            let mut decoder = decoder(&schema);
            for body in &bodies {
                decoder.decode(body).unwrap_or_else(|bad| panic!("seed {seed}: {bad} of {text}"));
            }
            let batch = decoder.flush().unwrap();
            assert_eq!(rows(&batch), wanted, "seed {seed}: {text}");

            // Nanoseconds below a microsecond are gone; everything else goes the way back byte by byte or value by value.
            let encoder = Encoder::new(&schema, &batch.schema()).unwrap();
            let reader = GenericDatumReader::builder(&schema).build().unwrap();
            for (row, (body, wanted)) in encoder.encode(&batch).unwrap().iter().zip(&wanted).enumerate() {
                let back = reader.read_value(&mut &body[..]).unwrap();
                assert_eq!(&expected(&back, &schema), wanted, "seed {seed}, row {row}: {text}");
                compared += 1;
            }
        }
    }
    writeln!(std::io::stderr(), "{compared} rows compared with apache-avro, both ways").unwrap();
}

#[test]
fn a_bad_record_never_costs_its_neighbours() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in seeds() {
        let mut random = Random::new(seed);
        for _ in 0..SCHEMAS {
            let text = random.record(0);
            let schema = Schema::parse(&text).unwrap();
            let (_, mut bodies) = bodies(&mut random, &schema);
            for body in &mut bodies {
                let at = random.rng.random_range(0..=body.len());
                match random.rng.random_range(0..6) {
                    0 => body.truncate(at),
                    1 if at < body.len() => body[at] ^= 1 << random.rng.random_range(0..8),
                    2 => body.push(random.rng.random()),
                    3 => drop(body.splice(at.., (0..20).map(|_| random.rng.random()))),
                    _ => {}
                }
            }

            let mut mixed = decoder(&schema);
            let reader = GenericDatumReader::builder(&schema).build().unwrap();
            let mut good = Vec::new();
            for body in &bodies {
                let before = mixed.rows();
                let outcome = mixed.decode(body);
                assert_eq!(mixed.rows(), before + usize::from(outcome.is_ok()));
                let alone = decoder(&schema).decode(body);
                assert_eq!(outcome, alone, "seed {seed}: neighbours changed the outcome of {text}");
                if outcome.is_ok() {
                    good.push(body);
                    accepted += 1;
                } else {
                    refused += 1;
                }
            }
            let mixed = mixed.flush().unwrap();

            let mut only_good = decoder(&schema);
            for body in &good {
                only_good.decode(body).unwrap();
            }
            assert_eq!(mixed, only_good.flush().unwrap(), "seed {seed}: {text}");
            // A uuid that is no uuid is still a text to us.
            if !has_uuid(&schema) {
                for (body, row) in good.iter().zip(rows(&mixed)) {
                    let value = reader
                        .read_value(&mut &body[..])
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}: {text}"));
                    assert_eq!(row, expected(&value, &schema), "seed {seed}: {text}");
                }
            }
        }
    }
    assert!(accepted > 1_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_table_of_some_of_the_columns_gets_the_same_values() {
    for seed in seeds() {
        let mut random = Random::new(seed);
        for _ in 0..SCHEMAS {
            let text = random.record(0);
            let schema = Schema::parse(&text).unwrap();
            let (_, bodies) = bodies(&mut random, &schema);
            let mut all = decoder(&schema);
            for body in &bodies {
                all.decode(body).unwrap();
            }
            let all = all.flush().unwrap();

            let mut wanted: Vec<usize> = (0..all.num_columns()).filter(|_| random.rng.random()).collect();
            wanted.reverse();
            let projected = all.project(&wanted).unwrap();
            let mut some = Decoder::new(&schema, projected.schema()).unwrap();
            for body in &bodies {
                some.decode(body).unwrap();
            }
            assert_eq!(some.flush().unwrap(), projected, "seed {seed}: {text}");
        }
    }
}
