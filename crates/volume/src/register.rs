//! What the cluster's log says of the group, and what this replica has asked it to change.
//!
//! The rule of knowledge: a proposal is possible until a configuration with a higher epoch number is applied. Until then
//! the replica obeys every configuration that may come to be; a refusal or a silence teaches nothing.

use alloc::vec::Vec;
use tandem_base::{Change, Configuration, Epoch, Instant, NodeName, OpenId, Proposal};

/// The newest configuration, and the proposals that may yet follow it.
#[derive(Debug)]
pub(crate) struct Register {
    node: NodeName,
    open: OpenId,
    applied: Configuration,
    /// All made against `applied.epoch`.
    possible: Vec<Proposal>,
    /// When the last proposal was emitted.
    emitted: Instant,
}

impl Register {
    pub(crate) fn new(node: NodeName, open: OpenId) -> Self {
        Self { node, open, applied: Configuration::default(), possible: Vec::new(), emitted: Instant::ZERO }
    }

    /// The newest configuration that was shown.
    pub(crate) fn applied(&self) -> &Configuration {
        &self.applied
    }

    /// Proposals that may yet happen.
    pub(crate) fn possible(&self) -> &[Proposal] {
        &self.possible
    }

    /// Takes a configuration in and returns the one before; `None` when it is not news.
    pub(crate) fn apply(&mut self, configuration: Configuration) -> Option<Configuration> {
        let (new, old) = (configuration.epoch, self.applied.epoch);
        // Before the first promotion the log may fill in the members without an epoch of their own.
        let filled_in = new == old && configuration != self.applied;
        if new.number <= old.number && !filled_in {
            return None;
        }
        if !filled_in {
            self.possible.clear();
        }
        Some(core::mem::replace(&mut self.applied, configuration))
    }

    /// Makes a proposal against the newest configuration and returns it for emission.
    pub(crate) fn propose(&mut self, now: Instant, tag: u64, change: Change) -> Proposal {
        let proposal = Proposal { expected: self.applied.epoch, tag, node: self.node.clone(), open: self.open, change };
        self.possible.push(proposal.clone());
        self.emitted = now;
        proposal
    }

    /// The youngest undecided proposal, when it was not emitted for `retry`. It is the one that is still wanted: an
    /// older one is only possible.
    pub(crate) fn repeat(&mut self, now: Instant, retry: tandem_base::Duration) -> Option<Proposal> {
        if self.possible.is_empty() || now < self.emitted + retry {
            return None;
        }
        self.emitted = now;
        self.possible.last().cloned()
    }

    /// Whether the promotion `promotion` is over, by what was applied.
    pub(crate) fn is_over(&self, promotion: Epoch) -> bool {
        self.applied.epoch.number >= promotion.number
            && self.applied.primary.as_ref().is_none_or(|primary| primary.promotion != promotion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_base::Duration;

    #[test]
    fn a_proposal_stays_possible_until_a_higher_epoch() {
        let node = NodeName::new("r1").expect("a name");
        let mut register = Register::new(node.clone(), OpenId(7));
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let first = register.propose(at(0), 11, Change::Promote);
        let second = register.propose(at(0), 12, Change::Release);
        assert!(register.apply(Configuration::default()).is_none(), "the same epoch is no news");
        assert_eq!(register.possible().len(), 2);
        assert_eq!(register.repeat(at(199), Duration::from_millis(200)), None);
        assert_eq!(register.repeat(at(200), Duration::from_millis(200)), Some(second));
        let next = Configuration { epoch: first.result(), ..Configuration::default() };
        assert_eq!(register.apply(next), Some(Configuration::default()));
        assert!(register.possible().is_empty());
        assert!(register.apply(Configuration::default()).is_none(), "an older epoch is ignored");
    }
}
