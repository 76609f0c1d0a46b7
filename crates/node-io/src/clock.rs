//! The clock of leases: `CLOCK_BOOTTIME`, which goes on while the machine is suspended (clock_gettime(2)).

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::{io, os::fd::OwnedFd};
use tandem_base::{Duration, Instant};
use tokio::io::{Interest, unix::AsyncFd};

/// The present, on this machine's boot-time clock.
#[must_use]
pub fn now() -> Instant {
    instant(clock_gettime(ClockId::Boottime))
}

/// How long the machine was suspended since it booted: what `CLOCK_MONOTONIC`, and with it tokio's timers, missed.
#[must_use]
pub fn suspended() -> Duration {
    // Monotonic first: the time between the two readings then counts as suspended, never as negative.
    let monotonic = instant(clock_gettime(ClockId::Monotonic));
    now().since(monotonic)
}

/// Sleeps until `deadline`, also across a suspend; returns at once if it has passed. For a deadline that moves use
/// [`BootTimer`]. Cancel safe.
///
/// # Errors
///
/// Out of file descriptors.
pub async fn sleep_until(deadline: Instant) -> io::Result<()> {
    let mut timer = BootTimer::new()?;
    timer.set(Some(deadline))?;
    timer.expired().await
}

/// A timer on `CLOCK_BOOTTIME` that can be set again (timerfd_create(2)).
#[derive(Debug)]
pub struct BootTimer {
    timer: AsyncFd<OwnedFd>,
}

impl BootTimer {
    /// A timer that never fires until it is set. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// Out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: watch(timer)? })
    }

    /// Sets or moves the deadline; `None` stops the timer. What had expired before is forgotten.
    ///
    /// # Errors
    ///
    /// Never in practice: the kernel refuses only malformed times.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        set_timer(self.timer.get_ref(), deadline)
    }

    /// Waits for the deadline. Cancel safe.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub async fn expired(&mut self) -> io::Result<()> {
        let mut count = [0; 8];
        self.timer.async_io(Interest::READABLE, |timer| Ok(rustix::io::read(timer, &mut count)?)).await.map(drop)
    }
}

/// Hands a descriptor to the runtime's reactor.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its descriptor open until it is dropped, and always returns that one.
    unsafe { AsyncFd::register(descriptor) }.map_err(Into::into)
}

/// Arms a timerfd at an absolute time, or stops it.
pub(crate) fn set_timer(timer: &OwnedFd, deadline: Option<Instant>) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = deadline.map_or(zero, |deadline| {
        // A time of zero would stop the timer instead of firing at once.
        let nanos = deadline.as_nanos().max(1);
        // Below 2^64 / 10^9 and below 10^9: both fit.
        Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as _ }
    });
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value: value })?;
    Ok(())
}

fn instant(time: Timespec) -> Instant {
    // Neither is negative: both clocks start at 0 when the machine does.
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_at_its_deadline_and_a_past_one_at_once() {
        let deadline = now() + Duration::from_millis(20);
        sleep_until(deadline).await.expect("a timer is to be had");
        assert!(now() >= deadline);
        sleep_until(Instant::ZERO).await.expect("a timer is to be had");
    }

    #[tokio::test]
    async fn a_moved_deadline_forgets_the_old_one() {
        let mut timer = BootTimer::new().expect("a timer is to be had");
        timer.set(Some(Instant::ZERO)).expect("the time is well formed");
        let later = now() + Duration::from_millis(30);
        timer.set(Some(later)).expect("the time is well formed");
        timer.expired().await.expect("the runtime lives");
        assert!(now() >= later);
    }
}
