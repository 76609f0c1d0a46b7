//! A host's own view of the file system: this machine's, but for what belongs to one host.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode, Uid, chmod, chown},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
    },
    process::pivot_root,
};

use crate::{LabError, error::Doing};

/// Where the binary is in every node, alone in its directory, which leads `PATH`.
pub(crate) const BINARY: &str = "/.tandem/bin/tandem";
/// The directory of [`BINARY`].
pub(crate) const BINARY_DIRECTORY: &str = "/.tandem/bin";

/// Directories whose entries are taken over one by one, because one of them is the host's own; and those in which mount
/// points are usually made, so that none is made on this machine.
const TAKEN_APART: [&str; 7] = ["/var", "/var/lib", "/etc", "/srv", "/mnt", "/media", "/opt"];

/// Replaces the root of this mount namespace.
///
/// Everything of the machine is there, each top-level directory by itself, except: `/proc`, `/run` and `/dev/shm` are
/// new; `/sys` shows the host's own network devices and cgroups; `/var/lib/tandem` and `/etc/tandem` are
/// `own/var` and `own/etc`; [`BINARY`] is `binary`. Nothing is written to the machine's own directories, so it needs no
/// rights there and works in a user namespace. `own/root` must be an empty directory.
pub(crate) fn build(own: &Path, binary: &Path) -> Result<(), LabError> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).doing("make all mounts private")?;
    let new = own.join("root");
    mount("tmpfs", &new, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755").doing("mount the new root")?;
    take_over(Path::new("/"), &new, own)?;

    let at = |path: &str| new.join(path.trim_start_matches('/'));
    for (from, to) in [("var", "/var/lib/tandem"), ("etc", "/etc/tandem")] {
        make_directory(&at(to))?;
        mount_bind(own.join(from), at(to)).doing(format!("bind {to}"))?;
    }
    make_directory(&at(BINARY_DIRECTORY))?;
    fs::write(at(BINARY), "").doing("make room for the binary")?;
    mount_bind(binary, at(BINARY)).doing(format!("bind {}", binary.display()))?;

    make_directory(&at("/proc"))?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", at("/proc"), "proc", quiet, None).doing("mount /proc")?;
    make_directory(&at("/sys"))?;
    if mount("sysfs", at("/sys"), "sysfs", quiet, None).is_err() {
        // Where part of /sys is hidden, as in a container, a new one is refused (mount_namespaces(7)).
        mount_bind_recursive("/sys", at("/sys")).doing("bind /sys")?;
    } else if let Err(cause) = mount("cgroup2", at("/sys/fs/cgroup"), "cgroup2", quiet, None) {
        eprintln!("lab: no cgroups in this host: {}", io::Error::from(cause));
    }
    if at("/dev/shm").is_dir() {
        mount("tmpfs", at("/dev/shm"), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")
            .doing("mount /dev/shm")?;
    }
    make_directory(&at("/run"))?;
    mount("tmpfs", at("/run"), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755").doing("mount /run")?;
    same_directories("/run", &at("/run"));
    make_directory(&at("/run/tandem"))?;

    let old = at("/.old");
    make_directory(&old)?;
    pivot_root(&new, &old).doing("change to the new root")?;
    rustix::process::chdir("/").doing("enter the new root")?;
    unmount("/.old", UnmountFlags::DETACH).doing("let go of the old root")?;
    // Only the mount point is left of it; an empty directory that stays harms nobody.
    let _ = fs::remove_dir("/.old");
    Ok(())
}

/// Makes each entry of `from` appear in `to`, except what [`build`] makes anew.
fn take_over(from: &Path, to: &Path, own: &Path) -> Result<(), LabError> {
    const NEW: [&str; 5] = ["/proc", "/sys", "/run", "/var/lib/tandem", "/etc/tandem"];
    for entry in fs::read_dir(from).doing(format!("read {}", from.display()))? {
        let entry = entry.doing(format!("read {}", from.display()))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let is = |list: &[&str]| list.iter().any(|other| path == Path::new(other));
        if is(&NEW) {
            continue;
        }
        let kind = entry.file_type().doing(format!("look at {}", path.display()))?;
        if kind.is_symlink() {
            let aim = fs::read_link(&path).doing(format!("read {}", path.display()))?;
            symlink(aim, &target).doing(format!("link {}", target.display()))?;
        } else if kind.is_dir() && is(&TAKEN_APART) {
            make_directory(&target)?;
            take_over(&path, &target, own)?;
        } else if kind.is_dir() {
            make_directory(&target)?;
            bind(&path, &target)?;
            // It holds the new root itself if the lab's directory is in it: a view into itself helps nobody.
            if let Ok(inside) = own.strip_prefix(&path) {
                let _ = unmount(target.join(inside).join("root"), UnmountFlags::DETACH);
            }
        } else if kind.is_file() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            fs::write(&target, "").doing(format!("make {}", target.display()))?;
            bind(&path, &target)?;
        }
    }
    Ok(())
}

/// Binds with everything below; what cannot be bound is left empty, and said so.
fn bind(from: &Path, to: &Path) -> Result<(), LabError> {
    match mount_bind_recursive(from, to) {
        // It vanished after it was listed: this machine's own business.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        bound => bound.doing(format!("bind {}", from.display())),
    }
}

/// Makes the directories that packages expect right below `/run`, each with its owner (tmpfiles.d(5) made the originals).
fn same_directories(from: &str, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let target: PathBuf = to.join(entry.file_name());
        if !meta.is_dir() || fs::create_dir(&target).is_err() {
            continue;
        }
        // In a user namespace other owners do not exist; the directory is then the user's, like everything else.
        let _ = chown(&target, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())));
        let _ = chmod(&target, Mode::from_raw_mode(meta.mode() & 0o7777));
    }
}

fn make_directory(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).doing(format!("make {}", path.display()))
}
