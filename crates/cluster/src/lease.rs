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
    /// The node may act until `until`; this node has applied the log up to the index that the grant named. What the
    /// intents of that state take away from this node must not thaw.
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

/// Renewals whose answers may still come; older ones are worth less than the next.
const SENT_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The log has not taken the session yet.
    Opening,
    /// The log has taken it.
    Open,
}

/// A node's lease.
///
/// Call [`handle`](Self::handle) once per event, beginning with [`Input::TimedOut`], then
/// [`poll_output`](Self::poll_output) until it returns `None`, then sleep until [`poll_timeout`](Self::poll_timeout).
/// `now` is the node's boot-time clock; when it jumps forward the lease is over the earlier, never the later.
///
/// The lease runs from the sending of a renewal that was granted. It is handed on only when this node has applied the log
/// up to the index that the grant names: by then it knows whether its promotions are still current.
#[derive(Debug)]
pub struct Holder {
    timings: Timings,
    run: RunId,
    rng: Rng,
    session: SessionId,
    standing: Standing,
    renewal: u64,
    /// Renewals without an answer: number and when they were sent, the oldest first.
    sent: VecDeque<(u64, Instant)>,
    next_send: Instant,
    applied: u64,
    /// Grants that wait for the log: index and end of the lease.
    granted: BTreeMap<u64, Instant>,
    until: Option<Instant>,
    trouble: String,
    outputs: VecDeque<Output>,
}

impl Holder {
    /// The lease of a node in its `run`; session ids come from `rng`.
    #[must_use]
    pub fn new(timings: Timings, run: RunId, mut rng: Rng) -> Self {
        let session = SessionId(rng.next_u64());
        Self {
            timings,
            run,
            rng,
            session,
            standing: Standing::Opening,
            renewal: 0,
            sent: VecDeque::new(),
            next_send: Instant::ZERO,
            applied: 0,
            granted: BTreeMap::new(),
            until: None,
            trouble: String::from("no renewal was answered yet"),
            outputs: VecDeque::new(),
        }
    }

    /// Other times hold from the next renewal on: a plan was adopted.
    pub fn set_timings(&mut self, timings: Timings) {
        self.timings = timings;
    }

    /// The session, once the log has taken it.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        (self.standing == Standing::Open).then_some(self.session)
    }

    /// First instant at which the lease is over; `None` while there is none.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Feeds one event in.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::TimedOut => {}
            Input::SessionOpened { session } => {
                if session == self.session && self.standing == Standing::Opening {
                    self.standing = Standing::Open;
                    self.next_send = now;
                }
            }
            Input::OpenFailed { session, over, why } => {
                if session == self.session {
                    self.trouble = why;
                    if over {
                        self.draw();
                    }
                    self.retry(now);
                }
            }
            Input::RenewalAnswered { session, renewal, answer } => self.answered(now, session, renewal, answer),
            Input::RenewalFailed { renewal, why } => {
                self.trouble = why;
                self.sent.retain(|(number, _)| *number != renewal);
                self.retry(now);
            }
            Input::Applied { index } => self.applied = self.applied.max(index),
        }
        self.lapse(now);
        self.extend(now);
        if now >= self.next_send {
            self.send(now);
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
        Some(self.until.map_or(self.next_send, |until| until.min(self.next_send)))
    }

    fn draw(&mut self) {
        self.session = SessionId(self.rng.next_u64());
        self.standing = Standing::Opening;
        self.sent.clear();
        self.granted.clear();
    }

    /// A failure is followed by another try soon: a tenth to a fifth of the heartbeat, so that nodes do not march in step.
    fn retry(&mut self, now: Instant) {
        let tenth = (self.timings.heartbeat.as_nanos() / 10).max(1);
        let soon = now + Duration::from_nanos(self.rng.between(tenth, 2 * tenth));
        self.next_send = self.next_send.min(soon);
    }

    fn send(&mut self, now: Instant) {
        self.next_send = now + self.timings.heartbeat;
        let (session, run) = (self.session, self.run);
        if self.standing == Standing::Opening {
            return self.outputs.push_back(Output::OpenSession { session, run });
        }
        self.renewal += 1;
        let renewal = self.renewal;
        self.sent.push_back((renewal, now));
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        self.outputs.push_back(Output::SendRenewal { renewal, session, run });
    }

    fn answered(&mut self, now: Instant, session: SessionId, renewal: u64, answer: Answer) {
        if session != self.session {
            return;
        }
        let Some(position) = self.sent.iter().position(|(number, _)| *number == renewal) else { return };
        let sent = self.sent[position].1;
        match answer {
            Answer::Granted { index } => {
                // Answers to older renewals say nothing new any more.
                self.sent.drain(..=position);
                self.granted.retain(|_, until| *until > now);
                let from = if mutations::active(Mutation::LeaseCountsFromAnswer) { now } else { sent };
                let until = self.granted.entry(index).or_default();
                *until = (*until).max(from + self.timings.lease);
            }
            Answer::SessionOver => {
                self.trouble = format!("session {session} is over");
                self.draw();
                self.next_send = now;
            }
            Answer::TryAgain { why } => {
                self.trouble = why;
                self.sent.remove(position);
                self.retry(now);
            }
        }
    }

    fn lapse(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            self.outputs.push_back(Output::Lapsed { why: self.trouble.clone() });
        }
    }

    /// Takes up the grants whose index this node has applied.
    fn extend(&mut self, now: Instant) {
        let waiting = self.granted.split_off(&self.applied.saturating_add(1));
        let usable = core::mem::replace(&mut self.granted, waiting);
        let Some((index, until)) = usable.into_iter().max_by_key(|(_, until)| *until) else { return };
        if until > now && self.until.is_none_or(|current| until > current) {
            self.until = Some(until);
            self.trouble = String::from("no later renewal was answered");
            self.outputs.push_back(Output::Extended { until, index });
        }
    }
}
