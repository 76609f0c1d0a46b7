//! The last write that touched each region.

use alloc::{boxed::Box, collections::BTreeSet, vec, vec::Vec};
use tandem_base::Epoch;

use super::{Chapter, Extent, ExtentStamps, Grain, REGIONS_MAX};
use crate::{VolumeIndex, config::VolumeSpec, message::Span};

/// A write's place in the order of the group, in 8 bytes: 28 bits of the promotion's number, 36 bits of its sequence in
/// steps of [`Grain::step`], rounded up. A rounded stamp says "later" of a region that was written a few writes earlier:
/// that costs a look at it.
///
/// A number or a sequence that does not fit is written as the highest one, which counts as later than everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub(crate) u64);

const SEQUENCE_BITS: u32 = 36;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const NUMBER_MAX: u64 = (1 << (u64::BITS - SEQUENCE_BITS)) - 1;

impl Stamp {
    /// Never written: all zero, since every image begins so.
    pub(crate) const NEVER: Self = Self(0);

    fn new(promotion: Epoch, steps: u64) -> Self {
        Self(promotion.number.min(NUMBER_MAX) << SEQUENCE_BITS | steps.min(SEQUENCE_MAX))
    }

    /// Whether a region that has this stamp may have been written after `fork`.
    fn is_after(self, fork: Option<Chapter>, step: u64) -> bool {
        let overflown = self.0 & SEQUENCE_MAX == SEQUENCE_MAX || self.0 >> SEQUENCE_BITS == NUMBER_MAX;
        match fork {
            // The fork's own step may hold later writes: round it down.
            Some(fork) => self != Self::NEVER && (overflown || self > Self::new(fork.epoch, fork.last / step)),
            None => self != Self::NEVER,
        }
    }
}

/// The stamps of all volumes. Sparse: an extent that was never written takes a pointer.
#[derive(Debug)]
pub(crate) struct Stamps {
    grain: Grain,
    volumes: Vec<Volume>,
    /// Extents whose stamps are newer than the disk's.
    dirty: BTreeSet<Extent>,
}

#[derive(Debug)]
struct Volume {
    size: u64,
    extents: Vec<Option<ExtentStamps>>,
}

impl Stamps {
    pub(crate) fn new(grain: Grain, volumes: &[VolumeSpec]) -> Self {
        let volume = |spec: &VolumeSpec| {
            let extents = spec.size.div_ceil(grain.extent()) as usize;
            Volume { size: spec.size, extents: vec![None; extents] }
        };
        Self { grain, volumes: volumes.iter().map(volume).collect(), dirty: BTreeSet::new() }
    }

    /// What the disk holds of an extent; unknown places are ignored.
    pub(crate) fn load(&mut self, extent: Extent, stamps: ExtentStamps) {
        let volume = self.volumes.get_mut(usize::from(extent.volume.0));
        if let Some(place) = volume.and_then(|volume| volume.extents.get_mut(extent.index as usize)) {
            *place = Some(stamps);
        }
    }

    /// Write `sequence` of `promotion` touches `span`.
    pub(crate) fn raise(&mut self, span: &Span, promotion: Epoch, sequence: u64) {
        let stamp = Stamp::new(promotion, sequence.div_ceil(self.grain.step.into()));
        let region = u64::from(self.grain.region);
        let regions = u64::from(self.grain.regions);
        let Some(volume) = self.volumes.get_mut(usize::from(span.volume.0)) else { return };
        for at in span.offset / region..(span.offset + span.length).div_ceil(region) {
            let index = (at / regions) as usize;
            let Some(place) = volume.extents.get_mut(index) else { return };
            let stamps = place.get_or_insert_with(|| Box::new([0; REGIONS_MAX]));
            let old = &mut stamps[(at % regions) as usize];
            if *old < stamp.0 {
                *old = stamp.0;
                self.dirty.insert(Extent { volume: span.volume, index: index as u32 });
            }
        }
    }

    /// The regions that may have been written after `fork`, as ranges that do not touch.
    pub(crate) fn after(&self, fork: Option<Chapter>) -> impl Iterator<Item = Span> + '_ {
        let (region, regions) = (u64::from(self.grain.region), self.grain.regions as usize);
        let step = u64::from(self.grain.step);
        self.volumes.iter().enumerate().flat_map(move |(index, volume)| {
            let extents = volume.extents.iter().enumerate().filter_map(|(at, stamps)| Some((at, stamps.as_ref()?)));
            let hits = extents.flat_map(move |(at, stamps)| {
                let later = move |(_, stamp): &(usize, &u64)| Stamp(**stamp).is_after(fork, step);
                stamps[..regions].iter().enumerate().filter(later).map(move |(place, _)| (at * regions + place) as u64)
            });
            let spans = hits.map(move |at| Span {
                volume: VolumeIndex(index as u16),
                offset: at * region,
                length: region.min(volume.size - at * region),
            });
            Joined { spans: spans.peekable() }
        })
    }

    /// Extents whose stamps are newer than the disk's.
    pub(crate) fn dirty(&self) -> &BTreeSet<Extent> {
        &self.dirty
    }

    /// The stamps of some extents, to be stored; they count as clean from now on.
    pub(crate) fn take(&mut self, extents: impl Iterator<Item = Extent>) -> Vec<(Extent, ExtentStamps)> {
        let mut taken = Vec::new();
        for extent in extents {
            self.dirty.remove(&extent);
            let stamps = self
                .volumes
                .get(usize::from(extent.volume.0))
                .and_then(|volume| volume.extents.get(extent.index as usize)?.clone());
            if let Some(stamps) = stamps {
                taken.push((extent, stamps));
            }
        }
        taken
    }

    /// The volumes, whole.
    pub(crate) fn whole(&self) -> impl Iterator<Item = Span> + '_ {
        let whole = |(index, volume): (usize, &Volume)| Span {
            volume: VolumeIndex(index as u16),
            offset: 0,
            length: volume.size,
        };
        self.volumes.iter().enumerate().map(whole).filter(|span| span.length > 0)
    }
}

/// Joins ranges that touch.
struct Joined<I: Iterator<Item = Span>> {
    spans: core::iter::Peekable<I>,
}

impl<I: Iterator<Item = Span>> Iterator for Joined<I> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let mut span = self.spans.next()?;
        while let Some(next) = self.spans.next_if(|next| next.offset == span.offset + span.length) {
            span.length += next.length;
        }
        Some(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_base::VolumeName;

    fn epoch(number: u64) -> Epoch {
        Epoch { number, tag: 9 }
    }

    fn fork(number: u64, last: u64) -> Option<Chapter> {
        Some(Chapter { epoch: epoch(number), last })
    }

    fn span(volume: u16, offset: u64, length: u64) -> Span {
        Span { volume: VolumeIndex(volume), offset, length }
    }

    fn stamps(sizes: &[u64]) -> Stamps {
        let spec = |(at, size): (usize, &u64)| VolumeSpec {
            name: VolumeName::new(&alloc::format!("v{at}")).expect("a name"),
            size: *size,
        };
        Stamps::new(
            Grain { region: 512, regions: 8, step: 256 },
            &sizes.iter().enumerate().map(spec).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn what_was_written_after_the_fork_is_found_and_nothing_of_before() {
        let mut stamps = stamps(&[10_000, 5_000]);
        stamps.raise(&span(0, 100, 600), epoch(1), 256);
        stamps.raise(&span(0, 4_000, 200), epoch(1), 512);
        stamps.raise(&span(1, 4_990, 10), epoch(2), 1);
        let after = |fork| stamps.after(fork).collect::<Vec<_>>();
        assert_eq!(after(None), [span(0, 0, 1024), span(0, 3584, 1024), span(1, 4608, 392)], "never written is equal");
        assert_eq!(after(fork(1, 256)), [span(0, 3584, 1024), span(1, 4608, 392)]);
        assert_eq!(after(fork(1, 511)), [span(0, 3584, 1024), span(1, 4608, 392)], "its step may hold later ones");
        assert_eq!(after(fork(1, 512)), [span(1, 4608, 392)]);
        assert_eq!(after(fork(2, 300)), []);
    }

    #[test]
    fn stamps_are_only_raised() {
        let mut stamps = stamps(&[4096]);
        stamps.raise(&span(0, 0, 1), epoch(3), 1);
        let stored = stamps.take([Extent { volume: VolumeIndex(0), index: 0 }].into_iter());
        assert!(stamps.dirty().is_empty());
        stamps.raise(&span(0, 0, 1), epoch(2), 900);
        assert!(stamps.dirty().is_empty());
        assert_eq!(stored[0].1[0], Stamp::new(epoch(3), 1).0);
    }

    #[test]
    fn what_does_not_fit_is_later_than_everything() {
        let mut stamps = stamps(&[4096]);
        stamps.raise(&span(0, 0, 1), epoch(3), u64::MAX);
        assert_eq!(stamps.after(fork(3, u64::MAX)).count(), 1);
        stamps.raise(&span(0, 0, 1), epoch(u64::MAX), 1);
        assert_eq!(stamps.after(fork(u64::MAX, u64::MAX)).count(), 1);
    }
}
