//! The replica as a state machine.

use alloc::{collections::VecDeque, vec::Vec};
use tandem_base::{Configuration, Instant, OpenId};

use crate::{
    Input, Output, ReplicaConfig, ReplicaStatus,
    status::{Counters, Role},
    superblock::Superblock,
};

/// One replica of a volume group.
///
/// Call [`handle`](Self::handle) once per event, then [`poll_output`](Self::poll_output) until it returns `None`, then
/// sleep until [`poll_timeout`](Self::poll_timeout) and hand in [`Input::TimedOut`].
#[derive(Debug)]
pub struct Replica {
    config: ReplicaConfig,
    open: OpenId,
    applied: Configuration,
    outputs: VecDeque<Output>,
}

impl Replica {
    /// Starts a run. `stored` is what the disk holds, checked with [`crate::superblock::check`]; `open` is random and
    /// new; `seed` feeds the tags of proposals.
    #[must_use]
    pub fn start(config: ReplicaConfig, _stored: Option<Superblock>, open: OpenId, _seed: u64, _now: Instant) -> Self {
        Self { config, open, applied: Configuration::default(), outputs: VecDeque::new() }
    }

    /// Feeds one event in. `now` must not go backwards.
    pub fn handle(&mut self, _now: Instant, _input: Input) {}

    /// The next thing to do, in order.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::TimedOut`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// What this replica says of itself at `now`.
    #[must_use]
    pub fn status(&self, _now: Instant) -> ReplicaStatus {
        let _ = &self.config;
        ReplicaStatus {
            role: Role::Starting,
            open: self.open,
            epoch: self.applied.epoch,
            promised: self.applied.epoch,
            primary: None,
            promotion: None,
            in_sync: Default::default(),
            member: false,
            peers: Vec::new(),
            frozen: None,
            disk_failed: None,
            proposed: None,
            waiting: 0,
            counters: Counters::default(),
        }
    }
}
