//! Following a primary.
//!
//! A follower promises durably to follow a promotion and refuses every lower one from then on: what an earlier primary
//! still sends is answered with [`Message::NotYours`], so it can never gather the acknowledgements it needs. Within a
//! promotion it takes writes in sequence order, once each, and lets overlapping ones wait for each other.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use tandem_base::{Epoch, Instant};

use crate::{
    ConnectionId, DiskOp, DiskOpId, DiskOutcome, Message, Output, Replica,
    disk::Job,
    message::{BLOCK, CHUNK, Content, SequencedWrite, Span},
    wire::{PAYLOAD_MAX, SPANS_MAX},
};

/// What a replica knows as a follower of the promotion it promised.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// Who leads it, and on which connection it said so.
    pub(crate) leader: Option<(usize, ConnectionId)>,
    /// Who waits for the promise to be durable.
    pub(crate) asking: Option<(usize, ConnectionId)>,
    /// The highest sequence number received. What a connection loses is sent again from the lowest unstored one, in
    /// order, so everything up to here was received.
    pub(crate) received: u64,
    /// Received and not stored yet.
    pub(crate) storing: BTreeSet<u64>,
    /// Everything received up to here is durable.
    pub(crate) durable: u64,
    /// A sync ahead of the flush is under way.
    pub(crate) syncing_ahead: bool,
    /// Until when it is worth its while.
    pub(crate) flush_expected_until: Instant,
}

impl Follower {
    /// Every write received is stored up to this one.
    pub(crate) fn held(&self) -> u64 {
        self.storing.first().map_or(self.received, |first| first - 1)
    }
}

impl Replica {
    /// Whether `promotion` is the one this replica follows, led by `peer` on its newest connection.
    pub(crate) fn follows(&self, peer: usize, promotion: Epoch) -> bool {
        let here = self.peers[peer].link.as_ref().map(|link| (peer, link.connection));
        self.promised == promotion
            && self.promised_durable == promotion
            && here == self.follower.leader
            && here.is_some()
    }

    pub(crate) fn lead_asked(&mut self, peer: usize, promotion: Epoch) {
        if let Some(why) = self.failed.clone() {
            self.send(peer, Message::Failed { why });
            return;
        }
        let split = promotion.number == self.promised.number && promotion != self.promised;
        if promotion.number < self.promised.number || split || self.register.is_over(promotion) {
            self.send(peer, Message::NotYours { promised: self.promised });
            return;
        }
        let Some(connection) = self.peers[peer].link.as_ref().map(|link| link.connection) else { return };
        if promotion != self.promised {
            // Another primary was promoted: whatever this one still thought it was is over.
            self.end_promotion(format!("{} leads {promotion}", self.peers[peer].node));
            self.promise(promotion);
        } else if self.primary.is_some() {
            self.refuse(peer, format!("it claims the promotion {promotion} of this replica"));
            return;
        }
        self.follower.asking = Some((peer, connection));
        self.answer_lead();
    }

    /// Begins to follow `promotion`, as a follower or as its primary: earlier ones are refused from now on.
    pub(crate) fn promise(&mut self, promotion: Epoch) {
        self.close_chapter();
        self.disk.cancel_waiting(&mut self.outputs, |job| matches!(job, Job::Follow { .. }));
        self.follower = Follower::default();
        self.promised = promotion;
        self.store_superblock();
    }

    /// Answers who asked to lead, once the promise is durable.
    pub(crate) fn answer_lead(&mut self) {
        if self.promised_durable != self.promised || self.failed.is_some() {
            return;
        }
        let Some((peer, connection)) = self.follower.asking.take() else { return };
        if self.peers[peer].link.as_ref().is_some_and(|link| link.connection == connection) {
            self.follower.leader = Some((peer, connection));
            let unsettled = self.unsettled.spans().bounded(SPANS_MAX);
            let history = self.history();
            self.send(peer, Message::Promised { promotion: self.promised, unsettled, history });
        }
    }

    /// Whether a span lies within its volume.
    pub(crate) fn within(&self, span: &Span) -> bool {
        let size = self.config.volumes.get(usize::from(span.volume.0)).map_or(0, |volume| volume.size);
        span.offset.checked_add(span.length).is_some_and(|end| end <= size)
    }

    pub(crate) fn write_received(&mut self, peer: usize, write: SequencedWrite) {
        let blind = self.config.mutations.order_by_seq_without_epoch() && self.follower.leader.is_some();
        if !self.follows(peer, write.promotion) && !blind {
            self.send(peer, Message::NotYours { promised: self.promised });
            return;
        }
        if self.failed.is_some() {
            return;
        }
        let span = Span { volume: write.volume, offset: write.offset, length: write.content.length() };
        let sound = match &write.content {
            Content::Data(data) => data.len() <= PAYLOAD_MAX && crc32c::crc32c(data) == write.checksum,
            Content::Zero { .. } => true,
        };
        if !sound || span.length == 0 || !self.within(&span) {
            let what = if sound { "a range outside the volume" } else { "a wrong checksum" };
            self.refuse(peer, format!("write {} of {}: {what}", write.sequence, write.promotion));
            return;
        }
        self.unsettled.settle(write.promotion, write.committed);
        if write.sequence <= self.follower.received {
            if !self.follower.storing.contains(&write.sequence) {
                self.send(peer, Message::Stored { promotion: write.promotion, sequence: write.sequence });
            }
            return;
        }
        self.follower.received = write.sequence;
        self.follower.storing.insert(write.sequence);
        self.unsettled.add(write.promotion, write.sequence, span);
        self.remembered.stamps.raise(&span, write.promotion, write.sequence);
        self.counters.followed_writes += 1;
        let job = Job::Follow { promotion: write.promotion, sequence: write.sequence };
        let unordered = self.config.mutations.ignore_overlap_order();
        self.disk.write(job, span, &write.content, write.durable, unordered, &mut self.outputs);
    }

    pub(crate) fn follow_stored(&mut self, op: DiskOpId, promotion: Epoch, sequence: u64, outcome: DiskOutcome) {
        self.disk.unlock(op, &mut self.outputs);
        if let DiskOutcome::Failed(error) = outcome {
            self.fail(error);
            return;
        }
        if self.failed.is_some() || (promotion != self.promised && !self.config.mutations.order_by_seq_without_epoch())
        {
            return;
        }
        self.follower.storing.remove(&sequence);
        if let Some((leader, _)) = self.follower.leader {
            self.send(leader, Message::Stored { promotion, sequence });
        }
        self.sync_ahead();
    }

    pub(crate) fn flush_asked(&mut self, peer: usize, promotion: Epoch, flush: u64, committed: u64) {
        if !self.follows(peer, promotion) {
            self.send(peer, Message::NotYours { promised: self.promised });
            return;
        }
        self.unsettled.settle(promotion, committed);
        if self.failed.is_none() && self.is_durable_already() {
            self.expect_flushes();
            self.send(peer, Message::Flushed { promotion, flush });
            return;
        }
        if let (None, Some((_, connection))) = (&self.failed, self.follower.leader) {
            let idle = self.follower.storing.is_empty();
            let stored = if idle { self.follower.received } else { 0 };
            let job = Job::FollowFlush { connection, peer, promotion, flush, stored };
            self.disk.start(job, &mut self.outputs, |op| DiskOp::Sync { op });
            self.expect_flushes();
        }
    }

    pub(crate) fn follow_flushed(
        &mut self,
        (peer, connection): (usize, ConnectionId),
        promotion: Epoch,
        (flush, stored): (u64, u64),
        outcome: DiskOutcome,
    ) {
        if let DiskOutcome::Failed(error) = outcome {
            if self.config.mutations.retry_failed_sync() {
                let job = Job::FollowFlush { connection, peer, promotion, flush, stored };
                self.disk.start(job, &mut self.outputs, |op| DiskOp::Sync { op });
            } else {
                self.fail(error);
            }
        } else if self.failed.is_none()
            && self.follower.leader == Some((peer, connection))
            && self.follows(peer, promotion)
        {
            self.send(peer, Message::Flushed { promotion, flush });
            self.durable_up_to(stored);
            self.sync_ahead();
        }
    }

    pub(crate) fn hashes_asked(&mut self, peer: usize, promotion: Epoch, chunk: u64, span: Span, written: u64) {
        if !self.follows(peer, promotion) {
            self.send(peer, Message::NotYours { promised: self.promised });
            return;
        }
        if span.length == 0 || span.length > CHUNK || !self.within(&span) {
            self.refuse(peer, format!("chunk {chunk} of {promotion} is no range of the volume"));
            return;
        }
        if !self.config.mutations.no_stamps_for_equals() {
            // Written there after the fork point, or it would not be compared: so it counts as written here, no earlier than
            // it can have been there.
            self.remembered.stamps.raise(&span, promotion, written);
        }
        if let (None, Some((_, connection))) = (&self.failed, self.follower.leader) {
            self.disk.read(Job::Hash { connection, peer, promotion, chunk }, span, &mut self.outputs);
        }
    }

    pub(crate) fn hash_read(
        &mut self,
        op: DiskOpId,
        (peer, connection): (usize, ConnectionId),
        promotion: Epoch,
        chunk: u64,
        outcome: DiskOutcome,
    ) {
        self.disk.unlock(op, &mut self.outputs);
        match outcome {
            DiskOutcome::Failed(error) => self.fail(error),
            DiskOutcome::Data(data) => {
                if self.follower.leader == Some((peer, connection)) && self.follows(peer, promotion) {
                    let mut hashes = hashes(&data);
                    if self.suspect {
                        // Read back from a page that looks clean, but never reached the disk, it would match: a hash
                        // that cannot match has everything sent, and so written again.
                        hashes.iter_mut().flatten().for_each(|byte| *byte = !*byte);
                    }
                    self.send(peer, Message::Hashes { promotion, chunk, hashes });
                }
            }
            DiskOutcome::Done => {}
        }
    }

    /// This replica's disk refused: it holds nothing to rely on until it is opened again. Never retried, because a page
    /// that failed to reach the disk may look clean ("Can applications recover from fsync failures?", ATC 2020).
    pub(crate) fn fail(&mut self, error: crate::DiskError) {
        if self.failed.is_some() {
            return;
        }
        let why = words(&error);
        self.failed = Some(why.clone());
        self.outputs.push_back(Output::Note(crate::Event::DiskFailed { why: why.clone() }));
        self.follower.asking = None;
        for peer in 0..self.peers.len() {
            if self.opened {
                self.send(peer, Message::Failed { why: why.clone() });
            }
        }
        // So that the next run does not take itself for what this one was.
        self.store_superblock();
    }
}

/// A disk error, in words.
pub(crate) fn words(error: &crate::DiskError) -> String {
    match error {
        crate::DiskError::NoSpace => "no space left on the device".into(),
        crate::DiskError::Io(why) => why.clone(),
    }
}

/// BLAKE3 of each block. Most of a young volume is zero, and its hash is known: that costs a look instead of a hash.
pub(crate) fn hashes(data: &[u8]) -> Vec<[u8; 32]> {
    let hash = |block: &[u8]| {
        let zero = block.len() == BLOCK as usize && is_zero(block);
        if zero { ZERO_BLOCK_HASH } else { *blake3::hash(block).as_bytes() }
    };
    data.chunks(BLOCK as usize).map(hash).collect()
}

/// Looks at whole pages at once, which the compiler turns into wide instructions.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

/// BLAKE3 of [`BLOCK`] zeroes.
const ZERO_BLOCK_HASH: [u8; 32] = [
    0x3b, 0xde, 0xaf, 0x8f, 0x8e, 0x98, 0x78, 0x0b, 0x31, 0x81, 0x06, 0xaa, 0xfd, 0xc3, 0xca, 0x25, 0x7f, 0x73, 0xdf,
    0x12, 0x3d, 0x97, 0xb6, 0x91, 0x12, 0xb2, 0x60, 0x44, 0xc9, 0x1a, 0x7d, 0x56,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_hash_is_that_of_a_block_of_zeroes() {
        let mut block = alloc::vec![0; BLOCK as usize];
        assert_eq!(*blake3::hash(&block).as_bytes(), ZERO_BLOCK_HASH);
        assert_eq!(hashes(&block), [ZERO_BLOCK_HASH]);
        block[BLOCK as usize - 1] = 1;
        assert_eq!(hashes(&block), [*blake3::hash(&block).as_bytes()]);
    }
}
