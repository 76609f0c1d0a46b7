//! The clock that leases are measured with.

use rustix::time::{ClockId, clock_gettime};
use tandem_base::Instant;

/// `CLOCK_BOOTTIME`, which goes on while the machine is suspended (clock_gettime(2)).
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    Instant::from_nanos(u64::try_from(nanos).expect("boot time is not negative and lasts 584 years"))
}

/// UTC in milliseconds since 1970, for display only.
#[must_use]
pub fn utc_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Sleeps until `deadline` on [`now`]'s clock; returns at once when it has passed.
///
/// A tokio timer stops while the machine is suspended, so the clock is read again after it fired, and at least once in
/// each second.
pub async fn sleep_until(deadline: Instant) {
    loop {
        let left = deadline.since(now());
        if left.as_nanos() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from(left).min(std::time::Duration::from_secs(1))).await;
    }
}
