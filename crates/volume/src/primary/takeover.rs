//! The takeover barrier: between the promotion and the first request.
//!
//! Safety. Members can differ only where one of them received a write that it does not know to be committed: a write
//! that is known to be committed is held by all. Every retained member first promises to refuse earlier primaries, so
//! no such range can appear afterwards; then this replica writes its own content over the union of all such ranges on
//! every one of them, and all flush. This replica was a member, so it holds every acknowledged write, and what it
//! overwrites elsewhere was never acknowledged. A member that does not answer is shut out by a committed change.
//!
//! The service is told only under the lease, as every reply: a primary that stood still meanwhile may have been overtaken,
//! and nobody should attach to what is over.
//!
//! Until then messages carry the watermark 0, at which nobody forgets its unsettled ranges: should
//! this replica fall meanwhile, the next one reconciles the same ranges again.

use alloc::{collections::VecDeque, vec::Vec};
use tandem_base::{Epoch, Instant};

use crate::{
    DiskOpId, DiskOutcome, Output, Replica,
    disk::Job,
    message::{CHUNK, Content, Span},
    unsettled::SpanSet,
};

use super::{Primary, Purpose, bits};

/// How far the takeover is.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    /// Members that promised.
    pub(crate) answered: u64,
    /// Since when they are asked: the own promise is durable.
    asked: Option<Instant>,
    /// What they do not know to be committed.
    spans: SpanSet,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Promising,
    Copying {
        pieces: VecDeque<Span>,
        reading: usize,
    },
    Flushing,
    /// The barrier is passed, and the lease is awaited.
    Passed,
}

impl Takeover {
    pub(crate) fn answered(&mut self, peer: usize, unsettled: &[Span]) {
        self.answered |= 1 << peer;
        for span in unsettled {
            self.spans.add(*span);
        }
    }

    /// Whether a member's promise is awaited.
    pub(crate) fn awaits(&self, peer: usize) -> bool {
        matches!(self.phase, Phase::Promising) && self.answered & (1 << peer) == 0
    }
}

impl Replica {
    /// The register shows this run as primary.
    pub(crate) fn begin_takeover(&mut self) {
        let Some(promotion) = self.register.applied().primary.as_ref().map(|primary| primary.promotion) else { return };
        // It promised to follow a later one: its own promotion is over, and the register will say so.
        if promotion.number < self.promised.number || !self.opened {
            return;
        }
        let again = self.config.mutations.same_epoch_after_restart() && self.promised.number > 0;
        let wire = if again { self.promised } else { promotion };
        self.promise(wire);
        self.begin_chapter(wire);
        self.primary = Some(Primary {
            promotion,
            wire,
            since: self.now,
            takeover: Some(Takeover::default()),
            releasing: !self.wanted,
            release_flushed: false,
            entries: VecDeque::new(),
            // 1 is the barrier.
            first: 2,
            committed: 1,
            last_done: 1,
            required: 0,
            parked: VecDeque::new(),
            ready: VecDeque::new(),
            flushes: Default::default(),
            next_flush: 0,
            leaving: None,
            sync_failed: None,
            noted: None,
        });
        self.require();
        for peer in 0..self.peers.len() {
            self.lead(peer);
        }
    }

    pub(crate) fn advance_takeover(&mut self) {
        let members = self.members();
        let skip = self.config.mutations.skip_takeover_barrier();
        let Some(primary) = &mut self.primary else { return };
        let Some(takeover) = &mut primary.takeover else { return };
        if self.promised_durable != primary.wire || self.failed.is_some() {
            return;
        }
        takeover.asked.get_or_insert(self.now);
        if skip || matches!(takeover.phase, Phase::Passed) {
            self.takeover_flushed();
            return;
        }
        if matches!(takeover.phase, Phase::Promising) {
            if members & !takeover.answered != 0 {
                return;
            }
            let mut spans = core::mem::take(&mut takeover.spans);
            for span in self.unsettled.spans().iter() {
                spans.add(span);
            }
            // Alone there is nobody to differ from.
            let mut pieces: Vec<Span> = if members == 0 { Vec::new() } else { spans.iter().collect() };
            for span in &mut pieces {
                // Remembered by extents, a range may end behind the volume.
                let size = self.config.volumes[usize::from(span.volume.0)].size;
                span.length = span.length.min(size.saturating_sub(span.offset));
            }
            pieces.retain(|span| span.length > 0);
            takeover.phase = Phase::Copying { pieces: pieces.into(), reading: 0 };
        }
        let undone = primary.entries.iter().filter(|entry| !entry.done).count();
        let Phase::Copying { pieces, reading } = &mut takeover.phase else { return };
        while *reading + undone < self.config.takeover_window.max(1)
            && let Some(mut rest) = pieces.pop_front()
        {
            let piece = Span { length: rest.length.min(CHUNK), ..rest };
            rest.offset += piece.length;
            rest.length -= piece.length;
            if rest.length > 0 {
                pieces.push_front(rest);
            }
            *reading += 1;
            // Waits at the disk for what an earlier primary sent here and is still being written.
            self.disk.read(Job::Piece { promotion: primary.promotion, span: piece }, piece, &mut self.outputs);
        }
        if pieces.is_empty() && *reading == 0 && undone == 0 {
            takeover.phase = Phase::Flushing;
            self.begin_flush(Purpose::Takeover);
        }
    }

    pub(crate) fn piece_read(&mut self, op: DiskOpId, promotion: Epoch, span: Span, outcome: DiskOutcome) {
        self.disk.unlock(op, &mut self.outputs);
        let current = self.primary.as_mut().filter(|primary| primary.promotion == promotion);
        let takeover = current.and_then(|primary| primary.takeover.as_mut());
        match (takeover.map(|takeover| &mut takeover.phase), outcome) {
            (Some(Phase::Copying { reading, .. }), DiskOutcome::Data(data)) => {
                *reading -= 1;
                let content = content_of(data);
                let members = self.members();
                self.order(None, span, content, false, members, false);
            }
            (Some(_), DiskOutcome::Failed(error)) => {
                if let Some(Phase::Copying { reading, .. }) =
                    self.primary.as_mut().and_then(|p| p.takeover.as_mut()).map(|takeover| &mut takeover.phase)
                {
                    *reading -= 1;
                }
                self.local_refused(error);
            }
            (None, DiskOutcome::Failed(error)) => self.fail(error),
            _ => {}
        }
    }

    /// The barrier is passed: serve, as soon as the lease allows.
    pub(crate) fn takeover_flushed(&mut self) {
        let may_reply = self.may_reply();
        let Some(primary) = &mut self.primary else { return };
        if !may_reply {
            if let Some(takeover) = &mut primary.takeover {
                takeover.phase = Phase::Passed;
            }
            return;
        }
        primary.takeover = None;
        let (promotion, wire) = (primary.promotion, primary.wire);
        self.unsettled.settle(wire, 1);
        if primary.releasing {
            return;
        }
        let configuration = self.register.applied().clone();
        for peer in bits(self.members()) {
            self.settle_peer(peer);
        }
        self.outputs.push_back(Output::Serving { promotion, configuration });
        for request in core::mem::take(&mut self.kept) {
            self.ready(request, Ok(crate::Reply::Done));
        }
        self.unpark();
        for peer in 0..self.peers.len() {
            self.begin_resync_if_due(peer);
        }
    }

    /// Since when a member's promise is awaited.
    pub(crate) fn promise_awaited(&self, peer: usize) -> Option<Instant> {
        let primary = self.primary.as_ref()?;
        let member = self.members() & (1 << peer) != 0;
        primary.takeover.as_ref().filter(|takeover| member && takeover.awaits(peer)).and_then(|takeover| takeover.asked)
    }
}

/// Data as content: a hole where all of it is zero.
pub(crate) fn content_of(data: bytes::Bytes) -> Content {
    if data.iter().all(|byte| *byte == 0) {
        Content::Zero { length: data.len() as u64, keep_allocated: false }
    } else {
        Content::Data(data)
    }
}
