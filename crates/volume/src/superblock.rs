//! What a replica must remember of itself over a restart; what it remembers of its content is in [`crate::meta`].
//!
//! Four copies of one 4096-byte block. A store writes them one after the other, each durable before the next, and is
//! done when a majority is durable: a crash can then tear at most one copy, and the newest of a majority is always
//! readable. Numbers are little-endian; what is reserved is written as zero and not looked at.
//!
//! ```text
//! offset  bytes
//!      0      8  magic "TANDEMSB"
//!      8      2  format: 1
//!     10      2  flags: 1 clean, 2 failed, 4 this run was a member
//!     12      4  number of volumes: 0 to 32
//!     16      8  sequence of the store
//!     24     16  cluster
//!     40      8  promised epoch: number
//!     48      8  promised epoch: tag
//!     56      8  open (this run)
//!     64      8  number of earlier opens: 0 to 64
//!     72     64  group: length, then the name, then zeroes
//!    136     64  node: the same
//!    200    312  reserved
//!    512    512  earlier opens, newest first, 8 bytes each
//!   1024     72  volume 0: length of the name, the name, zeroes (64 bytes), then the size in bytes (8)
//!   1096     72  volume 1, and so on
//!   3328    764  reserved
//!   4092      4  CRC-32C of bytes 0 to 4091
//! ```

use alloc::{string::ToString, vec::Vec};
use tandem_base::{ByteSize, ClusterId, Epoch, GroupName, NodeName, OpenId, VolumeName};

use crate::config::{ReplicaConfig, VolumeSpec};

/// Bytes of one copy.
pub const BLOCK_SIZE: usize = 4096;
/// Number of copies.
pub const COPIES: usize = 4;
/// Volumes that fit.
pub const VOLUMES_MAX: usize = 32;
/// Earlier runs that fit. More restarts than these without reaching the cluster once forget the middle ones.
pub const PREVIOUS_MAX: usize = 64;

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
    /// The runs before, newest first, as far back as the newest one that was a member: which of them the register knows
    /// cannot be told, since a run may end before its opening is committed, and before it learns that it was. Empty on
    /// a fresh disk, and after a run whose disk failed.
    pub previous: Vec<OpenId>,
    /// The register has shown this run as a member.
    pub member: bool,
    /// The run ended in order, with everything durable.
    pub clean: bool,
    /// The disk refused an operation in this run, or in an earlier one since which the replica was not brought in sync:
    /// what it holds is not to be trusted, not even what it reads back.
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

const MAGIC: [u8; 8] = *b"TANDEMSB";
const FLAGS: usize = 10;
const PREVIOUS: usize = 512;
const VOLUMES: usize = 1024;
const VOLUME_BYTES: usize = 72;
const CHECKSUM: usize = BLOCK_SIZE - 4;
const CLEAN: u16 = 1;
const FAILED: u16 = 2;
const MEMBER: u16 = 4;

/// The 4096 bytes of one copy.
///
/// # Panics
///
/// If there are more than [`VOLUMES_MAX`] volumes or [`PREVIOUS_MAX`] earlier runs.
#[must_use]
pub fn encode(superblock: &Superblock) -> [u8; BLOCK_SIZE] {
    assert!(superblock.volumes.len() <= VOLUMES_MAX, "a group has at most {VOLUMES_MAX} volumes");
    assert!(superblock.previous.len() <= PREVIOUS_MAX, "at most {PREVIOUS_MAX} earlier runs are kept");
    let mut block = [0; BLOCK_SIZE];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let name = |name: &str| {
        let mut field = [0; 64];
        field[0] = name.len() as u8;
        field[1..=name.len()].copy_from_slice(name.as_bytes());
        field
    };
    let flags = [(superblock.clean, CLEAN), (superblock.failed, FAILED), (superblock.member, MEMBER)];
    put(0, &MAGIC);
    put(8, &FORMAT.to_le_bytes());
    put(FLAGS, &flags.iter().map(|(set, bit)| if *set { *bit } else { 0 }).sum::<u16>().to_le_bytes());
    put(12, &(superblock.volumes.len() as u32).to_le_bytes());
    put(16, &superblock.sequence.to_le_bytes());
    put(24, &superblock.cluster.0.to_le_bytes());
    put(40, &superblock.promised.number.to_le_bytes());
    put(48, &superblock.promised.tag.to_le_bytes());
    put(56, &superblock.open.0.to_le_bytes());
    put(64, &(superblock.previous.len() as u64).to_le_bytes());
    put(72, &name(superblock.group.as_str()));
    put(136, &name(superblock.node.as_str()));
    for (index, open) in superblock.previous.iter().enumerate() {
        put(PREVIOUS + index * 8, &open.0.to_le_bytes());
    }
    for (index, volume) in superblock.volumes.iter().enumerate() {
        put(VOLUMES + index * VOLUME_BYTES, &name(volume.name.as_str()));
        put(VOLUMES + index * VOLUME_BYTES + 64, &volume.size.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&block[..CHECKSUM]);
    block[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// Reads one copy.
///
/// # Errors
///
/// [`CopyError`] says what is wrong with it.
pub fn decode(block: &[u8]) -> Result<Superblock, CopyError> {
    if block.iter().all(|byte| *byte == 0) {
        return Err(CopyError::Empty);
    }
    let block: &[u8; BLOCK_SIZE] = block.try_into().map_err(|_| CopyError::Length(block.len()))?;
    if block[..8] != MAGIC {
        return Err(CopyError::Magic);
    }
    if crc32c::crc32c(&block[..CHECKSUM]).to_le_bytes() != block[CHECKSUM..] {
        return Err(CopyError::Checksum);
    }
    let format = u16::from_le_bytes(array(block, 8));
    if format != FORMAT {
        return Err(CopyError::Format(format));
    }
    let flags = u16::from_le_bytes(array(block, FLAGS));
    if flags & !(CLEAN | FAILED | MEMBER) != 0 {
        return Err(CopyError::Value(FLAGS));
    }
    let count = u32::from_le_bytes(array(block, 12)) as usize;
    if count > VOLUMES_MAX {
        return Err(CopyError::Value(12));
    }
    let earlier = usize::try_from(u64::from_le_bytes(array(block, 64))).unwrap_or(usize::MAX);
    if earlier > PREVIOUS_MAX {
        return Err(CopyError::Value(64));
    }
    let volumes = (0..count).map(|index| VOLUMES + index * VOLUME_BYTES).map(|at| {
        let name = VolumeName::new(text(block, at)?).map_err(|_| CopyError::Value(at))?;
        Ok(VolumeSpec { name, size: u64::from_le_bytes(array(block, at + 64)) })
    });
    Ok(Superblock {
        cluster: ClusterId(u128::from_le_bytes(array(block, 24))),
        group: GroupName::new(text(block, 72)?).map_err(|_| CopyError::Value(72))?,
        node: NodeName::new(text(block, 136)?).map_err(|_| CopyError::Value(136))?,
        sequence: u64::from_le_bytes(array(block, 16)),
        promised: Epoch { number: u64::from_le_bytes(array(block, 40)), tag: u64::from_le_bytes(array(block, 48)) },
        open: OpenId(u64::from_le_bytes(array(block, 56))),
        previous: (0..earlier).map(|index| OpenId(u64::from_le_bytes(array(block, PREVIOUS + index * 8)))).collect(),
        member: flags & MEMBER != 0,
        clean: flags & CLEAN != 0,
        failed: flags & FAILED != 0,
        volumes: volumes.collect::<Result<_, _>>()?,
    })
}

fn array<const N: usize>(block: &[u8; BLOCK_SIZE], at: usize) -> [u8; N] {
    block[at..at + N].try_into().expect("the slice has N bytes")
}

fn text(block: &[u8; BLOCK_SIZE], at: usize) -> Result<&str, CopyError> {
    let length = usize::from(block[at]);
    if length > 63 {
        return Err(CopyError::Value(at));
    }
    core::str::from_utf8(&block[at + 1..=at + length]).map_err(|_| CopyError::Value(at))
}

/// Chooses among the copies, `None` for one that does not exist: the newest of a majority.
///
/// A first store that a crash cut short (up to two copies of sequence 1, the rest empty) counts as fresh: this run was
/// never announced, so nobody relies on it.
///
/// # Errors
///
/// [`SuperblockError`]: refuse to open, overwrite nothing.
pub fn select(copies: &[Option<Vec<u8>>; COPIES]) -> Result<Selected, SuperblockError> {
    let read: Vec<_> =
        copies.iter().map(|copy| copy.as_ref().map_or(Err(CopyError::Empty), |copy| decode(copy))).collect();
    let valid = read.iter().flatten().count();
    let zero = read.iter().filter(|copy| **copy == Err(CopyError::Empty)).count();
    if let Some(newer) = read.iter().find_map(|copy| match copy {
        Err(CopyError::Format(format)) if *format > FORMAT => Some(*format),
        _ => None,
    }) {
        return Err(SuperblockError::Newer(newer));
    }
    let first_store = read.iter().flatten().all(|copy| copy.sequence == 1) && valid + zero == COPIES;
    if zero == COPIES || (first_store && valid <= COPIES / 2) {
        return Ok(Selected::Fresh);
    }
    let newest = read.iter().flatten().max_by_key(|copy| copy.sequence);
    match newest {
        Some(newest) if valid > COPIES / 2 => {
            let mut repair = [false; COPIES];
            for (copy, repair) in read.iter().zip(&mut repair) {
                *repair = copy.as_ref() != Ok(newest);
            }
            Ok(Selected::Found { superblock: newest.clone(), repair })
        }
        _ => {
            let first = read.iter().find_map(|copy| copy.as_ref().err().filter(|error| **error != CopyError::Empty));
            Err(SuperblockError::Corrupt { valid, zero, first: *first.unwrap_or(&CopyError::Empty) })
        }
    }
}

/// Whether this superblock belongs to the replica that `config` describes.
///
/// # Errors
///
/// [`SuperblockError::Foreign`] names the field that differs.
pub fn check(superblock: &Superblock, config: &ReplicaConfig) -> Result<(), SuperblockError> {
    let list = |volumes: &[VolumeSpec]| {
        volumes
            .iter()
            .map(|volume| alloc::format!("{} ({})", volume.name, ByteSize::new(volume.size)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    for (what, found, expected) in [
        ("cluster", superblock.cluster.to_string(), config.cluster.to_string()),
        ("group", superblock.group.to_string(), config.group.to_string()),
        ("node", superblock.node.to_string(), config.node.to_string()),
        ("list of volumes", list(&superblock.volumes), list(&config.volumes)),
    ] {
        if found != expected {
            return Err(SuperblockError::Foreign { what, found, expected });
        }
    }
    Ok(())
}
