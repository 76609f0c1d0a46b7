//! One group's replica on this node: keeps its volume server running and carries words between it and the log.
//!
//! The server outlives the agent. Everything said to it is level-triggered and repeated on every new connection, so an
//! agent that starts again finds its place by itself.

use super::proposer::Proposer;
use crate::paths::Paths;
use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd, path::PathBuf, process::Stdio, time::Duration};
use tandem_base::{Configuration, Epoch, Instant, NodeName, OpenId, SessionId};
use tandem_cluster::Command;
use tandem_volume_io::{
    control::{Client, FromServer, NoteKind, Status, ToServer},
    server::ServerConfig,
};
use tokio::{
    process::Child,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

/// What the group has to do, as the log and the lease say it now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Orders {
    /// The register.
    pub(super) config: Configuration,
    /// The run of our volume server that the register knows.
    pub(super) registered: Option<OpenId>,
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
    /// Why the server refuses to run.
    pub(super) refused: watch::Receiver<Option<String>>,
    requests: mpsc::UnboundedSender<Request>,
}

enum Request {
    Status(oneshot::Sender<Status>),
    PeerSocket(OwnedFd),
    InjectDiskFault(i32),
}

/// How long a volume server may take to answer for its status.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries to have a new run of the server registered.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);
/// Between two tries to start the server; it says itself why it cannot.
const START_AGAIN: Duration = Duration::from_secs(1);
/// How long a server whose disk failed is left alone: a full disk may have been cleared by then, a dying one fails again.
const DISK_AGAIN: Duration = Duration::from_secs(30);

impl Group {
    /// Starts to look after the group whose server is described by `config`.
    pub(super) fn start(config: ServerConfig, paths: &Paths, proposer: Proposer) -> Self {
        let (orders, orders_seen) = watch::channel(Orders::default());
        let (serving_set, serving) = watch::channel(None);
        let (refused_set, refused) = watch::channel(None);
        let (requests, incoming) = mpsc::unbounded_channel();
        let keeper = Keeper {
            run_dir: paths.volume_run(&config.group),
            config,
            proposer,
            orders: orders_seen,
            serving: serving_set,
            refused: refused_set,
            requests: incoming,
            child: None,
            opened: None,
            disk_failed: false,
            asked: BTreeMap::new(),
        };
        tokio::spawn(keeper.run());
        Self { orders, serving, refused, requests }
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

struct Keeper {
    config: ServerConfig,
    run_dir: PathBuf,
    proposer: Proposer,
    orders: watch::Receiver<Orders>,
    serving: watch::Sender<Option<Serving>>,
    refused: watch::Sender<Option<String>>,
    requests: mpsc::UnboundedReceiver<Request>,
    /// The server, if this run of the agent started it.
    child: Option<Child>,
    /// The run of the server that was last heard of, until it is known to be over.
    opened: Option<OpenId>,
    /// The server said that its disk failed.
    disk_failed: bool,
    asked: BTreeMap<u64, oneshot::Sender<Status>>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            match Client::connect(&self.config.control_socket).await {
                Ok((client, from_server)) => self.converse(&client, from_server).await,
                Err(_) => {
                    if let Err(error) = self.start_server().await {
                        self.refused.send_replace(Some(format!("the volume server cannot be started: {error}")));
                    }
                }
            }
            // Without the server nothing is served; what was attached waits for it, or for the next promotion.
            self.serving.send_replace(None);
            self.asked.clear();
            if self.orders.has_changed().is_err() {
                return;
            }
        }
    }

    /// Starts the server unless ours still runs, and gives it time to open its socket.
    async fn start_server(&mut self) -> std::io::Result<()> {
        let mut ended = "its control socket is gone".to_owned();
        if let Some(child) = &mut self.child {
            match child.try_wait()? {
                None => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    return Ok(());
                }
                Some(status) => {
                    ended = format!("the volume server ended with {status}");
                    self.child = None;
                }
            }
        }
        if let Some(open) = self.opened.take() {
            let failed = std::mem::take(&mut self.disk_failed);
            if failed {
                ended = "its disk failed".into();
            }
            self.close(open, ended);
            tokio::time::sleep(if failed { DISK_AGAIN } else { START_AGAIN }).await;
        } else if self.refused.borrow().is_some() {
            tokio::time::sleep(START_AGAIN).await;
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
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    /// Tells the register that a run of the server is over, so that nobody waits for it. If this is lost, the next run's
    /// registration says the same.
    fn close(&self, open: OpenId, why: String) {
        tracing::warn!(group = %self.config.group, %open, why, "the replica is closed");
        let Some(session) = self.orders.borrow().session else { return };
        let (group, node) = (self.config.group.clone(), self.config.node.clone());
        self.proposer.propose_in_background(Command::CloseReplica { group, node, session, open, why });
    }

    /// A server whose disk failed is ended, and another replica goes on; the last in-sync one stays, and its initiators
    /// get the error.
    fn give_up_disk(&mut self, client: &Client) -> Result<(), tandem_volume_io::control::ControlError> {
        let last = {
            let orders = self.orders.borrow();
            orders.config.in_sync.keys().all(|node| *node == self.config.node) && !orders.config.in_sync.is_empty()
        };
        if self.disk_failed && !last {
            client.send(ToServer::Stop)?;
        }
        Ok(())
    }

    /// Carries words until the connection ends.
    async fn converse(&mut self, client: &Client, mut from_server: mpsc::UnboundedReceiver<FromServer>) {
        let mut opened = None;
        let mut said = Orders::default();
        let mut next_status = 0;
        let mut register = tokio::time::interval(REGISTER_AGAIN);
        register.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ordered = self.orders.borrow_and_update().clone();
            if self.speak(client, &mut said, ordered).is_err() {
                return;
            }
            tokio::select! {
                message = from_server.recv() => match message {
                    None => return,
                    Some(FromServer::Opened { open, previous, .. }) => {
                        self.refused.send_replace(None);
                        self.opened = Some(open);
                        opened = Some((open, previous));
                        register.reset_immediately();
                    }
                    Some(message) => {
                        self.heard(message);
                        if self.disk_failed && self.give_up_disk(client).is_err() { return }
                    }
                },
                changed = self.orders.changed() => if changed.is_err() { return },
                request = self.requests.recv() => match request {
                    None => return,
                    Some(request) => {
                        next_status += 1;
                        if self.pass_on(client, request, next_status).is_err() { return }
                    }
                },
                _ = register.tick() => self.register(opened.as_ref()),
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
        let group = &self.config.group;
        self.disk_failed |= matches!(&message, FromServer::Note { kind: NoteKind::DiskFailed, .. });
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
                self.serving.send_if_modified(|serving| {
                    let ours = serving.as_ref().is_some_and(|serving| serving.promotion == promotion);
                    if ours {
                        *serving = None;
                    }
                    ours
                });
            }
            FromServer::Note { kind, node, text } => self.note(kind, node, text),
            FromServer::Status { id, status } => {
                if let Some(asked) = self.asked.remove(&id) {
                    let _ = asked.send(*status);
                }
            }
            FromServer::Refused { why, hint } => {
                let why = hint.map_or(why.clone(), |hint| format!("{why} ({hint})"));
                tracing::error!(%group, why, "the volume server refuses to run");
                if self.refused.borrow().as_deref() != Some(&why) {
                    self.proposer.note(format!("replica of group {group} refused"), why.clone());
                    self.refused.send_replace(Some(why));
                }
            }
            FromServer::Opened { .. } => unreachable!("handled before"),
            other => tracing::warn!(?other, "the volume server said something this agent does not know"),
        }
    }

    /// What a person would want to find in the journal goes into the log; the rest stays in this node's own.
    fn note(&self, kind: NoteKind, node: Option<NodeName>, text: String) {
        let group = &self.config.group;
        let about = node.as_ref().map_or(String::new(), |node| format!(" ({node})"));
        let what = match kind {
            NoteKind::ResyncStarted => "resync started",
            NoteKind::ResyncDone => "resync done",
            NoteKind::DiskFailed => "disk failed",
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
            Request::InjectDiskFault(errno) => client.send(ToServer::InjectDiskFault { errno }),
        }
    }
}
