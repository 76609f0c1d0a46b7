//! What a replica says of itself.

use alloc::{collections::BTreeSet, string::String, vec::Vec};
use tandem_base::{Epoch, NodeName, OpenId};

/// What a replica is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its superblock is not durable yet.
    Starting,
    /// It follows, or waits for a primary.
    Secondary,
    /// It asked to become primary.
    Promoting,
    /// It is primary and reconciles before the first request.
    TakingOver,
    /// It serves.
    Primary,
    /// It drains and flushes before it gives the promotion back.
    Releasing,
}

/// How far a resync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResyncProgress {
    /// Bytes compared.
    pub compared: u64,
    /// Bytes to compare.
    pub total: u64,
    /// Bytes that differed and were sent.
    pub sent: u64,
    /// Everything is compared: it waits for the barrier, the flush, or the register.
    pub joining: bool,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its node.
    pub node: NodeName,
    /// A connection stands and both have said hello.
    pub connected: bool,
    /// Its run, when known.
    pub open: Option<OpenId>,
    /// The register lists exactly this run as in sync.
    pub in_sync: bool,
    /// It said that its disk failed.
    pub failed: Option<String>,
    /// This replica resyncs it.
    pub resync: Option<ResyncProgress>,
}

/// Numbers since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Requests accepted.
    pub requests: u64,
    /// Replies that left.
    pub replies: u64,
    /// Bytes the initiator read.
    pub read_bytes: u64,
    /// Bytes the initiator wrote.
    pub written_bytes: u64,
    /// Writes received from a primary and stored.
    pub followed_writes: u64,
    /// Bytes sent to joiners because they differed.
    pub resync_bytes: u64,
    /// Resyncs begun.
    pub resyncs: u64,
    /// Members removed by a committed change.
    pub shrinks: u64,
    /// Members added by a committed change.
    pub grows: u64,
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// What it is doing.
    pub role: Role,
    /// Its run.
    pub open: OpenId,
    /// The newest epoch it was shown.
    pub epoch: Epoch,
    /// The highest promotion it has promised to follow.
    pub promised: Epoch,
    /// The primary's node, by the register.
    pub primary: Option<NodeName>,
    /// The promotion of this replica, while it is primary.
    pub promotion: Option<Epoch>,
    /// The members, by the register.
    pub in_sync: BTreeSet<NodeName>,
    /// Whether this run is one of them.
    pub member: bool,
    /// The other replicas.
    pub peers: Vec<PeerStatus>,
    /// Why no reply leaves; `None` while replies leave, and on a secondary.
    pub frozen: Option<String>,
    /// The local disk failed: the service should move away.
    pub disk_failed: Option<String>,
    /// What is proposed and undecided, in words.
    pub proposed: Option<String>,
    /// Requests that are not answered yet.
    pub waiting: usize,
    /// Numbers since the start.
    pub counters: Counters,
}
