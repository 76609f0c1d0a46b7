//! When a service cannot be stopped: this node gives up its lease, and takes none before it was rebooted.

use crate::cli::Failure;
use std::path::{Path, PathBuf};

fn marker(run_dir: &Path) -> PathBuf {
    run_dir.join("surrendered")
}

/// Ends this agent at once and keeps the next from starting on this boot.
///
/// Nobody renews the lease any more: the guard freezes the services and the volume servers refuse at its end, addresses
/// vanish with it, and the cluster gives the services to another node once the session has expired.
pub(super) fn surrender(run_dir: &Path, why: &str) -> ! {
    if let Err(error) = std::fs::write(marker(run_dir), why) {
        tracing::error!(%error, "cannot keep the next agent from starting");
    }
    tracing::error!(why, "this node gives up its lease; reboot it");
    std::process::exit(1)
}

/// Refuses to go on where an earlier agent of this boot surrendered.
pub(super) fn check(run_dir: &Path) -> Result<(), Failure> {
    let path = marker(run_dir);
    match std::fs::read_to_string(&path) {
        Err(_) => Ok(()),
        Ok(why) => {
            Err(Failure::new(format!("this node gave up its lease because a stop failed: {why}")).hint(format!(
                "reboot it; or, once you are sure that nothing of that service runs here, remove {}",
                path.display()
            )))
        }
    }
}
