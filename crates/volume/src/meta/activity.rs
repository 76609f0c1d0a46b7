//! The record of what is hot and what is held, and the blocks of the stamps, as bytes.
//!
//! A record is small and stored whole each time. The file has two places for it, used in turn, and a place holds it
//! twice: a store writes both copies of one place in one operation and is done when they are durable. A crash can tear
//! the place that is being written, not the other; a copy that becomes unreadable later has its twin. Numbers are
//! little-endian; what is reserved is written as zero and not looked at.
//!
//! ```text
//! offset  bytes
//!      0      8  magic "TANDEMAC"
//!      8      2  format: 1
//!     10      2  flags: 1 nothing is known of any extent
//!     12      4  region size in bytes
//!     16      4  regions of an extent
//!     20      4  writes that share a stamp
//!     24      8  sequence of the store
//!     32      4  number of chapters: 0 to 128
//!     36      4  number of hot extents: 0 to 1535
//!     40     24  reserved
//!     64     24  chapter 0: epoch number, epoch tag, last write
//!     88     24  chapter 1, and so on
//!   3136    960  reserved
//!   4096      8  hot extent 0: volume (2), reserved (2), index (4)
//!   4104      8  hot extent 1, and so on
//!  16380      4  CRC-32C of bytes 0 to 16379
//! ```
//!
//! The stamps of an extent take 1024 bytes, at 1024 times its index, in a file for each volume; an extent that was never
//! written is a hole there, or lies behind the end.
//!
//! ```text
//! offset  bytes
//!      0      4  magic "TSTP"
//!      4      4  index of the extent
//!      8    512  the stamp of region 0, of region 1, and so on
//!    520    500  reserved
//!   1020      4  CRC-32C of bytes 0 to 1019
//! ```
//!
//! A stamp is 28 bits of a promotion's epoch number, then 36 bits of a write's sequence in steps of the number above,
//! rounded up; 0 is a region that was never written.

use alloc::{boxed::Box, vec, vec::Vec};
use tandem_base::Epoch;

use super::{Chapter, Extent, ExtentStamps, Grain, REGIONS_MAX, history::CHAPTERS_MAX};
use crate::VolumeIndex;

/// Bytes of one copy of the record.
pub const RECORD_SIZE: usize = 16 << 10;
/// Copies in one place.
pub const TWINS: usize = 2;
/// Places of the file.
pub const PLACES: usize = 2;
/// Hot extents that fit.
pub const HOT_MAX: usize = 1535;
/// Bytes of an extent's stamps.
pub const STAMPS_SIZE: usize = 1024;

const MAGIC: [u8; 8] = *b"TANDEMAC";
const FORMAT: u16 = 1;
const CHAPTERS: usize = 64;
const HOT: usize = 4096;
const CHECKSUM: usize = RECORD_SIZE - 4;
const STAMPS_MAGIC: [u8; 4] = *b"TSTP";

/// What is hot, and what is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// The grain of everything here.
    pub grain: Grain,
    /// Raised at every store; the highest valid one counts. Its parity is the place.
    pub sequence: u64,
    /// The promotions whose content this replica holds, oldest first.
    pub history: Vec<Chapter>,
    /// The extents of which a crash leaves nothing known.
    pub hot: Vec<Extent>,
    /// Nothing is known of any extent: an earlier record was lost, and this replica was not brought in sync since.
    pub unknown: bool,
}

impl Activity {
    /// Which place of the file a store of this record overwrites.
    #[must_use]
    pub fn place(&self) -> usize {
        (self.sequence % PLACES as u64) as usize
    }
}

/// The bytes of one copy.
///
/// # Panics
///
/// With more chapters or hot extents than fit.
#[must_use]
pub fn encode(activity: &Activity) -> Box<[u8]> {
    assert!(activity.history.len() <= CHAPTERS_MAX, "at most {CHAPTERS_MAX} chapters are kept");
    assert!(activity.hot.len() <= HOT_MAX, "at most {HOT_MAX} extents are hot");
    let mut block = vec![0; RECORD_SIZE].into_boxed_slice();
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(8, &FORMAT.to_le_bytes());
    put(10, &u16::from(activity.unknown).to_le_bytes());
    put(12, &activity.grain.region.to_le_bytes());
    put(16, &activity.grain.regions.to_le_bytes());
    put(20, &activity.grain.step.to_le_bytes());
    put(24, &activity.sequence.to_le_bytes());
    put(32, &(activity.history.len() as u32).to_le_bytes());
    put(36, &(activity.hot.len() as u32).to_le_bytes());
    for (index, chapter) in activity.history.iter().enumerate() {
        let at = CHAPTERS + index * 24;
        put(at, &chapter.epoch.number.to_le_bytes());
        put(at + 8, &chapter.epoch.tag.to_le_bytes());
        put(at + 16, &chapter.last.to_le_bytes());
    }
    for (index, extent) in activity.hot.iter().enumerate() {
        let at = HOT + index * 8;
        put(at, &extent.volume.0.to_le_bytes());
        put(at + 4, &extent.index.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&block[..CHECKSUM]);
    block[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// One copy, or `None` if it is torn, rotten, of a later format, or nothing of the kind.
#[must_use]
pub fn decode(block: &[u8]) -> Option<Activity> {
    if block.len() != RECORD_SIZE || block[..8] != MAGIC || u16_at(block, 8) != FORMAT {
        return None;
    }
    if u32_at(block, CHECKSUM) != crc32c::crc32c(&block[..CHECKSUM]) {
        return None;
    }
    let grain = Grain { region: u32_at(block, 12), regions: u32_at(block, 16), step: u32_at(block, 20) };
    let (chapters, hot) = (u32_at(block, 32) as usize, u32_at(block, 36) as usize);
    if chapters > CHAPTERS_MAX || hot > HOT_MAX {
        return None;
    }
    let chapter = |index: usize| {
        let at = CHAPTERS + index * 24;
        let epoch = Epoch { number: u64_at(block, at), tag: u64_at(block, at + 8) };
        Chapter { epoch, last: u64_at(block, at + 16) }
    };
    let extent = |index: usize| {
        let at = HOT + index * 8;
        Extent { volume: VolumeIndex(u16_at(block, at)), index: u32_at(block, at + 4) }
    };
    Some(Activity {
        grain,
        sequence: u64_at(block, 24),
        history: (0..chapters).map(chapter).collect(),
        hot: (0..hot).map(extent).collect(),
        unknown: u16_at(block, 10) & 1 != 0,
    })
}

/// The newest record of the file, which has [`PLACES`] times [`TWINS`] copies; `None` if it has none that can be read.
#[must_use]
pub fn select(file: &[u8]) -> Option<Activity> {
    file.chunks(RECORD_SIZE).take(PLACES * TWINS).filter_map(decode).max_by_key(|activity| activity.sequence)
}

/// The stamps of an extent, as they are stored.
#[must_use]
pub fn encode_stamps(extent: Extent, stamps: &ExtentStamps) -> [u8; STAMPS_SIZE] {
    let mut block = [0; STAMPS_SIZE];
    block[..4].copy_from_slice(&STAMPS_MAGIC);
    block[4..8].copy_from_slice(&extent.index.to_le_bytes());
    for (place, stamp) in block[8..].chunks_exact_mut(8).zip(stamps.iter()) {
        place.copy_from_slice(&stamp.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&block[..STAMPS_SIZE - 4]);
    block[STAMPS_SIZE - 4..].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// What [`encode_stamps`] made of the stamps of extent `index`: `None` where all is zero, so that it was never written;
/// an error where it cannot be read.
///
/// # Errors
///
/// [`Unreadable`].
pub fn decode_stamps(index: u32, block: &[u8]) -> Result<Option<ExtentStamps>, Unreadable> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let whole = block.len() == STAMPS_SIZE && block[..4] == STAMPS_MAGIC && u32_at(block, 4) == index;
    if !whole || u32_at(block, STAMPS_SIZE - 4) != crc32c::crc32c(&block[..STAMPS_SIZE - 4]) {
        return Err(Unreadable);
    }
    let mut stamps = Box::new([0; REGIONS_MAX]);
    for (place, stamp) in stamps.iter_mut().enumerate() {
        *stamp = u64_at(block, 8 + place * 8);
    }
    Ok(Some(stamps))
}

/// Torn or rotten stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stamps of the extent cannot be read")]
pub struct Unreadable;

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from(u32_at(block, at)) | u64::from(u32_at(block, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> Activity {
        let chapter = |number| Chapter { epoch: Epoch { number, tag: number * 3 }, last: number * 1_000 };
        let extent = |index| Extent { volume: VolumeIndex((index % 3) as u16), index };
        Activity {
            grain: Grain::default(),
            sequence,
            history: (1..=CHAPTERS_MAX as u64).map(chapter).collect(),
            hot: (0..HOT_MAX as u32).map(extent).collect(),
            unknown: sequence % 2 == 1,
        }
    }

    #[test]
    fn a_full_record_comes_back() {
        assert!(decode(&encode(&record(7))) == Some(record(7)));
        let empty = Activity { history: Vec::new(), hot: Vec::new(), ..record(0) };
        assert_eq!(decode(&encode(&empty)), Some(empty));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let whole = encode(&record(7));
        for at in 0..RECORD_SIZE {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert_eq!(decode(&whole[1..]), None);
    }

    #[test]
    fn the_newest_readable_copy_counts() {
        let mut file = Vec::new();
        for place in [record(4), record(5)] {
            for _ in 0..TWINS {
                file.extend_from_slice(&encode(&place));
            }
        }
        assert_eq!(record(5).place(), 1);
        assert!(select(&file) == Some(record(5)));
        file[2 * RECORD_SIZE + 9_000] ^= 1;
        assert!(select(&file) == Some(record(5)), "its twin");
        file[3 * RECORD_SIZE + 9_000] ^= 1;
        assert!(select(&file) == Some(record(4)), "torn while it was stored");
        assert_eq!(select(&[]), None);
        assert_eq!(select(&vec![0; PLACES * TWINS * RECORD_SIZE]), None);
    }

    #[test]
    fn stamps_come_back_and_damage_is_noticed() {
        let extent = Extent { volume: VolumeIndex(1), index: 77 };
        let mut stamps = Box::new([0; REGIONS_MAX]);
        for (place, stamp) in stamps.iter_mut().enumerate() {
            *stamp = (place as u64) << 36 | 5;
        }
        let block = encode_stamps(extent, &stamps);
        assert_eq!(decode_stamps(77, &block), Ok(Some(stamps)));
        assert_eq!(decode_stamps(78, &block), Err(Unreadable), "another extent's");
        assert_eq!(decode_stamps(3, &[0; STAMPS_SIZE]), Ok(None));
        for at in 0..STAMPS_SIZE {
            let mut damaged = block;
            damaged[at] ^= 1;
            assert_eq!(decode_stamps(77, &damaged), Err(Unreadable), "byte {at}");
        }
    }

    /// The bytes on the disk stay what they are: other releases read them.
    #[test]
    fn the_format_does_not_change_by_accident() {
        assert_eq!(crc32c::crc32c(&encode(&record(7))[..CHECKSUM]), TEST_VECTOR.0);
        let stamps = Box::new([0x0000_0010_0000_0002; REGIONS_MAX]);
        let block = encode_stamps(Extent { volume: VolumeIndex(0), index: 9 }, &stamps);
        assert_eq!(crc32c::crc32c(&block[..STAMPS_SIZE - 4]), TEST_VECTOR.1);
    }

    const TEST_VECTOR: (u32, u32) = (4_041_563_967, 3_885_533_861);
}
