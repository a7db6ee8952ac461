//! When the windows of a model are shown: as they come and whenever they change, or once, when they are final.
use std::collections::BTreeMap;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use serde_json::Value as Json;

/// What `watermark` and `emit` say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Emission {
    /// How far behind the newest event time the watermark is, in microseconds; without it there is no watermark.
    pub(super) lateness: Option<i64>,
    /// Whether windows are only shown when they are final.
    pub(super) append: bool,
}

impl Emission {
    /// Reads them; what is wrong comes with the key it is about.
    pub(super) fn read(config: &BTreeMap<String, Json>) -> Result<Self, (&'static str, String)> {
        let lateness = match config.get("watermark") {
            None | Some(Json::Null) => None,
            Some(value) => Some(length(value).ok_or_else(|| {
                ("watermark", format!("`watermark={value}` is no length of time: write '10 minutes', or 0"))
            })?),
        };
        let append = match config.get("emit").map(|value| value.as_str()) {
            None | Some(Some("update")) => false,
            Some(Some("append")) => true,
            Some(_) => return Err(("emit", "`emit` is neither 'update' nor 'append'".to_owned())),
        };
        if append && lateness.is_none() {
            let why = "`emit='append'` needs a `watermark`: how long after its end a window still waits for late rows";
            return Err(("emit", why.to_owned()));
        }
        Ok(Self { lateness, append })
    }
}

/// Microseconds, not below zero; days have 24 hours, and months none.
fn length(value: &Json) -> Option<i64> {
    let text = match value {
        Json::String(text) => text.trim(),
        Json::Number(number) => return (number.as_i64() == Some(0)).then_some(0),
        _ => return None,
    };
    if text == "0" {
        return Some(0);
    }
    let interval = parse_interval_month_day_nano(text).ok()?;
    let micros = i64::from(interval.days).checked_mul(86_400_000_000)?.checked_add(interval.nanoseconds / 1_000)?;
    (interval.months == 0 && micros >= 0 && interval.nanoseconds % 1_000 == 0).then_some(micros)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: Json) -> Result<Emission, &'static str> {
        let Json::Object(config) = config else { return Err("no object") };
        Emission::read(&config.into_iter().collect()).map_err(|(key, _)| key)
    }

    #[test]
    fn a_watermark_is_a_length_of_time_and_append_needs_one() {
        assert_eq!(read(json!({})), Ok(Emission::default()));
        assert_eq!(
            read(json!({ "watermark": "1 day 10 minutes", "emit": "append" })),
            Ok(Emission { lateness: Some(87_000_000_000), append: true })
        );
        assert_eq!(
            read(json!({ "watermark": 0, "emit": "update" })),
            Ok(Emission { lateness: Some(0), append: false })
        );
        for wrong in ["soon", "1 month", "-5 minutes", ""] {
            assert_eq!(read(json!({ "watermark": wrong })), Err("watermark"), "{wrong}");
        }
        assert_eq!(read(json!({ "emit": "append" })), Err("emit"));
        assert_eq!(read(json!({ "emit": "never", "watermark": 0 })), Err("emit"));
    }
}
