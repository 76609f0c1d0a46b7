//! A plan as separate hosts on this machine, running the real binary; and rehearsals of its failures.
//!
//! Every node of the plan is a set of namespaces of its own (network, mounts, processes, host name, IPC) in which the
//! same `tandem` binary runs that the machines will run. One more host, [`OUTSIDE`], stands for the users. A user-space
//! switch joins them over TAP devices and gives every pair of places the plan's latency, jitter, loss and bandwidth.
//!
//! Order of calls: [`run_hidden`] first thing in `main`, before any thread is started; then [`Lab::up`] or
//! [`Lab::open`], any of the verbs, [`Lab::down`]. [`rehearsal::rehearse`] does all of it by itself.

mod boot;
mod cgroup;
mod cleanup;
mod control;
mod directory;
mod enter;
mod error;
mod freeze;
mod hidden;
mod lab;
mod namespace;
mod network;
mod node;
mod plan_files;
mod privileges;
pub mod rehearsal;
mod root;
mod shaper;
mod supervisor;
mod tap;
mod topology;

pub use control::{Frames, HostState, HostStatus, Status};
pub use error::LabError;
pub use hidden::run_hidden;
pub use lab::{Lab, Listed, Options, list};
pub use privileges::check_plan;
pub use shaper::{Quality, QualityChange};
pub use topology::{Host, OUTSIDE, Topology, Way};
