//! The conversation between a group's volume server and the log, for as long as the agent runs.

use super::{Ends, Orders, Request, Role, Serving};
use crate::agent::{disk_probe::DiskProbe, now_and_then::NowAndThen, proposer::Proposer};
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant as StdInstant},
};
use tandem_base::{Epoch, NodeName, OpenId};
use tandem_cluster::Command;
use tandem_volume_io::{
    control::{Client, FromServer, NoteKind, Role as ServerRole, Status, ToServer},
    server::ServerConfig,
};
use tokio::{
    process::Child,
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

/// Between two looks at a server that is about to open its socket, or to end.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two tries to have a new run of the server registered, or one that is over closed.
pub(super) const REGISTER_AGAIN: Duration = Duration::from_millis(500);
/// How long a server whose disk failed may take to end; then it is killed.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Looks in a row at which a primary's server had not answered: then its disk hangs, and another replica goes on. Counted
/// while this agent runs, so that a machine that was stopped as a whole is not taken for it.
pub(super) const SILENT_LOOKS: u32 = 10;
/// Connections that were refused are counted together for so long in the cluster's journal: anybody can cause them.
pub(super) const STRANGERS_AGAIN: Duration = Duration::from_secs(60);
/// Between two tries to start the server; it says itself why it cannot.
pub(super) const START_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    pub(super) config: ServerConfig,
    pub(super) run_dir: PathBuf,
    pub(super) proposer: Proposer,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) serving: watch::Sender<Option<Serving>>,
    pub(super) ended: watch::Sender<Option<(Epoch, String)>>,
    pub(super) down: watch::Sender<Option<String>>,
    pub(super) ailing: watch::Sender<Option<String>>,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    /// The server, if this run of the agent started it.
    pub(super) child: Option<Child>,
    /// A server that was killed and is not gone yet.
    pub(super) dying: Option<OwnedFd>,
    /// The run of the server that was last heard of, until it is known to be over, and since when it runs.
    pub(super) opened: Option<(OpenId, StdInstant)>,
    /// A run that is over, and why: said until the register knows.
    pub(super) over: Option<(OpenId, String)>,
    /// What the server said when its disk failed.
    pub(super) disk_failed: Option<String>,
    /// How long the next rest after a failed disk is.
    pub(super) disk_again: Duration,
    /// Looks since the server last answered the agent's own question.
    pub(super) unanswered: u32,
    pub(super) probe: DiskProbe,
    /// Tells of connections that nobody of this cluster made.
    pub(super) strangers: NowAndThen,
    pub(super) asked: BTreeMap<u64, oneshot::Sender<Status>>,
}

/// Names the agent's own question for the status, among those that others asked.
const OWN_QUESTION: u64 = 0;

impl Keeper {
    pub(super) async fn run(mut self) {
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

    pub(super) fn start_server(&mut self) -> std::io::Result<()> {
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
            let Some(more) = self.strangers.due() else { return };
            if more > 0 {
                text = format!("{text}; {more} more since the last such line");
            }
        }
        let group = &self.config.group;
        let about = node.as_ref().map_or(String::new(), |node| format!(" ({node})"));
        let what = match kind {
            NoteKind::MemberLeft => "shut out of the in-sync set",
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
