//! A control group (version 2) for each host, which the host sees as the root of all.
//!
//! Only where this user may make groups: as root, or in a delegated subtree. Elsewhere hosts share the caller's.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use rustix::process::Pid;

use crate::directory::Directory;

/// Makes the lab's group and notes it, for the hosts to enter and for whoever clears the lab away.
pub(crate) fn create(directory: &Directory, lab: &str) {
    // The process id, as labs of one name may live in different directories.
    let name = format!("tandem-lab-{lab}-{}", std::process::id());
    let Some(group) = own().map(|own| own.join(name)) else { return };
    if std::fs::create_dir(&group).is_ok()
        && let Err(cause) = std::fs::write(note(directory), group.as_os_str().as_encoded_bytes())
    {
        tracing::warn!(%cause, "the lab's control group will stay");
    }
}

/// Moves the calling process into the group of `host`, and makes that the root of what it sees.
pub(crate) fn enter(directory: &Directory, host: &str) {
    if let Some(group) = noted(directory) {
        let group = group.join(host);
        let entered = std::fs::create_dir_all(&group).and_then(|()| join(&group));
        if let Err(cause) = entered {
            eprintln!("lab: no control group of its own for this host: {cause}");
        }
    }
    // SAFETY: only the view of control groups changes.
    if let Err(cause) = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) } {
        eprintln!("lab: no view of its own on control groups: {cause}");
    }
}

/// Moves the calling process into the group of process `first`, so that whatever freezes or counts that host counts this
/// process too; without the right to do so it stays where it is.
pub(crate) fn follow(first: Pid) {
    let moved = group_of(&first.as_raw_nonzero().to_string()).map(|group| join(&group));
    tracing::debug!(?moved, "following a host into its control group");
}

/// Removes the lab's groups; their processes have ended.
pub(crate) fn remove(directory: &Directory) {
    if let Some(group) = noted(directory) {
        remove_below(&group);
    }
}

fn remove_below(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    // A process that is just ending keeps its group for a moment.
    for _ in 0..50 {
        match std::fs::remove_dir(group) {
            Err(cause) if cause.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

fn join(group: &Path) -> std::io::Result<()> {
    std::fs::File::options().write(true).open(group.join("cgroup.procs"))?.write_all(b"0")
}

fn note(directory: &Directory) -> PathBuf {
    directory.path().join("cgroup")
}

/// The group that was noted, if it looks like one that a lab makes: what is removed must never be another.
fn noted(directory: &Directory) -> Option<PathBuf> {
    let group = PathBuf::from(std::fs::read_to_string(note(directory)).ok()?);
    let name = group.file_name()?.to_str()?;
    (name.starts_with("tandem-lab-") && group.starts_with(mount()?)).then_some(group)
}

/// The group of this process.
fn own() -> Option<PathBuf> {
    group_of("self")
}

fn group_of(pid: &str) -> Option<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    Some(mount()?.join(groups.lines().find_map(|line| line.strip_prefix("0::/"))?))
}

/// Where this machine has its version 2 hierarchy.
fn mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}
