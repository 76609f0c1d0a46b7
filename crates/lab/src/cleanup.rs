//! Removes what a lab leaves in the file system. Its processes, mounts and devices have ended with its supervisor.

use std::{io, path::Path, time::Duration};

use crate::{LabError, cgroup, directory::Directory, error::Doing};

/// Removes everything that an earlier lab left in its directory; the lock stays.
pub(crate) fn clear(directory: &Directory) -> Result<(), LabError> {
    cgroup::remove(directory);
    for name in ["n", "ctl", "lab.json", "plan", "log", "cgroup"] {
        remove_path(&directory.path().join(name))?;
    }
    Ok(())
}

/// Removes the whole directory.
pub(crate) fn remove(directory: &Directory) -> Result<(), LabError> {
    cgroup::remove(directory);
    remove_path(directory.path())
}

fn remove_path(path: &Path) -> Result<(), LabError> {
    // The last process of a node may still be leaving its mounts: try for a second.
    for last in [false; 20].into_iter().chain([true]) {
        let removed = match std::fs::symlink_metadata(path) {
            Err(cause) => Err(cause),
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
        };
        match removed {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) if last => return Err(cause).doing(format!("remove {}", path.display())),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            Ok(()) => return Ok(()),
        }
    }
    Ok(())
}
