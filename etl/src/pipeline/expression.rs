//! SQL expressions over the columns of one row, compiled once for a set of columns and run on batches.
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue, SchemaError};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Volatility, cast};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};

/// Characters of one value that a dead letter's detail shows.
const SHOWN: usize = 100;

/// Why an expression cannot be used, in words that read after "the rule `x` …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable {
    /// The column that is not there, if that is what is wrong.
    pub(super) column: Option<String>,
    /// The whole reason.
    pub(super) why: String,
}

impl Unusable {
    fn because(why: impl Into<String>) -> Self {
        Self { column: None, why: why.into() }
    }
}

/// Compiles expressions. One for a stream: making it is not free.
pub(super) struct Compiler(SessionContext);

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiler")
    }
}

impl Compiler {
    pub(super) fn new() -> Self {
        // As the engine reads SQL, so that an expression means the same here and in a model.
        let config = SessionConfig::new()
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
            .set_bool("datafusion.sql_parser.parse_float_as_decimal", true)
            .set_str("datafusion.execution.time_zone", "+00:00");
        let context = SessionContext::new_with_config(config);
        crate::engine::function::register(&context, "");
        Self(context)
    }

    /// Compiles `sql` against `columns`. A column that is not there is an error, or NULL if `open`: then the columns are
    /// still being found out.
    pub(super) fn compile(&self, sql: &str, columns: &Schema, open: bool) -> Result<Expression, Unusable> {
        let mut known: Vec<Arc<Field>> = columns.fields().iter().cloned().collect();
        let (expr, schema) = loop {
            let schema =
                DFSchema::try_from(Schema::new(known.clone())).map_err(|e| Unusable::because(e.to_string()))?;
            match self.0.state().create_logical_expr(sql, &schema) {
                Ok(expr) => break (expr, schema),
                Err(error) => match missing(&error) {
                    Some(name) if open && !known.iter().any(|field| *field.name() == name) => {
                        known.push(Arc::new(Field::new(name, DataType::Null, true)));
                    }
                    Some(name) => {
                        let why = format!("it names `{name}`, and there is no such column{}", near(&name, columns));
                        return Err(Unusable { column: Some(name), why });
                    }
                    None => return Err(Unusable::because(error.strip_backtrace())),
                },
            }
        };
        immutable(&expr)?;
        let mut uses = BTreeSet::new();
        let expr = expr
            .transform(|part| match part {
                Expr::Column(column) if columns.field_with_name(&column.name).is_err() => {
                    Ok(Transformed::yes(Expr::Literal(ScalarValue::Null, None)))
                }
                Expr::Column(Column { ref name, .. }) => {
                    uses.insert(name.clone());
                    Ok(Transformed::no(part))
                }
                other => Ok(Transformed::no(other)),
            })
            .map_err(|e| Unusable::because(e.strip_backtrace()))?
            .data;
        let unusable = |error: DataFusionError| Unusable::because(error.strip_backtrace());
        let data_type = expr.get_type(&schema).map_err(unusable)?;
        let physical = self.0.state().create_physical_expr(expr.clone(), &schema).map_err(unusable)?;
        Ok(Expression {
            sql: sql.trim().to_owned(),
            expr,
            schema,
            physical,
            data_type,
            uses: uses.into_iter().collect(),
        })
    }

    /// The same expression, cast to another type.
    pub(super) fn cast(&self, from: &Expression, to: &DataType) -> Result<Expression, Unusable> {
        let unusable = |error: DataFusionError| Unusable::because(error.strip_backtrace());
        let expr = cast(from.expr.clone(), to.clone());
        let physical = self.0.state().create_physical_expr(expr.clone(), &from.schema).map_err(unusable)?;
        Ok(Expression {
            sql: from.sql.clone(),
            expr,
            schema: from.schema.clone(),
            physical,
            data_type: to.clone(),
            uses: from.uses.clone(),
        })
    }
}

/// One compiled expression.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) sql: String,
    expr: Expr,
    schema: DFSchema,
    physical: Arc<dyn PhysicalExpr>,
    /// What it gives; `Null` if it can only be NULL.
    pub(super) data_type: DataType,
    /// The columns it reads.
    uses: Vec<String>,
}

impl Expression {
    /// Its value for each row, or why a row has none. A row that fails costs no other row its value.
    pub(super) fn run(&self, rows: &RecordBatch) -> Result<(ArrayRef, Vec<(usize, String)>), ArrowError> {
        let run = |rows: &RecordBatch| {
            let value = self.physical.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
            value.map_err(|error| error.strip_backtrace())
        };
        if let Ok(values) = run(rows) {
            return Ok((values, Vec::new()));
        }
        let mut values = Vec::with_capacity(rows.num_rows());
        let mut failed = Vec::new();
        for row in 0..rows.num_rows() {
            match run(&rows.slice(row, 1)) {
                Ok(value) => values.push(value),
                Err(why) => {
                    failed.push((row, why));
                    values.push(new_null_array(&self.data_type, 1));
                }
            }
        }
        let values: Vec<&dyn arrow::array::Array> = values.iter().map(AsRef::as_ref).collect();
        Ok((concat(&values)?, failed))
    }

    /// The values it read in a row: `amount = -3.5, currency = NULL`.
    pub(super) fn read(&self, rows: &RecordBatch, row: usize) -> String {
        let read = self.uses.iter().filter_map(|name| {
            let column = rows.column_by_name(name)?;
            Some(format!("{name} = {}", shown(column, row)))
        });
        read.collect::<Vec<_>>().join(", ")
    }
}

/// One value for a person; texts in quotes, long ones cut.
pub(super) fn shown(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    let options = FormatOptions::default().with_null("NULL");
    let text = match ArrayFormatter::try_new(column.as_ref(), &options) {
        Ok(formatter) => formatter.value(row).try_to_string().unwrap_or_else(|_| "?".to_owned()),
        Err(_) => "?".to_owned(),
    };
    let text = match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    };
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => format!("'{text}'"),
        _ => text,
    }
}

/// The column an error is about, if it says that there is none of that name.
fn missing(error: &DataFusionError) -> Option<String> {
    let name = |error: &DataFusionError| match error {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. } => Some(field.name.clone()),
            _ => None,
        },
        _ => None,
    };
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => missing(inner),
        other => name(other.find_root()),
    }
}

fn near(name: &str, columns: &Schema) -> String {
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let names = columns.fields().iter().map(|field| field.name());
    match names.min_by_key(|known| distance(known)).filter(|known| distance(known) <= name.len().max(3) / 3) {
        Some(known) => format!("; did you mean `{known}`?"),
        None => String::new(),
    }
}

/// A record that is read again must come to the same.
fn immutable(expr: &Expr) -> Result<(), Unusable> {
    let mut found = None;
    let walked = expr.apply(|part| {
        let unusable = match part {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some(format!("`{}()` gives another answer each time", call.func.name()))
            }
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => Some("it looks at more than one row".to_owned()),
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => Some("it reads other tables".to_owned()),
            _ => None,
        };
        Ok(if unusable.is_some() {
            found = unusable;
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    match (found, walked) {
        (Some(why), _) => Err(Unusable::because(why)),
        (None, Err(error)) => Err(Unusable::because(error.strip_backtrace())),
        (None, Ok(_)) => Ok(()),
    }
}
