//! Why the control plane could not do something.

use std::{io, path::PathBuf};

use crate::identity::IdentityError;

/// Why a node's control plane does not open. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The identity is missing, damaged or readable by others.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store is missing, damaged, or another node's.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The times contradict each other.
    #[error("the timings of the consensus cannot work: {why}")]
    Timings {
        /// What openraft says of them.
        why: String,
    },
    /// The consensus did not start.
    #[error("the consensus did not start: {why}")]
    Raft {
        /// What openraft says.
        why: String,
    },
}

impl OpenError {
    /// One thing to try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Identity(error) => error.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}

/// Why `tandem init` failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoundError {
    /// There is something already.
    #[error("{path} exists: this node belongs to a cluster already")]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// The CA or the node's identity could not be made or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store could not be made, or the consensus not started.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The first entry was refused.
    #[error("the plan was refused")]
    Refused(#[source] tandem_cluster::Refusal),
    /// The first entry could not be written.
    #[error("the first entry of the log could not be written")]
    Propose(#[from] ProposeError),
    /// A file or directory could not be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// Why an entry has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// No leader took it: it is not in the log and never will be. Trying again can help.
    #[error("no leader could be reached: {why}")]
    NotSent {
        /// What was tried.
        why: String,
    },
    /// A leader may have taken it: it may be in the log, or still come into it. The same entry, with the same id, may be
    /// proposed again; another one may not be taken for its successor before its effect is seen or made impossible.
    #[error("whether the entry was taken is unknown: {why}")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// The control plane of this node is closing.
    #[error("the control plane of this node is closing")]
    Closing,
}

/// Why leadership could not be confirmed in a round that began after the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfirmError {
    /// This node does not lead.
    #[error("this node is not the leader")]
    NotLeader,
    /// No majority answered in time.
    #[error("no majority confirmed this leader: {why}")]
    NoQuorum {
        /// What openraft says.
        why: String,
    },
    /// The leader could not be asked.
    #[error("the leader could not be asked: {why}")]
    Unreachable {
        /// What was tried.
        why: String,
    },
    /// The control plane of this node is closing.
    #[error("the control plane of this node is closing")]
    Closing,
}
