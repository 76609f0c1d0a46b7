//! The machine's watchdog (Documentation/watchdog/watchdog-api.rst): it reboots the machine unless it is fed.
//!
//! Feed it while the node is entitled, or confirmed fenced; a long cut then reboots nothing. Not used by default.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};
use tandem_base::Duration;

/// Why there is no watchdog.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchdogError {
    /// The device cannot be opened; only one process can have it.
    #[error("cannot open the watchdog {path}")]
    Open {
        /// The device.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// It does not know timeouts, or not this one. It was disarmed again.
    #[error("the watchdog {path} refuses a timeout of {seconds} s")]
    Timeout {
        /// The device.
        path: PathBuf,
        /// The timeout asked for.
        seconds: i32,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// It took another timeout than asked for, and a longer one would come after the takeover. It was disarmed again.
    #[error("the watchdog {path} takes {actual_s} s where {wanted_s} s were asked for")]
    TooLong {
        /// The device.
        path: PathBuf,
        /// The timeout asked for.
        wanted_s: i32,
        /// The timeout it took.
        actual_s: i32,
    },
    /// It could not be fed.
    #[error("cannot feed the watchdog {path}")]
    Feed {
        /// The device.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
}

/// An armed watchdog. Dropping it without [`disarm`](Self::disarm) leaves it armed: the machine reboots.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    path: PathBuf,
    timeout: Duration,
}

impl Watchdog {
    /// Arms the watchdog at `path`, usually `/dev/watchdog`. `timeout` counts in whole seconds, rounded down.
    ///
    /// # Errors
    ///
    /// [`WatchdogError`].
    pub fn arm(path: &Path, timeout: Duration) -> Result<Self, WatchdogError> {
        let path = path.to_owned();
        let opened = OpenOptions::new().write(true).open(&path);
        let device = opened.map_err(|cause| WatchdogError::Open { path: path.clone(), cause })?;
        let wanted = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let mut watchdog = Self { device, path, timeout };
        let actual = match watchdog.set_timeout(wanted) {
            Ok(actual) => actual,
            Err(cause) => {
                let error = WatchdogError::Timeout { path: watchdog.path.clone(), seconds: wanted, cause };
                watchdog.disarm()?;
                return Err(error);
            }
        };
        if actual > wanted {
            let error = WatchdogError::TooLong { path: watchdog.path.clone(), wanted_s: wanted, actual_s: actual };
            watchdog.disarm()?;
            return Err(error);
        }
        watchdog.timeout = Duration::from_secs(u64::try_from(actual).unwrap_or(0));
        Ok(watchdog)
    }

    /// How long after the last feed the machine reboots.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Puts the reboot off by the timeout.
    ///
    /// # Errors
    ///
    /// [`WatchdogError::Feed`].
    pub fn feed(&mut self) -> Result<(), WatchdogError> {
        self.write(b"\0")
    }

    /// Ends the watch by the magic close, unless the kernel was built never to (`nowayout`).
    ///
    /// # Errors
    ///
    /// [`WatchdogError::Feed`].
    pub fn disarm(mut self) -> Result<(), WatchdogError> {
        self.write(b"V")
    }

    fn write(&mut self, byte: &[u8]) -> Result<(), WatchdogError> {
        self.device.write_all(byte).map_err(|cause| WatchdogError::Feed { path: self.path.clone(), cause })
    }

    fn set_timeout(&self, seconds: i32) -> io::Result<i32> {
        /// `_IOWR('W', 6, int)` of linux/watchdog.h.
        const WDIOC_SETTIMEOUT: u32 = 0xc004_5706;
        let mut seconds = seconds;
        // SAFETY: the request reads and writes one int, which lives across the call.
        let done = unsafe { libc::ioctl(self.device.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut seconds) };
        if done == 0 { Ok(seconds) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused_and_disarmed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("watchdog");
        let five = Duration::from_secs(5);
        assert!(matches!(Watchdog::arm(&path, five), Err(WatchdogError::Open { .. })));
        std::fs::write(&path, "").expect("it is writable");
        assert!(matches!(Watchdog::arm(&path, five), Err(WatchdogError::Timeout { seconds: 5, .. })));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"V", "the magic close");
    }
}
