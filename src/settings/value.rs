//! Typed values of settings: sizes, durations, secrets, addresses that may hold a password.
use std::fmt;
use std::time::Duration;

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever has to present it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "•••" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL that is shown without the password and the query it may hold.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address(url::Url);

impl Address {
    /// Takes a URL.
    pub(crate) fn new(url: url::Url) -> Self {
        Self(url)
    }

    /// The URL as written, password included.
    pub(crate) fn expose(&self) -> &url::Url {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Both fail only for URLs that cannot have a password.
        if shown.password().is_some() && shown.set_password(Some("•••")).is_err() {
            return f.write_str("•••");
        }
        if shown.query().is_some() {
            shown.set_query(Some("•••"));
        }
        f.write_str(&shown.as_str().replace("%E2%80%A2", "•"))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of bytes. Shown in decimal units, as disks are sold and as `memory_limit` is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// Reads `512MB`, `1.5 GiB`, `4096`. Units as written here; `M` alone could be either and is refused.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, unit) = split_unit(text);
        let factor = match unit {
            "" => 1,
            unit => {
                SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor).ok_or_else(
                    || format!("`{unit}` is no unit of bytes: use B, kB, MB, GB, TB or KiB, MiB, GiB, TiB"),
                )?
            }
        };
        scaled(number, factor).map(Self).ok_or_else(|| format!("`{text}` is not a size such as \"512MB\" or \"64KiB\""))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in [("GB", 1_000_000_000_u64), ("MB", 1_000_000), ("kB", 1_000)] {
            if self.0 >= factor {
                let tenths = self.0 / (factor / 10);
                return match tenths % 10 {
                    0 => write!(f, "{} {name}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {name}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

const DURATIONS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads `250ms`, `1.5s`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{}` is not a duration such as \"250ms\", \"2s\", \"5m\", \"1h30m\" or \"7d\"", text.trim());
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = split_unit(rest);
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, tail) = after.split_at(end);
        let factor = DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(wrong)?;
        millis = scaled(number, factor).and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// A decimal number times a factor, exactly; `None` if it is no number, too large, or leaves a fraction.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = digits.checked_mul(u128::from(factor))?;
    (product % scale == 0).then(|| u64::try_from(product / scale).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_units_are_named() {
        assert_eq!(ByteSize::parse("512MB"), Ok(ByteSize(512_000_000)));
        assert_eq!(ByteSize::parse("512MiB"), Ok(ByteSize(536_870_912)));
        assert_eq!(ByteSize::parse(" 1.5 gib "), Ok(ByteSize(1_610_612_736)));
        assert_eq!(ByteSize::parse("4096"), Ok(ByteSize(4096)));
        for wrong in ["", "MB", "512M", "1.3B", "-1", "99999999999TB", "1..5MB"] {
            assert!(ByteSize::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ByteSize(512_000_000).to_string(), "512 MB");
        assert_eq!(ByteSize(1_500).to_string(), "1.5 kB");
        assert_eq!(ByteSize(999).to_string(), "999 B");
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("1.5 s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "s", "5", "5 weeks", "1h-3m"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn neither_secrets_nor_passwords_in_urls_are_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "••• ••• Some(•••)");

        let address = Address::new("postgres://ann:hunter2@db:5432/x?sslpassword=hunter2".parse().unwrap());
        let shown = format!("{address} {address:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("ann:•••@db:5432/x"), "{shown}");
    }
}
