//! What the cluster's log says, and who may act.
//!
//! Pure: no I/O, no clock, no threads, no ambient randomness. The parts, in the order of a day:
//!
//! - [`State`] is the replicated state machine: one [`Entry`] of the log in, one [`Outcome`] out. It holds the sessions,
//!   the register of every volume group, and where each service is placed; [`placement`] decides at the end of every
//!   entry, so that decisions have the log's order.
//! - [`intents`] says what one node has to do now. Level-triggered: ask again after every change.
//! - [`leader::SessionTable`] runs on the leader: answers renewals, expires sessions.
//! - [`lease::Holder`] runs on every node: renews its session, knows until when the node may act.
//! - [`service::Lifecycle`] runs on a node for each service: starts and stops its steps in order.
#![no_std]
extern crate alloc;

mod command;
mod events;
mod explain;
mod group;
pub mod intents;
pub mod leader;
pub mod lease;
pub mod mutations;
mod outcome;
pub mod placement;
mod report;
pub mod service;
mod session;
mod state;
mod topology;

pub use command::{Admission, CertificateAuthority, Command, Entry};
pub use events::{Event, Events, Subject};
pub use explain::explain;
pub use group::{Group, Registered};
pub use intents::{Intents, ServiceIntent, intents};
pub use outcome::{Outcome, Refusal};
pub use placement::{Assignment, Failure, Phase, Placement};
pub use session::{LiveSession, Session};
pub use state::{Member, State};
pub use topology::{Failback, GroupSpec, NodeSpec, ServiceSpec, Timings, Topology, TopologyError};
