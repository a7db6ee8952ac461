//! Points in time as texts: RFC 3339, and the same without a zone.
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Timelike};
use chrono_tz::Tz;

/// Microseconds since 1970 of `2025-02-17T14:49:15.179171`, with `Z`, an offset, or no zone (then `zone` counts).
/// Digits after the sixth are cut off. `None` if it is no such text or the moment does not exist in `zone`.
pub(crate) fn parse_utc(text: &str, zone: Tz) -> Option<i64> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.timestamp_micros());
    }
    let local = parse_local(text)?;
    // Where clocks go back the same time comes twice: the earlier one is taken.
    Some(zone.from_local_datetime(&local).earliest()?.timestamp_micros())
}

/// As [`parse_utc`], but also with a blank for the `T` before an offset, and where numbers are not padded:
/// `2000-1-14T8:10:41`. A day that no calendar has is no instant.
pub(crate) fn parse_lenient(text: &str, zone: Tz) -> Option<i64> {
    parse_utc(text, zone).or_else(|| {
        let formats = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
        formats.iter().find_map(|format| DateTime::parse_from_str(text, format).ok()).map(|at| at.timestamp_micros())
    })
}

/// Whether a text begins with a date and a time of day in the places that ISO 8601 gives them.
pub(crate) fn padded(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    text.len() >= SHAPE.len()
        && text.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b't' | b' '),
            other => byte == *other,
        })
}

/// Microseconds since 1970 of a wall-clock time; a text with a zone is refused, as dropping it would change the time.
pub(crate) fn parse_wall(text: &str) -> Option<i64> {
    parse_local(text).map(|local| local.and_utc().timestamp_micros())
}

fn parse_local(text: &str) -> Option<NaiveDateTime> {
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

/// Days since 1970 of `2025-02-17`.
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// Microseconds since midnight of `14:49:15.179171`.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let time = chrono::NaiveTime::parse_from_str(text, "%H:%M:%S%.f").ok()?;
    Some(i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() / 1_000))
}

/// RFC 3339 with as many fraction digits as needed; `utc` adds the `Z`. `None` beyond the calendar's range.
pub(crate) fn format_micros(micros: i64, utc: bool) -> Option<String> {
    let instant = DateTime::from_timestamp_micros(micros)?.naive_utc();
    let fraction = match micros.rem_euclid(1_000_000) {
        0 => "",
        part if part % 1_000 == 0 => "%.3f",
        _ => "%.6f",
    };
    let text = instant.format(&format!("%Y-%m-%dT%H:%M:%S{fraction}")).to_string();
    Some(if utc { text + "Z" } else { text })
}

/// `2025-02-17`; `None` beyond the calendar's range.
pub(crate) fn format_date(days: i32) -> Option<String> {
    let date = NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(i64::from(days)))?;
    Some(date.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_a_zone_is_in_the_zone_that_was_set() {
        let utc = parse_utc("2025-02-17T14:49:15.179171", Tz::UTC).unwrap();
        assert_eq!(utc, 1_739_803_755_179_171);
        assert_eq!(parse_utc("2025-02-17 14:49:15.179171", Tz::UTC), Some(utc));
        assert_eq!(parse_utc("2025-02-17T14:49:15.179171Z", Tz::Asia__Tbilisi), Some(utc));
        assert_eq!(parse_utc("2025-02-17T18:49:15.179171+04:00", Tz::UTC), Some(utc));
        assert_eq!(parse_utc("2025-02-17T18:49:15.179171", Tz::Asia__Tbilisi), Some(utc));
        assert_eq!(format_micros(utc, true).as_deref(), Some("2025-02-17T14:49:15.179171Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "2025-02-17", "2017-02-29T00:00:00", "2025-02-17T25:00:00Z", "now"] {
            assert_eq!(parse_utc(text, Tz::UTC), None, "{text}");
        }
        assert_eq!(parse_wall("2025-02-17T14:49:15Z"), None);
        // 02:30 did not exist that night in Berlin.
        assert_eq!(parse_utc("2025-03-30T02:30:00", Tz::Europe__Berlin), None);
    }

    #[test]
    fn dates_before_1970_count_backwards() {
        assert_eq!(parse_date("1969-12-31"), Some(-1));
        assert_eq!(format_date(-1).as_deref(), Some("1969-12-31"));
        assert_eq!(parse_time("00:00:01.5"), Some(1_500_000));
    }
}
