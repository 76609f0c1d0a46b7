//! What can happen to a replica. Past tense: the runtime reports, the engine decides.

use alloc::string::String;
use bytes::Bytes;
use tandem_base::{Configuration, Epoch, Instant, NodeName};

/// Which volume of the group: its place in the replica's list of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeIndex(pub u16);

/// Names a request of the initiator; the runtime chooses it, never twice in one run of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an operation on the local disk; the engine chooses it, never twice in one run of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskOpId(pub u64);

/// Names one connection to a peer; the runtime chooses it, never twice in one run of the server. What was sent on one
/// connection arrives in order or not at all; a later connection to the same peer replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What the initiator asks of a volume. Offsets and lengths are in bytes, of any alignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read `length` bytes.
    Read {
        /// The volume.
        volume: VolumeIndex,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// Write `data`.
    Write {
        /// The volume.
        volume: VolumeIndex,
        /// First byte.
        offset: u64,
        /// The one owned copy of the payload.
        data: Bytes,
        /// Force unit access: durable on every required replica before the reply.
        fua: bool,
    },
    /// Make a range read as zeroes (write zeroes and trim alike).
    Zero {
        /// The volume.
        volume: VolumeIndex,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// As for a write.
        fua: bool,
        /// Whether the range must keep its space; otherwise it may become a hole.
        keep_allocated: bool,
    },
    /// Everything replied to before becomes durable on every required replica, over all volumes of the group.
    Flush,
}

/// How a disk operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOutcome {
    /// A write, zero, sync or superblock store is done.
    Done,
    /// A read is done.
    Data(Bytes),
    /// The disk refused. It is never asked again: the replica leaves the in-sync set.
    Failed(DiskError),
}

/// Why the disk refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskError {
    /// No space left (ENOSPC, EDQUOT).
    NoSpace,
    /// Anything else, in the system's words with the place.
    Io(String),
}

/// Something that happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// The initiator asked something through an attachment that belongs to `promotion`.
    Submitted {
        /// The runtime's name for it.
        request: RequestId,
        /// The promotion the attachment belongs to; a request of another promotion is refused for ever.
        promotion: Epoch,
        /// What is asked.
        what: Request,
    },
    /// A disk operation ended.
    DiskCompleted {
        /// Which.
        op: DiskOpId,
        /// How.
        outcome: DiskOutcome,
    },
    /// A connection to a peer stands; its identity was proved by TLS.
    PeerConnected {
        /// The peer's node.
        peer: NodeName,
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection ended.
    PeerLost {
        /// The peer's node.
        peer: NodeName,
        /// The connection.
        connection: ConnectionId,
    },
    /// A peer sent a message.
    PeerSaid {
        /// The peer's node.
        peer: NodeName,
        /// The connection it came on.
        connection: ConnectionId,
        /// The message.
        message: crate::Message,
    },
    /// The cluster's log, as applied on this node, says this of the group. May repeat; older ones are ignored.
    Configured(Configuration),
    /// The node's lease holds until `until` on this node's boot-time clock. Always after the [`Input::Configured`] of
    /// the log position that the renewal confirmed.
    LeaseGranted {
        /// First instant at which the lease is over.
        until: Instant,
    },
    /// The cluster placed the group's service here: become primary.
    ServeOrdered,
    /// The cluster takes the service away: drain, flush everywhere, release. The attachments are closed already.
    ReleaseOrdered,
    /// The instant that [`crate::Replica::poll_timeout`] named has come.
    TimedOut,
}
