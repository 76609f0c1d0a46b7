//! The volume server's life: one process per group and node.

mod agent;
mod event_loop;
mod initiators;
mod peers;
mod poller;
mod process;
mod report;
mod served;
mod translate;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};
use tandem_base::{ByteSize, ClusterId, Duration, GroupName, NodeName, OpenId, VolumeName};
use tandem_volume::{ReplicaConfig, VolumeSpec};

use crate::{control::FromServer, disk::Directory, peer::Identity, signals};
pub use crate::{disk::DiskOpenError, peer::IdentityError};
use event_loop::{EventLoop, Parts};

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
    /// The disks cannot be opened; nothing was overwritten.
    #[error(transparent)]
    Disk(#[from] DiskOpenError),
    /// The node's certificates cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A socket's path is longer than the system takes.
    #[error("the socket path {path} has {} bytes, more than {SOCKET_PATH_MAX}", .path.as_os_str().len())]
    PathTooLong {
        /// The path.
        path: PathBuf,
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
    /// The event loop lost its footing.
    #[error("the event loop failed")]
    Loop(#[source] io::Error),
}

impl ServerError {
    /// The way out, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Disk(error) => error.hint(),
            Self::Identity(_) => Some("join the node to the cluster again"),
            Self::PathTooLong { .. } => Some("choose a shorter --run-dir"),
            Self::System { .. } | Self::Loop(_) => None,
        }
    }
}

/// Bytes in the longest path of a unix socket (unix(7), `sun_path` with its final zero).
const SOCKET_PATH_MAX: usize = 107;
/// How long a server that cannot open its disks waits for an agent to say so to.
const REFUSAL_WAIT: Duration = Duration::from_secs(5);

/// Runs a volume server until [`crate::control::ToServer::Stop`] or SIGTERM.
///
/// Blocks: the calling thread becomes the server's event loop, and the process belongs to it (memory is locked,
/// `PR_SET_IO_FLUSHER` set, SIGTERM and SIGINT taken). The agent may come and go.
///
/// # Errors
///
/// [`ServerError`]: nothing was overwritten. Before it returns because of the disks or the identity it says so to the
/// first agent that connects within 5 s ([`crate::control::FromServer::Refused`]).
pub fn run(config: &ServerConfig) -> Result<(), ServerError> {
    process::resist_reclaim();
    let signals = signals::termination().map_err(ServerError::Loop)?;
    // First the lock: whoever has it may replace the sockets.
    let directory = Directory::lock(&config.directory)?;
    let control = listen(&config.control_socket)?;
    let opened = Identity::load(&config.identity, config.cluster, &config.group)
        .map_err(ServerError::from)
        .and_then(|identity| Ok((identity, directory.open(&config.replica())?)));
    let (identity, opened) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            refuse(&control, &error);
            return Err(error);
        }
    };
    let nbd = listen(&config.nbd_socket)?;
    let open = OpenId(process::random().map_err(ServerError::Loop)?);
    let seed = process::random().map_err(ServerError::Loop)?;
    let parts = Parts { config, signals, directory, opened, open, seed, identity, control, nbd };
    let result = EventLoop::new(parts).and_then(|mut event_loop| event_loop.run());
    for socket in [&config.control_socket, &config.nbd_socket] {
        // Left behind, it would be replaced by the next server.
        let _ = std::fs::remove_file(socket);
    }
    result.map_err(ServerError::Loop)
}

impl ServerConfig {
    fn replica(&self) -> ReplicaConfig {
        let volumes =
            self.volumes.iter().map(|(name, size)| VolumeSpec { name: name.clone(), size: size.as_u64() }).collect();
        let peers = self.peers.keys().filter(|peer| **peer != self.node).cloned().collect();
        let mut replica = ReplicaConfig::new(self.cluster, self.group.clone(), self.node.clone(), peers, volumes);
        replica.generation = self.generation;
        replica.ack = match self.ack {
            Ack::Memory => tandem_volume::Ack::Memory,
            Ack::Durable => tandem_volume::Ack::Durable,
        };
        replica.peer_timeout = self.peer_timeout;
        replica
    }
}

fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let system = |action, cause| ServerError::System { action, path: path.to_path_buf(), cause };
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(ServerError::PathTooLong { path: path.to_path_buf() });
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|cause| system("create the directory of", cause))?;
    }
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(system("replace", cause)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|cause| system("listen on", cause))?;
    // The volume's content passes here.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|cause| system("protect", cause))?;
    Ok(listener)
}

/// Says why to the first agent that comes.
fn refuse(control: &UnixListener, error: &ServerError) {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        why = format!("{why}: {deeper}");
        cause = deeper.source();
    }
    tracing::error!("{why}");
    let message = FromServer::Refused { why, hint: error.hint().map(Into::into) };
    let mut line = serde_json::to_vec(&message).expect("control messages have string keys only");
    line.push(b'\n');
    let timeout = Timespec { tv_sec: i64::try_from(REFUSAL_WAIT.as_secs()).expect("5"), tv_nsec: 0 };
    let mut fds = [PollFd::new(control, PollFlags::IN)];
    if let Ok(1) = poll(&mut fds, Some(&timeout)) {
        let sent = control.accept().and_then(|(mut agent, _)| agent.write_all(&line));
        if let Err(error) = sent {
            tracing::warn!(%error, "the agent did not hear why");
        }
    }
}
