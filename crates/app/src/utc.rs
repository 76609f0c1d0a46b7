//! Instants as people read them.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

/// Milliseconds since 1970 UTC; prints as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The year 9999 is the last that RFC 3339 can write.
        let at = UNIX_EPOCH + Duration::from_millis(self.0.min(253_402_300_799_999));
        humantime::format_rfc3339_millis(at).fmt(f)
    }
}
