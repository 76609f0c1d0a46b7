//! Mounting a volume's file system, and getting rid of it when the device stalls.

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use std::{
    ffi::{CString, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Stdio,
};
use tandem_base::Duration;
use tokio::process::Command;

use crate::{
    mkfs::FileSystem,
    mountinfo,
    os_child::{self, Ended},
};

/// How often an unmount that found the mount busy is tried again.
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// What to mount where.
#[derive(Debug, Clone)]
pub struct MountSpec {
    /// The block device.
    pub device: PathBuf,
    /// The directory; made if it is not there.
    pub target: PathBuf,
    /// The file system's type.
    pub file_system: FileSystem,
    /// Mount options as in fstab(5), tried in this order until the kernel takes one; none means the defaults.
    pub options: Vec<String>,
    /// For the check before and the mount itself.
    pub timeout: Duration,
}

/// What an unmount came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing was mounted there.
    NotMounted,
    /// Everything is written and the file system is closed.
    Clean,
    /// It is out of sight, and is closed when its last user lets go or its device answers. Nothing says that it was
    /// written out: for a node that lost the volume, never before handing one over.
    Lazy,
}

/// Why a file system could not be mounted, made or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Something else is mounted there.
    #[error("{target} has {found} mounted, not {device}")]
    Occupied {
        /// The directory.
        target: PathBuf,
        /// What is mounted.
        found: PathBuf,
        /// What should be.
        device: PathBuf,
    },
    /// A file or directory.
    #[error("cannot {what} {path}")]
    Path {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused every set of options.
    #[error("cannot mount {device} as {file_system} at {target}")]
    Refused {
        /// The device.
        device: PathBuf,
        /// The type.
        file_system: FileSystem,
        /// The directory.
        target: PathBuf,
        /// The kernel's last answer.
        #[source]
        cause: io::Error,
    },
    /// A program of the file system's tools could not be run.
    #[error("cannot run {program}")]
    Tool {
        /// The program.
        program: String,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// The file system's tools found damage that needs a person, or failed.
    #[error("{program} {device} ended with {code:?}: {said}")]
    Damaged {
        /// The program.
        program: String,
        /// The device.
        device: PathBuf,
        /// Its exit code.
        code: Option<i32>,
        /// Its last line.
        said: String,
    },
    /// The device is neither blank nor the file system that is wanted.
    #[error("{device} is not blank: it holds {found}, not {wanted}")]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What was found.
        found: String,
        /// The file system that is wanted.
        wanted: FileSystem,
    },
    /// The device does not answer.
    #[error("{what} {path} took longer than {after}")]
    TimedOut {
        /// The operation.
        what: &'static str,
        /// The device or directory.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// Somebody still uses the file system.
    #[error("{target} is still in use after {after}")]
    Busy {
        /// The directory.
        target: PathBuf,
        /// How long was waited.
        after: Duration,
    },
}

impl MountError {
    /// One thing the operator can try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Tool { .. } => Some("install the file system's tools: e2fsprogs, xfsprogs or btrfs-progs"),
            Self::NotBlank { .. } => {
                Some("if the data is not needed, clear the device with `wipefs --all` and start again")
            }
            Self::Damaged { .. } => Some("move the service to the other site, or check the file system by hand"),
            Self::Refused { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                Some("mounting needs root")
            }
            Self::Busy { .. } => Some("`fuser -vm` on the directory names who uses it"),
            _ => None,
        }
    }
}

/// Checks the file system where its type asks for it (`e2fsck -p`; xfs and btrfs replay their logs at the mount), and
/// mounts it. Mounted already, from the same device, is success.
///
/// # Errors
///
/// [`MountError`]; nothing is mounted then, or after [`MountError::TimedOut`] the kernel may still come to it.
pub async fn mount(spec: &MountSpec) -> Result<(), MountError> {
    let MountSpec { device, target, file_system, .. } = spec;
    let path = |what, path: &Path| {
        let path = path.to_owned();
        move |cause| MountError::Path { what, path, cause }
    };
    fs::create_dir_all(target).map_err(path("make", target))?;
    let target = &fs::canonicalize(target).map_err(path("find", target))?;
    if let Some(mounted) = mountinfo::at(target).map_err(path("read", Path::new("/proc/self/mountinfo")))? {
        return if same_device(&mounted.source, device) {
            Ok(())
        } else {
            Err(MountError::Occupied { target: target.clone(), found: mounted.source, device: device.clone() })
        };
    }
    if *file_system == FileSystem::Ext4 {
        check_ext4(device, spec.timeout).await?;
    }
    let c_device = c_path(device)?;
    let c_target = c_path(target)?;
    let c_type = CString::new(file_system.to_string()).expect("the names of file systems have no nul");
    let defaults = [String::new()];
    let sets = if spec.options.is_empty() { &defaults[..] } else { &spec.options };
    let mut last = None;
    for set in sets {
        let (flags, data) = flags_and_data(set);
        let data = CString::new(data).map_err(|error| path("mount", device)(error.into()))?;
        let data = (!data.is_empty()).then_some(data);
        let (source, at, kind) = (&c_device, &c_target, &c_type);
        let called = os_child::call(spec.timeout, move || {
            let options = data.as_deref();
            rustix::mount::mount(source.as_c_str(), at.as_c_str(), kind.as_c_str(), flags, options).map_err(Into::into)
        });
        match called.await.map_err(path("mount", device))? {
            Ended::Returned(Ok(())) => return Ok(()),
            Ended::Returned(Err(cause)) => last = Some(cause),
            Ended::TimedOut => {
                return Err(MountError::TimedOut { what: "mounting", path: device.clone(), after: spec.timeout });
            }
        }
    }
    Err(MountError::Refused {
        device: device.clone(),
        file_system: *file_system,
        target: target.clone(),
        cause: last.expect("there is at least one set of options, and every other way out returned"),
    })
}

/// Unmounts what is at `target`, waiting for at most `timeout` until nobody uses it and all is written.
///
/// With `lazy`, what does not end in time is detached all the same (`MNT_DETACH`): for a node that has lost the volume,
/// whose device fails or stalls for ever. Without it, for a release, it is [`MountError::Busy`] or
/// [`MountError::TimedOut`].
///
/// # Errors
///
/// [`MountError`].
pub async fn unmount(target: &Path, timeout: Duration, lazy: bool) -> Result<Unmounted, MountError> {
    let path = |what| move |cause| MountError::Path { what, path: target.to_owned(), cause };
    // Not canonicalized: that would ask the file system itself, which may hang. Its parent answers.
    let target_path = resolve_parent(target);
    if mountinfo::at(&target_path).map_err(path("look for"))?.is_none() {
        return Ok(Unmounted::NotMounted);
    }
    let c_target = c_path(&target_path)?;
    let deadline = tokio::time::Instant::now() + timeout.into();
    let failed = loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let at = &c_target;
        let called = os_child::call(left.into(), move || {
            rustix::mount::unmount(at.as_c_str(), UnmountFlags::NOFOLLOW).map_err(Into::into)
        });
        match called.await.map_err(path("unmount"))? {
            Ended::Returned(Ok(())) => return Ok(Unmounted::Clean),
            Ended::Returned(Err(error)) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                return Ok(Unmounted::NotMounted);
            }
            Ended::Returned(Err(error)) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                if tokio::time::Instant::now() + BUSY_PAUSE >= deadline {
                    break MountError::Busy { target: target.to_owned(), after: timeout };
                }
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            Ended::Returned(Err(cause)) => break path("unmount")(cause),
            Ended::TimedOut => {
                break MountError::TimedOut { what: "unmounting", path: target.to_owned(), after: timeout };
            }
        }
    };
    if !lazy {
        return Err(failed);
    }
    tracing::warn!(target = %target.display(), error = &failed as &dyn std::error::Error, "detaching the mount unwritten");
    let at = &c_target;
    let called = os_child::call(Duration::from_secs(5), move || {
        rustix::mount::unmount(at.as_c_str(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(Into::into)
    });
    match called.await.map_err(path("unmount"))? {
        Ended::Returned(Ok(())) => Ok(Unmounted::Lazy),
        Ended::Returned(Err(error)) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(Unmounted::Lazy),
        Ended::Returned(Err(cause)) => Err(path("detach")(cause)),
        Ended::TimedOut => Err(failed),
    }
}

/// Writes what is dirty in the file system at `target` to its device (syncfs(2)) while it goes on serving, so that an
/// unmount soon afterwards has little left to write.
///
/// # Errors
///
/// [`MountError::Path`] with what the kernel said, [`MountError::TimedOut`]; what is left dirty is written by the unmount.
pub async fn sync(target: &Path, timeout: Duration) -> Result<(), MountError> {
    let path = |cause| MountError::Path { what: "write out", path: target.to_owned(), cause };
    let at = c_path(target)?;
    let called = os_child::call(timeout, || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(at.as_c_str(), flags, Mode::empty())?;
        rustix::fs::syncfs(directory).map_err(Into::into)
    });
    match called.await.map_err(path)? {
        Ended::Returned(Ok(())) => Ok(()),
        Ended::Returned(Err(cause)) => Err(path(cause)),
        Ended::TimedOut => Err(MountError::TimedOut { what: "writing out", path: target.to_owned(), after: timeout }),
    }
}

/// Repairs what needs no person (`e2fsck -p`): replays the journal, checks fully only what is marked.
async fn check_ext4(device: &Path, timeout: Duration) -> Result<(), MountError> {
    let arguments = ["-p".into(), device.as_os_str().to_owned()];
    let (code, said) = tool("e2fsck", &arguments, device, timeout).await?;
    match code {
        // e2fsck(8): 1 errors corrected; 2 corrected and the machine should be rebooted, if it was mounted: it was not.
        Some(0..=2) => Ok(()),
        code => Err(MountError::Damaged { program: "e2fsck -p".into(), device: device.to_owned(), code, said }),
    }
}

/// Runs a program and returns its exit code and the last line it said.
pub(crate) async fn tool(
    program: &str,
    arguments: &[OsString],
    device: &Path,
    timeout: Duration,
) -> Result<(Option<i32>, String), MountError> {
    let mut command = Command::new(program);
    // The tools live where a service's PATH may not lead.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(timeout.into(), command.output()).await;
    let output = output
        .map_err(|_| MountError::TimedOut { what: "checking or making", path: device.to_owned(), after: timeout })?
        .map_err(|cause| MountError::Tool { program: program.into(), cause })?;
    let mut said = output.stdout;
    said.extend(output.stderr);
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("").trim();
    Ok((output.status.code(), last.into()))
}

/// Splits fstab options into the flags of mount(2) and what the file system itself reads.
fn flags_and_data(options: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match option {
            "defaults" | "rw" => {}
            "ro" => flags |= MountFlags::RDONLY,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "nodev" => flags |= MountFlags::NODEV,
            "nosuid" => flags |= MountFlags::NOSUID,
            "noexec" => flags |= MountFlags::NOEXEC,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

fn same_device(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

/// `target` with the links of its parent resolved, which is how the kernel lists it.
fn resolve_parent(target: &Path) -> PathBuf {
    match (target.parent().and_then(|parent| fs::canonicalize(parent).ok()), target.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => target.to_owned(),
    }
}

fn c_path(path: &Path) -> Result<CString, MountError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| MountError::Path {
        what: "use",
        path: path.to_owned(),
        cause: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_split_into_flags_and_data() {
        let (flags, data) = flags_and_data("defaults, noatime,nodev,errors=remount-ro,,data=ordered");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NODEV);
        assert_eq!(data, "errors=remount-ro,data=ordered");
    }

    #[tokio::test]
    async fn nothing_mounted_is_nothing_to_do() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let unmounted = unmount(directory.path(), Duration::from_secs(1), true).await;
        assert_eq!(unmounted.expect("it looks and finds nothing"), Unmounted::NotMounted);
    }
}
