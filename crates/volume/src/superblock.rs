//! What a replica must remember over a restart.

use alloc::vec::Vec;
use tandem_base::{ClusterId, Epoch, GroupName, NodeName, OpenId};

use crate::config::{ReplicaConfig, VolumeSpec};

/// Bytes of one copy.
pub const BLOCK_SIZE: usize = 4096;
/// Number of copies.
pub const COPIES: usize = 4;
/// Volumes that fit.
pub const VOLUMES_MAX: usize = 32;

/// What a replica must remember over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupName,
    /// The node that this replica belongs to.
    pub node: NodeName,
    /// Raised at every store; the highest valid one counts.
    pub sequence: u64,
    /// The highest promotion that this replica promised to follow.
    pub promised: Epoch,
    /// The run that stored it.
    pub open: OpenId,
    /// The run before.
    pub previous: Option<OpenId>,
    /// The run ended in order, with everything durable.
    pub clean: bool,
    /// The disk refused an operation in this run: what the replica holds is not to be trusted.
    pub failed: bool,
    /// The volumes, in order.
    pub volumes: Vec<VolumeSpec>,
}

/// Why a superblock cannot be used. Nothing may be overwritten then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// Neither a majority of valid copies, nor all absent or zero.
    #[error("superblock: {valid} of {COPIES} copies are valid, {zero} are empty; {first}")]
    Corrupt {
        /// Copies that can be read.
        valid: usize,
        /// Copies that are absent or all zero.
        zero: usize,
        /// What is wrong with the first bad one.
        first: CopyError,
    },
    /// Written by a later release.
    #[error("superblock: format {0} is newer than this release knows ({FORMAT})")]
    Newer(u16),
    /// It belongs to something else.
    #[error("superblock: {what} is `{found}` on the disk and `{expected}` in the configuration")]
    Foreign {
        /// Which field.
        what: &'static str,
        /// On the disk.
        found: alloc::string::String,
        /// In the configuration.
        expected: alloc::string::String,
    },
}

/// Why one copy is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Absent or all zero.
    #[error("empty")]
    Empty,
    /// Not 4096 bytes.
    #[error("{0} bytes instead of {BLOCK_SIZE}")]
    Length(usize),
    /// Not a superblock.
    #[error("wrong magic")]
    Magic,
    /// Torn or rotten.
    #[error("wrong checksum")]
    Checksum,
    /// Later format.
    #[error("format {0}")]
    Format(u16),
    /// Right checksum, impossible content.
    #[error("impossible value at byte {0}")]
    Value(usize),
}

/// The format that this crate writes.
pub const FORMAT: u16 = 1;

/// What [`select`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// All copies are absent or zero.
    Fresh,
    /// The newest of a majority.
    Found {
        /// It.
        superblock: Superblock,
        /// Which copies are to be written again.
        repair: [bool; COPIES],
    },
}

/// The 4096 bytes of one copy.
#[must_use]
pub fn encode(_superblock: &Superblock) -> [u8; BLOCK_SIZE] {
    [0; BLOCK_SIZE]
}

/// Reads one copy.
///
/// # Errors
///
/// [`CopyError`] says what is wrong with it.
pub fn decode(_block: &[u8]) -> Result<Superblock, CopyError> {
    Err(CopyError::Empty)
}

/// Chooses among the copies, `None` for one that does not exist.
///
/// # Errors
///
/// [`SuperblockError`]: refuse to open, overwrite nothing.
pub fn select(_copies: &[Option<Vec<u8>>; COPIES]) -> Result<Selected, SuperblockError> {
    Ok(Selected::Fresh)
}

/// Whether this superblock belongs to the replica that `config` describes.
///
/// # Errors
///
/// [`SuperblockError::Foreign`] names the field that differs.
pub fn check(_superblock: &Superblock, _config: &ReplicaConfig) -> Result<(), SuperblockError> {
    Ok(())
}
