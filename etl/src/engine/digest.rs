//! `row_digest(a, b, …)`: sixteen bytes that are equal if and only if (but for chance, 2⁻¹²⁸) the values are.
//!
//! The values are laid out by arrow's row format, which tells NULL from empty and keeps columns apart, and hashed by
//! BLAKE3. Types count: compare digests only of columns with the same types.
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

const BYTES: i32 = 16;

/// The function, to be registered with a session.
pub(crate) fn row_digest() -> ScalarUDF {
    ScalarUDF::new_from_impl(RowDigest { signature: Signature::new(TypeSignature::VariadicAny, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RowDigest {
    signature: Signature,
}

impl ScalarUDFImpl for RowDigest {
    fn name(&self) -> &'static str {
        "row_digest"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::FixedSizeBinary(BYTES))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns: Vec<ArrayRef> =
            args.args.iter().map(|value| value.to_array(args.number_rows)).collect::<Result<_>>()?;
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        let rows = converter.convert_columns(&columns)?;
        let mut digests = FixedSizeBinaryBuilder::with_capacity(args.number_rows, BYTES);
        for row in &rows {
            let digest = blake3::hash(row.as_ref());
            let (head, _) = digest.as_bytes().split_at(BYTES as usize);
            digests.append_value(head)?;
        }
        Ok(ColumnarValue::Array(Arc::new(digests.finish())))
    }
}
