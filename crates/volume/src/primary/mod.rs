//! Serving: what a replica knows and does while the register shows it as primary.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::String,
    vec::Vec,
};
use tandem_base::{Change, Configuration, Epoch, Instant};

use crate::{
    Event, Message, Output, Replica, Reply, Request, RequestError, RequestId, disk::Job, message::Span, meta::Chapter,
};

mod flush;
mod members;
mod read;
mod regions;
mod release;
pub(crate) mod resync;
mod takeover;
mod write;

pub(crate) use flush::{Flush, Purpose};
pub(crate) use takeover::Takeover;
pub(crate) use write::{Entry, Local};

/// A request that waits for its turn.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) request: RequestId,
    pub(crate) what: Request,
}

/// A removal that is being prepared.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// Peers, as a mask.
    pub(crate) peers: u64,
    pub(crate) why: String,
    /// The local flush before it is done, and the removal is proposed.
    pub(crate) proposed: bool,
}

/// What the primary knows. Peers are bits: 1 << index.
#[derive(Debug)]
pub(crate) struct Primary {
    /// The epoch that made this replica primary.
    pub(crate) promotion: Epoch,
    /// The epoch that writes are numbered in; another one only by a deliberate mistake.
    pub(crate) wire: Epoch,
    pub(crate) since: Instant,
    /// Reconciling before the first request; `None` once serving.
    pub(crate) takeover: Option<Takeover>,
    pub(crate) releasing: bool,
    /// Everything is durable everywhere, for the release.
    pub(crate) release_flushed: bool,
    /// Writes that are not committed, or not stored by everyone they were sent to; sequence numbers are contiguous.
    pub(crate) entries: VecDeque<Entry>,
    /// Sequence number of the first entry, or the next one.
    pub(crate) first: u64,
    /// Everything up to here is committed.
    pub(crate) committed: u64,
    /// The highest write that is done: of those that a flush may mean, the last.
    pub(crate) last_done: u64,
    /// Replicas whose acknowledgement a reply needs, besides this one.
    pub(crate) required: u64,
    /// Requests that wait: for the takeover, a chunk of a resync, or the end of the promotion.
    pub(crate) parked: VecDeque<Parked>,
    /// Answers that wait for the lease check.
    pub(crate) ready: VecDeque<(RequestId, Result<Reply, RequestError>)>,
    pub(crate) flushes: BTreeMap<u64, Flush>,
    pub(crate) next_flush: u64,
    pub(crate) leaving: Option<Leaving>,
    /// A local sync failed while no other replica was in sync: no later one is believed.
    pub(crate) sync_failed: Option<String>,
    /// What was last noted as the cause of standing still.
    noted: Option<String>,
}

impl Primary {
    /// The sequence number of the next write.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Every write is stored here up to this one.
    pub(crate) fn held(&self) -> u64 {
        let pending = self.entries.iter().position(|entry| entry.local != Local::Stored);
        self.first + pending.unwrap_or(self.entries.len()) as u64 - 1
    }

    /// The watermark that messages carry; 0 until the takeover barrier is passed.
    pub(crate) fn watermark(&self) -> u64 {
        if self.takeover.is_some() { 0 } else { self.committed }
    }
}

/// The peers of a mask.
pub(crate) fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| mask & (1 << bit) != 0)
}

impl Replica {
    /// Members besides this replica, by the register.
    pub(crate) fn members(&self) -> u64 {
        let in_sync = &self.register.applied().in_sync;
        let member = |index: &usize| in_sync.contains_key(&self.peers[*index].node);
        (0..self.peers.len()).filter(member).map(|index| 1 << index).sum()
    }

    /// Whether what `peer` says now counts for the member of its name: only from the run that the register lists.
    pub(crate) fn speaks_for_member(&self, peer: usize) -> bool {
        let listed = self.register.applied().in_sync.get(&self.peers[peer].node);
        match (listed, self.peers[peer].open()) {
            (Some(listed), Some(open)) => *listed == open || self.config.mutations.count_flush_from_old_open(),
            _ => false,
        }
    }

    /// Whether no other replica must hold what this one holds, in any configuration that may come to be.
    pub(crate) fn is_alone(&self) -> bool {
        let joining = self.peers.iter().any(|peer| peer.resync.as_ref().is_some_and(|resync| resync.required));
        self.members() == 0 && !joining
    }

    /// Brings `required` up to date and looks again at everything that waits for it.
    ///
    /// Required are the members of the newest configuration, and joiners from their barrier on: with a growth undecided
    /// the joiner may be a member already; with a removal undecided the member may still be one.
    pub(crate) fn require(&mut self) {
        let mut required = self.members();
        for (index, peer) in self.peers.iter().enumerate() {
            if peer.resync.as_ref().is_some_and(|resync| resync.required) {
                required |= 1 << index;
            }
        }
        if self.config.mutations.ack_before_shrink_commit()
            && let Some(Leaving { peers, proposed: true, .. }) = self.primary.as_ref().and_then(|p| p.leaving.as_ref())
        {
            required &= !peers;
        }
        let Some(primary) = &mut self.primary else { return };
        let more = required & !primary.required;
        primary.required = required;
        for peer in bits(more) {
            self.flush_also(peer);
        }
        self.look_at_writes();
        self.look_at_flushes();
    }

    /// A request came. Before anything else: it belongs to this promotion, or it fails for ever.
    pub(crate) fn submitted(&mut self, request: RequestId, promotion: Epoch, what: Request) {
        self.counters.requests += 1;
        if self.primary.as_ref().is_none_or(|primary| primary.promotion != promotion) {
            self.answer(request, Err(RequestError::Superseded));
            return;
        }
        let span = match &what {
            Request::Read { volume, offset, length } => {
                Some(Span { volume: *volume, offset: *offset, length: u64::from(*length) })
            }
            Request::Write { volume, offset, data, .. } => {
                Some(Span { volume: *volume, offset: *offset, length: data.len() as u64 })
            }
            Request::Zero { volume, offset, length, .. } => {
                Some(Span { volume: *volume, offset: *offset, length: *length })
            }
            Request::Flush => None,
        };
        let known = |span: &Span| usize::from(span.volume.0) < self.config.volumes.len();
        let too_long = matches!(&what, Request::Write { data, .. } if data.len() > crate::wire::PAYLOAD_MAX);
        if span.is_some_and(|span| !known(&span) || !self.within(&span)) || too_long {
            self.answer(request, Err(RequestError::OutOfRange));
            return;
        }
        let held = !self.may_serve() || self.must_wait_for_lease();
        match &self.primary {
            Some(primary) if held || primary.parked_before(&what) || self.crosses_chunk(&what) => {
                self.park(Parked { request, what });
            }
            _ => self.begin(request, what),
        }
    }

    fn park(&mut self, parked: Parked) {
        if let Some(primary) = &mut self.primary {
            primary.parked.push_back(parked);
        }
    }

    /// Whether requests are worked on.
    fn may_serve(&self) -> bool {
        let serving = self.primary.as_ref().is_some_and(|primary| primary.takeover.is_none() && !primary.releasing);
        serving && !self.disk_stands_still()
    }

    /// By a deliberate mistake, the lease is checked here instead of before the reply.
    fn must_wait_for_lease(&self) -> bool {
        self.config.mutations.lease_checked_before_io() && self.now >= self.lease_until
    }

    fn begin(&mut self, request: RequestId, what: Request) {
        match what {
            Request::Read { volume, offset, length } => {
                self.begin_read(request, Span { volume, offset, length: u64::from(length) });
            }
            Request::Write { volume, offset, data, fua } => {
                let content = crate::Content::Data(data);
                self.begin_write(request, volume, offset, content, fua);
            }
            Request::Zero { volume, offset, length, fua, keep_allocated } => {
                let content = crate::Content::Zero { length, keep_allocated };
                self.begin_write(request, volume, offset, content, fua);
            }
            Request::Flush => self.begin_flush(Purpose::Request(request)),
        }
    }

    /// Looks again at the requests that wait, in their order.
    pub(crate) fn unpark(&mut self) {
        if !self.may_serve() || self.must_wait_for_lease() {
            return;
        }
        let Some(primary) = &mut self.primary else { return };
        let waiting = core::mem::take(&mut primary.parked);
        for parked in waiting {
            let behind = self.primary.as_ref().is_some_and(|primary| primary.parked_before(&parked.what));
            if behind || self.crosses_chunk(&parked.what) {
                self.park(parked);
            } else {
                self.begin(parked.request, parked.what);
            }
        }
    }

    /// Whether answers may leave now. The lease check: a reply is safe at an instant at which the lease holds and the
    /// register, as it was when the lease was confirmed, shows this promotion. No other replica can have been promoted
    /// before the lease ends, so no other has acknowledged anything that this answer does not know of.
    pub(crate) fn may_reply(&self) -> bool {
        let lease = self.now < self.lease_until || self.config.mutations.lease_checked_before_io();
        let current = self.primary.as_ref().is_some_and(|primary| !self.register.is_over(primary.promotion));
        lease && current && !self.disk_stands_still()
    }

    fn disk_stands_still(&self) -> bool {
        self.failed.is_some() && !self.is_alone()
    }

    pub(crate) fn release_replies(&mut self) {
        if self.config.mutations.lease_checked_before_io()
            && self.primary.as_ref().is_some_and(|p| !p.parked.is_empty())
        {
            self.unpark();
        }
        if self.primary.as_ref().is_some_and(|primary| !primary.ready.is_empty()) && self.may_reply() {
            let ready = self.primary.as_mut().map(|primary| core::mem::take(&mut primary.ready));
            for (request, result) in ready.into_iter().flatten() {
                self.answer(request, result);
            }
        }
    }

    pub(crate) fn ready(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        if let Some(primary) = &mut self.primary {
            primary.ready.push_back((request, result));
        }
    }

    /// Why no reply leaves, in words.
    pub(crate) fn frozen(&self) -> Option<String> {
        let primary = self.primary.as_ref()?;
        if self.disk_stands_still() {
            return self.failed.as_ref().map(|why| format!("the local disk failed ({why}); the service must move"));
        }
        if self.lease_until == Instant::ZERO {
            return Some("the cluster has not granted a lease yet".into());
        }
        if self.now >= self.lease_until {
            return Some("the lease is over: the cluster's majority is out of reach".into());
        }
        let waiting = primary.leaving.as_ref()?;
        if primary.flushes.is_empty() && primary.entries.iter().all(|entry| entry.done) {
            return None;
        }
        let names: Vec<_> = bits(waiting.peers).map(|peer| self.peers[peer].node.as_str()).collect();
        Some(format!("waits for the cluster to commit that {} left: {}", names.join(", "), waiting.why))
    }

    pub(crate) fn note_frozen(&mut self) {
        if self.primary.is_none() {
            return;
        }
        let why = self.frozen();
        let Some(primary) = &mut self.primary else { return };
        if primary.noted != why {
            let event = match &why {
                Some(why) => Event::Frozen { why: why.clone() },
                None => Event::Thawed,
            };
            primary.noted = why;
            self.outputs.push_back(Output::Note(event));
        }
    }

    /// The promotion is over: every request of it fails for ever. What is not known to be committed stays remembered as
    /// unsettled, for the next primary.
    pub(crate) fn end_promotion(&mut self, why: String) {
        self.close_chapter();
        let Some(mut primary) = self.primary.take() else { return };
        for peer in 0..self.peers.len() {
            self.peers[peer].resync = None;
        }
        let mut requests: Vec<RequestId> = primary.ready.iter().map(|(request, _)| *request).collect();
        for (at, entry) in primary.entries.iter().enumerate() {
            if !entry.done {
                self.unsettled.add(primary.wire, primary.first + at as u64, entry.span());
                requests.extend(entry.request);
            }
        }
        if self.config.mutations.thaw_by_role() {
            self.kept.append(&mut requests);
        }
        requests.extend(primary.parked.drain(..).map(|parked| parked.request));
        requests.extend(primary.flushes.values().filter_map(|flush| flush.purpose.request()));
        for job in self.disk.jobs() {
            if let Job::Read { promotion, request } = job
                && *promotion == primary.promotion
            {
                requests.push(*request);
            }
        }
        for request in requests {
            self.answer(request, Err(RequestError::Superseded));
        }
        self.outputs.push_back(Output::Ended { promotion: primary.promotion, why });
        // What the disk has not begun is dropped, what it has finished gives its range free.
        let mine = |job: &Job| !matches!(job, Job::Follow { .. } | Job::Hash { .. });
        self.disk.cancel_waiting(&mut self.outputs, mine);
        for entry in &primary.entries {
            if let Some(op) = entry.op
                && self.disk.is_finished(op)
            {
                self.disk.unlock(op, &mut self.outputs);
            }
        }
    }

    /// A later epoch of the same promotion was applied.
    pub(crate) fn membership_changed(&mut self, before: &Configuration) {
        let now = self.register.applied().in_sync.clone();
        let leaving = self.primary.as_mut().and_then(|primary| {
            // A member that has joined since must flush before a release, too.
            primary.release_flushed = false;
            primary.leaving.take()
        });
        let mut gone = Vec::new();
        for (node, open) in &before.in_sync {
            if now.get(node) != Some(open)
                && let Some(peer) = self.peer_index(node)
            {
                let why = match &leaving {
                    Some(leaving) if leaving.peers & (1 << peer) != 0 => leaving.why.clone(),
                    _ => "its run ended, by the cluster's log".into(),
                };
                self.counters.shrinks += 1;
                self.outputs.push_back(Output::Note(Event::MemberLeft { node: node.clone(), why }));
                gone.push(peer);
            }
        }
        for (node, open) in &now {
            if before.in_sync.get(node) != Some(open)
                && let Some(peer) = self.peer_index(node)
            {
                self.counters.grows += 1;
                self.peers[peer].resync = None;
                self.peers[peer].stalls = 0;
                self.outputs.push_back(Output::Note(Event::MemberJoined { node: node.clone() }));
            }
        }
        for peer in gone {
            self.peers[peer].resync = None;
            if !now.contains_key(&self.peers[peer].node) {
                self.forget_acknowledgements(peer);
            }
            let silent = self.now.since(self.peers[peer].heard) >= self.config.peer_timeout;
            if silent && self.peers[peer].link.is_some() {
                // Whatever is in that connection's queues would only delay the way back.
                self.disconnect(peer, "silent".into());
            }
        }
        if let Some(why) = self.primary.as_ref().and_then(|primary| primary.sync_failed.clone())
            && !self.is_alone()
        {
            // Alone there was nobody better. Whoever joined was flushed, while here pages look clean that are not on the
            // disk: the service moves there, and this replica is rewritten.
            self.fail(crate::DiskError::Io(why));
        }
        self.growth_undecided_no_more();
        self.require();
        self.unpark();
        for peer in 0..self.peers.len() {
            self.begin_resync_if_due(peer);
        }
    }

    /// Asks a greeted peer to follow, once this replica's own promise is durable.
    pub(crate) fn lead(&mut self, peer: usize) {
        let Some(primary) = &self.primary else { return };
        let promotion = primary.wire;
        let durable = self.promised == promotion && self.promised_durable == promotion;
        let failed = self.peers[peer].failed.is_some();
        if let Some(link) = &mut self.peers[peer].link
            && link.open.is_some()
            && link.led != Some(promotion)
            && durable
            && !failed
        {
            link.led = Some(promotion);
            self.send(peer, Message::Lead { promotion });
        }
    }

    /// A peer follows this promotion on its present connection.
    pub(crate) fn peer_promised(&mut self, peer: usize, promotion: Epoch, unsettled: Vec<Span>, history: Vec<Chapter>) {
        let Some(primary) = &self.primary else { return };
        let asked = self.peers[peer].link.as_ref().is_some_and(|link| link.led == Some(promotion));
        if primary.wire != promotion || !asked {
            return;
        }
        if let Some(outside) = unsettled.iter().find(|span| usize::from(span.volume.0) >= self.config.volumes.len()) {
            self.refuse(peer, format!("an unsettled range in volume {}", outside.volume.0));
            return;
        }
        if let Some(link) = &mut self.peers[peer].link {
            link.following = Some(promotion);
            link.history = history;
        }
        if self.config.mutations.adopt_history_at_promise() {
            self.settle_peer(peer);
        }
        let joiner = self.peers[peer].resync.as_ref().map(|resync| resync.open);
        if self.speaks_for_member(peer) || (joiner.is_some() && joiner == self.peers[peer].open()) {
            if let Some(takeover) = self.primary.as_mut().and_then(|primary| primary.takeover.as_mut()) {
                takeover.answered(peer, &unsettled);
            }
            self.send_again(peer);
            let serving = self.primary.as_ref().is_some_and(|primary| primary.takeover.is_none());
            if serving && self.speaks_for_member(peer) {
                self.settle_peer(peer);
            }
        } else {
            self.begin_resync_if_due(peer);
        }
        self.look_at_members();
    }

    /// Tells a peer that holds all there is that it does.
    pub(crate) fn settle_peer(&mut self, peer: usize) {
        let Some(promotion) = self.primary.as_ref().map(|primary| primary.wire) else { return };
        if self.peers[peer].follows(promotion) {
            let history = self.history();
            self.send(peer, Message::Settled { promotion, history });
        }
    }

    /// Whether a change of this kind is undecided.
    pub(crate) fn undecided(&self, which: impl Fn(&Change) -> bool) -> bool {
        self.register.possible().iter().any(|proposal| which(&proposal.change))
    }
}
