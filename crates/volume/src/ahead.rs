//! Syncing ahead of the flush.
//!
//! Whoever flushes waits for a round trip to every follower, after the one that its writes took: on a long line a commit
//! would cost two. A follower that was asked to flush lately therefore syncs by itself when it has stored what it
//! received, and says how far it is durable; the flush that comes next finds that its writes are durable there already.
//!
//! What it says is about writes, by their sequence number in the promotion that it follows. A sync begun when everything
//! received up to `n` was stored makes all of that durable, whatever is received while it runs. Content older than the
//! promotion was made durable by the takeover's flush, or by the joiner's before it became a member; the primary counts
//! only members.

use tandem_base::{Duration, Epoch};

use crate::{DiskOp, DiskOutcome, Message, Replica, disk::Job};

/// How long after a flush another one is expected.
const EXPECTED_WITHIN: Duration = Duration::from_secs(1);

impl Replica {
    /// A flush was asked for: more are expected.
    pub(crate) fn expect_flushes(&mut self) {
        self.follower.flush_expected_until = self.now + EXPECTED_WITHIN;
    }

    /// Begins a sync if a flush is expected and would find something to do.
    pub(crate) fn sync_ahead(&mut self) {
        let follower = &mut self.follower;
        let expected = follower.leader.is_some() && self.now < follower.flush_expected_until;
        let idle = follower.storing.is_empty() && !follower.syncing_ahead;
        if self.failed.is_some() || !expected || !idle || follower.durable >= follower.received {
            return;
        }
        follower.syncing_ahead = true;
        let job = Job::Ahead { promotion: self.promised, stored: follower.received };
        self.disk.start(job, &mut self.outputs, |op| DiskOp::Sync { op });
    }

    pub(crate) fn synced_ahead(&mut self, promotion: Epoch, stored: u64, outcome: DiskOutcome) {
        if let DiskOutcome::Failed(error) = outcome {
            if self.config.mutations.retry_failed_sync() {
                self.disk.start(Job::Ahead { promotion, stored }, &mut self.outputs, |op| DiskOp::Sync { op });
            } else {
                self.fail(error);
            }
            return;
        }
        // Of an earlier promotion: this follower has begun anew.
        if promotion != self.promised {
            return;
        }
        self.follower.syncing_ahead = false;
        let late = self.config.mutations.durable_as_of_the_end_of_a_sync();
        self.durable_up_to(if late { self.follower.received } else { stored });
        self.sync_ahead();
    }

    /// A sync has ended, and everything received up to write `stored` was stored when it began.
    pub(crate) fn durable_up_to(&mut self, stored: u64) {
        if stored <= self.follower.durable || self.failed.is_some() {
            return;
        }
        self.follower.durable = stored;
        if let Some((leader, _)) = self.follower.leader
            && self.follows(leader, self.promised)
        {
            self.send(leader, Message::Durable { promotion: self.promised, sequence: stored });
        }
    }

    /// Whether a member that follows has nothing to sync: all it received in this promotion is durable.
    pub(crate) fn is_durable_already(&self) -> bool {
        let follower = &self.follower;
        let listed = self.register.applied().is_member(&self.config.node, self.open);
        listed && follower.durable > 0 && follower.durable == follower.received && !self.suspect
    }
}
