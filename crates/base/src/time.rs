//! Time as plain numbers.

use core::{
    fmt,
    ops::{Add, AddAssign, Mul, Sub},
    str::FromStr,
};
use serde::{Deserialize, Serialize};

use crate::size::{Rounded, UnitError, number_and_unit, three_digits};

/// A length of time, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Duration(u64);

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// About 584 years.
    pub const MAX: Self = Self(u64::MAX);

    /// `nanos` nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// `micros` microseconds; saturates.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// `millis` milliseconds; saturates.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// `secs` seconds; saturates.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// In nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// In whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// In whole seconds, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// For people, with three digits: `3.56 s`.
    #[must_use]
    pub const fn rounded(self) -> Rounded<Self> {
        Rounded(self)
    }

    /// `self - other`, or zero where `other` is longer.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This length stretched by `millionths` parts per million, rounded up: `stretch(10_000)` is 1 % longer.
    #[must_use]
    pub const fn stretch(self, millionths: u64) -> Self {
        let extra = (self.0 as u128 * millionths as u128).div_ceil(1_000_000);
        Self(self.0.saturating_add(if extra > u64::MAX as u128 { u64::MAX } else { extra as u64 }))
    }
}

impl Add for Duration {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Mul<u64> for Duration {
    type Output = Self;
    fn mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

impl From<Duration> for core::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_nanos(duration.0)
    }
}

impl From<core::time::Duration> for Duration {
    /// Saturates at [`Duration::MAX`].
    fn from(duration: core::time::Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Units of [`Duration`] in a plan, with their nanoseconds, longest first.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl FromStr for Duration {
    type Err = UnitError;

    /// Reads a plan's text: a number, a space or none, and a unit of `ns us ms s min h d`, as in `"500 ms"`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        number_and_unit(text, &UNITS, "a duration such as \"500 ms\", \"3 s\" or \"20 min\"").map(Self)
    }
}

impl fmt::Display for Duration {
    /// In the largest unit that leaves a whole number: `500 ms`, `3 s`, `20 min`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0 s");
        }
        for (unit, nanos) in UNITS {
            if self.0.is_multiple_of(nanos) {
                return write!(f, "{} {unit}", self.0 / nanos);
            }
        }
        unreachable!("every length is a whole number of nanoseconds")
    }
}

impl fmt::Display for Rounded<Duration> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.0;
        if nanos == 0 {
            return f.write_str("0 s");
        }
        let (unit, length) = UNITS.into_iter().find(|(_, length)| nanos >= *length).unwrap_or(("ns", 1));
        three_digits(nanos, length, f)?;
        write!(f, " {unit}")
    }
}

/// A point on the caller's own clock, in nanoseconds.
///
/// On a machine this is `CLOCK_BOOTTIME`, which goes on while the machine is suspended (clock_gettime(2)); in the
/// simulator it is whatever that node's clock shows. Two nodes' instants cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Instant(u64);

impl Instant {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The point `nanos` nanoseconds after the clock's zero.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds after the clock's zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// From `earlier` to here; zero where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.0))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_duration_reads_and_prints_its_units() {
        for (text, nanos) in
            [("500 ms", 500_000_000), ("3s", 3_000_000_000), ("1.5 s", 1_500_000_000), ("20 min", 1_200_000_000_000)]
        {
            assert_eq!(text.parse::<Duration>(), Ok(Duration(nanos)), "{text}");
        }
        assert_eq!(Duration::from_millis(1_500).to_string(), "1500 ms");
        assert_eq!(Duration::from_secs(120).to_string(), "2 min");
        for text in ["", "3", "s", "3 parsecs", "-3 s", "1e99 d", "3 s s"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_measured_is_read_at_a_glance() {
        for (nanos, text) in [
            (3_560_606_061, "3.56 s"),
            (3_025_000_000, "3.03 s"),
            (12_349_999_999, "12.3 s"),
            (9_996_000_000, "10 s"),
            (417_831_892, "418 ms"),
            (1_500, "1.5 us"),
            (0, "0 s"),
            (5_400_000_000_000, "1.5 h"),
            (3_000_000_000, "3 s"),
            (u64::MAX, "213504 d"),
        ] {
            assert_eq!(Duration(nanos).rounded().to_string(), text);
        }
        for (bytes, text) in
            [(8_388_608, "8 MiB"), (65_537, "64 KiB"), (1_234_567_890, "1.15 GiB"), (0, "0 B"), (513, "513 B")]
        {
            assert_eq!(crate::ByteSize::new(bytes).rounded().to_string(), text);
        }
    }

    #[test]
    fn stretching_rounds_up_and_saturates() {
        assert_eq!(Duration::from_secs(3).stretch(10_000), Duration::from_millis(3_030));
        assert_eq!(Duration::from_nanos(1).stretch(1), Duration::from_nanos(2));
        assert_eq!(Duration::MAX.stretch(1_000_000), Duration::MAX);
    }
}
