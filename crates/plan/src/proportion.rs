//! Parts of a whole.

use core::{fmt, str::FromStr};

/// A part of a whole, from 0 % to 100 %, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proportion(u32);

impl Proportion {
    /// Nothing of it.
    pub const ZERO: Self = Self(0);
    /// All of it, in millionths.
    pub const WHOLE: u32 = 1_000_000;

    /// `millionths` millionths, at most [`Proportion::WHOLE`].
    #[must_use]
    pub const fn from_millionths(millionths: u32) -> Self {
        Self(if millionths > Self::WHOLE { Self::WHOLE } else { millionths })
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

impl FromStr for Proportion {
    type Err = &'static str;

    /// Reads `"1 %"` or `"0.05%"`: at most four digits after the point, at most 100.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a percentage from 0 to 100 such as \"1 %\" or \"0.05 %\"";
        let number = text.trim().strip_suffix('%').ok_or(EXPECTED)?.trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 4 {
            return Err(EXPECTED);
        }
        let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 100).ok_or(EXPECTED)?;
        let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| EXPECTED)?;
        let millionths = whole * 10_000 + fraction;
        if millionths > Self::WHOLE { Err(EXPECTED) } else { Ok(Self(millionths)) }
    }
}

impl fmt::Display for Proportion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            write!(f, "{whole} %")
        } else {
            write!(f, "{whole}.{} %", format!("{fraction:04}").trim_end_matches('0'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_read_and_print() {
        for (text, millionths, printed) in [
            ("1 %", 10_000, "1 %"),
            ("0.05%", 500, "0.05 %"),
            ("100 %", 1_000_000, "100 %"),
            ("0.0001 %", 1, "0.0001 %"),
        ] {
            let read: Proportion = text.parse().expect(text);
            assert_eq!(read.millionths(), millionths, "{text}");
            assert_eq!(read.to_string(), printed);
        }
        for text in ["1", "%", "1.%", ".5 %", "100.1 %", "-1 %", "1.00001 %", "9999999999 %", "+1 %"] {
            assert!(text.parse::<Proportion>().is_err(), "{text}");
        }
    }
}
