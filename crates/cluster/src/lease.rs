//! The node's side of its session: until when it may act.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::String,
};
use tandem_base::{Duration, Instant, Rng, RunId, SessionId};

use crate::{
    Timings,
    leader::Answer,
    mutations::{self, Mutation},
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The instant that [`Holder::poll_timeout`] named has come; also the first input.
    TimedOut,
    /// The log took the session that [`Output::OpenSession`] asked for.
    SessionOpened {
        /// Which.
        session: SessionId,
    },
    /// The log refused it, or nobody could be asked.
    OpenFailed {
        /// Which.
        session: SessionId,
        /// Whether another id has to be drawn ([`Refusal::SessionOver`](crate::Refusal::SessionOver)).
        over: bool,
        /// In words.
        why: String,
    },
    /// The leader answered a renewal.
    RenewalAnswered {
        /// For which session.
        session: SessionId,
        /// Which renewal.
        renewal: u64,
        /// What.
        answer: Answer,
    },
    /// A renewal could not be delivered, or its answer did not come.
    RenewalFailed {
        /// Which.
        renewal: u64,
        /// In words.
        why: String,
    },
    /// This node has applied the log up to `index`, and has handed on what it says of the groups.
    Applied {
        /// Up to here.
        index: u64,
    },
}

/// Something the runtime must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Have [`Command::OpenSession`](crate::Command::OpenSession) committed, then give [`Input::SessionOpened`] or
    /// [`Input::OpenFailed`]. Repeated with the same id until then.
    OpenSession {
        /// Which.
        session: SessionId,
        /// This boot.
        run: RunId,
    },
    /// Send a renewal to the leader, directly or through a voter that reaches it.
    SendRenewal {
        /// Its number, rising.
        renewal: u64,
        /// For which session.
        session: SessionId,
        /// This boot.
        run: RunId,
    },
    /// The node may act until `until`; this node has applied the log up to the index that the grant named.
    Extended {
        /// First instant at which the lease is over.
        until: Instant,
        /// The log index that the grant named.
        index: u64,
    },
    /// The lease ended. Everything that must stop stops by itself on its own deadline; this is for the record.
    Lapsed {
        /// In words: what the last attempts met.
        why: String,
    },
}
