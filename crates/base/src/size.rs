//! Sizes and rates, with the units a plan writes.

use alloc::string::String;
use core::{fmt, str::FromStr};
use serde::{Deserialize, Serialize};

/// Why a text is not a number with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct UnitError {
    /// What would have been right, with an example.
    pub expected: &'static str,
    /// What was given instead.
    pub found: String,
}

/// Reads `"1.5 GiB"`: digits with at most one point, spaces, a unit of `units`; the product must be a whole number
/// that fits 64 bits.
pub(crate) fn number_and_unit(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, UnitError> {
    let wrong = || UnitError { expected, found: text.into() };
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (fraction.is_empty() && number.contains('.')) || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u128 = whole.parse::<u64>().map_err(|_| wrong())?.into();
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let product = (whole * scale + fraction) * u128::from(*factor);
    if !product.is_multiple_of(scale) {
        return Err(wrong());
    }
    u64::try_from(product / scale).map_err(|_| wrong())
}

/// A number in units of `unit`, with three significant digits, for people: `3.56`, `12.5`, `340`, `8`.
pub(crate) fn three_digits(number: u64, unit: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let scaled = |scale: u128| (u128::from(number) * scale + u128::from(unit) / 2) / u128::from(unit);
    let (value, scale, digits) = match scaled(1) {
        _ if scaled(100) < 1_000 => (scaled(100), 100, 2),
        _ if scaled(10) < 1_000 => (scaled(10), 10, 1),
        whole => (whole, 1, 0),
    };
    let (whole, mut fraction, mut digits) = (value / scale, value % scale, digits);
    while digits > 0 && fraction % 10 == 0 {
        (fraction, digits) = (fraction / 10, digits - 1);
    }
    if digits == 0 { write!(f, "{whole}") } else { write!(f, "{whole}.{fraction:0digits$}") }
}

/// A measured value as people read it; what a plan says prints exactly. Made by [`ByteSize::rounded`] and
/// [`Duration::rounded`](crate::Duration::rounded).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounded<T>(pub(crate) T);

/// An amount of data, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ByteSize(u64);

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// For people, with three digits: `3.56 GiB`.
    #[must_use]
    pub const fn rounded(self) -> Rounded<Self> {
        Rounded(self)
    }
}

impl fmt::Display for Rounded<ByteSize> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.0;
        let (unit, factor) = BYTE_UNITS[..4].iter().find(|(_, factor)| bytes >= *factor).unwrap_or(&("B", 1));
        three_digits(bytes, *factor, f)?;
        write!(f, " {unit}")
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    /// Reads a plan's text, as in `"20 GiB"`; `KiB MiB GiB TiB` are powers of 1,024, `kB MB GB TB` of 1,000.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        number_and_unit(text, &BYTE_UNITS, "a size such as \"64 MiB\" or \"20 GiB\"").map(Self)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest binary unit that leaves a whole number: `20 GiB`, `4 KiB`, `513 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BYTE_UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

/// How much a link carries, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BitRate(u64);

const RATE_UNITS: [(&str, u64); 4] =
    [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000), ("bit/s", 1)];

impl BitRate {
    /// `bits` bits per second.
    #[must_use]
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// In bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for BitRate {
    type Err = UnitError;

    /// Reads a plan's text, as in `"17 Mbit/s"`; the prefixes are powers of 1,000.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        number_and_unit(text, &RATE_UNITS, "a rate such as \"17 Mbit/s\" or \"1 Gbit/s\"").map(Self)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            RATE_UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)).unwrap_or(&("bit/s", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn sizes_read_and_print() {
        assert_eq!("20 GiB".parse(), Ok(ByteSize(20 << 30)));
        assert_eq!("1.5GiB".parse(), Ok(ByteSize(3 << 29)));
        assert_eq!("100 GB".parse(), Ok(ByteSize(100_000_000_000)));
        assert_eq!(ByteSize(20 << 30).to_string(), "20 GiB");
        assert_eq!(ByteSize(513).to_string(), "513 B");
        for text in ["20", "GiB", "1.5 B", "0x10 B", "99999999999 TiB", "1..5 GiB", "1. GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_read_and_print() {
        assert_eq!("17 Mbit/s".parse(), Ok(BitRate(17_000_000)));
        assert_eq!(BitRate(17_000_000).to_string(), "17 Mbit/s");
        assert!("17 Mb/s".parse::<BitRate>().is_err());
    }
}
