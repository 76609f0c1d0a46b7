//! One service in the guard's memory.

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    io::pwrite,
    process::{Pid, Signal, kill_process},
};
use std::io;

use super::protocol::Refusal;
use crate::proc_table::ProcTable;

/// Bytes of the longest service name.
const NAME_MAX: usize = 64;
/// How often the process table is read until no process is found that still runs. Each round stops all it finds; what
/// needs more than these forks as fast as we look, and is met again by the next assertion.
const ROUNDS_MAX: usize = 8;
/// Between two rounds. A process that was told to stop shows it only once it was given a processor, and this one, which
/// runs at real-time priority, must not keep it from there.
const ROUND_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Slot {
    name: [u8; NAME_MAX],
    name_length: usize,
    target: Target,
    pub(super) frozen: bool,
}

#[derive(Debug)]
pub(super) enum Target {
    /// `cgroup.freeze`, open, so that freezing is one write.
    Cgroup(OwnedFd),
    Session {
        leader: u32,
        start_time: u64,
    },
}

impl Target {
    pub(super) fn cgroup(path: &str) -> Result<Self, Refusal> {
        let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let freeze = directory.and_then(|directory| {
            rustix::fs::openat(directory, "cgroup.freeze", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        });
        freeze.map(Self::Cgroup).map_err(|_| Refusal::Cgroup)
    }
}

impl Slot {
    pub(super) fn new(name: &str, target: Target) -> Result<Self, Refusal> {
        let mut bytes = [0; NAME_MAX];
        bytes.get_mut(..name.len()).ok_or(Refusal::Malformed)?.copy_from_slice(name.as_bytes());
        Ok(Self { name: bytes, name_length: name.len(), target, frozen: false })
    }

    pub(super) fn name(&self) -> &str {
        std::str::from_utf8(&self.name[..self.name_length]).expect("the name was copied whole from text")
    }

    /// Stops every process of the service. May be repeated.
    pub(super) fn freeze(&mut self, table: &mut ProcTable) -> io::Result<()> {
        self.frozen = true;
        match &self.target {
            Target::Cgroup(freeze) => Ok(pwrite(freeze, b"1", 0).map(drop)?),
            Target::Session { leader, start_time } => {
                for _round in 0..ROUNDS_MAX {
                    table.scan()?;
                    table.mark(*leader, *start_time);
                    let mut found = false;
                    for process in table.members().filter(|process| process.can_run()) {
                        found = true;
                        signal(process.pid, Signal::STOP)?;
                    }
                    // One in an uninterruptible sleep shows no stop until it wakes, and then stops before it runs: the
                    // bound ends this for it, and the next assertion looks again.
                    if !found {
                        break;
                    }
                    std::thread::sleep(ROUND_PAUSE);
                }
                Ok(())
            }
        }
    }

    /// Lets every process of the service run. May be repeated.
    pub(super) fn thaw(&mut self, table: &mut ProcTable) -> io::Result<()> {
        match &self.target {
            Target::Cgroup(freeze) => pwrite(freeze, b"0", 0).map(drop)?,
            Target::Session { leader, start_time } => {
                table.scan()?;
                table.mark(*leader, *start_time);
                // Not only those that show as stopped: SIGCONT also takes back a SIGSTOP that has not worked yet.
                for process in table.members().filter(|process| process.is_alive()) {
                    signal(process.pid, Signal::CONT)?;
                }
            }
        }
        self.frozen = false;
        Ok(())
    }
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid as i32) else { return Ok(()) };
    match kill_process(pid, signal) {
        // It ended meanwhile.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}
