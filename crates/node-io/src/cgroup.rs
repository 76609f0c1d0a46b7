//! Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst): one for each service.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// The part of the machine's control groups that belongs to this node.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// Makes the group `name` below this process's own group, if version 2 is mounted, the place is writable, and
    /// processes may be moved there; `None` otherwise, and services are then confined by session.
    ///
    /// `name` must be the node's own (its cluster and name), and the same after a restart of the agent. Under systemd
    /// this wants `Delegate=yes` and `KillMode=process`.
    #[must_use]
    pub fn detect(name: &str) -> Option<Self> {
        let mounted = mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own_path(&groups)?;
        // The agent may itself run in a group that an earlier agent of the same node made.
        let parent = mounted.join(own.trim_start_matches('/'));
        let root = if parent.ends_with(name) { parent.clone() } else { parent.join(name) };
        Self::probe(&root, &parent).ok().map(|()| Self { root })
    }

    /// Whether a process may really be moved: the kernel wants write access to the `cgroup.procs` of the common
    /// ancestor too.
    fn probe(root: &Path, parent: &Path) -> io::Result<()> {
        create(root)?;
        let probe = root.join("probe");
        create(&probe)?;
        let tried = [
            probe.join("cgroup.procs"),
            probe.join("cgroup.freeze"),
            probe.join("cgroup.kill"),
            parent.join("cgroup.procs"),
        ]
        .iter()
        .try_for_each(|file| OpenOptions::new().write(true).open(file).map(drop));
        fs::remove_dir(&probe)?;
        if tried.is_err() {
            fs::remove_dir(root)?;
        }
        tried
    }

    /// The directory of a service's group, made if it is not there.
    pub(crate) fn group(&self, service: &str) -> io::Result<PathBuf> {
        let path = self.path(service);
        create(&path)?;
        Ok(path)
    }

    /// Where a service's group is or would be.
    pub(crate) fn path(&self, service: &str) -> PathBuf {
        self.root.join(service)
    }

    /// Removes this node's group if no service is left in it.
    pub fn remove(&self) {
        // A group with services in it stays, and is found again by the next agent.
        let _ = fs::remove_dir(&self.root);
    }
}

fn create(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Kills every process in the group, at once and whatever its state (`cgroup.kill`, Linux 5.14).
pub(crate) fn kill(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.kill"), "1")
}

/// Whether a process lives in the group; a group that is gone has none.
pub(crate) fn populated(group: &Path) -> io::Result<bool> {
    match fs::read_to_string(group.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a child writes `0` to enter the group.
pub(crate) fn entrance(group: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(group.join("cgroup.procs"))
}

fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    crate::mountinfo::parse(mountinfo)
        .into_iter()
        .find(|mount| mount.file_system == "cgroup2")
        .map(|mount| mount.target)
}

fn own_path(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy_beside_the_old_ones() {
        let mountinfo = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
        assert_eq!(own_path("12:pids:/\n0::/system.slice/tandem.service\n"), Some("/system.slice/tandem.service"));
        assert_eq!(own_path("12:pids:/\n"), None);
    }
}
