//! Items as Arrow rows.
//!
//! The columns are those of [`item_schema`]. What is lifted out of the attributes takes the first value of its key; the
//! map keeps all values as they were. A value that cannot be used is NULL in its column and one [`Rejected`] beside it.
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Date32Builder, Decimal128Builder, Int64Builder, ListArray, MapArray, RecordBatch, RecordBatchOptions,
    StringBuilder, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use chrono::{Datelike, NaiveDate};

use super::parse::{Attribute, Item, Tally};
use super::price::{PriceProblem, Written, parse_price};

// The names are those that Delta tables give to maps and lists; with others each write would cast the column.
static ENTRIES: LazyLock<Fields> = LazyLock::new(|| {
    let values = DataType::List(Arc::clone(&*ELEMENT));
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", values, false)])
});
static ELEMENT: LazyLock<FieldRef> = LazyLock::new(|| Arc::new(Field::new("element", DataType::Utf8, false)));
static KEY_VALUE: LazyLock<FieldRef> =
    LazyLock::new(|| Arc::new(Field::new("key_value", DataType::Struct(ENTRIES.clone()), false)));
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let money = DataType::Decimal128(10, 2);
    Arc::new(Schema::new(vec![
        Field::new("item_id", DataType::Int64, false),
        Field::new("title", DataType::Utf8, true),
        Field::new("genre", DataType::Utf8, true),
        Field::new("product_group", DataType::Utf8, true),
        Field::new("list_price", money.clone(), true),
        Field::new("list_price_currency", DataType::Utf8, true),
        Field::new("trade_in_value", money, true),
        Field::new("trade_in_value_currency", DataType::Utf8, true),
        Field::new("release_date", DataType::Date32, true),
        Field::new("attributes", DataType::Map(Arc::clone(&*KEY_VALUE), false), false),
        Field::new("line", DataType::Int64, false),
    ]))
});

const COLUMNS: usize = 11;

/// The columns of a catalogue; `line` is the line of the item's header, from 1.
pub fn item_schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// A value that could not be used: its column is NULL, the attribute map still has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The item's number.
    pub item_id: i64,
    /// The line of the attribute, from 1.
    pub line: u64,
    /// The attribute's key in the file.
    pub field: &'static str,
    /// Why it cannot be used.
    pub reason: String,
    /// The value as it was.
    pub raw: String,
}

/// When a batch is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimits {
    /// At most this many rows.
    pub rows: usize,
    /// About this many bytes of keys and values; a batch has at least one row.
    pub bytes: usize,
}

impl Default for RowLimits {
    fn default() -> Self {
        Self { rows: 8192, bytes: 8 << 20 }
    }
}

/// Makes record batches of items, only of the columns asked for.
#[derive(Debug)]
pub struct RowBuilder {
    limits: RowLimits,
    schema: SchemaRef,
    projection: Vec<usize>,
    wanted: [bool; COLUMNS],
    rows: usize,
    bytes: usize,
    item_id: Int64Builder,
    title: StringBuilder,
    genre: StringBuilder,
    product_group: StringBuilder,
    list_price: MoneyBuilder,
    trade_in_value: MoneyBuilder,
    release_date: Date32Builder,
    attributes: AttributesBuilder,
    line: Int64Builder,
    full: Vec<RecordBatch>,
    rejected: Vec<Rejected>,
    price_differences: u64,
    rejections: u64,
}

impl RowBuilder {
    /// Builds the columns of [`item_schema`] at the places `projection`, in that order; `None`: all of them.
    ///
    /// # Errors
    /// If there is no such column.
    pub fn new(limits: RowLimits, projection: Option<&[usize]>) -> Result<Self, ArrowError> {
        let all: Vec<usize> = (0..COLUMNS).collect();
        let projection = projection.unwrap_or(&all).to_vec();
        let schema = Arc::new(SCHEMA.project(&projection)?);
        let mut wanted = [false; COLUMNS];
        for (column, wanted) in wanted.iter_mut().enumerate() {
            *wanted = projection.contains(&column);
        }
        Ok(Self {
            limits,
            schema,
            projection,
            wanted,
            rows: 0,
            bytes: 0,
            item_id: Int64Builder::new(),
            title: StringBuilder::new(),
            genre: StringBuilder::new(),
            product_group: StringBuilder::new(),
            list_price: MoneyBuilder::new("ListPrice"),
            trade_in_value: MoneyBuilder::new("TradeInValue"),
            release_date: Date32Builder::new(),
            attributes: AttributesBuilder::default(),
            line: Int64Builder::new(),
            full: Vec::new(),
            rejected: Vec::new(),
            price_differences: 0,
            rejections: 0,
        })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Adds one row.
    ///
    /// # Errors
    /// If Arrow refuses the columns, which would be a fault of this program.
    pub fn push(&mut self, item: &Item<'_>) -> Result<(), ArrowError> {
        let mut lifted = Lifted::default();
        let mut bytes = 0;
        for attribute in item.attributes {
            bytes += attribute.key.len() + attribute.value.len();
            let slot = match attribute.key.as_ref() {
                "Title" => &mut lifted.title,
                "Genre" => &mut lifted.genre,
                "ProductGroup" => &mut lifted.product_group,
                "ListPrice" => &mut lifted.list_price,
                "TradeInValue" => &mut lifted.trade_in_value,
                "ReleaseDate" => &mut lifted.release_date,
                _ => continue,
            };
            slot.get_or_insert(attribute);
        }
        let [item_id, title, genre, group, price, currency, trade_in, trade_in_currency, date, attributes, line] =
            self.wanted;
        if item_id {
            self.item_id.append_value(item.id);
        }
        if title {
            self.title.append_option(text(lifted.title));
        }
        if genre {
            self.genre.append_option(text(lifted.genre));
        }
        if group {
            self.product_group.append_option(text(lifted.product_group));
        }
        if price || currency {
            let rejected = self.list_price.push(item.id, lifted.list_price, &mut self.price_differences);
            self.rejections += u64::from(rejected.is_some());
            self.rejected.extend(rejected);
        }
        if trade_in || trade_in_currency {
            let rejected = self.trade_in_value.push(item.id, lifted.trade_in_value, &mut self.price_differences);
            self.rejections += u64::from(rejected.is_some());
            self.rejected.extend(rejected);
        }
        if date {
            let found = lifted.release_date.filter(|attribute| !attribute.value.trim().is_empty());
            let parsed = found.map(|attribute| days(attribute.value.trim()));
            if let (Some(attribute), Some(Err(reason))) = (found, parsed) {
                self.rejections += 1;
                self.rejected.push(reject(item.id, "ReleaseDate", attribute, reason.to_owned()));
            }
            self.release_date.append_option(parsed.and_then(Result::ok));
        }
        if attributes {
            self.attributes.push(item.attributes)?;
        }
        if line {
            self.line.append_value(i64::try_from(item.line).unwrap_or(i64::MAX));
        }
        self.rows += 1;
        self.bytes += bytes;
        if self.rows >= self.limits.rows || self.bytes >= self.limits.bytes {
            self.close()?;
        }
        Ok(())
    }

    /// The batches that are full, oldest first, and the rejected values since the last call.
    pub fn take(&mut self) -> (Vec<RecordBatch>, Vec<Rejected>) {
        (std::mem::take(&mut self.full), std::mem::take(&mut self.rejected))
    }

    /// What [`Self::take`] gives, with the last batch closed, and what was counted added to `tally`.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self, tally: &mut Tally) -> Result<(Vec<RecordBatch>, Vec<Rejected>), ArrowError> {
        self.close()?;
        tally.price_differences += self.price_differences;
        tally.rejected += self.rejections;
        Ok(self.take())
    }

    fn close(&mut self) -> Result<(), ArrowError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.projection.len());
        // A projection names each column once; finishing a builder twice would give an empty second column.
        for column in &self.projection {
            columns.push(match column {
                0 => Arc::new(self.item_id.finish()),
                1 => Arc::new(self.title.finish()),
                2 => Arc::new(self.genre.finish()),
                3 => Arc::new(self.product_group.finish()),
                4 => self.list_price.finish_amount()?,
                5 => Arc::new(self.list_price.currency.finish()),
                6 => self.trade_in_value.finish_amount()?,
                7 => Arc::new(self.trade_in_value.currency.finish()),
                8 => Arc::new(self.release_date.finish()),
                9 => self.attributes.finish()?,
                _ => Arc::new(self.line.finish()),
            });
        }
        // Of a pair of which only one column is wanted the other was filled too.
        self.list_price.clear();
        self.trade_in_value.clear();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.full.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

#[derive(Default)]
struct Lifted<'a> {
    title: Option<&'a Attribute<'a>>,
    genre: Option<&'a Attribute<'a>>,
    product_group: Option<&'a Attribute<'a>>,
    list_price: Option<&'a Attribute<'a>>,
    trade_in_value: Option<&'a Attribute<'a>>,
    release_date: Option<&'a Attribute<'a>>,
}

fn text<'a>(attribute: Option<&'a Attribute<'a>>) -> Option<&'a str> {
    attribute.map(|attribute| attribute.value.as_ref())
}

fn reject(item_id: i64, field: &'static str, attribute: &Attribute<'_>, reason: String) -> Rejected {
    Rejected { item_id, line: attribute.line, field, reason, raw: attribute.value.clone().into_owned() }
}

/// Days since 1970-01-01 of a date `YYYY-MM-DD`.
fn days(text: &str) -> Result<i32, &'static str> {
    const FORM: &str = "the date is not of the form YYYY-MM-DD";
    let [year @ .., b'-', _, _, b'-', _, _] = text.as_bytes() else { return Err(FORM) };
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if year.len() != 4 || digits != 8 {
        return Err(FORM);
    }
    let number = |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse::<u32>().ok()).ok_or(FORM);
    let year = i32::try_from(number(0, 4)?).map_err(|_| FORM)?;
    let date = NaiveDate::from_ymd_opt(year, number(5, 7)?, number(8, 10)?).ok_or("there is no such date")?;
    // 719,163 days lie between 0001-01-01 (day 1) and 1970-01-01.
    Ok(date.num_days_from_ce() - 719_163)
}

/// An amount and its currency.
#[derive(Debug)]
struct MoneyBuilder {
    field: &'static str,
    amount: Decimal128Builder,
    currency: StringBuilder,
}

impl MoneyBuilder {
    fn new(field: &'static str) -> Self {
        Self { field, amount: Decimal128Builder::new(), currency: StringBuilder::new() }
    }

    fn push(&mut self, item_id: i64, found: Option<&Attribute<'_>>, differences: &mut u64) -> Option<Rejected> {
        let parsed = found.map(|attribute| {
            parse_price(&attribute.value).and_then(|price| price.hundredths().map(|hundredths| (price, hundredths)))
        });
        if let Some(Ok((price, hundredths))) = parsed {
            *differences += u64::from(price.written == Written::Differs);
            self.amount.append_value(i128::from(hundredths));
            self.currency.append_value(price.currency.as_str());
            return None;
        }
        self.amount.append_null();
        self.currency.append_null();
        match (found, parsed) {
            // An empty value is how some writers say that there is none.
            (Some(attribute), Some(Err(problem))) if problem != PriceProblem::Empty => {
                Some(reject(item_id, self.field, attribute, problem.to_string()))
            }
            _ => None,
        }
    }

    fn finish_amount(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.amount.finish().with_precision_and_scale(10, 2)?))
    }

    fn clear(&mut self) {
        if !arrow::array::ArrayBuilder::is_empty(&self.amount) {
            drop(self.amount.finish());
        }
        if !arrow::array::ArrayBuilder::is_empty(&self.currency) {
            drop(self.currency.finish());
        }
    }
}

/// The map column: one entry per key in the order of first appearance, with all its values in theirs.
#[derive(Debug, Default)]
struct AttributesBuilder {
    keys: StringBuilder,
    values: StringBuilder,
    /// Where each row's entries end.
    entry_ends: Vec<i32>,
    /// Where each entry's values end.
    value_ends: Vec<i32>,
    entries: i32,
    pushed: i32,
}

/// Up to so many different keys of an item out of order are compared one by one.
const FEW: usize = 48;

impl AttributesBuilder {
    fn push(&mut self, attributes: &[Attribute<'_>]) -> Result<(), ArrowError> {
        // Writers put keys in order, so equal keys stand together; that order also proves that no key comes back.
        let rising = attributes.windows(2).all(|pair| matches!(pair, [a, b] if a.key <= b.key));
        if rising {
            let mut last: Option<&str> = None;
            for attribute in attributes {
                if last != Some(attribute.key.as_ref()) {
                    if last.is_some() {
                        self.end_entry()?;
                    }
                    self.keys.append_value(&attribute.key);
                    last = Some(attribute.key.as_ref());
                }
                self.push_value(&attribute.value)?;
            }
            if last.is_some() {
                self.end_entry()?;
            }
        } else {
            let (first_of, order) = group(attributes);
            let mut order = order.into_iter().peekable();
            for (entry, first) in first_of.into_iter().enumerate() {
                self.keys
                    .append_value(attributes.get(first).map(|attribute| attribute.key.as_ref()).unwrap_or_default());
                while let Some((_, index)) = order.next_if(|(group, _)| *group == entry) {
                    self.push_value(
                        attributes.get(index).map(|attribute| attribute.value.as_ref()).unwrap_or_default(),
                    )?;
                }
                self.end_entry()?;
            }
        }
        self.entry_ends.push(self.entries);
        Ok(())
    }

    fn push_value(&mut self, value: &str) -> Result<(), ArrowError> {
        self.values.append_value(value);
        self.pushed = self.pushed.checked_add(1).ok_or(ArrowError::OffsetOverflowError(usize::MAX))?;
        Ok(())
    }

    fn end_entry(&mut self) -> Result<(), ArrowError> {
        self.value_ends.push(self.pushed);
        self.entries = self.entries.checked_add(1).ok_or(ArrowError::OffsetOverflowError(usize::MAX))?;
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let lists = ListArray::try_new(
            Arc::clone(&*ELEMENT),
            offsets(std::mem::take(&mut self.value_ends)),
            Arc::new(self.values.finish()),
            None,
        )?;
        let entries = StructArray::try_new(ENTRIES.clone(), vec![Arc::new(self.keys.finish()), Arc::new(lists)], None)?;
        let ends = offsets(std::mem::take(&mut self.entry_ends));
        (self.entries, self.pushed) = (0, 0);
        Ok(Arc::new(MapArray::try_new(Arc::clone(&*KEY_VALUE), ends, entries, None, false)?))
    }
}

/// Offsets from ends; ends never fall.
fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(0);
    offsets.extend(ends);
    OffsetBuffer::new(offsets.into())
}

/// Groups attributes by key: the index of the first attribute of each group, and (group, index) of all of them sorted.
fn group(attributes: &[Attribute<'_>]) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut first_of: Vec<usize> = Vec::new();
    let mut many: HashMap<&str, usize> = HashMap::new();
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(attributes.len());
    let key = |index: usize| attributes.get(index).map(|attribute: &Attribute<'_>| &attribute.key);
    for (index, attribute) in attributes.iter().enumerate() {
        let found = if first_of.len() <= FEW {
            first_of.iter().position(|first| key(*first) == Some(&attribute.key))
        } else {
            if many.is_empty() {
                many.extend(
                    first_of.iter().enumerate().filter_map(|(group, first)| Some((key(*first)?.as_ref(), group))),
                );
            }
            many.get(attribute.key.as_ref()).copied()
        };
        let group = found.unwrap_or_else(|| {
            first_of.push(index);
            if !many.is_empty() {
                many.insert(Cow::as_ref(&attribute.key), first_of.len() - 1);
            }
            first_of.len() - 1
        });
        order.push((group, index));
    }
    order.sort_unstable();
    (first_of, order)
}
