//! Columns that come from the records themselves.
//!
//! Records are looked at in their order, and each is judged by the columns that those before it brought:
//!
//! 1. A field that no column has becomes one by its first value: true or false is boolean; a whole number bigint, beyond
//!    64 bits `decimal(38, 0)`; a number with fraction or exponent double; a text is text, never taken for a date; an
//!    object is a struct, an array a list. Several values of one record (the items of an array) are taken together, and
//!    there bigint and double make double.
//! 2. `null`, `[]`, `{}` and what consists of them only says nothing: it brings no column, and as long as there is none
//!    it is left out of its row. New members inside known objects, and inside objects in known lists, are new fields too.
//! 3. A column never changes its type. A record whose values do not fit is refused, and brings no columns.
//! 4. Names that a Delta table cannot have (empty, with a blank, line break, tab or one of `,;{}()=`, or like another one
//!    but for case), more than [`MAX_COLUMNS`] columns, counted with nested ones, and more than [`MAX_DEPTH`] levels:
//!    the record is refused.
//!
//! So what becomes of a record depends on the records before it and not on how they were cut into micro-batches. One
//! thing needs care for that: by rule 2 a `[]` may be left out of its row although a later record of the same micro-batch
//! makes its field a column. [`Learning::finish`] hands out such records with `null` in that place.
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use chrono_tz::Tz;

use super::malformed::{Fault, Malformed, within};
use super::plan::{Extra, Node, Object, Plan};
use super::text::{Kind, Syntax, Text};
use crate::format::avro::MAX_DEPTH;
use crate::format::column::Columns;
use crate::format::error::{SchemaError, join};

/// What to do with fields that no column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnknown {
    /// They become columns.
    #[default]
    Evolve,
    /// They are left out.
    Ignore,
    /// The record is a dead letter.
    DeadLetter,
}

/// How many columns records may bring, counted with the members of structs: a record that has a name for every user in
/// it would otherwise make a column for every user.
pub const MAX_COLUMNS: usize = 2_000;

/// JSON objects into columns that grow with what they have.
pub(crate) struct Growing {
    rows: Columns,
    plan: Plan,
    on_unknown: OnUnknown,
    zone: Tz,
    /// Columns beside those of the records.
    reserved: Vec<String>,
    columns: usize,
}

/// What a value is made of; `Nothing` if it says nothing.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Nothing,
    Boolean,
    Whole,
    /// A whole number of more than 64 bits.
    Wide,
    Double,
    Text,
    List(Box<Shape>),
    Struct(Vec<(String, Shape)>),
}

impl Growing {
    pub(crate) fn new(schema: SchemaRef, on_unknown: OnUnknown, zone: Tz) -> Result<Self, SchemaError> {
        let extra = match on_unknown {
            OnUnknown::Evolve => Extra::SkipEmpty,
            OnUnknown::Ignore => Extra::Skip,
            OnUnknown::DeadLetter => Extra::Refuse,
        };
        let plan = Plan::new(schema.fields(), extra, zone);
        let columns = schema.fields().iter().map(count).sum();
        Ok(Self { rows: Columns::new(schema)?, plan, on_unknown, zone, reserved: Vec::new(), columns })
    }

    /// Keeps fields from having names that differ from one of these by case only.
    #[must_use]
    pub(crate) fn reserving(mut self, names: &[&str]) -> Self {
        self.reserved = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// The columns so far.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    /// Begins to take up the columns that records bring; no row may be held.
    pub(crate) fn learning(&mut self) -> Learning<'_, '_> {
        Learning { growing: self, silent: Vec::new() }
    }

    fn with_columns(&mut self, schema: SchemaRef) -> Result<(), SchemaError> {
        let reserved = std::mem::take(&mut self.reserved);
        *self = Self { reserved, ..Self::new(schema, self.on_unknown, self.zone)? };
        Ok(())
    }

    /// The columns as a plan for somebody who knows more of the values than JSON says: see [`Growing::read_with`].
    pub(crate) fn plan(&self, root: Object) -> Plan {
        Plan::of(root, Extra::Refuse, self.zone)
    }

    /// The columns with those that `record` brings, if it then is a row.
    fn grown(&self, record: &[u8]) -> Result<Result<SchemaRef, Malformed>, SchemaError> {
        let fields = match self.fields(record) {
            Ok(fields) => fields,
            Err(fault) => return Ok(Err(fault.into())),
        };
        let schema = Arc::new(Schema::new(fields));
        // It has to be a row by these columns, or it brings none.
        let mut alone = Self::new(Arc::clone(&schema), self.on_unknown, self.zone)?;
        Ok(alone.plan.read(record, &mut alone.rows).map(|()| schema))
    }

    /// Whether `record` would be a row of these columns, read as `root` says.
    pub(crate) fn try_with(
        &self,
        columns: &Fields,
        root: Object,
        record: &[u8],
    ) -> Result<Result<(), Malformed>, SchemaError> {
        let mut alone = Columns::new(Arc::new(Schema::new(columns.clone())))?;
        Ok(self.plan(root).read(record, &mut alone))
    }

    fn fields(&self, record: &[u8]) -> Result<Fields, Fault> {
        let mut text = Text::new(record)?;
        text.kind()?;
        let news = news(&self.plan.root, &mut text)?;
        let fields = extended(self.rows.schema().fields(), news, "", 1)?;
        let twin = |field: &&FieldRef| {
            self.reserved.iter().find(|name| *name != field.name() && name.eq_ignore_ascii_case(field.name()))
        };
        if let Some((field, name)) = fields.iter().find_map(|field| Some((field, twin(&field)?))) {
            return Err(unknown(field.name(), case_only(name)));
        }
        let columns: usize = fields.iter().map(count).sum();
        if columns > MAX_COLUMNS && columns > self.columns {
            return Err(unknown(
                "",
                format!("with its new fields the table would have more than {MAX_COLUMNS} columns"),
            ));
        }
        Ok(fields)
    }

    /// Appends one JSON object as a row.
    ///
    /// # Errors
    /// If it is not one JSON object, a value is not of its column's type, or a field may not be unknown; then nothing
    /// was appended.
    pub(crate) fn read(&mut self, record: &[u8]) -> Result<(), Malformed> {
        let outcome = self.plan.read(record, &mut self.rows);
        if let Err(Malformed::Unknown { .. }) = outcome
            && self.on_unknown == OnUnknown::Evolve
            && let Ok(Err(why)) = self.grown(record)
        {
            return Err(why);
        }
        outcome
    }

    /// Appends one JSON object as a row by a plan for these columns.
    ///
    /// # Errors
    /// If it is not one JSON object, or a value is not of its column's type; then nothing was appended.
    pub(crate) fn read_with(&mut self, plan: &Plan, record: &[u8]) -> Result<(), Malformed> {
        plan.read(record, &mut self.rows)
    }

    /// Appends a row of NULLs; false, and nothing appended, if a column is required.
    pub(crate) fn read_nothing(&mut self) -> bool {
        let whole = self.rows.all.iter_mut().all(crate::format::column::Column::push_null);
        self.rows.end_row(whole.then_some(()).ok_or(())).is_ok()
    }

    /// The rows since the last flush.
    pub(crate) fn flush(&mut self) -> Result<RecordBatch, SchemaError> {
        self.rows.flush()
    }
}

/// Records whose columns are being taken up, in their order.
pub(crate) struct Learning<'g, 'r> {
    growing: &'g mut Growing,
    silent: Vec<Silent<'r>>,
}

/// A record with values that say nothing, in fields that no column has.
struct Silent<'r> {
    index: usize,
    record: &'r [u8],
    /// Where they are.
    spans: Vec<Range<usize>>,
    /// How many columns there were then.
    columns: usize,
}

impl<'r> Learning<'_, 'r> {
    /// Takes up the columns that the record brings; `index` is for the caller.
    ///
    /// # Errors
    /// If the columns cannot be made, which is a fault of this program.
    pub(crate) fn look(&mut self, index: usize, record: &'r [u8]) -> Result<(), SchemaError> {
        if self.growing.on_unknown != OnUnknown::Evolve {
            return Ok(());
        }
        let mut spans = Vec::new();
        // What is no JSON brings nothing; that it is none is said when it is read.
        let Ok(news) = scan(&self.growing.plan.root, record, &mut spans) else { return Ok(()) };
        if news && let Ok(schema) = self.growing.grown(record)? {
            self.growing.with_columns(schema)?;
            spans.clear();
            scan(&self.growing.plan.root, record, &mut spans).ok();
        }
        if !spans.is_empty() {
            self.silent.push(Silent { index, record, spans, columns: self.growing.columns });
        }
        Ok(())
    }

    /// The columns so far.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.growing.schema()
    }

    /// The rows with the columns so far.
    pub(crate) fn so_far(&self) -> &Growing {
        self.growing
    }

    /// Takes these columns, which have at least those there are.
    ///
    /// # Errors
    /// [`SchemaError::Unsupported`] if Delta has no such column type.
    pub(crate) fn adopt(&mut self, columns: Fields) -> Result<(), SchemaError> {
        if &columns == self.schema().fields() {
            return Ok(());
        }
        self.growing.with_columns(Arc::new(Schema::new(columns)))
    }

    /// Ends it. Returns the records, by their index, that are to be read in another form than their own: see the head of
    /// this file.
    pub(crate) fn finish(self) -> HashMap<usize, Vec<u8>> {
        let now = self.growing.columns;
        let changed = self.silent.into_iter().filter(|silent| silent.columns < now);
        changed.map(|Silent { index, record, spans, .. }| (index, without(record, &spans))).collect()
    }
}

/// The record with `null` in place of some values.
fn without(record: &[u8], spans: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.len() + spans.len() * 4);
    let mut from = 0;
    for span in spans {
        out.extend_from_slice(record.get(from..span.start).unwrap_or_default());
        out.extend_from_slice(b"null");
        from = span.end;
    }
    out.extend_from_slice(record.get(from..).unwrap_or_default());
    out
}

/// How many columns a field is, with its members.
fn count(field: &FieldRef) -> usize {
    1 + match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(count).sum(),
        DataType::List(item) => count(item) - 1,
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().skip(1).map(|value| count(value) - 1).sum(),
            _ => 0,
        },
        _ => 0,
    }
}

// ---- is there anything new? ----

/// Whether the record has values in fields that no column has. `spans` gets the places of those that say nothing.
fn scan(root: &Object, record: &[u8], spans: &mut Vec<Range<usize>>) -> Result<bool, Syntax> {
    let mut text = Text::new(record)?;
    if text.kind()? != Kind::Object {
        return Ok(false);
    }
    let mut news = false;
    scan_object(root, &mut text, spans, &mut news)?;
    text.end()?;
    Ok(news)
}

fn scan_object(
    object: &Object,
    text: &mut Text<'_>,
    spans: &mut Vec<Range<usize>>,
    news: &mut bool,
) -> Result<(), Syntax> {
    let mut items = text.enter()?;
    let mut expect = 0;
    while text.more(&mut items)? {
        let key = text.key()?;
        if let Some((index, node)) = object.find(&key, expect) {
            expect = index + 1;
            scan_value(node, text, spans, news)?;
            continue;
        }
        let kind = text.kind()?;
        let start = text.at();
        if text.skip_shape()? {
            *news = true;
        } else if kind != Kind::Null {
            spans.push(start..text.at());
        }
    }
    Ok(())
}

fn scan_value(node: &Node, text: &mut Text<'_>, spans: &mut Vec<Range<usize>>, news: &mut bool) -> Result<(), Syntax> {
    match (node, text.kind()?) {
        (Node::Struct(object), Kind::Object) => scan_object(object, text, spans, news),
        (Node::List(item), Kind::Array) if item.nests() => {
            let mut items = text.enter()?;
            while text.more(&mut items)? {
                scan_value(item, text, spans, news)?;
            }
            Ok(())
        }
        (Node::Map(value), Kind::Object) if value.nests() => {
            let mut items = text.enter()?;
            while text.more(&mut items)? {
                text.key()?;
                scan_value(value, text, spans, news)?;
            }
            Ok(())
        }
        _ => text.skip().map(drop),
    }
}

// ---- what is new? ----

/// What the object has that `known` has not.
fn news(known: &Object, text: &mut Text<'_>) -> Result<Shape, Fault> {
    let mut members = Members::default();
    let mut items = text.enter()?;
    while text.more(&mut items)? {
        let key = text.key()?;
        let shape = match known.find(&key, usize::MAX) {
            Some((_, node)) => news_value(node, text),
            None => shape(text),
        };
        members.add(&key, shape.map_err(within(&key))?);
    }
    Ok(members.shape())
}

fn news_value(node: &Node, text: &mut Text<'_>) -> Result<Shape, Fault> {
    match (node, text.kind()?) {
        (Node::Struct(object), Kind::Object) => news(object, text),
        (Node::List(inner), Kind::Array) if inner.nests() => {
            let mut items = text.enter()?;
            let mut all = Shape::Nothing;
            while text.more(&mut items)? {
                all.join(news_value(inner, text).map_err(within("[]"))?);
            }
            Ok(Shape::list(all))
        }
        (Node::Map(inner), Kind::Object) if inner.nests() => {
            let mut items = text.enter()?;
            let mut all = Shape::Nothing;
            while text.more(&mut items)? {
                text.key()?;
                all.join(news_value(inner, text).map_err(within("{}"))?);
            }
            // As a list: there is one type below either.
            Ok(Shape::list(all))
        }
        _ => {
            text.skip()?;
            Ok(Shape::Nothing)
        }
    }
}

fn shape(text: &mut Text<'_>) -> Result<Shape, Fault> {
    Ok(match text.kind()? {
        Kind::Null => text.null().map(|()| Shape::Nothing)?,
        Kind::Boolean => text.boolean().map(|_| Shape::Boolean)?,
        Kind::Text => text.string().map(|_| Shape::Text)?,
        Kind::Number => {
            let number = text.number()?;
            match number.digits.parse::<i64>() {
                Ok(_) => Shape::Whole,
                Err(_) if number.whole => Shape::Wide,
                Err(_) => Shape::Double,
            }
        }
        Kind::Array => {
            let mut items = text.enter()?;
            let mut all = Shape::Nothing;
            while text.more(&mut items)? {
                all.join(shape(text).map_err(within("[]"))?);
            }
            Shape::list(all)
        }
        Kind::Object => {
            let mut items = text.enter()?;
            let mut members = Members::default();
            while text.more(&mut items)? {
                let key = text.key()?;
                members.add(&key, shape(text).map_err(within(&key))?);
            }
            members.shape()
        }
    })
}

/// The members of an object by name, in the order in which they came.
#[derive(Default)]
struct Members {
    all: Vec<(String, Shape)>,
    by_name: HashMap<String, usize>,
}

impl Members {
    fn add(&mut self, name: &str, shape: Shape) {
        if shape == Shape::Nothing {
            return;
        }
        if let Some((_, known)) = self.by_name.get(name).and_then(|at| self.all.get_mut(*at)) {
            known.join(shape);
        } else {
            self.by_name.insert(name.to_owned(), self.all.len());
            self.all.push((name.to_owned(), shape));
        }
    }

    fn shape(self) -> Shape {
        if self.all.is_empty() { Shape::Nothing } else { Shape::Struct(self.all) }
    }
}

impl Shape {
    fn list(item: Self) -> Self {
        if item == Self::Nothing { Self::Nothing } else { Self::List(Box::new(item)) }
    }

    /// Takes another value of the same record in. What does not go together stays as the first had it: the record will
    /// be found not to fit.
    fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (_, Self::Nothing) => {}
            (Self::Nothing, other) => *self = other,
            (Self::Whole, wider @ (Self::Wide | Self::Double)) => *self = wider,
            (Self::List(item), Self::List(other)) => item.join(*other),
            (Self::Struct(known), Self::Struct(others)) => {
                let by_name = known.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
                let mut members = Members { all: std::mem::take(known), by_name };
                for (name, shape) in others {
                    members.add(&name, shape);
                }
                *known = members.all;
            }
            _ => {}
        }
    }

    fn data_type(self, path: &str, depth: usize) -> Result<DataType, Fault> {
        if depth > MAX_DEPTH {
            return Err(unknown(path, format!("a column has at most {MAX_DEPTH} levels")));
        }
        Ok(match self {
            Self::Nothing | Self::Text => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::Whole => DataType::Int64,
            Self::Wide => DataType::Decimal128(38, 0),
            Self::Double => DataType::Float64,
            Self::List(item) => {
                let item = item.data_type(&format!("{path}[]"), depth + 1)?;
                DataType::List(Arc::new(Field::new("element", item, true)))
            }
            members @ Self::Struct(_) => DataType::Struct(extended(&Fields::empty(), members, path, depth + 1)?),
        })
    }
}

impl Node {
    /// Whether there can be members below.
    fn nests(&self) -> bool {
        match self {
            Self::Struct(_) => true,
            Self::List(inner) | Self::Map(inner) => inner.nests(),
            _ => false,
        }
    }
}

/// The fields with what `news` adds to them.
fn extended(known: &Fields, news: Shape, path: &str, depth: usize) -> Result<Fields, Fault> {
    let Shape::Struct(members) = news else { return Ok(known.clone()) };
    let mut fields: Vec<FieldRef> = known.iter().cloned().collect();
    let at: HashMap<String, usize> = known.iter().enumerate().map(|(at, field)| (field.name().clone(), at)).collect();
    let mut folded: HashMap<String, String> =
        known.iter().map(|field| (field.name().to_lowercase(), field.name().clone())).collect();
    for (name, shape) in members {
        let inner = join(path, &name);
        if let Some(field) = at.get(&name).and_then(|at| fields.get_mut(*at)) {
            let data_type = deeper(field.data_type(), shape, &inner, depth)?;
            *field = Arc::new(field.as_ref().clone().with_data_type(data_type));
            continue;
        }
        if name.is_empty() || name.contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=']) {
            let why = "a column of a Delta table cannot have this name: it is empty, or has a blank or one of ,;{}()=";
            return Err(unknown(&inner, why.to_owned()));
        }
        if let Some(other) = folded.insert(name.to_lowercase(), name.clone()) {
            return Err(unknown(&inner, case_only(&other)));
        }
        fields.push(Arc::new(Field::new(name, shape.data_type(&inner, depth)?, true)));
    }
    Ok(fields.into())
}

/// A known type with what `news` adds inside it.
fn deeper(known: &DataType, news: Shape, path: &str, depth: usize) -> Result<DataType, Fault> {
    Ok(match (known, news) {
        (DataType::Struct(fields), news) => DataType::Struct(extended(fields, news, path, depth + 1)?),
        (DataType::List(item), Shape::List(news)) => {
            let data_type = deeper(item.data_type(), *news, &format!("{path}[]"), depth + 1)?;
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(data_type)))
        }
        (DataType::Map(entries, sorted), Shape::List(news)) => {
            let DataType::Struct(fields) = entries.data_type() else { return Ok(known.clone()) };
            let [key, value] = fields.as_ref() else { return Ok(known.clone()) };
            let data_type = deeper(value.data_type(), *news, &format!("{path}{{}}"), depth + 1)?;
            let value = Arc::new(value.as_ref().clone().with_data_type(data_type));
            let fields = DataType::Struct(vec![Arc::clone(key), value].into());
            DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(fields)), *sorted)
        }
        _ => known.clone(),
    })
}

fn case_only(other: &str) -> String {
    format!("a Delta table cannot have it beside `{other}`: the names differ by case only")
}

fn unknown(path: &str, why: String) -> Fault {
    Malformed::Unknown { path: path.to_owned(), why }.into()
}
