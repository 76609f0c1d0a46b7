//! One group's replica on this node: keeps its volume server running and carries words between it and the log.
//!
//! The server outlives the agent. Everything said to it is level-triggered and repeated on every new connection, so an
//! agent that starts again finds its place by itself.

mod keeper;
mod recovery;

use self::keeper::Keeper;
use super::{disk_probe::DiskProbe, now_and_then::NowAndThen, proposer::Proposer};
use crate::paths::Paths;
use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd, path::PathBuf, time::Duration};
use tandem_base::{Configuration, Epoch, Instant, NodeName, OpenId, SessionId};
use tandem_volume_io::{control::Status, server::ServerConfig};
use tokio::{
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

/// The agent ends.
struct Ends;

/// How long a volume server may take to answer for its status.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

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
            disk_again: recovery::DISK_AGAIN[0],
            unanswered: 0,
            probe: DiskProbe::default(),
            strangers: NowAndThen::new(keeper::STRANGERS_AGAIN),
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
