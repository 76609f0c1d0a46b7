//! The clock that leases are measured on.

use rustix::time::{ClockId, clock_gettime};
use tandem_base::Instant;

/// `CLOCK_BOOTTIME` now: it goes on while the machine sleeps, and no administrator can set it (clock_gettime(2)).
pub(crate) fn boottime() -> Instant {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("the boot-time clock starts at 0");
    let nanos = u64::try_from(now.tv_nsec).expect("a timespec's nanoseconds are below 10^9");
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}
