//! The threads that wait for the device.

use rustix::event::{EventfdFlags, eventfd};
use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use tandem_volume::{DiskOp, DiskOpId, DiskOutcome};

use super::operation::{Shared, execute};

/// Four operations wait for the device at once; more only queue in the device.
const THREADS: usize = 4;

struct Queue {
    waiting: Mutex<(VecDeque<DiskOp>, bool)>,
    arrived: Condvar,
    ended: Mutex<VecDeque<(DiskOpId, DiskOutcome)>>,
    wake: OwnedFd,
    bytes: AtomicUsize,
}

/// Threads that carry disk operations out, in any order. Dropping it lets them end after their current operation,
/// without waiting for them: a device that hangs must not hang the end of the server.
pub(super) struct Pool(Arc<Queue>);

impl Pool {
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            ended: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            bytes: AtomicUsize::new(0),
        });
        for number in 0..THREADS {
            let (queue, shared) = (Arc::clone(&queue), Arc::clone(&shared));
            thread::Builder::new().name(format!("disk-{number}")).spawn(move || serve(&queue, &shared))?;
        }
        Ok(Self(queue))
    }

    pub(super) fn push(&self, op: DiskOp) {
        self.0.bytes.fetch_add(bytes(&op), Ordering::Relaxed);
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(op);
        self.0.arrived.notify_one();
    }

    pub(super) fn wake(&self) -> &OwnedFd {
        &self.0.wake
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn take_ended(&self) -> VecDeque<(DiskOpId, DiskOutcome)> {
        let mut count = [0; 8];
        // EAGAIN says that nothing ended since; there is nothing to take then either.
        let _ = rustix::io::read(&self.0.wake, &mut count);
        std::mem::take(&mut *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.arrived.notify_all();
    }
}

fn bytes(op: &DiskOp) -> usize {
    match op {
        DiskOp::Write { data, .. } => data.len(),
        _ => 0,
    }
}

fn serve(queue: &Queue, shared: &Shared) {
    loop {
        let op = {
            let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(op) = waiting.0.pop_front() {
                    break op;
                }
                if waiting.1 {
                    return;
                }
                waiting = queue.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let weight = bytes(&op);
        let ended = execute(shared, op);
        queue.bytes.fetch_sub(weight, Ordering::Relaxed);
        let first = {
            let mut list = queue.ended.lock().unwrap_or_else(PoisonError::into_inner);
            list.push_back(ended);
            list.len() == 1
        };
        if first {
            // Fails only when the counter is full, and then it is readable already.
            let _ = rustix::io::write(&queue.wake, &1u64.to_ne_bytes());
        }
    }
}
