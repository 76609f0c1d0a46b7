//! Mounting and unmounting the file's directory, also over what a killed driver left.

use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};
use std::{io, path::Path, process::Command};

/// Makes `path` a directory that can be mounted on: creates it, and takes a dead FUSE mount away.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    for _ in 0..16 {
        match std::fs::metadata(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
                tracing::warn!(path = %path.display(), "unmounting what a killed attachment left");
                detach(path)?;
            }
            _ => return std::fs::create_dir_all(path),
        }
    }
    Err(io::Error::other("too many dead mounts lie on each other here"))
}

/// Unmounts at once; users of the file keep it until they close it or this process ends.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        // Not ours to unmount by system call: mounted by fusermount3.
        Err(Errno::PERM) => {
            let status = Command::new("fusermount3").args(["-u", "-q", "-z", "--"]).arg(path).status()?;
            if status.success() { Ok(()) } else { Err(io::Error::other("fusermount3 -u failed")) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends the FUSE connection: whatever waits for it fails.
pub(super) fn abort(path: &Path) {
    if let Err(error) = unmount(path, UnmountFlags::FORCE) {
        tracing::debug!(%error, "the FUSE connection could not be aborted; it ends with this process");
    }
}
