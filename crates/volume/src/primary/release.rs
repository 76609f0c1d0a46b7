//! Giving the promotion back: drain, flush everywhere, propose.
//!
//! A primary whose disk failed releases too: it flushes the other members, which hold every acknowledged write, and
//! stays listed until the next primary shuts it out (it answers every question with its failure, and never asks to be
//! promoted; its superblock says that this run is not to be trusted). So the volume goes on from the other replica
//! without a special change in the register.

use tandem_base::Change;

use crate::{Replica, disk::Job};

use super::Purpose;

impl Replica {
    pub(crate) fn begin_release(&mut self) {
        let Some(primary) = &mut self.primary else { return };
        if primary.releasing {
            return;
        }
        primary.releasing = true;
        for peer in 0..self.peers.len() {
            if self.peers[peer].resync.is_some() && !self.grows(peer) {
                self.drop_resync(peer);
            }
        }
    }

    pub(crate) fn advance_release(&mut self) {
        let failed = self.failed.is_some() && !self.is_alone();
        let Some(primary) = &self.primary else { return };
        // Another change that is undecided must be known first: it may add a member that has to flush.
        if !primary.releasing || !self.register.possible().is_empty() {
            return;
        }
        // Before the barrier nothing was served; what is unsettled stays so for the next primary.
        if primary.takeover.is_some() || primary.release_flushed {
            self.propose(Change::Release);
            return;
        }
        let reading = self.disk.jobs().any(|job| matches!(job, Job::Read { .. }));
        let busy = reading || primary.entries.iter().any(|entry| !entry.done);
        let flushing = primary.flushes.values().any(|flush| flush.purpose == Purpose::Release);
        if !flushing && (failed || !busy) {
            self.begin_flush(Purpose::Release);
        }
    }

    pub(crate) fn release_flushed(&mut self) {
        if let Some(primary) = &mut self.primary {
            primary.release_flushed = true;
        }
    }
}
