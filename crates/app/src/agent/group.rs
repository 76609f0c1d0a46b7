//! One group's replica on this node: keeps its volume server running and carries words between it and the log.
//!
//! The server outlives the agent. Everything said to it is level-triggered and repeated on every new connection, so an
//! agent that starts again finds its place by itself.

use super::{disk_probe::DiskProbe, proposer::Proposer};
use crate::paths::Paths;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant as StdInstant},
};
use tandem_base::{Configuration, Epoch, Instant, NodeName, OpenId, SessionId};
use tandem_cluster::Command;
use tandem_volume_io::{
    control::{Client, FromServer, NoteKind, Role as ServerRole, Status, ToServer},
    server::ServerConfig,
};
use tokio::{
    process::Child,
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

/// What the group has to do, as the log and the lease say it now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Orders {
    /// The register.
    pub(super) config: Configuration,
    /// The run of our volume server that the register knows.
    pub(super) registered: Option<OpenId>,
    /// Whether the register knows that run to be over.
    pub(super) closed: bool,
    /// This node's session, while it has one.
    pub(super) session: Option<SessionId>,
    /// First instant at which the lease is over. Never newer than `config`.
    pub(super) lease_until: Option<Instant>,
    /// Which role the placement asks for.
    pub(super) role: Role,
    /// Where the other replicas listen.
    pub(super) peers: BTreeMap<NodeName, SocketAddr>,
}

/// Which role the placement asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Role {
    /// Be a replica.
    #[default]
    Follow,
    /// Become primary, or stay it.
    Serve,
    /// Give it up in order.
    Release,
}

/// A promotion that can be attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Serving {
    /// Attachments belong to it.
    pub(super) promotion: Epoch,
    /// Where initiators connect.
    pub(super) nbd_socket: PathBuf,
}

/// The agent's hold on one group.
pub(super) struct Group {
    /// What it has to do.
    pub(super) orders: watch::Sender<Orders>,
    /// What can be attached to now.
    pub(super) serving: watch::Receiver<Option<Serving>>,
    /// The last promotion that the server gave up, and why: its attachments fail for ever.
    pub(super) ended: watch::Receiver<Option<(Epoch, String)>>,
    /// Why the server does not run.
    pub(super) down: watch::Receiver<Option<String>>,
    /// What the disk refused, while the server runs on: it is the last that has everything.
    pub(super) ailing: watch::Receiver<Option<String>>,
    requests: mpsc::UnboundedSender<Request>,
}

enum Request {
    Status(oneshot::Sender<Status>),
    PeerSocket(OwnedFd),
    InjectDiskFault(i32),
}

/// How long a volume server may take to answer for its status.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries to have a new run of the server registered, or one that is over closed.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);
/// Between two looks at a server that is about to open its socket, or to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two tries to start the server; it says itself why it cannot.
const START_AGAIN: Duration = Duration::from_secs(1);
/// How long a server whose disk failed is left alone at first, and at most: a full disk may have been cleared by then, a
/// dying one fails again.
const DISK_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// Between two looks whether a failed disk takes writes again.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// A replica that ran so long since its disk failed begins with the short rest again.
const DISK_GOOD_AFTER: Duration = Duration::from_secs(600);
/// How long a server whose disk failed may take to end; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Looks in a row at which a primary's server had not answered: then its disk hangs, and another replica goes on. Counted
/// while this agent runs, so that a machine that was stopped as a whole is not taken for it.
const SILENT_LOOKS: u32 = 10;
/// Connections that were refused are counted together for so long in the cluster's journal: anybody can cause them.
const STRANGERS_AGAIN: Duration = Duration::from_secs(60);

impl Group {
    /// Starts to look after the group whose server is described by `config`.
    pub(super) fn start(config: ServerConfig, paths: &Paths, proposer: Proposer) -> Self {
        let (orders, orders_seen) = watch::channel(Orders::default());
        let (serving_set, serving) = watch::channel(None);
        let (ended_set, ended) = watch::channel(None);
        let (down_set, down) = watch::channel(None);
        let (ailing_set, ailing) = watch::channel(None);
        let (requests, incoming) = mpsc::unbounded_channel();
        let keeper = Keeper {
            run_dir: paths.volume_run(&config.group),
            config,
            proposer,
            orders: orders_seen,
            serving: serving_set,
            ended: ended_set,
            down: down_set,
            ailing: ailing_set,
            requests: incoming,
            child: None,
            dying: None,
            opened: None,
            over: None,
            disk_failed: None,
            disk_again: DISK_AGAIN[0],
            unanswered: 0,
            probe: DiskProbe::default(),
            strangers: Strangers::default(),
            asked: BTreeMap::new(),
        };
        tokio::spawn(keeper.run());
        Self { orders, serving, ended, down, ailing, requests }
    }

    /// What the volume server says of itself; `None` while it does not answer.
    pub(super) async fn status(&self) -> Option<Status> {
        let (answer, asked) = oneshot::channel();
        self.requests.send(Request::Status(answer)).ok()?;
        timeout(STATUS_WITHIN, asked).await.ok()?.ok()
    }

    /// Hands a peer's connection over to the server; it is closed if the server is away.
    pub(super) fn give_peer_socket(&self, socket: OwnedFd) {
        let _ = self.requests.send(Request::PeerSocket(socket));
    }

    /// Lets this node's disk under the group fail; `0` ends it.
    pub(super) fn inject_disk_fault(&self, errno: i32) {
        let _ = self.requests.send(Request::InjectDiskFault(errno));
    }
}

/// Connections that nobody of this cluster made.
#[derive(Default)]
struct Strangers {
    since: Option<StdInstant>,
    more: u64,
}

struct Keeper {
    config: ServerConfig,
    run_dir: PathBuf,
    proposer: Proposer,
    orders: watch::Receiver<Orders>,
    serving: watch::Sender<Option<Serving>>,
    ended: watch::Sender<Option<(Epoch, String)>>,
    down: watch::Sender<Option<String>>,
    ailing: watch::Sender<Option<String>>,
    requests: mpsc::UnboundedReceiver<Request>,
    /// The server, if this run of the agent started it.
    child: Option<Child>,
    /// A server that was killed and is not gone yet.
    dying: Option<OwnedFd>,
    /// The run of the server that was last heard of, until it is known to be over, and since when it runs.
    opened: Option<(OpenId, StdInstant)>,
    /// A run that is over, and why: said until the register knows.
    over: Option<(OpenId, String)>,
    /// What the server said when its disk failed.
    disk_failed: Option<String>,
    /// How long the next rest after a failed disk is.
    disk_again: Duration,
    /// Looks since the server last answered the agent's own question.
    unanswered: u32,
    probe: DiskProbe,
    strangers: Strangers,
    asked: BTreeMap<u64, oneshot::Sender<Status>>,
}

/// The agent ends.
struct Ends;

/// Names the agent's own question for the status, among those that others asked.
const OWN_QUESTION: u64 = 0;

impl Keeper {
    async fn run(mut self) {
        while self.once().await.is_ok() {}
    }

    /// One life of a connection to the server, or one step on the way to it.
    async fn once(&mut self) -> Result<(), Ends> {
        if self.is_dying() {
            self.say_down("its disk hangs, and the volume server does not die; reboot this node".into());
            return self.rest(START_AGAIN).await;
        }
        match Client::connect(&self.config.control_socket).await {
            Ok((client, from_server)) => self.converse(&client, from_server).await,
            Err(_) => {
                self.recover().await?;
                if let Err(error) = self.start_server() {
                    self.say_down(format!("the volume server cannot be started: {error}"));
                    self.rest(START_AGAIN).await?;
                }
                self.rest(LOOK_AGAIN).await?;
            }
        }
        // Without the server nothing is served; what was attached waits for it, or for the next promotion.
        self.serving.send_replace(None);
        self.asked.clear();
        if self.orders.has_changed().is_err() { Err(Ends) } else { Ok(()) }
    }

    /// Returns once a server may be started.
    async fn recover(&mut self) -> Result<(), Ends> {
        let mut ended = "the volume server ended".to_owned();
        let mut silent = false;
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                // It is about to open its socket, or to end.
                Ok(None) if self.opened.is_none() => return self.rest(LOOK_AGAIN).await,
                Ok(None) => self.rest(LOOK_AGAIN).await?,
                Ok(Some(status)) => {
                    ended = format!("the volume server ended with {status}");
                    silent = self.opened.is_none() && self.down.borrow().is_none();
                    self.child = None;
                }
                Err(error) => {
                    ended = format!("the volume server is lost: {error}");
                    self.child = None;
                }
            }
        }
        let ran = self.opened.take();
        if let Some(why) = self.disk_failed.take() {
            self.ailing.send_replace(None);
            let ended = format!("its disk failed: {why}");
            if let Some((open, since)) = ran {
                self.over(open, ended.clone());
                if since.elapsed() > DISK_GOOD_AFTER {
                    self.disk_again = DISK_AGAIN[0];
                }
            }
            return self.wait_for_disk(&ended).await;
        }
        if let Some((open, _)) = ran {
            self.over(open, ended);
            return self.rest(START_AGAIN).await;
        }
        if silent {
            self.say_down(format!("{ended} before it could say why; this node's journal has its words"));
        }
        if self.down.borrow().is_some() { self.rest(START_AGAIN).await } else { Ok(()) }
    }

    /// Returns once the disk takes writes again.
    async fn wait_for_disk(&mut self, failed: &str) -> Result<(), Ends> {
        let mut next = self.disk_again;
        self.disk_again = (self.disk_again * 2).min(DISK_AGAIN[1]);
        self.say_down(format!("{failed}; the disk is tried again in {} s", next.as_secs()));
        loop {
            self.rest(next).await?;
            match self.probe.try_out(&self.config.directory).await {
                Ok(()) => return Ok(()),
                Err(still) => {
                    next = PROBE_AGAIN;
                    let again = next.as_secs();
                    self.say_down(format!(
                        "{failed}; the disk was tried again and still takes no writes: {still}; tried every {again} s"
                    ));
                }
            }
        }
    }

    /// Waits. Meanwhile questions for the server are not kept, as nobody is there, nor are connections of peers.
    async fn rest(&mut self, length: Duration) -> Result<(), Ends> {
        let until = tokio::time::Instant::now() + length;
        let mut again = tokio::time::interval(REGISTER_AGAIN);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                _ = again.tick() => self.close(),
                request = self.requests.recv() => match request {
                    None => return Err(Ends),
                    Some(Request::InjectDiskFault(errno)) => {
                        self.probe.pretend = errno;
                        if errno == 0 {
                            return Ok(());
                        }
                    }
                    Some(Request::Status(_) | Request::PeerSocket(_)) => {}
                },
            }
        }
    }

    fn say_down(&self, why: String) {
        self.down.send_if_modified(|down| {
            let news = down.as_ref() != Some(&why);
            if news {
                tracing::warn!(group = %self.config.group, why, "the replica does not run");
                *down = Some(why);
            }
            news
        });
    }

    fn start_server(&mut self) -> std::io::Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.run_dir)?;
        let config = self.run_dir.join("server.json");
        std::fs::write(&config, serde_json::to_vec_pretty(&self.config).expect("the configuration is plain data"))?;
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.arg("volume-server").arg(&config).stdin(Stdio::null());
        // A session of its own: signals to the agent's group do not reach it.
        // SAFETY: setsid(2) is async-signal-safe and touches nothing of the parent's memory.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(std::io::Error::from));
        }
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// A run of the server is over.
    fn over(&mut self, open: OpenId, why: String) {
        tracing::warn!(group = %self.config.group, %open, why, "the replica is closed");
        self.over = Some((open, why));
        self.close();
    }

    /// Tells the register that a run of the server is over, so that nobody waits for it and everybody knows why.
    fn close(&self) {
        let Some((open, why)) = &self.over else { return };
        let session = {
            let orders = self.orders.borrow();
            // Where the register does not know of the run yet, the word of it may still be on its way.
            orders.session.filter(|_| orders.registered == Some(*open) && !orders.closed)
        };
        if let Some(session) = session {
            let (group, node) = (self.config.group.clone(), self.config.node.clone());
            let (open, why) = (*open, why.clone());
            self.proposer.propose_in_background(Command::CloseReplica { group, node, session, open, why });
        }
    }

    /// A server whose disk failed is ended, and another replica goes on; the last in-sync one stays, and its initiators
    /// get the error. One that could not even open serves nobody.
    fn gives_up_disk(&self) -> bool {
        let orders = self.orders.borrow();
        let in_sync = &orders.config.in_sync;
        let last = !in_sync.is_empty() && in_sync.keys().all(|node| *node == self.config.node);
        self.disk_failed.is_some() && (!last || self.opened.is_none())
    }

    /// Whether this node's replica is primary and another one could go on.
    fn may_hand_over(&self) -> bool {
        let orders = self.orders.borrow();
        let config = &orders.config;
        config.primary.as_ref().is_some_and(|primary| primary.node == self.config.node) && config.in_sync.len() > 1
    }

    /// Ends a server that does not end by itself: from then on it answers nobody.
    fn kill(&mut self, client: &Client) {
        let pidfd = client.server().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        if let Some(pidfd) = pidfd {
            tracing::error!(group = %self.config.group, "the volume server does not end; it is killed");
            // One that ended meanwhile is what we want.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            self.dying = Some(pidfd);
        }
    }

    /// Whether a killed server is still there: it holds the replica's lock.
    fn is_dying(&mut self) -> bool {
        let Some(pidfd) = &self.dying else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Readable once the process has ended (pidfd_open(2)).
        let ended = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0);
        if ended {
            self.dying = None;
        } else if let Some((open, _)) = self.opened.take() {
            let why = self.disk_failed.as_deref().unwrap_or("it hangs").to_owned();
            self.over(open, format!("its disk failed: {why}"));
        }
        !ended
    }

    /// Carries words until the connection ends.
    async fn converse(&mut self, client: &Client, mut from_server: mpsc::UnboundedReceiver<FromServer>) {
        let mut opened = None;
        let mut said = Orders::default();
        let mut next_status = OWN_QUESTION;
        let mut register = tokio::time::interval(REGISTER_AGAIN);
        register.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = None;
        self.unanswered = 0;
        // What an earlier agent was told of the disk is asked for again.
        let mut greeting = vec![ToServer::StatusRequest { id: OWN_QUESTION }];
        if self.probe.pretend != 0 {
            greeting.insert(0, ToServer::InjectDiskFault { errno: self.probe.pretend });
        }
        if greeting.into_iter().any(|message| client.send(message).is_err()) {
            return;
        }
        loop {
            let ordered = self.orders.borrow_and_update().clone();
            if self.speak(client, &mut said, ordered).is_err() {
                return;
            }
            if stopping.is_none() && self.gives_up_disk() {
                stopping = Some(tokio::time::Instant::now() + STOP_WITHIN);
                if client.send(ToServer::Stop).is_err() {
                    return;
                }
            }
            let too_late = async {
                match stopping {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = from_server.recv() => match message {
                    None => return,
                    Some(FromServer::Opened { open, previous, .. }) => {
                        self.down.send_replace(None);
                        self.opened = Some((open, StdInstant::now()));
                        opened = Some((open, previous));
                        register.reset_immediately();
                    }
                    Some(message) => self.heard(message),
                },
                changed = self.orders.changed() => if changed.is_err() { return },
                request = self.requests.recv() => match request {
                    None => return,
                    Some(request) => {
                        next_status += 1;
                        if self.pass_on(client, request, next_status).is_err() { return }
                    }
                },
                _ = register.tick() => {
                    self.register(opened.as_ref());
                    self.close();
                    self.unanswered += 1;
                    if client.send(ToServer::StatusRequest { id: OWN_QUESTION }).is_err() { return }
                    if self.unanswered > SILENT_LOOKS && self.disk_failed.is_none() && self.may_hand_over() {
                        let silent = REGISTER_AGAIN * SILENT_LOOKS;
                        let why = format!("it hangs: the volume server has not answered for {} s", silent.as_secs());
                        self.proposer.note(format!("group {}: disk failed", self.config.group), why.clone());
                        self.disk_failed = Some(why);
                        self.kill(client);
                        sleep(LOOK_AGAIN).await;
                        return;
                    }
                }
                () = too_late => {
                    self.kill(client);
                    // A moment for the kernel: most often it is gone then.
                    sleep(LOOK_AGAIN).await;
                    return;
                }
            }
        }
    }

    /// Tells the server what changed: first what the log says, then how long the lease holds, then the role.
    fn speak(
        &self,
        client: &Client,
        said: &mut Orders,
        ordered: Orders,
    ) -> Result<(), tandem_volume_io::control::ControlError> {
        if ordered.peers != said.peers {
            client.send(ToServer::Peers(ordered.peers.clone()))?;
        }
        if ordered.config != said.config {
            client.send(ToServer::Configured(ordered.config.clone()))?;
        }
        if let Some(until) = ordered.lease_until.filter(|_| ordered.lease_until != said.lease_until) {
            client.send(ToServer::Lease { until })?;
        }
        // A promotion elsewhere makes the server forget the order to serve: it is given again whenever the log moved.
        let again = ordered.role == Role::Serve && ordered.config != said.config;
        if ordered.role != said.role || again {
            match ordered.role {
                Role::Follow => {}
                Role::Serve => client.send(ToServer::Serve)?,
                Role::Release => client.send(ToServer::Release)?,
            }
        }
        *said = ordered;
        Ok(())
    }

    /// Has the server's run registered, as long as the register names another.
    fn register(&self, opened: Option<&(OpenId, Vec<OpenId>)>) {
        let orders = self.orders.borrow();
        let (Some((open, previous)), Some(session)) = (opened, orders.session) else { return };
        let (open, previous) = (*open, previous.clone());
        if orders.registered == Some(open) {
            return;
        }
        let (group, node) = (self.config.group.clone(), self.config.node.clone());
        self.proposer.propose_in_background(Command::OpenReplica { group, node, session, open, previous });
    }

    fn heard(&mut self, message: FromServer) {
        if let FromServer::Note { kind: NoteKind::DiskFailed, text, .. } = &message {
            // The first says what happened; later ones, what follows from it.
            self.disk_failed.get_or_insert_with(|| text.clone());
            self.ailing.send_replace(self.disk_failed.clone());
        }
        let group = &self.config.group;
        match message {
            FromServer::Propose(proposal) => {
                self.proposer.propose_in_background(Command::Propose { group: group.clone(), proposal });
            }
            FromServer::Serving { promotion, nbd_socket } => {
                tracing::info!(%group, %promotion, "serving");
                self.serving.send_replace(Some(Serving { promotion, nbd_socket }));
            }
            FromServer::Ended { promotion, why } => {
                tracing::info!(%group, %promotion, why, "no longer serving");
                self.ended.send_replace(Some((promotion, why)));
                self.serving.send_if_modified(|serving| {
                    let ours = serving.as_ref().is_some_and(|serving| serving.promotion == promotion);
                    if ours {
                        *serving = None;
                    }
                    ours
                });
            }
            FromServer::Note { kind, node, text } => self.note(kind, node, text),
            FromServer::Status { id: OWN_QUESTION, status } => {
                self.unanswered = 0;
                if status.role == ServerRole::Failed && self.disk_failed.is_none() {
                    self.disk_failed = status.disk_error;
                    self.ailing.send_replace(self.disk_failed.clone());
                }
            }
            FromServer::Status { id, status } => {
                if let Some(asked) = self.asked.remove(&id) {
                    let _ = asked.send(*status);
                }
            }
            FromServer::Refused { why, hint } => {
                let why = hint.map_or(why.clone(), |hint| format!("{why} ({hint})"));
                // It holds the replica's lock, so no run of the server is left that the register could wait for.
                let registered = self.orders.borrow().registered;
                self.over = registered.map(|open| (open, why.clone()));
                self.close();
                if self.down.borrow().as_deref() != Some(&why) {
                    self.proposer.note(format!("replica of group {group} refused"), why.clone());
                    self.say_down(why);
                }
            }
            FromServer::Opened { .. } => unreachable!("handled before"),
            other => tracing::warn!(?other, "the volume server said something this agent does not know"),
        }
    }

    /// What a person would want to find in the journal goes into the log; the rest stays in this node's own.
    fn note(&mut self, kind: NoteKind, node: Option<NodeName>, text: String) {
        let mut text = text;
        if kind == NoteKind::PeerRefused && node.is_none() {
            let strangers = &mut self.strangers;
            if strangers.since.is_some_and(|since| since.elapsed() < STRANGERS_AGAIN) {
                strangers.more += 1;
                return;
            }
            strangers.since = Some(StdInstant::now());
            let more = std::mem::take(&mut strangers.more);
            if more > 0 {
                text = format!("{text}; {more} more since the last such line");
            }
        }
        let group = &self.config.group;
        let about = node.as_ref().map_or(String::new(), |node| format!(" ({node})"));
        let what = match kind {
            NoteKind::ResyncStarted => "resync started",
            NoteKind::ResyncDone => "resync done",
            NoteKind::DiskFailed => "disk failed",
            NoteKind::Repaired => "metadata mended",
            NoteKind::PeerRefused => "peer refused",
            _ => return,
        };
        self.proposer.note(format!("group {group}: {what}{about}"), text);
    }

    fn pass_on(
        &mut self,
        client: &Client,
        request: Request,
        id: u64,
    ) -> Result<(), tandem_volume_io::control::ControlError> {
        match request {
            Request::Status(answer) => {
                self.asked.insert(id, answer);
                client.send(ToServer::StatusRequest { id })
            }
            Request::PeerSocket(socket) => client.send_peer_socket(socket),
            Request::InjectDiskFault(errno) => {
                // The next run of the server finds the disk as this one does.
                self.probe.pretend = errno;
                client.send(ToServer::InjectDiskFault { errno })
            }
        }
    }
}
