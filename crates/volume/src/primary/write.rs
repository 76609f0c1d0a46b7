//! Writes: numbered at arrival, stored here and sent at once, acknowledged when every required replica holds them.
//!
//! Safety. Let C be any configuration that the register may show while this promotion lasts. Every member of C besides
//! the primary is in `required` from before C can be committed until after C is known to be over, so an acknowledged
//! write is held by all members of C, and whichever of them is promoted next holds it. Overlapping writes take the same
//! order everywhere, because each replica queues them in sequence order at its disk; this primary gives a range free
//! only at the commit, so its reads and resyncs see committed content only.

use alloc::format;
use tandem_base::Epoch;

use crate::{
    DiskOpId, DiskOutcome, Message, Output, Replica, Reply, Request, RequestError, RequestId, VolumeIndex,
    config::Ack,
    disk::Job,
    message::{Content, SequencedWrite, Span},
    secondary::words,
};

use super::{Primary, bits};

/// This replica's own copy of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Local {
    Pending,
    Stored,
    Failed(alloc::string::String),
}

/// A write in its place in the order.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Who waits for it; `None` for the engine's own writes.
    pub(crate) request: Option<RequestId>,
    volume: VolumeIndex,
    offset: u64,
    content: Content,
    checksum: u32,
    durable: bool,
    /// Whom it is meant for.
    pub(crate) targets: u64,
    /// Who stored it.
    pub(crate) held: u64,
    pub(crate) local: Local,
    /// Every required replica holds it, and its answer is on its way.
    pub(crate) done: bool,
    pub(crate) op: Option<DiskOpId>,
    pub(crate) arrived: tandem_base::Instant,
}

impl Entry {
    pub(crate) fn span(&self) -> Span {
        Span { volume: self.volume, offset: self.offset, length: self.content.length() }
    }

    /// What it costs to keep it for a peer.
    pub(crate) fn weight(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64 + 64,
            Content::Zero { .. } => 64,
        }
    }

    fn message(&self, promotion: Epoch, sequence: u64, committed: u64) -> Message {
        Message::Write(SequencedWrite {
            promotion,
            sequence,
            committed,
            volume: self.volume,
            offset: self.offset,
            content: self.content.clone(),
            checksum: self.checksum,
            durable: self.durable,
        })
    }
}

/// The range that a request changes.
fn changed(what: &Request) -> Option<Span> {
    match what {
        Request::Write { volume, offset, data, .. } => {
            Some(Span { volume: *volume, offset: *offset, length: data.len() as u64 })
        }
        Request::Zero { volume, offset, length, .. } => {
            Some(Span { volume: *volume, offset: *offset, length: *length })
        }
        Request::Read { .. } | Request::Flush => None,
    }
}

pub(crate) fn overlap(a: &Span, b: &Span) -> bool {
    a.volume == b.volume && a.offset < b.offset + b.length && b.offset < a.offset + a.length
}

impl Primary {
    /// Whether an overlapping write already waits: the later one must stay behind it.
    pub(crate) fn parked_before(&self, what: &Request) -> bool {
        !self.parked.is_empty()
            && changed(what).is_some_and(|span| {
                self.parked.iter().filter_map(|parked| changed(&parked.what)).any(|other| overlap(&span, &other))
            })
    }
}

impl Replica {
    /// Whether a write falls into a chunk that a resync compares right now.
    pub(crate) fn crosses_chunk(&self, what: &Request) -> bool {
        let chunks = || self.peers.iter().filter_map(|peer| peer.resync.as_ref()).flat_map(|resync| resync.active());
        chunks().next().is_some() && changed(what).is_some_and(|span| chunks().any(|chunk| overlap(&span, &chunk)))
    }

    pub(crate) fn begin_write(
        &mut self,
        request: RequestId,
        volume: VolumeIndex,
        offset: u64,
        content: Content,
        fua: bool,
    ) {
        let length = content.length();
        if length == 0 {
            self.ready(request, Ok(Reply::Done));
            return;
        }
        self.counters.written_bytes += length;
        let durable = fua || self.config.ack == Ack::Durable;
        let joiners = self.peers.iter().enumerate().filter(|(_, peer)| peer.resync.is_some());
        let targets = joiners.map(|(index, _)| 1 << index).fold(self.members(), |mask: u64, bit: u64| mask | bit);
        let span = Span { volume, offset, length };
        self.order(Some(request), span, content, durable, targets, true);
    }

    /// Gives a write its place, and everyone concerned the write. `here` is false for what this replica holds already.
    pub(crate) fn order(
        &mut self,
        request: Option<RequestId>,
        span: Span,
        content: Content,
        durable: bool,
        targets: u64,
        here: bool,
    ) {
        let Some(primary) = &mut self.primary else { return };
        let (promotion, sequence, watermark) = (primary.wire, primary.next(), primary.watermark());
        let checksum = match &content {
            Content::Data(data) => crc32c::crc32c(data),
            Content::Zero { .. } => 0,
        };
        let mut entry = Entry {
            request,
            volume: span.volume,
            offset: span.offset,
            content,
            checksum,
            durable,
            targets,
            held: 0,
            local: if here { Local::Pending } else { Local::Stored },
            done: false,
            op: None,
            arrived: self.now,
        };
        for peer in bits(targets) {
            let other = &mut self.peers[peer];
            if let Some(resync) = &mut other.resync {
                resync.backlog += entry.weight();
            }
            if let Some(link) = &other.link
                && link.following == Some(promotion)
            {
                let message = entry.message(promotion, sequence, watermark);
                let (peer, connection) = (other.node.clone(), link.connection);
                self.outputs.push_back(Output::Send { peer, connection, message });
            }
        }
        if here {
            self.remembered.stamps.raise(&span, promotion, sequence);
            let job = Job::Local { promotion: primary.promotion, sequence };
            let unordered = self.config.mutations.ignore_overlap_order();
            let op = self.disk.write(job, span, &entry.content, durable, unordered, &mut self.outputs);
            entry.op = Some(op);
        }
        primary.entries.push_back(entry);
        if !here {
            self.look_at_write(sequence);
        }
    }

    pub(crate) fn local_stored(&mut self, op: DiskOpId, promotion: Epoch, sequence: u64, outcome: DiskOutcome) {
        if let DiskOutcome::Failed(error) = &outcome
            && self.primary.as_ref().is_none_or(|primary| primary.promotion != promotion)
        {
            self.disk.unlock(op, &mut self.outputs);
            self.fail(error.clone());
            return;
        }
        let current = self.primary.as_mut().filter(|primary| primary.promotion == promotion);
        let entry = current.and_then(|primary| {
            let at = sequence.checked_sub(primary.first)?;
            primary.entries.get_mut(at as usize)
        });
        let Some(entry) = entry else {
            self.disk.unlock(op, &mut self.outputs);
            return;
        };
        match outcome {
            DiskOutcome::Failed(error) => {
                entry.local = Local::Failed(words(&error));
                self.local_refused(error);
            }
            _ => entry.local = Local::Stored,
        }
        if self.config.mutations.read_uncommitted() {
            self.disk.unlock(op, &mut self.outputs);
        }
        self.look_at_write(sequence);
        self.forget_stored();
    }

    /// The primary's disk refused. With other members it stands still, so that the service moves to one of them; alone
    /// there is nowhere to move to, and the request that met the error gets it.
    pub(crate) fn local_refused(&mut self, error: crate::DiskError) {
        // A joiner may hold now what this replica does not.
        for peer in 0..self.peers.len() {
            if self.peers[peer].resync.as_ref().is_some_and(|resync| !resync.required) {
                self.abandon_resync(peer, "the primary's disk failed");
            }
        }
        if self.is_alone() {
            let why = words(&error);
            self.outputs.push_back(Output::Note(crate::Event::DiskFailed { why }));
        } else {
            self.fail(error);
        }
    }

    pub(crate) fn peer_stored(&mut self, peer: usize, promotion: Epoch, sequence: u64) {
        let counts = self.peers[peer].follows(promotion) && self.counts(peer);
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.wire == promotion && counts) else { return };
        if sequence >= primary.next() {
            self.refuse(peer, format!("it stored write {sequence}, which was never sent"));
            return;
        }
        let Some(at) = sequence.checked_sub(primary.first) else { return };
        let entry = &mut primary.entries[at as usize];
        if entry.held & (1 << peer) != 0 {
            return;
        }
        entry.held |= 1 << peer;
        if let Some(resync) = &mut self.peers[peer].resync
            && entry.targets & (1 << peer) != 0
        {
            resync.backlog = resync.backlog.saturating_sub(entry.weight());
        }
        self.look_at_write(sequence);
        self.forget_stored();
    }

    /// Whether acknowledgements of `peer` count: from a member's listed run, or from the joiner's run.
    pub(crate) fn counts(&self, peer: usize) -> bool {
        let joiner = self.peers[peer].resync.as_ref().map(|resync| resync.open);
        self.speaks_for_member(peer) || (joiner.is_some() && joiner == self.peers[peer].open())
    }

    pub(crate) fn look_at_writes(&mut self) {
        let Some(primary) = &self.primary else { return };
        for sequence in primary.first..primary.next() {
            self.look_at_write(sequence);
        }
        self.forget_stored();
    }

    /// Commits a write if everyone required holds it.
    fn look_at_write(&mut self, sequence: u64) {
        let Some(primary) = &mut self.primary else { return };
        let Some(at) = sequence.checked_sub(primary.first) else { return };
        let required = primary.required;
        let Some(entry) = primary.entries.get_mut(at as usize) else { return };
        if entry.done || required & entry.targets & !entry.held != 0 {
            return;
        }
        let result = match &entry.local {
            Local::Pending => return,
            Local::Stored => Ok(Reply::Done),
            Local::Failed(_) if required != 0 => return,
            Local::Failed(why) => Err(RequestError::Disk(why.clone())),
        };
        entry.done = true;
        if result.is_err() {
            // Another replica may hold it, one that was a member when it came: it differs now, whatever it holds of others.
            let (span, promotion, latest) = (entry.span(), primary.wire, primary.first + primary.entries.len() as u64);
            self.remembered.stamps.raise(&span, promotion, latest);
        }
        let Some(entry) = primary.entries.get_mut(at as usize) else { return };
        primary.last_done = primary.last_done.max(sequence);
        let (request, op) = (entry.request.take(), entry.op.take());
        primary.ready.extend(request.map(|request| (request, result)));
        while let Some(at) = (primary.committed + 1).checked_sub(primary.first)
            && primary.entries.get(at as usize).is_some_and(|entry| entry.done)
        {
            primary.committed += 1;
        }
        if let Some(op) = op {
            self.disk.unlock(op, &mut self.outputs);
        }
    }

    /// Drops what is committed and stored by everyone it was meant for.
    pub(crate) fn forget_stored(&mut self) {
        let Some(primary) = &mut self.primary else { return };
        while primary.entries.front().is_some_and(|entry| entry.done && entry.targets & !entry.held == 0) {
            primary.entries.pop_front();
            primary.first += 1;
        }
    }

    /// A peer is not meant to get anything any more.
    pub(crate) fn forget_acknowledgements(&mut self, peer: usize) {
        let Some(primary) = &mut self.primary else { return };
        for entry in &mut primary.entries {
            entry.targets &= !(1 << peer);
        }
        self.forget_stored();
    }

    /// Sends what a peer is not known to have stored, in order; it ignores what it received before.
    pub(crate) fn send_again(&mut self, peer: usize) {
        let Some(primary) = &self.primary else { return };
        let (Some(link), node) = (&self.peers[peer].link, &self.peers[peer].node) else { return };
        let missing = |entry: &&Entry| entry.targets & !entry.held & (1 << peer) != 0;
        let entries = primary.entries.iter().zip(primary.first..).filter(|(entry, _)| missing(entry));
        for (entry, sequence) in entries {
            let message = entry.message(primary.wire, sequence, primary.watermark());
            let (peer, connection) = (node.clone(), link.connection);
            self.outputs.push_back(Output::Send { peer, connection, message });
        }
        self.send_flushes_again(peer);
    }
}
