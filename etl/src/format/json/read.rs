//! JSON records into rows of a declared schema.
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono_tz::Tz;

use super::malformed::Malformed;
use super::plan::{Extra, Plan};
use crate::format::column::Columns;
use crate::format::error::SchemaError;

/// Decodes JSON objects into rows of a declared schema; see [`super`] for the rules.
pub struct Decoder {
    rows: Columns,
    plan: Plan,
}

impl Decoder {
    /// For rows of `target`; times without a zone are UTC.
    ///
    /// # Errors
    /// [`SchemaError::Unsupported`] if Delta has no such column type.
    pub fn new(target: SchemaRef) -> Result<Self, SchemaError> {
        let plan = Plan::new(target.fields(), Extra::Skip, Tz::UTC);
        Ok(Self { rows: Columns::new(target)?, plan })
    }

    /// Takes times without a zone as times in `zone`.
    #[must_use]
    pub fn with_zone(mut self, zone: Tz) -> Self {
        self.plan = Plan::new(self.rows.schema().fields(), Extra::Skip, zone);
        self
    }

    /// Appends one JSON object as a row.
    ///
    /// # Errors
    /// If it is not one JSON object, or a value is not of its column's type; then nothing was appended.
    pub fn decode(&mut self, record: &[u8]) -> Result<(), Malformed> {
        self.plan.read(record, &mut self.rows)
    }

    /// How many rows were decoded since the last flush.
    pub fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// About how many bytes these rows take. Flush well before 2 GiB: no single column may grow beyond.
    pub fn size(&self) -> usize {
        self.rows.size()
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    /// Hands out the rows decoded since the last flush, in their order.
    ///
    /// # Errors
    /// [`SchemaError::Rows`] if the columns do not form a batch, which is a fault of this program.
    pub fn flush(&mut self) -> Result<RecordBatch, SchemaError> {
        self.rows.flush()
    }
}
