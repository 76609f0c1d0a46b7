//! Operations on the local disk: what each is for, the order of those that overlap, and that no write reaches an extent
//! before it is known to be hot.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use tandem_base::Epoch;

use crate::{
    ConnectionId, DiskOp, DiskOpId, Output, RequestId,
    intervals::{Mode, RangeLocks},
    message::{Content, Span},
    meta::{Extent, Grain, hot::Hot},
};

/// What an operation is for.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// A store of the superblock.
    Superblock,
    /// A store of the record of what is hot.
    Activity,
    /// The stamps of extents that are about to be taken out of the hot ones.
    RetiredStamps,
    /// The stamps of everything that a resync has touched, or a crash has made unknown.
    AllStamps,
    /// A sync that makes extents ready to be taken out.
    Retire,
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
    /// A flush that a primary asked for. `stored`: as in [`Job::Ahead`]; 0 if something was still being stored.
    FollowFlush { connection: ConnectionId, peer: usize, promotion: Epoch, flush: u64, stored: u64 },
    /// A sync ahead of the flush that is expected; everything received up to write `stored` was stored when it began.
    Ahead { promotion: Epoch, stored: u64 },
}

/// The local disk, as the engine sees it.
#[derive(Debug)]
pub(crate) struct Disk {
    next: u64,
    jobs: BTreeMap<u64, Job>,
    /// Operations that wait for their range.
    waiting: BTreeMap<u64, DiskOp>,
    locks: RangeLocks,
    grain: Grain,
    pub(crate) hot: Hot,
    /// Writes that wait for their extents to be listed, and those that wait to be admitted to that.
    admitted: VecDeque<DiskOp>,
    queued: VecDeque<DiskOp>,
    /// Writes that the disk has.
    writing: BTreeMap<u64, Span>,
    /// What is left of zeroes over more extents than may be hot for one operation.
    rest: BTreeMap<u64, DiskOp>,
    /// Of how many extents such a part is.
    part: u64,
    /// Syncs under way, and what each covers.
    syncs: BTreeMap<u64, u64>,
    /// Nothing becomes hot any more: the record cannot be stored.
    closed: bool,
    /// Writes go to extents that are not hot, too: a deliberate mistake.
    unlisted: bool,
}

/// Whether an operation changes the image.
fn writes(op: &DiskOp) -> Option<(DiskOpId, Span)> {
    match op {
        DiskOp::Write { op, volume, offset, data, .. } => {
            Some((*op, Span { volume: *volume, offset: *offset, length: data.len() as u64 }))
        }
        DiskOp::Zero { op, volume, offset, length, .. } => {
            Some((*op, Span { volume: *volume, offset: *offset, length: *length }))
        }
        _ => None,
    }
}

impl Disk {
    /// A disk with room for `room` hot extents.
    pub(crate) fn new(grain: Grain, room: usize, unlisted: bool) -> Self {
        Self {
            next: 0,
            jobs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            locks: RangeLocks::default(),
            grain,
            hot: Hot::new(room),
            admitted: VecDeque::new(),
            queued: VecDeque::new(),
            writing: BTreeMap::new(),
            rest: BTreeMap::new(),
            part: (room as u64 / 4).clamp(1, 64),
            syncs: BTreeMap::new(),
            closed: false,
            unlisted,
        }
    }

    fn name(&mut self, job: Job) -> DiskOpId {
        self.next += 1;
        self.jobs.insert(self.next, job);
        DiskOpId(self.next)
    }

    /// Begins an operation without a range.
    pub(crate) fn start(&mut self, job: Job, outputs: &mut VecDeque<Output>, make: impl FnOnce(DiskOpId) -> DiskOp) {
        let op = self.name(job);
        let made = make(op);
        if matches!(made, DiskOp::Sync { .. }) {
            self.syncs.insert(op.0, self.hot.sync_begins());
        }
        outputs.push_back(Output::Disk(made));
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
            self.issue(write, outputs);
        } else {
            self.waiting.insert(op.0, write);
        }
        op
    }

    /// Sends an operation that has its range on its way: at once, or when its extents are hot.
    fn issue(&mut self, mut op: DiskOp, outputs: &mut VecDeque<Output>) {
        let Some((name, mut span)) = writes(&op) else {
            outputs.push_back(Output::Disk(op));
            return;
        };
        let limit = self.part * self.grain.extent();
        if span.length > limit
            && let DiskOp::Zero { length, .. } = &mut op
        {
            // Up to the border of an extent.
            let end = (span.offset + limit) / self.grain.extent() * self.grain.extent();
            *length = end - span.offset;
            let mut rest = op.clone();
            if let DiskOp::Zero { offset, length, .. } = &mut rest {
                (*offset, *length) = (end, span.offset + span.length - end);
            }
            self.rest.insert(name.0, rest);
            span.length = end - span.offset;
        }
        if self.unlisted || self.hot.are_hot(self.grain.extents(&span)) {
            self.write_now(op, outputs);
        } else {
            self.queued.push_back(op);
            self.admit();
        }
    }

    fn write_now(&mut self, op: DiskOp, outputs: &mut VecDeque<Output>) {
        if let Some((name, span)) = writes(&op) {
            self.hot.begin(self.grain.extents(&span));
            self.writing.insert(name.0, span);
        }
        outputs.push_back(Output::Disk(op));
    }

    fn extents_of(&self, op: &DiskOp) -> Vec<Extent> {
        writes(op).map(|(_, span)| self.grain.extents(&span).collect()).unwrap_or_default()
    }

    /// Admits writes that wait for their extents, first come, first served.
    pub(crate) fn admit(&mut self) {
        while let Some(op) = self.queued.front() {
            let extents = self.extents_of(op);
            if self.closed || !self.hot.admit(&extents) {
                return;
            }
            self.admitted.extend(self.queued.pop_front());
        }
    }

    /// Whether writes wait for room among the hot extents.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Sends the writes on their way whose extents have become hot.
    pub(crate) fn issue_hot(&mut self, outputs: &mut VecDeque<Output>) {
        for op in core::mem::take(&mut self.admitted) {
            let extents = self.extents_of(&op);
            if self.hot.are_hot(extents.iter().copied()) {
                self.hot.dismiss(&extents);
                self.write_now(op, outputs);
            } else {
                self.admitted.push_back(op);
            }
        }
    }

    /// The record cannot be stored: no further extent becomes hot.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether writes wait that will never be issued.
    pub(crate) fn refuses(&self) -> bool {
        self.closed && !(self.queued.is_empty() && self.admitted.is_empty())
    }

    /// Takes the writes that wait for their extents to become hot: they are to fail.
    pub(crate) fn refuse(&mut self) -> Vec<DiskOpId> {
        let mut refused = Vec::new();
        for op in core::mem::take(&mut self.admitted) {
            let extents = self.extents_of(&op);
            self.hot.dismiss(&extents);
            refused.extend(writes(&op).map(|(op, _)| op));
        }
        refused.extend(core::mem::take(&mut self.queued).iter().filter_map(writes).map(|(op, _)| op));
        refused
    }

    /// An operation ended; its range stays locked until [`unlock`](Self::unlock). `None` if it goes on, or is not known.
    pub(crate) fn completed(&mut self, op: DiskOpId, done: bool, outputs: &mut VecDeque<Output>) -> Option<Job> {
        // What still waits was never issued: a runtime that completes it is mistaken.
        if self.waiting.contains_key(&op.0) {
            return None;
        }
        if let Some(span) = self.writing.remove(&op.0) {
            self.hot.end(self.grain.extents(&span));
        }
        if let Some(clock) = self.syncs.remove(&op.0)
            && done
        {
            self.hot.synced(clock);
        }
        match self.rest.remove(&op.0) {
            Some(rest) if done => {
                self.issue(rest, outputs);
                None
            }
            _ => self.jobs.remove(&op.0),
        }
    }

    /// Gives the range of an operation free.
    pub(crate) fn unlock(&mut self, op: DiskOpId, outputs: &mut VecDeque<Output>) {
        let mut granted = Vec::new();
        self.locks.release(op.0, &mut granted);
        for ticket in granted {
            if let Some(op) = self.waiting.remove(&ticket) {
                self.issue(op, outputs);
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
        let picked = picked.into_iter().chain(self.cancel_cold(which)).collect::<Vec<_>>();
        for op in picked {
            self.unlock(DiskOpId(op), outputs);
        }
    }

    /// Drops the writes that `which` picks and that wait for their extents. What they were to write is stamped already,
    /// and counts as written by half.
    fn cancel_cold(&mut self, which: impl Fn(&Job) -> bool) -> Vec<u64> {
        let mut picked = Vec::new();
        let jobs = &mut self.jobs;
        let mut pick = |op: &DiskOp| {
            let name = writes(op).map(|(op, _)| op.0)?;
            jobs.get(&name).is_some_and(&which).then(|| jobs.remove(&name))?;
            picked.push(name);
            Some(())
        };
        let (mut admitted, mut gone) = (VecDeque::new(), Vec::new());
        for op in core::mem::take(&mut self.admitted) {
            if pick(&op).is_some() { gone.push(op) } else { admitted.push_back(op) }
        }
        self.admitted = admitted;
        self.queued.retain(|op| pick(op).is_none());
        for op in gone {
            let extents = self.extents_of(&op);
            self.hot.dismiss(&extents);
        }
        for op in &picked {
            self.rest.remove(op);
        }
        picked
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
