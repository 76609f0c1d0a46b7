//! What a replica wants done. Imperative: the runtime carries out, without choices of its own.

use alloc::{string::String, vec::Vec};
use bytes::Bytes;
use tandem_base::{Configuration, Epoch, NodeName, OpenId, Proposal};

use crate::{
    ConnectionId, DiskOpId, RequestId, Superblock, VolumeIndex,
    meta::{Activity, Extent, ExtentStamps},
};

/// An answer to the initiator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A write, zero or flush is done.
    Done,
    /// A read is done.
    Data(Bytes),
}

/// Why a request failed. A cut, a silent peer or an ended lease is never an error, only a stall.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The attachment's promotion is not current any more: it fails for ever (ESHUTDOWN).
    #[error("the volume is served elsewhere now")]
    Superseded,
    /// The range lies outside the volume (EINVAL).
    #[error("the range ends behind the volume")]
    OutOfRange,
    /// The last in-sync disk failed (EIO, ENOSPC).
    #[error("the last in-sync disk failed: {0}")]
    Disk(String),
}

/// An operation on the local disk. Operations run in any order and in parallel; the engine never has two in flight
/// whose ranges overlap, unless both read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskOp {
    /// Read `length` bytes.
    Read {
        /// Its name.
        op: DiskOpId,
        /// The volume.
        volume: VolumeIndex,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
    /// Write `data`.
    Write {
        /// Its name.
        op: DiskOpId,
        /// The volume.
        volume: VolumeIndex,
        /// First byte.
        offset: u64,
        /// What to write.
        data: Bytes,
        /// Done only when on stable storage (RWF_DSYNC).
        durable: bool,
    },
    /// Make a range read as zeroes.
    Zero {
        /// Its name.
        op: DiskOpId,
        /// The volume.
        volume: VolumeIndex,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Done only when on stable storage.
        durable: bool,
        /// Whether the range must keep its space.
        keep_allocated: bool,
    },
    /// Everything completed before this was issued becomes durable, in all volumes (fdatasync).
    Sync {
        /// Its name.
        op: DiskOpId,
    },
    /// Store the record of what is hot and what is held, in its place; done when it is durable.
    StoreActivity {
        /// Its name.
        op: DiskOpId,
        /// What to store.
        activity: Activity,
    },
    /// Store the stamps of some extents; done when all are durable.
    StoreStamps {
        /// Its name.
        op: DiskOpId,
        /// What to store.
        stamps: Vec<(Extent, ExtentStamps)>,
    },
    /// Store the superblock; done when a majority of its copies is durable.
    StoreSuperblock {
        /// Its name.
        op: DiskOpId,
        /// What to store.
        superblock: Superblock,
    },
}

/// Something worth a line in the journal, with its reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This replica waits: no reply leaves until the cause is gone.
    Frozen {
        /// The cause.
        why: String,
    },
    /// Replies leave again.
    Thawed,
    /// A replica left the in-sync set, by a committed change.
    MemberLeft {
        /// Which.
        node: NodeName,
        /// The cause.
        why: String,
    },
    /// A replica is in sync again, by a committed change.
    MemberJoined {
        /// Which.
        node: NodeName,
    },
    /// A resync to a peer began.
    ResyncStarted {
        /// To whom.
        node: NodeName,
        /// Why it is needed.
        why: String,
    },
    /// A resync to a peer ended; the peer is about to join.
    ResyncDone {
        /// To whom.
        node: NodeName,
        /// Bytes compared.
        compared: u64,
        /// Bytes that differed and were sent.
        sent: u64,
    },
    /// The local disk refused an operation; this replica is out until it is opened again.
    DiskFailed {
        /// The system's words.
        why: String,
    },
    /// A peer broke the protocol and was disconnected.
    PeerRefused {
        /// Which.
        node: NodeName,
        /// The rule it broke.
        why: String,
    },
}

/// Something the runtime must do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Answer the initiator. The runtime reads the clock once more just before the bytes leave and holds the answer
    /// back when the lease is over.
    Reply {
        /// Which request.
        request: RequestId,
        /// The answer.
        result: Result<Reply, RequestError>,
    },
    /// Do something to the local disk.
    Disk(DiskOp),
    /// Send to a peer; dropped silently if that connection is gone.
    Send {
        /// To whom.
        peer: NodeName,
        /// On which connection.
        connection: ConnectionId,
        /// What.
        message: crate::Message,
    },
    /// End a connection.
    Disconnect {
        /// To whom.
        peer: NodeName,
        /// Which.
        connection: ConnectionId,
        /// The rule that was broken, for the log.
        why: String,
    },
    /// The superblock holds this open: have it committed to the register.
    Opened {
        /// This run.
        open: OpenId,
        /// The runs before, newest first: the register must know one of them ([`Superblock::previous`]).
        previous: Vec<OpenId>,
    },
    /// Have this change committed. The engine repeats it until the register has moved on.
    Propose(Proposal),
    /// Attachments of `promotion` may be made now: the takeover barrier is passed.
    Serving {
        /// The promotion they belong to.
        promotion: Epoch,
        /// The configuration it began with.
        configuration: Configuration,
    },
    /// The promotion is over: every attachment that belongs to it fails for ever.
    Ended {
        /// Which.
        promotion: Epoch,
        /// Why, in words.
        why: String,
    },
    /// Write a line into the journal.
    Note(Event),
}
