//! Deliberate faults, by which the simulator proves that it would see them.
//!
//! Without the feature `mutations` every question here is answered `false` at compile time.

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The leader answers a session's renewal although it has appended its expiry.
    RenewAfterExpiryAppended,
    /// The leader answers a renewal at once, without a quorum round that started after it arrived.
    LeaseReadInsteadOfQuorumRound,
    /// A replica becomes primary while the old primary's session is live.
    PromoteWithoutWaitingForSession,
    /// A superblock whose previous open is not the register's is believed.
    TrustSwappedDisk,
    /// A member that was opened again stays in sync beside others.
    KeepMemberWithNewOpen,
    /// A new leader takes every session's time for almost over.
    NewLeaderDoesNotWait,
    /// A node counts its lease from the answer, not from the sending.
    LeaseCountsFromAnswer,
    /// The leader expires a session after the bare lease, without drift and grace.
    ExpiryWithoutDriftAndGrace,
    /// A session that expired may be opened again.
    ReviveExpiredSession,
    /// A register is changed whatever epoch the proposer saw.
    IgnoreExpectedEpoch,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::RenewAfterExpiryAppended,
        Self::LeaseReadInsteadOfQuorumRound,
        Self::PromoteWithoutWaitingForSession,
        Self::TrustSwappedDisk,
        Self::KeepMemberWithNewOpen,
        Self::NewLeaderDoesNotWait,
        Self::LeaseCountsFromAnswer,
        Self::ExpiryWithoutDriftAndGrace,
        Self::ReviveExpiredSession,
        Self::IgnoreExpectedEpoch,
    ];

    /// The name on a command line: `renew-after-expiry-appended`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RenewAfterExpiryAppended => "renew-after-expiry-appended",
            Self::LeaseReadInsteadOfQuorumRound => "lease-read-instead-of-quorum-round",
            Self::PromoteWithoutWaitingForSession => "promote-without-waiting-for-session",
            Self::TrustSwappedDisk => "trust-swapped-disk",
            Self::KeepMemberWithNewOpen => "keep-member-with-new-open",
            Self::NewLeaderDoesNotWait => "new-leader-does-not-wait",
            Self::LeaseCountsFromAnswer => "lease-counts-from-answer",
            Self::ExpiryWithoutDriftAndGrace => "expiry-without-drift-and-grace",
            Self::ReviveExpiredSession => "revive-expired-session",
            Self::IgnoreExpectedEpoch => "ignore-expected-epoch",
        }
    }
}

#[cfg(feature = "mutations")]
mod switch {
    extern crate std;

    use core::cell::Cell;

    std::thread_local! {
        /// Each world of the simulator lives in one thread, and several worlds in one process.
        static ACTIVE: Cell<Option<super::Mutation>> = const { Cell::new(None) };
    }

    /// Breaks one rule in this whole thread, or none.
    pub fn set(mutation: Option<super::Mutation>) {
        ACTIVE.set(mutation);
    }

    pub(crate) fn active(mutation: super::Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub(crate) use switch::active;
#[cfg(feature = "mutations")]
pub use switch::set;

#[cfg(not(feature = "mutations"))]
pub(crate) const fn active(_: Mutation) -> bool {
    false
}
