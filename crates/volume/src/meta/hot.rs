//! Which extents are hot: recorded durably before the first write into them, until their data and stamps are durable.
//!
//! A write into an extent that is not hot waits for a record that lists it. There is room for so many. When it runs short,
//! some are taken out, and so are those that were not written for a while: a sync that began after their last write has ended, their
//! stamps are stored, and the next record does not list them. From the choice to that record, a write into such an extent
//! waits as if it were cold.

use alloc::{collections::BTreeMap, vec::Vec};
use tandem_base::Instant;

use super::Extent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next record lists it.
    Wanted,
    /// The record that is being stored lists it.
    Storing,
    /// A durable record lists it.
    Hot,
    /// It is about to be taken out.
    Leaving,
}

#[derive(Debug)]
struct Heat {
    state: State,
    /// Writes into it that the disk has.
    writing: u32,
    /// Writes that wait for it.
    waiting: u32,
    /// When its last write ended, on [`Hot::clock`].
    changed: u64,
    /// The same by the time of day.
    at: Instant,
    /// A crash left it unknown.
    unknown: bool,
}

/// The hot extents of a replica.
#[derive(Debug)]
pub(crate) struct Hot {
    room: usize,
    extents: BTreeMap<Extent, Heat>,
    /// Those of them that are unknown; they take no room.
    unknown: usize,
    now: Instant,
    /// Counts the ends of writes.
    clock: u64,
    /// Whatever ended up to here is durable.
    durable: u64,
    /// A durable record may list more than there are.
    stale: bool,
}

impl Hot {
    pub(crate) fn new(room: usize) -> Self {
        let (extents, now) = (BTreeMap::new(), Instant::ZERO);
        Self { room: room.max(1), extents, unknown: 0, now, clock: 0, durable: 0, stale: false }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    /// An extent that a crash left unknown; the durable record lists it.
    pub(crate) fn add_unknown(&mut self, extent: Extent) {
        let heat = Heat { state: State::Hot, writing: 0, waiting: 0, changed: 0, at: self.now, unknown: true };
        if self.extents.insert(extent, heat).is_none() {
            self.unknown += 1;
        }
    }

    /// The extents that a crash left unknown.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = Extent> + '_ {
        self.extents.iter().filter(|(_, heat)| heat.unknown).map(|(extent, _)| *extent)
    }

    /// What they hold is known now.
    pub(crate) fn all_known(&mut self) {
        self.unknown = 0;
        for heat in self.extents.values_mut() {
            heat.unknown = false;
        }
    }

    fn crowd(&self) -> usize {
        self.extents.len() - self.unknown
    }

    pub(crate) fn contains(&self, extent: Extent) -> bool {
        self.extents.contains_key(&extent)
    }

    /// Whether there are extents that could be taken out, sooner or later.
    pub(crate) fn may_cool(&self) -> bool {
        self.crowd() > 0
    }

    /// Whether a write may go to the disk now.
    pub(crate) fn are_hot(&self, extents: impl Iterator<Item = Extent>) -> bool {
        let hot = |extent| self.extents.get(&extent).is_some_and(|heat: &Heat| heat.state == State::Hot);
        { extents }.all(hot)
    }

    /// A write goes to the disk.
    pub(crate) fn begin(&mut self, extents: impl Iterator<Item = Extent>) {
        for extent in extents {
            if let Some(heat) = self.extents.get_mut(&extent) {
                heat.writing += 1;
            }
        }
    }

    /// A write has ended, well or not.
    pub(crate) fn end(&mut self, extents: impl Iterator<Item = Extent>) {
        self.clock += 1;
        for extent in extents {
            if let Some(heat) = self.extents.get_mut(&extent) {
                heat.writing = heat.writing.saturating_sub(1);
                (heat.changed, heat.at) = (self.clock, self.now);
            }
        }
    }

    /// Has the extents of a write that waits listed by the next record. False when there is no room, or one of them is on
    /// its way out: ask again once something was taken out.
    pub(crate) fn admit(&mut self, extents: &[Extent]) -> bool {
        let leaving = |extent: &Extent| self.extents.get(extent).is_some_and(|heat| heat.state == State::Leaving);
        let fresh = extents.iter().filter(|extent| !self.extents.contains_key(extent)).count();
        let fits = self.crowd() + fresh <= self.room || self.crowd() == 0;
        if extents.iter().any(leaving) || !fits {
            return false;
        }
        for extent in extents {
            let (state, changed, at) = (State::Wanted, self.clock, self.now);
            let heat = Heat { state, writing: 0, waiting: 0, changed, at, unknown: false };
            self.extents.entry(*extent).or_insert(heat).waiting += 1;
        }
        true
    }

    /// A write that was admitted waits no more.
    pub(crate) fn dismiss(&mut self, extents: &[Extent]) {
        for extent in extents {
            if let Some(heat) = self.extents.get_mut(extent) {
                heat.waiting = heat.waiting.saturating_sub(1);
            }
        }
    }

    /// Whether a record has to be stored.
    pub(crate) fn wants_record(&self) -> bool {
        self.stale || self.extents.values().any(|heat| heat.state == State::Wanted)
    }

    /// A record is about to be stored: what it lists.
    pub(crate) fn record(&mut self) -> Vec<Extent> {
        self.stale = false;
        for heat in self.extents.values_mut() {
            if heat.state == State::Wanted {
                heat.state = State::Storing;
            }
        }
        self.extents.keys().copied().collect()
    }

    /// It is durable.
    pub(crate) fn recorded(&mut self) {
        for heat in self.extents.values_mut() {
            if heat.state == State::Storing {
                heat.state = State::Hot;
            }
        }
    }

    /// It could not be stored: what only it would have listed is cold again, and nobody waits for it any more.
    pub(crate) fn not_recorded(&mut self) {
        self.extents.retain(|_, heat| !matches!(heat.state, State::Wanted | State::Storing));
        self.stale = true;
    }

    /// Whether a write waits for a record.
    pub(crate) fn is_awaited(&self) -> bool {
        self.extents.values().any(|heat| heat.state == State::Wanted && heat.waiting > 0)
    }

    /// What a sync that begins now makes durable.
    pub(crate) fn sync_begins(&self) -> u64 {
        self.clock
    }

    /// A sync has ended well that began at `clock`.
    pub(crate) fn synced(&mut self, clock: u64) {
        self.durable = self.durable.max(clock);
    }

    /// Whether room runs short.
    pub(crate) fn is_short(&self) -> bool {
        self.crowd() * 4 > self.room * 3
    }

    /// Whether a sync now would make more extents ready to be taken out, of those that were not written after `since`.
    pub(crate) fn sync_helps(&self, since: Instant) -> bool {
        self.extents.values().any(|heat| !heat.unknown && heat.at <= since && heat.changed > self.durable)
    }

    /// Chooses extents to be taken out: all that were not written after `since`, or half of the room, those first that were
    /// not written for longest. Unknown ones stay, and `unsynced` is a deliberate mistake.
    pub(crate) fn choose(&mut self, since: Option<Instant>, unsynced: bool) -> Vec<Extent> {
        let durable = self.durable;
        let ready = |(_, heat): &(&Extent, &Heat)| {
            let idle = heat.state == State::Hot && heat.writing == 0 && heat.waiting == 0;
            let old = since.is_none_or(|since| heat.at <= since);
            idle && old && (heat.changed <= durable || unsynced) && !heat.unknown
        };
        let mut chosen: Vec<(u64, Extent)> =
            self.extents.iter().filter(ready).map(|(extent, heat)| (heat.changed, *extent)).collect();
        chosen.sort_unstable();
        chosen.truncate(if since.is_some() { usize::MAX } else { self.room.div_ceil(2) });
        for (_, extent) in &chosen {
            if let Some(heat) = self.extents.get_mut(extent) {
                heat.state = State::Leaving;
            }
        }
        chosen.into_iter().map(|(_, extent)| extent).collect()
    }

    /// The stamps of what was chosen are durable.
    pub(crate) fn remove_chosen(&mut self) {
        let before = self.extents.len();
        self.extents.retain(|_, heat| heat.state != State::Leaving);
        self.stale |= self.extents.len() < before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VolumeIndex;

    fn extent(index: u32) -> Extent {
        Extent { volume: VolumeIndex(0), index }
    }

    fn store(hot: &mut Hot) -> Vec<Extent> {
        let listed = hot.record();
        hot.recorded();
        listed
    }

    #[test]
    fn a_write_waits_for_a_durable_record() {
        let mut hot = Hot::new(4);
        let both = [extent(1), extent(2)];
        assert!(!hot.are_hot(both.into_iter()));
        assert!(hot.admit(&both) && hot.wants_record());
        assert_eq!(hot.record(), both);
        assert!(!hot.are_hot(both.into_iter()), "it is not durable yet");
        hot.recorded();
        assert!(hot.are_hot(both.into_iter()) && !hot.wants_record());
    }

    #[test]
    fn what_is_taken_out_was_synced_after_its_last_write() {
        let mut hot = Hot::new(4);
        hot.admit(&[extent(1), extent(2)]);
        store(&mut hot);
        hot.dismiss(&[extent(1), extent(2)]);
        hot.begin([extent(1), extent(2)].into_iter());
        hot.end([extent(1)].into_iter());
        let sync = hot.sync_begins();
        hot.end([extent(2)].into_iter());
        assert!(hot.choose(Some(Instant::ZERO), false).is_empty(), "nothing is durable yet");
        hot.synced(sync);
        assert_eq!(hot.choose(Some(Instant::ZERO), false), [extent(1)]);
        assert!(!hot.are_hot([extent(1)].into_iter()), "a write waits now");
        assert!(!hot.admit(&[extent(1)]), "until it is out");
        hot.remove_chosen();
        assert!(hot.wants_record());
        assert!(hot.admit(&[extent(1)]));
        assert_eq!(store(&mut hot), [extent(1), extent(2)]);
    }

    #[test]
    fn room_is_bounded_and_what_is_unknown_stays() {
        let mut hot = Hot::new(2);
        hot.add_unknown(extent(8));
        assert!(hot.admit(&[extent(1)]));
        assert!(!hot.is_short() && hot.admit(&[extent(2)]) && hot.is_short() && !hot.admit(&[extent(3)]));
        store(&mut hot);
        hot.dismiss(&[extent(1)]);
        assert_eq!(hot.choose(Some(Instant::ZERO), false), [extent(1)]);
        hot.remove_chosen();
        assert!(hot.admit(&[extent(3)]));
        assert_eq!(hot.unknown().collect::<Vec<_>>(), [extent(8)]);
        hot.all_known();
        assert_eq!(hot.choose(Some(Instant::ZERO), false), [extent(8)]);
        let mut none = Hot::new(1);
        assert!(none.admit(&[extent(1), extent(2)]), "more than there is room for, but alone");
    }
}
