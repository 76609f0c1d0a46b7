//! What goes wrong. Every seed draws its own mix: some runs see everything, some nearly nothing, a few nothing at all.
//!
//! Injected: power lost (one node, several, all), processes killed, everything on a node stopped and resumed, links cut
//! one way or both ways, lossy, slow and doubling links, links that hold everything back for a while, connections reset,
//! disk errors on write, sync and read, a full disk, slow disks, a superblock copy gone bad, another disk put in place of
//! the right one, clocks that change their drift within the bound, people who move services, put nodes into maintenance
//! and pause the cluster. Two faults are timed by what they want to meet: a node comes back just as its session expires,
//! and what a primary sent arrives at a replica that follows another one by then.
//!
//! Not injected, because nothing could survive it: a disk that rots in silence, errors on the last in-sync disk, a lost
//! consensus store, two bad copies of one superblock, a clock outside the bound.

use tandem_base::Rng;
use tandem_cluster::Command;

use crate::{
    disk::Disk,
    invariants::Violation,
    node::DiskFault,
    queue::{MS, Time},
    world::{Event, Phase, World, note},
};

/// A fault that has an end of its own.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Paused {
        node: usize,
        until: Time,
    },
    Cut {
        links: Vec<(usize, usize)>,
    },
    Weather,
    Flap {
        node: usize,
        links: Vec<(usize, usize)>,
        left: Time,
    },
    Disk {
        node: usize,
    },
    /// Somebody looks after a failed disk and starts the volume server again.
    DiskRepair {
        node: usize,
        run: u64,
    },
    /// A node that was cut off is let in again just when its session expires.
    Edge {
        node: usize,
        tries: u32,
    },
    /// Another fault follows the first: the node is stopped.
    Stop {
        node: usize,
        duration: Time,
    },
    /// All power is lost.
    Dark,
    /// Its volume server is killed.
    ServerKilled {
        node: usize,
    },
    /// Or it is cut off.
    CutOff {
        node: usize,
        duration: Time,
    },
    Maintenance {
        node: usize,
    },
    ClusterPaused,
    /// All faults are over.
    Everything,
}

/// How likely each kind of fault is, against the others, and how often one comes.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    weights: [u64; KINDS],
    /// Mean time between two faults.
    pub interval: Time,
    /// How long faults come.
    pub length: Time,
    /// Longest fault, roughly.
    pub longest: Time,
    /// The volumes acknowledge from stable storage.
    pub durable: bool,
    /// A superblock copy may be bad at a start.
    pub rot: bool,
    /// A disk may be exchanged while its node is off.
    pub swap: bool,
    /// Of ten faults, how many bring another one soon after them.
    pub bursts: u64,
}

const KINDS: usize = 23;
const POWER_ONE: usize = 0;
const POWER_SOME: usize = 1;
const KILL_SERVER: usize = 2;
const KILL_AGENT: usize = 3;
const PAUSE: usize = 4;
const CUT_PAIR: usize = 5;
const CUT_ONE_WAY: usize = 6;
const ISOLATE: usize = 7;
const WEATHER: usize = 8;
const RESET: usize = 9;
const DISK_ERRORS: usize = 10;
const DISK_SLOW: usize = 11;
const DRIFT: usize = 12;
const MOVE: usize = 13;
const MAINTENANCE: usize = 14;
const CLUSTER_PAUSE: usize = 15;
const CUT_SOME: usize = 16;
const FLAP: usize = 17;
const EDGE: usize = 18;
const HOLD: usize = 19;
const UNSEEN: usize = 20;
const DARK: usize = 21;
const STALL: usize = 22;

impl Mix {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            if rng.chance(1, 3) {
                *weight = rng.between(1, 10);
            }
        }
        if rng.chance(1, 30) {
            weights = [0; KINDS];
        }
        let mut interval = [300, 1_000, 3_000, 8_000][rng.below(4) as usize] * MS;
        let mut length = rng.between(8_000, 40_000) * MS;
        // Some runs leave those faults alone that need time and quiet to come to their point.
        if rng.chance(1, 4) {
            let plot = [EDGE, EDGE, HOLD, UNSEEN, UNSEEN, DARK, STALL][rng.below(7) as usize];
            let other = rng.below(KINDS as u64) as usize;
            weights = [0; KINDS];
            weights[other] = 1;
            weights[plot] = 6;
            interval = [2_000, 5_000][rng.below(2) as usize] * MS;
            length = rng.between(20_000, 40_000) * MS;
        }
        Self {
            weights,
            interval,
            length,
            longest: [500, 4_000, 12_000][rng.below(3) as usize] * MS,
            durable: rng.chance(1, 4),
            rot: rng.chance(1, 3),
            swap: rng.chance(1, 4),
            bursts: [0, 3, 7][rng.below(3) as usize],
        }
    }

    fn pick(&self, rng: &mut Rng) -> Option<usize> {
        let total: u64 = self.weights.iter().sum();
        if total == 0 {
            return None;
        }
        let mut dice = rng.below(total);
        self.weights.iter().position(|weight| {
            let hit = dice < *weight;
            dice = dice.saturating_sub(*weight);
            hit
        })
    }
}

impl World {
    /// The world begins: everything is switched on, faults are on their way.
    pub(crate) fn begin(&mut self) {
        note!(self, "seed's world: {} replicas, {:?}", self.replicas, self.volumes);
        note!(self, "mix {:?}", self.mix);
        note!(self, "habit {:?}", self.habit);
        for node in 0..self.nodes.len() {
            self.power_on_now(node);
        }
        self.after(250 * MS, Event::Watch);
        // Most worlds may found their cluster in peace.
        let first = if self.rng.chance(1, 5) { 0 } else { self.rng.between(4_000, 8_000) * MS };
        self.after(first, Event::Fault);
        self.after(first + self.mix.length, Event::End(Fault::Everything));
    }

    // --- power and processes ---

    pub(crate) fn power_off(&mut self, n: usize) {
        if !self.nodes[n].up {
            return;
        }
        note!(self, "--- {} loses power ---", self.nodes[n].name);
        self.touch(n);
        let node = &mut self.nodes[n];
        node.up = false;
        node.paused = false;
        node.deferred.clear();
        node.service = false;
        node.steps.clear();
        node.placed = None;
        node.lease = tandem_base::Instant::ZERO;
        self.stop_agent(n);
        self.stop_server(n, true);
        let node = &mut self.nodes[n];
        node.attachment = None;
        if let Some(disk) = &mut node.disk {
            disk.power_lost(&mut self.rng);
        }
    }

    pub(crate) fn power_on(&mut self, n: usize) {
        if !self.nodes[n].up {
            self.power_on_now(n);
        }
    }

    fn power_on_now(&mut self, n: usize) {
        note!(self, "{} is switched on", self.nodes[n].name);
        self.touch(n);
        let node = &mut self.nodes[n];
        node.up = true;
        node.boot = tandem_base::RunId(self.rng.next_u64());
        let agent = self.rng.between(1, 400) * MS;
        self.after(agent, Event::StartAgent { node: n });
        if n < self.replicas {
            let server = self.rng.between(1, 600) * MS;
            self.after(server, Event::StartServer { node: n });
        }
    }

    /// Something happened to `n`: no set of nodes with it was left in peace.
    pub(crate) fn touch(&mut self, n: usize) {
        for (mask, watch) in self.watch.iter_mut().enumerate() {
            if mask & (1 << n) != 0 {
                watch.broken();
            }
        }
    }

    // --- faults ---

    fn duration(&mut self) -> Time {
        match self.rng.below(8) {
            0 | 1 => self.rng.between(20, 400) * MS,
            // About as long as a session lives without a renewal: what happens at that edge is the hardest.
            2 => self.rng.between(3_000, 4_000) * MS,
            _ => self.rng.between(20 * MS, self.mix.longest),
        }
    }

    pub(crate) fn fault(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        let soon = self.rng.chance(self.mix.bursts, 10);
        let next = 1 + self.rng.below(if soon { 1_500 * MS } else { 2 * self.mix.interval });
        self.after(next, Event::Fault);
        let Some(kind) = self.mix.pick(&mut self.rng) else { return Ok(()) };
        self.summary.faults += 1;
        let count = self.nodes.len() as u64;
        // The primary is the most interesting victim.
        let often = if matches!(kind, EDGE | HOLD | UNSEEN | DARK | STALL) { 3 } else { 1 };
        let primary = self.register().and_then(|register| register.primary.as_ref().map(|it| it.node.clone()));
        let primary = primary.and_then(|name| self.index_of(&name)).filter(|_| self.rng.chance(often, 3));
        let n = primary.unwrap_or_else(|| self.rng.below(count) as usize);
        let replica = primary.unwrap_or_else(|| self.rng.below(self.replicas as u64) as usize);
        let duration = self.duration();
        match kind {
            POWER_ONE => self.power_cycle(n, duration),
            POWER_SOME => {
                let all = self.rng.chance(1, 3);
                self.power_cycle_many(if all { 2 } else { 1 }, duration);
            }
            KILL_SERVER => self.kill_server(replica)?,
            KILL_AGENT => {
                self.touch(n);
                self.stop_agent(n);
                let delay = if self.rng.chance(1, 2) { duration } else { self.rng.between(20, 4_000) * MS };
                self.after(delay, Event::StartAgent { node: n });
            }
            PAUSE => self.pause(n, duration),
            // Long enough for another primary: what was under way is answered when it goes on.
            STALL => {
                let duration = self.rng.between(3_500, 6_500) * MS;
                self.pause(replica, duration);
            }
            CUT_PAIR => {
                let other = (n + 1 + self.rng.below(count - 1) as usize) % count as usize;
                self.cut(vec![(n, other), (other, n)], duration);
            }
            CUT_ONE_WAY => {
                let other = (n + 1 + self.rng.below(count - 1) as usize) % count as usize;
                self.cut(vec![(n, other)], duration);
            }
            ISOLATE => {
                let ways = self.rng.below(4);
                let mut links = Vec::new();
                for other in (0..self.nodes.len()).filter(|other| *other != n) {
                    if ways != 1 {
                        links.push((n, other));
                    }
                    if ways != 2 {
                        links.push((other, n));
                    }
                }
                self.cut(links, duration);
            }
            CUT_SOME => {
                let mut links = Vec::new();
                for from in 0..self.nodes.len() {
                    for to in (0..self.nodes.len()).filter(|to| *to != from) {
                        match self.rng.below(6) {
                            0 => links.push((from, to)),
                            1 | 2 => links.extend([(from, to), (to, from)]),
                            _ => {}
                        }
                    }
                }
                self.cut(links, duration);
            }
            FLAP => self.flap(n, self.links_of(n), duration),
            WEATHER => {
                note!(self, "--- bad weather for {} ms ---", duration / MS);
                let (loss, twice) = (self.rng.below(300), self.rng.below(300));
                let slow = if self.rng.chance(1, 3) { self.rng.below(1_500) * MS } else { 0 };
                for from in 0..self.nodes.len() {
                    self.touch(from);
                    for to in (0..self.nodes.len()).filter(|to| *to != from) {
                        let link = self.network.link_mut(from, to);
                        (link.loss, link.twice) = (loss, twice);
                        link.delay_max = link.delay_min + 5 * MS + slow;
                    }
                }
                self.after(duration, Event::End(Fault::Weather));
            }
            EDGE => {
                note!(self, "--- {} will come back as its session expires ---", self.nodes[n].name);
                self.cut(self.links_of(n), 2_900 * MS);
                self.after(2_900 * MS, Event::End(Fault::Edge { node: n, tries: 3 }));
            }
            HOLD => self.hold_back(replica),
            DARK => {
                // A disk that failed to sync looks well again, until the page cache that hides it is gone everywhere.
                let victim = self.rng.below(self.replicas as u64) as usize;
                let short = self.rng.between(50, 1_000) * MS;
                let share = [300, 1_000][self.rng.below(2) as usize];
                self.disk_errors(victim, short, Some(DiskFault { sync_errors: share, ..DiskFault::default() }));
                let dark = short + self.rng.between(50, 2_000) * MS;
                self.after(dark, Event::End(Fault::Dark));
            }
            UNSEEN => self.reboot_unseen(replica),
            RESET => {
                let ids: Vec<u64> = self.connections.keys().copied().collect();
                if !ids.is_empty() {
                    let id = ids[self.rng.below(ids.len() as u64) as usize];
                    note!(self, "--- connection {id} is reset ---");
                    self.break_connection(id, 50 * MS);
                }
            }
            DISK_ERRORS => self.disk_errors(replica, duration, None),
            DISK_SLOW => {
                self.touch(replica);
                note!(self, "--- {}'s disk is slow ---", self.nodes[replica].name);
                self.nodes[replica].disk_fault.slow = [50, 800, 4_000][self.rng.below(3) as usize] * MS;
                self.after(duration, Event::End(Fault::Disk { node: replica }));
            }
            DRIFT => {
                let bound = self.topology.timings.drift_ppm;
                let drift = self.rng.between(0, 2 * bound) as i64 - bound as i64;
                let drift = if self.rng.chance(1, 2) { bound as i64 * drift.signum() } else { drift };
                let now = self.now;
                self.nodes[n].clock.set_drift(now, drift);
            }
            MOVE => {
                let (service, to) = (self.service.clone(), self.nodes[replica].name.clone());
                self.ask_person(n, Command::Move { service, to, by: "a person".into() })?;
            }
            MAINTENANCE => {
                let node = self.nodes[replica].name.clone();
                self.ask_person(n, Command::SetMaintenance { node, on: true })?;
                self.after(duration, Event::End(Fault::Maintenance { node: replica }));
            }
            CLUSTER_PAUSE => {
                self.ask_person(n, Command::SetPaused { on: true })?;
                self.after(duration, Event::End(Fault::ClusterPaused));
            }
            _ => unreachable!("a kind has a meaning"),
        }
        Ok(())
    }

    /// A person types a command on `n`.
    fn ask_person(&mut self, n: usize, command: Command) -> Result<(), Violation> {
        note!(self, "--- a person on {}: {command:?} ---", self.nodes[n].name);
        if self.nodes[n].agent.up {
            self.propose(n, command, 5_000 * MS);
            self.agent_settle(n)?;
        }
        Ok(())
    }

    /// Lets the agent of `n` act on what it was given outside of an event of its own.
    fn agent_settle(&mut self, n: usize) -> Result<(), Violation> {
        if self.nodes[n].agent.up && !self.nodes[n].paused { self.agent_drain(n) } else { Ok(()) }
    }

    fn power_cycle(&mut self, n: usize, duration: Time) {
        self.power_off(n);
        self.maybe_swap_disk(n);
        self.after(duration, Event::PowerOn { node: n });
    }

    /// Of two nodes `of_two` lose power.
    fn power_cycle_many(&mut self, of_two: u64, duration: Time) {
        for node in 0..self.nodes.len() {
            if self.rng.chance(of_two, 2) {
                let longer = self.rng.between(MS, duration);
                self.power_cycle(node, longer);
            }
        }
    }

    fn maybe_swap_disk(&mut self, n: usize) {
        if self.mix.swap && n < self.replicas && self.rng.chance(1, 4) {
            self.swap_disk(n);
        }
    }

    /// Another disk is put in: a fresh one. Only while another member holds everything.
    fn swap_disk(&mut self, n: usize) {
        let Some(register) = self.register() else { return };
        let others = (0..self.replicas).any(|other| {
            let node = &self.nodes[other];
            other != n && node.server.as_ref().is_some_and(|it| !it.failed && register.is_member(&node.name, it.open))
        });
        if !others {
            return;
        }
        note!(self, "--- {} gets another disk ---", self.nodes[n].name);
        let size = self.volumes.iter().map(|volume| volume.size as usize).sum();
        self.nodes[n].disk = Some(Disk::new(size));
        self.nodes[n].spoiled = true;
    }

    fn pause(&mut self, n: usize, duration: Time) {
        if !self.nodes[n].up {
            return;
        }
        note!(self, "--- {} is stopped for {} ms ---", self.nodes[n].name, duration / MS);
        self.touch(n);
        self.nodes[n].paused = true;
        let until = self.now + duration;
        self.after(duration, Event::End(Fault::Paused { node: n, until }));
    }

    fn resume(&mut self, n: usize) {
        if !std::mem::replace(&mut self.nodes[n].paused, false) {
            return;
        }
        note!(self, "--- {} goes on ---", self.nodes[n].name);
        self.touch(n);
        let now = self.now;
        for event in std::mem::take(&mut self.nodes[n].deferred) {
            self.queue.push(now, event);
        }
    }

    fn kill_server(&mut self, n: usize) -> Result<(), Violation> {
        self.touch(n);
        self.stop_server(n, false);
        self.agent_settle(n)?;
        let delay = self.rng.between(20, 1_000) * MS;
        self.after(delay, Event::StartServer { node: n });
        Ok(())
    }

    fn links_of(&self, n: usize) -> Vec<(usize, usize)> {
        (0..self.nodes.len()).filter(|other| *other != n).flat_map(|other| [(n, other), (other, n)]).collect()
    }

    /// Cut off since before, `n` reaches the others again around the instant at which the leader of the consensus appends
    /// the expiry of its session: what it has asked meanwhile arrives just then.
    fn edge(&mut self, n: usize, tries: u32) {
        let leads = |node: &usize| *node != n && self.nodes[*node].agent.up && self.nodes[*node].agent.established;
        let leader = (0..self.nodes.len()).find(leads).map(|leader| &self.nodes[leader]);
        // Of all sessions the silent one ends first.
        let Some(at) = leader.and_then(|it| Some(it.clock.when(it.agent.table.poll_timeout()?))) else { return };
        let Some(left) = at.checked_sub(self.now).filter(|_| tries > 0) else { return };
        if left > 900 * MS {
            // Another leader came meanwhile, and waits the full time.
            self.cut(self.links_of(n), left - 600 * MS);
            self.after(left - 600 * MS, Event::End(Fault::Edge { node: n, tries: tries - 1 }));
            return;
        }
        let late = [5, 15, 50][self.rng.below(3) as usize] * MS;
        let held = at + self.rng.below(late);
        note!(self, "--- {} is heard again in {} ms ---", self.nodes[n].name, (held - self.now) / MS);
        for other in (0..self.nodes.len()).filter(|other| *other != n) {
            self.touch(other);
            self.network.link_mut(n, other).held = held;
        }
        // Whoever would take over may be late.
        let slow = (n + 1 + self.rng.below(self.replicas as u64 - 1) as usize) % self.replicas;
        if slow != n && self.rng.chance(2, 3) {
            let duration = self.rng.between(40, 700) * MS;
            let soon = left + self.rng.below(60 * MS);
            self.after(soon, Event::End(Fault::Stop { node: slow, duration }));
        }
        if self.rng.chance(3, 4) {
            let stay = held - self.now + self.rng.between(60, 500) * MS;
            let duration = self.rng.between(1_000, 4_000) * MS;
            self.after(stay, Event::End(Fault::CutOff { node: n, duration }));
        }
    }

    /// A member of `primary`'s is booted anew, and is back before the log has heard of it: its volume server is quick and its
    /// agent is not. Then the primary goes.
    fn reboot_unseen(&mut self, primary: usize) {
        let n = (primary + 1 + self.rng.below(self.replicas as u64 - 1) as usize) % self.replicas;
        self.power_off(n);
        self.maybe_swap_disk(n);
        let server = self.rng.between(10, 150) * MS;
        let last = server + self.rng.between(300, 3_000) * MS;
        let agent = last + self.rng.between(50, 1_500) * MS;
        self.nodes[n].up = true;
        self.nodes[n].boot = tandem_base::RunId(self.rng.next_u64());
        self.touch(n);
        self.after(server, Event::StartServer { node: n });
        self.after(agent, Event::StartAgent { node: n });
        let fault = Fault::ServerKilled { node: primary };
        self.after(last, Event::End(fault));
    }

    /// A primary is cut off from all but one replica, and what it sends there is held back until the session of the
    /// primary is over: its late writes meet whoever follows another primary by then.
    fn hold_back(&mut self, n: usize) {
        let other = (n + 1 + self.rng.below(self.replicas as u64 - 1) as usize) % self.replicas;
        let held = self.rng.between(3_000, 5_500) * MS;
        note!(
            self,
            "--- {} reaches {} {} ms late, others not ---",
            self.nodes[n].name,
            self.nodes[other].name,
            held / MS
        );
        let links = self.links_of(n).into_iter().filter(|link| *link != (n, other) && *link != (other, n)).collect();
        let longer = held + self.rng.below(1_500 * MS);
        self.cut(links, longer);
        self.touch(n);
        self.touch(other);
        self.network.link_mut(n, other).held = self.now + held;
        // Now and then whoever took over does not last: what the other one holds is then all there is.
        let third = (0..self.replicas).find(|third| ![n, other].contains(third));
        if let Some(third) = third.filter(|_| self.rng.chance(1, 2)) {
            let duration = self.rng.between(4_000, 8_000) * MS;
            self.after(longer, Event::End(Fault::CutOff { node: third, duration }));
        }
    }

    /// A node's links come and go.
    fn flap(&mut self, n: usize, links: Vec<(usize, usize)>, left: Time) {
        let down = self.rng.between(20, 1_500) * MS;
        let up = self.rng.between(20, 600) * MS;
        self.cut(links.clone(), down);
        if let Some(left) = left.checked_sub(down + up) {
            self.after(down + up, Event::End(Fault::Flap { node: n, links, left }));
        }
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, duration: Time) {
        note!(self, "--- cut {links:?} for {} ms ---", duration / MS);
        for (from, to) in &links {
            self.touch(*from);
            self.touch(*to);
            self.network.link_mut(*from, *to).cut = true;
        }
        // What is under way on a connection over a cut link is lost or not; nobody learns of it yet.
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            for side in 0..2 {
                let way = (connection.nodes[1 - side], connection.nodes[side]);
                if links.contains(&way) && self.rng.chance(1, 2) {
                    connection.pipes[side].break_now(&mut self.rng);
                }
            }
            if connection.pipes.iter().any(Pipe::is_broken) {
                for side in 0..2 {
                    let delay = self.rng.between(100, 4_000) * MS;
                    self.after(delay, Event::PeerDown { connection: id, side });
                }
            }
        }
        self.after(duration, Event::End(Fault::Cut { links }));
    }

    /// Whether a member besides `n` holds everything, on a disk that is well.
    pub(crate) fn another_holds(&self, n: usize) -> bool {
        let Some(register) = self.register() else { return false };
        (0..self.replicas).any(|other| {
            let node = &self.nodes[other];
            let sound = node.disk_fault.write_errors + node.disk_fault.sync_errors + node.disk_fault.read_errors == 0;
            let runs = node.server.as_ref().is_some_and(|it| !it.failed && register.is_member(&node.name, it.open));
            other != n && sound && runs
        })
    }

    fn disk_errors(&mut self, n: usize, duration: Time, which: Option<DiskFault>) {
        // Errors on the last in-sync disk are nobody's to survive.
        if !self.another_holds(n) {
            return;
        }
        self.touch(n);
        let share = [30, 300, 1_000][self.rng.below(3) as usize];
        let slow = self.nodes[n].disk_fault.slow;
        let mut fault = DiskFault { slow, ..DiskFault::default() };
        match self.rng.below(4) {
            0 => fault.write_errors = share,
            1 => fault.sync_errors = share,
            2 => fault.read_errors = share,
            _ => fault.no_space = share,
        }
        let fault = which.map_or(fault, |which| DiskFault { slow, ..which });
        note!(self, "--- {}'s disk fails for {} ms: {fault:?} ---", self.nodes[n].name, duration / MS);
        self.nodes[n].disk_fault = fault;
        self.after(duration, Event::End(Fault::Disk { node: n }));
    }

    pub(crate) fn fault_ends(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.phase != Phase::Faults && !matches!(fault, Fault::DiskRepair { .. }) {
            return Ok(());
        }
        match fault {
            Fault::Paused { node, until } if until <= self.now => self.resume(node),
            Fault::Paused { .. } => {}
            Fault::Cut { links } => {
                for (from, to) in links {
                    self.touch(from);
                    self.touch(to);
                    self.network.link_mut(from, to).cut = false;
                }
            }
            Fault::Flap { node, links, left } => self.flap(node, links, left),
            Fault::Edge { node, tries } => self.edge(node, tries),
            Fault::Dark => {
                let duration = self.rng.between(100, 2_000) * MS;
                self.power_cycle_many(2, duration);
            }
            Fault::ServerKilled { node } => self.kill_server(node)?,
            Fault::Stop { node, duration } => self.pause(node, duration),
            Fault::CutOff { node, duration } => self.cut(self.links_of(node), duration),
            Fault::Weather => {
                for from in 0..self.nodes.len() {
                    self.touch(from);
                    for to in (0..self.nodes.len()).filter(|to| *to != from) {
                        let link = self.network.link_mut(from, to);
                        (link.loss, link.twice, link.delay_max) = (0, 0, link.delay_min + 5 * MS);
                    }
                }
            }
            Fault::Disk { node } => {
                self.touch(node);
                self.nodes[node].disk_fault = DiskFault::default();
            }
            Fault::DiskRepair { node, run } => {
                if self.nodes[node].server.as_ref().is_some_and(|server| server.run == run) {
                    self.touch(node);
                    self.nodes[node].disk_fault = DiskFault::default();
                    self.stop_server(node, false);
                    self.agent_settle(node)?;
                    let delay = self.rng.between(20, 1_000) * MS;
                    self.after(delay, Event::StartServer { node });
                }
            }
            Fault::Maintenance { node } => {
                let (by, node) = (self.rng.below(self.nodes.len() as u64) as usize, self.nodes[node].name.clone());
                self.ask_person(by, Command::SetMaintenance { node, on: false })?;
            }
            Fault::ClusterPaused => {
                let by = self.rng.below(self.nodes.len() as u64) as usize;
                self.ask_person(by, Command::SetPaused { on: false })?;
            }
            Fault::Everything => self.heal()?,
        }
        Ok(())
    }

    /// All faults are over: from here on the system must become whole by itself.
    fn heal(&mut self) -> Result<(), Violation> {
        note!(self, "--- everything is repaired ---");
        self.phase = Phase::Healed;
        self.phase_since = self.now;
        self.network.heal();
        for n in 0..self.nodes.len() {
            self.touch(n);
            self.nodes[n].disk_fault = DiskFault::default();
            self.resume(n);
            self.power_on(n);
            let delay = self.rng.between(1, 200) * MS;
            self.after(delay, Event::StartAgent { node: n });
            if n < self.replicas {
                let delay = self.rng.between(1, 200) * MS;
                self.after(delay, Event::StartServer { node: n });
            }
        }
        Ok(())
    }
}

use crate::network::Pipe;
