//! How an entry ended.

use alloc::string::String;
use serde::{Deserialize, Serialize};
use tandem_base::{Epoch, GroupName, NodeName, OpenId, RunId, ServiceName, SessionId};

use crate::TopologyError;

/// How an entry ended. A refusal changes nothing but, where it says so, the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub enum Outcome {
    /// The state says what was asked; it may have said so before.
    Done,
    /// Nothing was changed.
    Refused(Refusal),
}

impl Outcome {
    /// Whether the state says what was asked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// As a result, for `?`.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub fn into_result(self) -> Result<(), Refusal> {
        match self {
            Self::Done => Ok(()),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl From<Result<(), Refusal>> for Outcome {
    fn from(result: Result<(), Refusal>) -> Self {
        result.map_or_else(Self::Refused, |()| Self::Done)
    }
}

/// Why nothing was changed, in words a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// The log does not begin with `Found`.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// A second `Found`.
    #[error("this log already belongs to a cluster")]
    AlreadyFounded,
    /// The topology contradicts itself.
    #[error("the plan contradicts itself: {0}")]
    Topology(TopologyError),
    /// Somebody else adopted a plan in between.
    #[error("the plan is at revision {current}, not {seen}: look at it again")]
    PlanChanged {
        /// What the log holds.
        current: u64,
        /// What the proposer saw.
        seen: u64,
    },
    /// Not in the plan.
    #[error("the plan has no node `{0}`")]
    UnknownNode(NodeName),
    /// Not in the plan.
    #[error("the plan has no group `{0}`")]
    UnknownGroup(GroupName),
    /// Not in the plan.
    #[error("the plan has no service `{0}`")]
    UnknownService(ServiceName),
    /// In the plan, but never admitted.
    #[error("node `{0}` has not joined the cluster")]
    NotAdmitted(NodeName),
    /// A store that was replaced, or the identity of another node.
    #[error(
        "consensus id {raft_id:016x} of `{node}` was used before and cannot come back; empty its store and join again"
    )]
    RaftIdUsed {
        /// The node.
        node: NodeName,
        /// The id.
        raft_id: u64,
    },
    /// Two machines with one identity.
    #[error(
        "a second live run of {node}: run {run} asks for a session while run {live} holds one; \
         if {node} was restarted, its old session ends within seconds; otherwise two machines use one identity"
    )]
    SecondRun {
        /// The node.
        node: NodeName,
        /// The run that holds a session.
        live: RunId,
        /// The run that asked.
        run: RunId,
    },
    /// A session id from the past.
    #[error("session {session} of {node} ended and never comes back; the node opens a new one")]
    SessionOver {
        /// The node.
        node: NodeName,
        /// The session.
        session: SessionId,
    },
    /// The node cannot act now.
    #[error("{0} has no live session")]
    NoSession(NodeName),
    /// The volume server was started by an earlier boot of its node.
    #[error("run {open} of {node}'s volume server belongs to an earlier boot of {node}")]
    EarlierBoot {
        /// The node.
        node: NodeName,
        /// The volume server's run.
        open: OpenId,
    },
    /// The plan gives the node no copy.
    #[error("node `{node}` holds no replica of group `{group}`")]
    NotReplica {
        /// The group.
        group: GroupName,
        /// The node.
        node: NodeName,
    },
    /// A run of a volume server from the past.
    #[error("run {open} of {node}'s volume server for `{group}` is over: run {registered} came after it")]
    OpenOver {
        /// The group.
        group: GroupName,
        /// The node.
        node: NodeName,
        /// The run that asked.
        open: OpenId,
        /// The one that the register holds.
        registered: OpenId,
    },
    /// The last replica that holds every acknowledged write came back with another disk, or with one that failed.
    #[error(
        "{} the register's last run of it is {registered}. {node} is the last replica that holds every acknowledged \
         write, so `{group}` cannot be served until the right disk is back",
        match previous {
            Some(open) => alloc::format!(
                "the disk under {node}'s replica of `{group}` was swapped or rolled back: it was last opened as {open},"
            ),
            None => alloc::format!(
                "the disk under {node}'s replica of `{group}` is new, or failed in an earlier run, after which nothing on \
                 it is believed;"
            ),
        }
    )]
    WrongDisk {
        /// The group.
        group: GroupName,
        /// The node.
        node: NodeName,
        /// The run that the register holds.
        registered: OpenId,
        /// The run that the disk's superblock vouches for: none on a new disk, and on one that failed.
        previous: Option<OpenId>,
    },
    /// The compare-and-set lost.
    #[error("group `{group}` is in epoch {current}, not {expected}")]
    EpochChanged {
        /// The group.
        group: GroupName,
        /// The register's.
        current: Epoch,
        /// The proposal's.
        expected: Epoch,
    },
    /// The proposer holds not every acknowledged write.
    #[error("run {open} on {node} is not in sync in `{group}`")]
    NotInSync {
        /// The group.
        group: GroupName,
        /// The node.
        node: NodeName,
        /// Its run.
        open: OpenId,
    },
    /// Only the primary may ask this.
    #[error("run {open} on {node} is not the primary of `{group}`")]
    NotPrimary {
        /// The group.
        group: GroupName,
        /// The node.
        node: NodeName,
        /// Its run.
        open: OpenId,
    },
    /// The old primary may still be serving.
    #[error("{primary} is the primary of `{group}` and has neither released it nor lost its session")]
    PrimaryLive {
        /// The group.
        group: GroupName,
        /// The old primary.
        primary: NodeName,
    },
    /// Another node shall serve, or none.
    #[error("group `{group}` is not placed on {node}")]
    NotPlaced {
        /// The group.
        group: GroupName,
        /// The node.
        node: NodeName,
    },
    /// A primary cannot take itself out.
    #[error("{0} is the primary and cannot leave the in-sync set; it hands over first")]
    PrimaryStays(NodeName),
    /// The report is about a placement that is not current.
    #[error("`{service}` is not placed on {node} as placement {placement} any more")]
    PlacementOver {
        /// The service.
        service: ServiceName,
        /// Who reported.
        node: NodeName,
        /// What it reported about.
        placement: u64,
    },
    /// A move that cannot work.
    #[error("`{service}` cannot move to {to}: {why}")]
    CannotMove {
        /// The service.
        service: ServiceName,
        /// The target.
        to: NodeName,
        /// The reason.
        why: String,
    },
}

impl Refusal {
    /// One thing to try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotFounded => Some("run `tandem init` on the first node"),
            Self::NotAdmitted(_) => Some("run `tandem join` on that node"),
            Self::WrongDisk { .. } => Some(
                "put the disk back that was there before, then start the node again; copy the image of one that failed first",
            ),
            Self::CannotMove { .. } => Some("`tandem status` shows what is in sync and live"),
            Self::SecondRun { .. } => Some("if this lasts, find the other machine that uses this identity"),
            _ => None,
        }
    }
}
