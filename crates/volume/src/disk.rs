//! Operations on the local disk: what each is for, and the order of those that overlap.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use tandem_base::Epoch;

use crate::{
    ConnectionId, DiskOp, DiskOpId, Output, RequestId,
    intervals::{Mode, RangeLocks},
    message::{Content, Span},
};

/// What an operation is for.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// A store of the superblock.
    Superblock,
    /// The primary's own copy of a write.
    Local { promotion: Epoch, sequence: u64 },
    /// A write that a primary sent.
    Follow { promotion: Epoch, sequence: u64 },
    /// A read of the initiator.
    Read { promotion: Epoch, request: RequestId },
    /// The primary's side of a chunk of a resync.
    Chunk { peer: usize, chunk: u64 },
    /// The joiner's side of it.
    Hash { connection: ConnectionId, peer: usize, promotion: Epoch, chunk: u64 },
    /// Content of the new primary that its members are to take over.
    Piece { promotion: Epoch, span: Span },
    /// The local part of a flush.
    Flush { promotion: Epoch, flush: u64 },
    /// The local flush before a member is shut out.
    Shrink { promotion: Epoch },
    /// A flush that a primary asked for. `rewritten`: it covers all that the primary has sent to this suspect joiner.
    /// `stored`: as in [`Job::Ahead`]; 0 if something was still being stored.
    FollowFlush { connection: ConnectionId, peer: usize, promotion: Epoch, flush: u64, rewritten: bool, stored: u64 },
    /// A sync ahead of the flush that is expected; everything received up to write `stored` was stored when it began.
    Ahead { promotion: Epoch, stored: u64 },
}

/// The local disk, as the engine sees it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    next: u64,
    jobs: BTreeMap<u64, Job>,
    /// Operations that wait for their range.
    waiting: BTreeMap<u64, DiskOp>,
    locks: RangeLocks,
}

impl Disk {
    fn name(&mut self, job: Job) -> DiskOpId {
        self.next += 1;
        self.jobs.insert(self.next, job);
        DiskOpId(self.next)
    }

    /// Begins an operation without a range.
    pub(crate) fn start(&mut self, job: Job, outputs: &mut VecDeque<Output>, make: impl FnOnce(DiskOpId) -> DiskOp) {
        let op = self.name(job);
        outputs.push_back(Output::Disk(make(op)));
    }

    /// Reads `span` once every earlier overlapping write is done with.
    pub(crate) fn read(&mut self, job: Job, span: Span, outputs: &mut VecDeque<Output>) {
        let op = self.name(job);
        let read = DiskOp::Read { op, volume: span.volume, offset: span.offset, length: span.length as u32 };
        if self.locks.acquire(op.0, span, Mode::Shared) {
            outputs.push_back(Output::Disk(read));
        } else {
            self.waiting.insert(op.0, read);
        }
    }

    /// Writes once every earlier overlapping operation is done with. `unordered` is a deliberate mistake.
    pub(crate) fn write(
        &mut self,
        job: Job,
        span: Span,
        content: &Content,
        durable: bool,
        unordered: bool,
        outputs: &mut VecDeque<Output>,
    ) -> DiskOpId {
        let op = self.name(job);
        let write = match content {
            Content::Data(data) => {
                DiskOp::Write { op, volume: span.volume, offset: span.offset, data: data.clone(), durable }
            }
            Content::Zero { length, keep_allocated } => DiskOp::Zero {
                op,
                volume: span.volume,
                offset: span.offset,
                length: *length,
                durable,
                keep_allocated: *keep_allocated,
            },
        };
        if unordered || self.locks.acquire(op.0, span, Mode::Exclusive) {
            outputs.push_back(Output::Disk(write));
        } else {
            self.waiting.insert(op.0, write);
        }
        op
    }

    /// An operation ended; its range stays locked until [`unlock`](Self::unlock).
    pub(crate) fn completed(&mut self, op: DiskOpId) -> Option<Job> {
        // What still waits was never issued: a runtime that completes it is mistaken.
        if self.waiting.contains_key(&op.0) { None } else { self.jobs.remove(&op.0) }
    }

    /// Gives the range of an operation free.
    pub(crate) fn unlock(&mut self, op: DiskOpId, outputs: &mut VecDeque<Output>) {
        let mut granted = Vec::new();
        self.locks.release(op.0, &mut granted);
        for ticket in granted {
            if let Some(op) = self.waiting.remove(&ticket) {
                outputs.push_back(Output::Disk(op));
            }
        }
    }

    /// Drops the operations that `which` picks and that were not issued yet.
    pub(crate) fn cancel_waiting(&mut self, outputs: &mut VecDeque<Output>, which: impl Fn(&Job) -> bool) {
        let picked: Vec<u64> =
            self.waiting.keys().copied().filter(|op| self.jobs.get(op).is_some_and(&which)).collect();
        for op in &picked {
            self.waiting.remove(op);
            self.jobs.remove(op);
        }
        for op in picked {
            self.unlock(DiskOpId(op), outputs);
        }
    }

    /// What the unfinished operations are for.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// Whether an operation is finished, as far as the disk goes.
    pub(crate) fn is_finished(&self, op: DiskOpId) -> bool {
        !self.jobs.contains_key(&op.0)
    }
}
