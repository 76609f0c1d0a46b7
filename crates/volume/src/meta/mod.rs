//! What a replica remembers of its content, so that a resync moves only what can differ.
//!
//! Four things, kept alike at every replica:
//! - the *history*: the promotions whose content this replica holds, each with the last write that it holds of it without
//!   a gap ([`History`]). Two replicas that both know a promotion agree on everything up to the lower of their last writes:
//!   the *fork point* (the rule of Kafka's KIP-101 and KIP-279, and of every leader epoch before);
//! - a *stamp* for each region: the last write that touched it ([`Stamps`]);
//! - the *hot extents*: recorded durably before the first write into them, taken out after their data and their stamps are
//!   durable ([`Hot`](hot::Hot)). After a crash nothing is known of them, and everything of all others;
//! - the *unknown* extents: those that were hot when an earlier run crashed, until this replica is brought in sync, or is
//!   promoted as the last copy and with that makes its content the truth.
//!
//! What can differ between a source and a joiner: the regions stamped after the fork point at either of them, and the
//! joiner's unknown extents. The source's unknown extents were stamped anew when it was promoted, so that they count as
//! written after every fork point with a replica that was not there.
//!
//! Why the rest is equal. Take a region that neither replica has stamped after the fork point, and that is known to both.
//! Both hold every write up to the fork point, the same ones in the same order, and no later one in this region: a later
//! one would have stamped it, in memory before it was issued, on the disk before its extent was taken out of the hot
//! ones. So both hold the outcome of the same last write.
//!
//! Stamps are only ever raised. A joiner stamps what it is sent, and also what it is found to hold already, with the
//! promotion it follows; that one is in nobody's history of it until the whole resync is done, so whatever a resync
//! has touched before it was cut short is looked at again.

pub mod activity;
pub mod history;
pub(crate) mod hot;
pub(crate) mod stamps;

pub use activity::Activity;
pub use history::Chapter;

use alloc::{boxed::Box, vec::Vec};

use crate::{VolumeIndex, message::Span};

pub(crate) use history::History;
pub(crate) use stamps::Stamps;

/// Regions of one extent, at most.
pub const REGIONS_MAX: usize = 64;

/// The grain of what is remembered. The same at every replica of a group, and for good: what an earlier run remembered
/// in another grain is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grain {
    /// Bytes of a region, which has one stamp; 64 KiB unless a test wants small volumes.
    pub region: u32,
    /// Regions of an extent, which is hot or not as a whole; 64 make 4 MiB.
    pub regions: u32,
    /// Writes that share a stamp; 256 let a promotion last for 2⁴⁴ writes.
    pub step: u32,
}

impl Default for Grain {
    fn default() -> Self {
        Self { region: 64 << 10, regions: REGIONS_MAX as u32, step: 256 }
    }
}

impl Grain {
    /// Bytes of an extent.
    #[must_use]
    pub fn extent(&self) -> u64 {
        u64::from(self.region) * u64::from(self.regions)
    }

    /// The extents that a range touches.
    pub(crate) fn extents(&self, span: &Span) -> impl Iterator<Item = Extent> + use<> {
        let volume = span.volume;
        let first = span.offset / self.extent();
        let end = (span.offset + span.length).div_ceil(self.extent());
        (first..end).map(move |index| Extent { volume, index: index as u32 })
    }

    /// The range of an extent, as far as it lies within a volume of `size` bytes.
    pub(crate) fn span(&self, extent: Extent, size: u64) -> Span {
        let offset = u64::from(extent.index) * self.extent();
        Span { volume: extent.volume, offset, length: self.extent().min(size.saturating_sub(offset)) }
    }
}

/// A part of a volume: number `index` of those of [`Grain::extent`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The volume.
    pub volume: VolumeIndex,
    /// Its place in the volume.
    pub index: u32,
}

/// The stamps of an extent, as they are stored: [`activity::encode_stamps`] gives them their bytes.
pub type ExtentStamps = Box<[u64; REGIONS_MAX]>;

/// What a disk holds besides the superblock and the images.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The newest record; `None` where none was ever stored, or none can be read: then nothing is known of anything.
    pub activity: Option<Activity>,
    /// The stamps of the extents that have any; `None` for those that cannot be read.
    pub stamps: Vec<(Extent, Option<ExtentStamps>)>,
}
