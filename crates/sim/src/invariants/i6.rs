//! I6: a service runs on at most one node while clocks keep the drift bound.
//!
//! Reason: two databases on two copies, or two machines with one address, are the disaster that replication is bought
//! against. A node's service runs from its first step until it is stopped or frozen: at the latest `grace` of true time
//! after the node's lease ended on the node's own clock, which is what the guard process enforces without the agent.

use crate::{
    invariants::Violation,
    queue::{MS, Time},
};

/// `node` begins to run the service at `now`; `other` may run it until `until`.
pub(crate) fn check(now: Time, node: usize, other: usize, until: Time) -> Result<(), Violation> {
    if now >= until {
        return Ok(());
    }
    let left = (until - now) / MS;
    Err(Violation::new(
        "I6",
        format!("node {node} starts the service while node {other} may run it for another {left} ms"),
    ))
}
