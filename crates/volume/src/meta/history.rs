//! Which promotions' content a replica holds, and how far.

use alloc::vec::Vec;
use tandem_base::Epoch;

/// Promotions that are remembered. A replica that was away for more of them is compared as a whole.
pub const CHAPTERS_MAX: usize = 128;

/// A promotion in a replica's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chapter {
    /// The epoch that made its primary.
    pub epoch: Epoch,
    /// The replica holds every write of the promotion up to this one, and its history goes on behind it.
    pub last: u64,
}

/// The promotions whose content a replica holds, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History(Vec<Chapter>);

impl History {
    pub(crate) fn new(chapters: Vec<Chapter>) -> Self {
        let mut history = Self(chapters);
        history.bound();
        history
    }

    pub(crate) fn chapters(&self) -> &[Chapter] {
        &self.0
    }

    /// The newest promotion in it.
    pub(crate) fn newest(&self) -> Option<Epoch> {
        self.0.last().map(|chapter| chapter.epoch)
    }

    /// This replica was promoted: what it holds is the content of `epoch` from now on.
    pub(crate) fn begin(&mut self, epoch: Epoch, last: u64) {
        if self.newest() != Some(epoch) {
            self.0.push(Chapter { epoch, last });
            self.bound();
        }
    }

    /// The newest promotion is held up to `last`.
    pub(crate) fn reach(&mut self, last: u64) {
        if let Some(newest) = self.0.last_mut() {
            newest.last = newest.last.max(last);
        }
    }

    /// The newest promotion is held no further than up to `last`, whoever told otherwise.
    pub(crate) fn cut(&mut self, last: u64) {
        if let Some(newest) = self.0.last_mut() {
            newest.last = newest.last.min(last);
        }
    }

    /// The fork point: everything up to this write is held by both, and is the same. `None` if nothing is known to be.
    pub(crate) fn fork(&self, theirs: &[Chapter]) -> Option<Chapter> {
        let ours = |chapter: &&Chapter| self.0.iter().find(|own| own.epoch == chapter.epoch).copied();
        let (their, own) = theirs.iter().rev().find_map(|chapter| ours(&chapter).map(|own| (chapter, own)))?;
        Some(Chapter { epoch: own.epoch, last: own.last.min(their.last) })
    }

    fn bound(&mut self) {
        let excess = self.0.len().saturating_sub(CHAPTERS_MAX);
        self.0.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn chapter(number: u64, last: u64) -> Chapter {
        Chapter { epoch: Epoch { number, tag: number }, last }
    }

    #[test]
    fn the_fork_point_is_the_newest_promotion_that_both_know() {
        let ours = History::new(vec![chapter(1, 100), chapter(3, 50), chapter(7, 9)]);
        assert_eq!(ours.fork(&[chapter(1, 80)]), Some(chapter(1, 80)));
        assert_eq!(ours.fork(&[chapter(1, 120), chapter(2, 5)]), Some(chapter(1, 100)), "theirs of 2 is a dead end");
        assert_eq!(ours.fork(&[chapter(1, 100), chapter(3, 60), chapter(5, 2)]), Some(chapter(3, 50)));
        assert_eq!(ours.fork(&[chapter(2, 5)]), None);
        assert_eq!(ours.fork(&[]), None);
        let other_tag = Chapter { epoch: Epoch { number: 3, tag: 4 }, last: 50 };
        assert_eq!(ours.fork(&[chapter(1, 90), other_tag]), Some(chapter(1, 90)));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let mut history = History::default();
        for number in 1..=CHAPTERS_MAX as u64 + 3 {
            history.begin(Epoch { number, tag: 0 }, 1);
            history.reach(10);
        }
        assert_eq!(history.chapters().len(), CHAPTERS_MAX);
        assert_eq!(history.chapters()[0], Chapter { epoch: Epoch { number: 4, tag: 0 }, last: 10 });
    }
}
