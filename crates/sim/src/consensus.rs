//! The consensus model: a total order of commands with delays, lost leaders, stalled minorities and unknown outcomes.
//!
//! It is Raft in small (Ongaro and Ousterhout, 2014; leader stickiness and check-quorum from Ongaro's thesis, 4.2.3 and
//! 6.2; read-index from 6.4), so that nothing is ordered or confirmed that a real quorum could not have ordered or
//! confirmed. What a member is told to keep is durable at once: stores of the consensus are not under test here.

use tandem_base::Rng;

use crate::queue::{MS, Time};

/// Time between a leader's messages to a quiet follower.
pub(crate) const HEARTBEAT: Time = 150 * MS;
/// Bounds of the election timeout.
const ELECTION: (Time, Time) = (600 * MS, 1_200 * MS);
/// Most entries in one message.
const BATCH: usize = 32;

/// A message between members.
#[derive(Debug, Clone)]
pub(crate) enum Rpc<C> {
    /// Would you vote for me in `term`? Asked first, so that who was cut off does not depose a leader on its return.
    PreVote {
        term: u64,
        last: (u64, usize),
    },
    PreVoted {
        term: u64,
        asked: u64,
        granted: bool,
    },
    Vote {
        term: u64,
        last: (u64, usize),
    },
    Voted {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        previous: (u64, usize),
        entries: Vec<(u64, Option<C>)>,
        commit: usize,
        round: u64,
    },
    Appended {
        term: u64,
        matched: Option<usize>,
        hint: usize,
        round: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Follower,
    /// It asks who would vote for it.
    Hopeful,
    Candidate,
    Leader,
}

struct Read {
    token: u64,
    /// The round that must be answered by a quorum.
    round: u64,
    /// What must be applied before the answer: the log's length when the read came, or the leader's own no-op.
    index: usize,
}

/// What a member wants done after an input.
pub(crate) enum Effect<C> {
    Send(usize, Rpc<C>),
    /// This member leads, and its own no-op is committed and applied.
    Established,
    /// It led and does no longer.
    Deposed,
    /// The read-index `token` is confirmed: answer once `index` entries are applied.
    Confirmed {
        token: u64,
        index: usize,
    },
}

/// One member of the consensus. Indices count entries: index `n` is the state after the first `n`.
pub(crate) struct Member<C> {
    id: usize,
    voters: Vec<bool>,
    /// Whether it asks before it becomes a candidate.
    pre_vote: bool,
    term: u64,
    voted_for: Option<usize>,
    log: Vec<(u64, Option<C>)>,
    commit: usize,
    role: Role,
    leader: Option<usize>,
    /// Last word from a leader, for stickiness.
    heard: Time,
    deadline: Time,
    votes: Vec<bool>,
    next: Vec<usize>,
    matched: Vec<usize>,
    answered: Vec<Time>,
    round: u64,
    round_of: Vec<u64>,
    reads: Vec<Read>,
    no_op: usize,
    established: bool,
    effects: Vec<Effect<C>>,
}

impl<C: Clone> Member<C> {
    /// A member that has just started at `now`, with nothing in its log; all members know each other.
    pub(crate) fn new(id: usize, voters: &[bool], pre_vote: bool, now: Time, rng: &mut Rng) -> Self {
        let count = voters.len();
        Self {
            id,
            voters: voters.to_vec(),
            pre_vote,
            term: 0,
            voted_for: None,
            log: Vec::new(),
            commit: 0,
            role: Role::Follower,
            leader: None,
            heard: 0,
            deadline: now + rng.between(ELECTION.0, ELECTION.1),
            votes: vec![false; count],
            next: vec![0; count],
            matched: vec![0; count],
            answered: vec![0; count],
            round: 0,
            round_of: vec![0; count],
            reads: Vec::new(),
            no_op: 0,
            established: false,
            effects: Vec::new(),
        }
    }

    /// The process starts again: term, vote, log and commit index were durable, nothing else was.
    pub(crate) fn restart(&mut self, now: Time, rng: &mut Rng) {
        self.role = Role::Follower;
        self.leader = None;
        self.heard = 0;
        self.reads.clear();
        self.effects.clear();
        self.established = false;
        self.deadline = now + rng.between(ELECTION.0, ELECTION.1);
    }

    pub(crate) fn commit(&self) -> usize {
        self.commit
    }

    /// The committed entry `index`, counted from 0; `None` for a leader's no-op.
    pub(crate) fn entry(&self, index: usize) -> Option<&C> {
        assert!(index < self.commit, "only committed entries are shown");
        self.log[index].1.as_ref()
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leader(&self) -> Option<usize> {
        if self.role == Role::Leader { Some(self.id) } else { self.leader }
    }

    /// Where the log must be applied to before this leader may speak: its own first entry.
    pub(crate) fn no_op(&self) -> usize {
        self.no_op
    }

    pub(crate) fn is_established(&self) -> bool {
        self.role == Role::Leader && self.established
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect<C>> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Self::tick`] wants to be called.
    pub(crate) fn deadline(&self) -> Time {
        self.deadline
    }

    /// Appends a command: the index that it has if it ever happens, or `None` when this member does not lead.
    pub(crate) fn propose(&mut self, now: Time, command: C) -> Option<usize> {
        if self.role != Role::Leader {
            return None;
        }
        self.log.push((self.term, Some(command)));
        self.broadcast(now);
        self.advance();
        Some(self.log.len())
    }

    /// Asks for a confirmation of leadership in a round that starts now; answered by [`Effect::Confirmed`] or never.
    pub(crate) fn read_index(&mut self, now: Time, token: u64) -> bool {
        if self.role != Role::Leader {
            return false;
        }
        self.round += 1;
        let index = self.commit.max(self.no_op);
        self.reads.push(Read { token, round: self.round, index });
        self.broadcast(now);
        self.advance();
        true
    }

    pub(crate) fn tick(&mut self, now: Time, rng: &mut Rng) {
        if now < self.deadline {
            return;
        }
        if self.role == Role::Leader {
            let alive = (0..self.voters.len())
                .filter(|&peer| self.voters[peer] && (peer == self.id || now < self.answered[peer] + ELECTION.1))
                .count();
            if alive * 2 <= self.voter_count() {
                self.step_down(self.term);
                self.deadline = now + rng.between(ELECTION.0, ELECTION.1);
                return;
            }
            self.broadcast(now);
            self.deadline = now + HEARTBEAT;
            return;
        }
        self.deadline = now + rng.between(ELECTION.0, ELECTION.1);
        if !self.voters[self.id] {
            self.leader = None;
            return;
        }
        self.leader = None;
        if self.pre_vote {
            self.role = Role::Hopeful;
            let term = self.term + 1;
            self.ask_for_votes(|last| Rpc::PreVote { term, last });
        } else {
            self.campaign();
        }
    }

    fn campaign(&mut self) {
        self.role = Role::Candidate;
        self.term += 1;
        self.voted_for = Some(self.id);
        let term = self.term;
        self.ask_for_votes(|last| Rpc::Vote { term, last });
    }

    fn ask_for_votes(&mut self, rpc: impl Fn((u64, usize)) -> Rpc<C>) {
        self.votes.fill(false);
        self.votes[self.id] = true;
        let last = self.last();
        for peer in 0..self.voters.len() {
            if peer != self.id && self.voters[peer] {
                self.effects.push(Effect::Send(peer, rpc(last)));
            }
        }
    }

    /// Counts a vote; true when a majority is there.
    fn voted(&mut self, from: usize) -> bool {
        self.votes[from] = true;
        self.votes.iter().filter(|granted| **granted).count() * 2 > self.voter_count()
    }

    /// Stickiness: who hears a leader does not help to depose it.
    fn is_content(&self, now: Time) -> bool {
        self.role == Role::Leader || (self.heard > 0 && now < self.heard + ELECTION.0)
    }

    pub(crate) fn receive(&mut self, now: Time, from: usize, rpc: Rpc<C>, rng: &mut Rng) {
        match rpc {
            Rpc::PreVote { term: asked, last } => {
                let granted = asked > self.term && !self.is_content(now) && last >= self.last();
                self.effects.push(Effect::Send(from, Rpc::PreVoted { term: self.term, asked, granted }));
            }
            Rpc::PreVoted { term, asked, granted } => {
                self.see(term);
                if granted && self.role == Role::Hopeful && asked == self.term + 1 && self.voted(from) {
                    self.deadline = now + rng.between(ELECTION.0, ELECTION.1);
                    self.campaign();
                }
            }
            Rpc::Vote { term, last } => {
                if term > self.term && self.is_content(now) {
                    return;
                }
                self.see(term);
                let granted = term == self.term
                    && matches!(self.role, Role::Follower | Role::Hopeful)
                    && self.voted_for.is_none_or(|voted| voted == from)
                    && last >= self.last();
                if granted {
                    self.voted_for = Some(from);
                    self.deadline = now + rng.between(ELECTION.0, ELECTION.1);
                }
                self.effects.push(Effect::Send(from, Rpc::Voted { term: self.term, granted }));
            }
            Rpc::Voted { term, granted } => {
                self.see(term);
                if granted && term == self.term && self.role == Role::Candidate && self.voted(from) {
                    self.lead(now);
                }
            }
            Rpc::Append { term, previous, entries, commit, round } => {
                self.see(term);
                if term < self.term {
                    let reply = Rpc::Appended { term: self.term, matched: None, hint: 0, round: 0 };
                    self.effects.push(Effect::Send(from, reply));
                    return;
                }
                self.role = Role::Follower;
                self.leader = Some(from);
                self.heard = now;
                self.deadline = now + rng.between(ELECTION.0, ELECTION.1);
                let (previous_term, start) = previous;
                let fits = start <= self.log.len() && (start == 0 || self.log[start - 1].0 == previous_term);
                let matched = fits.then(|| {
                    for (offset, entry) in entries.iter().enumerate() {
                        let at = start + offset;
                        if at < self.log.len() && self.log[at].0 != entry.0 {
                            assert!(at >= self.commit, "a committed entry is never overwritten");
                            self.log.truncate(at);
                        }
                        if at == self.log.len() {
                            self.log.push(entry.clone());
                        }
                    }
                    start + entries.len()
                });
                if let Some(matched) = matched {
                    self.commit = self.commit.max(commit.min(matched));
                }
                let hint = self.log.len().min(start);
                self.effects.push(Effect::Send(from, Rpc::Appended { term, matched, hint, round }));
            }
            Rpc::Appended { term, matched, hint, round } => {
                self.see(term);
                if self.role != Role::Leader || term != self.term {
                    return;
                }
                self.answered[from] = now;
                self.round_of[from] = self.round_of[from].max(round);
                match matched {
                    Some(matched) => {
                        self.matched[from] = self.matched[from].max(matched);
                        self.next[from] = self.next[from].max(self.matched[from]);
                    }
                    None => self.next[from] = hint.min(self.next[from].saturating_sub(1)).max(self.matched[from]),
                }
                self.advance();
                if self.next[from] < self.log.len() {
                    self.send_append(from);
                }
            }
        }
    }

    fn voter_count(&self) -> usize {
        self.voters.iter().filter(|voter| **voter).count()
    }

    fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |entry| entry.0), self.log.len())
    }

    fn see(&mut self, term: u64) {
        if term > self.term {
            self.step_down(term);
        }
    }

    fn step_down(&mut self, term: u64) {
        if self.role == Role::Leader {
            self.effects.push(Effect::Deposed);
        }
        if term > self.term {
            self.term = term;
            self.voted_for = None;
        }
        self.role = Role::Follower;
        self.leader = None;
        self.reads.clear();
        self.established = false;
    }

    fn lead(&mut self, now: Time) {
        self.role = Role::Leader;
        self.log.push((self.term, None));
        self.no_op = self.log.len();
        self.established = false;
        self.reads.clear();
        self.round = 0;
        self.round_of.fill(0);
        self.answered.fill(now);
        self.next.fill(self.no_op - 1);
        self.matched.fill(0);
        self.deadline = now + HEARTBEAT;
        self.broadcast(now);
        self.advance();
    }

    fn broadcast(&mut self, now: Time) {
        self.deadline = self.deadline.min(now + HEARTBEAT);
        for peer in 0..self.voters.len() {
            if peer != self.id {
                self.send_append(peer);
            }
        }
    }

    fn send_append(&mut self, peer: usize) {
        let start = self.next[peer].min(self.log.len());
        let end = self.log.len().min(start + BATCH);
        let previous = (if start == 0 { 0 } else { self.log[start - 1].0 }, start);
        let entries = self.log[start..end].to_vec();
        let rpc = Rpc::Append { term: self.term, previous, entries, commit: self.commit, round: self.round };
        self.effects.push(Effect::Send(peer, rpc));
    }

    /// Commits what a majority holds, and confirms the reads whose round a majority answered.
    fn advance(&mut self) {
        let (id, length) = (self.id, self.log.len());
        let majority = self.voter_count() / 2;
        let mut held: Vec<usize> = (0..self.voters.len())
            .filter(|&peer| self.voters[peer])
            .map(|peer| if peer == id { length } else { self.matched[peer] })
            .collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let index = held[majority];
        if index > self.commit && self.log[index - 1].0 == self.term {
            self.commit = index;
        }
        if !self.established && self.commit >= self.no_op {
            self.established = true;
            self.effects.push(Effect::Established);
        }
        if self.established && !self.reads.is_empty() {
            let mut rounds: Vec<u64> = (0..self.voters.len())
                .filter(|&peer| self.voters[peer])
                .map(|peer| if peer == id { u64::MAX } else { self.round_of[peer] })
                .collect();
            rounds.sort_unstable_by(|a, b| b.cmp(a));
            let confirmed = rounds[majority];
            let effects = &mut self.effects;
            self.reads.retain(|read| {
                if read.round > confirmed {
                    return true;
                }
                effects.push(Effect::Confirmed { token: read.token, index: read.index });
                false
            });
        }
    }
}
