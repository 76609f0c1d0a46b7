//! The processes of this machine, read without allocating, so that the guard can use it at a lease's end.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, RawDir, SeekFrom, openat, seek},
    io::{Errno, read},
};
use std::{io, mem::MaybeUninit};

/// The most processes that are looked at; `kernel.pid_max` is 32,768 on small machines. Beyond it the table is not
/// grown: the rest is found in the next scan, when those found now are stopped or gone.
const PROCESSES_MAX: usize = 32_768;

/// One process, from `/proc/<pid>/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// In clock ticks after the boot.
    pub(crate) start_time: u64,
    /// Belongs to the service that was last marked.
    pub(crate) member: bool,
}

impl Process {
    /// Whether it can run, or will when what it waits for comes: not stopped, not dead.
    pub(crate) fn can_run(&self) -> bool {
        !matches!(self.state, b'T' | b't' | b'Z' | b'X' | b'x')
    }

    /// Whether it is more than an entry that nobody has waited for yet.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Call [`scan`](Self::scan), then [`mark`](Self::mark), then read [`members`](Self::members).
#[derive(Debug)]
pub(crate) struct ProcTable {
    proc: OwnedFd,
    processes: Vec<Process>,
    /// Number and start of those that were handed out since [`forget_seen`](Self::forget_seen).
    seen: Vec<(u32, u64)>,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl ProcTable {
    /// Allocates all it will ever need.
    pub(crate) fn new() -> io::Result<Self> {
        let proc = rustix::fs::open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let seen = Vec::with_capacity(PROCESSES_MAX);
        Ok(Self { proc, processes: Vec::with_capacity(PROCESSES_MAX), seen, buffer: Box::new_uninit_slice(32 << 10) })
    }

    /// Reads all processes.
    pub(crate) fn scan(&mut self) -> io::Result<()> {
        self.processes.clear();
        seek(&self.proc, SeekFrom::Start(0))?;
        let mut entries = RawDir::new(&self.proc, &mut self.buffer);
        while let Some(entry) = entries.next() {
            let name = entry?;
            let Some(pid) = number(name.file_name().to_bytes()) else { continue };
            if self.processes.len() == self.processes.capacity() {
                break;
            }
            // A process that ended meanwhile is none.
            if let Some(process) = stat(&self.proc, pid as u32)? {
                self.processes.push(process);
            }
        }
        // The kernel lists them in this order; sorting what is sorted costs nothing, and the search below needs it.
        self.processes.sort_unstable_by_key(|process| process.pid);
        Ok(())
    }

    /// Marks the processes of a service: what is in the leader's session or process group, and all descendants.
    ///
    /// If the leader's number belongs to another process now (another start time), then its session and group are gone
    /// as well: the kernel gives no number away that a session or group still has.
    pub(crate) fn mark(&mut self, leader: u32, start_time: u64) {
        let taken = self.processes.iter().any(|process| process.pid == leader && process.start_time != start_time);
        for process in &mut self.processes {
            process.member = !taken && (process.pid == leader || process.session == leader || process.group == leader);
        }
        self.spread();
    }

    /// Marks these processes too, where they still are what they were, and all their descendants.
    pub(crate) fn mark_also(&mut self, known: &[(u32, u64)]) {
        for process in &mut self.processes {
            process.member |= known.contains(&(process.pid, process.start_time));
        }
        self.spread();
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.member)
    }

    /// Begins a new round of [`next_unseen_runnable`](Self::next_unseen_runnable).
    pub(crate) fn forget_seen(&mut self) {
        self.seen.clear();
    }

    /// A member that can run and was not handed out yet.
    pub(crate) fn next_unseen_runnable(&mut self) -> Option<u32> {
        if self.seen.len() == self.seen.capacity() {
            return None;
        }
        let seen = &self.seen;
        let found = self.processes.iter().find(|process| {
            process.member && process.can_run() && !seen.contains(&(process.pid, process.start_time))
        })?;
        self.seen.push((found.pid, found.start_time));
        Some(found.pid)
    }

    fn spread(&mut self) {
        loop {
            let mut found = false;
            for index in 0..self.processes.len() {
                let process = self.processes[index];
                if !process.member && self.find(process.parent).is_some_and(|parent| parent.member) {
                    self.processes[index].member = true;
                    found = true;
                }
            }
            if !found {
                return;
            }
        }
    }

    fn find(&self, pid: u32) -> Option<&Process> {
        let index = self.processes.binary_search_by_key(&pid, |process| process.pid).ok()?;
        Some(&self.processes[index])
    }
}

/// When process `pid` began; `None` if there is none.
pub(crate) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let proc = rustix::fs::open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(stat(&proc, pid)?.map(|process| process.start_time))
}

fn stat(proc: impl AsFd, pid: u32) -> io::Result<Option<Process>> {
    let mut path = [0; 16];
    let path = stat_path(pid, &mut path);
    let file = match openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut line = [0; 1024];
    match read(&file, &mut line) {
        Ok(length) => Ok(parse(pid, &line[..length])),
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `<pid>/stat` without allocating.
fn stat_path(pid: u32, buffer: &mut [u8; 16]) -> &[u8] {
    const TAIL: &[u8] = b"/stat";
    let mut start = buffer.len() - TAIL.len();
    buffer[start..].copy_from_slice(TAIL);
    let mut rest = pid;
    loop {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &buffer[start..];
        }
    }
}

/// `None` for a line that is not one; the command's name may hold anything, so fields count from the last `)`.
fn parse(pid: u32, line: &[u8]) -> Option<Process> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = line.get(end + 2..)?.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let parent = number(fields.next()?)? as u32;
    let group = number(fields.next()?)? as u32;
    let session = number(fields.next()?)? as u32;
    // Fields 7 to 21 lie between.
    let start_time = number(fields.nth(15)?)?;
    Some(Process { pid, state, parent, group, session, start_time, member: false })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn reads_a_hostile_command_name() {
        let line =
            b"42 (a) R 1 (b)) S 7 8 9 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 1 0 12345 1000 10 18446744073709551615";
        let process = parse(42, line).expect("the line is whole");
        let expected =
            Process { pid: 42, state: b'S', parent: 7, group: 8, session: 9, start_time: 12345, member: false };
        assert_eq!(process, expected);
        for cut in 0..60 {
            parse(42, &line[..cut]);
        }
    }

    #[test]
    fn builds_paths_of_every_length() {
        assert_eq!(stat_path(1, &mut [0; 16]), b"1/stat");
        assert_eq!(stat_path(4_194_304, &mut [0; 16]), b"4194304/stat");
        assert_eq!(stat_path(u32::MAX, &mut [0; 16]), b"4294967295/stat");
    }

    #[test]
    fn descendants_are_members_whatever_their_session() {
        let mut child = Command::new("sh")
            .args(["-c", "setsid sh -c 'echo ready; exec sleep 1000' & wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut ready = [0; 6];
        io::Read::read_exact(child.stdout.as_mut().expect("it is piped"), &mut ready).expect("the grandchild says so");
        let mut table = ProcTable::new().expect("there is /proc");
        table.scan().expect("/proc is readable");
        let began = start_time(child.id()).expect("/proc is readable").expect("it lives");
        table.mark(child.id(), began);
        assert_eq!(table.members().count(), 2, "{:?}", table.members().collect::<Vec<_>>());
        table.mark(child.id(), began + 1);
        assert_eq!(table.members().count(), 0, "a number that was given away");
        table.mark(child.id(), began);
        for process in table.members() {
            let pid = rustix::process::Pid::from_raw(process.pid as i32).expect("it is not zero");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
        }
        child.wait().expect("it is our child");
    }
}
