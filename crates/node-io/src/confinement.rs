//! How all the processes of a service are found, to freeze them and to end them.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a service's processes are. Written into the service's record, and handed to the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// All in a control group of their own (cgroup v2): nothing can leave it.
    Cgroup {
        /// Its directory.
        path: PathBuf,
    },
    /// The session and process group that the first process leads, and the descendants of it all. What detaches itself
    /// fully (a double fork with a session of its own) while nobody looks escapes; cgroups have no such hole.
    Session {
        /// The first process.
        leader: u32,
        /// Field 22 of its `/proc/<pid>/stat`: tells it from a later process with the same number.
        start_time: u64,
    },
}
