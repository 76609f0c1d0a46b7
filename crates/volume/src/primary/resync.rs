//! Bringing a replica in sync: comparison by hashes of what can differ, then barrier, flush, growth.
//!
//! From the start of a resync every new write goes to the joiner too. Of what came before, that is compared which either of
//! the two has written after their fork point, or a crash left unknown to one of them ([`crate::meta`]), chunk by chunk. A
//! chunk locks its range against new writes while it is read here, hashed there, and what differs is sent; the data then
//! stands in the order of writes behind all that the chunk saw and before all that it did not. Each chunk is compared
//! once and new writes need no comparison, so a resync ends under any load that the joiner can follow.
//!
//! Growth. Once all is compared the joiner is *required*: from now on nothing is acknowledged without it. When it has
//! stored, and everybody has committed, everything up to that barrier, it flushes, and writes down that it holds all there
//! is; only then is the growth proposed.
//! Whenever the register may show it as a member, it holds every acknowledged write, and durably what was flushed. While
//! the growth is undecided the joiner stays required, also when it falls silent: then its removal is proposed against
//! the same epoch, which decides the one or the other.

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use bytes::Bytes;
use tandem_base::{Change, Epoch, Instant, OpenId};

use crate::{
    DiskOpId, DiskOutcome, Event, Message, Output, Replica, ReplicaConfig,
    disk::Job,
    message::{BLOCK, CHUNK, Span},
    secondary::hashes,
    status::ResyncProgress,
};

use super::{Purpose, regions::Regions, takeover::content_of};

/// A resync of one joiner.
#[derive(Debug)]
pub(crate) struct Resync {
    /// The joiner's run.
    pub(crate) open: OpenId,
    /// What has to be compared; complete once the joiner has said what it changed.
    regions: Regions,
    chunks: BTreeMap<u64, Chunk>,
    /// When it was asked last.
    asked: Instant,
    /// The chunk that was compared last differed: the next ones may, too.
    differs: bool,
    /// Bytes on their way to the joiner.
    pub(crate) backlog: u64,
    /// A reply needs the joiner's acknowledgement.
    pub(crate) required: bool,
    state: State,
    progress: ResyncProgress,
}

#[derive(Debug)]
struct Chunk {
    span: Span,
    data: Option<Bytes>,
    hashes: Option<Vec<[u8; 32]>>,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The joiner is asked what it changed.
    Asking,
    Comparing,
    /// The joiner has to store, and all have to commit, up to here.
    Draining(u64),
    Flushing,
    /// The joiner is to write down that it holds everything.
    Settling,
    Ready,
    Proposed,
}

impl Resync {
    /// The ranges that new writes must not touch now.
    pub(crate) fn active(&self) -> impl Iterator<Item = Span> + '_ {
        self.chunks.values().map(|chunk| chunk.span)
    }

    /// Since when an answer of the joiner is awaited.
    pub(crate) fn oldest_chunk(&self) -> Option<Instant> {
        let asked = matches!(self.state, State::Asking | State::Settling).then_some(self.asked);
        self.chunks.values().map(|chunk| chunk.since).chain(asked).min()
    }

    pub(crate) fn progress(&self) -> ResyncProgress {
        ResyncProgress { joining: !matches!(self.state, State::Asking | State::Comparing), ..self.progress }
    }

    /// Whether another chunk may be begun: as many at once as make a round trip worth its while, and no more data than
    /// the initiator's writes can wait behind. One chunk at a time goes on under any load that the joiner can follow.
    fn may_begin(&self, config: &ReplicaConfig) -> bool {
        if self.chunks.is_empty() {
            return self.backlog <= config.joiner_backlog_max / 2;
        }
        let each = if self.differs { CHUNK } else { CHUNK / 16 };
        let expected = self.backlog + each * (self.chunks.len() as u64 + 1);
        self.chunks.len() < config.resync_window && expected <= config.resync_ahead
    }
}

impl Replica {
    pub(crate) fn begin_due_resyncs(&mut self) {
        for peer in 0..self.peers.len() {
            self.begin_resync_if_due(peer);
        }
    }

    /// Begins to bring a follower in sync that is no member.
    pub(crate) fn begin_resync_if_due(&mut self, peer: usize) {
        let Some(primary) = &self.primary else { return };
        let other = &self.peers[peer];
        let Some(open) = other.open().filter(|_| other.follows(primary.wire)) else { return };
        let listed = self.register.applied().in_sync.contains_key(&other.node);
        let busy = primary.takeover.is_some() || primary.releasing || self.failed.is_some();
        if busy || listed || other.resync.is_some() || other.failed.is_some() || self.now < other.resync_after {
            return;
        }
        let promotion = primary.wire;
        self.forget_acknowledgements(peer);
        let theirs = self.peers[peer].link.as_ref().map(|link| link.history.clone()).unwrap_or_default();
        let after = self.fork(&theirs);
        let mut regions = Regions::new(self.config.grain.region.into(), &self.config.volumes);
        self.remembered.stamps.after(after).for_each(|span| regions.add(&span));
        self.send(peer, Message::Fork { promotion, after });
        self.peers[peer].resync = Some(Resync {
            open,
            regions,
            chunks: BTreeMap::new(),
            asked: self.now,
            differs: true,
            backlog: 0,
            required: false,
            state: State::Asking,
            progress: ResyncProgress::default(),
        });
        self.counters.resyncs += 1;
        let node = self.peers[peer].node.clone();
        let why = match after {
            Some(after) => alloc::format!("both hold the same up to write {} of {}", after.last, after.epoch),
            None => String::from("nothing is known of what it holds"),
        };
        self.outputs.push_back(Output::Note(Event::ResyncStarted { node, why }));
    }

    /// A joiner says what it changed after the fork point.
    pub(crate) fn peer_changed(&mut self, peer: usize, promotion: Epoch, spans: &[Span], last: bool) {
        let current = self.primary.as_ref().is_some_and(|primary| primary.wire == promotion);
        if !current || !self.peers[peer].follows(promotion) || self.resync_state(peer) != Some(State::Asking) {
            return;
        }
        if let Some(outside) = spans.iter().find(|span| !self.within(span)) {
            self.refuse(peer, alloc::format!("it changed a range outside of volume {}", outside.volume.0));
            return;
        }
        let Some(resync) = &mut self.peers[peer].resync else { return };
        spans.iter().for_each(|span| resync.regions.add(span));
        if last {
            resync.progress.total = resync.regions.bytes();
            resync.state = State::Comparing;
        }
    }

    pub(crate) fn advance_joiners(&mut self) {
        if self.primary.is_none() {
            return;
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].resync.is_some() {
                self.advance_joiner(peer);
            }
        }
    }

    fn advance_joiner(&mut self, peer: usize) {
        let overflown =
            |resync: &Resync, config: &ReplicaConfig| !resync.required && resync.backlog > config.joiner_backlog_max;
        if self.peers[peer].resync.as_ref().is_some_and(|resync| overflown(resync, &self.config)) {
            self.stall_resync(peer);
            return;
        }
        self.begin_chunks(peer);
        let early = self.config.mutations.grow_before_joiner_flush();
        let (Some(primary), Some(resync)) = (&self.primary, &mut self.peers[peer].resync) else { return };
        if resync.state == State::Comparing && resync.regions.is_done() && resync.chunks.is_empty() {
            resync.state = if early { State::Ready } else { State::Draining(primary.next() - 1) };
            resync.required = true;
            let ResyncProgress { compared, sent, .. } = resync.progress;
            let node = self.peers[peer].node.clone();
            self.outputs.push_back(Output::Note(Event::ResyncDone { node, compared, sent }));
            self.require();
        }
        if let Some(State::Draining(barrier)) = self.resync_state(peer)
            && self.drained(peer, barrier)
        {
            self.set_resync_state(peer, State::Flushing);
            self.begin_flush(Purpose::Joiner(peer));
        }
        let free = |primary: &super::Primary| primary.leaving.is_none() && !primary.releasing;
        if self.resync_state(peer) == Some(State::Ready)
            && self.primary.as_ref().is_some_and(free)
            && self.register.possible().is_empty()
            && self.failed.is_none()
            && let Some(open) = self.peers[peer].resync.as_ref().map(|resync| resync.open)
        {
            self.set_resync_state(peer, State::Proposed);
            let node = self.peers[peer].node.clone();
            self.propose(Change::Grow { node, open });
        }
    }

    fn resync_state(&self, peer: usize) -> Option<State> {
        self.peers[peer].resync.as_ref().map(|resync| resync.state)
    }

    fn set_resync_state(&mut self, peer: usize, state: State) {
        if let Some(resync) = &mut self.peers[peer].resync {
            resync.state = state;
        }
    }

    /// Whether the joiner stored, and all committed, everything up to the barrier. Committed too: what it holds and
    /// another member may lack must not be unknown to the next primary.
    fn drained(&self, peer: usize, barrier: u64) -> bool {
        let Some(primary) = &self.primary else { return false };
        let open = |(entry, sequence): (&super::Entry, u64)| {
            sequence <= barrier && entry.targets & !entry.held & (1 << peer) != 0
        };
        primary.committed >= barrier
            && (primary.first > barrier || !primary.entries.iter().zip(primary.first..).any(open))
    }

    fn begin_chunks(&mut self, peer: usize) {
        let config = &self.config;
        loop {
            let (Some(primary), Some(resync)) = (&self.primary, &mut self.peers[peer].resync) else { return };
            if resync.state != State::Comparing || !resync.may_begin(config) {
                return;
            }
            let Some(span) = resync.regions.next() else { return };
            let chunk = self.next_chunk;
            self.next_chunk += 1;
            resync.chunks.insert(chunk, Chunk { span, data: None, hashes: None, since: self.now });
            self.disk.read(Job::Chunk { peer, chunk }, span, &mut self.outputs);
            let (promotion, written) = (primary.wire, primary.next() - 1);
            let Some(link) = &self.peers[peer].link else { return };
            let (peer, connection) = (self.peers[peer].node.clone(), link.connection);
            let message = Message::Compare { promotion, chunk, span, written };
            self.outputs.push_back(Output::Send { peer, connection, message });
        }
    }

    fn chunk(&mut self, peer: usize, chunk: u64) -> Option<&mut Chunk> {
        self.peers[peer].resync.as_mut().and_then(|resync| resync.chunks.get_mut(&chunk))
    }

    pub(crate) fn chunk_read(&mut self, op: DiskOpId, peer: usize, chunk: u64, outcome: DiskOutcome) {
        self.disk.unlock(op, &mut self.outputs);
        match outcome {
            DiskOutcome::Data(data) => {
                if let Some(chunk) = self.chunk(peer, chunk) {
                    chunk.data = Some(data);
                }
                self.compare(peer, chunk);
            }
            DiskOutcome::Failed(error) if self.primary.is_some() => self.local_refused(error),
            DiskOutcome::Failed(error) => self.fail(error),
            DiskOutcome::Done => {}
        }
    }

    pub(crate) fn peer_hashed(&mut self, peer: usize, promotion: Epoch, name: u64, hashes: Vec<[u8; 32]>) {
        let current = self.primary.as_ref().is_some_and(|primary| primary.wire == promotion);
        if !current || !self.peers[peer].follows(promotion) {
            return;
        }
        let Some(chunk) = self.chunk(peer, name) else { return };
        if hashes.len() as u64 != chunk.span.length.div_ceil(BLOCK) {
            self.refuse(peer, alloc::format!("{} hashes for chunk {name}", hashes.len()));
            return;
        }
        chunk.hashes = Some(hashes);
        self.compare(peer, name);
    }

    /// Sends what differs, once both sides are there, and opens the range for writes again.
    fn compare(&mut self, peer: usize, name: u64) {
        let Some(resync) = &mut self.peers[peer].resync else { return };
        if !resync.chunks.get(&name).is_some_and(|chunk| chunk.data.is_some() && chunk.hashes.is_some()) {
            return;
        }
        let Some(Chunk { span, data: Some(data), hashes: Some(theirs), .. }) = resync.chunks.remove(&name) else {
            return;
        };
        resync.progress.compared += span.length;
        let differs: Vec<bool> = hashes(&data).iter().zip(&theirs).map(|(ours, theirs)| ours != theirs).collect();
        resync.differs = differs.contains(&true);
        for (block, _) in differs.iter().enumerate().filter(|(_, differs)| **differs) {
            let start = block as u64 * BLOCK;
            let end = (start + BLOCK).min(span.length).min(data.len() as u64);
            if let Some(resync) = &mut self.peers[peer].resync {
                resync.progress.sent += end - start;
            }
            self.counters.resync_bytes += end - start;
            let part = Span { offset: span.offset + start, length: end - start, ..span };
            let content = content_of(data.slice(start as usize..end as usize));
            self.order(None, part, content, false, 1 << peer, false);
        }
        self.unpark();
    }

    pub(crate) fn joiner_flushed(&mut self, peer: usize) {
        let now = self.now;
        if let Some(resync) = self.peers[peer].resync.as_mut().filter(|resync| resync.state == State::Flushing) {
            (resync.state, resync.asked) = (State::Settling, now);
            self.settle_peer(peer);
        }
    }

    pub(crate) fn peer_adopted(&mut self, peer: usize, promotion: Epoch) {
        let current = self.primary.as_ref().is_some_and(|primary| primary.wire == promotion);
        if current && self.peers[peer].follows(promotion) && self.resync_state(peer) == Some(State::Settling) {
            self.set_resync_state(peer, State::Ready);
        }
    }

    /// The register moved on: a growth that was proposed against the epoch before cannot happen any more.
    pub(crate) fn growth_undecided_no_more(&mut self) {
        let Some(promotion) = self.primary.as_ref().map(|primary| primary.wire) else { return };
        for peer in 0..self.peers.len() {
            if self.resync_state(peer) != Some(State::Proposed) {
                continue;
            }
            let same = self.peers[peer].resync.as_ref().map(|resync| resync.open) == self.peers[peer].open();
            if same && self.peers[peer].follows(promotion) {
                self.set_resync_state(peer, State::Ready);
            } else {
                self.drop_resync(peer);
            }
        }
    }

    /// Its connection ended. A joiner whose growth is undecided stays required.
    pub(crate) fn joiner_lost(&mut self, peer: usize) {
        let undecided = self.grows(peer) && !self.config.mutations.stop_waiting_on_unknown_grow();
        if self.peers[peer].resync.is_some() && !undecided {
            self.drop_resync(peer);
        }
    }

    /// Gives a resync up, unless the growth is undecided.
    pub(crate) fn abandon_resync(&mut self, peer: usize, why: &str) {
        let undecided = self.grows(peer) && !self.config.mutations.stop_waiting_on_unknown_grow();
        if self.peers[peer].resync.is_some() && !undecided {
            self.drop_resync(peer);
            self.disconnect(peer, String::from(why));
        }
    }

    /// The joiner does not keep up: begin again later, over a new connection with empty queues.
    pub(crate) fn stall_resync(&mut self, peer: usize) {
        let other = &mut self.peers[peer];
        other.resync_after = self.now + self.config.peer_timeout * (1 << other.stalls.min(4));
        other.stalls += 1;
        self.abandon_resync(peer, "its resync stalled");
    }

    pub(crate) fn drop_resync(&mut self, peer: usize) {
        self.peers[peer].resync = None;
        if let Some(primary) = &mut self.primary {
            primary.flushes.retain(|_, flush| flush.purpose != Purpose::Joiner(peer));
        }
        if self.members() & (1 << peer) == 0 {
            self.forget_acknowledgements(peer);
        }
        self.require();
        self.unpark();
    }
}
