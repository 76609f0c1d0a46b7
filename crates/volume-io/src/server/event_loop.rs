//! One thread that joins everything: sockets and disks on one side, the engine on the other.

use std::{
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
};
use tandem_base::{Configuration, Duration, Instant, OpenId};
use tandem_volume::{DiskOp, DiskOutcome, Input, Output, Replica};

use super::{
    ServerConfig,
    agent::Agent,
    initiators::Initiators,
    peers::{News, Peers},
    poller::{Poller, Token},
    report,
};
use crate::{
    clock::boottime,
    control::{FromServer, NoteKind, ToServer},
    disk::{Directory, Disk, Opened},
    peer::Identity,
};

/// Bytes of writes that wait for the disk pool; beyond them nobody is read.
const DISK_BYTES_MAX: usize = 256 << 20;
/// How long the loop waits for the pool when too much is queued there.
const DISK_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
/// How long operations of the disk may take to end when the server ends.
const DISK_ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How long the initiators may take to read the last answers.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// Everything the loop owns.
pub(super) struct EventLoop<'a> {
    config: &'a ServerConfig,
    poller: Poller,
    signals: OwnedFd,
    directory: Directory,
    settled: bool,
    replica: Replica,
    open: OpenId,
    disk: Disk,
    peers: Peers,
    initiators: Initiators,
    agent: Agent,
    configuration: Option<Configuration>,
    lease_until: Instant,
    work: VecDeque<DiskOp>,
    /// What happened while the engine's outputs were carried out; it hears of it once they all are.
    later: VecDeque<Input>,
    stopping: bool,
}

/// What the loop is made of.
pub(super) struct Parts<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) signals: OwnedFd,
    pub(super) directory: Directory,
    pub(super) opened: Opened,
    pub(super) open: OpenId,
    pub(super) seed: u64,
    pub(super) identity: Identity,
    pub(super) control: UnixListener,
    pub(super) nbd: UnixListener,
}

impl<'a> EventLoop<'a> {
    pub(super) fn new(parts: Parts<'a>) -> io::Result<Self> {
        let Parts { config, signals, directory, opened, open, seed, identity, control, nbd } = parts;
        let Opened { shared, stored, repaired } = opened;
        let poller = Poller::new()?;
        poller.add(&signals, Token::Signal, true, false)?;
        let disk = Disk::new(shared)?;
        poller.add(disk.wake(), Token::Disk, true, false)?;
        let mut peers = Peers::new(config.node.clone(), identity);
        peers.set(config.peers.clone());
        let initiators = Initiators::new(nbd, &poller, config.node.clone(), open, config.volumes.clone())?;
        let agent = Agent::new(control, &poller)?;
        let replica = Replica::start(config.replica(), stored, open, seed, boottime());
        let mut event_loop = Self {
            config,
            poller,
            signals,
            directory,
            settled: false,
            replica,
            open,
            disk,
            peers,
            initiators,
            agent,
            configuration: None,
            lease_until: Instant::ZERO,
            work: VecDeque::new(),
            later: VecDeque::new(),
            stopping: false,
        };
        if let Some(text) = repaired {
            event_loop.say(FromServer::Note { kind: NoteKind::Repaired, node: None, text });
        }
        Ok(event_loop)
    }

    /// Runs until told to stop.
    pub(super) fn run(&mut self) -> io::Result<()> {
        self.drain();
        self.settle();
        while !self.stopping {
            let now = boottime();
            let due = [self.replica.poll_timeout(), self.peers.due(), self.initiators.due()];
            let timeout = due.into_iter().flatten().min().map(|due| due.since(now));
            let crowded = self.disk.queued_bytes() > DISK_BYTES_MAX;
            if crowded {
                // Nobody is read now, so readiness would only turn the loop.
                self.disk.wait(DISK_PAUSE);
            }
            for token in self.poller.wait(timeout)? {
                self.event(token, crowded);
            }
            let now = boottime();
            if self.replica.poll_timeout().is_some_and(|due| now >= due) {
                self.input(Input::TimedOut);
            }
            let news = self.peers.tick(&self.poller, now);
            self.news(news);
            self.settle();
        }
        self.end_attachments();
        self.close_disk();
        Ok(())
    }

    /// What was begun ends, everything is made durable, and the superblock says so.
    fn close_disk(&mut self) {
        let deadline = boottime() + DISK_ENDS_WITHIN;
        while !self.disk.is_idle() && boottime() < deadline {
            self.disk.wait(DISK_PAUSE);
            // Nobody is answered any more.
            let _ = self.disk.take_ended();
        }
        let idle = self.disk.is_idle();
        if let Err(error) = self.disk.shared().close(idle, || self.replica.last_words()) {
            tracing::warn!(%error, "the images could not be made durable at the end");
        }
    }

    /// The promotion ends with this run: its attachments hear so now, instead of waiting for a server that can only tell
    /// them the same. Before the last sync, which may take as long as a failing disk likes.
    fn end_attachments(&mut self) {
        let Some(promotion) = self.initiators.serving() else { return };
        let why = match self.replica.status(boottime()).disk_failed {
            Some(why) => format!("superseded: its disk failed: {why}"),
            None => "superseded: the volume server ends, and its promotion with it".into(),
        };
        self.initiators.end(promotion, &why);
        self.say(FromServer::Ended { promotion, why });
        self.agent.flush(&self.poller);
        let deadline = boottime() + FAREWELL_MAX;
        while self.initiators.has_output() && boottime() < deadline {
            // What is asked from here on is answered like the rest.
            let _ = self.initiators.flush(&self.poller, self.lease_until, boottime(), self.disk.shared());
            if let Err(error) = self.poller.wait(Some(Duration::from_millis(1))) {
                tracing::warn!(%error, "an attachment may not have heard of the end");
                return;
            }
        }
    }

    fn event(&mut self, token: Token, crowded: bool) {
        let now = boottime();
        match token {
            Token::Disk => {
                for (op, outcome) in self.disk.take_ended() {
                    self.completed(op, outcome);
                }
            }
            Token::Signal => {
                let _ = rustix::io::read(&self.signals, &mut [0; 128]);
                tracing::info!("told to end by a signal");
                self.stopping = true;
            }
            Token::AgentListener => self.agent.accept(&self.poller),
            Token::Agent(number) => {
                for (message, fd) in self.agent.receive(number) {
                    self.told(message, fd, now);
                }
            }
            Token::InitiatorListener => self.initiators.accept(&self.poller, now),
            Token::Initiator(number) => {
                self.initiators.hung_up(number);
                if !crowded {
                    let inputs = self.initiators.receive(number, self.disk.shared());
                    self.inputs(inputs);
                }
            }
            Token::Peer(number) => {
                if !crowded {
                    let news = self.peers.receive(number, now);
                    self.news(news);
                }
            }
            Token::Dialer(place) => self.peers.answered(place, &self.poller, now),
        }
    }

    /// What the agent says.
    fn told(&mut self, message: ToServer, fd: Option<OwnedFd>, now: Instant) {
        match message {
            ToServer::Configured(configuration) => {
                self.initiators.configured(&configuration);
                let older = |known: &Configuration| known.epoch.number <= configuration.epoch.number;
                if self.configuration.as_ref().is_none_or(older) {
                    self.configuration = Some(configuration.clone());
                }
                self.input(Input::Configured(configuration));
            }
            ToServer::Lease { until } => {
                self.lease_until = self.lease_until.max(until);
                self.input(Input::LeaseGranted { until });
            }
            ToServer::Serve => self.input(Input::ServeOrdered),
            ToServer::Release => self.input(Input::ReleaseOrdered),
            ToServer::Peers(peers) => self.peers.set(peers),
            ToServer::PeerSocket => {
                if let Some(note) = fd.and_then(|socket| self.peers.accept(socket, &self.poller, now)) {
                    self.say(note);
                }
            }
            ToServer::StatusRequest { id } => {
                let status = report::status(
                    self.config,
                    self.open,
                    &self.replica.status(now),
                    self.configuration.as_ref(),
                    (self.lease_until > Instant::ZERO).then_some(self.lease_until),
                    &self.initiators,
                    &self.peers,
                );
                self.agent.say(FromServer::Status { id, status: Box::new(status) });
            }
            ToServer::InjectDiskFault { errno } if self.config.allow_faults => {
                tracing::warn!(errno, "every disk operation fails from now on, as asked");
                self.disk.inject(errno);
            }
            ToServer::InjectDiskFault { .. } => self.say(FromServer::Note {
                kind: NoteKind::Other,
                node: None,
                text: "a disk fault was asked for, but this server was started without --allow-faults".into(),
            }),
            ToServer::Stop => self.stopping = true,
        }
    }

    fn inputs(&mut self, inputs: Vec<Input>) {
        for input in inputs {
            self.input(input);
        }
    }

    fn news(&mut self, news: News) {
        for note in news.notes {
            self.say(note);
        }
        self.inputs(news.inputs);
    }

    fn say(&mut self, message: FromServer) {
        report::log(&message);
        self.agent.say(message);
    }

    fn input(&mut self, input: Input) {
        self.replica.handle(boottime(), input);
        self.drain();
        while let Some(input) = self.later.pop_front() {
            self.replica.handle(boottime(), input);
            self.drain();
        }
    }

    fn completed(&mut self, op: tandem_volume::DiskOpId, outcome: DiskOutcome) {
        self.input(Input::DiskCompleted { op, outcome });
    }

    /// Carries out what the engine wants; disk operations wait in `work` until the peers' sockets have what is theirs.
    fn drain(&mut self) {
        while let Some(output) = self.replica.poll_output() {
            let now = boottime();
            match output {
                Output::Reply { request, result } => self.initiators.answer(request, result),
                Output::Disk(op) => self.work.push_back(op),
                Output::Send { connection, message, .. } => {
                    let news = self.peers.send(connection, &message, now);
                    self.late(news);
                }
                Output::Disconnect { connection, why, .. } => {
                    let mut news = News::default();
                    self.peers.end(connection.0, why, now, &mut news);
                    self.late(news);
                }
                Output::Opened { open, previous } => {
                    if !self.settled {
                        self.settled = true;
                        if let Err(error) = self.directory.settle() {
                            tracing::warn!(%error, "the creation marker stays");
                        }
                    }
                    let (group, node) = (self.config.group.clone(), self.config.node.clone());
                    self.say(FromServer::Opened { group, node, open, previous });
                }
                Output::Propose(proposal) => self.agent.say(FromServer::Propose(proposal)),
                Output::Serving { promotion, .. } => {
                    self.initiators.serve(promotion);
                    let nbd_socket = self.config.nbd_socket.clone();
                    self.say(FromServer::Serving { promotion, nbd_socket });
                }
                Output::Ended { promotion, why } => {
                    self.initiators.end(promotion, &why);
                    self.say(FromServer::Ended { promotion, why });
                }
                Output::Note(event) => {
                    let note = report::note(event);
                    self.say(note);
                }
            }
        }
    }

    /// News that came up while the engine's outputs are carried out.
    fn late(&mut self, news: News) {
        for note in news.notes {
            self.say(note);
        }
        self.later.extend(news.inputs);
    }

    /// Until nothing is left that can be done at once: sends to peers before the disk's turn, so that both go in
    /// parallel, and to the initiators after it.
    fn settle(&mut self) {
        loop {
            let news = self.peers.flush(&self.poller, boottime());
            self.news(news);
            let work = std::mem::take(&mut self.work);
            let idle = work.is_empty();
            for op in work {
                if let Some((op, outcome)) = self.disk.issue(op) {
                    self.completed(op, outcome);
                }
            }
            let resumed = self.initiators.flush(&self.poller, self.lease_until, boottime(), self.disk.shared());
            let quiet = resumed.is_empty();
            self.inputs(resumed);
            if idle && quiet && self.work.is_empty() {
                break;
            }
        }
        self.agent.flush(&self.poller);
    }
}
