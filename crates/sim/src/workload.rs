//! The initiator: what a service on the primary asks of its volumes.

use tandem_base::{Epoch, Rng};

/// How the seed's workload behaves, and the machines under it.
#[derive(Debug, Clone)]
pub(crate) struct Habit {
    /// Requests that may wait at once.
    pub depth: usize,
    /// Longest time between two requests, in nanoseconds.
    pub pause: u64,
    /// Shares of reads, zeroes and flushes, of 100; the rest are writes.
    pub reads: u64,
    pub zeroes: u64,
    pub flushes: u64,
    /// Forced unit access, of 100 writes.
    pub forced: u64,
    /// Most sectors of one request.
    pub sectors_max: u64,
    /// Most requests go to this many first sectors; 0: everywhere alike.
    pub hot: u64,
    /// Of ten times, how often the program takes seconds to end when it is told to.
    pub lingers: u64,
    /// Of ten times, how often a node is slow to apply what the log has committed.
    pub late: u64,
}

impl Habit {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        // Some programs read nearly always, so that nothing holds them up where a write would wait.
        let reader = rng.chance(1, 4);
        Self {
            depth: if rng.chance(1, 6) { 32 } else { rng.between(1, 8) as usize },
            pause: [5, 20, 60][rng.below(3) as usize] * crate::queue::MS,
            reads: if reader { rng.between(90, 98) } else { rng.between(5, 60) },
            zeroes: rng.below(8),
            flushes: if reader { 0 } else { [0, 2, 10, 25][rng.below(4) as usize] },
            forced: [0, 0, 10, 100][rng.below(4) as usize],
            sectors_max: [1, 4, 16, 40][rng.below(4) as usize],
            hot: [0, 4, 24][rng.below(3) as usize],
            lingers: [1, 1, 9][rng.below(3) as usize],
            late: [1, 1, 5][rng.below(3) as usize],
        }
    }
}

/// One attachment: it belongs to a promotion for ever.
pub(crate) struct Attachment {
    pub node: usize,
    pub promotion: Epoch,
    /// Requests without an answer.
    pub pending: Vec<u64>,
    /// The program runs and asks.
    pub active: bool,
    /// The connection is closed: answers go nowhere.
    pub closed: bool,
    /// Somebody waits for the last answer before closing.
    pub draining: bool,
}
