//! What is looked at now and then: the liveness invariants, and whether the history has come to its end.

use tandem_cluster::Command;
use tandem_volume::Request;

use crate::{
    invariants::{Violation, i4},
    ledger::What,
    queue::MS,
    world::{Event, Phase, World, note},
};

impl World {
    /// True when the history is over.
    pub(crate) fn watch(&mut self) -> Result<bool, Violation> {
        self.after(250 * MS, Event::Watch);
        self.watch_service()?;
        match self.phase {
            Phase::Faults => Ok(false),
            Phase::Healed => {
                self.undo_people()?;
                if self.is_whole() && self.last_answer > self.phase_since + 3_000 * MS {
                    note!(self, "--- whole again; the workload stops ---");
                    self.phase = Phase::Settling;
                }
                if self.has_stopped() {
                    self.summary.stopped = 1;
                    return Ok(true);
                }
                self.in_time()?;
                Ok(false)
            }
            Phase::Settling => {
                let over = self.settled()?;
                if !over {
                    self.in_time()?;
                }
                Ok(over)
            }
        }
    }

    fn in_time(&self) -> Result<(), Violation> {
        if self.now < self.phase_since + i4::BOUND {
            return Ok(());
        }
        Err(i4::late(&self.situation()))
    }

    /// Whether the last in-sync disk was lost, so that the system must stop rather than go back in time.
    fn has_stopped(&self) -> bool {
        if self.now < self.phase_since + i4::BOUND {
            return false;
        }
        let Some(register) = self.register() else { return false };
        register.in_sync.len() == 1
            && (0..self.replicas).any(|n| {
                let node = &self.nodes[n];
                let opened = node.server.as_ref().is_some_and(|server| register.is_member(&node.name, server.open));
                register.in_sync.contains_key(&node.name) && !opened && node.spoiled
            })
    }

    /// How things stand, for whoever has to find out why.
    fn situation(&self) -> String {
        let mut text = format!("register {:?}; service {:?}", self.register(), self.truth.service(&self.service));
        for n in 0..self.replicas {
            if let Some(server) = &self.nodes[n].server {
                text.push_str(&format!("; {} {:?}", self.nodes[n].name, server.replica.status(self.local(n))));
            }
        }
        for attachment in self.attachments.values() {
            text.push_str(&format!("; attachment on {} waits for {:?}", attachment.node, attachment.pending));
        }
        text
    }

    /// Whether every replica's running server is in the in-sync set.
    fn is_whole(&self) -> bool {
        let Some(register) = self.register() else { return false };
        (0..self.replicas).all(|n| {
            let node = &self.nodes[n];
            node.server.as_ref().is_some_and(|server| register.is_member(&node.name, server.open))
        })
    }

    /// Maintenance and pauses that a lost command left behind are ended.
    fn undo_people(&mut self) -> Result<(), Violation> {
        let by = self.nodes.len() - 1;
        let mut commands = Vec::new();
        if self.truth.paused() {
            commands.push(Command::SetPaused { on: false });
        }
        for n in 0..self.replicas {
            let node = self.nodes[n].name.clone();
            if self.truth.in_maintenance(&node) {
                commands.push(Command::SetMaintenance { node, on: false });
            }
        }
        for command in commands {
            if self.nodes[by].agent.up {
                self.propose(by, command, 400 * MS);
                self.agent_drain(by)?;
            }
        }
        Ok(())
    }

    /// The last requests are answered, a flush behind them, and all images are the same.
    fn settled(&mut self) -> Result<bool, Violation> {
        if !self.is_whole() || self.attachments.values().any(|it| !it.pending.is_empty()) {
            return Ok(false);
        }
        let Some((&id, attachment)) = self.attachments.iter().find(|(_, it)| !it.closed && it.active) else {
            return Ok(false);
        };
        let (n, promotion) = (attachment.node, attachment.promotion);
        if !std::mem::replace(&mut self.flushing, true) {
            let request = self.id();
            self.submit(id, n, promotion, request, Request::Flush, What::Flush, (0, 0))?;
            return Ok(false);
        }
        let busy = (0..self.replicas).any(|n| {
            let server = self.nodes[n].server.as_ref();
            server.is_none_or(|it| it.replica.status(self.local(n)).peers.iter().any(|peer| peer.resync.is_some()))
        });
        if busy {
            return Ok(false);
        }
        let image = |n: usize| (n, self.nodes[n].disk.as_ref().expect("a replica has a disk").cache());
        i4::check_images((0..self.replicas).map(image))?;
        let durable = |n: usize| (n, self.nodes[n].disk.as_ref().expect("a replica has a disk").durable());
        i4::check_images((0..self.replicas).map(durable))?;
        let image = self.nodes[n].disk.as_ref().expect("a replica has a disk").cache().to_vec();
        self.ledger.settle(&image, false, &[])?;
        Ok(true)
    }

    /// I7 on every set of nodes that could carry the service.
    fn watch_service(&mut self) -> Result<(), Violation> {
        if self.phase == Phase::Settling {
            return Ok(());
        }
        for mask in 1..self.watch.len() {
            let good = self.could_serve(mask);
            let now = self.now;
            self.watch[mask].condition(now, good);
            self.watch[mask].check(now, self.last_answer, || format!("nodes {mask:#b}; {}", self.situation()))?;
        }
        Ok(())
    }

    /// Whether the nodes of `mask` are a connected majority with an in-sync replica, and the others cannot interfere.
    fn could_serve(&self, mask: usize) -> bool {
        let count = self.nodes.len();
        let within = |n: usize| mask & (1 << n) != 0;
        let voters = self.voters.iter().filter(|voter| **voter).count();
        if (0..count).filter(|&n| within(n) && self.voters[n]).count() * 2 <= voters || self.truth.paused() {
            return false;
        }
        let runs = |n: usize| self.nodes[n].up && !self.nodes[n].paused && self.nodes[n].agent.up;
        let witness = count - 1;
        for a in 0..count {
            if within(a) && (!runs(a) || self.truth.in_maintenance(&self.nodes[a].name)) {
                return false;
            }
            for b in (0..count).filter(|b| *b != a) {
                let cut = self.network.link(a, b).cut && self.network.link(b, a).cut;
                let clear = |a: usize, b: usize| {
                    let link = self.network.link(a, b);
                    !link.cut && link.loss == 0 && link.delay_max < 50 * MS && link.held <= self.now
                };
                if within(a) && within(b) {
                    // Two replicas that are cut off from each other go on over the witness.
                    let over_witness = cut && a != witness && b != witness && within(witness);
                    if !clear(a, b) && !over_witness {
                        return false;
                    }
                } else if within(a) && self.nodes[b].up && !self.nodes[b].paused && !cut {
                    return false;
                }
            }
        }
        let Some(register) = self.register() else { return false };
        (0..self.replicas).any(|n| {
            let node = &self.nodes[n];
            let member = node.server.as_ref().is_some_and(|it| !it.failed && register.is_member(&node.name, it.open));
            let fault = node.disk_fault;
            let sound = fault.write_errors + fault.sync_errors + fault.read_errors + fault.no_space + fault.slow == 0;
            within(n) && member && sound
        }) && (0..self.replicas).all(|n| !within(n) || self.nodes[n].disk_fault.slow == 0)
    }
}
