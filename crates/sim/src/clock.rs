//! A node's own clock: it starts anywhere and drifts, within the bound the leases are computed with.

use tandem_base::Instant;

use crate::queue::Time;

/// `CLOCK_BOOTTIME` of one node.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    since: Time,
    shown: u64,
    /// Parts per million that it runs fast (or slow, when negative).
    drift: i64,
}

impl Clock {
    pub(crate) fn new(shown: u64, drift: i64) -> Self {
        Self { since: 0, shown, drift }
    }

    /// What the clock shows at true time `now`.
    pub(crate) fn read(&self, now: Time) -> Instant {
        let elapsed = u128::from(now.saturating_sub(self.since));
        let rate = (1_000_000 + self.drift) as u128;
        Instant::from_nanos(self.shown + (elapsed * rate / 1_000_000) as u64)
    }

    /// The first true time at which the clock shows `instant` or later; [`Time::MAX`] for the far future.
    pub(crate) fn when(&self, instant: Instant) -> Time {
        let rate = (1_000_000 + self.drift) as u128;
        let ahead = u128::from(instant.as_nanos().saturating_sub(self.shown));
        let elapsed = (ahead * 1_000_000).div_ceil(rate);
        u64::try_from(u128::from(self.since) + elapsed).unwrap_or(Time::MAX)
    }

    /// The crystal warms up: from `now` on the clock drifts otherwise.
    pub(crate) fn set_drift(&mut self, now: Time, drift: i64) {
        self.shown = self.read(now).as_nanos();
        self.since = now;
        self.drift = drift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_time_that_read_shows_the_instant() {
        for drift in [-10_000, -1, 0, 7, 10_000] {
            let mut clock = Clock::new(123_456_789, drift);
            clock.set_drift(55_555, -drift);
            for ahead in [0, 1, 2, 99, 3_000_000_000] {
                let target = Instant::from_nanos(clock.read(60_000).as_nanos() + ahead);
                let when = clock.when(target);
                assert!(clock.read(when) >= target);
                assert!(when == 0 || clock.read(when - 1) < target, "{drift} {ahead}");
            }
        }
    }
}
