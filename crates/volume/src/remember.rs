//! Keeping what [`crate::meta`] describes: records and stamps on the disk, and the history as promotions come and go.

use alloc::{collections::BTreeSet, vec::Vec};
use tandem_base::{Duration, Epoch, Instant};

use crate::{
    DiskError, DiskOp, DiskOutcome, Message, Replica, ReplicaConfig,
    disk::Job,
    meta::{Activity, Chapter, Extent, ExtentStamps, History, Memory, Stamps},
    unsettled::SpanSet,
    wire::SPANS_MAX,
};

/// How long after a try that took nothing out the next one follows, while nobody waits for it.
const RETIRE_AGAIN: Duration = Duration::from_millis(500);

/// What a replica remembers of its content.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) stamps: Stamps,
    history: History,
    /// The promotion whose content this replica holds without a gap and goes on to hold: the newest of the history, if
    /// that goes on.
    settled: Option<Epoch>,
    /// Nothing is known of any extent.
    all_unknown: bool,
    /// Of the record.
    sequence: u64,
    storing: bool,
    /// Something besides the hot extents has changed since the last record.
    changed: bool,
    /// No record is stored before this, unless a write waits for it.
    record_after: Instant,
    retiring: bool,
    retire_after: Instant,
    /// Which ones are being taken out: those that were not written after this, or, for room, the oldest.
    retire_since: Option<Instant>,
    /// When the extents are looked at next that nobody writes to any more.
    cool_at: Instant,
    /// What follows once all stamps are durable.
    then: Option<Then>,
    persisting: bool,
    /// The sequence of the last durable record.
    stored: u64,
    /// A primary waits to hear that a promotion was adopted: once the record of this sequence is durable.
    confirm: Option<(Epoch, u64)>,
}

/// What follows once all stamps are durable.
#[derive(Debug)]
enum Then {
    /// This replica holds the content of the promotion, and has this history.
    Adopt(Epoch, Vec<Chapter>),
    /// What a crash left unknown is stamped as this replica's own.
    Restamped,
}

/// What is still to be stored when a run ends in order, once every operation has ended and the images are durable.
#[derive(Debug, Clone)]
pub struct LastWords {
    /// First the stamps,
    pub stamps: Vec<(Extent, ExtentStamps)>,
    /// then the record.
    pub activity: Activity,
}

impl Remembered {
    /// What an earlier run left, and the extents of which nothing is known. `used`: there was one; `suspect`: its disk
    /// failed.
    pub(crate) fn load(config: &ReplicaConfig, memory: Memory, used: bool, suspect: bool) -> (Self, BTreeSet<Extent>) {
        let mut stamps = Stamps::new(config.grain, &config.volumes);
        let activity = memory.activity.filter(|activity| activity.grain == config.grain);
        let sequence = activity.as_ref().map_or(0, |activity| activity.sequence);
        let known = activity.as_ref().is_some_and(|activity| !activity.unknown) && !suspect;
        let mut unknown = BTreeSet::new();
        for (extent, stored) in memory.stamps {
            match stored {
                Some(stored) => stamps.load(extent, stored),
                None => {
                    unknown.insert(extent);
                }
            }
        }
        let (history, hot) = activity.map(|activity| (activity.history, activity.hot)).unwrap_or_default();
        unknown.extend(hot);
        let remembered = Self {
            stamps,
            history: History::new(if known { history } else { Vec::new() }),
            settled: None,
            all_unknown: used && !known,
            sequence,
            storing: false,
            // A disk that was never used has no record yet.
            changed: true,
            record_after: Instant::ZERO,
            retiring: false,
            retire_after: Instant::ZERO,
            retire_since: None,
            cool_at: Instant::ZERO,
            then: None,
            persisting: false,
            stored: sequence,
            confirm: None,
        };
        (remembered, unknown)
    }
}

impl Replica {
    /// Every write of the promotion that this replica follows or leads is stored here, up to this one.
    fn held(&self) -> u64 {
        match &self.primary {
            Some(primary) => primary.held(),
            None => self.follower.held(),
        }
    }

    /// Brings the newest chapter of the history up to date.
    pub(crate) fn reach(&mut self) {
        if self.remembered.settled == Some(self.promised) && self.history_goes_on() {
            let held = self.held();
            self.remembered.history.reach(held);
        }
    }

    fn history_goes_on(&self) -> bool {
        self.remembered.history.newest() == self.remembered.settled
    }

    /// This replica follows another promotion from now on, or its own has ended: what it holds of it goes no further.
    pub(crate) fn close_chapter(&mut self) {
        self.reach();
        self.remembered.settled = None;
        self.remembered.then = None;
        self.remembered.confirm = None;
    }

    /// This replica was promoted: its content is the promotion's. Nobody else holds what a crash left unknown here, since
    /// it is the last copy then: that counts as written by this promotion.
    pub(crate) fn begin_chapter(&mut self, promotion: Epoch) {
        let remembered = &mut self.remembered;
        remembered.history.begin(promotion, 1);
        remembered.settled = Some(promotion);
        remembered.changed = true;
        if self.config.mutations.forget_unknown_at_source() {
            self.disk.hot.all_known();
            remembered.all_unknown = false;
            return;
        }
        let sizes = |extent: &Extent| self.config.volumes.get(usize::from(extent.volume.0)).map(|volume| volume.size);
        for extent in self.disk.hot.unknown() {
            if let Some(size) = sizes(&extent) {
                let span = self.config.grain.span(extent, size);
                remembered.stamps.raise(&span, promotion, 1);
            }
        }
        self.disk.hot.all_known();
        if remembered.all_unknown {
            let whole: Vec<_> = remembered.stamps.whole().collect();
            for span in whole {
                remembered.stamps.raise(&span, promotion, 1);
            }
            remembered.then = Some(Then::Restamped);
        }
    }

    /// What a primary is told of this replica's content.
    pub(crate) fn history(&mut self) -> Vec<Chapter> {
        self.reach();
        if self.remembered.all_unknown { Vec::new() } else { self.remembered.history.chapters().to_vec() }
    }

    /// Up to where this replica and one with this history hold the same.
    pub(crate) fn fork(&mut self, theirs: &[Chapter]) -> Option<Chapter> {
        self.reach();
        self.remembered.history.fork(theirs)
    }

    /// A resync of this replica begins.
    pub(crate) fn fork_told(&mut self, peer: usize, promotion: Epoch, after: Option<Chapter>) {
        if !self.follows(peer, promotion) {
            self.send(peer, Message::NotYours { promised: self.promised });
            return;
        }
        if self.failed.is_some() {
            return;
        }
        self.reach();
        if !self.config.mutations.advance_history_in_resync() {
            self.remembered.settled = None;
            self.remembered.then = None;
            self.remembered.confirm = None;
        }
        let mut changed = SpanSet::default();
        let remembered = &self.remembered;
        if remembered.all_unknown {
            remembered.stamps.whole().for_each(|span| changed.add(span));
        } else {
            if !self.config.mutations.ignore_targets_stamps() {
                remembered.stamps.after(after).for_each(|span| changed.add(span));
            }
            for extent in self.disk.hot.unknown() {
                let size = self.config.volumes.get(usize::from(extent.volume.0)).map_or(0, |volume| volume.size);
                let span = self.config.grain.span(extent, size);
                if span.length > 0 && !self.config.mutations.forget_unknown_at_target() {
                    changed.add(span);
                }
            }
        }
        let spans: Vec<_> = changed.iter().collect();
        let mut batches = spans.chunks(SPANS_MAX).peekable();
        if batches.peek().is_none() {
            self.send(peer, Message::Changed { promotion, spans: Vec::new(), last: true });
        }
        while let Some(batch) = batches.next() {
            let (spans, last) = (batch.to_vec(), batches.peek().is_none());
            self.send(peer, Message::Changed { promotion, spans, last });
        }
    }

    /// This replica holds everything of the promotion that it follows. That is written down once the stamps of all that it
    /// was sent, or was found to hold, are durable.
    pub(crate) fn settled_told(&mut self, peer: usize, promotion: Epoch, history: Vec<Chapter>) {
        if !self.follows(peer, promotion) || self.failed.is_some() {
            return;
        }
        if history.last().is_none_or(|newest| newest.epoch != promotion) {
            self.refuse(peer, alloc::format!("a history that does not end with {promotion}"));
            return;
        }
        if self.remembered.settled != Some(promotion) {
            self.remembered.then = Some(Then::Adopt(promotion, history));
        }
    }

    /// When time alone brings something about here.
    pub(crate) fn memory_due(&self) -> Option<Instant> {
        self.cooling_due().into_iter().chain(self.record_due()).min()
    }

    /// When the extents that nobody writes to any more should cool down.
    fn cooling_due(&self) -> Option<Instant> {
        let cools = self.failed.is_none() && !self.remembered.retiring && self.disk.hot.may_cool();
        cools.then(|| self.remembered.cool_at.max(self.remembered.retire_after))
    }

    /// Stores what is to be stored, and makes room.
    pub(crate) fn advance_memory(&mut self) {
        if self.disk.refuses() {
            self.refuse_cold(&DiskError::Io("the disk failed: what is about to be written cannot be recorded".into()));
        }
        if self.failed.is_some() || !self.opened {
            return;
        }
        self.retire();
        self.persist();
        if self.record_due().is_some_and(|due| self.now >= due) {
            self.store_activity();
        }
        self.confirm();
    }

    /// Fails the writes that wait for their extents to become hot.
    fn refuse_cold(&mut self, error: &DiskError) {
        for op in self.disk.refuse() {
            self.disk_completed(op, DiskOutcome::Failed(error.clone()));
        }
    }

    /// When the record should be stored, if it should.
    fn record_due(&self) -> Option<Instant> {
        let due = self.remembered.changed || self.disk.hot.wants_record();
        let free = self.opened && self.failed.is_none() && !self.remembered.storing;
        (due && free).then(|| if self.disk.hot.is_awaited() { self.now } else { self.remembered.record_after })
    }

    /// Tells the primary that its promotion was adopted, once that is durable.
    fn confirm(&mut self) {
        let Some((promotion, record)) = self.remembered.confirm else { return };
        if self.remembered.stored < record || self.is_storing() {
            return;
        }
        self.remembered.confirm = None;
        if let Some((leader, _)) = self.follower.leader
            && self.follows(leader, promotion)
        {
            self.send(leader, Message::Adopted { promotion });
        }
    }

    fn store_activity(&mut self) {
        self.reach();
        self.remembered.sequence += 1;
        self.remembered.storing = true;
        self.remembered.changed = false;
        let activity = self.activity();
        self.disk.start(Job::Activity, &mut self.outputs, |op| DiskOp::StoreActivity { op, activity });
    }

    fn activity(&mut self) -> Activity {
        let mut hot = self.disk.hot.record();
        let unknown = self.remembered.all_unknown || hot.len() > crate::meta::activity::HOT_MAX;
        hot.truncate(crate::meta::activity::HOT_MAX);
        Activity {
            grain: self.config.grain,
            sequence: self.remembered.sequence,
            history: self.remembered.history.chapters().to_vec(),
            hot,
            unknown,
        }
    }

    pub(crate) fn activity_stored(&mut self, outcome: DiskOutcome) {
        self.remembered.storing = false;
        let sequence = self.remembered.sequence;
        if let DiskOutcome::Failed(error) = outcome {
            if !self.is_last() {
                self.fail(error);
                return;
            }
            // The next one is stored in the other place, whole: unlike a sync it may be tried again.
            self.refuse_cold(&error);
            self.disk.hot.not_recorded();
            self.remembered.changed = true;
            self.remembered.record_after = self.now + RETIRE_AGAIN;
            self.local_refused(error);
            return;
        }
        self.remembered.stored = sequence;
        self.disk.hot.recorded();
        self.disk.issue_hot(&mut self.outputs);
        self.disk.admit();
    }

    /// Takes extents out of the hot ones, when room runs short or nothing is written.
    fn retire(&mut self) {
        let remembered = &self.remembered;
        let short = self.disk.is_crowded() || self.disk.hot.is_short();
        let idle = self.cooling_due().is_some_and(|due| self.now >= due);
        let soon = !self.disk.is_crowded() && self.now < remembered.retire_after;
        if remembered.retiring || !(short || idle) || soon {
            return;
        }
        let since = Instant::from_nanos(self.now.as_nanos().saturating_sub(self.config.hot_idle.as_nanos()));
        self.remembered.retiring = true;
        self.remembered.retire_since = (!short).then_some(since);
        self.remembered.retire_after = self.now + RETIRE_AGAIN;
        self.remembered.cool_at = self.now + Duration::from_nanos(self.config.hot_idle.as_nanos() / 2);
        if self.disk.hot.sync_helps(if short { self.now } else { since }) && !self.config.mutations.retire_before_sync()
        {
            self.disk.start(Job::Retire, &mut self.outputs, |op| DiskOp::Sync { op });
        } else {
            self.retire_chosen();
        }
    }

    pub(crate) fn synced_for_retirement(&mut self, outcome: DiskOutcome) {
        match outcome {
            DiskOutcome::Failed(error) if self.config.mutations.retry_failed_sync() => {
                let _ = error;
                self.disk.start(Job::Retire, &mut self.outputs, |op| DiskOp::Sync { op });
            }
            DiskOutcome::Failed(error) => self.memory_failed(error),
            _ => self.retire_chosen(),
        }
    }

    fn retire_chosen(&mut self) {
        let unsynced = self.config.mutations.retire_before_sync();
        let chosen = self.disk.hot.choose(self.remembered.retire_since, unsynced);
        let dirty: Vec<_> =
            chosen.into_iter().filter(|extent| self.remembered.stamps.dirty().contains(extent)).collect();
        if dirty.is_empty() || self.config.mutations.retire_before_stamps() {
            self.retired();
            return;
        }
        let stamps = self.remembered.stamps.take(dirty.into_iter());
        self.disk.start(Job::RetiredStamps, &mut self.outputs, |op| DiskOp::StoreStamps { op, stamps });
    }

    fn retired(&mut self) {
        self.remembered.retiring = false;
        self.disk.hot.remove_chosen();
        self.disk.admit();
    }

    pub(crate) fn stamps_stored(&mut self, outcome: DiskOutcome) {
        match outcome {
            DiskOutcome::Failed(error) => self.memory_failed(error),
            _ => self.retired(),
        }
    }

    /// Stores the stamps of extents that are not hot, where something waits for that.
    fn persist(&mut self) {
        if self.remembered.then.is_none() || self.remembered.persisting {
            return;
        }
        let cold: Vec<Extent> =
            self.remembered.stamps.dirty().iter().copied().filter(|extent| !self.disk.hot.contains(*extent)).collect();
        if cold.is_empty() {
            self.persisted();
            return;
        }
        self.remembered.persisting = true;
        let stamps = self.remembered.stamps.take(cold.into_iter());
        self.disk.start(Job::AllStamps, &mut self.outputs, |op| DiskOp::StoreStamps { op, stamps });
    }

    pub(crate) fn all_stamps_stored(&mut self, outcome: DiskOutcome) {
        self.remembered.persisting = false;
        // Others may have become dirty meanwhile: that is looked at again.
        if let DiskOutcome::Failed(error) = outcome {
            self.memory_failed(error);
        }
    }

    fn persisted(&mut self) {
        match self.remembered.then.take() {
            Some(Then::Adopt(promotion, history)) if promotion == self.promised && self.primary.is_none() => {
                self.remembered.history = History::new(history);
                self.remembered.settled = Some(promotion);
                self.disk.hot.all_known();
                self.remembered.all_unknown = false;
                self.remembered.changed = true;
                // The primary's last write is not this replica's.
                let held = self.follower.held();
                self.remembered.history.cut(held);
                self.remembered.confirm = Some((promotion, self.remembered.sequence + 1));
                if core::mem::take(&mut self.suspect) {
                    // All of it was written again and has reached the disk: it is good again. That must be durable before
                    // the register can learn of a new member.
                    self.store_superblock();
                }
            }
            Some(Then::Restamped) => {
                self.remembered.all_unknown = false;
                self.remembered.changed = true;
            }
            Some(Then::Adopt(..)) | None => {}
        }
    }

    /// Whether this replica serves, and nobody else could.
    fn is_last(&self) -> bool {
        self.primary.is_some() && self.is_alone()
    }

    /// Nothing can be taken out of the hot extents any more. Alone there is nowhere to go to: whatever is hot can be
    /// written to, and what is not fails.
    fn memory_failed(&mut self, error: DiskError) {
        self.disk.close();
        if self.is_last() {
            if let Some(primary) = &mut self.primary {
                primary.sync_failed.get_or_insert(crate::secondary::words(&error));
            }
            self.local_refused(error);
        } else {
            self.fail(error);
        }
    }

    /// What a run that ends in order still has to store; `None` if nothing it could say would be true. Call it when every
    /// operation has ended, and store it once the images are durable.
    #[must_use]
    pub fn last_words(&mut self) -> Option<LastWords> {
        let unsound = self.primary.as_ref().is_some_and(|primary| primary.sync_failed.is_some());
        if self.failed.is_some() || !self.opened || unsound {
            return None;
        }
        self.reach();
        let dirty: Vec<Extent> = self.remembered.stamps.dirty().iter().copied().collect();
        let stamps = self.remembered.stamps.take(dirty.into_iter());
        self.remembered.sequence += 1;
        let hot: Vec<Extent> = self.disk.hot.unknown().collect();
        let activity = Activity { hot, ..self.activity() };
        Some(LastWords { stamps, activity })
    }
}
