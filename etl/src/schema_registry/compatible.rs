//! Whether a schema is Avro, whether two are the same, and whether one reads what the other wrote.
use std::collections::{HashMap, HashSet};

use apache_avro::Schema;
use apache_avro::error::CompatibilityError;
use apache_avro::schema::{Name, RecordField, RecordSchema, SchemaKind};
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};

use super::error::RegistryError;
use super::level::Level;

/// No schema is bigger than this; real ones have a few KiB.
pub(super) const MAX_SCHEMA: usize = 1 << 20;

/// How deep schemas are compared: far more than people write, far less than the stack holds.
const MAX_DEPTH: usize = 512;

/// How many pairs of types are compared. Unions of records of unions grow without bound.
const MAX_STEPS: usize = 100_000;

/// What keeps a reader from reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field, as a path.
    pub(super) field: Option<String>,
    /// What does not fit.
    pub(super) why: String,
}

/// Parses a schema that somebody wants to register for `subject`.
pub(super) fn parse(subject: &str, text: &str) -> Result<Schema, RegistryError> {
    let bad = |why: String| RegistryError::NotAvro { subject: subject.to_owned(), why };
    if text.len() > MAX_SCHEMA {
        return Err(bad(format!("it has {} bytes, more than {MAX_SCHEMA}", text.len())));
    }
    Schema::parse_str(text).map_err(|error| bad(crate::error::chain(&error).unwrap_or_else(|| error.to_string())))
}

/// What keeps a new schema and one of an earlier version from going together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The earlier version.
    pub(super) version: i32,
    /// Whether it is the earlier schema that cannot read what the new one writes, and not the new one that cannot read.
    pub(super) forward: bool,
    /// What does not fit.
    pub(super) problem: Problem,
}

/// What keeps `new` from following `earlier` (versions with schemas, oldest first) by the rule of `level`.
/// At most one conflict for each version and direction, newest version first.
pub(super) fn conflicts(level: Level, earlier: &[(i32, Schema)], new: &Schema) -> Vec<Conflict> {
    let counted = if level.transitive() { earlier.len() } else { 1 };
    let mut conflicts = Vec::new();
    for (version, old) in earlier.iter().rev().take(counted) {
        let backward = level.backward().then(|| problem(old, new)).flatten();
        conflicts.extend(backward.map(|problem| Conflict { version: *version, forward: false, problem }));
        let forward = level.forward().then(|| problem(new, old)).flatten();
        conflicts.extend(forward.map(|problem| Conflict { version: *version, forward: true, problem }));
    }
    conflicts
}

/// What keeps a reader with `reader` from reading everything that `writer` wrote: BACKWARD compatibility by Avro's schema
/// resolution. The library judges single types; records, unions and named types are walked here, because it names no
/// path, calls "some records can be read" a success, and takes a named type and its repetition for different types.
pub(super) fn problem(writer: &Schema, reader: &Schema) -> Option<Problem> {
    let mut walk = Walk { writers: HashMap::new(), readers: HashMap::new(), seen: HashSet::new(), depth: 0, steps: 0 };
    collect(writer, &mut walk.writers);
    collect(reader, &mut walk.readers);
    walk.problem(writer, reader, &mut Vec::new())
}

struct Walk<'a> {
    writers: HashMap<&'a Name, &'a Schema>,
    readers: HashMap<&'a Name, &'a Schema>,
    /// Pairs of records that are being compared or were found to fit: a recursive type ends here.
    seen: HashSet<(&'a Name, &'a Name)>,
    depth: usize,
    steps: usize,
}

impl<'a> Walk<'a> {
    fn problem(&mut self, writer: &'a Schema, reader: &'a Schema, path: &mut Vec<&'a str>) -> Option<Problem> {
        self.steps += 1;
        if self.depth == MAX_DEPTH || self.steps > MAX_STEPS {
            return Some(at(path, "the schemas are too deep or too tangled to be compared".to_owned()));
        }
        self.depth += 1;
        let found = self.compared(writer, reader, path);
        self.depth -= 1;
        found
    }

    fn compared(&mut self, writer: &'a Schema, reader: &'a Schema, path: &mut Vec<&'a str>) -> Option<Problem> {
        let writer = resolve(&self.writers, writer);
        let reader = resolve(&self.readers, reader);
        match (writer, reader) {
            (Schema::Record(from), Schema::Record(to)) => self.records(from, to, path),
            (Schema::Array(from), Schema::Array(to)) => self.problem(&from.items, &to.items, path),
            (Schema::Map(from), Schema::Map(to)) => self.problem(&from.types, &to.types, path),
            (Schema::Union(from), _) => from.variants().iter().find_map(|variant| self.branch(variant, reader, path)),
            (_, Schema::Union(_)) => self.branch(writer, reader, path),
            _ => leaf(writer, reader).map(|why| at(path, why)),
        }
    }

    /// One branch of what was written against all that the reader takes.
    fn branch(&mut self, writer: &'a Schema, reader: &'a Schema, path: &mut Vec<&'a str>) -> Option<Problem> {
        let Schema::Union(to) = reader else { return self.problem(writer, reader, path) };
        let seen = self.seen.clone();
        let mut near = None;
        for variant in to.variants() {
            let found = self.problem(writer, variant, path)?;
            self.seen.clone_from(&seen);
            // The branch of the same kind is the one a person means.
            if SchemaKind::from(resolve(&self.readers, variant)) == SchemaKind::from(resolve(&self.writers, writer)) {
                near = Some(found);
            }
        }
        near.or_else(|| {
            let written = resolve(&self.writers, writer);
            Some(at(path, format!("`{}` was written, and no branch of the new union takes it", kind(written))))
        })
    }

    fn records(&mut self, from: &'a RecordSchema, to: &'a RecordSchema, path: &mut Vec<&'a str>) -> Option<Problem> {
        let renamed = to.aliases.iter().flatten().any(|alias| alias.name() == from.name.name());
        if from.name.name() != to.name.name() && !renamed {
            let why = format!(
                "the record was called `{}` and is called `{}` now, without the old name as an alias",
                from.name.name(),
                to.name.name()
            );
            return Some(at(path, why));
        }
        if !self.seen.insert((&from.name, &to.name)) {
            return None;
        }
        to.fields.iter().find_map(|field| {
            path.push(&field.name);
            let found = match written(from, field) {
                Some(old) => self.problem(&old.schema, &field.schema, path),
                None if field.default.is_none() => Some(at(path, "the field is new and has no default".to_owned())),
                None => None,
            };
            path.pop();
            found
        })
    }
}

/// The field of the writer that `field` reads: by its name, then by its aliases.
fn written<'a>(from: &'a RecordSchema, field: &RecordField) -> Option<&'a RecordField> {
    std::iter::once(&field.name).chain(&field.aliases).find_map(|name| from.fields.iter().find(|old| &old.name == name))
}

fn at(path: &[&str], why: String) -> Problem {
    Problem { field: (!path.is_empty()).then(|| path.join(".")), why }
}

/// Types without parts, by the library.
fn leaf(writer: &Schema, reader: &Schema) -> Option<String> {
    let error = match SchemaCompatibility::can_read(writer, reader) {
        Ok(Compatibility::Full) => return None,
        Ok(Compatibility::Partial) => return Some("symbols that were written are missing in the new enum".to_owned()),
        Err(error) => error,
    };
    Some(match error {
        // The library would print both schemas in full.
        CompatibilityError::WrongType { .. } | CompatibilityError::TypeExpected { .. } => {
            format!("it was `{}` and is `{}` now", kind(writer), kind(reader))
        }
        CompatibilityError::DecimalMismatch { r_precision, r_scale, w_precision, w_scale } => {
            format!("it was `decimal({w_precision},{w_scale})` and is `decimal({r_precision},{r_scale})` now")
        }
        CompatibilityError::NameMismatch { writer_name, reader_name } => {
            format!("the type was called `{writer_name}` and is called `{reader_name}` now")
        }
        CompatibilityError::FixedMismatch => "the fixed size is another".to_owned(),
        CompatibilityError::MissingSymbols => "none of the old symbols is left in the enum".to_owned(),
        other => other.to_string(),
    })
}

fn kind(schema: &Schema) -> String {
    match schema {
        Schema::Decimal(decimal) => format!("decimal({},{})", decimal.precision, decimal.scale),
        other => {
            // `TimestampMillis` as `timestamp-millis`, which is how it is written in a schema.
            let mut words = String::new();
            for letter in format!("{:?}", SchemaKind::from(other)).chars() {
                if letter.is_uppercase() && !words.is_empty() {
                    words.push('-');
                }
                words.extend(letter.to_lowercase());
            }
            words
        }
    }
}

fn resolve<'a>(names: &HashMap<&'a Name, &'a Schema>, schema: &'a Schema) -> &'a Schema {
    match schema {
        Schema::Ref { name } => names.get(name).copied().unwrap_or(schema),
        other => other,
    }
}

/// All named types that are defined in `schema`.
fn collect<'a>(schema: &'a Schema, names: &mut HashMap<&'a Name, &'a Schema>) {
    match schema {
        Schema::Ref { .. } => return,
        Schema::Record(record) => record.fields.iter().for_each(|field| collect(&field.schema, names)),
        Schema::Array(array) => collect(&array.items, names),
        Schema::Map(map) => collect(&map.types, names),
        Schema::Union(union) => union.variants().iter().for_each(|variant| collect(variant, names)),
        _ => {}
    }
    if let Some(name) = schema.name() {
        names.insert(name, schema);
    }
}
