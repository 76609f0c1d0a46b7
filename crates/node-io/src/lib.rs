//! What a node does to itself: service processes, their freezing by the guard, mounts, attach drivers, checks, the clock
//! of leases and the watchdog.
//!
//! An agent's restart releases nothing: processes, attach drivers and the guard outlive it, leave a record in the run
//! directory, and are adopted by the next agent.

pub mod attach;
pub mod cgroup;
pub mod check;
pub mod clock;
pub mod confinement;
pub mod guard;
mod log_file;
pub mod mkfs;
pub mod mount;
pub mod mountinfo;
mod os_child;
mod proc_table;
pub mod process;
pub mod user;
pub mod watchdog;

pub use attach::{AttachDriver, AttachDrivers, AttachError, AttachSpec};
pub use cgroup::Cgroups;
pub use check::{CheckResult, CheckStatus};
pub use clock::{BootTimer, now, sleep_until};
pub use confinement::Confinement;
pub use guard::{GuardError, GuardHandle, GuardSpec, GuardStatus};
pub use mkfs::{FileSystem, Prepared};
pub use mount::{MountError, MountSpec, Unmounted};
pub use process::{Exit, ProcessError, ProcessSpec, ServiceProcess, ServiceProcesses, Stopped};
pub use watchdog::{Watchdog, WatchdogError};
