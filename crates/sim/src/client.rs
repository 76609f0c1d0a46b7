//! Attachments, the program on them, and where the service acts.

use bytes::Bytes;
use tandem_base::{Epoch, Instant};
use tandem_volume::{DiskOp, Input, Request, RequestError, RequestId, VolumeIndex, VolumeSpec};

use crate::{
    disk::SECTOR,
    invariants::{Violation, i2, i6, linear::Value},
    ledger::{What, fill, value_of},
    node::Server,
    queue::MS,
    server::place,
    workload::Attachment,
    world::{Event, Phase, World, note},
};

/// First sector, number of sectors and value of each write that the disk is working on.
fn writes_under_way(server: &Server, volumes: &[VolumeSpec]) -> Vec<(usize, usize, Value)> {
    let writes = server.disk_ops.values().filter_map(|op| match op {
        DiskOp::Write { volume, offset, data, .. } => Some((volume.0, *offset, data.len(), Some(data))),
        DiskOp::Zero { volume, offset, length, .. } => Some((volume.0, *offset, *length as usize, None)),
        _ => None,
    });
    let sectors = writes.flat_map(|(volume, offset, length, data)| {
        let first = place(volumes, volume, offset) / SECTOR;
        (0..length / SECTOR).map(move |index| {
            let value = data.and_then(|data| value_of(&data[index * SECTOR..(index + 1) * SECTOR]));
            (first + index, 1, value.unwrap_or(0))
        })
    });
    sectors.collect()
}

impl World {
    /// A promotion begins to serve: its image is judged, and everything older is over.
    pub(crate) fn serving(&mut self, n: usize, promotion: Epoch) -> Result<(), Violation> {
        self.summary.promotions += 1;
        let loss = std::mem::take(&mut self.loss);
        let disk = self.nodes[n].disk.as_ref().expect("who serves has a disk");
        self.ledger.served(n, promotion)?;
        let under_way = self.nodes[n].server.as_ref().map(|server| writes_under_way(server, &self.volumes));
        self.ledger.settle(disk.cache(), loss, &under_way.unwrap_or_default())
    }

    pub(crate) fn attach(&mut self, n: usize, promotion: Epoch) {
        if self.nodes[n].server.is_none() {
            return;
        }
        // One device, one attachment: an agent that starts again finds the old one and closes it.
        self.close_attachments(n);
        let id = self.id();
        let attachment =
            Attachment { node: n, promotion, pending: Vec::new(), active: false, closed: false, draining: false };
        self.attachments.insert(id, attachment);
        self.nodes[n].attachment = Some(id);
        note!(self, "{}: attachment {id} of {promotion}", self.nodes[n].name);
    }

    /// The program starts to ask.
    pub(crate) fn activate(&mut self, n: usize) {
        let Some(id) = self.nodes[n].attachment else { return };
        if let Some(attachment) = self.attachments.get_mut(&id) {
            attachment.active = true;
            self.after(MS, Event::Client { attachment: id });
        }
    }

    /// The program stops asking.
    pub(crate) fn quiesce(&mut self, n: usize) {
        let Some(id) = self.nodes[n].attachment else { return };
        if let Some(attachment) = self.attachments.get_mut(&id) {
            attachment.active = false;
        }
    }

    /// Closes the attachment of `n`; true when it is closed at once.
    pub(crate) fn detach(&mut self, n: usize, force: bool) -> bool {
        let Some(id) = self.nodes[n].attachment else { return true };
        let Some(attachment) = self.attachments.get_mut(&id) else { return true };
        attachment.active = false;
        if !force && !attachment.pending.is_empty() && !attachment.closed {
            attachment.draining = true;
            return false;
        }
        self.close(id);
        true
    }

    fn close(&mut self, id: u64) {
        let Some(attachment) = self.attachments.get_mut(&id) else { return };
        attachment.closed = true;
        attachment.active = false;
        let n = attachment.node;
        for request in std::mem::take(&mut attachment.pending) {
            self.ledger.abandoned(request);
        }
        if self.nodes[n].attachment == Some(id) {
            self.nodes[n].attachment = None;
        }
        self.attachments.remove(&id);
        note!(self, "{}: attachment {id} closed", self.nodes[n].name);
    }

    /// The volume server is gone, and every connection to it.
    pub(crate) fn close_attachments(&mut self, n: usize) {
        let ids: Vec<u64> = self.attachments.iter().filter(|(_, it)| it.node == n).map(|(id, _)| *id).collect();
        for id in ids {
            self.close(id);
        }
    }

    /// The program asks something, and will again.
    pub(crate) fn client(&mut self, id: u64) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get(&id) else { return Ok(()) };
        if !attachment.active || attachment.closed || self.phase == Phase::Settling {
            return Ok(());
        }
        let (n, promotion, waiting) = (attachment.node, attachment.promotion, attachment.pending.len());
        let delay = 1 + self.rng.below(self.habit.pause);
        self.after(delay, Event::Client { attachment: id });
        if waiting >= self.habit.depth {
            return Ok(());
        }
        let volume = self.rng.below(self.volumes.len() as u64) as usize;
        let sectors = self.volumes[volume].size / SECTOR as u64;
        let before: u64 = self.volumes[..volume].iter().map(|volume| volume.size / SECTOR as u64).sum();
        let count = self.rng.between(1, self.habit.sectors_max).min(sectors);
        let span =
            if self.habit.hot > 0 && self.rng.chance(3, 4) { self.habit.hot.max(count).min(sectors) } else { sectors };
        let first = self.rng.below(span - count + 1);
        let dice = self.rng.below(100);
        let index = VolumeIndex(volume as u16);
        let offset = first * SECTOR as u64;
        let request = self.id();
        let (what, asked) = if dice < self.habit.flushes {
            (Request::Flush, What::Flush)
        } else if dice < self.habit.flushes + self.habit.reads {
            (Request::Read { volume: index, offset, length: (count as usize * SECTOR) as u32 }, What::Read)
        } else {
            let fua = self.rng.chance(self.habit.forced, 100);
            if self.rng.chance(self.habit.zeroes, 100) {
                let length = count * SECTOR as u64;
                let keep_allocated = self.rng.chance(1, 2);
                (Request::Zero { volume: index, offset, length, fua, keep_allocated }, What::Write { value: 0, fua })
            } else {
                let data = Bytes::from(fill(request, count as usize));
                (Request::Write { volume: index, offset, data, fua }, What::Write { value: request, fua })
            }
        };
        self.submit(id, n, promotion, request, what, asked, ((before + first) as usize, count as usize))
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn submit(
        &mut self,
        attachment: u64,
        n: usize,
        promotion: Epoch,
        request: u64,
        what: Request,
        asked: What,
        sectors: (usize, usize),
    ) -> Result<(), Violation> {
        note!(self, "{}: request {request} {asked:?} {sectors:?}", self.nodes[n].name);
        self.ledger.asked(request, promotion, asked, sectors.0, sectors.1);
        if let Some(attachment) = self.attachments.get_mut(&attachment) {
            attachment.pending.push(request);
        }
        self.server_input(n, Input::Submitted { request: RequestId(request), promotion, what })
    }

    fn forget(&mut self, n: usize, request: u64) {
        let found = self.attachments.iter_mut().find(|(_, it)| it.node == n && it.pending.contains(&request));
        let Some((&id, attachment)) = found else { return };
        attachment.pending.retain(|pending| *pending != request);
        if attachment.draining && attachment.pending.is_empty() {
            self.close(id);
            self.drained(n);
        }
    }

    pub(crate) fn request_answered(&mut self, n: usize, request: u64, data: Option<&[u8]>) -> Result<(), Violation> {
        if self.ledger.is_over(request) {
            return Err(i2::after_the_end(n, request));
        }
        if self.ledger.open.contains_key(&request) {
            self.last_answer = self.now;
            self.ledger.answered(request, n, data)?;
        }
        self.forget(n, request);
        Ok(())
    }

    pub(crate) fn request_refused(&mut self, n: usize, request: u64, _error: &RequestError) {
        self.ledger.abandoned(request);
        self.forget(n, request);
    }

    // --- where the service acts ---

    /// A program of the service is about to run on `n`: nobody else may run one.
    pub(crate) fn service_acts(&mut self, n: usize) -> Result<(), Violation> {
        self.check_others(n)?;
        self.nodes[n].service = true;
        self.nodes[n].thawed = true;
        Ok(())
    }

    /// The node may act until `until`: what was frozen there thaws.
    pub(crate) fn granted(&mut self, n: usize, until: Instant) -> Result<(), Violation> {
        let local = self.local(n);
        if self.nodes[n].lease <= local {
            // The guard has frozen it; it thaws only if it is still what the log wants here.
            self.nodes[n].thawed = false;
        }
        self.nodes[n].lease = self.nodes[n].lease.max(until);
        Ok(())
    }

    /// What the guard froze here thaws.
    pub(crate) fn thaw(&mut self, n: usize) -> Result<(), Violation> {
        if self.nodes[n].service && !self.nodes[n].thawed {
            note!(self, "{}: the service thaws", self.nodes[n].name);
            self.check_others(n)?;
            self.nodes[n].thawed = true;
        }
        Ok(())
    }

    fn check_others(&self, n: usize) -> Result<(), Violation> {
        let grace = self.topology.timings.grace;
        for (other, node) in self.nodes.iter().enumerate() {
            if other != n && node.service && node.thawed && !node.paused {
                // The guard needs at most its grace, on a clock that may be slow.
                let local = node.clock.read(self.now);
                let until = if local < node.lease {
                    node.clock.when(node.lease).saturating_add(grace.as_nanos())
                } else {
                    self.now + grace.saturating_sub(local.since(node.lease)).as_nanos()
                };
                i6::check(self.now, n, other, until)?;
            }
        }
        Ok(())
    }
}
