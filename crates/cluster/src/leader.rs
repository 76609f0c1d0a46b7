//! The leader's side of sessions: who gets a lease, and whose is over.

use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    vec::Vec,
};
use serde::{Deserialize, Serialize};
use tandem_base::{Instant, NodeName, RunId, SessionId};

use crate::{
    LiveSession, Timings,
    mutations::{self, Mutation},
};

/// What the leader says to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The session was live in the state at `index`, confirmed by a quorum after the renewal arrived.
    Granted {
        /// The node acts on the lease only after it has applied the log up to here itself.
        index: u64,
    },
    /// This session is over for ever: the node opens a new one.
    SessionOver,
    /// Not now, or not here: send again.
    TryAgain {
        /// In words.
        why: String,
    },
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// This node became leader and has applied the log up to and including the first entry of its own term. These are
    /// the live sessions of that state ([`State::live_sessions`](crate::State::live_sessions)).
    BecameLeader {
        /// Every live session.
        sessions: Vec<LiveSession>,
    },
    /// This node is leader no more.
    LeadershipLost,
    /// Entries were applied; these are the live sessions of the state now. To be given after every entry that opens or
    /// expires a session; may be given after any.
    Applied {
        /// Every live session.
        sessions: Vec<LiveSession>,
    },
    /// A renewal arrived.
    RenewalReceived {
        /// From whom.
        node: NodeName,
        /// For which session.
        session: SessionId,
        /// The boot of the node.
        run: RunId,
        /// The node's own number of the renewal, rising.
        renewal: u64,
    },
    /// A quorum confirmed the leadership after [`Output::ConfirmLeadership`] asked for this round, and the state has
    /// since been applied up to the commit index read at the round's start.
    LeadershipConfirmed {
        /// Which.
        round: u64,
        /// Up to where the state was applied.
        index: u64,
        /// Every live session of that state.
        sessions: Vec<LiveSession>,
    },
    /// The round failed or took too long.
    LeadershipNotConfirmed {
        /// Which.
        round: u64,
        /// In words.
        why: String,
    },
    /// The instant that [`SessionTable::poll_timeout`] named has come.
    TimedOut,
}

/// Something the runtime must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask a quorum now, in a round that starts now (read-index, never a leader's lease), then apply up to what was
    /// committed, then give [`Input::LeadershipConfirmed`] or [`Input::LeadershipNotConfirmed`].
    ConfirmLeadership {
        /// Its name.
        round: u64,
    },
    /// Answer a renewal; lost answers need no care.
    Answer {
        /// To whom.
        node: NodeName,
        /// For which session.
        session: SessionId,
        /// Which renewal.
        renewal: u64,
        /// What.
        answer: Answer,
    },
    /// Append [`Command::ExpireSession`](crate::Command::ExpireSession). Repeated after a time while the session is
    /// still live in the state.
    AppendExpiry {
        /// Whose.
        node: NodeName,
        /// Which.
        session: SessionId,
        /// In words.
        why: String,
    },
}
