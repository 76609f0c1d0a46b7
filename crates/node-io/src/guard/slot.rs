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
                table.forget_seen();
                for _round in 0..ROUNDS_MAX {
                    table.scan()?;
                    table.mark(*leader, *start_time);
                    // Who was told and does not show it yet stops before he next runs. One can stay so: the parent in a
                    // vfork(2) waits, uninterruptibly, for a child that is stopped.
                    let mut found = false;
                    while let Some(pid) = table.next_unseen_runnable() {
                        found = true;
                        signal(pid, Signal::STOP)?;
                    }
                    if !found {
                        break;
                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    /// A tree that forks all the time, its shell in a vfork half of it.
    #[test]
    fn a_tree_that_forks_is_caught_whole_and_let_go_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let beat = directory.path().join("beat");
        let script = format!("while :; do (echo >> {0}); env true; done & while :; do env true; done", beat.display());
        let mut service = Command::new("sh");
        service.args(["-c", &script]);
        // SAFETY: one system call between fork and exec.
        unsafe { service.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
        let mut service = service.spawn().expect("there is a shell");
        let leader = service.id();
        let start_time = crate::proc_table::start_time(leader).expect("/proc is readable").expect("it lives");
        let mut slot = Slot::new("svc", Target::Session { leader, start_time }).expect("the name is short");
        let mut table = ProcTable::new().expect("/proc is readable");
        let beats = || std::fs::metadata(&beat).map_or(0, |beat| beat.len());
        for _time in 0..5 {
            let before = beats();
            while beats() < before + 5 {
                std::thread::yield_now();
            }
            slot.freeze(&mut table).expect("they are ours");
            // Until all have taken their stop: only a vfork's parent is left that is not stopped.
            loop {
                table.scan().expect("/proc is readable");
                table.mark(leader, start_time);
                if table.members().all(|process| !process.is_alive() || matches!(process.state, b'T' | b'D')) {
                    break;
                }
            }
            let frozen = beats();
            for _look in 0..20 {
                slot.freeze(&mut table).expect("they are ours");
                assert_eq!(beats(), frozen);
            }
            slot.thaw(&mut table).expect("they are ours");
        }
        slot.freeze(&mut table).expect("they are ours");
        for process in table.members() {
            signal(process.pid, Signal::KILL).expect("it is ours");
        }
        service.wait().expect("it is our child");
    }
}
