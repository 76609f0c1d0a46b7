//! The order of overlapping operations: range locks, granted first come, first served.
//!
//! Two operations conflict when their ranges overlap and at least one of them is exclusive. An operation is granted once
//! every conflicting one that came before it is released, so overlapping writes reach the disk in the order in which
//! they came.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use crate::message::Span;

/// Names a holder of a lock, granted or waiting. The caller chooses, never twice at a time.
pub(crate) type Ticket = u64;

/// Whether others may hold an overlapping lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With other shared ones: reads.
    Shared,
    /// Alone: writes.
    Exclusive,
}

#[derive(Debug)]
struct Holder {
    span: Span,
    mode: Mode,
    /// Conflicting holders that came before and are not released yet.
    blockers: usize,
    /// Conflicting holders that came after.
    waiters: Vec<Ticket>,
}

/// Range locks over all volumes of a group.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    holders: BTreeMap<Ticket, Holder>,
    /// By size class (the bit length of the length), volume and first byte: a holder of class c that overlaps a range
    /// begins less than 2^c bytes before it, so a search looks at few others.
    by_start: BTreeSet<(u32, u16, u64, Ticket)>,
    /// Holders in each class.
    classes: BTreeMap<u32, usize>,
}

fn class(span: &Span) -> u32 {
    u64::BITS - span.length.leading_zeros()
}

impl RangeLocks {
    /// Queues for `span`, which must not be empty. True when it is granted at once.
    pub(crate) fn acquire(&mut self, ticket: Ticket, span: Span, mode: Mode) -> bool {
        let mut blockers = 0;
        let end = span.offset + span.length;
        for &class in self.classes.keys() {
            let reach = 1u64.checked_shl(class).unwrap_or(u64::MAX);
            let low = (class, span.volume.0, span.offset.saturating_sub(reach), 0);
            for (_, _, _, other) in self.by_start.range(low..(class, span.volume.0, end, 0)) {
                let holder = self.holders.get_mut(other).expect("both indexes hold the same tickets");
                let overlaps = holder.span.offset + holder.span.length > span.offset;
                if overlaps && (mode == Mode::Exclusive || holder.mode == Mode::Exclusive) {
                    holder.waiters.push(ticket);
                    blockers += 1;
                }
            }
        }
        self.by_start.insert((class(&span), span.volume.0, span.offset, ticket));
        *self.classes.entry(class(&span)).or_default() += 1;
        self.holders.insert(ticket, Holder { span, mode, blockers, waiters: Vec::new() });
        blockers == 0
    }

    /// Gives a lock back, or its place in the queue; `granted` gets those whose turn has come. Unknown tickets are
    /// ignored.
    pub(crate) fn release(&mut self, ticket: Ticket, granted: &mut Vec<Ticket>) {
        let Some(holder) = self.holders.remove(&ticket) else { return };
        let class = class(&holder.span);
        self.by_start.remove(&(class, holder.span.volume.0, holder.span.offset, ticket));
        let count = self.classes.get_mut(&class).expect("the holder was counted");
        *count -= 1;
        if *count == 0 {
            self.classes.remove(&class);
        }
        for waiter in holder.waiters {
            if let Some(waiting) = self.holders.get_mut(&waiter) {
                waiting.blockers -= 1;
                if waiting.blockers == 0 {
                    granted.push(waiter);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VolumeIndex;
    use proptest::prelude::*;

    /// The rule itself, by looking at everybody.
    #[derive(Default)]
    struct Oracle(Vec<(Ticket, Span, Mode)>);

    impl Oracle {
        fn granted(&self) -> BTreeSet<Ticket> {
            let conflict = |(_, a, x): &(Ticket, Span, Mode), (_, b, y): &(Ticket, Span, Mode)| {
                a.volume == b.volume
                    && a.offset < b.offset + b.length
                    && b.offset < a.offset + a.length
                    && (*x == Mode::Exclusive || *y == Mode::Exclusive)
            };
            let free = |at: &usize| !self.0[..*at].iter().any(|earlier| conflict(earlier, &self.0[*at]));
            (0..self.0.len()).filter(free).map(|at| self.0[at].0).collect()
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_oracle(steps in prop::collection::vec(
            (0..3u8, 0..2u16, 0..64u64, prop_oneof![1..4u64, 1..64u64], any::<bool>(), any::<prop::sample::Index>()), 1..200,
        )) {
            let (mut locks, mut oracle, mut granted) = (RangeLocks::default(), Oracle::default(), BTreeSet::new());
            for (ticket, (kind, volume, offset, length, shared, which)) in steps.into_iter().enumerate() {
                if kind > 0 || oracle.0.is_empty() {
                    let span = Span { volume: VolumeIndex(volume), offset, length };
                    let mode = if shared { Mode::Shared } else { Mode::Exclusive };
                    oracle.0.push((ticket as u64, span, mode));
                    if locks.acquire(ticket as u64, span, mode) {
                        granted.insert(ticket as u64);
                    }
                } else {
                    // Also a waiting one: a cancelled operation leaves the queue.
                    let (gone, ..) = oracle.0.remove(which.index(oracle.0.len()));
                    let mut news = Vec::new();
                    locks.release(gone, &mut news);
                    granted.remove(&gone);
                    for ticket in news {
                        prop_assert!(granted.insert(ticket), "granted twice");
                    }
                }
                prop_assert_eq!(&granted, &oracle.granted());
            }
        }
    }
}
