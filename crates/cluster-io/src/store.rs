//! The log, the vote and the snapshot of the state, in one file: `<data>/cluster.redb`.
//!
//! A vote and appended entries are on the disk before anybody is told; so are a snapshot and the purge that follows it.
//! The state itself is only kept as the last snapshot: after a start openraft applies the entries after it again, up to
//! the commit index, which is kept too (it need not reach the disk at once).
//!
//! All entries that are not purged are also in memory, so that reading never waits for the disk; there are at most as
//! many as the snapshot policy leaves.

mod file;
mod log;
mod machine;
mod scratch;
mod writer;

use std::path::PathBuf;

use tandem_base::{ClusterId, NodeName};

pub(crate) use file::{About, StoreFile, create};
pub(crate) use log::Log;
pub(crate) use machine::Machine;

/// Why a store cannot be used. It was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is none.
    #[error("{path} does not exist: this node has lost its log, or never joined")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There is one where none must be.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process: is the agent running?")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// Written by a version that this one does not understand.
    #[error("{path} has format {found}, this version reads {expected}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u32,
        /// What this version reads.
        expected: u32,
    },
    /// Another node's.
    #[error("{path} belongs to `{node}` of cluster {cluster}, this node is `{own_node}` of cluster {own_cluster}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        node: NodeName,
        /// Of which cluster.
        cluster: ClusterId,
        /// Who this node is.
        own_node: NodeName,
        /// Of which cluster.
        own_cluster: ClusterId,
    },
    /// It cannot be read or written.
    #[error("cannot use {path}: {why}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
}

impl StoreError {
    /// One thing to try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("run `tandem join` again: the node comes back with an empty log"),
            Self::Damaged { .. } => {
                Some("move the file away, and run `tandem join` again: the node comes back with an empty log")
            }
            Self::Foreign { .. } => Some(
                "identity and store belong together, and to one node: put back what was here, or move both away and run \
                 `tandem join`",
            ),
            Self::InUse { .. } => Some("stop the other agent first; `fuser` on the file names it"),
            Self::Exists { .. } => Some("this node belongs to a cluster already"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
