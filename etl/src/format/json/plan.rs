//! How JSON objects fill columns: worked out once per schema, then each record is walked straight into them.
use std::collections::{HashMap, HashSet};

use arrow::datatypes::{DataType, Fields};
use chrono_tz::Tz;

use super::malformed::{Fault, Malformed, mismatch, within};
use super::text::{Kind, Number, Text};
use super::values;
use crate::format::column::{Column, Columns, Data};
use crate::format::decimal::{self, DecimalProblem};
use crate::format::instant;

/// What to do with fields that no column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    /// They are left out.
    Skip,
    /// They are left out if there is nothing in them but nulls, empty objects and empty arrays; else the record is refused.
    SkipEmpty,
    /// The record is refused.
    Refuse,
}

/// How records fill the columns of one schema.
pub(crate) struct Plan {
    pub(super) root: Object,
    rules: Rules,
}

#[derive(Clone, Copy)]
struct Rules {
    extra: Extra,
    zone: Tz,
}

/// The members of an object and where they go.
pub(crate) struct Object {
    names: Vec<Box<str>>,
    nodes: Vec<Node>,
    by_name: HashMap<Box<str>, usize>,
}

/// What a value has to be.
pub(crate) enum Node {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Decimal(u8, i8),
    Date,
    Instant,
    WallTime,
    Text,
    Binary,
    List(Box<Node>),
    Map(Box<Node>),
    Struct(Object),
    /// Milliseconds and nanoseconds into microseconds.
    Millis,
    Nanos,
    /// The bytes of an unscaled number as base64, big-endian; into a decimal of this precision, or with this scale into text.
    Unscaled(u8),
    UnscaledText(i8),
    /// An object of `scale` and such bytes as `value`, into text.
    VariableDecimal,
    /// No JSON value is one.
    Never(String),
    /// Records do not have it: it is as unknown as what no column has.
    Absent,
}

impl Object {
    pub(crate) fn new(fields: &Fields) -> Self {
        let names: Vec<Box<str>> = fields.iter().map(|field| field.name().as_str().into()).collect();
        Self {
            by_name: names.iter().cloned().zip(0..).collect(),
            names,
            nodes: fields.iter().map(|field| Node::new(field.data_type())).collect(),
        }
    }

    /// Says what the values of one member are.
    pub(crate) fn set(&mut self, index: usize, node: Node) {
        if let Some(known) = self.nodes.get_mut(index) {
            *known = node;
        }
    }

    /// The member `name`; records mostly have their members in one order, so `expect` is tried first.
    #[inline]
    pub(super) fn find(&self, name: &str, expect: usize) -> Option<(usize, &Node)> {
        let index = match self.names.get(expect) {
            Some(expected) if &**expected == name => expect,
            _ => *self.by_name.get(name)?,
        };
        match self.nodes.get(index)? {
            Node::Absent => None,
            node => Some((index, node)),
        }
    }
}

impl Node {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Int32 => Self::Int,
            DataType::Int64 => Self::Long,
            DataType::Float32 => Self::Float,
            DataType::Float64 => Self::Double,
            DataType::Decimal128(precision, scale) => Self::Decimal(*precision, *scale),
            DataType::Date32 => Self::Date,
            DataType::Timestamp(_, Some(_)) => Self::Instant,
            DataType::Timestamp(_, None) => Self::WallTime,
            DataType::Utf8 => Self::Text,
            DataType::Binary => Self::Binary,
            DataType::List(item) => Self::List(Box::new(Self::new(item.data_type()))),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => Self::Map(Box::new(Self::new(fields[1].data_type()))),
                other => Self::Never(other.to_string()),
            },
            DataType::Struct(fields) => Self::Struct(Object::new(fields)),
            other => Self::Never(other.to_string()),
        }
    }
}

impl Plan {
    /// Plans for columns of these fields. Times without a zone are in `zone`.
    pub(crate) fn new(target: &Fields, extra: Extra, zone: Tz) -> Self {
        Self { root: Object::new(target), rules: Rules { extra, zone } }
    }

    /// A plan of which somebody else said what goes where.
    pub(crate) fn of(root: Object, extra: Extra, zone: Tz) -> Self {
        Self { root, rules: Rules { extra, zone } }
    }

    /// Appends one JSON object as a row to `rows`, which are of the plan's fields.
    ///
    /// # Errors
    /// If it is not one JSON object, or a value is not of its column's type; then nothing was appended.
    pub(crate) fn read(&self, record: &[u8], rows: &mut Columns) -> Result<(), Malformed> {
        let before = rows.rows();
        let outcome = self.row(record, rows, before);
        Ok(rows.end_row(outcome)?)
    }

    fn row(&self, record: &[u8], rows: &mut Columns, before: usize) -> Result<(), Fault> {
        let mut text = Text::new(record)?;
        if text.kind()? != Kind::Object {
            let fault = mismatch(&mut text, "an object");
            return Err(text.end().map_or_else(Fault::from, |()| fault));
        }
        self.rules.object(&self.root, &mut rows.all, before, &mut text)?;
        Ok(text.end()?)
    }
}

type Step<T = ()> = Result<T, Fault>;

impl Rules {
    /// Fills one row of `columns`, which have `before` rows.
    fn object(self, object: &Object, columns: &mut [Column], before: usize, text: &mut Text<'_>) -> Step {
        let mut items = text.enter()?;
        let (mut expect, mut filled) = (0, 0);
        let mut others = HashSet::new();
        while text.more(&mut items)? {
            let key = text.key()?;
            if let Some((index, node)) = object.find(&key, expect) {
                let column = &mut columns[index];
                if column.len() > before {
                    return Err(Malformed::Repeated { path: key.into_owned() }.into());
                }
                self.value(node, column, text).map_err(within(&key))?;
                expect = index + 1;
                filled += 1;
            } else if self.extra == Extra::Skip {
                text.skip()?;
            } else {
                // Whether a name is known may change between records; that it is there twice does not.
                if others.contains(&key) {
                    return Err(Malformed::Repeated { path: key.into_owned() }.into());
                }
                let shaped = text.skip_shape()?;
                if shaped || self.extra == Extra::Refuse {
                    let why = "no column has this field".to_owned();
                    return Err(Malformed::Unknown { path: key.into_owned(), why }.into());
                }
                others.insert(key);
            }
        }
        if filled < columns.len() {
            for (column, name) in columns.iter_mut().zip(&object.names) {
                if column.len() == before && !column.push_null() {
                    return Err(required("nothing")).map_err(within(name));
                }
            }
        }
        Ok(())
    }

    fn value(self, node: &Node, column: &mut Column, text: &mut Text<'_>) -> Step {
        let kind = text.kind()?;
        if kind == Kind::Null {
            text.null()?;
            return if column.push_null() { Ok(()) } else { Err(required("null")) };
        }
        let before = column.len();
        match (node, &mut column.data) {
            (Node::Boolean, Data::Boolean(values)) if kind == Kind::Boolean => values.append(text.boolean()?),
            (Node::Long, Data::Int64(values)) => values.push(typed(text, kind, LONG, |value| match value {
                Scalar::Number(number) => long(number),
                Scalar::Text(_) => None,
            })?),
            (Node::Int, Data::Int32(values)) => values.push(typed(text, kind, INT, |value| match value {
                Scalar::Number(number) => long(number).and_then(|value| i32::try_from(value).ok()),
                Scalar::Text(_) => None,
            })?),
            (Node::Double, Data::Float64(values)) => values.push(typed(text, kind, DOUBLE, double)?),
            (Node::Float, Data::Float32(values)) => values.push(typed(text, kind, FLOAT, float)?),
            (Node::Text, Data::Bytes(values)) if kind == Kind::Text => values.push(text.string()?.as_bytes())?,
            (Node::Decimal(precision, scale), Data::Decimal(values)) => {
                values.push(unscaled(text, kind, *precision, *scale)?);
            }
            (Node::Date, Data::Int32(values)) => values.push(of_text(text, kind, DATE, instant::parse_date)?),
            (Node::Instant, Data::Int64(values)) => {
                values.push(of_text(text, kind, INSTANT, |value| instant::parse_utc(value, self.zone))?);
            }
            (Node::WallTime, Data::Int64(values)) => {
                values.push(of_text(text, kind, WALL_TIME, instant::parse_wall)?);
            }
            (Node::Binary, Data::Bytes(values)) => {
                values.push(&of_text(text, kind, BINARY, values::from_base64)?)?;
            }
            (Node::Millis, Data::Int64(values)) => values.push(typed(text, kind, LONG, |value| match value {
                Scalar::Number(number) => long(number).and_then(|millis| millis.checked_mul(1_000)),
                Scalar::Text(_) => None,
            })?),
            (Node::Nanos, Data::Int64(values)) => values.push(typed(text, kind, LONG, |value| match value {
                Scalar::Number(number) => long(number).map(|nanos| nanos.div_euclid(1_000)),
                Scalar::Text(_) => None,
            })?),
            (Node::Unscaled(precision), Data::Decimal(values)) => values.push(of_text(text, kind, DECIMAL, |value| {
                bytes_to_unscaled(value).filter(|value| decimal::fits(*value, *precision))
            })?),
            (Node::UnscaledText(scale), Data::Bytes(values)) => {
                let value = of_text(text, kind, DECIMAL, |value| bytes_to_text(value, *scale))?;
                values.push(value.as_bytes())?;
            }
            (Node::VariableDecimal, Data::Bytes(values)) if kind == Kind::Object => {
                values.push(variable_decimal(text)?.as_bytes())?;
            }
            (Node::List(item), Data::List(list)) if kind == Kind::Array => {
                let mut items = text.enter()?;
                let mut index = 0_usize;
                while text.more(&mut items)? {
                    self.value(item, &mut list.items, text).map_err(|fault| within(&format!("[{index}]"))(fault))?;
                    index += 1;
                }
                let end = list.items.len();
                list.close(end)?;
            }
            (Node::Map(value), Data::Map(map)) if kind == Kind::Object => {
                let (keys, values) = &mut *map.items;
                let mut items = text.enter()?;
                let mut seen = HashSet::new();
                while text.more(&mut items)? {
                    let key = text.key()?;
                    if let Data::Bytes(bytes) = &mut keys.data {
                        bytes.push(key.as_bytes())?;
                        keys.present();
                    }
                    self.value(value, values, text).map_err(|fault| within(&format!("{{{key}}}"))(fault))?;
                    if let Some(key) = seen.replace(key) {
                        return Err(Malformed::Repeated { path: format!("{{{key}}}") }.into());
                    }
                }
                let end = values.len();
                map.close(end)?;
            }
            (Node::Struct(object), Data::Struct(children)) if kind == Kind::Object => {
                self.object(object, children, before, text)?;
            }
            (node, _) => return Err(mismatch(text, node.expected())),
        }
        column.present();
        Ok(())
    }
}

const LONG: &str = "a whole number of 64 bits";
const INT: &str = "a whole number of 32 bits";
const DOUBLE: &str = "a number";
const FLOAT: &str = "a number of 32 bits";
const DATE: &str = "a date as 2025-02-17";
const INSTANT: &str = "a time as 2025-02-17T14:49:15Z";
const WALL_TIME: &str = "a time without zone as 2025-02-17T14:49:15";
const BINARY: &str = "bytes as base64 text";
const DECIMAL: &str = "the bytes of a decimal as base64 text";
const VARIABLE_DECIMAL: &str = "an object of `scale` and `value`";

impl Node {
    fn expected(&self) -> &str {
        match self {
            Self::Boolean => "true or false",
            Self::Int => INT,
            Self::Long | Self::Millis | Self::Nanos => LONG,
            Self::Float => FLOAT,
            Self::Double => DOUBLE,
            Self::Decimal(_, _) => "a number or a number in quotes",
            Self::Date => DATE,
            Self::Instant => INSTANT,
            Self::WallTime => WALL_TIME,
            Self::Text => "a text",
            Self::Binary => BINARY,
            Self::List(_) => "an array",
            Self::Map(_) | Self::Struct(_) => "an object",
            Self::Unscaled(_) | Self::UnscaledText(_) => DECIMAL,
            Self::VariableDecimal => VARIABLE_DECIMAL,
            Self::Never(data_type) => data_type,
            Self::Absent => "nothing",
        }
    }
}

fn required(found: &str) -> Fault {
    Malformed::Value { path: String::new(), expected: "a value (the column is required)".into(), found: found.into() }
        .into()
}

#[derive(Clone, Copy)]
enum Scalar<'a> {
    Number(Number<'a>),
    Text(&'a str),
}

/// A number or text as a value, or a fault that says what was expected.
#[inline]
fn typed<T>(text: &mut Text<'_>, kind: Kind, expected: &str, read: impl Fn(Scalar<'_>) -> Option<T>) -> Step<T> {
    let start = text.clone();
    let value = match kind {
        Kind::Number => read(Scalar::Number(text.number()?)),
        Kind::Text => read(Scalar::Text(&text.string()?)),
        _ => None,
    };
    value.ok_or_else(|| mismatch(&mut { start }, expected))
}

fn of_text<T>(text: &mut Text<'_>, kind: Kind, expected: &str, read: impl Fn(&str) -> Option<T>) -> Step<T> {
    typed(text, kind, expected, |value| match value {
        Scalar::Text(value) => read(value),
        Scalar::Number(_) => None,
    })
}

/// A number without a fraction, however it is written: 3, 3.0 and 0.3e1.
#[inline]
fn long(number: Number<'_>) -> Option<i64> {
    if number.whole {
        return number.digits.parse().ok();
    }
    decimal::parse(number.digits, 19, 0).ok().and_then(|value| i64::try_from(value).ok())
}

/// A whole number only if it is held exactly; one with fraction or exponent is the nearest there is.
fn double(value: Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Number(number) if number.whole => {
            let whole: i64 = number.digits.parse().ok()?;
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "compared right here")]
            let (near, back) = (whole as f64, whole as f64 as i128);
            (back == i128::from(whole)).then_some(near)
        }
        Scalar::Number(number) => number.digits.parse().ok().filter(|value: &f64| value.is_finite()),
        Scalar::Text("NaN") => Some(f64::NAN),
        Scalar::Text("Infinity") => Some(f64::INFINITY),
        Scalar::Text("-Infinity") => Some(f64::NEG_INFINITY),
        Scalar::Text(_) => None,
    }
}

fn float(value: Scalar<'_>) -> Option<f32> {
    match value {
        Scalar::Number(number) if number.whole => {
            let whole: i64 = number.digits.parse().ok()?;
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "compared right here")]
            let (near, back) = (whole as f32, whole as f32 as i128);
            (back == i128::from(whole)).then_some(near)
        }
        Scalar::Number(number) => number.digits.parse().ok().filter(|value: &f32| value.is_finite()),
        #[expect(clippy::cast_possible_truncation, reason = "NaN and the infinities are what they are in any width")]
        text @ Scalar::Text(_) => double(text).map(|value| value as f32),
    }
}

/// The unscaled integer of a decimal given as a number or as a number in quotes, exact in either form.
fn unscaled(text: &mut Text<'_>, kind: Kind, precision: u8, scale: i8) -> Step<i128> {
    let start = text.clone();
    let parsed = match kind {
        Kind::Number => decimal::parse(text.number()?.digits, precision, scale),
        Kind::Text => decimal::parse(&text.string()?, precision, scale),
        _ => Err(DecimalProblem::Syntax),
    };
    parsed.map_err(|problem| mismatch(&mut { start }, values::decimal_expected(problem, precision, scale)))
}

fn bytes_to_unscaled(text: &str) -> Option<i128> {
    decimal::from_bytes(&values::from_base64(text)?)
}

fn bytes_to_text(text: &str, scale: i8) -> Option<String> {
    bytes_to_unscaled(text).map(|value| decimal::format(value, scale))
}

fn variable_decimal(text: &mut Text<'_>) -> Step<String> {
    let start = text.clone();
    let (mut scale, mut value) = (None, None);
    let mut items = text.enter()?;
    while text.more(&mut items)? {
        match (&*text.key()?, text.kind()?) {
            ("scale", Kind::Number) => scale = text.number()?.digits.parse::<i8>().ok(),
            ("value", Kind::Text) => value = Some(text.string()?),
            _ => text.skip().map(drop)?,
        }
    }
    let exact = scale.zip(value).and_then(|(scale, value)| bytes_to_text(&value, scale));
    exact.ok_or_else(|| mismatch(&mut { start }, VARIABLE_DECIMAL))
}
