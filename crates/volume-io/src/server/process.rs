//! What the process asks of the kernel for itself.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, getrlimit},
};
use std::io;

/// `PR_SET_IO_FLUSHER` of prctl(2), which libc does not name everywhere.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Keeps the process out of the ways of memory reclaim: our own device may be what reclaim waits for.
///
/// Call it before any thread is started, which inherits the flag. What is not permitted is only logged: it matters for
/// block devices under memory pressure, not for correctness.
pub(super) fn resist_reclaim() {
    // As wide as the kernel reads them: it refuses anything but zeroes.
    let none: libc::c_ulong = 0;
    // SAFETY: this prctl takes numbers only.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1 as libc::c_ulong, none, none, none) } != 0 {
        let error = io::Error::last_os_error();
        tracing::info!(%error, "PR_SET_IO_FLUSHER is not permitted: under memory pressure this volume may stall");
    }
    // With a limit, MCL_FUTURE would turn a later allocation into a crash.
    if getrlimit(Resource::Memlock).current.is_some() && !may_lock() {
        tracing::info!("memory is not locked: the limit on locked memory is too low and CAP_IPC_LOCK is missing");
    } else if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        tracing::info!(%error, "memory is not locked");
    }
}

/// Whether the limit on locked memory does not bind: CAP_IPC_LOCK (14) in the first user namespace (capabilities(7)).
fn may_lock() -> bool {
    let first_namespace = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    let capable = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set & (1 << 14) != 0)
    });
    first_namespace && capable
}

/// 64 random bits of the kernel's.
pub(super) fn random() -> io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
