//! The handle that the agent holds.

use std::sync::Arc;

use tandem_base::{Instant, NodeName, SessionId};
use tandem_cluster::{Command, Entry, Outcome, State};
use tokio::{net::TcpStream, sync::watch};

use crate::{Config, ConfirmError, OpenError, ProposeError};

/// The state after an entry was applied.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Index of the last entry of the log, of whatever kind, that is in `state`; 0 before the first.
    pub index: u64,
    /// The state.
    pub state: State,
}

/// An entry that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Where.
    pub index: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// This node's right to act, as its session gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    /// The session; `None` before the first was opened.
    pub session: Option<SessionId>,
    /// First instant of `CLOCK_BOOTTIME` at which the node may not act; `None`: it may not act now.
    pub until: Option<Instant>,
    /// Index of the log that the grant named. Whoever sees this lease and then looks at
    /// [`ControlPlane::watch`] finds at least this index applied.
    pub index: u64,
}

/// A node's part in the cluster's consensus. Cheap to clone; the last clone's drop does not stop it,
/// [`shutdown`](Self::shutdown) does.
#[derive(Clone)]
pub struct ControlPlane {
    applied: watch::Receiver<Arc<Applied>>,
    leader: watch::Receiver<Option<NodeName>>,
    node: NodeName,
}

impl ControlPlane {
    /// Reads identity and store and takes part. Call within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was changed on disk.
    pub async fn open(config: Config) -> Result<Self, OpenError>;

    /// This node, as its certificate names it.
    pub fn node(&self) -> &NodeName;

    /// Takes a connection whose ALPN is [`ALPN_CONTROL`](crate::ALPN_CONTROL), from another agent.
    pub fn accept(&self, stream: TcpStream);

    /// Takes a connection whose ALPN is [`ALPN_JOIN`](crate::ALPN_JOIN), from a machine that wants to become a node.
    pub fn accept_join(&self, stream: TcpStream);

    /// The state, each time entries were applied; some may be skipped.
    pub fn watch(&self) -> watch::Receiver<Arc<Applied>>;

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> watch::Receiver<Option<NodeName>>;

    /// Whether this node believes that it leads; only [`confirm_leadership`](Self::confirm_leadership) is proof.
    pub fn is_leader(&self) -> bool;

    /// Has `command` committed, from any node: forwarded to the leader, through a voter that reaches it if need be.
    /// Retried within `timeout` with one entry id, so that it takes effect once. When this returns, this node's
    /// [`watch`](Self::watch) may still be behind; use [`applied_to`](Self::applied_to) where that matters.
    pub async fn propose(&self, command: Command) -> Result<Committed, ProposeError>;

    /// [`propose`](Self::propose) with an entry of the caller's making, whose id it may propose again.
    pub async fn propose_entry(&self, entry: Entry) -> Result<Committed, ProposeError>;

    /// Waits until this node has applied the log up to `index`.
    pub async fn applied_to(&self, index: u64) -> Arc<Applied>;

    /// On the leader: a majority confirmed this leadership in a round that began after the call (read-index), and the
    /// log is applied up to what was committed then. Returns that state.
    pub async fn confirm_leadership(&self) -> Result<Arc<Applied>, ConfirmError>;

    /// On any node: a state that holds everything that was committed before the call.
    pub async fn read(&self) -> Result<Arc<Applied>, ConfirmError>;

    /// Opens a session for this run and renews it until [`shutdown`](Self::shutdown). The first call starts it; every
    /// call returns the same lease.
    pub fn hold_lease(&self) -> watch::Receiver<Lease>;

    /// Stops taking part; the store is closed when this returns.
    pub async fn shutdown(&self);
}
