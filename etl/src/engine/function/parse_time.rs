//! `parse_instant(text)` and `parse_date(text)`: times as people write them, and NULL for days that no calendar has.
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Date32Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use chrono_tz::Tz;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::format::instant;

/// What a text is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Instant,
    Date,
}

/// One of the two functions. Numbers need not be padded (`2000-1-14T8:10:41`); a time without an offset is UTC.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ParseTime {
    kind: Kind,
    signature: Signature,
}

impl ParseTime {
    pub(super) fn instant() -> Self {
        Self { kind: Kind::Instant, signature: Signature::string(1, Volatility::Immutable) }
    }

    pub(super) fn date() -> Self {
        Self { kind: Kind::Date, signature: Signature::string(1, Volatility::Immutable) }
    }

    fn parse(&self, texts: &StringArray) -> ArrayRef {
        let texts = texts.iter().map(|text| text.map(str::trim));
        match self.kind {
            Kind::Instant => {
                let instants = texts.map(|text| text.and_then(|text| instant::parse_lenient(text, Tz::UTC)));
                Arc::new(instants.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            Kind::Date => Arc::new(texts.map(|text| text.and_then(instant::parse_date)).collect::<Date32Array>()),
        }
    }
}

impl ScalarUDFImpl for ParseTime {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Instant => "parse_instant",
            Kind::Date => "parse_date",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::Date => DataType::Date32,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let [text] = datafusion::common::utils::take_function_args(self.name(), args.args)?;
        let texts = cast(&text.into_array(rows)?, &DataType::Utf8)?;
        let parsed = self.parse(texts.as_string::<i32>());
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&parsed, 0)?));
        }
        Ok(ColumnarValue::Array(parsed))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn impossible_days_are_null_and_padding_is_not_asked_for() {
        let context = SessionContext::new();
        super::super::register(&context, "");
        let sql = "SELECT CAST(parse_instant(t) AS VARCHAR) AS i, CAST(parse_date(t) AS VARCHAR) AS d \
                   FROM (VALUES ('2000-1-14T8:10:41'), ('2017-2-29T8:10:41'), ('2000-1-4'), ('2001-6-31'), (NULL)) AS v(t)";

        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();

        let shown = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        assert!(shown.contains("2000-01-14T08:10:41"), "{shown}");
        assert!(shown.contains("2000-01-04"), "{shown}");
        assert!(!shown.contains("2017") && !shown.contains("2001"), "{shown}");
    }
}
