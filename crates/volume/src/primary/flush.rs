//! Flushes: everything replied to before becomes durable on every required replica, in parallel.
//!
//! A write that was replied to is stored on every required replica; a sync that each of them begins after that makes it
//! durable there. Only the listed run of a member counts: an earlier run's page cache is gone.

use tandem_base::Epoch;

use crate::{DiskOp, DiskOutcome, Message, Replica, Reply, RequestError, RequestId, disk::Job, secondary::words};

use super::{Local, bits};

/// What a flush is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Request(RequestId),
    /// The end of the takeover.
    Takeover,
    /// Before the promotion is given back.
    Release,
    /// Of one joiner alone, up to its barrier.
    Joiner(usize),
}

impl Purpose {
    pub(crate) fn request(&self) -> Option<RequestId> {
        if let Self::Request(request) = self { Some(*request) } else { None }
    }
}

/// A flush under way.
#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) purpose: Purpose,
    /// For an initiator's: the last write that it covers.
    covers: Option<u64>,
    /// Who is durable.
    pub(crate) held: u64,
    local: Local,
    pub(crate) since: tandem_base::Instant,
}

impl Flush {
    /// Who must be durable, of those `required`.
    pub(crate) fn wants(&self, required: u64) -> u64 {
        match self.purpose {
            Purpose::Joiner(peer) => 1 << peer,
            _ => required,
        }
    }

    /// `peer` is durable up to write `durable`; 0 covers nothing, as sequences begin at 1.
    fn durable_ahead(&mut self, peer: usize, durable: u64) {
        if self.covers.is_some_and(|covers| covers <= durable) {
            self.held |= 1 << peer;
        }
    }
}

impl Replica {
    pub(crate) fn begin_flush(&mut self, purpose: Purpose) {
        // A failed disk has nothing to make durable; its release needs the others alone.
        let here = !matches!(purpose, Purpose::Joiner(_)) && self.failed.is_none();
        let Some(primary) = &mut self.primary else { return };
        let flush = primary.next_flush;
        primary.next_flush += 1;
        let local = match (&primary.sync_failed, here) {
            (_, false) => Local::Stored,
            (Some(why), true) => Local::Failed(why.clone()),
            (None, true) => Local::Pending,
        };
        let promotion = primary.promotion;
        let begin = local == Local::Pending;
        // The initiator means what it was told to be done; nothing beyond the last write that is done can be meant.
        let covers = matches!(purpose, Purpose::Request(_)).then_some(primary.last_done);
        let mut wanted = Flush { purpose, covers, held: 0, local, since: self.now };
        let targets = wanted.wants(primary.required);
        for peer in bits(targets) {
            wanted.durable_ahead(peer, self.durable_ahead(peer));
        }
        if let Some(primary) = &mut self.primary {
            primary.flushes.insert(flush, wanted);
        }
        if begin {
            self.disk.start(Job::Flush { promotion, flush }, &mut self.outputs, |op| DiskOp::Sync { op });
        }
        for peer in bits(targets) {
            // Also to those that are durable already: it tells them that flushes come.
            self.send_flush(peer, flush);
        }
        self.look_at_flush(flush);
    }

    /// A follower is durable up to a write, without having been asked.
    pub(crate) fn peer_durable(&mut self, peer: usize, promotion: Epoch, sequence: u64) {
        let Some(primary) = self.primary.as_ref().filter(|primary| primary.wire == promotion) else { return };
        if sequence >= primary.next() {
            self.refuse(peer, alloc::format!("write {sequence} is durable there, which was never sent"));
            return;
        }
        if let Some(link) = self.peers[peer].link.as_mut().filter(|link| link.following == Some(promotion)) {
            link.durable = link.durable.max(sequence);
            let durable = self.durable_ahead(peer);
            for flush in self.primary.iter_mut().flat_map(|primary| primary.flushes.values_mut()) {
                flush.durable_ahead(peer, durable);
            }
            self.look_at_flushes();
        }
    }

    /// Up to which write `peer` is durable without having been asked; 0 for none. Only a member counts: what a joiner holds
    /// by comparison it has not received as a write.
    fn durable_ahead(&self, peer: usize) -> u64 {
        let link = self.peers[peer].link.as_ref().filter(|_| self.speaks_for_member(peer));
        link.map_or(0, |link| link.durable)
    }

    fn send_flush(&mut self, peer: usize, flush: u64) {
        let Some(primary) = &self.primary else { return };
        if self.peers[peer].follows(primary.wire) {
            let (promotion, committed) = (primary.wire, primary.watermark());
            self.send(peer, Message::Flush { promotion, flush, committed });
        }
    }

    /// On a new connection, what the old one may have lost.
    pub(crate) fn send_flushes_again(&mut self, peer: usize) {
        let Some(primary) = &self.primary else { return };
        let required = primary.required;
        let missing = |flush: &Flush| flush.wants(required) & !flush.held & (1 << peer) != 0;
        let again = primary.flushes.iter().filter(|(_, flush)| missing(flush)).map(|(flush, _)| *flush);
        let again: alloc::vec::Vec<_> = again.collect();
        for flush in again {
            self.send_flush(peer, flush);
        }
    }

    /// A peer became required while flushes are under way: they need it too.
    pub(crate) fn flush_also(&mut self, peer: usize) {
        self.send_flushes_again(peer);
    }

    pub(crate) fn local_flushed(&mut self, promotion: Epoch, flush: u64, outcome: DiskOutcome) {
        let current = self.primary.as_ref().is_some_and(|primary| primary.promotion == promotion);
        let local = match outcome {
            DiskOutcome::Failed(_) if current && self.config.mutations.retry_failed_sync() => {
                self.disk.start(Job::Flush { promotion, flush }, &mut self.outputs, |op| DiskOp::Sync { op });
                return;
            }
            DiskOutcome::Failed(error) if current => {
                let why = words(&error);
                if let Some(primary) = &mut self.primary {
                    primary.sync_failed = Some(why.clone());
                }
                self.local_refused(error);
                Local::Failed(why)
            }
            DiskOutcome::Failed(error) => {
                self.fail(error);
                return;
            }
            _ => Local::Stored,
        };
        if let Some(flush) = self.primary.as_mut().filter(|_| current).and_then(|p| p.flushes.get_mut(&flush)) {
            flush.local = local;
        }
        self.look_at_flush(flush);
    }

    pub(crate) fn peer_flushed(&mut self, peer: usize, promotion: Epoch, flush: u64) {
        let counts = self.peers[peer].follows(promotion) && self.counts(peer);
        let current = self.primary.as_mut().filter(|primary| primary.wire == promotion && counts);
        if let Some(flush) = current.and_then(|primary| primary.flushes.get_mut(&flush)) {
            flush.held |= 1 << peer;
        }
        self.look_at_flush(flush);
    }

    pub(crate) fn look_at_flushes(&mut self) {
        let Some(primary) = &self.primary else { return };
        let flushes: alloc::vec::Vec<_> = primary.flushes.keys().copied().collect();
        for flush in flushes {
            self.look_at_flush(flush);
        }
    }

    fn look_at_flush(&mut self, name: u64) {
        let Some(primary) = &mut self.primary else { return };
        let Some(flush) = primary.flushes.get(&name) else { return };
        if flush.wants(primary.required) & !flush.held != 0 {
            return;
        }
        let result = match &flush.local {
            Local::Pending => return,
            Local::Stored => Ok(Reply::Done),
            // With other members this replica stands still, and a release does without it.
            Local::Failed(_) if primary.required != 0 && flush.purpose != Purpose::Release => return,
            Local::Failed(why) => Err(RequestError::Disk(why.clone())),
        };
        let purpose = flush.purpose;
        primary.flushes.remove(&name);
        match purpose {
            Purpose::Request(request) => self.ready(request, result),
            Purpose::Takeover => self.takeover_flushed(),
            Purpose::Release => self.release_flushed(),
            Purpose::Joiner(peer) => self.joiner_flushed(peer),
        }
    }
}
