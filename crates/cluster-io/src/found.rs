//! `tandem init`.

use std::path::PathBuf;

use tandem_base::{ClusterId, NodeName};
use tandem_cluster::Topology;

use crate::{FoundError, JoinToken};

/// What a cluster begins with.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The first node's data directory.
    pub data: PathBuf,
    /// The first node: a voter of the plan.
    pub node: NodeName,
    /// Where its peers reach it: `host:port`.
    pub address: String,
    /// The plan's text.
    pub plan: String,
    /// What the plan means.
    pub topology: Topology,
    /// Where joining machines can ask, `host:port`; the first node's own address comes first by itself.
    pub addresses: Vec<String>,
}

/// A cluster that exists.
#[derive(Debug, Clone)]
pub struct Founded {
    /// Its id.
    pub cluster: ClusterId,
    /// For the other machines.
    pub token: JoinToken,
}

/// Makes the cluster's certificate authority, the first node's identity and store, and the first entry of the log.
/// Afterwards the agent can be started on this node.
///
/// # Errors
///
/// [`FoundError`]; [`FoundError::Exists`] where the node already has an identity or a store.
pub async fn found(founding: Founding) -> Result<Founded, FoundError>;
