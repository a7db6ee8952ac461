//! Prices as the catalogue writes them: `899USD$8.99`.
//!
//! Three fields without a separator: the amount in minor units, the currency, and the amount as a person would write
//! it. The integer is the price; the written part tells how many of its digits are a fraction. Where the written part
//! is missing, cannot be read, or fits no number of fraction digits, the currency decides (ISO 4217; two if unknown).
use std::fmt;

/// The largest amount that fits `DECIMAL(10,2)`, in hundredths.
const MAX_HUNDREDTHS: i64 = 9_999_999_999;

/// Three capital letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The three letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// How many digits of an amount are a fraction, after ISO 4217.
    pub fn fraction_digits(self) -> u8 {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            _ => 2,
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the written part says beside the integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The same amount.
    Agrees,
    /// Another amount; the integer counts.
    Differs,
    /// Nothing that reads as one amount.
    Unreadable,
}

/// An exact price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// The amount in minor units.
    pub minor: i64,
    /// How many digits of it are a fraction.
    pub scale: u8,
    /// The currency.
    pub currency: Currency,
    /// Whether the written part agrees.
    pub written: Written,
}

impl Price {
    /// The amount in hundredths, as `DECIMAL(10,2)` holds it.
    ///
    /// # Errors
    /// [`PriceProblem::TooLarge`] beyond 99,999,999.99, [`PriceProblem::TooFine`] if a third fraction digit is
    /// not zero.
    pub fn hundredths(&self) -> Result<i64, PriceProblem> {
        let hundredths = match self.scale {
            scale @ 0..=2 => self.minor.checked_mul(10_i64.pow(2 - u32::from(scale))),
            scale => {
                let step = 10_i64.checked_pow(u32::from(scale) - 2).ok_or(PriceProblem::TooFine)?;
                if self.minor % step != 0 {
                    return Err(PriceProblem::TooFine);
                }
                Some(self.minor / step)
            }
        };
        hundredths.filter(|hundredths| *hundredths <= MAX_HUNDREDTHS).ok_or(PriceProblem::TooLarge)
    }
}

/// Why a text is not a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceProblem {
    /// Nothing but blanks.
    #[error("the price is empty")]
    Empty,
    /// It does not begin with an integer.
    #[error("the price does not begin with an amount in minor units")]
    NoAmount,
    /// It begins with a minus sign.
    #[error("the price is negative")]
    Negative,
    /// No three letters after the integer.
    #[error("no three-letter currency follows the amount")]
    NoCurrency,
    /// More than `DECIMAL(10,2)` holds.
    #[error("the price is larger than 99,999,999.99")]
    TooLarge,
    /// Smaller units than hundredths.
    #[error("the price has more than two fraction digits")]
    TooFine,
}

/// Reads a price.
///
/// # Errors
/// [`PriceProblem`] says why it is none.
pub fn parse_price(text: &str) -> Result<Price, PriceProblem> {
    let text = text.trim();
    if text.is_empty() {
        return Err(PriceProblem::Empty);
    }
    if text.starts_with(['-', '\u{2212}']) {
        return Err(PriceProblem::Negative);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, rest) = text.split_at_checked(digits).ok_or(PriceProblem::NoAmount)?;
    if amount.is_empty() {
        return Err(PriceProblem::NoAmount);
    }
    let currency = match rest.trim_start().as_bytes() {
        [a, b, c, ..] if [a, b, c].iter().all(|letter| letter.is_ascii_alphabetic()) => {
            Currency([*a, *b, *c].map(|letter| letter.to_ascii_uppercase()))
        }
        _ => return Err(PriceProblem::NoCurrency),
    };
    let minor: i64 = amount.parse().map_err(|_| PriceProblem::TooLarge)?;
    let written = rest.trim_start().get(3..).unwrap_or_default();
    let usual = currency.fraction_digits();
    let (scale, written) = match read_written(written, usual) {
        None => (usual, Written::Unreadable),
        Some((value, shown)) => [shown, usual]
            .into_iter()
            .find(|scale| same(minor, *scale, value, shown))
            .map_or((usual, Written::Differs), |scale| (scale, Written::Agrees)),
    };
    Ok(Price { minor, scale, currency, written })
}

/// Tells whether `minor / 10^scale == value / 10^shown`.
fn same(minor: i64, scale: u8, value: i64, shown: u8) -> bool {
    let power = |digits: u8| 10_i128.pow(u32::from(digits));
    i128::from(minor) * power(shown) == i128::from(value) * power(scale)
}

/// Reads `$1,299.00`, `EUR 1.299,00`, `¥1,299` as digits and how many of them are a fraction; `None` if it is not
/// one number.
///
/// The last `.` or `,` is the decimal sign, unless exactly three digits follow it: then it separates thousands, except
/// in a currency of three fraction digits.
fn read_written(text: &str, usual: u8) -> Option<(i64, u8)> {
    let first = text.find(|c: char| c.is_ascii_digit())?;
    let last = text.rfind(|c: char| c.is_ascii_digit())?;
    let number = text.get(first..=last)?;
    if text.get(..first)?.contains(['-', '\u{2212}']) {
        return None;
    }
    let mut value: i64 = 0;
    // The digits since the last separator, and that separator.
    let mut since: u8 = 0;
    let mut separator = None;
    let mut separators: u8 = 0;
    let mut repeats = false;
    for c in number.chars() {
        if let Some(digit) = c.to_digit(10) {
            value = value.checked_mul(10)?.checked_add(i64::from(digit))?;
            since = since.checked_add(1)?;
        } else if matches!(c, '.' | ',' | '\'' | '\u{2019}' | ' ' | '\u{a0}' | '\u{202f}') {
            // All groups but the first have three digits.
            if separators > 0 && since != 3 {
                return None;
            }
            repeats = separator == Some(c);
            separator = Some(c);
            separators = separators.checked_add(1)?;
            since = 0;
        } else {
            return None;
        }
    }
    match separator {
        Some('.' | ',') if since != 3 || (usual == 3 && !repeats) => {
            if repeats || since > 4 {
                return None;
            }
            Some((value, since))
        }
        Some(_) if since != 3 => None,
        _ => Some((value, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_to_the_cent() {
        let cases: &[(&str, i64, &str, Written)] = &[
            ("899USD$8.99", 899, "USD", Written::Agrees),
            ("25USD$0.25", 25, "USD", Written::Agrees),
            ("2USD$0.02", 2, "USD", Written::Agrees),
            ("0USD$0.00", 0, "USD", Written::Agrees),
            ("129900USD$1,299.00", 129_900, "USD", Written::Agrees),
            ("123456789USD$1,234,567.89", 123_456_789, "USD", Written::Agrees),
            ("9999999999USD$99,999,999.99", 9_999_999_999, "USD", Written::Agrees),
            ("00899USD$8.99", 899, "USD", Written::Agrees),
            ("  899USD$8.99 ", 899, "USD", Written::Agrees),
            ("899 USD $8.99", 899, "USD", Written::Agrees),
            ("899usd$8.99", 899, "USD", Written::Agrees),
            ("899GBP\u{a3}8.99", 899, "GBP", Written::Agrees),
            ("899EUREUR 8,99", 899, "EUR", Written::Agrees),
            ("129900EUREUR 1.299,00", 129_900, "EUR", Written::Agrees),
            ("129900EUR1\u{202f}299,00 \u{20ac}", 129_900, "EUR", Written::Agrees),
            ("129900CHFCHF 1'299.00", 129_900, "CHF", Written::Agrees),
            ("899CADCDN$ 8.99", 899, "CAD", Written::Agrees),
            // No minor units: the integer is the amount.
            ("1299JPY\u{a5}1,299", 129_900, "JPY", Written::Agrees),
            ("1299JPY\u{ffe5} 1,299", 129_900, "JPY", Written::Agrees),
            ("980JPY\u{a5}980", 98_000, "JPY", Written::Agrees),
            ("1299JPY", 129_900, "JPY", Written::Unreadable),
            // Three fraction digits, the last one zero.
            ("1290KWDKWD 1.290", 129, "KWD", Written::Agrees),
            // Nothing behind the point is shown, but there are cents.
            ("900USD$9", 900, "USD", Written::Agrees),
            ("129900USD$1,299", 129_900, "USD", Written::Agrees),
            // The integer wins.
            ("899USD$9", 899, "USD", Written::Differs),
            ("899USD$9.99", 899, "USD", Written::Differs),
            ("1300JPY\u{a5}1,299", 130_000, "JPY", Written::Differs),
            ("899USD", 899, "USD", Written::Unreadable),
            ("899USDToo low to display", 899, "USD", Written::Unreadable),
            ("899USD$8.99 - $12.99", 899, "USD", Written::Unreadable),
            ("899USD-$8.99", 899, "USD", Written::Unreadable),
            ("899USD$1,2,3.99", 899, "USD", Written::Unreadable),
        ];
        for (text, hundredths, currency, written) in cases {
            let price = parse_price(text).unwrap();
            assert_eq!(price.hundredths(), Ok(*hundredths), "{text}");
            assert_eq!((price.currency.as_str(), price.written), (*currency, *written), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_says_why() {
        let cases: &[(&str, PriceProblem)] = &[
            ("", PriceProblem::Empty),
            (" \t", PriceProblem::Empty),
            ("$8.99", PriceProblem::NoAmount),
            ("USD$8.99", PriceProblem::NoAmount),
            ("Too low to display", PriceProblem::NoAmount),
            ("\u{664}USD$8.99", PriceProblem::NoAmount),
            ("-899USD-$8.99", PriceProblem::Negative),
            ("\u{2212}899USD$8.99", PriceProblem::Negative),
            ("899", PriceProblem::NoCurrency),
            ("899US$8.99", PriceProblem::NoCurrency),
            ("8.99USD", PriceProblem::NoCurrency),
            ("1,299USD$12.99", PriceProblem::NoCurrency),
            ("899\u{20ac}8.99", PriceProblem::NoCurrency),
            ("899\u{dc}SD8.99", PriceProblem::NoCurrency),
            ("99999999999999999999USD$1", PriceProblem::TooLarge),
            ("10000000000USD$100,000,000.00", PriceProblem::TooLarge),
            ("9223372036854775807JPY", PriceProblem::TooLarge),
            ("1299KWDKWD 1.299", PriceProblem::TooFine),
        ];
        for (text, problem) in cases {
            let found = parse_price(text).and_then(|price| price.hundredths());
            assert_eq!(found, Err(*problem), "{text}");
        }
    }
}
