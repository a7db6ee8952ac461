//! `parse_price(text)`: a price of the catalogue as an exact amount and its currency.
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, Decimal128Builder, StringBuilder, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::format::item;

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("amount", DataType::Decimal128(10, 2), true),
        Field::new("currency", DataType::Utf8, true),
    ])
});

/// The function; anything that is no price, or none that `DECIMAL(10,2)` holds exactly, is NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ParsePrice {
    signature: Signature,
}

impl Default for ParsePrice {
    fn default() -> Self {
        Self { signature: Signature::string(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ParsePrice {
    fn name(&self) -> &'static str {
        "parse_price"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(FIELDS.clone()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let [text] = datafusion::common::utils::take_function_args(self.name(), args.args)?;
        let prices: ArrayRef = Arc::new(parse(&text.into_array(rows)?)?);
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&prices, 0)?));
        }
        Ok(ColumnarValue::Array(prices))
    }
}

fn parse(text: &ArrayRef) -> Result<StructArray> {
    let text = cast(text, &DataType::Utf8)?;
    let mut amounts = Decimal128Builder::with_capacity(text.len());
    let mut currencies = StringBuilder::new();
    let mut valid = Vec::with_capacity(text.len());
    for text in text.as_string::<i32>() {
        let price = text.and_then(|text| {
            let price = item::parse_price(text).ok()?;
            Some((price.hundredths().ok()?, price.currency))
        });
        amounts.append_option(price.map(|(hundredths, _)| i128::from(hundredths)));
        currencies.append_option(price.as_ref().map(|(_, currency)| currency.as_str()));
        valid.push(price.is_some());
    }
    let amounts = amounts.finish().with_precision_and_scale(10, 2)?;
    let columns: Vec<ArrayRef> = vec![Arc::new(amounts), Arc::new(currencies.finish())];
    Ok(StructArray::try_new(FIELDS.clone(), columns, Some(NullBuffer::from(valid)))?)
}
