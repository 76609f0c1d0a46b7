//! The register of a volume group: what the cluster's log and the replication engine both speak of.
//!
//! The cluster's log holds one [`Configuration`] for each group and changes it only by compare-and-set on the epoch
//! (PacificA, "Vertical Paxos and Primary-Backup Replication"). The engine obeys the newest one it was shown.

use alloc::collections::BTreeMap;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::{NodeName, OpenId};

/// Numbers a configuration of a group; raised at every change of primary or in-sync set.
///
/// Ordered by number. Two epochs with one number and different tags come from histories that split (a disaster
/// takeover, a restored store) and must never be mixed; the tag is random, drawn by the proposer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// 0 before the group was first served.
    pub number: u64,
    /// Drawn by whoever proposed the change that made this epoch; 0 in epoch 0.
    pub tag: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04x}", self.number, self.tag & 0xffff)
    }
}

/// The replica that serves I/O.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// Where it runs.
    pub node: NodeName,
    /// The run of its volume server.
    pub open: OpenId,
    /// The epoch that made it primary. Attachments belong to it; it stays while later epochs only change the in-sync set.
    pub promotion: Epoch,
}

/// What the register says of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// The epoch this configuration began.
    pub epoch: Epoch,
    /// Who serves; nobody after a release and before the first promotion.
    pub primary: Option<Primary>,
    /// The replicas that hold every acknowledged write, each with the open that held them.
    pub in_sync: BTreeMap<NodeName, OpenId>,
}

impl Configuration {
    /// Whether the run `open` on `node` holds every acknowledged write.
    #[must_use]
    pub fn is_member(&self, node: &NodeName, open: OpenId) -> bool {
        self.in_sync.get(node) == Some(&open)
    }

    /// Whether the run `open` on `node` is the primary.
    #[must_use]
    pub fn is_primary(&self, node: &NodeName, open: OpenId) -> bool {
        self.primary.as_ref().is_some_and(|primary| primary.node == *node && primary.open == open)
    }
}

/// How a replica asks the register to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The proposer becomes primary. The log drops from the in-sync set every other member whose session has expired;
    /// it refuses while the old primary has neither released nor lost its session, and a proposer that is no member.
    Promote,
    /// The primary drops these members. Names that are not members are ignored, so an empty set (or one already
    /// dropped) is the no-op that kills every other proposal made against the same epoch.
    Shrink(alloc::collections::BTreeSet<NodeName>),
    /// The primary adds a replica that has become a required acknowledger and is durable up to the barrier.
    Grow {
        /// The joiner.
        node: NodeName,
        /// Its run; the log refuses another.
        open: OpenId,
    },
    /// The primary has detached and flushed everywhere, and serves no more.
    Release,
}

/// A compare-and-set on a group's register.
///
/// It stays possible until a configuration with an epoch number above `expected.number` has been applied: a refusal, a
/// timeout, or a read that still shows `expected` is not knowledge that it can no longer happen. It was this proposal
/// that happened exactly when that configuration's epoch is [`Proposal::result`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The epoch the proposer saw; the change happens only if it is still the group's.
    pub expected: Epoch,
    /// The tag of the epoch that the change begins.
    pub tag: u64,
    /// The proposer.
    pub node: NodeName,
    /// The proposer's run.
    pub open: OpenId,
    /// What is asked.
    pub change: Change,
}

impl Proposal {
    /// The epoch that this change begins if it happens.
    #[must_use]
    pub fn result(&self) -> Epoch {
        Epoch { number: self.expected.number + 1, tag: self.tag }
    }
}
