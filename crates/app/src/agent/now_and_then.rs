//! Telling now and then of what anybody can cause as often as he likes.

use std::time::{Duration, Instant};

/// Lets one line through, then counts those that follow it for a while.
pub(super) struct NowAndThen {
    every: Duration,
    told: Option<Instant>,
    more: u64,
}

impl NowAndThen {
    /// One line in `every` so long.
    pub(super) const fn new(every: Duration) -> Self {
        Self { every, told: None, more: 0 }
    }

    /// Whether a line is due: then how many were kept back since the last one.
    pub(super) fn due(&mut self) -> Option<u64> {
        if self.told.is_some_and(|told| told.elapsed() < self.every) {
            self.more += 1;
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.more))
    }
}
