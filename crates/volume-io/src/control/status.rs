//! What a volume server says of itself.

use serde::{Deserialize, Serialize};
use tandem_base::{ByteSize, Configuration, Epoch, GroupName, Instant, NodeName, OpenId, VolumeName};

/// What the replica is, seen from itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// No configuration was heard yet.
    Starting,
    /// Asked to become primary, or reconciles before it serves.
    Promoting,
    /// Serves.
    Primary,
    /// Drains and flushes before it gives the promotion back.
    Releasing,
    /// A member of the in-sync set that does not serve.
    InSync,
    /// Not in the in-sync set.
    OutOfSync,
    /// Its disk failed; out until it is opened again.
    Failed,
}

/// How far a resync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// Bytes compared so far.
    pub done: u64,
    /// Bytes to compare.
    pub total: u64,
    /// Bytes that differed and were sent.
    pub sent: u64,
}

impl Resync {
    /// How much is compared, in whole percent.
    #[must_use]
    pub fn percent(&self) -> u64 {
        self.done.saturating_mul(100).checked_div(self.total).unwrap_or(100).min(100)
    }
}

/// A peer, seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its node.
    pub node: NodeName,
    /// Whether an authenticated connection stands.
    pub connected: bool,
    /// The resync from here to there, if one runs.
    pub resync: Option<Resync>,
    /// Why the last connection failed or ended, if none stands.
    pub problem: Option<String>,
}

/// An initiator's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The volume.
    pub volume: VolumeName,
    /// The promotion it belongs to.
    pub promotion: Epoch,
    /// Requests without an answer.
    pub in_flight: u32,
}

/// A volume server's state, for `tandem volume status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The group.
    pub group: GroupName,
    /// The node.
    pub node: NodeName,
    /// This run.
    pub open: OpenId,
    /// What it is.
    pub role: Role,
    /// The newest configuration it was shown.
    pub configuration: Configuration,
    /// The promotion it serves, if it serves.
    pub serving: Option<Epoch>,
    /// Why replies are held back, if they are.
    pub frozen: Option<String>,
    /// First instant at which the node's lease is over, on its `CLOCK_BOOTTIME`.
    pub lease_until: Option<Instant>,
    /// The volumes with their sizes.
    pub volumes: Vec<(VolumeName, ByteSize)>,
    /// The peers.
    pub peers: Vec<PeerStatus>,
    /// The initiators' connections.
    pub attachments: Vec<Attachment>,
    /// What is proposed to the register and undecided, in words.
    pub proposed: Option<String>,
    /// What the disk said when it failed.
    pub disk_error: Option<String>,
}
