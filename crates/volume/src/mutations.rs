//! Deliberate mistakes, each the opposite of one rule, with which the simulator proves that it would notice them.
//!
//! Without the feature `mutations` every question below is a constant `false` and the mistake is compiled out.

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Which mistakes to make; by default none.
        #[cfg(feature = "mutations")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Mutations {
            $($(#[$doc])* pub $name: bool,)*
        }

        /// No mistakes can be made: the feature `mutations` is off.
        #[cfg(not(feature = "mutations"))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Mutations;

        #[cfg(feature = "mutations")]
        impl Mutations {
            /// No mistake.
            pub const NONE: Self = Self { $($name: false),* };

            $(pub(crate) const fn $name(&self) -> bool { self.$name })*

            /// Every mistake, with its name, one at a time.
            #[must_use]
            pub fn each() -> alloc::vec::Vec<(&'static str, Self)> {
                alloc::vec![$((stringify!($name), Self { $name: true, ..Self::default() })),*]
            }
        }

        #[cfg(not(feature = "mutations"))]
        impl Mutations {
            /// No mistake.
            pub const NONE: Self = Self;

            $(pub(crate) const fn $name(&self) -> bool { false })*
        }
    };
}

mutations! {
    /// A silent member stops being required when its removal is proposed, not when it is committed.
    ack_before_shrink_commit,
    /// A failed sync is tried again and believed, although the pages that failed may look clean.
    retry_failed_sync,
    /// The lease is checked when a request arrives instead of when its reply leaves.
    lease_checked_before_io,
    /// A new primary serves without reconciling what it and the members hold unsettled.
    skip_takeover_barrier,
    /// A secondary believes any write with a fresh sequence number, whatever its epoch.
    order_by_seq_without_epoch,
    /// A primary that is promoted again goes on in its earlier epoch instead of the new one.
    same_epoch_after_restart,
    /// Answers of a peer's new run count for what its earlier run held.
    count_flush_from_old_open,
    /// A joiner is proposed before it has stored and flushed everything up to the barrier.
    grow_before_joiner_flush,
    /// A joiner that falls silent stops being required although its growth may yet be committed.
    stop_waiting_on_unknown_grow,
    /// Held replies leave once this replica is primary again, even by another promotion.
    thaw_by_role,
    /// A read does not wait for the commit of an overlapping write.
    read_uncommitted,
    /// A follower says after a sync that everything is durable that it has received by then, instead of by its begin.
    durable_as_of_the_end_of_a_sync,
    /// A write goes to an extent that no durable record lists as hot.
    write_before_hot,
    /// Extents are taken out of the hot ones without a sync after their last write.
    retire_before_sync,
    /// Extents are taken out of the hot ones before their stamps are durable.
    retire_before_stamps,
    /// A joiner tells nothing of what it wrote itself after the fork point.
    ignore_targets_stamps,
    /// A joiner tells nothing of what a crash left unknown.
    forget_unknown_at_target,
    /// The last copy is promoted after a crash as if its stamps were all that it wrote.
    forget_unknown_at_source,
    /// A joiner goes on with its history while it is brought in sync.
    advance_history_in_resync,
    /// A follower takes the primary's history over as soon as it promised to follow.
    adopt_history_at_promise,
    /// A joiner does not stamp what it is found to hold already.
    no_stamps_for_equals,
    /// Overlapping writes go to the disk in any order.
    ignore_overlap_order,
}
