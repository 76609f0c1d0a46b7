//! Links between nodes: delay, loss, duplication, one-way cuts; datagrams and ordered connections.
//!
//! A control message is a datagram: it may be lost, doubled, late, or overtaken. A connection between volume servers
//! delivers in order or not at all: the first message that is lost loses every later one on that connection.

use tandem_base::Rng;

use crate::queue::{MS, Time};

/// One direction between two nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Nothing arrives.
    pub cut: bool,
    /// Shortest delay.
    pub delay_min: Time,
    /// Longest delay.
    pub delay_max: Time,
    /// Datagrams lost, of 1,000.
    pub loss: u64,
    /// Datagrams doubled, of 1,000.
    pub twice: u64,
    /// What is sent before then arrives from then on: a queue in somebody's modem.
    pub held: Time,
}

/// All links of the world.
pub(crate) struct Network {
    nodes: usize,
    links: Vec<Link>,
}

impl Network {
    /// `nodes` nodes, each pair joined by its own delay; whole and loss-free.
    pub(crate) fn new(nodes: usize, rng: &mut Rng) -> Self {
        let links = (0..nodes * nodes)
            .map(|_| {
                let delay_min = rng.between(MS / 10, 15 * MS);
                Link {
                    cut: false,
                    delay_min,
                    delay_max: delay_min + rng.between(0, 5 * MS),
                    loss: 0,
                    twice: 0,
                    held: 0,
                }
            })
            .collect();
        Self { nodes, links }
    }

    pub(crate) fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from * self.nodes + to]
    }

    pub(crate) fn link_mut(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// Whether both directions between two nodes carry messages.
    pub(crate) fn joined(&self, a: usize, b: usize) -> bool {
        a == b || !(self.link(a, b).cut || self.link(b, a).cut)
    }

    /// Everything carries again, without loss; delays stay, and what is held back.
    pub(crate) fn heal(&mut self) {
        for link in &mut self.links {
            *link =
                Link { cut: false, loss: 0, twice: 0, delay_max: link.delay_max.min(link.delay_min + 5 * MS), ..*link };
        }
    }

    /// When the copies of one datagram arrive after now: none when it is lost.
    pub(crate) fn datagram(&self, now: Time, from: usize, to: usize, rng: &mut Rng) -> [Option<Time>; 2] {
        if from == to {
            return [Some(1), None];
        }
        let link = self.link(from, to);
        if link.cut || (link.loss > 0 && rng.chance(link.loss, 1_000)) {
            return [None, None];
        }
        let first = Some(link.delay(now, rng));
        let twice = link.twice > 0 && rng.chance(link.twice, 1_000);
        [first, twice.then(|| link.delay(now, rng) + rng.below(300 * MS))]
    }
}

impl Link {
    /// How long what is sent at `now` is under way.
    pub(crate) fn delay(&self, now: Time, rng: &mut Rng) -> Time {
        let delay = rng.between(self.delay_min, self.delay_max);
        // A queue that drains does so quickly, and datagrams overtake each other.
        if now < self.held { self.held - now + delay.min(rng.below(8 * MS)) } else { delay }
    }
}

/// One direction of a connection between two volume servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pipe {
    sent: u64,
    delivered: u64,
    /// Messages from this number on never arrive.
    broken_at: Option<u64>,
    last_arrival: Time,
}

impl Pipe {
    /// Nothing arrives before `at`.
    pub(crate) fn open_at(&mut self, at: Time) {
        self.last_arrival = at;
    }

    /// Sends one message at `now`: its number and arrival, or `None` when this direction is broken.
    pub(crate) fn send(&mut self, now: Time, link: &Link, rng: &mut Rng) -> Option<(u64, Time)> {
        if link.cut && self.broken_at.is_none() {
            self.broken_at = Some(self.sent);
        }
        if self.broken_at.is_some() {
            return None;
        }
        let retransmission = if link.loss > 0 && rng.chance(link.loss, 1_000) { rng.between(MS, 200 * MS) } else { 0 };
        let arrival = (now + link.delay(now, rng) + retransmission).max(self.last_arrival + 1);
        self.last_arrival = arrival;
        let number = self.sent;
        self.sent += 1;
        Some((number, arrival))
    }

    /// Whether message `number` arrives; to be asked once per message, at its arrival.
    pub(crate) fn arrives(&mut self, number: u64) -> bool {
        let arrives = self.broken_at.is_none_or(|at| number < at);
        self.delivered += u64::from(arrives);
        arrives
    }

    /// The direction breaks now: of what is under way an arbitrary prefix still arrives.
    pub(crate) fn break_now(&mut self, rng: &mut Rng) {
        if self.broken_at.is_none() {
            self.broken_at = Some(rng.between(self.delivered, self.sent));
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken_at.is_some()
    }
}
