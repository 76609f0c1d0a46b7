//! What must hold in every history, one file each, with its reason.

pub(crate) mod i1;
pub(crate) mod i2;
pub(crate) mod i3;
pub(crate) mod i4;
pub(crate) mod i6;
pub(crate) mod i7;
pub(crate) mod linear;

use std::fmt;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which: `I1` to `I8`, or `world` for a rule between engine and runtime.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

impl std::error::Error for Violation {}
