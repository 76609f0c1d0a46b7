//! The regions that a resync has to look at.

use alloc::{vec, vec::Vec};

use crate::{
    VolumeIndex,
    config::VolumeSpec,
    message::{CHUNK, Span},
};

/// A set of regions: a bit for each.
#[derive(Debug)]
pub(crate) struct Regions {
    region: u64,
    volumes: Vec<(u64, Vec<u64>)>,
    /// Where the next range is looked for.
    cursor: (usize, u64),
    bytes: u64,
    /// Of them, those that were not taken yet.
    left: u64,
}

impl Regions {
    pub(crate) fn new(region: u64, volumes: &[VolumeSpec]) -> Self {
        let bits = |spec: &VolumeSpec| (spec.size, vec![0; spec.size.div_ceil(region).div_ceil(64) as usize]);
        Self { region, volumes: volumes.iter().map(bits).collect(), cursor: (0, 0), bytes: 0, left: 0 }
    }

    /// Adds every region that a range touches.
    pub(crate) fn add(&mut self, span: &Span) {
        let Some((size, bits)) = self.volumes.get_mut(usize::from(span.volume.0)) else { return };
        for at in span.offset / self.region..(span.offset + span.length).min(*size).div_ceil(self.region) {
            let bit = 1 << (at % 64);
            let word = &mut bits[(at / 64) as usize];
            if *word & bit == 0 {
                *word |= bit;
                let bytes = self.region.min(*size - at * self.region);
                self.bytes += bytes;
                self.left += bytes;
            }
        }
    }

    /// Bytes of all regions in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether every range was taken.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The next range of neighbours, at most [`CHUNK`] bytes.
    pub(crate) fn next(&mut self) -> Option<Span> {
        let (mut volume, mut at) = self.cursor;
        let found = loop {
            let Some((size, bits)) = self.volumes.get(volume) else { break None };
            let regions = size.div_ceil(self.region);
            let is_in = |at: u64| at < regions && bits[(at / 64) as usize] & 1 << (at % 64) != 0;
            while at < regions && !is_in(at) {
                // A word of none at once.
                at = if at % 64 == 0 && bits[(at / 64) as usize] == 0 { at + 64 } else { at + 1 };
            }
            if at >= regions {
                (volume, at) = (volume + 1, 0);
                continue;
            }
            let first = at;
            while is_in(at) && (at + 1 - first) * self.region <= CHUNK.max(self.region) {
                at += 1;
            }
            let offset = first * self.region;
            let length = ((at - first) * self.region).min(size - offset);
            break Some(Span { volume: VolumeIndex(volume as u16), offset, length });
        };
        self.left -= found.map_or(0, |span| span.length);
        self.cursor = (volume, at);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_base::VolumeName;

    #[test]
    fn neighbours_come_together_and_the_end_is_known() {
        let spec = |name: &str, size| VolumeSpec { name: VolumeName::new(name).expect("a name"), size };
        let span = |volume, offset, length| Span { volume: VolumeIndex(volume), offset, length };
        let mut regions = Regions::new(64 << 10, &[spec("a", 1 << 30), spec("b", 100_000), spec("c", 4096)]);
        regions.add(&span(0, 65_530, 10));
        regions.add(&span(0, 512 << 20, 300 << 10));
        regions.add(&span(1, 99_999, 1));
        assert_eq!(regions.bytes(), (2 + 5) * (64 << 10) + 34_464);
        assert_eq!(regions.next(), Some(span(0, 0, 128 << 10)));
        assert_eq!(regions.next(), Some(span(0, 512 << 20, 256 << 10)));
        assert_eq!(regions.next(), Some(span(0, (512 << 20) + (256 << 10), 64 << 10)));
        assert!(!regions.is_done());
        assert_eq!(regions.next(), Some(span(1, 65_536, 34_464)));
        assert!(regions.is_done());
        assert_eq!(regions.next(), None);
        assert!(Regions::new(512, &[]).is_done());
        let mut none = Regions::new(512, &[spec("a", 4096)]);
        assert_eq!((none.next(), none.is_done()), (None, true));
    }
}
