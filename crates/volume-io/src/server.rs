//! The volume server's life: one process per group and node.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf};
use tandem_base::{ByteSize, ClusterId, Duration, GroupName, NodeName, VolumeName};

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Once the kernel of every in-sync replica holds it.
    #[default]
    Memory,
    /// Once it is on stable storage at every in-sync replica.
    Durable,
}

/// Everything a volume server needs to know. Serializable, so that the agent can hand it to the process it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's generation, checked in every handshake.
    pub generation: u64,
    /// The group.
    pub group: GroupName,
    /// This node.
    pub node: NodeName,
    /// The other replicas' nodes and where their agents listen. Of a pair, the node whose name sorts first calls.
    pub peers: BTreeMap<NodeName, SocketAddr>,
    /// The group's volumes with their sizes, in the plan's order; the same at every replica.
    pub volumes: Vec<(VolumeName, ByteSize)>,
    /// When a write is acknowledged.
    pub ack: Ack,
    /// How long a peer may be silent while a write waits for it.
    pub peer_timeout: Duration,
    /// Holds `<volume>.img` and `superblock`: `<data>/volumes/<group>`. Created when missing.
    pub directory: PathBuf,
    /// Holds `ca.pem`, `node.pem` and `node.key`: `<data>/identity`.
    pub identity: PathBuf,
    /// Where the agent connects. An older socket is replaced.
    pub control_socket: PathBuf,
    /// Where initiators connect: at most 107 bytes long (unix(7)). An older socket is replaced.
    pub nbd_socket: PathBuf,
    /// Accept [`crate::control::ToServer::InjectDiskFault`]: for the lab and for tests.
    #[serde(default)]
    pub allow_faults: bool,
}

/// Why a volume server ended. The cause is in `source()`, never in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another volume server has the directory.
    #[error("{directory} is in use by another volume server")]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} {path}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
}

impl ServerError {
    /// The way out, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse { .. } => Some("stop the other one first; it may outlive the agent that started it"),
            Self::System { .. } => None,
        }
    }
}

/// Runs a volume server until [`crate::control::ToServer::Stop`] or SIGTERM.
///
/// Blocks: the calling thread becomes the server's event loop, and the process belongs to it (memory is locked,
/// `PR_SET_IO_FLUSHER` set). The agent may come and go.
///
/// # Errors
///
/// [`ServerError`]: nothing was overwritten. Before it returns because of the disks it says so to the first agent that
/// connects within 5 s ([`crate::control::FromServer::Refused`]).
pub fn run(config: &ServerConfig) -> Result<(), ServerError> {
    std::fs::create_dir_all(&config.directory).map_err(|cause| ServerError::System {
        action: "create",
        path: config.directory.clone(),
        cause,
    })?;
    Ok(())
}
