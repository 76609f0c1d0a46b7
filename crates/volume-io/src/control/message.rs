//! The messages.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};
use tandem_base::{Configuration, Epoch, GroupName, Instant, NodeName, OpenId, Proposal};

use super::Status;

/// Bytes in the longest line, either way: a configuration of a few replicas is below 1 KiB, a status below 64 KiB.
pub const LINE_MAX: usize = 1 << 20;

/// From the agent to the volume server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToServer {
    /// The log, as applied on this node, says this of the group. May repeat.
    Configured(Configuration),
    /// The node's lease holds until then, on this machine's `CLOCK_BOOTTIME`. Send it after the
    /// [`ToServer::Configured`] of the log position that the renewal confirmed.
    Lease {
        /// First instant at which it is over.
        until: Instant,
    },
    /// The group's service is placed here: become primary. Idempotent.
    Serve,
    /// The service is taken away and its attachments are closed: drain, flush everywhere, release. Idempotent.
    Release,
    /// Where the peers listen now; replaces what the server was started with. Peers not named are not called any more.
    Peers(BTreeMap<NodeName, SocketAddr>),
    /// The next file descriptor is a TCP connection that asks for this group by ALPN, nothing of it consumed.
    /// [`super::Client::send_peer_socket`] sends it.
    PeerSocket,
    /// Asks for one [`FromServer::Status`].
    StatusRequest {
        /// Comes back in the answer.
        id: u64,
    },
    /// From now on every disk operation of the group fails with `errno` (0 ends it). Refused unless the server was
    /// started with [`crate::server::ServerConfig::allow_faults`].
    InjectDiskFault {
        /// As in errno(3): 5 EIO, 28 ENOSPC.
        errno: i32,
    },
    /// Close everything, durably, and end. Releases nothing in the register.
    Stop,
}

/// From the volume server to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromServer {
    /// This run of the server is durable in its superblock: have it committed to the register. The first message on
    /// every connection of a server that could open its disks.
    Opened {
        /// The group served.
        group: GroupName,
        /// The node it runs on.
        node: NodeName,
        /// This run.
        open: OpenId,
        /// The runs before, newest first, of which the register must know one; none on a fresh disk.
        previous: Vec<OpenId>,
    },
    /// Have this change committed. Repeated until the register has moved on.
    Propose(Proposal),
    /// Attachments of `promotion` may be made.
    Serving {
        /// The promotion; its exports are named by [`crate::export::Export`].
        promotion: Epoch,
        /// Where initiators connect.
        nbd_socket: PathBuf,
    },
    /// The promotion is over; its attachments fail for ever.
    Ended {
        /// Which.
        promotion: Epoch,
        /// Why, in words.
        why: String,
    },
    /// A line for the journal, with its reason.
    Note {
        /// What it is about.
        kind: NoteKind,
        /// The replica it is about, where it is not this one.
        node: Option<NodeName>,
        /// In words, the cause included.
        text: String,
    },
    /// The answer to [`ToServer::StatusRequest`].
    Status {
        /// As in the request.
        id: u64,
        /// At the time of the answer.
        status: Box<Status>,
    },
    /// The disks cannot be opened; nothing was overwritten and the server is about to end.
    Refused {
        /// The place, the values and the cause.
        why: String,
        /// The way out.
        hint: Option<String>,
    },
}

/// What a [`FromServer::Note`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoteKind {
    /// Replies are held back.
    Frozen,
    /// Replies leave again.
    Thawed,
    /// A replica left the in-sync set.
    MemberLeft,
    /// A replica is in sync again.
    MemberJoined,
    /// A resync to a peer began.
    ResyncStarted,
    /// A resync to a peer ended.
    ResyncDone,
    /// The local disk refused an operation.
    DiskFailed,
    /// Something on the local disk was damaged, and was mended from what is sound.
    Repaired,
    /// A peer was disconnected because it broke the protocol or could not prove who it is.
    PeerRefused,
    /// A connection to a peer stands.
    PeerConnected,
    /// A connection to a peer ended.
    PeerLost,
    /// Anything else.
    Other,
}
