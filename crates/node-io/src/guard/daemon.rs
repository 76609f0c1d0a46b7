//! The guard's own process.

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd, OwnedFd},
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
    mm::{MlockAllFlags, mlockall},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with},
    time::{TimerfdClockId, TimerfdFlags, Timespec, timerfd_create},
};
use std::{
    convert::Infallible,
    io::{self, Write},
    path::Path,
};
use tandem_base::{Duration, Instant};

use super::{
    protocol::{MESSAGE_MAX, Refusal, Reply, Request, encode, length},
    slot::{Slot, Target},
};
use crate::{
    clock::{now, set_timer},
    proc_table::ProcTable,
};

/// The most services of one node.
const SLOTS: usize = 128;
/// The most agents that talk at once: one, its successor, and somebody who looks.
const CONNECTIONS: usize = 4;
/// How often freezing is asserted while it lasts: each time reads the process table, at real-time priority.
const ASSERT_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Below the kernel's own watchdog threads, above everything ordinary.
const PRIORITY: i32 = 50;

/// Runs the guard of one node on the unix socket at `socket`, until it is told to end. Call it first thing in a process
/// of its own, before any thread or runtime exists; it becomes the leader of its own session.
///
/// A second guard on the same socket ends at once, successfully: the first one is in charge.
///
/// # Errors
///
/// The socket, its lock file `<socket>.lock` or `/proc` cannot be opened. Locked memory and real-time priority are taken
/// where the privileges allow; [`super::GuardStatus`] says what was not.
pub fn run(socket: &Path) -> io::Result<()> {
    // Refused for a group leader, which is as good.
    let _ = rustix::process::setsid();
    let lock = rustix::fs::open(
        socket.with_extension("lock"),
        OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(()),
        other => other?,
    }
    let mut guard = Guard::new(socket)?;
    let ended = guard.serve();
    drop(lock);
    match ended {
        Err(End::Asked) => Ok(()),
        Err(End::Failed(error)) => Err(error),
    }
}

enum End {
    Asked,
    Failed(io::Error),
}

impl<E: Into<io::Error>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Connection {
    stream: OwnedFd,
    received: [u8; MESSAGE_MAX],
    filled: usize,
}

struct Guard {
    listener: OwnedFd,
    timer: OwnedFd,
    table: ProcTable,
    slots: Vec<Slot>,
    connections: Vec<Connection>,
    deadline: Instant,
    realtime: bool,
    locked: bool,
}

impl Guard {
    fn new(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Whoever can open the socket can thaw: nobody but our own user may.
        let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = SocketAddrUnix::new(path).and_then(|address| bind(&listener, &address));
        rustix::process::umask(mask);
        bound?;
        listen(&listener, CONNECTIONS as i32)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self {
            listener,
            timer,
            table: ProcTable::new()?,
            slots: Vec::with_capacity(SLOTS),
            connections: Vec::with_capacity(CONNECTIONS),
            deadline: Instant::ZERO,
            // Last, so that all that was allocated above is locked too.
            realtime: take_real_time(),
            locked: mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).is_ok(),
        })
    }

    /// The deadline is looked at before every request and after every sleep.
    fn serve(&mut self) -> Result<Infallible, End> {
        loop {
            self.enforce();
            let (listens, reads) = self.sleep()?;
            self.enforce();
            // From the last to the first: removing one moves none that is still to be looked at.
            for index in (0..self.connections.len()).rev() {
                if reads[index] && !self.read(index)? {
                    self.connections.swap_remove(index);
                }
            }
            if listens {
                self.accept()?;
            }
        }
    }

    /// Freezes everything once the lease is over, and again whatever was frozen before.
    fn enforce(&mut self) {
        let over = now() >= self.deadline;
        for slot in &mut self.slots {
            if over || slot.frozen {
                if over && !slot.frozen {
                    // Nothing is allocated: standard error is not buffered.
                    let _ = writeln!(io::stderr(), "the lease is over: {} is frozen", slot.name());
                }
                if let Err(error) = slot.freeze(&mut self.table) {
                    let _ = writeln!(io::stderr(), "{} could not be frozen: {error}", slot.name());
                }
            }
        }
    }

    fn sleep(&self) -> Result<(bool, [bool; CONNECTIONS]), End> {
        let frozen = self.slots.iter().any(|slot| slot.frozen);
        let nothing = self.timer.as_fd();
        let mut polled: [PollFd<'_>; 2 + CONNECTIONS] =
            core::array::from_fn(|_| PollFd::from_borrowed_fd(nothing, PollFlags::empty()));
        polled[0] = PollFd::new(&self.timer, PollFlags::IN);
        let room = self.connections.len() < CONNECTIONS;
        polled[1] = PollFd::new(&self.listener, if room { PollFlags::IN } else { PollFlags::empty() });
        for (slot, connection) in polled[2..].iter_mut().zip(&self.connections) {
            *slot = PollFd::new(&connection.stream, PollFlags::IN);
        }
        match poll(&mut polled[..2 + self.connections.len()], frozen.then_some(&ASSERT_EVERY)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok((false, [false; CONNECTIONS])),
            Err(error) => return Err(error.into()),
        }
        if !polled[0].revents().is_empty() {
            // Which deadline it was does not matter, the clock is read anyway.
            let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        }
        Ok((!polled[1].revents().is_empty(), core::array::from_fn(|index| !polled[2 + index].revents().is_empty())))
    }

    fn accept(&mut self) -> Result<(), End> {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => self.connections.push(Connection { stream, received: [0; MESSAGE_MAX], filled: 0 }),
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR | Errno::MFILE | Errno::NFILE) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Answers what came on a connection; false when it is over, or breaks the protocol.
    fn read(&mut self, index: usize) -> Result<bool, End> {
        let connection = &mut self.connections[index];
        let free = &mut connection.received[connection.filled..];
        match rustix::io::read(&connection.stream, free) {
            Ok(0) => return Ok(false),
            Ok(length) => connection.filled += length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(_) => return Ok(false),
        }
        loop {
            let connection = &self.connections[index];
            let Some(length) = length(&connection.received[..connection.filled]) else { return Ok(true) };
            if length > MESSAGE_MAX - 2 {
                return Ok(false);
            }
            if connection.filled < 2 + length {
                return Ok(true);
            }
            let received = connection.received;
            let ended =
                matches!(postcard::from_bytes(&received[2..2 + length]), Ok(Request::End)) && self.slots.is_empty();
            let mut buffer = [0; MESSAGE_MAX];
            let reply = match postcard::from_bytes(&received[2..2 + length]) {
                Ok(request) => self.answer(request),
                Err(_) => Reply::Refused(Refusal::Malformed),
            };
            let bytes = encode(&reply, &mut buffer).expect("the longest reply holds one name");
            let connection = &mut self.connections[index];
            // A short message goes out whole, or whoever does not read his replies has filled the socket.
            if rustix::io::write(&connection.stream, bytes) != Ok(bytes.len()) {
                return Ok(false);
            }
            connection.received.copy_within(2 + length..connection.filled, 0);
            connection.filled -= 2 + length;
            if ended {
                return Err(End::Asked);
            }
        }
    }

    fn answer(&mut self, request: Request<'_>) -> Reply<'_> {
        let done = match request {
            Request::RegisterCgroup { service, path } => {
                Target::cgroup(path).and_then(|target| self.register(service, target))
            }
            Request::RegisterSession { service, leader, start_time } => {
                self.register(service, Target::Session { leader, start_time })
            }
            Request::Extend { until } => self.extend(Instant::from_nanos(until)),
            Request::Thaw { service } => self.thaw(service),
            Request::Forget { service } => {
                self.slots.retain(|slot| slot.name() != service);
                Ok(())
            }
            Request::Hello => {
                return Reply::Hello {
                    pid: std::process::id(),
                    deadline: self.deadline.as_nanos(),
                    slots: self.slots.len() as u16,
                    realtime: self.realtime,
                    locked: self.locked,
                };
            }
            Request::Slot { index } => {
                return self
                    .slots
                    .get(usize::from(index))
                    .map_or(Reply::EmptySlot, |slot| Reply::Slot { service: slot.name(), frozen: slot.frozen });
            }
            Request::End if self.slots.is_empty() => Ok(()),
            Request::End => Err(Refusal::Busy),
        };
        done.map_or_else(Reply::Refused, |()| Reply::Done)
    }

    fn register(&mut self, service: &str, target: Target) -> Result<(), Refusal> {
        let mut slot = Slot::new(service, target)?;
        let over = now() >= self.deadline;
        if over {
            slot.freeze(&mut self.table).map_err(|_| Refusal::System)?;
        }
        match self.slots.iter().position(|slot| slot.name() == service) {
            Some(index) => {
                // An agent that starts registers what it adopts; what is frozen stays so until it is thawed.
                slot.frozen |= self.slots[index].frozen;
                self.slots[index] = slot;
            }
            None if self.slots.len() == SLOTS => return Err(Refusal::Full),
            None => self.slots.push(slot),
        }
        Ok(())
    }

    fn extend(&mut self, until: Instant) -> Result<(), Refusal> {
        self.deadline = self.deadline.max(until);
        set_timer(&self.timer, Some(self.deadline)).map_err(|_| Refusal::Malformed)?;
        // The extension is taken, and says nothing if it came too late.
        if now() >= self.deadline { Err(Refusal::LeaseOver) } else { Ok(()) }
    }

    fn thaw(&mut self, service: &str) -> Result<(), Refusal> {
        let slot = self.slots.iter_mut().find(|slot| slot.name() == service).ok_or(Refusal::Unknown)?;
        if now() + Duration::from_millis(1) >= self.deadline {
            return Err(Refusal::LeaseOver);
        }
        slot.thaw(&mut self.table).map_err(|_| Refusal::System)
    }
}

fn take_real_time() -> bool {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the parameters live across the call, which only reads them; 0 is this process.
    let real_time = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) == 0 };
    // The guard is the last to be killed for memory; refused without privileges.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    real_time
}
