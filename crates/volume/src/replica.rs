//! The replica as a state machine: its type, and where each input goes.

use alloc::{collections::VecDeque, vec::Vec};
use tandem_base::{Change, Configuration, Duration, Epoch, Instant, OpenId, Rng};

use crate::{
    DiskOp, DiskOpId, DiskOutcome, Input, Output, ReplicaConfig, Reply, RequestError, RequestId,
    disk::{Disk, Job},
    meta::Memory,
    peers::Peer,
    primary::Primary,
    register::Register,
    remember::Remembered,
    secondary::Follower,
    status::Counters,
    superblock::{PREVIOUS_MAX, Superblock},
    unsettled::Unsettled,
};

/// One replica of a volume group.
///
/// Call [`handle`](Self::handle) once per event, then [`poll_output`](Self::poll_output) until it returns `None`, then
/// sleep until [`poll_timeout`](Self::poll_timeout) and hand in [`Input::TimedOut`].
///
/// Why an acknowledged write survives, in short; each step is argued where it is done:
/// - a write is acknowledged only when every member of every configuration that the register may show holds it
///   (`primary::write`), and only by a primary whose lease holds while the register shows its promotion
///   (`primary::may_reply`);
/// - a primary is made only from a member, so it holds every acknowledged write; before it serves, the members promise
///   to refuse earlier primaries and take over its content wherever replicas can differ (`primary::takeover`);
/// - a replica leaves or joins the required set only by a committed change (`primary::members`, `primary::resync`).
#[derive(Debug)]
pub struct Replica {
    pub(crate) config: ReplicaConfig,
    pub(crate) open: OpenId,
    pub(crate) now: Instant,
    rng: Rng,
    /// The superblock holds this run.
    pub(crate) opened: bool,
    previous: Vec<OpenId>,
    /// The register has shown this run as a member.
    member: bool,
    /// An earlier run's disk failed, and this replica was not brought in sync since: what it reads back is not to be
    /// trusted, because pages that never reached the disk may look clean.
    pub(crate) suspect: bool,
    superblock_sequence: u64,
    /// The promise that a store in flight makes durable.
    storing: Option<Epoch>,
    /// The superblock changed again meanwhile.
    store_again: bool,
    /// The highest promotion that this replica follows or leads; it refuses lower ones.
    pub(crate) promised: Epoch,
    pub(crate) promised_durable: Epoch,
    pub(crate) register: Register,
    /// The cluster wants the group served here.
    pub(crate) wanted: bool,
    pub(crate) lease_until: Instant,
    pub(crate) disk: Disk,
    /// The disk refused something, in words.
    pub(crate) failed: Option<alloc::string::String>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) unsettled: Unsettled,
    pub(crate) remembered: Remembered,
    pub(crate) follower: Follower,
    pub(crate) primary: Option<Primary>,
    /// Requests of an earlier promotion, kept by a deliberate mistake.
    pub(crate) kept: Vec<RequestId>,
    /// Names chunks of resyncs, never twice in a run: an answer to an abandoned one must not be taken for another's.
    pub(crate) next_chunk: u64,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counters: Counters,
    next_tick: Instant,
}

impl Replica {
    /// Starts a run. `stored` is what the disk holds, the superblock checked with [`crate::superblock::check`]; `open` is
    /// random and new; `seed` feeds the tags of proposals.
    ///
    /// # Panics
    ///
    /// With more than 63 peers, or more volumes than a superblock holds: the plan allows neither.
    #[must_use]
    pub fn start(
        config: ReplicaConfig,
        stored: Option<(Superblock, Memory)>,
        open: OpenId,
        seed: u64,
        now: Instant,
    ) -> Self {
        let (stored, memory) = stored.map_or((None, Memory::default()), |(stored, memory)| (Some(stored), memory));
        let suspect = stored.as_ref().is_some_and(|stored| stored.failed);
        let (remembered, unknown) = Remembered::load(&config, memory, stored.is_some(), suspect);
        let mut disk = Disk::new(config.grain, config.hot_max, config.mutations.write_before_hot());
        unknown.into_iter().for_each(|extent| disk.hot.add_unknown(extent));
        assert!(config.peers.len() < 64, "a group has at most 64 replicas");
        assert!(config.volumes.len() <= crate::superblock::VOLUMES_MAX, "a superblock holds so many volumes");
        let peers = config.peers.iter().filter(|peer| **peer != config.node);
        let promised = stored.as_ref().map_or_else(Epoch::default, |stored| stored.promised);
        let mut replica = Self {
            peers: peers.map(|peer| Peer::new(peer.clone(), now)).collect(),
            register: Register::new(config.node.clone(), open),
            config,
            open,
            now,
            rng: Rng::new(seed),
            opened: false,
            // What a failed run held is not to be trusted: the register must not take this run for its successor.
            previous: stored.as_ref().filter(|stored| !stored.failed).map(earlier_runs).unwrap_or_default(),
            member: false,
            suspect,
            superblock_sequence: stored.as_ref().map_or(0, |stored| stored.sequence),
            storing: None,
            store_again: false,
            promised,
            promised_durable: promised,
            wanted: false,
            lease_until: Instant::ZERO,
            disk,
            failed: None,
            unsettled: Unsettled::default(),
            remembered,
            follower: Follower::default(),
            primary: None,
            kept: Vec::new(),
            next_chunk: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            next_tick: now,
        };
        replica.store_superblock();
        replica
    }

    /// Feeds one event in. `now` must not go backwards.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        self.disk.hot.tick(self.now);
        match input {
            Input::Submitted { request, promotion, what } => self.submitted(request, promotion, what),
            Input::DiskCompleted { op, outcome } => self.disk_completed(op, outcome),
            Input::PeerConnected { peer, connection } => self.peer_connected(peer, connection),
            Input::PeerLost { peer, connection } => self.peer_lost(&peer, connection),
            Input::PeerSaid { peer, connection, message } => self.peer_said(&peer, connection, message),
            Input::Configured(configuration) => self.configured(configuration),
            Input::LeaseGranted { until } => self.lease_until = self.lease_until.max(until),
            Input::ServeOrdered => {
                self.wanted = true;
                self.want_promotion();
            }
            Input::ReleaseOrdered => {
                self.wanted = false;
                self.begin_release();
            }
            Input::TimedOut => {}
        }
        if self.now >= self.next_tick {
            self.next_tick = self.now + self.tick_length();
            self.tick();
        }
        self.advance();
    }

    /// The next thing to do, in order.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::TimedOut`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let busy = self.primary.is_some() || !self.register.possible().is_empty();
        let lease = (self.primary.is_some() && self.now < self.lease_until).then_some(self.lease_until);
        let tick = busy.then_some(self.next_tick.max(self.now));
        lease.into_iter().chain(tick).chain(self.memory_due().map(|due| due.max(self.now))).min()
    }

    fn tick_length(&self) -> Duration {
        Duration::from_nanos((self.config.heartbeat.as_nanos() / 5).max(1_000_000))
    }

    /// What time alone brings about.
    fn tick(&mut self) {
        if let Some(proposal) = self.register.repeat(self.now, self.config.proposal_retry)
            && (self.wanted || proposal.change != Change::Promote)
        {
            self.outputs.push_back(Output::Propose(proposal));
        }
        self.heartbeats();
        self.look_at_members();
        self.begin_due_resyncs();
    }

    /// Restores what must hold after every event.
    fn advance(&mut self) {
        self.advance_takeover();
        self.advance_joiners();
        self.advance_release();
        self.advance_memory();
        self.release_replies();
        self.note_frozen();
    }

    pub(crate) fn propose(&mut self, change: Change) {
        let proposal = self.register.propose(self.now, self.rng.next_u64(), change);
        self.outputs.push_back(Output::Propose(proposal));
    }

    pub(crate) fn answer(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        self.counters.replies += 1;
        self.outputs.push_back(Output::Reply { request, result });
    }

    fn configured(&mut self, configuration: Configuration) {
        let Some(before) = self.register.apply(configuration) else { return };
        let promotion = |configuration: &Configuration| configuration.primary.as_ref().map(|primary| primary.promotion);
        let elsewhere = !self.register.applied().is_primary(&self.config.node, self.open);
        if elsewhere && promotion(self.register.applied()).is_some_and(|now| promotion(&before) != Some(now)) {
            // Another replica was promoted, so the group's place is there; an order of before is no order any more.
            self.wanted = false;
        }
        if !self.member && self.register.applied().is_member(&self.config.node, self.open) {
            self.member = true;
            self.suspect = false;
            self.store_superblock();
        }
        if let Some(primary) = &self.primary
            && self.register.is_over(primary.promotion)
        {
            let now = self.register.applied();
            let why = match &now.primary {
                Some(other) => alloc::format!("{} was promoted in {}", other.node, now.epoch),
                None => alloc::format!("released in {}", now.epoch),
            };
            self.end_promotion(why);
        }
        if self.primary.is_some() {
            self.membership_changed(&before);
        } else if self.register.applied().is_primary(&self.config.node, self.open) {
            self.begin_takeover();
        }
        self.want_promotion();
    }

    /// Asks to become primary, when that is wanted and may be granted.
    pub(crate) fn want_promotion(&mut self) {
        let applied = self.register.applied();
        let member = applied.is_member(&self.config.node, self.open);
        let asked = self.register.possible().iter().any(|proposal| proposal.change == Change::Promote);
        // A replica whose disk failed is still listed, but must not serve.
        if self.wanted && self.opened && self.failed.is_none() && self.primary.is_none() && member && !asked {
            self.propose(Change::Promote);
        }
    }

    /// Has the current state stored; one store at a time.
    pub(crate) fn store_superblock(&mut self) {
        if self.storing.is_some() {
            self.store_again = true;
            return;
        }
        self.superblock_sequence += 1;
        self.storing = Some(self.promised);
        let superblock = Superblock {
            cluster: self.config.cluster,
            group: self.config.group.clone(),
            node: self.config.node.clone(),
            sequence: self.superblock_sequence,
            promised: self.promised,
            open: self.open,
            previous: self.previous.clone(),
            member: self.member,
            clean: false,
            failed: self.failed.is_some() || self.suspect,
            volumes: self.config.volumes.clone(),
        };
        self.disk.start(Job::Superblock, &mut self.outputs, |op| DiskOp::StoreSuperblock { op, superblock });
    }

    /// Whether a store of the superblock is under way.
    pub(crate) fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    fn superblock_stored(&mut self, outcome: DiskOutcome) {
        let Some(promised) = self.storing.take() else { return };
        if let DiskOutcome::Failed(error) = outcome {
            self.store_again = false;
            // Alone, a promise binds nobody else; otherwise this replica must not go on with one that is not durable.
            if self.opened && self.primary.is_some() && self.is_alone() {
                self.promised_durable = self.promised;
            } else {
                self.fail(error);
            }
            return;
        }
        self.promised_durable = promised;
        if !self.opened && self.failed.is_none() {
            self.opened = true;
            self.outputs.push_back(Output::Opened { open: self.open, previous: self.previous.clone() });
            for peer in 0..self.peers.len() {
                self.say_hello(peer);
            }
            self.want_promotion();
        }
        if core::mem::take(&mut self.store_again) {
            self.store_superblock();
        }
        self.answer_lead();
        for peer in 0..self.peers.len() {
            self.lead(peer);
        }
    }

    pub(crate) fn disk_completed(&mut self, op: DiskOpId, outcome: DiskOutcome) {
        let done = !matches!(outcome, DiskOutcome::Failed(_));
        match self.disk.completed(op, done, &mut self.outputs) {
            Some(Job::Superblock) => self.superblock_stored(outcome),
            Some(Job::Activity) => self.activity_stored(outcome),
            Some(Job::RetiredStamps) => self.stamps_stored(outcome),
            Some(Job::AllStamps) => self.all_stamps_stored(outcome),
            Some(Job::Retire) => self.synced_for_retirement(outcome),
            Some(Job::Local { promotion, sequence }) => self.local_stored(op, promotion, sequence, outcome),
            Some(Job::Follow { promotion, sequence }) => self.follow_stored(op, promotion, sequence, outcome),
            Some(Job::Read { promotion, request }) => self.read_done(op, promotion, request, outcome),
            Some(Job::Chunk { peer, chunk }) => self.chunk_read(op, peer, chunk, outcome),
            Some(Job::Hash { connection, peer, promotion, chunk }) => {
                self.hash_read(op, (peer, connection), promotion, chunk, outcome);
            }
            Some(Job::Piece { promotion, span }) => self.piece_read(op, promotion, span, outcome),
            Some(Job::Flush { promotion, flush }) => self.local_flushed(promotion, flush, outcome),
            Some(Job::Shrink { promotion }) => self.flushed_before_shrink(promotion, outcome),
            Some(Job::FollowFlush { connection, peer, promotion, flush, stored }) => {
                self.follow_flushed((peer, connection), promotion, (flush, stored), outcome);
            }
            Some(Job::Ahead { promotion, stored }) => self.synced_ahead(promotion, stored, outcome),
            None => {}
        }
    }
}

/// The runs that the register may know, seen from the next one: those back to the newest that was a member.
fn earlier_runs(stored: &Superblock) -> Vec<OpenId> {
    let mut runs = alloc::vec![stored.open];
    if !stored.member {
        runs.extend_from_slice(&stored.previous);
    }
    if runs.len() > PREVIOUS_MAX {
        // The oldest was a member, if any was: it is the last to be forgotten.
        runs.drain(PREVIOUS_MAX - 1..runs.len() - 1);
    }
    runs
}
