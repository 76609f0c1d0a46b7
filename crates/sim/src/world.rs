//! The world: everything there is, one event after another.

use std::{collections::BTreeMap, rc::Rc};

use tandem_base::{ClusterId, Configuration, Duration, Epoch, GroupName, Instant, NodeName, Rng, RunId, ServiceName};
use tandem_cluster::{Command, Entry, State, Topology};
use tandem_volume::{Input as VolumeInput, Message, Role, VolumeSpec, meta::Grain};

use crate::{
    agent::{Agent, Control, FromServer},
    clock::Clock,
    consensus::Member,
    disk::{Disk, SECTOR},
    faults::{Fault, Mix},
    invariants::{Violation, i2, i7::Watch},
    ledger::Ledger,
    network::{Network, Pipe},
    node::{DiskFault, Node},
    options::Options,
    queue::{MS, Queue, Time},
    workload::{Attachment, Habit},
};

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A control message arrives at a node's agent.
    Control {
        to: usize,
        from: usize,
        message: Control,
    },
    /// The consensus of a node wants to be called.
    RaftTimer {
        node: usize,
        run: u64,
    },
    /// Something of a node's agent is due.
    AgentTimer {
        node: usize,
        run: u64,
    },
    /// The agent applies what is committed.
    Apply {
        node: usize,
        run: u64,
    },
    /// A step of the service ended.
    StepDone {
        node: usize,
        run: u64,
        step: tandem_cluster::service::Step,
        attempt: u64,
        started: bool,
    },
    /// The agent's word reaches the volume server.
    ToServer {
        node: usize,
        run: u64,
        input: Box<VolumeInput>,
    },
    /// The volume server's word reaches the agent.
    FromServer {
        node: usize,
        agent: u64,
        server: u64,
        message: FromServer,
    },
    /// A disk operation ends.
    DiskDone {
        node: usize,
        run: u64,
        op: u64,
    },
    /// The replica's timeout.
    ServerTimer {
        node: usize,
        run: u64,
    },
    /// A side of a connection between volume servers learns that it stands, or is gone.
    PeerUp {
        connection: u64,
        side: usize,
    },
    PeerDown {
        connection: u64,
        side: usize,
    },
    /// A message on a connection arrives at `side`.
    Peer {
        connection: u64,
        side: usize,
        number: u64,
        message: Rc<Message>,
    },
    /// Two volume servers look whether they are connected.
    Dial {
        a: usize,
        b: usize,
    },
    /// The workload of an attachment thinks of something to ask.
    Client {
        attachment: u64,
    },
    /// The next fault.
    Fault,
    /// A fault ends.
    End(Fault),
    /// A node is switched on again.
    PowerOn {
        node: usize,
    },
    StartAgent {
        node: usize,
    },
    StartServer {
        node: usize,
    },
    /// Invariants that need a look now and then.
    Watch,
}

impl Event {
    /// The node whose processes must run for this to be noticed.
    fn noticed_by(&self, world: &World) -> Option<usize> {
        match *self {
            Self::Control { to, .. } => Some(to),
            Self::RaftTimer { node, .. }
            | Self::AgentTimer { node, .. }
            | Self::Apply { node, .. }
            | Self::StepDone { node, .. }
            | Self::ToServer { node, .. }
            | Self::FromServer { node, .. }
            | Self::DiskDone { node, .. }
            | Self::ServerTimer { node, .. }
            | Self::StartAgent { node }
            | Self::StartServer { node } => Some(node),
            Self::PeerUp { connection, side }
            | Self::PeerDown { connection, side }
            | Self::Peer { connection, side, .. } => world.connections.get(&connection).map(|it| it.nodes[side]),
            Self::Client { attachment } => world.attachments.get(&attachment).map(|it| it.node),
            Self::Dial { .. } | Self::Fault | Self::End(_) | Self::PowerOn { .. } | Self::Watch => None,
        }
    }
}

/// A connection between two volume servers.
pub(crate) struct Connection {
    pub nodes: [usize; 2],
    /// The processes that it joins.
    pub runs: [u64; 2],
    /// Which sides take it for standing; `None`: not yet told.
    pub up: [Option<bool>; 2],
    /// Messages to side 0 and to side 1.
    pub pipes: [Pipe; 2],
}

/// What a run counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// True time, in milliseconds.
    pub elapsed_ms: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Requests answered.
    pub answers: u64,
    /// Promotions that served.
    pub promotions: u64,
    /// Faults injected.
    pub faults: u64,
    /// Times at which every copy of what was not flushed was destroyed.
    pub losses: u64,
    /// 1 when the system stopped, and said so, since the last in-sync disk was lost.
    pub stopped: u64,
}

impl Summary {
    /// Adds another history's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.elapsed_ms += other.elapsed_ms;
        self.writes += other.writes;
        self.answers += other.answers;
        self.promotions += other.promotions;
        self.faults += other.faults;
        self.losses += other.losses;
        self.stopped += other.stopped;
    }
}

/// Where a history stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults happen.
    Faults,
    /// Everything is repaired, the workload goes on until it was answered.
    Healed,
    /// The workload stops with a flush; the replicas must become identical.
    Settling,
}

/// Everything there is.
pub(crate) struct World {
    pub now: Time,
    pub queue: Queue<Event>,
    pub rng: Rng,
    pub options: Options,
    pub nodes: Vec<Node>,
    /// The first so many nodes hold replicas; the last one is the witness.
    pub replicas: usize,
    pub network: Network,
    pub connections: BTreeMap<u64, Connection>,
    pub attachments: BTreeMap<u64, Attachment>,
    /// Names of everything, never twice.
    pub ids: u64,
    pub ledger: Ledger,
    pub habit: Habit,
    pub mix: Mix,
    pub watch: Vec<Watch>,
    pub phase: Phase,
    pub phase_since: Time,
    pub last_answer: Time,
    /// The log as committed anywhere, applied at once: what is true.
    pub truth: State,
    pub truth_index: usize,
    /// Every copy of what was not flushed was destroyed since a promotion last served.
    pub loss: bool,
    pub summary: Summary,
    pub history: Vec<String>,
    pub cluster: ClusterId,
    pub group: GroupName,
    pub service: ServiceName,
    pub volumes: Vec<VolumeSpec>,
    /// The grain of what replicas remember, and how many extents may be hot for how long: small, like the volumes.
    pub grain: Grain,
    pub heat: (usize, Duration),
    pub voters: Vec<bool>,
    pub topology: Topology,
    pub relay_raft: bool,
    /// The last flush of the history is asked.
    pub flushing: bool,
}

/// Notes a line of the history, when a history is kept.
macro_rules! note {
    ($world:expr, $($argument:tt)*) => {
        if $world.options.trace {
            let line = format!($($argument)*);
            $world.note(line);
        }
    };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::new(seed);
        let drawn = if rng.chance(1, 4) { 3 } else { 2 };
        let wanted = options.replicas.or_else(|| options.mutation.and_then(|mutation| mutation.replicas()));
        let replicas = wanted.unwrap_or(drawn);
        let count = replicas + 1;
        let names: Vec<NodeName> = ["r1", "h1", "k1"][..replicas]
            .iter()
            .chain(&["w1"])
            .map(|name| NodeName::new(name).expect("the names above are names"))
            .collect();
        // With three replicas the third may be a learner; voters stay an odd number.
        let learner = replicas == 3;
        let voters: Vec<bool> = (0..count).map(|node| !(learner && node == 2)).collect();
        let pre_vote = rng.chance(2, 3);
        let group = GroupName::new("data").expect("a name");
        let service = ServiceName::new("ledger").expect("a name");
        let sectors = rng.between(1, 3) * 64 + rng.below(3);
        let second = if rng.chance(1, 3) { rng.between(8, 64) } else { 0 };
        let mut volumes = Vec::new();
        for (name, sectors) in [("ledger", sectors), ("journal", second)] {
            if sectors > 0 {
                let name = tandem_base::VolumeName::new(name).expect("a name");
                volumes.push(VolumeSpec { name, size: sectors * SECTOR as u64 });
            }
        }
        let total = (sectors + second) as usize;
        let region = SECTOR as u32 * [1, 2, 4][rng.below(3) as usize];
        let grain = Grain { region, regions: [2, 4, 8][rng.below(3) as usize], step: [1, 1, 3][rng.below(3) as usize] };
        let heat =
            ([2, 4, 12][rng.below(3) as usize], Duration::from_millis([200, 1_000, 10_000][rng.below(3) as usize]));
        let drift = tandem_cluster::Timings::default().drift_ppm as i64;
        let mut nodes = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let shown = rng.below(1 << 50);
            let rate = [0, -drift, drift, rng.between(0, 2 * drift as u64) as i64 - drift][rng.below(4) as usize];
            nodes.push(Node {
                name: name.clone(),
                clock: Clock::new(shown, rate),
                up: true,
                paused: false,
                deferred: Vec::new(),
                boot: RunId(rng.next_u64()),
                agent: Agent::new(Member::new(index, &voters, pre_vote, 0, &mut rng)),
                server: None,
                disk: (index < replicas).then(|| Disk::new(total * SECTOR)),
                runs: 0,
                disk_fault: DiskFault::default(),
                spoiled: false,
                lease: Instant::ZERO,
                service: false,
                thawed: false,
                placed: None,
                steps: BTreeMap::new(),
                attachment: None,
            });
        }
        let network = Network::new(count, &mut rng);
        let topology = crate::plan::topology(&names, &voters, replicas, &group, &service, &volumes, &mut rng);
        let habit = Habit::draw(&mut rng);
        let mix = Mix::draw(&mut rng);
        let cluster = ClusterId(u128::from(rng.next_u64()));
        Self {
            now: 0,
            queue: Queue::new(),
            options: options.clone(),
            nodes,
            replicas,
            network,
            connections: BTreeMap::new(),
            attachments: BTreeMap::new(),
            ids: 0,
            ledger: Ledger::new(total),
            habit,
            mix,
            watch: (0..1 << count).map(|_| Watch::default()).collect(),
            phase: Phase::Faults,
            phase_since: 0,
            last_answer: 0,
            truth: State::default(),
            truth_index: 0,
            loss: false,
            summary: Summary::default(),
            history: Vec::new(),
            cluster,
            group,
            service,
            volumes,
            grain,
            heat,
            voters,
            topology,
            relay_raft: true,
            flushing: false,
            rng,
        }
    }

    pub(crate) fn note(&mut self, line: String) {
        let now = self.now;
        self.history.push(format!("{:>6}.{:03} ms  {line}", now / MS, now / 1_000 % 1_000));
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// `event` happens `delay` nanoseconds from now.
    pub(crate) fn after(&mut self, delay: Time, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    /// What the clock of `node` shows.
    pub(crate) fn local(&self, node: usize) -> Instant {
        self.nodes[node].clock.read(self.now)
    }

    pub(crate) fn index_of(&self, name: &NodeName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    /// The register of the group in the newest committed state.
    pub(crate) fn register(&self) -> Option<&Configuration> {
        self.truth.group(&self.group).map(|group| &group.config)
    }

    /// An entry was committed by somebody: it is true from now on, whether its author learns of it or not.
    pub(crate) fn committed(&mut self, index: usize, entry: Option<&Rc<Entry>>) -> Result<(), Violation> {
        if index != self.truth_index {
            return Ok(());
        }
        self.truth_index += 1;
        if let Some(entry) = entry {
            let outcome = self.truth.apply(index as u64 + 1, entry);
            note!(self, "log {}: {:?} by {} -> {outcome:?}", index + 1, entry.command, entry.by);
            self.check_losses();
            let primary = self.register().and_then(|register| register.primary.as_ref());
            if let (Command::Propose { proposal, .. }, Some(primary)) = (&entry.command, primary)
                && primary.promotion == proposal.result()
            {
                self.check_alone(&primary.node, primary.promotion)?;
            }
        }
        Ok(())
    }

    /// I2 at the commit of a promotion.
    fn check_alone(&self, promoted: &NodeName, promotion: Epoch) -> Result<(), Violation> {
        let node = self.index_of(promoted).unwrap_or_default();
        for other in (0..self.replicas).filter(|other| *other != node) {
            let Some(server) = &self.nodes[other].server else { continue };
            let local = self.local(other);
            let serves =
                server.serving.is_some() && !server.failed && server.replica.status(local).role == Role::Primary;
            if serves && local < server.lease {
                return Err(i2::two(node, promotion, other, server.lease.since(local).as_millis()));
            }
        }
        Ok(())
    }

    /// Whether some member of the in-sync set still holds everything, in the open that the register names.
    pub(crate) fn check_losses(&mut self) {
        let mut spared = Vec::new();
        let Some(register) = self.register() else { return };
        if register.in_sync.is_empty() {
            return;
        }
        let survivor = (0..self.replicas).any(|index| {
            let node = &self.nodes[index];
            node.server.as_ref().is_some_and(|server| !server.failed && register.is_member(&node.name, server.open))
        });
        for index in 0..self.replicas {
            let node = &self.nodes[index];
            let sound = node.server.as_ref().is_some_and(|it| !it.failed && register.is_member(&node.name, it.open));
            if sound && self.nodes[index].spoiled {
                spared.push(index);
            }
        }
        for index in spared {
            self.nodes[index].spoiled = false;
        }
        if !survivor && !self.loss {
            self.loss = true;
            self.summary.losses += 1;
            note!(self, "--- every copy of what was not flushed is destroyed ---");
        }
    }

    /// Plays the whole history of the seed.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        self.begin();
        while let Some((at, event)) = self.queue.pop() {
            assert!(at >= self.now, "time goes forward");
            self.now = at;
            self.summary.events += 1;
            if self.summary.events > self.options.events_max {
                let what = format!("this history never ended: no rest after {} events", self.summary.events);
                return Err(Violation::new("world", what));
            }
            if let Some(node) = event.noticed_by(self)
                && self.nodes[node].paused
            {
                self.nodes[node].deferred.push(event);
                continue;
            }
            if self.perform(event)? {
                break;
            }
        }
        self.summary.elapsed_ms = self.now / MS;
        self.summary.writes = self.ledger.writes_acknowledged;
        self.summary.answers = self.ledger.answers;
        Ok(())
    }

    /// One event; true when the history is over.
    fn perform(&mut self, event: Event) -> Result<bool, Violation> {
        match event {
            Event::Control { to, from, message } => self.control(to, from, message)?,
            Event::RaftTimer { node, run } => self.raft_timer(node, run)?,
            Event::AgentTimer { node, run } => self.agent_timer(node, run)?,
            Event::Apply { node, run } => self.apply(node, run)?,
            Event::StepDone { node, run, step, attempt, started } => {
                self.step_done(node, run, step, attempt, started)?
            }
            Event::ToServer { node, run, input } => self.deliver_to_server(node, run, *input)?,
            Event::FromServer { node, agent, server, message } => {
                self.heard_from_server(node, agent, server, message)?
            }
            Event::DiskDone { node, run, op } => self.disk_done(node, run, op)?,
            Event::ServerTimer { node, run } => self.server_timer(node, run)?,
            Event::PeerUp { connection, side } => self.peer_up(connection, side)?,
            Event::PeerDown { connection, side } => self.peer_down(connection, side)?,
            Event::Peer { connection, side, number, message } => self.peer_said(connection, side, number, &message)?,
            Event::Dial { a, b } => self.dial(a, b),
            Event::Client { attachment } => self.client(attachment)?,
            Event::Fault => self.fault()?,
            Event::End(fault) => self.fault_ends(fault)?,
            Event::PowerOn { node } => self.power_on(node),
            Event::StartAgent { node } => self.start_agent(node)?,
            Event::StartServer { node } => self.start_server(node)?,
            Event::Watch => return self.watch(),
        }
        Ok(false)
    }
}
