//! What a control plane is opened with.

use std::path::{Path, PathBuf};

use tandem_base::RunId;
use tandem_cluster::Timings;

/// Where a node keeps what this crate writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `<data>/identity/`: `ca.pem`, `node.pem`, `node.key`.
    pub identity: PathBuf,
    /// `<data>/cluster.redb`: the log, the vote and the last snapshot.
    pub store: PathBuf,
}

impl Paths {
    /// The paths below a node's data directory, `/var/lib/tandem` by default.
    #[must_use]
    pub fn below(data: &Path) -> Self {
        Self { identity: data.join("identity"), store: data.join("cluster.redb") }
    }
}

/// What a control plane is opened with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where identity and store are.
    pub paths: Paths,
    /// This run of the node: the agent draws it once for each boot and keeps it over restarts on the same boot.
    pub run: RunId,
    /// The times of the plan.
    pub timings: Timings,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept after a snapshot, so that a node that was away for a moment needs no snapshot.
    pub keep: u64,
}

impl Config {
    /// With `timings` and the defaults of everything else: a snapshot every 2,000 entries, 500 kept.
    #[must_use]
    pub fn new(data: &Path, run: RunId, timings: Timings) -> Self {
        Self { paths: Paths::below(data), run, timings, snapshot_every: 2_000, keep: 500 }
    }
}
