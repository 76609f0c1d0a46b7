//! Stops and continues every process of a host.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{LabError, error::Doing};

/// On a machine that does far too much.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

/// Sends SIGSTOP to everything in the process id namespace of `first`, until no new process is found.
pub(crate) fn stop(first: Pid) -> Result<(), LabError> {
    let mut stopped = BTreeSet::new();
    // A process that was starting another one when it was stopped leaves one to find; each round stops all found, so
    // that the rounds end. The bound is against a fault here, not for use.
    for _ in 0..1_000 {
        let found: BTreeSet<i32> = processes(first)?.into_iter().collect();
        let new: Vec<i32> = found.difference(&stopped).copied().collect();
        if new.is_empty() {
            return wait_stopped(&stopped);
        }
        for pid in new {
            signal(pid, Signal::STOP)?;
            stopped.insert(pid);
        }
    }
    Err(LabError::Refused("the host starts processes faster than they can be stopped".into()))
}

/// A signal stops a process when that is next scheduled: waits until all are, or cannot run anyway.
fn wait_stopped(pids: &BTreeSet<i32>) -> Result<(), LabError> {
    let deadline = Instant::now() + STOPPED_WITHIN;
    loop {
        let running = pids.iter().find(|pid| runs(**pid));
        match running {
            None => return Ok(()),
            Some(pid) if Instant::now() > deadline => {
                return Err(LabError::Refused(format!("process {pid} does not stop")));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Whether any thread of `pid` is neither stopped, nor at its end, nor in a wait that no signal ends (proc(5)).
fn runs(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default()).any(|stat| {
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        matches!(state, Some('R' | 'S'))
    })
}

/// Sends SIGCONT to all of them.
pub(crate) fn go_on(first: Pid) -> Result<(), LabError> {
    processes(first)?.into_iter().try_for_each(|pid| signal(pid, Signal::CONT))
}

fn signal(pid: i32, signal: Signal) -> Result<(), LabError> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    match kill_process(pid, signal) {
        // It ended meanwhile.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        sent => sent.doing(format!("signal process {}", pid.as_raw_nonzero())),
    }
}

/// Everything in the process id namespace of `first`, and in those below it, as this machine numbers it.
fn processes(first: Pid) -> Result<Vec<i32>, LabError> {
    let namespace = namespace(first.as_raw_nonzero().get()).doing("look at the host's first process")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").doing("read /proc")? {
        let entry = entry.doing("read /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that ended meanwhile, or another user's, has no readable namespace; neither is of this host.
        if self::namespace(pid).is_ok_and(|other| other == namespace) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn namespace(pid: i32) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid"))
}
