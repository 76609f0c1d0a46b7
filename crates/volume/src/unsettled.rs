//! What a replica received and does not know to be committed.
//!
//! A write is *settled* once every in-sync replica holds it. At a takeover, replicas can differ only where one of them
//! holds an unsettled write; the new primary writes its own content over the union of all replicas' unsettled ranges.
//! Memory is enough for this in the present version: a replica that restarts has a new open and is no member any more.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use tandem_base::Epoch;

use crate::{VolumeIndex, message::Span};

/// Writes remembered one by one.
const EXACT_MAX: usize = 4096;
/// Grain of what is remembered in bulk.
const EXTENT: u64 = 64 << 10;

/// The unsettled writes of a replica. Bounded: beyond 4096 writes the oldest are remembered by 64 KiB extents, which
/// are forgotten together.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// In order of (promotion, sequence).
    exact: VecDeque<(Epoch, u64, Span)>,
    coarse: SpanSet,
    /// The last write that went into `coarse`.
    coarse_through: (Epoch, u64),
}

impl Unsettled {
    /// A write was received.
    pub(crate) fn add(&mut self, promotion: Epoch, sequence: u64, span: Span) {
        self.exact.push_back((promotion, sequence, span));
        while self.exact.len() > EXACT_MAX {
            let (promotion, sequence, span) = self.exact.pop_front().expect("it is longer than the maximum");
            let first = span.offset / EXTENT * EXTENT;
            // The end may lie behind the volume; whoever uses the span cuts it there.
            let last = (span.offset + span.length).div_ceil(EXTENT).saturating_mul(EXTENT);
            self.coarse.add(Span { volume: span.volume, offset: first, length: last - first });
            self.coarse_through = self.coarse_through.max((promotion, sequence));
        }
    }

    /// Everything of earlier promotions, and of this one up to `committed`, is settled. `committed` is 0 before the
    /// takeover barrier is passed: then nothing is.
    pub(crate) fn settle(&mut self, promotion: Epoch, committed: u64) {
        if committed == 0 {
            return;
        }
        let limit = (promotion, committed);
        while self.exact.front().is_some_and(|(promotion, sequence, _)| (*promotion, *sequence) <= limit) {
            self.exact.pop_front();
        }
        if self.coarse_through <= limit {
            self.coarse = SpanSet::default();
        }
    }

    /// All ranges, merged.
    pub(crate) fn spans(&self) -> SpanSet {
        let mut spans = self.coarse.clone();
        for (_, _, span) in &self.exact {
            spans.add(*span);
        }
        spans
    }
}

/// A set of ranges; what overlaps or touches is merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpanSet(BTreeMap<(u16, u64), u64>);

impl SpanSet {
    /// Adds a range.
    pub(crate) fn add(&mut self, span: Span) {
        let volume = span.volume.0;
        let (mut start, mut end) = (span.offset, span.offset.saturating_add(span.length));
        while let Some((&(_, other), &other_end)) = self.0.range((volume, 0)..=(volume, end)).next_back() {
            if other_end < start {
                break;
            }
            self.0.remove(&(volume, other));
            start = start.min(other);
            end = end.max(other_end);
        }
        self.0.insert((volume, start), end);
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        let span = |(&(volume, offset), &end): (&(u16, u64), &u64)| Span {
            volume: VolumeIndex(volume),
            offset,
            length: end - offset,
        };
        self.0.iter().map(span)
    }

    /// At most `max` ranges that cover all: neighbours are joined, coarser and coarser.
    pub(crate) fn bounded(&self, max: usize) -> Vec<Span> {
        let mut spans: Vec<Span> = self.iter().collect();
        while spans.len() > max.max(1) {
            let before = spans.len();
            let mut joined: Vec<Span> = Vec::with_capacity(before / 2 + 1);
            for pair in spans.chunks(2) {
                match pair {
                    [a, b] if a.volume == b.volume => {
                        joined.push(Span { length: b.offset + b.length - a.offset, ..*a });
                    }
                    _ => joined.extend_from_slice(pair),
                }
            }
            spans = joined;
            if spans.len() == before {
                break;
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offset: u64, length: u64) -> Span {
        Span { volume: VolumeIndex(0), offset, length }
    }

    #[test]
    fn ranges_merge_when_they_touch() {
        let mut set = SpanSet::default();
        for (offset, length) in [(10, 5), (30, 5), (15, 5), (50, 1), (0, 40)] {
            set.add(span(offset, length));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [span(0, 40), span(50, 1)]);
        assert_eq!(set.bounded(1), [span(0, 51)]);
    }

    #[test]
    fn settling_forgets_up_to_the_watermark_and_nothing_before_the_barrier() {
        let (old, new) = (Epoch { number: 1, tag: 1 }, Epoch { number: 2, tag: 1 });
        let mut unsettled = Unsettled::default();
        unsettled.add(old, 900, span(0, 1));
        unsettled.add(new, 2, span(10, 1));
        unsettled.add(new, 3, span(20, 1));
        unsettled.settle(new, 0);
        assert_eq!(unsettled.spans().iter().count(), 3);
        unsettled.settle(new, 1);
        assert_eq!(unsettled.spans().iter().collect::<Vec<_>>(), [span(10, 1), span(20, 1)]);
        unsettled.settle(new, 2);
        assert_eq!(unsettled.spans().iter().collect::<Vec<_>>(), [span(20, 1)]);
    }

    #[test]
    fn beyond_the_bound_extents_cover_what_is_remembered() {
        let epoch = Epoch { number: 1, tag: 1 };
        let mut unsettled = Unsettled::default();
        for write in 0..10_000u64 {
            unsettled.add(epoch, write + 2, span(write * 1_000_000 + 65_000, 2_000));
        }
        assert!(unsettled.exact.len() <= EXACT_MAX);
        let spans = unsettled.spans();
        for write in 0..10_000u64 {
            let (start, end) = (write * 1_000_000 + 65_000, write * 1_000_000 + 67_000);
            assert!(spans.iter().any(|span| span.offset <= start && span.offset + span.length >= end), "{write}");
        }
        unsettled.settle(epoch, 10_001);
        assert_eq!(unsettled.spans().iter().count(), 0);
    }
}
