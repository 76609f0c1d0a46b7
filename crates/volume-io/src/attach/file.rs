//! A volume as a file, by FUSE.

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{AttachError, mount, one_file::OneFile};
use crate::{
    export::Export,
    nbd::client::{Client, Unreached},
    signals,
};

/// How long a start waits for the server to serve the promotion.
const START_MAX: Duration = Duration::from_secs(30);

/// What to attach, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAttach {
    /// The volume server's socket.
    pub nbd_socket: PathBuf,
    /// Which volume, of which promotion.
    pub export: Export,
    /// Where the directory with the one file, named like the volume, is mounted. Created when missing; a dead mount of a
    /// killed attachment is taken away.
    pub mountpoint: PathBuf,
}

/// The line of JSON that an attach driver prints on stdout once the attachment can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// The file or the block device.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

impl FileAttach {
    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.mountpoint.join(self.export.volume.as_str())
    }
}

/// Attaches, prints [`Ready`] on stdout, serves until SIGTERM or SIGINT, then unmounts (lazily if busy).
///
/// Blocks; the process belongs to it: it takes the signals. When this process ends, however, the file is gone: users that
/// still have it open get ENOTCONN.
///
/// # Errors
///
/// [`AttachError`] when the attachment cannot be made. Once it stands, trouble with the volume server is a stall, and
/// the end of the promotion an EIO for whoever uses the file, never an end of this function.
pub fn run(attach: &FileAttach) -> Result<(), AttachError> {
    let signals = signals::termination().map_err(|cause| system(attach, "take signals for", cause))?;
    let mounted = Mounted::new(attach)?;
    announce(&Ready { ready: true, path: attach.path(), size: mounted.size });
    signals::wait(&signals);
    mounted.end();
    Ok(())
}

/// Prints the line that says the attachment can be used.
pub(super) fn announce(ready: &Ready) {
    let mut out = io::stdout().lock();
    let line = serde_json::to_string(ready).expect("a path and a number");
    // Nobody who waits for the line is a reason to end.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A mounted file.
pub(super) struct Mounted {
    pub(super) size: u64,
    mountpoint: PathBuf,
    _session: BackgroundSession,
}

impl Mounted {
    pub(super) fn new(attach: &FileAttach) -> Result<Self, AttachError> {
        let (client, size) = connect(attach)?;
        mount::prepare(&attach.mountpoint).map_err(|cause| system(attach, "prepare", cause))?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("tandem:{}", attach.export)),
            MountOption::Subtype("tandem".into()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        // Services have users of their own; a user who is not root may share only where /etc/fuse.conf lets him.
        config.acl = if rustix::process::geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
        let name = attach.export.volume.to_string();
        let session = Session::new(OneFile::new(client, name, size), &attach.mountpoint, &config)
            .and_then(Session::spawn)
            .map_err(|cause| system(attach, "mount", cause))?;
        Ok(Self { size, mountpoint: attach.mountpoint.clone(), _session: session })
    }

    /// Fails whatever waits.
    pub(super) fn abort(&self) {
        mount::abort(&self.mountpoint);
    }

    /// Takes the mount away, also while the file is in use. Whatever is in flight then ends with the process.
    pub(super) fn end(self) {
        if let Err(error) = mount::detach(&self.mountpoint) {
            tracing::warn!(path = %self.mountpoint.display(), %error, "cannot unmount");
        }
    }
}

fn connect(attach: &FileAttach) -> Result<(Client, u64), AttachError> {
    let started = Instant::now();
    loop {
        let why = match Client::connect(attach.nbd_socket.clone(), attach.export.clone()) {
            Ok(connected) => return Ok(connected),
            Err(Unreached::NotNow(_)) if started.elapsed() < START_MAX => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            Err(Unreached::NotNow(why) | Unreached::Over(why) | Unreached::Never(why)) => why,
        };
        return Err(AttachError::NotServed { export: attach.export.clone(), socket: attach.nbd_socket.clone(), why });
    }
}

fn system(attach: &FileAttach, action: &'static str, cause: io::Error) -> AttachError {
    AttachError::System { action, path: attach.mountpoint.clone(), cause }
}
