//! The columns that rows are brought to: the table's, the declared ones, and those that files add.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::error::FilesError;
use crate::table::type_name;

/// What is done with a field that no column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnknown {
    /// The table gets a column for it.
    #[default]
    Evolve,
    /// It is left out.
    Ignore,
    /// A row that has a value there is a dead letter.
    DeadLetter,
}

/// The event time in UTC, where a field is named for it.
pub(crate) const EVENT_AT: &str = "event_at";
/// The file's name from the listing's root.
pub(crate) const FILE: &str = "_file";
/// The line a row begins on, from 1.
pub(crate) const LINE: &str = "_line";
/// The row's number in a file without lines, from 1.
pub(crate) const ROW: &str = "_row";

/// Where the values of a field go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The column of this number.
    Column(usize),
    /// There is none.
    Unknown,
    /// There cannot be one: why.
    Refused(String),
}

/// The columns for data, ours left out.
#[derive(Debug, Clone)]
pub(super) struct Target {
    fields: Vec<FieldRef>,
    /// By name in lower case: names that differ by case only cannot be beside each other.
    index: HashMap<String, usize>,
    declared: HashSet<String>,
    pub(super) on_unknown: OnUnknown,
    event_at: bool,
}

impl Target {
    pub(super) fn new(
        table: Option<&Schema>,
        declared: &[(String, DataType)],
        on_unknown: OnUnknown,
        event_at: bool,
    ) -> Result<Self, FilesError> {
        let mut target =
            Self { fields: Vec::new(), index: HashMap::new(), declared: HashSet::new(), on_unknown, event_at };
        for field in table.into_iter().flat_map(|schema| schema.fields().iter()) {
            if !target.is_ours(field.name()) {
                target.push(field.as_ref().clone());
            }
        }
        for (name, data_type) in declared {
            let name = &column_name(name);
            let refused = |found: String, table_type: String| FilesError::Column {
                file: "columns".to_owned(),
                column: name.clone(),
                found,
                table_type,
            };
            match target.place(name) {
                Place::Column(at) => {
                    let there = target.fields[at].data_type();
                    if !there.equals_datatype(data_type) {
                        return Err(refused(type_name(data_type), type_name(there)));
                    }
                }
                Place::Unknown => target.push(Field::new(name, data_type.clone(), true)),
                Place::Refused(why) => return Err(refused(why, String::new())),
            }
            target.declared.insert(name.clone());
        }
        Ok(target)
    }

    fn is_ours(&self, name: &str) -> bool {
        [FILE, LINE, ROW].iter().any(|ours| name.eq_ignore_ascii_case(ours))
            || (self.event_at && name.eq_ignore_ascii_case(EVENT_AT))
    }

    fn push(&mut self, field: Field) {
        self.index.insert(field.name().to_lowercase(), self.fields.len());
        self.fields.push(Arc::new(field.with_nullable(true)));
    }

    /// Where a field of this name goes.
    pub(super) fn place(&self, name: &str) -> Place {
        if self.is_ours(name) {
            return Place::Refused(format!("`{name}` is a column that landing fills itself"));
        }
        match self.index.get(&name.to_lowercase()) {
            Some(at) if self.fields[*at].name() == name => Place::Column(*at),
            Some(at) => {
                Place::Refused(format!("`{name}` differs from the column `{}` by case only", self.fields[*at].name()))
            }
            None if name.is_empty() || name.len() > 255 => {
                Place::Refused("a column's name has 1 to 255 bytes".to_owned())
            }
            None => Place::Unknown,
        }
    }

    /// Adds a column. `name` must be [`Place::Unknown`].
    pub(super) fn add(&mut self, name: &str, data_type: DataType) -> usize {
        self.push(Field::new(name, data_type, true));
        self.fields.len() - 1
    }

    pub(super) fn field(&self, at: usize) -> &FieldRef {
        &self.fields[at]
    }

    /// Whether the settings say what type the column has.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.clone()))
    }
}

/// A field's name as a column's: what Delta tables cannot have in names (` ,;{}()=`, tabs and line breaks) is `_`.
pub(super) fn column_name(name: &str) -> String {
    name.trim().chars().map(|c| if " ,;{}()\n\r\t=".contains(c) { '_' } else { c }).collect()
}
