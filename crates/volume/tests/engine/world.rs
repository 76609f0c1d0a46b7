//! A few replicas with disks in memory, a network, and a register, all in one thread.
//!
//! Whatever may happen in any order is drawn from the seed: which message, which disk operation comes next. Messages
//! pass through the wire codec.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use bytes::Bytes;
use tandem_base::{
    Change, ClusterId, Configuration, Duration, Epoch, GroupName, Instant, NodeName, OpenId, Primary, Proposal, Rng,
};
use tandem_volume::{
    ConnectionId, DiskError, DiskOp, DiskOpId, DiskOutcome, Event, Input, Message, Mutations, Output, Replica,
    ReplicaConfig, Reply, Request, RequestError, RequestId, Role, Superblock, VolumeIndex, VolumeSpec,
    meta::{Activity, Extent, ExtentStamps, Grain, Memory, activity},
    wire,
};

pub(crate) const VOLUME: u64 = 1 << 20;
/// Extents of 16 KiB, so that 64 make the volume.
pub(crate) const GRAIN: Grain = Grain { region: 4096, regions: 4, step: 1 };
pub(crate) const HOT_MAX: usize = 16;

thread_local! {
    /// Mistakes that replicas started by this thread make.
    pub(crate) static MISTAKES: Cell<Mutations> = const { Cell::new(Mutations::NONE) };
}

pub(crate) fn name(node: &str) -> NodeName {
    NodeName::new(node).expect("tests use good names")
}

pub(crate) struct Node {
    pub(crate) replica: Option<Replica>,
    pub(crate) data: Vec<u8>,
    pub(crate) superblock: Option<Superblock>,
    pub(crate) activity: Option<Activity>,
    pub(crate) stamps: BTreeMap<Extent, ExtentStamps>,
    pub(crate) open: OpenId,
    /// Operations the disk has not finished.
    pub(crate) pending: Vec<DiskOp>,
    /// Nothing completes.
    pub(crate) disk_held: bool,
    /// No sync completes.
    pub(crate) syncs_held: bool,
    /// Every operation is refused.
    pub(crate) disk_error: Option<DiskError>,
    /// Only syncs are refused, once each.
    pub(crate) sync_error: bool,
    /// Messages to it are not delivered, timers do not fire.
    pub(crate) paused: bool,
    pub(crate) lease: bool,
    pub(crate) expired: bool,
    pub(crate) serving: Option<Epoch>,
    pub(crate) ended: Vec<Epoch>,
    pub(crate) notes: Vec<Event>,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    /// (from, to) -> connection and messages under way.
    pub(crate) links: BTreeMap<(NodeName, NodeName), (ConnectionId, VecDeque<Message>)>,
    pub(crate) cut: BTreeSet<(NodeName, NodeName)>,
    /// What is under way from one node to another arrives later.
    pub(crate) held: Option<(NodeName, NodeName)>,
    pub(crate) register: Configuration,
    /// The log answers nobody.
    pub(crate) register_down: bool,
    /// What is proposed while the log is down; may be committed later.
    pub(crate) proposed: Vec<Proposal>,
    pub(crate) replies: BTreeMap<RequestId, (Instant, Result<Reply, RequestError>)>,
    pub(crate) tune: Box<dyn Fn(&mut ReplicaConfig)>,
    next: u64,
}

fn range(op: &DiskOp) -> Option<(DiskOpId, u64, u64, bool)> {
    match op {
        DiskOp::Read { op, offset, length, .. } => Some((*op, *offset, offset + u64::from(*length), true)),
        DiskOp::Write { op, offset, data, .. } => Some((*op, *offset, offset + data.len() as u64, false)),
        DiskOp::Zero { op, offset, length, .. } => Some((*op, *offset, offset + length, false)),
        DiskOp::Sync { .. }
        | DiskOp::StoreSuperblock { .. }
        | DiskOp::StoreActivity { .. }
        | DiskOp::StoreStamps { .. } => None,
    }
}

impl World {
    /// Replicas of a group, all members of epoch 0, connected.
    pub(crate) fn new(seed: u64, names: &[&str], tune: impl Fn(&mut ReplicaConfig) + 'static) -> Self {
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            rng: Rng::new(seed),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: None,
            register: Configuration::default(),
            register_down: false,
            proposed: Vec::new(),
            replies: BTreeMap::new(),
            tune: Box::new(tune),
            next: 0,
        };
        for node in names {
            let node = Node {
                replica: None,
                data: vec![0; VOLUME as usize],
                superblock: None,
                activity: None,
                stamps: BTreeMap::new(),
                open: OpenId(0),
                pending: Vec::new(),
                disk_held: false,
                syncs_held: false,
                disk_error: None,
                sync_error: false,
                paused: false,
                lease: true,
                expired: false,
                serving: None,
                ended: Vec::new(),
                notes: Vec::new(),
            }
            .named(node, &mut world);
            drop(node);
        }
        for node in names {
            world.start(node);
        }
        for (node, state) in &world.nodes {
            world.register.in_sync.insert(node.clone(), state.open);
        }
        world.settle();
        for node in names {
            world.show_register(&name(node));
        }
        world.settle();
        world
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn node(&mut self, node: &str) -> &mut Node {
        self.nodes.get_mut(&name(node)).expect("the test made it")
    }

    pub(crate) fn start(&mut self, node: &str) {
        let peers = self.nodes.keys().filter(|peer| **peer != name(node)).cloned().collect();
        let mut config = ReplicaConfig::new(
            ClusterId(7),
            GroupName::new("ledger").expect("a name"),
            name(node),
            peers,
            vec![VolumeSpec { name: "ledger".try_into().expect("a name"), size: VOLUME }],
        );
        config.mutations = MISTAKES.get();
        config.grain = GRAIN;
        config.hot_max = HOT_MAX;
        (self.tune)(&mut config);
        let (open, seed, now) = (OpenId(self.number() + 1000), self.rng.next_u64(), self.now);
        let state = self.node(node);
        state.open = open;
        let stamps = state.stamps.iter().map(|(extent, stamps)| (*extent, Some(stamps.clone()))).collect();
        let memory = Memory { activity: state.activity.clone(), stamps };
        let stored = state.superblock.clone().map(|superblock| (superblock, memory));
        state.replica = Some(Replica::start(config, stored, open, seed, now));
        self.drain(&name(node));
        self.show_register(&name(node));
    }

    /// The process dies; what its disk was told and has not done is lost.
    pub(crate) fn crash(&mut self, node: &str) {
        let state = self.node(node);
        state.replica = None;
        state.pending.clear();
        state.serving = None;
        let others: Vec<_> = self.nodes.keys().filter(|other| **other != name(node)).cloned().collect();
        for other in others {
            self.disconnect(&name(node), &other);
        }
    }

    /// Its disk makes way for a new one.
    pub(crate) fn replace_disk(&mut self, node: &str) {
        let state = self.node(node);
        state.data.fill(0);
        (state.superblock, state.activity) = (None, None);
        state.stamps.clear();
    }

    pub(crate) fn cut(&mut self, a: &str, b: &str) {
        self.cut.insert((name(a), name(b)));
        self.cut.insert((name(b), name(a)));
        self.disconnect(&name(a), &name(b));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    fn disconnect(&mut self, a: &NodeName, b: &NodeName) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some((connection, _)) = self.links.remove(&(from.clone(), to.clone())) {
                self.input(from, Input::PeerLost { peer: to.clone(), connection });
            }
        }
    }

    /// Connects whatever is not cut.
    pub(crate) fn connect(&mut self) -> bool {
        let alive: Vec<_> =
            self.nodes.iter().filter(|(_, state)| state.replica.is_some()).map(|(node, _)| node.clone()).collect();
        let mut new = false;
        for (at, a) in alive.iter().enumerate() {
            for b in &alive[at + 1..] {
                let (there, back) = ((a.clone(), b.clone()), (b.clone(), a.clone()));
                if self.links.contains_key(&there) || self.cut.contains(&there) {
                    continue;
                }
                let connection = ConnectionId(self.number());
                self.links.insert(there, (connection, VecDeque::new()));
                self.links.insert(back, (connection, VecDeque::new()));
                self.input(a, Input::PeerConnected { peer: b.clone(), connection });
                self.input(b, Input::PeerConnected { peer: a.clone(), connection });
                new = true;
            }
        }
        new
    }

    pub(crate) fn input(&mut self, node: &NodeName, input: Input) {
        let now = self.now;
        let Some(state) = self.nodes.get_mut(node) else { return };
        if let Some(replica) = &mut state.replica {
            replica.handle(now, input);
            self.drain(node);
        }
    }

    fn drain(&mut self, node: &NodeName) {
        while let Some(output) =
            self.nodes.get_mut(node).and_then(|state| state.replica.as_mut()).and_then(Replica::poll_output)
        {
            self.perform(node, output);
        }
    }

    fn perform(&mut self, node: &NodeName, output: Output) {
        let now = self.now;
        let state = self.nodes.get_mut(node).expect("it spoke");
        match output {
            Output::Reply { request, result } => {
                let twice = self.replies.insert(request, (now, result));
                assert!(twice.is_none(), "{request:?} was answered twice");
            }
            Output::Disk(op) => {
                if let Some((_, start, end, reads)) = range(&op) {
                    assert!(end <= VOLUME, "{op:?} ends behind the volume");
                    for other in state.pending.iter().filter_map(range) {
                        let overlap = start < other.2 && other.1 < end;
                        assert!(!overlap || (reads && other.3), "{op:?} overlaps {other:?}");
                    }
                }
                state.pending.push(op);
            }
            Output::Send { peer, connection, message } => {
                if let Some((current, queue)) = self.links.get_mut(&(node.clone(), peer))
                    && *current == connection
                {
                    queue.push_back(over_the_wire(message));
                }
            }
            Output::Disconnect { peer, connection, .. } => {
                if self.links.get(&(node.clone(), peer.clone())).is_some_and(|(current, _)| *current == connection) {
                    self.disconnect(node, &peer);
                }
            }
            Output::Opened { open, previous } => {
                // The cluster's log: a sole member that restarts keeps its place.
                let sole = self.register.in_sync.len() == 1;
                if sole && self.register.in_sync.get(node).is_some_and(|listed| previous.contains(listed)) {
                    self.register.in_sync.insert(node.clone(), open);
                    self.register.primary = None;
                    self.register.epoch = Epoch { number: self.register.epoch.number + 1, tag: 99 };
                    self.show_all();
                }
            }
            Output::Propose(proposal) => {
                if !self.proposed.contains(&proposal) {
                    self.proposed.push(proposal);
                }
                self.commit_proposals();
            }
            Output::Serving { promotion, .. } => state.serving = Some(promotion),
            Output::Ended { promotion, .. } => {
                state.serving = None;
                state.ended.push(promotion);
            }
            Output::Note(event) => state.notes.push(event),
        }
    }

    /// What the log does with proposals, while it is up.
    pub(crate) fn commit_proposals(&mut self) {
        if self.register_down {
            return;
        }
        for proposal in std::mem::take(&mut self.proposed) {
            // Without a lease a node does not reach the log either.
            if self.nodes[&proposal.node].lease {
                self.commit(&proposal);
            } else {
                self.proposed.push(proposal);
            }
        }
    }

    pub(crate) fn commit(&mut self, proposal: &Proposal) -> bool {
        let now = self.register.clone();
        let (node, open) = (&proposal.node, proposal.open);
        if proposal.expected != now.epoch {
            return false;
        }
        let mut next = now.clone();
        next.epoch = proposal.result();
        match &proposal.change {
            Change::Promote => {
                let free = now.primary.as_ref().is_none_or(|primary| self.nodes[&primary.node].expired);
                if !now.is_member(node, open) || !free {
                    return false;
                }
                next.primary = Some(Primary { node: node.clone(), open, promotion: next.epoch });
                next.in_sync.retain(|member, _| member == node || !self.nodes[member].expired);
            }
            _ if !now.is_primary(node, open) => return false,
            Change::Shrink(names) => next.in_sync.retain(|member, _| member == node || !names.contains(member)),
            Change::Grow { node, open } => {
                next.in_sync.insert(node.clone(), *open);
            }
            Change::Release => next.primary = None,
        }
        self.register = next;
        self.show_all();
        true
    }

    fn show_all(&mut self) {
        let nodes: Vec<_> = self.nodes.keys().cloned().collect();
        for node in nodes {
            self.show_register(&node);
        }
    }

    /// The node's agent applies the log, and renews the lease.
    pub(crate) fn show_register(&mut self, node: &NodeName) {
        let (register, until) = (self.register.clone(), self.now + Duration::from_secs(3));
        let state = &self.nodes[node];
        if !state.lease || self.register_down || state.paused {
            return;
        }
        self.input(node, Input::Configured(register));
        self.input(node, Input::LeaseGranted { until });
    }

    /// Delivers one message or finishes one disk operation. False when there is nothing left to do.
    pub(crate) fn step(&mut self) -> bool {
        let mut choices: Vec<Choice> = Vec::new();
        for ((from, to), (_, queue)) in &self.links {
            let held = self.held.as_ref() == Some(&(from.clone(), to.clone()));
            if !queue.is_empty() && !self.nodes[to].paused && !held {
                choices.push(Choice::Deliver(from.clone(), to.clone()));
            }
        }
        for (node, state) in &self.nodes {
            let free = |op: &DiskOp| !state.syncs_held || !matches!(op, DiskOp::Sync { .. });
            if !state.disk_held && !state.paused && state.pending.iter().any(free) {
                choices.push(Choice::Complete(node.clone()));
            }
        }
        if choices.is_empty() {
            return false;
        }
        let choice = choices.swap_remove(self.rng.below(choices.len() as u64) as usize);
        match choice {
            Choice::Deliver(from, to) => {
                let (connection, queue) = self.links.get_mut(&(from.clone(), to.clone())).expect("it was chosen");
                let (connection, message) = (*connection, queue.pop_front().expect("it was not empty"));
                self.input(&to, Input::PeerSaid { peer: from, connection, message });
            }
            Choice::Complete(node) => {
                let state = self.nodes.get_mut(&node).expect("it was chosen");
                let mut at = self.rng.below(state.pending.len() as u64) as usize;
                while state.syncs_held && matches!(state.pending[at], DiskOp::Sync { .. }) {
                    at = (at + 1) % state.pending.len();
                }
                let op = state.pending.remove(at);
                let (op, outcome) = state.carry_out(op);
                self.input(&node, Input::DiskCompleted { op, outcome });
            }
        }
        true
    }

    /// Ends the oldest sync of a node, of those that are held.
    pub(crate) fn end_one_sync(&mut self, node: &str) {
        let state = self.nodes.get_mut(&name(node)).expect("a node of this world");
        let at = state.pending.iter().position(|op| matches!(op, DiskOp::Sync { .. })).expect("a sync is under way");
        let op = state.pending.remove(at);
        let (op, outcome) = state.carry_out(op);
        self.input(&name(node), Input::DiskCompleted { op, outcome });
    }

    /// Until nothing is under way; time stands still.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200_000 {
            if !self.step() && !self.connect() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// A few steps only: what is under way stays so.
    pub(crate) fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Lets time pass, with everything that it brings about.
    pub(crate) fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(10) {
            self.now += Duration::from_millis(10);
            let nodes: Vec<_> = self.nodes.keys().cloned().collect();
            for node in nodes {
                self.show_register(&node);
                let due = |replica: &Replica| replica.poll_timeout().is_some_and(|at| at <= self.now);
                if !self.nodes[&node].paused && self.nodes[&node].replica.as_ref().is_some_and(due) {
                    self.input(&node, Input::TimedOut);
                }
            }
            self.settle();
        }
    }

    pub(crate) fn serve(&mut self, node: &str) {
        self.input(&name(node), Input::ServeOrdered);
        self.pass(300);
        assert!(self.node(node).serving.is_some(), "{node} does not serve: {:?}", self.status(node));
    }

    pub(crate) fn status(&mut self, node: &str) -> tandem_volume::ReplicaStatus {
        let now = self.now;
        self.node(node).replica.as_ref().expect("it runs").status(now)
    }

    pub(crate) fn role(&mut self, node: &str) -> Role {
        self.status(node).role
    }

    /// Submits a request with the promotion that `node` serves; another one when it serves none.
    pub(crate) fn submit(&mut self, node: &str, what: Request) -> RequestId {
        let promotion = self.node(node).serving.unwrap_or(Epoch { number: 999, tag: 9 });
        self.submit_as(node, promotion, what)
    }

    pub(crate) fn submit_as(&mut self, node: &str, promotion: Epoch, what: Request) -> RequestId {
        let request = RequestId(self.number());
        self.input(&name(node), Input::Submitted { request, promotion, what });
        request
    }

    pub(crate) fn write(&mut self, node: &str, offset: u64, fill: u8, length: usize) -> RequestId {
        let data = Bytes::from(vec![fill; length]);
        self.submit(node, Request::Write { volume: VolumeIndex(0), offset, data, fua: false })
    }

    pub(crate) fn read(&mut self, node: &str, offset: u64, length: u32) -> RequestId {
        self.submit(node, Request::Read { volume: VolumeIndex(0), offset, length })
    }

    pub(crate) fn answer(&self, request: RequestId) -> Option<&Result<Reply, RequestError>> {
        self.replies.get(&request).map(|(_, result)| result)
    }

    pub(crate) fn done(&self, request: RequestId) -> bool {
        self.answer(request) == Some(&Ok(Reply::Done))
    }

    pub(crate) fn byte(&self, node: &str, offset: u64) -> u8 {
        self.nodes[&name(node)].data[offset as usize]
    }

    pub(crate) fn members(&self) -> Vec<&str> {
        self.register.in_sync.keys().map(NodeName::as_str).collect()
    }

    pub(crate) fn identical(&self) -> bool {
        let mut copies = self.nodes.values().map(|state| &state.data);
        let first = copies.next();
        copies.all(|copy| Some(copy) == first)
    }
}

enum Choice {
    Deliver(NodeName, NodeName),
    Complete(NodeName),
}

impl Node {
    fn named(self, node: &str, world: &mut World) -> Option<Self> {
        world.nodes.insert(name(node), self)
    }

    fn carry_out(&mut self, op: DiskOp) -> (DiskOpId, DiskOutcome) {
        let refused = self.disk_error.clone().map(DiskOutcome::Failed);
        match op {
            DiskOp::Read { op, offset, length, .. } => {
                let data = &self.data[offset as usize..offset as usize + length as usize];
                (op, refused.unwrap_or(DiskOutcome::Data(Bytes::copy_from_slice(data))))
            }
            DiskOp::Write { op, offset, data, .. } => {
                if refused.is_none() {
                    self.data[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
                }
                (op, refused.unwrap_or(DiskOutcome::Done))
            }
            DiskOp::Zero { op, offset, length, .. } => {
                if refused.is_none() {
                    self.data[offset as usize..(offset + length) as usize].fill(0);
                }
                (op, refused.unwrap_or(DiskOutcome::Done))
            }
            DiskOp::Sync { op } => {
                let failed = self.sync_error.then(|| DiskOutcome::Failed(DiskError::Io("sync".into())));
                (op, refused.or(failed).unwrap_or(DiskOutcome::Done))
            }
            DiskOp::StoreSuperblock { op, superblock } => {
                let block = tandem_volume::superblock::encode(&superblock);
                assert_eq!(tandem_volume::superblock::decode(&block).as_ref(), Ok(&superblock));
                self.superblock = Some(superblock);
                (op, DiskOutcome::Done)
            }
            DiskOp::StoreActivity { op, activity } => {
                assert_eq!(activity::decode(&activity::encode(&activity)).as_ref(), Some(&activity));
                if refused.is_none() {
                    self.activity = Some(activity);
                }
                (op, refused.unwrap_or(DiskOutcome::Done))
            }
            DiskOp::StoreStamps { op, stamps } => {
                for (extent, stamps) in stamps {
                    let block = activity::encode_stamps(extent, &stamps);
                    assert_eq!(activity::decode_stamps(extent.index, &block), Ok(Some(stamps.clone())));
                    self.stamps.insert(extent, stamps);
                }
                (op, refused.unwrap_or(DiskOutcome::Done))
            }
        }
    }
}

fn over_the_wire(message: Message) -> Message {
    let (head, payload) = wire::encode(&message);
    let mut decoder = wire::Decoder::default();
    decoder.feed(head.into());
    decoder.feed(payload.unwrap_or_default());
    let decoded = decoder.next().expect("it was just encoded").expect("it is whole");
    assert_eq!(decoded, message);
    decoded
}
