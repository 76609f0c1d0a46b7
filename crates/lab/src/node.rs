//! The first process of every host: its `init`.

use std::{
    io::{BufRead, BufReader, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait};
use serde::{Deserialize, Serialize};

use crate::{LabError, cgroup, directory::Directory, error::Doing, namespace::CONTROL_FD, root};

/// Told to a host's first process, one JSON value per line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Start this and keep it running, as systemd's `Restart=on-failure` does.
    Keep(Vec<String>),
}

/// Answered once the root is built.
pub(crate) const READY: &str = "ready";

/// How long systemd waits before it starts a service again: `RestartSec=` of `tandem.service`.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// Runs as the first process of host `name` of the lab in `path`, until it is killed or the supervisor ends.
///
/// # Errors
///
/// When the host cannot be built; the reason is in its log, too.
pub(crate) fn run(path: &Path, name: &str) -> Result<(), LabError> {
    // Again, as the one set before `execve` does not outlive a change of privileges.
    set_parent_process_death_signal(Some(Signal::KILL)).doing("ask to die with the lab")?;
    // SAFETY: the supervisor started this process with the descriptor open, and nothing else here uses it.
    let control = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) });
    rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::CLOEXEC).doing("keep the control socket to itself")?;
    let directory = Directory::at(path);
    let spec = directory.read_spec()?;
    cgroup::enter(&directory, name);
    rustix::system::sethostname(name.as_bytes()).doing("set the host's name")?;
    root::build(&directory.host(name), &spec.binary)?;
    become_env();

    let kept = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let reaper = Arc::clone(&kept);
    std::thread::Builder::new().name("reaper".into()).spawn(move || reap(&reaper)).doing("start a thread")?;

    (&control).write_all(format!("{READY}\n").as_bytes()).doing("tell the lab that the host is built")?;
    for line in BufReader::new(&control).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Order::Keep(command)) => keep(&kept, Kept { command, pid: None }),
            Err(cause) => eprintln!("lab: {name} was told {line:?}: {cause}"),
        }
    }
    // The supervisor is gone. The kernel ends everything else in this process id namespace with its first process.
    std::process::exit(0)
}

/// A program that is started again whenever it ends.
#[derive(Debug)]
struct Kept {
    command: Vec<String>,
    pid: Option<Pid>,
}

type Shared = Arc<(Mutex<Vec<Kept>>, Condvar)>;

fn keep(shared: &Shared, mut kept: Kept) {
    // Started under the lock, so that its end cannot be seen before its process id is known.
    let mut all = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    kept.pid = start(&kept.command);
    all.push(kept);
    shared.1.notify_all();
}

fn start(command: &[String]) -> Option<Pid> {
    let (program, arguments) = command.split_first()?;
    match Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).spawn() {
        // Its end is seen by `reap`, which waits for every child.
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(cause) => {
            eprintln!("lab: cannot start {program}: {cause}");
            None
        }
    }
}

/// Waits for every process that ends here, orphans included, and starts again what is kept.
fn reap(shared: &Shared) {
    loop {
        let (pid, status) = match wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => {
                // No child at all: until the first one is started. Orphans come only from children.
                let all = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = shared.1.wait_timeout(all, Duration::from_millis(100));
                continue;
            }
        };
        let mut all = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.iter_mut().find(|kept| kept.pid == Some(pid)) {
            kept.pid = None;
            eprintln!("lab: {} ended ({status:?}), starting it again", kept.command.join(" "));
            drop(all);
            let again = Arc::clone(shared);
            // A thread, as others may end meanwhile; ends are rare.
            std::thread::spawn(move || {
                std::thread::sleep(RESTART_DELAY);
                let mut all = again.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept) = all.iter_mut().find(|kept| kept.pid.is_none()) {
                    kept.pid = start(&kept.command);
                }
            });
        }
    }
}

/// What every program of a host finds: the binary first in `PATH`.
fn become_env() {
    let path =
        std::env::var("PATH").unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    // SAFETY: no other thread was started yet.
    unsafe { std::env::set_var("PATH", format!("{}:{path}", root::BINARY_DIRECTORY)) };
}
