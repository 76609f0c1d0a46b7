//! The agent of a node: it joins the cores of the control plane as the product's agent does.

use std::{collections::BTreeMap, rc::Rc};

use tandem_base::{Configuration, Epoch, Instant, OpenId, Proposal, RunId, SessionId};
use tandem_cluster::{
    Command, Entry, Outcome, Refusal, ServiceIntent, State, intents, leader, lease,
    service::{self, Step},
};
use tandem_volume::Input as VolumeInput;

use crate::{
    consensus::{Effect, Member, Rpc},
    invariants::Violation,
    queue::{MS, Time},
    world::{Event, World, note},
};

/// What a node asks the leader.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Propose(Rc<Entry>),
    Renew { session: SessionId, run: RunId, renewal: u64 },
}

/// What the leader says.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Outcome(Outcome),
    Renewal(leader::Answer),
}

/// A message between agents.
#[derive(Debug, Clone)]
pub(crate) enum Control {
    /// Of the consensus; `origin` and `to` differ from the event's when it is relayed.
    Raft {
        origin: usize,
        to: usize,
        rpc: Rpc<Rc<Entry>>,
    },
    Ask {
        origin: usize,
        run: u64,
        id: u64,
        via: Option<usize>,
        body: Body,
    },
    Say {
        to: usize,
        run: u64,
        id: u64,
        said: Said,
    },
}

/// What the volume server tells the agent.
#[derive(Debug, Clone)]
pub(crate) enum FromServer {
    Opened { open: OpenId, previous: Vec<OpenId> },
    Propose(Proposal),
    Serving { promotion: Epoch },
    Ended { promotion: Epoch, why: String },
    DiskFailed { why: String },
}

/// A question on its way.
struct Question {
    body: Body,
    attempt: u64,
    next: Time,
    until: Time,
}

/// A proposal that the leader appended and has not applied yet.
struct Appended {
    index: usize,
    entry: u64,
    origin: usize,
    run: u64,
    id: u64,
    via: Option<usize>,
}

/// What the volume server was last told to be; it is told once, when that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Role {
    #[default]
    Follow,
    Serve,
    Release,
}

/// What the agent knows of the volume server it is connected to.
#[derive(Default)]
struct ServerLink {
    run: u64,
    opened: Option<(OpenId, Vec<OpenId>)>,
    serving: Option<Epoch>,
    configured: Option<Configuration>,
    asked_open: Time,
    role: Role,
    /// The configuration with which the role was last told.
    ordered: Option<Configuration>,
}

/// The agent process and what it keeps durably (the consensus member, the applied state).
pub(crate) struct Agent {
    pub up: bool,
    /// Which run of the process.
    pub run: u64,
    pub member: Member<Rc<Entry>>,
    pub state: State,
    pub applied: usize,
    snapshot: (usize, State),
    apply_due: bool,
    pub established: bool,
    raft_timer: Time,
    timer: Time,
    holder: Option<lease::Holder>,
    pub table: leader::SessionTable,
    pub lifecycle: Option<service::Lifecycle>,
    questions: BTreeMap<u64, Question>,
    appended: Vec<Appended>,
    routes: BTreeMap<(usize, u64), (u64, u64, Option<usize>)>,
    rounds: Vec<(u64, usize)>,
    round_deadlines: Vec<(u64, Time)>,
    link: ServerLink,
    report: Option<(service::Report, u64, Time)>,
    attach_wanted: bool,
    lease: Instant,
    lapsed: bool,
}

impl Agent {
    pub(crate) fn new(member: Member<Rc<Entry>>) -> Self {
        Self {
            up: false,
            run: 0,
            member,
            state: State::default(),
            applied: 0,
            snapshot: (0, State::default()),
            apply_due: false,
            established: false,
            raft_timer: Time::MAX,
            timer: Time::MAX,
            holder: None,
            table: leader::SessionTable::new(tandem_cluster::Timings::default()),
            lifecycle: None,
            questions: BTreeMap::new(),
            appended: Vec::new(),
            routes: BTreeMap::new(),
            rounds: Vec::new(),
            round_deadlines: Vec::new(),
            link: ServerLink::default(),
            report: None,
            attach_wanted: false,
            lease: Instant::ZERO,
            lapsed: true,
        }
    }

    /// The session that the log has taken. An answer about an earlier one may come late.
    fn session(&self) -> Option<SessionId> {
        self.holder.as_ref().and_then(lease::Holder::session)
    }
}

/// How long a confirmation of leadership may take.
const ROUND: Time = 1_000 * MS;
/// How long a question is asked again.
const QUESTION: Time = 1_500 * MS;
/// How often an agent may find something to do in one event.
const ROUNDS_MAX: u64 = 10_000;
/// How long one attempt waits.
const ATTEMPT: Time = 300 * MS;

impl World {
    /// The agent process of `node` starts.
    pub(crate) fn start_agent(&mut self, n: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[n];
        if !node.up || node.agent.up {
            return Ok(());
        }
        node.runs += 1;
        let run = node.runs;
        let seed = self.rng.next_u64();
        let is_replica = n < self.replicas;
        let timings = self.topology.timings;
        let boot = node.boot;
        let agent = &mut node.agent;
        agent.up = true;
        agent.run = run;
        agent.member.restart(self.now, &mut self.rng);
        // The state machine comes back as of its last snapshot.
        (agent.applied, agent.state) = agent.snapshot.clone();
        agent.apply_due = false;
        agent.established = false;
        agent.raft_timer = Time::MAX;
        agent.timer = Time::MAX;
        agent.holder = Some(lease::Holder::new(timings, boot, tandem_base::Rng::new(seed)));
        agent.table = leader::SessionTable::new(timings);
        let left = node.placed;
        agent.lifecycle = is_replica.then(|| match left {
            Some(placement) => service::Lifecycle::adopt(lifecycle_settings(), placement),
            None => service::Lifecycle::new(lifecycle_settings()),
        });
        agent.questions.clear();
        agent.appended.clear();
        agent.routes.clear();
        agent.rounds.clear();
        agent.round_deadlines.clear();
        agent.link = ServerLink::default();
        agent.report = None;
        agent.attach_wanted = false;
        agent.lease = Instant::ZERO;
        agent.lapsed = true;
        note!(self, "{}: agent starts", self.nodes[n].name);
        self.connect_agent(n);
        self.schedule_apply(n);
        self.holder_input(n, lease::Input::TimedOut)?;
        self.agent_drain(n)
    }

    /// The agent hears from the volume server that runs already.
    pub(crate) fn connect_agent(&mut self, n: usize) {
        let Some(server) = &self.nodes[n].server else { return };
        let (open, opened, serving) = (server.open, server.opened.clone(), server.serving);
        if let Some(previous) = opened {
            self.tell_agent(n, FromServer::Opened { open, previous });
        }
        if let Some(promotion) = serving {
            self.tell_agent(n, FromServer::Serving { promotion });
        }
    }

    /// The agent process is gone; the service's processes and the volume server go on.
    pub(crate) fn stop_agent(&mut self, n: usize) {
        if !self.nodes[n].agent.up {
            return;
        }
        note!(self, "{}: agent dies", self.nodes[n].name);
        let agent = &mut self.nodes[n].agent;
        agent.up = false;
        agent.run = 0;
    }

    fn agent_runs(&self, n: usize, run: u64) -> bool {
        self.nodes[n].agent.up && self.nodes[n].agent.run == run
    }

    // --- consensus ---

    pub(crate) fn raft_timer(&mut self, n: usize, run: u64) -> Result<(), Violation> {
        if self.agent_runs(n, run) {
            self.nodes[n].agent.raft_timer = Time::MAX;
            self.nodes[n].agent.member.tick(self.now, &mut self.rng);
            self.agent_drain(n)?;
        }
        Ok(())
    }

    /// Sends a control message; it may be lost.
    fn send(&mut self, from: usize, to: usize, message: Control) {
        for delay in self.network.datagram(self.now, from, to, &mut self.rng).into_iter().flatten() {
            self.after(delay, Event::Control { to, from, message: message.clone() });
        }
    }

    fn send_raft(&mut self, from: usize, to: usize, rpc: Rpc<Rc<Entry>>) {
        let message = Control::Raft { origin: from, to, rpc };
        // Who does not reach a peer directly goes through another one, as every control message.
        if self.network.link(from, to).cut && self.relay_raft {
            let others: Vec<usize> = (0..self.nodes.len()).filter(|other| ![from, to].contains(other)).collect();
            let other = others[self.rng.below(others.len() as u64) as usize];
            self.send(from, other, message);
        } else {
            self.send(from, to, message);
        }
    }

    pub(crate) fn control(&mut self, to: usize, from: usize, message: Control) -> Result<(), Violation> {
        if !self.nodes[to].agent.up {
            return Ok(());
        }
        match message {
            Control::Raft { to: target, .. } if target != to => self.send(to, target, message),
            Control::Raft { origin, rpc, .. } => {
                self.nodes[to].agent.member.receive(self.now, origin, rpc, &mut self.rng);
            }
            Control::Ask { origin, run, id, via, body } => self.asked(to, from, origin, run, id, via, body)?,
            Control::Say { to: target, .. } if target != to => self.send(to, target, message),
            Control::Say { run, id, said, .. } => {
                if self.agent_runs(to, run) {
                    self.said(to, id, said)?;
                }
            }
        }
        self.agent_drain(to)
    }

    #[allow(clippy::too_many_arguments)]
    fn asked(
        &mut self,
        n: usize,
        from: usize,
        origin: usize,
        run: u64,
        id: u64,
        via: Option<usize>,
        body: Body,
    ) -> Result<(), Violation> {
        let agent = &mut self.nodes[n].agent;
        if agent.member.leader() != Some(n) {
            // Relayed one hop, and no further.
            if let Some(leader) = agent.member.leader()
                && via.is_none()
                && from == origin
                && leader != origin
            {
                self.send(n, leader, Control::Ask { origin, run, id, via: Some(n), body });
            }
            return Ok(());
        }
        match body {
            Body::Propose(entry) => {
                let number = entry.id;
                if let Some(index) = agent.member.propose(self.now, entry) {
                    agent.appended.push(Appended { index, entry: number, origin, run, id, via });
                }
            }
            Body::Renew { session, run: boot, renewal } => {
                agent.routes.insert((origin, renewal), (run, id, via));
                while agent.routes.len() > 64 {
                    agent.routes.pop_first();
                }
                let node = self.nodes[origin].name.clone();
                self.table_input(n, leader::Input::RenewalReceived { node, session, run: boot, renewal });
            }
        }
        Ok(())
    }

    fn answer(&mut self, n: usize, origin: usize, run: u64, id: u64, via: Option<usize>, said: Said) {
        let message = Control::Say { to: origin, run, id, said };
        self.send(n, via.unwrap_or(origin), message);
    }

    fn said(&mut self, n: usize, id: u64, said: Said) -> Result<(), Violation> {
        let Some(question) = self.nodes[n].agent.questions.remove(&id) else { return Ok(()) };
        match (question.body, said) {
            (Body::Renew { session, renewal, .. }, Said::Renewal(answer)) => {
                self.holder_input(n, lease::Input::RenewalAnswered { session, renewal, answer })?;
            }
            (Body::Propose(entry), Said::Outcome(outcome)) => match &entry.command {
                Command::OpenSession { session, .. } => {
                    let session = *session;
                    let input = match outcome {
                        Outcome::Done => lease::Input::SessionOpened { session },
                        Outcome::Refused(refusal) => {
                            let over = matches!(refusal, Refusal::SessionOver { .. });
                            lease::Input::OpenFailed { session, over, why: refusal.to_string() }
                        }
                    };
                    self.holder_input(n, input)?;
                }
                Command::ServiceStarted { placement, .. }
                | Command::ServiceStopped { placement, .. }
                | Command::ServiceFailed { placement, .. }
                | Command::ServiceSteady { placement, .. } => {
                    let agent = &mut self.nodes[n].agent;
                    if agent.report.as_ref().is_some_and(|(report, ..)| {
                        placement_of(report) == *placement && same_kind(report, &entry.command)
                    }) {
                        agent.report = None;
                    }
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// Asks the leader, again and again for a while.
    fn ask(&mut self, n: usize, body: Body, lasting: Time) {
        let id = self.id();
        let (now, until) = (self.now, self.now + lasting);
        self.nodes[n].agent.questions.insert(id, Question { body, attempt: 0, next: now, until });
    }

    pub(crate) fn propose(&mut self, n: usize, command: Command, lasting: Time) {
        let entry = Entry { at_ms: self.now / MS, by: self.nodes[n].name.clone(), id: self.rng.next_u64(), command };
        self.ask(n, Body::Propose(Rc::new(entry)), lasting);
    }

    fn send_questions(&mut self, n: usize) -> Result<(), Violation> {
        let now = self.now;
        let over: Vec<u64> =
            self.nodes[n].agent.questions.iter().filter(|(_, it)| it.until <= now).map(|(id, _)| *id).collect();
        for id in over {
            let Some(question) = self.nodes[n].agent.questions.remove(&id) else { continue };
            let why = "no answer".to_owned();
            match question.body {
                Body::Renew { renewal, .. } => self.holder_input(n, lease::Input::RenewalFailed { renewal, why })?,
                Body::Propose(entry) => {
                    if let Command::OpenSession { session, .. } = entry.command {
                        self.holder_input(n, lease::Input::OpenFailed { session, over: false, why })?;
                    }
                }
            }
        }
        let leader = self.nodes[n].agent.member.leader();
        let run = self.nodes[n].agent.run;
        let due: Vec<u64> =
            self.nodes[n].agent.questions.iter().filter(|(_, it)| it.next <= now).map(|(id, _)| *id).collect();
        for id in due {
            let Some(question) = self.nodes[n].agent.questions.get_mut(&id) else { continue };
            question.next = now + ATTEMPT;
            question.attempt += 1;
            let (attempt, body) = (question.attempt, question.body.clone());
            let message = Control::Ask { origin: n, run, id, via: None, body };
            let others: Vec<usize> =
                (0..self.nodes.len()).filter(|&other| other != n && Some(other) != leader).collect();
            let other = others[self.rng.below(others.len() as u64) as usize];
            match leader {
                Some(leader) if leader == n => self.after(1, Event::Control { to: n, from: n, message }),
                Some(leader) if attempt % 2 == 1 => self.send(n, leader, message),
                _ => self.send(n, other, message),
            }
        }
        Ok(())
    }

    fn schedule_apply(&mut self, n: usize) {
        let agent = &mut self.nodes[n].agent;
        if !agent.apply_due && agent.applied < agent.member.commit() {
            agent.apply_due = true;
            let run = agent.run;
            let late = self.rng.chance(self.habit.late, 10);
            let delay = self.rng.below(if late { 100 * MS } else { 3 * MS });
            self.after(delay, Event::Apply { node: n, run });
        }
    }

    /// Applies everything that is committed here.
    pub(crate) fn apply(&mut self, n: usize, run: u64) -> Result<(), Violation> {
        if !self.agent_runs(n, run) {
            return Ok(());
        }
        self.nodes[n].agent.apply_due = false;
        while self.nodes[n].agent.applied < self.nodes[n].agent.member.commit() {
            let agent = &mut self.nodes[n].agent;
            let index = agent.applied;
            agent.applied += 1;
            if let Some(entry) = agent.member.entry(index).cloned() {
                let outcome = agent.state.apply(index as u64 + 1, &entry);
                if agent.applied >= agent.snapshot.0 + 24 {
                    agent.snapshot = (agent.applied, agent.state.clone());
                }
                let waiting: Vec<usize> =
                    (0..agent.appended.len()).filter(|&at| agent.appended[at].index == index + 1).collect();
                for at in waiting.into_iter().rev() {
                    let it = self.nodes[n].agent.appended.swap_remove(at);
                    if it.entry == entry.id {
                        self.answer(n, it.origin, it.run, it.id, it.via, Said::Outcome(outcome.clone()));
                    }
                }
            }
        }
        let agent = &mut self.nodes[n].agent;
        let sessions = agent.state.live_sessions().collect::<Vec<_>>();
        let applied = agent.applied;
        if agent.established {
            self.table_input(n, leader::Input::Applied { index: applied as u64, sessions: sessions.clone() });
        } else if agent.member.is_established() && applied >= agent.member.no_op() {
            agent.established = true;
            self.table_input(n, leader::Input::BecameLeader { index: applied as u64, sessions: sessions.clone() });
            self.found(n);
        }
        let agent = &mut self.nodes[n].agent;
        let ready: Vec<u64> =
            agent.rounds.iter().filter(|(_, index)| *index <= applied).map(|(round, _)| *round).collect();
        agent.rounds.retain(|(_, index)| *index > applied);
        for round in ready {
            self.nodes[n].agent.round_deadlines.retain(|(other, _)| *other != round);
            let sessions = sessions.clone();
            self.table_input(n, leader::Input::LeadershipConfirmed { round, index: applied as u64, sessions });
        }
        self.configure(n);
        self.holder_input(n, lease::Input::Applied { index: applied as u64 })?;
        self.follow_intents(n)?;
        self.agent_drain(n)
    }

    /// The first leader founds the cluster and admits everybody; a later one admits whom it did not come to.
    fn found(&mut self, n: usize) {
        let admission = |world: &Self, node: usize| tandem_cluster::Admission {
            node: world.nodes[node].name.clone(),
            address: "10.0.0.1:7400".into(),
            raft_id: node as u64 + 1,
        };
        let state = &self.nodes[n].agent.state;
        let mut commands = Vec::new();
        if state.cluster().is_none() {
            let ca = tandem_cluster::CertificateAuthority { cert_pem: String::new(), key_pem: String::new() };
            let (cluster, topology, first) = (self.cluster, Box::new(self.topology.clone()), admission(self, n));
            commands.push(Command::Found {
                cluster,
                plan: String::new(),
                topology,
                ca,
                first,
                token_digest: String::new(),
            });
        }
        let missing = |node: &usize| *node != n && !state.members().contains_key(&self.nodes[*node].name);
        commands.extend((0..self.nodes.len()).filter(missing).map(|node| Command::Admit(admission(self, node))));
        for command in commands {
            let by = self.nodes[n].name.clone();
            let entry = Entry { at_ms: 0, by, id: self.rng.next_u64(), command };
            let now = self.now;
            self.nodes[n].agent.member.propose(now, Rc::new(entry));
        }
    }

    // --- the leader's table and the node's lease ---

    fn table_input(&mut self, n: usize, input: leader::Input) {
        let now = self.local(n);
        self.nodes[n].agent.table.handle(now, input);
    }

    fn holder_input(&mut self, n: usize, input: lease::Input) -> Result<(), Violation> {
        let now = self.local(n);
        if let Some(holder) = &mut self.nodes[n].agent.holder {
            holder.handle(now, input);
        }
        Ok(())
    }

    pub(crate) fn agent_timer(&mut self, n: usize, run: u64) -> Result<(), Violation> {
        if !self.agent_runs(n, run) {
            return Ok(());
        }
        self.nodes[n].agent.timer = Time::MAX;
        self.agent_drain(n)
    }

    /// Carries out what the cores of the agent want, until they are quiet; then sets the next timers.
    pub(crate) fn agent_drain(&mut self, n: usize) -> Result<(), Violation> {
        for round in 0.. {
            if round > ROUNDS_MAX {
                return Err(Violation::new(
                    "world",
                    format!("the agent of node {n} does not come to rest in one event"),
                ));
            }
            let mut quiet = true;
            let local = self.local(n);
            let agent = &mut self.nodes[n].agent;
            if agent.holder.as_ref().and_then(lease::Holder::poll_timeout).is_some_and(|at| at <= local) {
                quiet = false;
                self.holder_input(n, lease::Input::TimedOut)?;
            }
            let agent = &mut self.nodes[n].agent;
            if agent.established && agent.table.poll_timeout().is_some_and(|at| at <= local) {
                quiet = false;
                self.table_input(n, leader::Input::TimedOut);
            }
            let agent = &mut self.nodes[n].agent;
            if agent.lifecycle.as_ref().and_then(service::Lifecycle::poll_timeout).is_some_and(|at| at <= local) {
                quiet = false;
                self.lifecycle_input(n, service::Input::TimedOut);
            }
            self.expire_rounds(n);
            while let Some(output) = self.nodes[n].agent.table.poll_output() {
                quiet = false;
                self.table_output(n, output);
            }
            while let Some(output) = self.nodes[n].agent.holder.as_mut().and_then(lease::Holder::poll_output) {
                quiet = false;
                self.holder_output(n, output)?;
            }
            while let Some(output) = self.nodes[n].agent.lifecycle.as_mut().and_then(service::Lifecycle::poll_output) {
                quiet = false;
                self.lifecycle_output(n, output)?;
            }
            for effect in self.nodes[n].agent.member.effects() {
                quiet = false;
                self.effect(n, effect);
            }
            self.chores(n);
            self.send_questions(n)?;
            if quiet {
                break;
            }
        }
        let commit = self.nodes[n].agent.member.commit();
        while self.truth_index < commit {
            let index = self.truth_index;
            let entry = self.nodes[n].agent.member.entry(index).cloned();
            self.committed(index, entry.as_ref())?;
        }
        self.schedule_apply(n);
        self.set_timers(n);
        Ok(())
    }

    fn set_timers(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let agent = &mut node.agent;
        let run = agent.run;
        let raft = agent.member.deadline();
        if raft < agent.raft_timer {
            agent.raft_timer = raft;
            self.queue.push(raft.max(self.now), Event::RaftTimer { node: n, run });
        }
        let cores = [
            agent.holder.as_ref().and_then(lease::Holder::poll_timeout),
            if agent.established { agent.table.poll_timeout() } else { None },
            agent.lifecycle.as_ref().and_then(service::Lifecycle::poll_timeout),
        ];
        let mut next = cores.into_iter().flatten().map(|at| node.clock.when(at)).min().unwrap_or(Time::MAX);
        next = next.min(agent.questions.values().map(|it| it.next.min(it.until)).min().unwrap_or(Time::MAX));
        next = next.min(agent.round_deadlines.iter().map(|(_, at)| *at).min().unwrap_or(Time::MAX));
        // Chores are looked at twice a second.
        next = next.min(self.now + 500 * MS).max(self.now + 1);
        if next < agent.timer {
            agent.timer = next;
            self.queue.push(next, Event::AgentTimer { node: n, run });
        }
    }

    fn expire_rounds(&mut self, n: usize) {
        let now = self.now;
        let agent = &mut self.nodes[n].agent;
        let over: Vec<u64> =
            agent.round_deadlines.iter().filter(|(_, at)| *at <= now).map(|(round, _)| *round).collect();
        agent.round_deadlines.retain(|(_, at)| *at > now);
        for round in over {
            self.nodes[n].agent.rounds.retain(|(other, _)| *other != round);
            self.table_input(n, leader::Input::LeadershipNotConfirmed { round, why: "it took too long".into() });
        }
    }

    fn table_output(&mut self, n: usize, output: leader::Output) {
        let now = self.now;
        match output {
            leader::Output::ConfirmLeadership { round } => {
                let agent = &mut self.nodes[n].agent;
                agent.round_deadlines.push((round, now + ROUND));
                agent.member.read_index(now, round);
            }
            leader::Output::Answer { node, session: _, renewal, answer } => {
                let Some(origin) = self.index_of(&node) else { return };
                if !matches!(answer, leader::Answer::Granted { .. }) {
                    note!(self, "{} answers {node}'s renewal {renewal}: {answer:?}", self.nodes[n].name);
                }
                if let Some((run, id, via)) = self.nodes[n].agent.routes.remove(&(origin, renewal)) {
                    self.answer(n, origin, run, id, via, Said::Renewal(answer));
                }
            }
            leader::Output::AppendExpiry { node, session, why } => {
                let by = self.nodes[n].name.clone();
                note!(self, "{by} appends the expiry of {node}'s session {session}");
                let command = Command::ExpireSession { node, session, why };
                let entry = Entry { at_ms: now / MS, by, id: self.rng.next_u64(), command };
                self.nodes[n].agent.member.propose(now, Rc::new(entry));
            }
        }
    }

    fn effect(&mut self, n: usize, effect: Effect<Rc<Entry>>) {
        match effect {
            Effect::Send(to, rpc) => self.send_raft(n, to, rpc),
            Effect::Established => {
                note!(self, "{} leads the consensus", self.nodes[n].name);
                // Taken up once its own first entry is applied.
                self.schedule_apply(n);
            }
            Effect::Deposed => {
                note!(self, "{} leads no more", self.nodes[n].name);
                let agent = &mut self.nodes[n].agent;
                agent.appended.clear();
                agent.routes.clear();
                agent.rounds.clear();
                agent.round_deadlines.clear();
                if std::mem::take(&mut agent.established) {
                    self.table_input(n, leader::Input::LeadershipLost);
                }
            }
            Effect::Confirmed { token, index } => {
                let agent = &mut self.nodes[n].agent;
                if agent.applied < index {
                    agent.rounds.push((token, index));
                    return;
                }
                agent.round_deadlines.retain(|(round, _)| *round != token);
                let sessions = agent.state.live_sessions().collect();
                let index = agent.applied as u64;
                self.table_input(n, leader::Input::LeadershipConfirmed { round: token, index, sessions });
            }
        }
    }

    fn holder_output(&mut self, n: usize, output: lease::Output) -> Result<(), Violation> {
        match output {
            lease::Output::OpenSession { session, run } => {
                let node = self.nodes[n].name.clone();
                self.propose(n, Command::OpenSession { node, run, session }, QUESTION);
            }
            lease::Output::SendRenewal { renewal, session, run } => {
                self.ask(n, Body::Renew { session, run, renewal }, 1_000 * MS);
            }
            lease::Output::Extended { until, .. } => {
                let was_over = self.nodes[n].agent.lapsed;
                self.nodes[n].agent.lapsed = false;
                self.nodes[n].agent.lease = until;
                self.granted(n, until)?;
                self.tell_server(n, VolumeInput::LeaseGranted { until });
                if was_over {
                    note!(self, "{} may act", self.nodes[n].name);
                    self.follow_intents(n)?;
                }
                self.lifecycle_input(n, service::Input::LeaseRenewed { until });
            }
            lease::Output::Lapsed { why } => {
                note!(self, "{} may act no more: {why}", self.nodes[n].name);
                self.nodes[n].agent.lapsed = true;
                self.lifecycle_input(n, service::Input::LeaseEnded);
            }
        }
        Ok(())
    }

    // --- the volume server ---

    /// Hands on what the log says of the group, when it changed.
    fn configure(&mut self, n: usize) {
        let agent = &mut self.nodes[n].agent;
        let Some(config) = agent.state.group(&self.group).map(|group| &group.config) else { return };
        if agent.link.run == 0 || agent.link.configured.as_ref() == Some(config) {
            return;
        }
        let config = config.clone();
        agent.link.configured = Some(config.clone());
        self.tell_server(n, VolumeInput::Configured(config));
    }

    pub(crate) fn heard_from_server(
        &mut self,
        n: usize,
        agent: u64,
        server: u64,
        message: FromServer,
    ) -> Result<(), Violation> {
        if !self.agent_runs(n, agent) || self.nodes[n].server.as_ref().is_none_or(|it| it.run != server) {
            return Ok(());
        }
        if self.nodes[n].agent.link.run != server {
            self.nodes[n].agent.link = ServerLink { run: server, ..ServerLink::default() };
            self.configure(n);
            let lease = self.nodes[n].agent.lease;
            if !self.nodes[n].agent.lapsed {
                self.tell_server(n, VolumeInput::LeaseGranted { until: lease });
            }
        }
        match message {
            FromServer::Opened { open, previous } => self.nodes[n].agent.link.opened = Some((open, previous)),
            FromServer::Propose(proposal) => {
                let group = self.group.clone();
                self.propose(n, Command::Propose { group, proposal }, 600 * MS);
            }
            FromServer::Serving { promotion } => {
                self.nodes[n].agent.link.serving = Some(promotion);
                self.try_attach(n);
            }
            FromServer::Ended { promotion, why } => {
                if self.nodes[n].agent.link.serving == Some(promotion) {
                    self.nodes[n].agent.link.serving = None;
                }
                let attached = self.nodes[n].attachment.and_then(|id| self.attachments.get(&id));
                if attached.is_some_and(|it| it.promotion == promotion && !it.closed) {
                    self.lifecycle_input(n, service::Input::AttachmentLost { why });
                }
            }
            FromServer::DiskFailed { why } => {
                if self.nodes[n].service {
                    self.lifecycle_input(n, service::Input::MonitorFailed { step: Step::Attach, why });
                }
            }
        }
        self.agent_drain(n)
    }

    /// The volume server is gone: the socket to it ended.
    pub(crate) fn server_gone(&mut self, n: usize, attached: bool, open: OpenId) {
        let node = &mut self.nodes[n];
        if node.agent.up {
            node.agent.link = ServerLink::default();
            if let Some(session) = node.agent.session() {
                let (group, node, why) = (self.group.clone(), node.name.clone(), "it was seen to end".to_owned());
                self.propose(n, Command::CloseReplica { group, node, session, open, why }, QUESTION);
            }
            if attached {
                let why = "the volume server died".to_owned();
                self.lifecycle_input(n, service::Input::AttachmentLost { why });
            }
        }
    }

    /// What is looked at again and again, because one attempt may have been lost.
    fn chores(&mut self, n: usize) {
        let (now, local) = (self.now, self.local(n));
        let group = self.group.clone();
        let agent = &mut self.nodes[n].agent;
        if let (Some((open, previous)), Some(session)) = (agent.link.opened.clone(), agent.session())
            && now >= agent.link.asked_open + 500 * MS
            && agent.lease > local
        {
            let node = self.nodes[n].name.clone();
            let agent = &mut self.nodes[n].agent;
            let known = agent.state.group(&group).and_then(|it| it.registered(&node));
            agent.link.asked_open = now;
            if known != Some(open) {
                self.propose(n, Command::OpenReplica { group, node, session, open, previous }, QUESTION);
            }
        }
        let agent = &self.nodes[n].agent;
        if let Some((open, _)) = &agent.link.opened
            && agent.state.group(&self.group).is_some_and(|it| it.is_over(&self.nodes[n].name, *open))
        {
            note!(self, "{}: the log takes this run of the volume server for over", self.nodes[n].name);
            self.touch(n);
            self.stop_server(n, false);
            let delay = self.rng.between(20, 1_000) * MS;
            self.after(delay, Event::StartServer { node: n });
        }
        let agent = &mut self.nodes[n].agent;
        if let Some((report, _, next)) = &mut agent.report
            && *next <= now
        {
            *next = now + 700 * MS;
            let report = report.clone();
            let (service, node) = (self.service.clone(), self.nodes[n].name.clone());
            let command = match report {
                service::Report::Started { placement } => Command::ServiceStarted { service, node, placement },
                service::Report::Steady { placement } => Command::ServiceSteady { service, node, placement },
                service::Report::Stopped { placement } => Command::ServiceStopped { service, node, placement },
                service::Report::Failed { placement, why } => Command::ServiceFailed { service, node, placement, why },
            };
            self.propose(n, command, QUESTION);
        }
        self.order(n);
    }

    /// Orders the replica to serve or to release, as the log says.
    fn order(&mut self, n: usize) {
        if self.nodes[n].agent.link.run == 0 || self.nodes[n].agent.lease <= self.local(n) {
            return;
        }
        let intents = intents(&self.nodes[n].agent.state, &self.nodes[n].name);
        let detached = self.nodes[n].attachment.is_none() && !self.nodes[n].service;
        let role = match (intents.serve.contains(&self.group), intents.release.contains(&self.group)) {
            (true, _) => Role::Serve,
            (false, true) if detached => Role::Release,
            (false, _) => Role::Follow,
        };
        let link = &mut self.nodes[n].agent.link;
        let before = std::mem::replace(&mut link.role, role);
        // A promotion elsewhere makes the server forget the order to serve: it is given again whenever the log moved.
        let again = link.ordered != link.configured;
        link.ordered.clone_from(&link.configured);
        match role {
            Role::Serve if before != role || again => self.tell_server(n, VolumeInput::ServeOrdered),
            Role::Release if before != role => self.tell_server(n, VolumeInput::ReleaseOrdered),
            _ => {}
        }
    }

    pub(crate) fn follow_intents(&mut self, n: usize) -> Result<(), Violation> {
        let node = &self.nodes[n];
        if node.agent.lifecycle.is_none() || node.agent.lease <= self.local(n) {
            return Ok(());
        }
        let intents = intents(&node.agent.state, &node.name);
        self.order(n);
        let placed = self.nodes[n].placed;
        if matches!(intents.services.get(&self.service), Some(ServiceIntent::Run { placement, .. }) if Some(*placement) == placed)
        {
            self.thaw(n)?;
        }
        let input = match intents.services.get(&self.service) {
            Some(ServiceIntent::Run { placement, pause }) => {
                service::Input::Wanted { placement: *placement, pause: *pause }
            }
            Some(ServiceIntent::Stop { placement, why }) => {
                service::Input::Unwanted { placement: *placement, why: why.clone() }
            }
            None => service::Input::Unwanted { placement: None, why: "not in the plan".into() },
        };
        self.lifecycle_input(n, input);
        Ok(())
    }

    // --- the service ---

    pub(crate) fn lifecycle_input(&mut self, n: usize, input: service::Input) {
        let now = self.local(n);
        if let Some(lifecycle) = &mut self.nodes[n].agent.lifecycle {
            lifecycle.handle(now, input);
        }
    }

    fn lifecycle_output(&mut self, n: usize, output: service::Output) -> Result<(), Violation> {
        match output {
            service::Output::Start { step, placement } => {
                self.nodes[n].placed = Some(placement);
                self.step_start(n, step)?;
            }
            service::Output::Stop { step, force } => self.step_stop(n, step, force),
            service::Output::StartMonitor(_) | service::Output::StopMonitor(_) => {}
            service::Output::Report(report) => {
                note!(self, "{}: service {report:?}", self.nodes[n].name);
                if matches!(report, service::Report::Stopped { .. } | service::Report::Failed { .. }) {
                    self.nodes[n].placed = None;
                }
                let now = self.now;
                self.nodes[n].agent.report = Some((report, 0, now));
            }
            service::Output::Escalate { why } => {
                note!(self, "{}: fenced by force: {why}", self.nodes[n].name);
                self.power_off(n);
                let delay = self.rng.between(1_000, 5_000) * MS;
                self.after(delay, Event::PowerOn { node: n });
            }
        }
        Ok(())
    }

    fn step_start(&mut self, n: usize, step: Step) -> Result<(), Violation> {
        note!(self, "{}: start {step}", self.nodes[n].name);
        self.nodes[n].steps.remove(&step);
        match step {
            Step::Attach => {
                self.nodes[n].agent.attach_wanted = true;
                self.try_attach(n);
                return Ok(());
            }
            // What runs already counts as started.
            Step::Process if !self.nodes[n].service => self.service_acts(n)?,
            _ => {}
        }
        let delay = self.rng.between(1, 50) * MS;
        self.step_ends(n, step, true, delay);
        Ok(())
    }

    /// Attaches once the replica serves.
    fn try_attach(&mut self, n: usize) {
        let agent = &mut self.nodes[n].agent;
        let Some(promotion) = agent.link.serving else { return };
        if !agent.attach_wanted {
            return;
        }
        agent.attach_wanted = false;
        let attached = self.nodes[n].attachment.and_then(|id| self.attachments.get(&id));
        if attached.is_none_or(|it| it.promotion != promotion) {
            self.attach(n, promotion);
        }
        let delay = self.rng.between(1, 10) * MS;
        self.step_ends(n, Step::Attach, true, delay);
    }

    fn step_stop(&mut self, n: usize, step: Step, force: bool) {
        note!(self, "{}: stop {step}{}", self.nodes[n].name, if force { " by force" } else { "" });
        let mut delay = self.rng.between(1, 50) * MS;
        // Whatever was begun is not awaited any more.
        self.nodes[n].steps.remove(&step);
        match step {
            Step::Attach => {
                self.nodes[n].agent.attach_wanted = false;
                if !self.detach(n, force) {
                    // Told when the last answer has come, or by the lifecycle's own patience.
                    return;
                }
            }
            // A program goes on asking until it has ended, and may take its time: a database writes what it holds.
            Step::Process if !force && self.rng.chance(self.habit.lingers, 10) => {
                delay = self.rng.between(100, 4_500) * MS;
            }
            _ => {}
        }
        self.step_ends(n, step, false, delay);
    }

    /// The step will have ended, unless something else is wanted of it before.
    fn step_ends(&mut self, n: usize, step: Step, started: bool, delay: Time) {
        let (attempt, run) = (self.id(), self.nodes[n].agent.run);
        self.nodes[n].steps.insert(step, attempt);
        self.after(delay, Event::StepDone { node: n, run, step, attempt, started });
    }

    /// The attachment that was being drained is closed.
    pub(crate) fn drained(&mut self, n: usize) {
        self.step_ends(n, Step::Attach, false, MS);
    }

    pub(crate) fn step_done(
        &mut self,
        n: usize,
        run: u64,
        step: Step,
        attempt: u64,
        started: bool,
    ) -> Result<(), Violation> {
        if self.nodes[n].steps.get(&step) != Some(&attempt) {
            return Ok(());
        }
        self.nodes[n].steps.remove(&step);
        if step == Step::Process && !started {
            self.nodes[n].service = false;
            self.quiesce(n);
        }
        if !self.agent_runs(n, run) {
            return Ok(());
        }
        if started && step == Step::Process {
            self.activate(n);
        }
        let input = if started { service::Input::StepStarted(step) } else { service::Input::StepStopped(step) };
        self.lifecycle_input(n, input);
        self.agent_drain(n)?;
        self.follow_intents(n)?;
        self.agent_drain(n)
    }
}

fn lifecycle_settings() -> service::Settings {
    let step = |step, monitored| service::StepSpec {
        step,
        start_timeout: tandem_base::Duration::from_secs(60),
        stop_timeout: tandem_base::Duration::from_secs(5),
        monitored,
    };
    service::Settings {
        steps: vec![step(Step::Attach, true), step(Step::Process, true)],
        restarts_max: 3,
        restart_pause: tandem_base::Duration::from_secs(1),
        restart_window: tandem_base::Duration::from_secs(30),
        thaw_grace: tandem_base::Duration::from_secs(1),
    }
}

fn placement_of(report: &service::Report) -> u64 {
    match report {
        service::Report::Started { placement }
        | service::Report::Steady { placement }
        | service::Report::Stopped { placement }
        | service::Report::Failed { placement, .. } => *placement,
    }
}

fn same_kind(report: &service::Report, command: &Command) -> bool {
    matches!(
        (report, command),
        (service::Report::Started { .. }, Command::ServiceStarted { .. })
            | (service::Report::Steady { .. }, Command::ServiceSteady { .. })
            | (service::Report::Stopped { .. }, Command::ServiceStopped { .. })
            | (service::Report::Failed { .. }, Command::ServiceFailed { .. })
    )
}
