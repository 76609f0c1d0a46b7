//! The switch: reads every host's TAP device, and hands each frame on when its pipe says so.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeSet, BinaryHeap},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    time::{ClockId, clock_gettime},
};
use tandem_base::Instant;

use crate::{
    LabError, Topology,
    control::Frames,
    error::Doing,
    shaper::{
        QualityChange,
        frame::{self, Destination},
        pipe::{Fate, Pipe},
    },
};

/// Frames taken from one device before the next one gets its turn.
const BATCH: usize = 64;

/// Handle to the switch, whose thread ends with the process.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    state: Arc<Mutex<State>>,
    wake: Arc<OwnedFd>,
}

#[derive(Debug)]
struct State {
    /// By host; `None` while its cable is out.
    ports: Vec<Option<Arc<OwnedFd>>>,
    /// The place of each host.
    places: Vec<usize>,
    names: Vec<String>,
    /// By sending place, then receiving place.
    pipes: Vec<Vec<Pipe>>,
    /// Directed pairs of hosts between which nothing passes.
    cuts: BTreeSet<(usize, usize)>,
    frames: Frames,
    flying: BinaryHeap<Reverse<Flight>>,
    offered: u64,
    spare: Vec<Vec<u8>>,
}

/// A frame on its way.
#[derive(Debug)]
struct Flight {
    arrives: Instant,
    /// Keeps frames of one instant in order.
    number: u64,
    to: Vec<usize>,
    data: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.arrives, self.number).cmp(&(other.arrives, other.number))
    }
}

impl Switch {
    /// Starts the switch's thread, with no host plugged in.
    pub(crate) fn start(topology: &Topology, seed: u64) -> Result<Self, LabError> {
        let names: Vec<String> = topology.places().into_iter().map(str::to_owned).collect();
        let places = topology
            .hosts
            .iter()
            .map(|host| names.iter().position(|name| *name == host.place).expect("`places` lists every host's place"))
            .collect();
        let mut seeds = tandem_base::Rng::new(seed);
        let pipes = names
            .iter()
            .map(|a| names.iter().map(|b| Pipe::new(topology.quality(a, b), seeds.next_u64())).collect())
            .collect();
        let state = State {
            ports: topology.hosts.iter().map(|_| None).collect(),
            places,
            names,
            pipes,
            cuts: BTreeSet::new(),
            frames: Frames::default(),
            flying: BinaryHeap::new(),
            offered: 0,
            spare: Vec::new(),
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing("create an eventfd")?;
        let switch = Self { state: Arc::new(Mutex::new(state)), wake: Arc::new(wake) };
        let thread = switch.clone();
        std::thread::Builder::new()
            .name("switch".into())
            .spawn(move || thread.run())
            .doing("start the switch's thread")?;
        Ok(switch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of the switch's thread ends the lab anyway; nothing half-done here can hurt.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // The counter can only be full if a wake is pending already.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// Plugs host `host` in.
    pub(crate) fn plug(&self, host: usize, tap: OwnedFd) {
        self.state().ports[host] = Some(Arc::new(tap));
        self.wake();
    }

    /// Pulls host `host`'s cable: from the return of this call on, nothing reaches it and nothing comes from it.
    pub(crate) fn unplug(&self, host: usize) {
        self.state().ports[host] = None;
        self.wake();
    }

    /// Lets nothing pass from any host of `from` to any of `to`.
    pub(crate) fn cut(&self, from: &[usize], to: &[usize]) {
        let mut state = self.state();
        state.cuts.extend(from.iter().flat_map(|a| to.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b));
    }

    /// Undoes cuts for which `undo` is true.
    pub(crate) fn heal(&self, undo: impl Fn(usize, usize) -> bool) {
        self.state().cuts.retain(|(a, b)| !undo(*a, *b));
    }

    /// Changes the way between two places in both directions; false if there is no such place.
    pub(crate) fn change(&self, a: &str, b: &str, change: &QualityChange) -> bool {
        let mut state = self.state();
        let find = |name: &str| state.names.iter().position(|place| place == name);
        let (Some(a), Some(b)) = (find(a), find(b)) else { return false };
        change.apply(state.pipes[a][b].quality_mut());
        if a != b {
            change.apply(state.pipes[b][a].quality_mut());
        }
        true
    }

    /// Cuts in force, and what was carried.
    pub(crate) fn report(&self) -> (Vec<(usize, usize)>, Frames) {
        let state = self.state();
        (state.cuts.iter().copied().collect(), state.frames)
    }

    fn run(&self) {
        // Deliver on time: the default slack of 50 us is as long as a whole way inside a site.
        // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
        let mut room = vec![0u8; frame::LENGTH_MAX];
        loop {
            let (ports, next) = {
                let state = self.state();
                (state.ports.clone(), state.flying.peek().map(|Reverse(flight)| flight.arrives))
            };
            let timeout = next.map(|at| {
                let nanos = at.since(now()).as_nanos();
                Timespec {
                    tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
                    tv_nsec: i64::try_from(nanos % 1_000_000_000).expect("below a second"),
                }
            });
            let plugged: Vec<(usize, &OwnedFd)> =
                ports.iter().enumerate().filter_map(|(host, port)| Some((host, &**port.as_ref()?))).collect();
            let mut wait: Vec<PollFd<'_>> =
                plugged.iter().map(|(_, tap)| PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)).collect();
            wait.push(PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN));
            if let Err(cause) = poll(&mut wait, timeout.as_ref())
                && cause != rustix::io::Errno::INTR
            {
                tracing::error!(%cause, "the switch cannot wait for frames; the lab's network stands still");
                return;
            }
            let ready: Vec<bool> = wait.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready.last() == Some(&true) {
                let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
            }
            let mut state = self.state();
            for ((host, tap), _) in plugged.iter().zip(&ready).filter(|(_, ready)| **ready) {
                state.take_from(*host, tap, &mut room);
            }
            state.deliver_due(now());
        }
    }
}

impl State {
    /// Reads what host `from` sends.
    fn take_from(&mut self, from: usize, tap: &OwnedFd, room: &mut [u8]) {
        for _ in 0..BATCH {
            let length = match rustix::io::read(tap, &mut *room) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return,
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(cause) => {
                    // The device went with its network namespace: the host died.
                    tracing::debug!(from, %cause, "a TAP device ended");
                    self.ports[from] = None;
                    return;
                }
            };
            // Its cable was pulled while this frame waited.
            if self.ports[from].is_some() {
                self.forward(from, &room[..length]);
            }
        }
    }

    fn forward(&mut self, from: usize, data: &[u8]) {
        let Some(destination) = frame::destination(data) else { return };
        let known = match destination {
            Destination::Everyone => None,
            Destination::One(mac) => (0..self.ports.len()).find(|host| Topology::mac(*host) == mac),
        };
        let bytes = frame::wire_bytes(data);
        let now = now();
        for place in 0..self.names.len() {
            let mut to = Vec::new();
            for host in 0..self.ports.len() {
                if host == from || self.places[host] != place || known.is_some_and(|known| known != host) {
                    continue;
                }
                if self.cuts.contains(&(from, host)) {
                    self.frames.cut += 1;
                } else if self.ports[host].is_some() {
                    to.push(host);
                }
            }
            if to.is_empty() {
                continue;
            }
            match self.pipes[self.places[from]][place].offer(now, bytes) {
                Fate::Lost => self.frames.lost += 1,
                Fate::Overflowed => self.frames.overflowed += 1,
                Fate::Arrives(at) if at <= now => to.into_iter().for_each(|host| self.deliver(host, data)),
                Fate::Arrives(arrives) => {
                    let mut copy = self.spare.pop().unwrap_or_default();
                    copy.clear();
                    copy.extend_from_slice(data);
                    self.offered += 1;
                    self.flying.push(Reverse(Flight { arrives, number: self.offered, to, data: copy }));
                }
            }
        }
    }

    fn deliver_due(&mut self, now: Instant) {
        while self.flying.peek().is_some_and(|Reverse(flight)| flight.arrives <= now) {
            let Some(Reverse(flight)) = self.flying.pop() else { return };
            for host in &flight.to {
                self.deliver(*host, &flight.data);
            }
            if self.spare.len() < 1_024 {
                self.spare.push(flight.data);
            }
        }
    }

    fn deliver(&mut self, host: usize, data: &[u8]) {
        let Some(tap) = &self.ports[host] else { return };
        match rustix::io::write(&**tap, data) {
            Ok(_) => self.frames.delivered += 1,
            // Its own kernel had no room, or the device is being taken down: as on any wire, the frame is gone.
            Err(cause) => tracing::trace!(host, cause = %io::Error::from(cause), "a frame was not taken"),
        }
    }
}

/// This machine's monotonic clock.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}
