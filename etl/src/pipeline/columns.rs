//! A table's own columns as SQL over the record's: `amount = "CAST(amount AS DECIMAL(10, 2))"`.
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;

use super::error::LandingError;
use super::expression::{Compiler, Expression};
use crate::error::Result;

/// The columns of one stream's table, in their order.
#[derive(Debug)]
pub(super) struct Projection {
    compiler: Compiler,
    /// Name and expression, as written.
    written: Vec<(String, String)>,
    /// The columns that the table has already; what is made becomes their type.
    there: Option<Schema>,
    compiled: Vec<(Arc<Field>, Expression)>,
}

/// A row that a column could not be made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unmade {
    /// The row.
    pub(super) row: usize,
    /// The column, the expression, the values it saw, and what went wrong.
    pub(super) detail: String,
}

impl Projection {
    pub(super) fn new(written: Vec<(String, String)>, there: Option<Schema>) -> Self {
        Self { compiler: Compiler::new(), written, there, compiled: Vec::new() }
    }

    /// Compiles the columns for records of these. `open`: more may come, and one that is missing is NULL; a column that
    /// can only be NULL is left out until then.
    ///
    /// # Errors
    /// [`LandingError::Column`] if an expression is not SQL or names a column that is not there.
    pub(super) fn compile(&mut self, topic: &str, columns: &Schema, open: bool) -> Result<()> {
        self.compiled.clear();
        for (name, sql) in &self.written {
            let unusable = |why: String| LandingError::Column { topic: topic.to_owned(), column: name.clone(), why };
            let mut expression = self.compiler.compile(sql, columns, open).map_err(|bad| unusable(bad.why))?;
            let there = self.there.as_ref().and_then(|there| there.field_with_name(name).ok());
            if let Some(held) = there
                && *held.data_type() != expression.data_type
            {
                expression = self.compiler.cast(&expression, held.data_type()).map_err(|bad| unusable(bad.why))?;
            }
            if expression.data_type != DataType::Null {
                let field = Arc::new(Field::new(name, expression.data_type.clone(), true));
                self.compiled.push((field, expression));
            }
        }
        Ok(())
    }

    /// The columns that are known now.
    pub(super) fn fields(&self) -> impl Iterator<Item = &Arc<Field>> {
        self.compiled.iter().map(|(field, _)| field)
    }

    /// The columns' values, and the rows that have none.
    pub(super) fn make(&self, rows: &RecordBatch) -> std::result::Result<(Vec<ArrayRef>, Vec<Unmade>), ArrowError> {
        let mut columns = Vec::with_capacity(self.compiled.len());
        let mut unmade: Vec<Unmade> = Vec::new();
        for (field, expression) in &self.compiled {
            let (values, failed) = expression.run(rows)?;
            for (row, why) in failed {
                if !unmade.iter().any(|earlier| earlier.row == row) {
                    let (name, saw) = (field.name(), expression.read(rows, row));
                    let detail = format!("column `{name}` is `{}`, which fails: {why}; {saw}", expression.sql);
                    unmade.push(Unmade { row, detail });
                }
            }
            columns.push(values);
        }
        Ok((columns, unmade))
    }
}
