//! What a replica says of itself.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use tandem_base::{Change, Epoch, Instant, NodeName, OpenId};

use crate::{Replica, disk::Job};

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

impl Replica {
    /// What this replica says of itself at `now`.
    #[must_use]
    pub fn status(&self, now: Instant) -> ReplicaStatus {
        let applied = self.register.applied();
        let lease_over = self.primary.is_some() && self.frozen().is_none() && now >= self.lease_until;
        let peers = self.peers.iter().map(|peer| PeerStatus {
            node: peer.node.clone(),
            connected: peer.open().is_some(),
            open: peer.open(),
            in_sync: peer.open().is_some_and(|open| applied.is_member(&peer.node, open)),
            failed: peer.failed.as_ref().map(|(_, why)| why.clone()),
            resync: peer.resync.as_ref().map(|resync| resync.progress()),
        });
        ReplicaStatus {
            role: self.role(),
            open: self.open,
            epoch: applied.epoch,
            promised: self.promised,
            primary: applied.primary.as_ref().map(|primary| primary.node.clone()),
            promotion: self.primary.as_ref().map(|primary| primary.promotion),
            in_sync: applied.in_sync.keys().cloned().collect(),
            member: applied.is_member(&self.config.node, self.open),
            peers: peers.collect(),
            frozen: if lease_over { Some("the lease is over".into()) } else { self.frozen() },
            disk_failed: self.failed.clone().or_else(|| self.primary.as_ref().and_then(|p| p.sync_failed.clone())),
            proposed: self.register.possible().last().map(|proposal| match &proposal.change {
                Change::Promote => "become primary".into(),
                Change::Shrink(nodes) => {
                    format!("shut out {}", nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "))
                }
                Change::Grow { node, .. } => format!("take {node} in"),
                Change::Release => "release".into(),
            }),
            waiting: self.waiting(),
            counters: self.counters,
        }
    }

    fn role(&self) -> Role {
        match &self.primary {
            _ if !self.opened => Role::Starting,
            Some(primary) if primary.releasing => Role::Releasing,
            Some(primary) if primary.takeover.is_some() => Role::TakingOver,
            Some(_) => Role::Primary,
            None if self.undecided(|change| *change == Change::Promote) => Role::Promoting,
            None => Role::Secondary,
        }
    }

    fn waiting(&self) -> usize {
        let Some(primary) = &self.primary else { return 0 };
        let writes = primary.entries.iter().filter(|entry| entry.request.is_some()).count();
        let reads = self.disk.jobs().filter(|job| matches!(job, Job::Read { .. })).count();
        let flushes = primary.flushes.values().filter(|flush| flush.purpose.request().is_some()).count();
        writes + reads + flushes + primary.parked.len() + primary.ready.len()
    }
}
