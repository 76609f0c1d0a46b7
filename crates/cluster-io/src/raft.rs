//! The types that openraft is instantiated with.

use std::fmt;

use serde::{Deserialize, Serialize};
use tandem_base::NodeName;
use tandem_cluster::{Entry, Outcome};

use crate::store::Machine;

/// What a log entry of ours holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record(pub(crate) Entry);

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {:016x} of {}", self.0.id, self.0.by)
    }
}

/// What the consensus' membership says of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) node: NodeName,
    /// Where it is reached: `host:port`.
    pub(crate) address: String,
}

openraft::declare_raft_types!(
    /// A voter or learner is named by the incarnation of its store, so that a store that was lost never votes twice.
    pub(crate) Types:
        D = Record,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
);

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type LogEntry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Vec<u8>>;

/// What openraft's test suite fills in for nodes that it does not care about.
#[cfg(test)]
impl Default for Peer {
    fn default() -> Self {
        Self { node: NodeName::new("nobody").expect("a name"), address: String::new() }
    }
}
