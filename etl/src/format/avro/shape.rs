//! An Avro schema with its names resolved and its logical types told apart: what plans are made from.
use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, NamesRef, NamespaceRef, ResolvedSchema, UuidSchema};
use serde_json::Value;

use crate::format::error::{SchemaError, join};

/// How many levels a schema may have: walks recurse this deep.
pub const MAX_DEPTH: usize = 64;
/// How many types a schema may have once every name is replaced by its type.
pub const MAX_NODES: usize = 20_000;

/// One type.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(Fixed),
    Enum {
        name: String,
        symbols: Vec<String>,
    },
    Array(Box<Shape>),
    Map(Box<Shape>),
    Record(Record),
    Union(Vec<Shape>),
    /// `fixed`: stored in a fixed, else in bytes.
    Decimal {
        precision: u8,
        scale: i8,
        fixed: Option<Fixed>,
    },
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp {
        unit: Unit,
        utc: bool,
    },
    UuidText,
    UuidBytes,
    UuidFixed(Fixed),
    Duration(Fixed),
}

/// The unit of a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// A fixed with its full name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fixed {
    pub(super) name: String,
    pub(super) size: usize,
}

/// A record with its full name.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
}

/// A field of a record.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) default: Option<Value>,
    pub(super) shape: Shape,
}

impl Shape {
    /// Resolves `schema`. A root that is no record becomes a record with the one field `value`: the bytes are the same.
    pub(super) fn root(schema: &Schema) -> Result<Record, SchemaError> {
        let resolved = ResolvedSchema::new(schema).map_err(|error| SchemaError::Parse(Box::new(error)))?;
        let mut walk = Walk { names: resolved.get_names(), open: Vec::new(), nodes: 0, depth: 0 };
        Ok(match walk.shape(schema, None, "")? {
            Self::Record(record) => record,
            shape => Record {
                name: "value".into(),
                fields: vec![Field { name: "value".into(), aliases: Vec::new(), default: None, shape }],
            },
        })
    }

    /// The fewest bytes a value takes.
    pub(super) fn least(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Float => 4,
            Self::Double => 8,
            Self::Fixed(fixed)
            | Self::UuidFixed(fixed)
            | Self::Duration(fixed)
            | Self::Decimal { fixed: Some(fixed), .. } => fixed.size,
            Self::Record(record) => {
                record.fields.iter().fold(0, |sum, field| usize::saturating_add(sum, field.shape.least()))
            }
            _ => 1,
        }
    }

    /// The name by which a union's branch is told: the type's, or the full name of a named type.
    pub(super) fn tag(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int | Self::Date | Self::TimeMillis => "int",
            Self::Long | Self::TimeMicros | Self::Timestamp { .. } => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes | Self::UuidBytes | Self::Decimal { fixed: None, .. } => "bytes",
            Self::String | Self::UuidText => "string",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Union(_) => "union",
            Self::Enum { name, .. } => name,
            Self::Record(record) => &record.name,
            Self::Fixed(fixed)
            | Self::UuidFixed(fixed)
            | Self::Duration(fixed)
            | Self::Decimal { fixed: Some(fixed), .. } => &fixed.name,
        }
    }

    /// The type in words.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Decimal { precision, scale, .. } => format!("decimal({precision}, {scale})"),
            Self::Date => "date".into(),
            Self::TimeMillis => "time-millis".into(),
            Self::TimeMicros => "time-micros".into(),
            Self::Timestamp { unit, utc } => {
                let unit = match unit {
                    Unit::Millis => "millis",
                    Unit::Micros => "micros",
                    Unit::Nanos => "nanos",
                };
                format!("{}timestamp-{unit}", if *utc { "" } else { "local-" })
            }
            Self::UuidText | Self::UuidBytes | Self::UuidFixed(_) => "uuid".into(),
            Self::Duration(_) => "duration".into(),
            Self::Fixed(fixed) => format!("fixed `{}` of {} bytes", fixed.name, fixed.size),
            Self::Enum { name, .. } => format!("enum `{name}`"),
            Self::Record(record) => format!("record `{}`", record.name),
            Self::Array(item) => format!("array of {}", item.describe()),
            Self::Map(value) => format!("map of {}", value.describe()),
            Self::Union(branches) => {
                let all: Vec<String> = branches.iter().map(Self::describe).collect();
                format!("union of {}", all.join(", "))
            }
            _ => self.tag().to_owned(),
        }
    }

    /// The branches of a union that are not null.
    pub(super) fn live(branches: &[Self]) -> impl Iterator<Item = &Self> {
        branches.iter().filter(|branch| !matches!(branch, Self::Null))
    }

    /// The one type of a union of null and that type; any other type as it is.
    pub(super) fn strip_null(&self) -> &Self {
        if let Self::Union(branches) = self {
            let mut live = Self::live(branches);
            if let (Some(only), None) = (live.next(), live.next()) {
                return only;
            }
        }
        self
    }
}

/// The column names of a union's branches, in their order: tags, shortened to the last part where that is unambiguous.
pub(super) fn member_names(branches: &[Shape]) -> Vec<String> {
    let short = |shape: &Shape| shape.tag().rsplit('.').next().unwrap_or_default().to_owned();
    branches
        .iter()
        .map(|branch| {
            let name = short(branch);
            let clashes = branches.iter().filter(|other| short(other).eq_ignore_ascii_case(&name)).count() > 1;
            if clashes { branch.tag().replace('.', "_") } else { name }
        })
        .collect()
}

struct Walk<'a> {
    names: &'a NamesRef<'a>,
    open: Vec<String>,
    nodes: usize,
    depth: usize,
}

impl Walk<'_> {
    fn shape(&mut self, schema: &Schema, space: NamespaceRef<'_>, path: &str) -> Result<Shape, SchemaError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SchemaError::TooLarge { path: path.to_owned(), what: "types", limit: MAX_NODES });
        }
        Ok(match schema {
            Schema::Null => Shape::Null,
            Schema::Boolean => Shape::Boolean,
            Schema::Int => Shape::Int,
            Schema::Long => Shape::Long,
            Schema::Float => Shape::Float,
            Schema::Double => Shape::Double,
            Schema::Bytes | Schema::BigDecimal => Shape::Bytes,
            Schema::String => Shape::String,
            Schema::Date => Shape::Date,
            Schema::TimeMillis => Shape::TimeMillis,
            Schema::TimeMicros => Shape::TimeMicros,
            Schema::TimestampMillis => Shape::Timestamp { unit: Unit::Millis, utc: true },
            Schema::TimestampMicros => Shape::Timestamp { unit: Unit::Micros, utc: true },
            Schema::TimestampNanos => Shape::Timestamp { unit: Unit::Nanos, utc: true },
            Schema::LocalTimestampMillis => Shape::Timestamp { unit: Unit::Millis, utc: false },
            Schema::LocalTimestampMicros => Shape::Timestamp { unit: Unit::Micros, utc: false },
            Schema::LocalTimestampNanos => Shape::Timestamp { unit: Unit::Nanos, utc: false },
            Schema::Uuid(UuidSchema::String) => Shape::UuidText,
            Schema::Uuid(UuidSchema::Bytes) => Shape::UuidBytes,
            Schema::Uuid(UuidSchema::Fixed(inner)) => Shape::UuidFixed(fixed(&inner.name, inner.size, space)),
            Schema::Fixed(inner) => Shape::Fixed(fixed(&inner.name, inner.size, space)),
            Schema::Duration(inner) => Shape::Duration(fixed(&inner.name, inner.size, space)),
            Schema::Decimal(inner) => {
                let (Ok(precision), Ok(scale)) = (u8::try_from(inner.precision), i8::try_from(inner.scale)) else {
                    return Err(wide(path, inner.precision, inner.scale));
                };
                if precision > crate::format::decimal::MAX_PRECISION {
                    return Err(wide(path, inner.precision, inner.scale));
                }
                let fixed = match &inner.inner {
                    InnerDecimalSchema::Bytes => None,
                    InnerDecimalSchema::Fixed(inner) => Some(fixed(&inner.name, inner.size, space)),
                };
                Shape::Decimal { precision, scale, fixed }
            }
            Schema::Enum(inner) => {
                Shape::Enum { name: inner.name.fully_qualified_name(space).to_string(), symbols: inner.symbols.clone() }
            }
            Schema::Array(inner) => Shape::Array(Box::new(self.deeper(&inner.items, space, &format!("{path}[]"))?)),
            Schema::Map(inner) => Shape::Map(Box::new(self.deeper(&inner.types, space, &format!("{path}{{}}"))?)),
            Schema::Union(inner) => {
                let branches = inner.variants().iter().map(|branch| self.deeper(branch, space, path));
                Shape::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Record(inner) => {
                let name = inner.name.fully_qualified_name(space);
                let full = name.to_string();
                if self.open.contains(&full) {
                    return Err(SchemaError::Recursive { path: path.to_owned(), name: full });
                }
                self.open.push(full.clone());
                let mut fields = Vec::with_capacity(inner.fields.len());
                for field in &inner.fields {
                    fields.push(Field {
                        name: field.name.clone(),
                        aliases: field.aliases.clone(),
                        default: field.default.clone(),
                        shape: self.deeper(&field.schema, name.namespace(), &join(path, &field.name))?,
                    });
                }
                self.open.pop();
                Shape::Record(Record { name: full, fields })
            }
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(space);
                if self.open.contains(&name.to_string()) {
                    return Err(SchemaError::Recursive { path: path.to_owned(), name: name.to_string() });
                }
                let Some(target) = self.names.get(name.as_ref()) else {
                    return Err(SchemaError::Unsupported {
                        path: path.to_owned(),
                        found: format!("`{name}`"),
                        why: "the schema does not define this name",
                    });
                };
                self.deeper(target, name.namespace(), path)?
            }
        })
    }

    fn deeper(&mut self, schema: &Schema, space: NamespaceRef<'_>, path: &str) -> Result<Shape, SchemaError> {
        // Records, arrays, maps, unions and names each open a level.
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SchemaError::TooLarge { path: path.to_owned(), what: "levels", limit: MAX_DEPTH });
        }
        let shape = self.shape(schema, space, path)?;
        self.depth -= 1;
        Ok(shape)
    }
}

fn fixed(name: &Name, size: usize, space: NamespaceRef<'_>) -> Fixed {
    Fixed { name: name.fully_qualified_name(space).to_string(), size }
}

fn wide(path: &str, precision: usize, scale: usize) -> SchemaError {
    SchemaError::Unsupported {
        path: path.to_owned(),
        found: format!("decimal({precision}, {scale})"),
        why: "a column holds at most 38 digits",
    }
}
