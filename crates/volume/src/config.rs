//! What a replica is told at its start.

use alloc::{collections::BTreeSet, vec::Vec};
use tandem_base::{ClusterId, Duration, GroupName, NodeName, VolumeName};

use crate::{meta::Grain, mutations::Mutations};

/// A volume of the group. All replicas list the same volumes in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// In bytes.
    pub size: u64,
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// Once each required replica's kernel accepted it; FLUSH and FUA make it durable.
    #[default]
    Memory,
    /// Once it is on stable storage at each required replica.
    Durable,
}

/// What a replica is told at its start.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// The cluster; checked in every handshake.
    pub cluster: ClusterId,
    /// The cluster's generation, which a forced takeover raises; checked in every handshake.
    pub generation: u64,
    /// The group; checked in every handshake.
    pub group: GroupName,
    /// This node.
    pub node: NodeName,
    /// The nodes of the other replicas; at most 63.
    pub peers: BTreeSet<NodeName>,
    /// The volumes, in the order of [`crate::VolumeIndex`]; at most [`crate::superblock::VOLUMES_MAX`].
    pub volumes: Vec<VolumeSpec>,
    /// When a write is acknowledged.
    pub ack: Ack,
    /// How long a member may be silent while something waits for it.
    pub peer_timeout: Duration,
    /// How long a member that answers may keep a write unstored before it counts as failed (a hung disk).
    pub stall_timeout: Duration,
    /// How often an undecided proposal is repeated.
    pub proposal_retry: Duration,
    /// How long a connection may be idle before a ping.
    pub heartbeat: Duration,
    /// Chunks of a resync that are compared at once.
    pub resync_window: usize,
    /// Bytes that a resync lets be on their way to a joiner before it begins another chunk: what the initiator's writes
    /// wait behind. It takes a round trip to fill them again, so a line carries at most this much in one.
    pub resync_ahead: u64,
    /// Pieces that a takeover copies at once.
    pub takeover_window: usize,
    /// The grain of what is remembered of the content; the same at every replica.
    pub grain: Grain,
    /// Extents that may be hot at once: what has to be compared after a crash.
    pub hot_max: usize,
    /// An extent that was not written for so long does not stay hot much longer.
    pub hot_idle: Duration,
    /// Bytes that may be on their way to a joiner before its resync is given up and begun again.
    pub joiner_backlog_max: u64,
    /// Mistakes to make; none unless the simulator wants to be tested.
    pub mutations: Mutations,
}

impl ReplicaConfig {
    /// A configuration with the default timings.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        group: GroupName,
        node: NodeName,
        peers: BTreeSet<NodeName>,
        volumes: Vec<VolumeSpec>,
    ) -> Self {
        Self {
            cluster,
            generation: 1,
            group,
            node,
            peers,
            volumes,
            ack: Ack::default(),
            peer_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(10),
            proposal_retry: Duration::from_millis(200),
            heartbeat: Duration::from_millis(250),
            resync_window: 64,
            resync_ahead: 2 << 20,
            takeover_window: 16,
            grain: Grain::default(),
            hot_max: 512,
            hot_idle: Duration::from_secs(10),
            joiner_backlog_max: 64 << 20,
            mutations: Mutations::NONE,
        }
    }
}
