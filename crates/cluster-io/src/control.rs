//! The handle that the agent holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use openraft::{
    ReadPolicy, SnapshotPolicy,
    errors::{LinearizableReadError, RaftError},
};
use rustls::ServerConfig;
use tandem_base::{ClusterId, Instant, NodeName, RunId, SessionId};
use tandem_cluster::{Command, Entry, Outcome, State, Timings};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ALPN_CONTROL, Config, ConfirmError, OpenError, ProposeError,
    asks::AskError,
    clock, holder,
    identity::Identity,
    join,
    link::Dialer,
    links::Links,
    members,
    network::Network,
    raft::Raft,
    serve, sessions,
    store::{About, Log, Machine, StoreError, StoreFile},
    wire::{Ask, Told},
};

/// How long [`ControlPlane::propose`] tries.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long [`ControlPlane::read`] and [`ControlPlane::confirm_leadership`] try.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// Renewals that may wait for the table of sessions.
const RENEWALS: usize = 1_024;

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
    pub(crate) core: Arc<Core>,
}

pub(crate) struct Core {
    pub(crate) identity: Identity,
    pub(crate) about: About,
    pub(crate) raft: Raft,
    pub(crate) links: Arc<Links>,
    pub(crate) applied: watch::Receiver<Arc<Applied>>,
    pub(crate) renewals: mpsc::Sender<sessions::Renewal>,
    pub(crate) server_tls: Arc<ServerConfig>,
    pub(crate) join_tls: Arc<ServerConfig>,
    pub(crate) wrong_secrets: Mutex<join::WrongSecrets>,
    pub(crate) present: Mutex<serve::Runs>,
    leader: watch::Receiver<Option<NodeName>>,
    lease: OnceLock<watch::Receiver<Lease>>,
    run: RunId,
    timings: Timings,
    log: Log,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// 64 bits that nobody can guess.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// Fills `bytes` with what nobody can guess.
pub(crate) fn fill(bytes: &mut [u8]) {
    use ring::rand::{SecureRandom, SystemRandom};
    SystemRandom::new().fill(bytes).expect("getrandom(2) does not fail once the system has booted");
}

/// A fresh entry of `by`.
pub(crate) fn entry(by: &NodeName, command: Command) -> Entry {
    Entry { at_ms: clock::utc_ms(), by: by.clone(), id: random(), command }
}

/// openraft's configuration for these times.
///
/// A follower of openraft holds still for `election_timeout_max` after the leader's last sign of life (its lease) and
/// then for a random time between its `election_timeout_min` and `election_timeout_max` more. The plan's times mean the
/// whole silence, so half of the longest is the lease, and what is drawn makes up the rest.
fn raft_config(config: &Config, cluster: ClusterId) -> Result<openraft::Config, OpenError> {
    let timings = &config.timings;
    let heartbeat = timings.raft_heartbeat.as_millis();
    let half = timings.election_timeout_max.as_millis() / 2;
    let shortest = timings.election_timeout_min.as_millis().saturating_sub(half).max(half / 2).max(heartbeat + 1);
    openraft::Config {
        cluster_name: cluster.to_string(),
        heartbeat_interval: heartbeat,
        election_timeout_min: shortest,
        election_timeout_max: half,
        enable_pre_vote: Some(true),
        // A leader that restarted asks for votes like anybody else.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        max_in_snapshot_log_to_keep: config.keep,
        replication_lag_threshold: config.snapshot_every + config.keep,
        install_snapshot_timeout: 10_000,
        backoff: "50ms 100ms 200ms ..400ms".into(),
        ..Default::default()
    }
    .validate()
    .map_err(|error| OpenError::Timings { why: error.to_string() })
}

impl ControlPlane {
    /// Reads identity and store and takes part. Call within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was changed on disk.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let identity = Identity::load(&config.paths.identity)?;
        let raft_config = raft_config(&config, identity.cluster)?;
        let file = StoreFile::open(&config.paths.store, identity.cluster, &identity.node)?;
        let about = file.about.clone();
        let damaged = |why| StoreError::Damaged { path: config.paths.store.clone(), why };
        let (log, snapshot) = Log::new(file).map_err(|error| damaged(error.to_string()))?;
        let machine = Machine::new(log.clone(), snapshot).map_err(damaged)?;
        let applied = machine.watch();
        let tls = |error: rustls::Error| OpenError::Raft { why: format!("TLS: {error}") };
        let dialer = Dialer {
            tls: identity.client_config(ALPN_CONTROL).map_err(tls)?,
            identity: identity.clone(),
            raft_id: about.raft_id,
            run: config.run,
            silent_after: Duration::from(config.timings.raft_heartbeat) * 3,
            #[cfg(test)]
            cut: Mutex::default(),
        };
        let links = Arc::new(Links::new(dialer));
        let (alarms, alarming) = mpsc::unbounded_channel();
        let network = Network::new(Arc::clone(&links), alarms);
        let raft = Raft::new(about.raft_id, Arc::new(raft_config), network, log.clone(), machine)
            .await
            .map_err(|error| OpenError::Raft { why: error.to_string() })?;
        let (renewals, waiting) = mpsc::channel(RENEWALS);
        let (leading, leader) = watch::channel(None);
        let core = Arc::new(Core {
            server_tls: identity.server_config(ALPN_CONTROL).map_err(tls)?,
            join_tls: identity.join_server_config().map_err(tls)?,
            wrong_secrets: Mutex::default(),
            present: Mutex::default(),
            applied: applied.clone(),
            identity,
            about,
            raft,
            links,
            renewals,
            leader,
            lease: OnceLock::new(),
            run: config.run,
            timings: config.timings,
            log,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let own = core.identity.node.clone();
        core.spawn(sessions::run(core.raft.clone(), own, core.timings(), applied, waiting));
        core.spawn(members::run(Arc::clone(&core), leading));
        core.spawn(members::report(Arc::clone(&core), alarming));
        Ok(Self { core })
    }

    /// This node, as its certificate names it.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.core.identity.node
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.core.identity.cluster
    }

    /// Takes a connection whose ALPN is [`ALPN_CONTROL`], from another agent. `entrance` is dropped once it has proved
    /// who it is, or is closed.
    pub fn accept(&self, stream: TcpStream, entrance: impl Send + 'static) {
        self.core.spawn(serve::serve(Arc::clone(&self.core), stream, entrance));
    }

    /// Takes a connection whose ALPN is [`ALPN_JOIN`](crate::ALPN_JOIN), from a machine that wants to become a node.
    /// `entrance` is dropped when it is closed.
    pub fn accept_join(&self, stream: TcpStream, entrance: impl Send + 'static) {
        let core = Arc::clone(&self.core);
        self.core.spawn(async move {
            join::serve(core, stream).await;
            drop(entrance);
        });
    }

    /// The state, each time entries were applied; some may be skipped.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Applied>> {
        self.core.applied.clone()
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<Option<NodeName>> {
        self.core.leader.clone()
    }

    /// Why this node does not reach `node`, in words; `None` while it does.
    #[must_use]
    pub fn trouble(&self, node: &NodeName) -> Option<String> {
        self.core.links.trouble(node)
    }

    /// Whether this node believes that it leads; only [`confirm_leadership`](Self::confirm_leadership) is proof.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.core.raft.is_leader()
    }

    /// Whether `node` answers on this node's own connection to it.
    #[must_use]
    pub fn is_reachable(&self, node: &NodeName) -> bool {
        let member = self.core.applied.borrow().state.members().get(node).map(|member| member.raft_id);
        member.is_some_and(|id| self.core.links.is_answering(id))
    }

    /// Has `command` committed, from any node: forwarded to the leader, through a node that reaches it if need be.
    /// Tried for some seconds with one entry id, so that it takes effect once. When this returns, this node's
    /// [`watch`](Self::watch) may still be behind; use [`applied_to`](Self::applied_to) where that matters.
    ///
    /// # Errors
    ///
    /// [`ProposeError`] says whether the entry may still come into the log.
    pub async fn propose(&self, command: Command) -> Result<Committed, ProposeError> {
        self.core.propose(command, PROPOSE_WITHIN).await
    }

    /// [`propose`](Self::propose) with an entry of the caller's making, whose id it may propose again, for at most
    /// `within`.
    ///
    /// # Errors
    ///
    /// [`ProposeError`] says whether the entry may still come into the log.
    pub async fn propose_entry(&self, entry: Entry, within: Duration) -> Result<Committed, ProposeError> {
        self.core.propose_entry(entry, within).await
    }

    /// Waits until this node has applied the log up to `index`; for ever where that never happens.
    pub async fn applied_to(&self, index: u64) -> Arc<Applied> {
        self.core.applied_to(index).await
    }

    /// On the leader: a majority confirmed this leadership in a round that began after the call (read-index), and the
    /// log is applied up to what was committed then. Returns that state.
    ///
    /// # Errors
    ///
    /// [`ConfirmError`].
    pub async fn confirm_leadership(&self) -> Result<Arc<Applied>, ConfirmError> {
        match timeout(CONFIRM_WITHIN, self.core.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(read)) => Ok(self.core.applied_to(read.index()).await),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => Err(ConfirmError::NotLeader),
            Ok(Err(RaftError::APIError(error))) => Err(ConfirmError::NoQuorum { why: error.to_string() }),
            Ok(Err(RaftError::Fatal(_))) => Err(ConfirmError::Closing),
            Err(_) => Err(ConfirmError::NoQuorum { why: format!("nothing for {CONFIRM_WITHIN:?}") }),
        }
    }

    /// On any node: a state that holds everything that was committed before the call.
    ///
    /// # Errors
    ///
    /// [`ConfirmError`].
    pub async fn read(&self) -> Result<Arc<Applied>, ConfirmError> {
        self.core.read(CONFIRM_WITHIN).await
    }

    /// Opens a session for this run and renews it until [`shutdown`](Self::shutdown). The first call starts it; every
    /// call returns the same lease.
    #[must_use]
    pub fn hold_lease(&self) -> watch::Receiver<Lease> {
        let start = || {
            let (shown, lease) = watch::channel(Lease::default());
            self.core.spawn(holder::run(Arc::clone(&self.core), self.core.run, shown));
            lease
        };
        self.core.lease.get_or_init(start).clone()
    }

    /// Stops taking part; the store is closed when this returns. Nothing is released: the session ends by itself.
    pub async fn shutdown(&self) {
        let core = &self.core;
        core.closing.cancel();
        core.tasks.close();
        if let Err(error) = core.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not end cleanly");
        }
        core.tasks.wait().await;
        core.links.learn(&BTreeMap::new());
        core.log.close().await;
    }

    /// Test only: neither dials these nodes nor listens to them.
    #[cfg(test)]
    pub(crate) fn cut(&self, nodes: &[&str]) {
        let nodes = nodes.iter().map(|node| NodeName::new(node).expect("a name")).collect();
        *self.core.links.dialer.cut.lock().expect("tests do not panic while they hold it") = nodes;
        self.core.links.drop_cut();
    }
}

impl Core {
    /// Runs `task` until it ends or the control plane closes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            closing.run_until_cancelled(task).await;
        });
    }

    /// The times that hold now: the plan's, once this node knows it.
    pub(crate) fn timings(&self) -> Timings {
        let applied = self.applied.borrow();
        if applied.state.cluster().is_some() { applied.state.topology().timings } else { self.timings }
    }

    pub(crate) async fn propose(&self, command: Command, within: Duration) -> Result<Committed, ProposeError> {
        self.propose_entry(entry(&self.identity.node, command), within).await
    }

    async fn propose_entry(&self, entry: Entry, within: Duration) -> Result<Committed, ProposeError> {
        if self.closing.is_cancelled() {
            return Err(ProposeError::Closing);
        }
        match self.ask(Ask::Propose(Box::new(entry)), within).await {
            Ok(Told::Committed { index, outcome }) => Ok(Committed { index, outcome }),
            Ok(_) => Err(ProposeError::Unknown { why: "the leader answered another question".into() }),
            Err(AskError::NotSent(why)) => Err(ProposeError::NotSent { why }),
            Err(AskError::Unknown(why)) => Err(ProposeError::Unknown { why }),
        }
    }

    pub(crate) async fn applied_to(&self, index: u64) -> Arc<Applied> {
        let mut applied = self.applied.clone();
        let found = applied.wait_for(|applied| applied.index >= index).await.map(|applied| Arc::clone(&applied)).ok();
        match found {
            Some(applied) => applied,
            // The state machine is gone: the control plane closes, and this task with it.
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn read(&self, within: Duration) -> Result<Arc<Applied>, ConfirmError> {
        let unreachable = |why: &str| ConfirmError::Unreachable { why: why.into() };
        let index = match self.ask(Ask::Index, within).await {
            Ok(Told::Index(index)) => index,
            Ok(_) => return Err(unreachable("the leader answered another question")),
            Err(error) => return Err(unreachable(&error.to_string())),
        };
        let behind = |_| unreachable("this node does not get the log");
        timeout(within, self.applied_to(index)).await.map_err(behind)
    }
}
