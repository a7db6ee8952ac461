//! Exact decimals to and from text. Nothing here rounds and nothing goes through binary fractions.

/// The widest decimal a Delta column holds.
pub(crate) const MAX_PRECISION: u8 = 38;

/// Why a text is not a value of a decimal type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecimalProblem {
    /// Not a number.
    Syntax,
    /// Digits other than 0 after the last one kept.
    Scale,
    /// More digits than the type has.
    Precision,
}

/// Reads `[-+]digits[.digits][e[-+]digits]` as the unscaled integer of `decimal(precision, scale)`.
pub(crate) fn parse(text: &str, precision: u8, scale: i8) -> Result<i128, DecimalProblem> {
    let (negative, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    let (mantissa, exponent) = match rest.iter().position(|byte| byte.eq_ignore_ascii_case(&b'e')) {
        Some(e) => {
            let power = rest.get(e + 1..).and_then(|power| std::str::from_utf8(power).ok());
            (&rest[..e], power.and_then(|power| power.parse::<i32>().ok()).ok_or(DecimalProblem::Syntax)?)
        }
        None => (rest, 0),
    };
    let mut unscaled: i128 = 0;
    let mut digits = 0_usize;
    let mut fraction = None;
    for &byte in mantissa {
        match byte {
            b'0'..=b'9' => {
                digits += 1;
                fraction = fraction.map(|places: i32| places.saturating_add(1));
                unscaled = unscaled
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(i128::from(byte - b'0')))
                    .ok_or(DecimalProblem::Precision)?;
            }
            b'.' if fraction.is_none() => fraction = Some(0),
            _ => return Err(DecimalProblem::Syntax),
        }
    }
    if digits == 0 {
        return Err(DecimalProblem::Syntax);
    }
    // The value is unscaled × 10^(exponent − fraction); wanted is value × 10^scale.
    let mut shift = i32::from(scale).saturating_add(exponent).saturating_sub(fraction.unwrap_or(0));
    while shift < 0 && unscaled != 0 {
        if unscaled % 10 != 0 {
            return Err(DecimalProblem::Scale);
        }
        unscaled /= 10;
        shift += 1;
    }
    while shift > 0 && unscaled != 0 {
        unscaled = unscaled.checked_mul(10).ok_or(DecimalProblem::Precision)?;
        shift -= 1;
    }
    if !fits(unscaled, precision) {
        return Err(DecimalProblem::Precision);
    }
    Ok(if negative { -unscaled } else { unscaled })
}

/// Whether an unscaled integer has at most `precision` digits.
pub(crate) fn fits(unscaled: i128, precision: u8) -> bool {
    10_u128.checked_pow(u32::from(precision)).is_none_or(|limit| unscaled.unsigned_abs() < limit)
}

/// The unscaled integer in two's complement, most significant byte first; `None` beyond 128 bits. No bytes are 0.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    // More bytes than 16 are good if they only repeat the sign.
    let (sign, low) = bytes.split_at(bytes.len().saturating_sub(16));
    if sign.iter().any(|byte| *byte != fill) || (!sign.is_empty() && (low[0] & 0x80 != 0) != negative) {
        return None;
    }
    let mut wide = [fill; 16];
    wide[16 - low.len()..].copy_from_slice(low);
    Some(i128::from_be_bytes(wide))
}

/// Writes an unscaled integer with exactly `scale` places: 899 with scale 2 is `8.99`.
pub(crate) fn format(unscaled: i128, scale: i8) -> String {
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = unscaled.unsigned_abs().to_string();
    let Ok(places) = usize::try_from(scale) else {
        return format!("{sign}{digits}{}", "0".repeat(usize::from(scale.unsigned_abs())));
    };
    if places == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    format!("{sign}{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_exactly_or_refused() {
        for (text, wanted) in [
            ("8.99", Ok(899)),
            ("-8.9900", Ok(-899)),
            ("+8", Ok(800)),
            (".5", Ok(50)),
            ("0.0", Ok(0)),
            ("1e3", Ok(100_000)),
            ("899e-2", Ok(899)),
            ("99999999.99", Ok(9_999_999_999)),
            ("100000000", Err(DecimalProblem::Precision)),
            ("8.991", Err(DecimalProblem::Scale)),
            ("1e99999999", Err(DecimalProblem::Precision)),
            ("0e99999999", Ok(0)),
            ("1e-99999999", Err(DecimalProblem::Scale)),
            ("", Err(DecimalProblem::Syntax)),
            ("-", Err(DecimalProblem::Syntax)),
            ("1,299.00", Err(DecimalProblem::Syntax)),
            ("1.2.3", Err(DecimalProblem::Syntax)),
            ("1e", Err(DecimalProblem::Syntax)),
            ("NaN", Err(DecimalProblem::Syntax)),
        ] {
            assert_eq!(parse(text, 10, 2), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for unscaled in [0, 1, -1, 899, -100, 99, 12_345_678_901_234_567_890, i128::from(i64::MIN)] {
            for scale in [0, 2, 9, 30] {
                assert_eq!(parse(&format(unscaled, scale), 38, scale), Ok(unscaled));
            }
        }
        assert_eq!(format(-5, 2), "-0.05");
    }
}
