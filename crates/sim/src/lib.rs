//! A whole cluster in one thread: nodes, disks, links, clocks, a consensus, a workload, and everything that can go
//! wrong, all from one seed.
//!
//! The pure cores are the product's own: [`tandem_volume::Replica`] on every replica, [`tandem_cluster::State`] on every
//! node, the leader's table of sessions, the holder of a lease, the life of a service. What is modelled is what lies
//! between and under them. A history has three parts: faults come; everything is repaired and must work again in bounded
//! time; the workload stops and the replicas must be identical. What must hold is in [`invariants`], one file each.
//!
//! The same seed gives the same history.

mod agent;
mod cli;
mod client;
mod clock;
mod consensus;
mod disk;
mod faults;
pub mod invariants;
mod ledger;
mod network;
mod node;
mod options;
mod plan;
mod queue;
mod server;
mod watch;
mod workload;
mod world;

pub use cli::cli;
pub use invariants::Violation;
pub use options::{Mutation, Options};
pub use world::Summary;

/// Plays the history of `seed`.
///
/// # Errors
///
/// The first invariant that did not hold.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Failure> {
    told(seed, options, &mut Vec::new())
}

/// Plays the history of `seed` and appends its events to `history`, when the options ask for a trace.
///
/// # Errors
///
/// The first invariant that did not hold. A panic anywhere in the cores or in the world is one, too.
pub fn told(seed: u64, options: &Options, history: &mut Vec<String>) -> Result<Summary, Failure> {
    tandem_cluster::mutations::set(options.mutation.and_then(|mutation| mutation.cluster));
    let mut world = world::World::new(seed, options);
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    let result = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Violation::new("world", format!("panic: {text}")))
    });
    history.append(&mut world.history);
    let mutation = options.mutation.map(|mutation| mutation.name);
    result.map(|()| world.summary).map_err(|violation| Failure { seed, mutation, violation })
}

/// A history in which an invariant did not hold.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The mutation that was on.
    pub mutation: Option<&'static str>,
    /// What did not hold.
    pub violation: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        write!(f, "replay: cargo xtask sim --from {} --seeds 1", self.seed)?;
        if let Some(name) = self.mutation {
            write!(f, " --mutation {name}")?;
        }
        write!(f, " --trace")
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.violation)
    }
}
