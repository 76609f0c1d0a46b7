//! A small cluster at hand: two sites, a witness, a group, a service, and short words for the log's entries.

use tandem_base::{
    ByteSize, Change, ClusterId, GroupName, NodeName, OpenId, Proposal, RunId, ServiceName, SessionId, SiteName,
    VolumeName,
};
use tandem_cluster::{
    Admission, CertificateAuthority, Command, Entry, Failback, GroupSpec, Intents, NodeSpec, Outcome, Phase, Refusal,
    ServiceIntent, ServiceSpec, State, Timings, Topology, intents,
};

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a test's name is one")
}

pub(crate) fn group() -> GroupName {
    GroupName::new("ledger").expect("a test's name is one")
}

pub(crate) fn service() -> ServiceName {
    named("ledger")
}

pub(crate) fn named(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a test's name is one")
}

fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("a test's name is one")
}

/// r1 at rouans, h1 at sthilaire, the witness w1; service and group `ledger`, preferably at rouans.
pub(crate) fn duo() -> Topology {
    let spec = |name: &str, witness: bool| NodeSpec { site: (!witness).then(|| site(name)), witness, voter: true };
    let both = [node("r1"), node("h1")];
    Topology {
        nodes: [
            (node("r1"), spec("rouans", false)),
            (node("h1"), spec("sthilaire", false)),
            (node("w1"), spec("", true)),
        ]
        .into(),
        groups: [(
            group(),
            GroupSpec {
                replicas: both.clone().into(),
                volumes: vec![(VolumeName::new("ledger").expect("a name"), ByteSize::new(64 << 20))],
            },
        )]
        .into(),
        services: [(
            service(),
            ServiceSpec {
                group: Some(group()),
                prefer: Some(site("rouans")),
                failback: Failback::Manual,
                after: [].into(),
                candidates: both.into(),
            },
        )]
        .into(),
        timings: Timings::default(),
    }
}

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) index: u64,
    pub(crate) log: Vec<(u64, Entry)>,
    drawn: u64,
}

impl World {
    /// Founded, everybody admitted, nobody has a session.
    pub(crate) fn new(topology: Topology) -> Self {
        let mut world = Self { state: State::default(), index: 0, log: Vec::new(), drawn: 1_000 };
        let first = Admission { node: node("r1"), address: "10.1.0.11:7400".into(), raft_id: 1 };
        let ca = CertificateAuthority { cert_pem: "cert".into(), key_pem: "key".into() };
        world.done(Command::Found {
            cluster: ClusterId(7),
            plan: "plan".into(),
            topology: Box::new(topology),
            ca,
            first,
            token_digest: "digest".into(),
        });
        for (name, raft_id) in [("h1", 2), ("w1", 3)] {
            world.done(Command::Admit(Admission { node: node(name), address: format!("{name}:7400"), raft_id }));
        }
        world
    }

    /// The duo, both replicas open and in sync, `ledger` running on r1 which is primary. Session, run and open ids of r1
    /// are 11, of h1 are 21.
    pub(crate) fn running() -> Self {
        let mut world = Self::new(duo());
        world.up();
        world
    }

    /// Opens sessions and replicas, and starts what is placed on r1.
    pub(crate) fn up(&mut self) {
        for (name, id) in [("r1", 11), ("h1", 21), ("w1", 31)] {
            self.session(name, id, id);
        }
        self.open("r1", 11, 11, None).into_result().expect("fresh");
        self.open("h1", 21, 21, None).into_result().expect("fresh");
        self.promote("r1", 11).into_result().expect("nobody serves");
        self.started("r1");
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let id = self.draw();
        self.append(Entry { at_ms: self.index * 10, by: node("r1"), id, command })
    }

    pub(crate) fn append(&mut self, entry: Entry) -> Outcome {
        self.index += 1;
        self.log.push((self.index, entry.clone()));
        self.state.apply(self.index, &entry)
    }

    pub(crate) fn done(&mut self, command: Command) {
        assert_eq!(self.apply(command.clone()), Outcome::Done, "{command:?}");
    }

    /// That `command` is refused, changes nothing but the journal, and says so with `words`.
    pub(crate) fn refused(&mut self, command: Command, words: &str) -> Refusal {
        let before = (self.state.groups().clone(), self.state.services().clone());
        let Outcome::Refused(refusal) = self.apply(command.clone()) else { panic!("{command:?} was done") };
        assert!(refusal.to_string().contains(words), "{refusal}");
        assert_eq!(before, (self.state.groups().clone(), self.state.services().clone()), "a refusal changes nothing");
        refusal
    }

    pub(crate) fn session(&mut self, name: &str, run: u64, session: u64) {
        self.done(Command::OpenSession { node: node(name), run: RunId(run), session: SessionId(session) });
    }

    pub(crate) fn expire(&mut self, name: &str) {
        let session = self.state.session(&node(name)).expect("it has one").session;
        self.done(Command::ExpireSession { node: node(name), session, why: "not heard".into() });
    }

    pub(crate) fn open_command(&self, name: &str, session: u64, open: u64, previous: Option<u64>) -> Command {
        let previous = previous.map(OpenId).into_iter().collect();
        Command::OpenReplica {
            group: group(),
            node: node(name),
            session: SessionId(session),
            open: OpenId(open),
            previous,
        }
    }

    pub(crate) fn open(&mut self, name: &str, session: u64, open: u64, previous: Option<u64>) -> Outcome {
        let command = self.open_command(name, session, open, previous);
        self.apply(command)
    }

    /// A proposal against the epoch of now.
    pub(crate) fn proposal(&mut self, name: &str, open: u64, change: Change) -> Command {
        let expected = self.config().epoch;
        let tag = self.draw();
        Command::Propose {
            group: group(),
            proposal: Proposal { expected, tag, node: node(name), open: OpenId(open), change },
        }
    }

    pub(crate) fn change(&mut self, name: &str, open: u64, change: Change) -> Outcome {
        let command = self.proposal(name, open, change);
        self.apply(command)
    }

    pub(crate) fn promote(&mut self, name: &str, open: u64) -> Outcome {
        self.change(name, open, Change::Promote)
    }

    pub(crate) fn config(&self) -> tandem_base::Configuration {
        self.state.group(&group()).expect("the plan has it").config.clone()
    }

    pub(crate) fn in_sync(&self) -> Vec<String> {
        self.config().in_sync.keys().map(ToString::to_string).collect()
    }

    pub(crate) fn primary(&self) -> Option<String> {
        self.config().primary.map(|primary| primary.node.to_string())
    }

    pub(crate) fn placement(&self, service: &ServiceName) -> u64 {
        self.state.service(service).and_then(|it| it.assignment.as_ref()).expect("it is placed").placement
    }

    pub(crate) fn started(&mut self, name: &str) {
        let placement = self.placement(&service());
        self.done(Command::ServiceStarted { service: service(), node: node(name), placement });
    }

    pub(crate) fn stopped(&mut self, name: &str) {
        let placement = self.placement(&service());
        self.done(Command::ServiceStopped { service: service(), node: node(name), placement });
    }

    pub(crate) fn failed(&mut self, name: &str) {
        let placement = self.placement(&service());
        self.done(Command::ServiceFailed {
            service: service(),
            node: node(name),
            placement,
            why: "it did not start".into(),
        });
    }

    pub(crate) fn move_to(&self, name: &str) -> Command {
        Command::Move { service: service(), to: node(name), by: "anna".into() }
    }

    /// `r1 running`, `h1 starting`..., or `nowhere`.
    pub(crate) fn place(&self) -> String {
        self.place_of(&service())
    }

    pub(crate) fn place_of(&self, service: &ServiceName) -> String {
        let Some(assignment) = &self.state.service(service).expect("the plan has it").assignment else {
            return "nowhere".into();
        };
        let phase = match &assignment.phase {
            Phase::Starting => "starting".into(),
            Phase::Running => "running".into(),
            Phase::Stopping { to, .. } => format!("stopping to {}", to.as_ref().map_or("-", NodeName::as_str)),
            Phase::Releasing { to, .. } => format!("releasing to {}", to.as_ref().map_or("-", NodeName::as_str)),
        };
        format!("{} {phase}", assignment.node)
    }

    pub(crate) fn why(&self) -> String {
        self.state.service(&service()).expect("the plan has it").why.clone()
    }

    pub(crate) fn intents(&self, name: &str) -> Intents {
        intents(&self.state, &node(name))
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        matches!(self.intents(name).services.get(&service()), Some(ServiceIntent::Run { .. }))
    }

    pub(crate) fn told(&self, what: &str) -> bool {
        self.state.events().iter().any(|event| event.what.contains(what) || event.why.contains(what))
    }
}
