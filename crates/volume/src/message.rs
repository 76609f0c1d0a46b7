//! What replicas say to each other.
//!
//! The first message on a connection, both ways, is [`Message::Hello`]. Then the primary sends [`Message::Lead`], and
//! everything else only after the follower's [`Message::Promised`]. *Promotion* is the epoch that made the sender
//! primary: writes are ordered by (promotion, sequence), promotion first; later epochs of the same promotion, which
//! only change the in-sync set, do not interrupt the sequence.

use alloc::{string::String, vec::Vec};
use bytes::Bytes;
use tandem_base::{ClusterId, Epoch, GroupName, NodeName, OpenId};

use crate::{VolumeIndex, config::VolumeSpec, meta::Chapter};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`] of the speaker.
    pub version: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its cluster's generation.
    pub generation: u64,
    /// Its group.
    pub group: GroupName,
    /// Its node.
    pub node: NodeName,
    /// Its run, durable.
    pub open: OpenId,
    /// The highest promotion it has promised to follow.
    pub promised: Epoch,
    /// Its volumes, in order.
    pub volumes: Vec<VolumeSpec>,
}

/// A range of a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The volume.
    pub volume: VolumeIndex,
    /// First byte.
    pub offset: u64,
    /// Number of bytes; never 0.
    pub length: u64,
}

/// What a sequenced write puts into its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Data(Bytes),
    /// Zeroes.
    Zero {
        /// Number of bytes.
        length: u64,
        /// Whether the range must keep its space.
        keep_allocated: bool,
    },
}

impl Content {
    /// Number of bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zero { length, .. } => *length,
        }
    }
}

/// A write, in its place in the order of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequencedWrite {
    /// The promotion of the primary that ordered it.
    pub promotion: Epoch,
    /// Its place within the promotion; from 2, because 1 stands for the takeover barrier.
    pub sequence: u64,
    /// Every write of the promotion up to this one is held by every in-sync replica; 0 until the takeover barrier is
    /// passed, from then on at least 1.
    pub committed: u64,
    /// The volume.
    pub volume: VolumeIndex,
    /// First byte.
    pub offset: u64,
    /// What it writes.
    pub content: Content,
    /// CRC-32C of the data, made by the primary when the write arrived; 0 for zeroes.
    pub checksum: u32,
    /// To be acknowledged only from stable storage.
    pub durable: bool,
}

/// What replicas say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Both ways, first.
    Hello(Hello),
    /// Primary: follow this promotion, and no lower one ever again.
    Lead {
        /// The promotion.
        promotion: Epoch,
    },
    /// Follower: the promise is durable.
    Promised {
        /// The promotion.
        promotion: Epoch,
        /// What it received and does not know to be committed.
        unsettled: Vec<Span>,
        /// The promotions whose content it holds, oldest first; none if it knows nothing of what it holds.
        history: Vec<Chapter>,
    },
    /// Primary to a joiner: your resync begins. Up to this point you hold what I hold; tell me what you wrote later.
    Fork {
        /// The promotion.
        promotion: Epoch,
        /// The fork point; `None` if there is none.
        after: Option<Chapter>,
    },
    /// Joiner: I wrote this after the fork point, or a crash left it unknown to me.
    Changed {
        /// The promotion.
        promotion: Epoch,
        /// At most [`crate::wire::SPANS_MAX`] ranges.
        spans: Vec<Span>,
        /// There are no more.
        last: bool,
    },
    /// Primary: you hold everything of this promotion, and your history is this.
    Settled {
        /// The promotion.
        promotion: Epoch,
        /// The primary's history; its newest chapter is the promotion.
        history: Vec<Chapter>,
    },
    /// Primary: store this.
    Write(SequencedWrite),
    /// Follower: it is stored (durably, where that was asked).
    Stored {
        /// The promotion.
        promotion: Epoch,
        /// The write's place.
        sequence: u64,
    },
    /// Primary: make everything you said to be stored durable.
    Flush {
        /// The promotion.
        promotion: Epoch,
        /// The primary's name for it.
        flush: u64,
        /// As in a write.
        committed: u64,
    },
    /// Follower: it is durable.
    Flushed {
        /// The promotion.
        promotion: Epoch,
        /// The primary's name for it.
        flush: u64,
    },
    /// Follower, unasked: everything of the promotion that I received up to here is durable.
    Durable {
        /// The promotion.
        promotion: Epoch,
        /// The last write's place.
        sequence: u64,
    },
    /// Primary to a joiner: hash your content of a range, by blocks.
    Compare {
        /// The promotion.
        promotion: Epoch,
        /// The primary's name for it.
        chunk: u64,
        /// The range; at most [`CHUNK`] bytes.
        span: Span,
        /// The primary's last write so far: whatever the range holds there was written by then.
        written: u64,
    },
    /// Joiner: BLAKE3 of each [`BLOCK`] of the range, the last one may be shorter.
    Hashes {
        /// The promotion.
        promotion: Epoch,
        /// The primary's name for it.
        chunk: u64,
        /// One for each block.
        hashes: Vec<[u8; 32]>,
    },
    /// Follower: that I hold everything of the promotion is written down.
    Adopted {
        /// The promotion.
        promotion: Epoch,
    },
    /// Follower: I follow a higher promotion; this one is over.
    NotYours {
        /// What it follows.
        promised: Epoch,
    },
    /// Follower: my disk failed; I hold nothing you may rely on.
    Failed {
        /// The system's words.
        why: String,
    },
    /// Primary, when idle.
    Ping {
        /// The promotion.
        promotion: Epoch,
        /// As in a write.
        committed: u64,
    },
    /// Follower, at once.
    Pong,
}

/// Bytes that a resync compares at once.
pub const CHUNK: u64 = 256 << 10;

/// Bytes that one hash of a resync covers, and the least that it sends.
pub const BLOCK: u64 = 64 << 10;
