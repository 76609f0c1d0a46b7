//! `tandem join`: how a machine becomes a node.

use std::path::PathBuf;

use tandem_base::{ClusterId, NodeName};

use crate::JoinToken;

/// What a machine asks.
#[derive(Debug, Clone)]
pub struct Joining {
    /// The machine's data directory.
    pub data: PathBuf,
    /// Its name in the plan.
    pub node: NodeName,
    /// Where its peers reach it: `host:port`.
    pub address: String,
    /// From `tandem init`.
    pub token: JoinToken,
}

/// What a machine that joined knows. Its identity and an empty store are on disk; the agent can be started.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The plan's text, as the log holds it.
    pub plan: String,
    /// The node that answered.
    pub by: NodeName,
}

/// Asks the token's addresses, in turn, to admit this machine.
///
/// # Errors
///
/// [`JoinError`]; nothing was changed on disk.
pub async fn join(joining: Joining) -> Result<Joined, JoinError>;
