//! The guard: a tiny process that freezes every service of the node when the node's lease ends, with nobody in charge
//! any more.
//!
//! It survives the agent, locks its memory, runs at real-time priority where it may, allocates nothing after its start
//! and sleeps on a `CLOCK_BOOTTIME` timer. The agent speaks to it over `<run>/guard.sock`: it [registers](
//! GuardHandle::register) each service it starts, [extends](GuardHandle::extend) the deadline after each renewal of the
//! lease, and [thaws](GuardHandle::thaw) a service once the renewed lease came with the confirmation that its promotion
//! is still current. The deadline only ever moves forward; an extension alone thaws nothing.
//!
//! Frozen means `cgroup.freeze` where the service has a cgroup, else SIGSTOP for every process of it; it is asserted
//! again and again while it lasts, since anybody may send SIGCONT.

mod daemon;
mod handle;
mod protocol;
mod slot;

pub use daemon::run;
pub use handle::{GuardError, GuardHandle, GuardSpec, GuardStatus, GuardedService};
pub use protocol::Refusal;
