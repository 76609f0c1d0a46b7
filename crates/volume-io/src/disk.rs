//! The replica's local disk: raw images, the superblock, and what is remembered of the content, in one directory that one
//! server owns.
//!
//! Operations that only touch the page cache run at once on the event loop; whatever waits for the device runs on a
//! small pool of threads. Measured in `docs/design/2026-11-21-data-path-runtime.md`.

mod directory;
mod memory_files;
mod operation;
mod pool;
mod superblock_file;

pub use directory::DiskOpenError;
pub(crate) use directory::{Directory, Opened};
pub(crate) use operation::Shared;
pub(crate) use superblock_file::SuperblockFile;

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tandem_volume::{DiskOp, DiskOpId, DiskOutcome};

use operation::{execute, read_cached};
use pool::Pool;

/// A write that took longer than this on the event loop makes the next ones go to the pool: the device hangs, and
/// leases and peers must not wait for it. More than the 200 ms that the kernel pauses a throttled writer at most, and
/// than a crowded machine lets a process wait for a processor: the pool costs two wake-ups for each write.
const SLOW: Duration = Duration::from_millis(250);
/// How long writes then go to the pool.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// The opened images with their pool.
pub(crate) struct Disk {
    shared: Arc<Shared>,
    pool: Pool,
    /// Operations that the pool has.
    pooled: usize,
    slow_until: Option<Instant>,
}

impl Disk {
    /// Takes the opened images over.
    ///
    /// # Errors
    ///
    /// When no thread or event descriptor can be had.
    pub(crate) fn new(shared: Shared) -> std::io::Result<Self> {
        let shared = Arc::new(shared);
        let pool = Pool::new(Arc::clone(&shared))?;
        Ok(Self { shared, pool, pooled: 0, slow_until: None })
    }

    /// Carries `op` out, now or on the pool; `Some` is the end of an operation that ran now.
    pub(crate) fn issue(&mut self, op: DiskOp) -> Option<(DiskOpId, DiskOutcome)> {
        match op {
            DiskOp::Read { op, volume, offset, length } => {
                if let Some(data) = read_cached(&self.shared, volume, offset, length) {
                    return Some((op, DiskOutcome::Data(data)));
                }
            }
            DiskOp::Write { durable: false, .. } if !self.is_slow() => {
                let started = Instant::now();
                let ended = execute(&self.shared, op);
                if started.elapsed() > SLOW {
                    self.slow_until = Some(Instant::now() + SLOW_FOR);
                }
                return Some(ended);
            }
            _ => {}
        }
        self.pooled += 1;
        self.pool.push(op);
        None
    }

    fn is_slow(&mut self) -> bool {
        let slow = self.slow_until.is_some_and(|until| Instant::now() < until);
        if !slow {
            self.slow_until = None;
        }
        slow
    }

    /// Bytes of writes that wait for the pool.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.pool.queued_bytes()
    }

    /// Readable when [`Disk::take_ended`] has something.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.pool.wake().as_fd()
    }

    /// Waits for an end on the pool, at most `patience`.
    pub(crate) fn wait(&self, patience: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
        // Woken early or not, the caller looks for himself.
        let _ = poll(&mut [PollFd::from_borrowed_fd(self.wake(), PollFlags::IN)], Some(&timeout));
    }

    /// The operations that ended on the pool since the last call.
    pub(crate) fn take_ended(&mut self) -> VecDeque<(DiskOpId, DiskOutcome)> {
        let ended = self.pool.take_ended();
        self.pooled -= ended.len();
        ended
    }

    /// Whether no operation is under way, none of which the end was not taken.
    pub(crate) fn is_idle(&self) -> bool {
        self.pooled == 0
    }

    /// What the images are, for block status.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// From now on every operation fails with `errno`; 0 ends it.
    pub(crate) fn inject(&self, errno: i32) {
        self.shared.fault.store(errno, Ordering::SeqCst);
    }
}
