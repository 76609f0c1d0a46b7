//! Members that fall silent, fail, or run anew: how they leave.
//!
//! A member leaves in this order: it is required until the end, so nothing is acknowledged without it; what this replica
//! holds is made durable; the removal is proposed; only once a configuration without the member is *applied* is
//! anything acknowledged alone. If it comes back in the meantime, its acknowledgements count as before. If the register
//! cannot answer, this replica stands still.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use tandem_base::{Change, Epoch, Instant};

use crate::{DiskOp, DiskOutcome, Message, Replica, disk::Job};

use super::{Leaving, bits};

impl Replica {
    /// Lets idle followers know that somebody is there, and how far the commits are.
    pub(crate) fn heartbeats(&mut self) {
        let Some(primary) = &self.primary else { return };
        let (promotion, committed) = (primary.wire, primary.watermark());
        let heartbeat = self.config.heartbeat;
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            let silent = self.now.since(peer.heard) >= heartbeat;
            let Some(link) = &mut peer.link else { continue };
            let due = self.now.since(link.pinged.0) >= heartbeat && (silent || link.pinged.1 < committed);
            if due && link.following == Some(promotion) {
                link.pinged = (self.now, committed);
                self.send(index, Message::Ping { promotion, committed });
            }
        }
    }

    /// Since when something waits for `peer`.
    fn awaited(&self, peer: usize) -> Option<Instant> {
        let primary = self.primary.as_ref()?;
        let bit = 1u64 << peer;
        let missing = |entry: &&super::Entry| !entry.done && primary.required & entry.targets & !entry.held & bit != 0;
        let write = primary.entries.iter().find(missing).map(|entry| entry.arrived);
        let flush = primary.flushes.values().filter(|flush| flush.wants(primary.required) & !flush.held & bit != 0);
        let flush = flush.map(|flush| flush.since).min();
        [write, flush, self.promise_awaited(peer)].into_iter().flatten().min()
    }

    /// Why `peer` should leave, if it should.
    fn reason_to_leave(&self, peer: usize) -> Option<String> {
        let primary = self.primary.as_ref()?;
        let other = &self.peers[peer];
        let listed = self.register.applied().in_sync.get(&other.node).copied();
        let expected = listed.or(other.resync.as_ref().map(|resync| resync.open));
        let anew = other.open().is_some_and(|open| Some(open) != expected);
        if anew && !self.config.mutations.count_flush_from_old_open() {
            return Some("it was restarted, and its memory is gone".into());
        }
        if let Some((open, why)) = &other.failed
            && Some(*open) == expected
        {
            return Some(format!("its disk failed: {why}"));
        }
        let timeout = self.config.peer_timeout;
        let silent = self.now.since(other.heard.max(primary.since));
        if silent >= timeout * 3 {
            return Some(format!("silent for {}", silent.rounded()));
        }
        let awaited = self.awaited(peer)?;
        if silent >= timeout {
            return Some(format!("silent for {} while something waited for it", silent.rounded()));
        }
        // A takeover is somebody's downtime: a member that is there, but cannot promise, is not waited for any longer.
        if self.promise_awaited(peer).is_some_and(|since| self.now.since(since) >= timeout) {
            return Some(format!("it did not promise within {timeout}"));
        }
        let waited = self.now.since(awaited);
        (waited >= self.config.stall_timeout)
            .then(|| format!("it answers, but has stored nothing for {}", waited.rounded()))
    }

    /// Looks for members that should leave, and for joiners that do not get on.
    pub(crate) fn look_at_members(&mut self) {
        // A primary whose disk failed changes nothing any more: the members are better than itself.
        if self.primary.is_none() || self.failed.is_some() {
            return;
        }
        self.look_at_joiners();
        if self.undecided(|change| matches!(change, Change::Release | Change::Promote)) {
            return;
        }
        let (peers, why) = self.who_should_leave();
        let Some(primary) = &mut self.primary else { return };
        if let Some(leaving) = primary.leaving.as_mut().filter(|leaving| leaving.proposed) {
            // What is proposed stays possible; more may have to go with it.
            let all = leaving.peers | peers;
            if all != leaving.peers {
                leaving.peers = all;
                self.propose_shrink(all);
            }
            return;
        }
        match &mut primary.leaving {
            Some(leaving) if peers != 0 => leaving.peers = peers,
            Some(_) => primary.leaving = None,
            None if peers != 0 => {
                primary.leaving = Some(Leaving { peers, why, proposed: false });
                let promotion = primary.promotion;
                self.disk.start(Job::Shrink { promotion }, &mut self.outputs, |op| DiskOp::Sync { op });
            }
            None => {}
        }
    }

    fn who_should_leave(&self) -> (u64, String) {
        let growing = |peer: &usize| self.grows(*peer);
        let candidates = (0..self.peers.len()).filter(|peer| self.members() & (1 << peer) != 0 || growing(peer));
        let mut why = Vec::new();
        let mut mask = 0;
        for peer in candidates {
            if let Some(reason) = self.reason_to_leave(peer) {
                mask |= 1 << peer;
                why.push(format!("{}: {reason}", self.peers[peer].node));
            }
        }
        (mask, why.join("; "))
    }

    /// Whether the growth by this peer is undecided.
    pub(crate) fn grows(&self, peer: usize) -> bool {
        let joiner = &self.peers[peer].node;
        self.undecided(|change| matches!(change, Change::Grow { node, .. } if node == joiner))
    }

    fn propose_shrink(&mut self, peers: u64) {
        let names: BTreeSet<_> = bits(peers).map(|peer| self.peers[peer].node.clone()).collect();
        self.propose(Change::Shrink(names));
        self.require();
    }

    pub(crate) fn flushed_before_shrink(&mut self, promotion: Epoch, outcome: DiskOutcome) {
        if self.primary.as_ref().is_none_or(|primary| primary.promotion != promotion) {
            if let DiskOutcome::Failed(error) = outcome {
                self.fail(error);
            }
            return;
        }
        if let DiskOutcome::Failed(error) = outcome
            && !self.config.mutations.retry_failed_sync()
        {
            if let Some(primary) = &mut self.primary {
                primary.leaving = None;
                primary.sync_failed = Some(crate::secondary::words(&error));
            }
            self.local_refused(error);
            return;
        }
        let (peers, why) = self.who_should_leave();
        let Some(primary) = &mut self.primary else { return };
        if primary.leaving.as_ref().is_none_or(|leaving| leaving.proposed) {
            return;
        }
        primary.leaving = (peers != 0).then_some(Leaving { peers, why, proposed: true });
        if peers != 0 {
            self.propose_shrink(peers);
        }
    }

    /// Joiners whose growth is not proposed are simply given up.
    fn look_at_joiners(&mut self) {
        let timeout = self.config.peer_timeout;
        for peer in 0..self.peers.len() {
            let Some(resync) = &self.peers[peer].resync else { continue };
            if self.grows(peer) && !self.config.mutations.stop_waiting_on_unknown_grow() {
                continue;
            }
            let silent = self.now.since(self.peers[peer].heard);
            let awaited = self.awaited(peer);
            let chunk = resync.oldest_chunk();
            let blocks = awaited.is_some()
                || (chunk.is_some() && self.primary.as_ref().is_some_and(|primary| !primary.parked.is_empty()));
            let stalled =
                |since: Option<Instant>| since.is_some_and(|since| self.now.since(since) >= self.config.stall_timeout);
            if silent >= timeout * 3 || (blocks && silent >= timeout) || stalled(chunk) || stalled(awaited) {
                self.stall_resync(peer);
            }
        }
    }
}
