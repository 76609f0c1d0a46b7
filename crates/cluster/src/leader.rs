//! The leader's side of sessions: who gets a lease, and whose is over.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    string::String,
    vec::Vec,
};
use serde::{Deserialize, Serialize};
use tandem_base::{Duration, Instant, NodeName, RunId, SessionId};

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
        /// Up to where the state was applied.
        index: u64,
        /// Every live session.
        sessions: Vec<LiveSession>,
    },
    /// This node is leader no more.
    LeadershipLost,
    /// Entries were applied; these are the live sessions of the state now. To be given after every entry that opens or
    /// expires a session; may be given after any.
    Applied {
        /// Up to where the state was applied.
        index: u64,
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
    /// Append [`Command::ExpireSession`](crate::Command::ExpireSession) to this leader's own log, in this term or never:
    /// it must not be relayed, nor tried again by the runtime, since a later leader may have granted the session another
    /// lease. The table repeats it by itself while it leads and the session is still live in the state.
    AppendExpiry {
        /// Whose.
        node: NodeName,
        /// Which.
        session: SessionId,
        /// In words.
        why: String,
    },
}

/// How long the leader waits before it appends an expiry again that the state does not show.
const APPEND_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Known {
    session: SessionId,
    run: RunId,
    /// When the node's lease is over for sure.
    deadline: Instant,
}

#[derive(Debug, Clone)]
struct Renewal {
    node: NodeName,
    session: SessionId,
    renewal: u64,
}

/// The sessions, as the leader of the consensus sees them.
///
/// Call [`handle`](Self::handle) once per event, then [`poll_output`](Self::poll_output) until it returns `None`, then
/// sleep until [`poll_timeout`](Self::poll_timeout). `now` is this node's boot-time clock and must not go backwards.
/// Feed it on every node: only one that was told [`Input::BecameLeader`] grants or expires anything.
///
/// A renewal is answered only after a quorum round that started after it arrived: one round is in flight, and what
/// arrives meanwhile waits together for the next.
#[derive(Debug)]
pub struct SessionTable {
    timings: Timings,
    leading: bool,
    sessions: BTreeMap<NodeName, Known>,
    /// The state that `sessions` was last taken from: an older one, read before and delivered late, changes nothing.
    index: u64,
    /// Sessions whose expiry was appended here: from then on the answer is no, whatever comes.
    expiring: BTreeSet<(NodeName, SessionId)>,
    round: u64,
    in_flight: Vec<Renewal>,
    waiting: Vec<Renewal>,
    outputs: VecDeque<Output>,
}

impl SessionTable {
    /// A table of a node that does not lead.
    #[must_use]
    pub fn new(timings: Timings) -> Self {
        Self {
            timings,
            leading: false,
            sessions: BTreeMap::new(),
            index: 0,
            expiring: BTreeSet::new(),
            round: 0,
            in_flight: Vec::new(),
            waiting: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Other times hold: a plan was adopted. A session's time never gets shorter by it.
    pub fn set_timings(&mut self, timings: Timings) {
        self.timings = timings;
    }

    /// Whether this node leads, as far as the table was told.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    fn expiry(&self) -> Duration {
        if mutations::active(Mutation::ExpiryWithoutDriftAndGrace) { self.timings.lease } else { self.timings.expiry() }
    }

    /// Feeds one event in.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::BecameLeader { index, sessions } => {
                self.step_down("another term began");
                self.leading = true;
                // The leader before may have granted a lease just before it fell silent.
                let hasty = mutations::active(Mutation::NewLeaderDoesNotWait);
                self.learn(if hasty { now - self.expiry() } else { now }, index, &sessions);
            }
            Input::LeadershipLost => self.step_down("this node is not the leader any more"),
            Input::Applied { index, sessions } => {
                if self.leading {
                    self.learn(now, index, &sessions);
                }
            }
            Input::RenewalReceived { node, session, run, renewal } => self.renew(now, node, session, run, renewal),
            Input::LeadershipConfirmed { round, index, sessions } => {
                if self.leading && round == self.round {
                    self.learn(now, index, &sessions);
                    for renewal in core::mem::take(&mut self.in_flight) {
                        let live = self.sessions.get(&renewal.node).is_some_and(|it| it.session == renewal.session);
                        let granted = live && self.may_renew(&renewal.node, renewal.session);
                        self.answer(renewal, if granted { Answer::Granted { index } } else { Answer::SessionOver });
                    }
                    self.next_round();
                }
            }
            Input::LeadershipNotConfirmed { round, why } => {
                if self.leading && round == self.round {
                    for renewal in core::mem::take(&mut self.in_flight) {
                        self.answer(renewal, Answer::TryAgain { why: why.clone() });
                    }
                    self.next_round();
                }
            }
            Input::TimedOut => {}
        }
        if self.leading {
            self.expire(now);
        }
    }

    /// The next thing to do; `None` when all is said.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle`](Self::handle) with [`Input::TimedOut`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sessions.values().map(|known| known.deadline).min()
    }

    fn step_down(&mut self, why: &str) {
        self.leading = false;
        self.sessions.clear();
        self.index = 0;
        // A confirmation of a round of the past must not count for a later term.
        self.round += 1;
        for renewal in core::mem::take(&mut self.in_flight).into_iter().chain(core::mem::take(&mut self.waiting)) {
            self.answer(renewal, Answer::TryAgain { why: why.into() });
        }
    }

    /// Takes over what the state says; a session not seen before gets its full time from `now`.
    fn learn(&mut self, now: Instant, index: u64, live: &[LiveSession]) {
        if index < self.index {
            return;
        }
        self.index = index;
        let deadline = now + self.expiry();
        let before = core::mem::take(&mut self.sessions);
        for LiveSession { node, session, run } in live {
            let known = match before.get(node).filter(|known| known.session == *session) {
                Some(known) => known.clone(),
                None => Known { session: *session, run: *run, deadline },
            };
            self.sessions.insert(node.clone(), known);
        }
    }

    fn renew(&mut self, now: Instant, node: NodeName, session: SessionId, run: RunId, number: u64) {
        let renewal = Renewal { node, session, renewal: number };
        if !self.leading {
            return self.answer(renewal, Answer::TryAgain { why: "this node is not the leader".into() });
        }
        let expiry = self.expiry();
        // A session that this state does not show may be in a part of the log that the round will have applied.
        let renewable = self.may_renew(&renewal.node, session);
        let known = self.sessions.get_mut(&renewal.node).filter(|known| known.session == session);
        if !renewable || known.as_ref().is_some_and(|known| known.run != run) {
            return self.answer(renewal, Answer::SessionOver);
        }
        if let Some(known) = known {
            known.deadline = now + expiry;
        }
        if mutations::active(Mutation::LeaseReadInsteadOfQuorumRound) {
            return self.answer(renewal, Answer::Granted { index: 0 });
        }
        // Of one node only the newest counts: it stands for those before.
        self.waiting.retain(|waiting| waiting.node != renewal.node);
        self.waiting.push(renewal);
        if self.in_flight.is_empty() {
            self.next_round();
        }
    }

    fn may_renew(&self, node: &NodeName, session: SessionId) -> bool {
        mutations::active(Mutation::RenewAfterExpiryAppended) || !self.expiring.contains(&(node.clone(), session))
    }

    fn next_round(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        self.in_flight = core::mem::take(&mut self.waiting);
        self.round += 1;
        self.outputs.push_back(Output::ConfirmLeadership { round: self.round });
    }

    fn expire(&mut self, now: Instant) {
        for (node, known) in &mut self.sessions {
            if now < known.deadline {
                continue;
            }
            known.deadline = now + APPEND_AGAIN;
            let (node, session) = (node.clone(), known.session);
            self.expiring.insert((node.clone(), session));
            let why = format!("{node} was not heard for {}", self.timings.expiry().rounded());
            self.outputs.push_back(Output::AppendExpiry { node, session, why });
        }
    }

    fn answer(&mut self, renewal: Renewal, answer: Answer) {
        let Renewal { node, session, renewal } = renewal;
        self.outputs.push_back(Output::Answer { node, session, renewal, answer });
    }
}
