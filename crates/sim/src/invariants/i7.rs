//! I7: while a majority with an in-sync replica is connected, the service is up within a bounded time.
//!
//! Reason: it is what the second site is for. The condition must hold without a break for the whole bound, on one and
//! the same set of nodes; a committed shrink that excludes the survivor breaks it, since then no in-sync replica is
//! left in the majority. Up means that a request is answered.

use crate::{
    invariants::Violation,
    queue::{MS, Time},
};

/// Expiry of the old session, an election with a split vote, the new primary's own start and barrier, and one more
/// expiry for a session that was opened just before; measured over seeds, then doubled.
pub(crate) const BOUND: Time = 20_000 * MS;

/// Watches the condition.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    good_since: Option<Time>,
}

impl Watch {
    /// The condition is `good` or not from `now` on; a change of the set of nodes counts as a break.
    pub(crate) fn condition(&mut self, now: Time, good: bool) {
        self.good_since = good.then(|| self.good_since.unwrap_or(now));
    }

    /// A break, however short.
    pub(crate) fn broken(&mut self) {
        self.good_since = None;
    }

    /// Judges at `now`, when the last answer came at `answered`.
    pub(crate) fn check(&self, now: Time, answered: Time, why: impl FnOnce() -> String) -> Result<(), Violation> {
        let Some(since) = self.good_since else { return Ok(()) };
        if now < since.max(answered) + BOUND {
            return Ok(());
        }
        let silent = (now - since.max(answered)) / MS;
        Err(Violation::new("I7", format!("no answer for {silent} ms although a majority is connected: {}", why())))
    }
}
