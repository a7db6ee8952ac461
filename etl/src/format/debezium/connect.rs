//! Schemas of Kafka Connect, as its JSON converter writes them beside each value.
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use serde_json::Value;

use crate::format::avro::MAX_DEPTH;
use crate::format::decimal::MAX_PRECISION;
use crate::format::error::{SchemaError, join};
use crate::format::json::{Node, Object};

/// A type of Kafka Connect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Connect {
    Boolean,
    /// int8, int16 and int32.
    Int,
    Long,
    Float,
    Double,
    Text,
    Binary,
    Date,
    /// A moment or a time of day, counted in this unit.
    Wall(Unit),
    Instant(Unit),
    TimeOfDay(Unit),
    ZonedText,
    Decimal {
        precision: u8,
        scale: i8,
    },
    VariableDecimal,
    List(Box<Connect>),
    Map(Box<Connect>),
    Struct(Vec<(String, Connect)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// The row types of an envelope's schema: of `before` and `after`, and of `message`.
pub(crate) fn of_envelope(schema: &Value) -> Result<Connect, SchemaError> {
    let fields = schema.get("fields").and_then(Value::as_array);
    let field = |name: &str| fields.into_iter().flatten().find(|field| field.get("field") == Some(&name.into()));
    let row = ["after", "before", "message"].iter().find_map(|name| field(name).map(|field| (*name, field)));
    let (name, row) =
        row.ok_or_else(|| unsupported("after", "none", "the schema is not that of a Debezium envelope"))?;
    match Connect::read(row, name, 0)? {
        rows @ Connect::Struct(_) => Ok(rows),
        other => Err(unsupported(name, &other.describe(), "a row is a struct")),
    }
}

fn unsupported(path: &str, found: &str, why: &'static str) -> SchemaError {
    SchemaError::Unsupported { path: path.to_owned(), found: found.to_owned(), why }
}

impl Connect {
    fn read(schema: &Value, path: &str, depth: usize) -> Result<Self, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(SchemaError::TooLarge { path: path.to_owned(), what: "levels", limit: MAX_DEPTH });
        }
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        let inner = |key: &str, path: String| match schema.get(key) {
            Some(inner) => Self::read(inner, &path, depth + 1),
            None => Err(unsupported(path.as_str(), text("type"), "the schema does not say of what")),
        };
        Ok(match (text("type"), text("name")) {
            (_, "org.apache.kafka.connect.data.Decimal") => {
                let parameter = |key: &str| schema.get("parameters")?.get(key)?.as_str()?.parse::<i8>().ok();
                let scale = parameter("scale").unwrap_or(0);
                let digits = parameter("connect.decimal.precision").and_then(|digits| u8::try_from(digits).ok());
                let precision = digits.unwrap_or(MAX_PRECISION);
                if precision == 0 || precision > MAX_PRECISION || scale < 0 || scale.unsigned_abs() > precision {
                    let found = format!("decimal({precision}, {scale})");
                    return Err(unsupported(path, &found, "a column holds at most 38 digits"));
                }
                Self::Decimal { precision, scale }
            }
            (_, "io.debezium.data.VariableScaleDecimal") => Self::VariableDecimal,
            ("int32", "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => Self::Date,
            ("int32", "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time") => Self::TimeOfDay(Unit::Millis),
            ("int64", "io.debezium.time.MicroTime") => Self::TimeOfDay(Unit::Micros),
            ("int64", "io.debezium.time.NanoTime") => Self::TimeOfDay(Unit::Nanos),
            ("int64", "io.debezium.time.Timestamp") => Self::Wall(Unit::Millis),
            ("int64", "io.debezium.time.MicroTimestamp") => Self::Wall(Unit::Micros),
            ("int64", "io.debezium.time.NanoTimestamp") => Self::Wall(Unit::Nanos),
            ("int64", "org.apache.kafka.connect.data.Timestamp") => Self::Instant(Unit::Millis),
            ("string", "io.debezium.time.ZonedTimestamp") => Self::ZonedText,
            ("boolean", _) => Self::Boolean,
            ("int8" | "int16" | "int32", _) => Self::Int,
            ("int64", _) => Self::Long,
            ("float" | "float32", _) => Self::Float,
            ("double" | "float64", _) => Self::Double,
            ("string", _) => Self::Text,
            ("bytes", _) => Self::Binary,
            ("array", _) => Self::List(Box::new(inner("items", format!("{path}[]"))?)),
            ("map", _) => {
                if inner("keys", path.to_owned())? != Self::Text {
                    return Err(unsupported(path, "a map", "only text can be the keys of a map"));
                }
                Self::Map(Box::new(inner("values", format!("{path}{{}}"))?))
            }
            ("struct", _) => {
                let mut members: Vec<(String, Self)> = Vec::new();
                for field in schema.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    let name = field.get("field").and_then(Value::as_str).unwrap_or_default();
                    let inner = join(path, name);
                    members.push((name.to_owned(), Self::read(field, &inner, depth + 1)?));
                }
                Self::Struct(members)
            }
            (other, _) => return Err(unsupported(path, other, "Kafka Connect has no such type")),
        })
    }

    fn describe(&self) -> String {
        crate::table::type_name(&self.data_type())
    }

    /// The column for such values.
    fn data_type(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int => DataType::Int32,
            Self::Long | Self::TimeOfDay(_) => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Text | Self::VariableDecimal => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Wall(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant(_) | Self::ZonedText => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::List(item) => DataType::List(Arc::new(Field::new("element", item.data_type(), true))),
            Self::Map(value) => {
                let entries =
                    vec![Field::new("key", DataType::Utf8, false), Field::new("value", value.data_type(), true)];
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false)
            }
            Self::Struct(_) => DataType::Struct(self.fields()),
        }
    }

    /// The columns of a row; none if it is no struct.
    pub(crate) fn fields(&self) -> Fields {
        let Self::Struct(members) = self else { return Fields::empty() };
        members.iter().map(|(name, member)| Field::new(name, member.data_type(), true)).collect()
    }

    /// How JSON values of this row fill the columns `target`, which have all its members.
    pub(crate) fn object(&self, target: &Fields, path: &str) -> Result<Object, SchemaError> {
        let Self::Struct(members) = self else { return Ok(Object::new(target)) };
        let mut object = Object::new(target);
        for (index, field) in target.iter().enumerate() {
            let node = match members.iter().find(|(name, _)| name == field.name()) {
                Some((name, member)) => member.node(field.data_type(), &join(path, name))?,
                None => Node::Absent,
            };
            object.set(index, node);
        }
        Ok(object)
    }

    fn node(&self, target: &DataType, path: &str) -> Result<Node, SchemaError> {
        let millis = |unit: Unit| match unit {
            Unit::Millis => Node::Millis,
            Unit::Micros => Node::Long,
            Unit::Nanos => Node::Nanos,
        };
        Ok(match (self, target) {
            (Self::Boolean, DataType::Boolean) => Node::Boolean,
            (Self::Int, DataType::Int32) | (Self::Date, DataType::Date32) => Node::Int,
            (Self::Int | Self::Long, DataType::Int64) => Node::Long,
            (Self::Int | Self::Long | Self::Float | Self::Double, DataType::Float64) => Node::Double,
            (Self::Float, DataType::Float32) => Node::Float,
            (Self::Int | Self::Long, DataType::Decimal128(precision, scale)) => Node::Decimal(*precision, *scale),
            (Self::Text | Self::ZonedText, DataType::Utf8) => Node::Text,
            (Self::Binary, DataType::Binary) => Node::Binary,
            (Self::Wall(unit), DataType::Timestamp(_, None))
            | (Self::Instant(unit), DataType::Timestamp(_, Some(_)))
            | (Self::TimeOfDay(unit), DataType::Int64) => millis(*unit),
            (Self::ZonedText, DataType::Timestamp(_, Some(_))) => Node::Instant,
            (Self::Decimal { scale, .. }, DataType::Decimal128(precision, places)) if scale == places => {
                Node::Unscaled(*precision)
            }
            (Self::Decimal { scale, .. }, DataType::Utf8) => Node::UnscaledText(*scale),
            (Self::VariableDecimal, DataType::Utf8) => Node::VariableDecimal,
            (Self::List(item), DataType::List(element)) => {
                Node::List(Box::new(item.node(element.data_type(), &format!("{path}[]"))?))
            }
            (Self::Map(value), DataType::Map(entries, _)) => {
                let DataType::Struct(fields) = entries.data_type() else { return Err(self.mismatch(target, path)) };
                let target = fields.get(1).ok_or_else(|| self.mismatch(target, path))?;
                Node::Map(Box::new(value.node(target.data_type(), &format!("{path}{{}}"))?))
            }
            (Self::Struct(_), DataType::Struct(fields)) => Node::Struct(self.object(fields, path)?),
            _ => return Err(self.mismatch(target, path)),
        })
    }

    fn mismatch(&self, target: &DataType, path: &str) -> SchemaError {
        SchemaError::Mismatch {
            path: path.to_owned(),
            writer: self.describe(),
            target: crate::table::type_name(target),
        }
    }
}
