//! The volume server's runtime: it carries out what the replica wants, against the simulated disk and connections.

use bytes::Bytes;
use tandem_base::OpenId;
use tandem_volume::{
    Ack, ConnectionId, DiskError, DiskOp, DiskOpId, DiskOutcome, Input, Message, Output, Replica, ReplicaConfig, Reply,
    superblock::{self, Selected},
};

use crate::{
    agent::FromServer,
    invariants::Violation,
    network::Pipe,
    node::Server,
    queue::{MS, Time},
    world::{Connection, Event, World, note},
};

/// Most outputs of a replica in one event.
const OUTPUTS_MAX: u64 = 1_000_000;

impl World {
    /// The volume server of `n` starts, as its supervisor wants.
    pub(crate) fn start_server(&mut self, n: usize) -> Result<(), Violation> {
        if !self.nodes[n].up || self.nodes[n].server.is_some() {
            return Ok(());
        }
        let run = self.id();
        let open = OpenId(self.rng.next_u64());
        let seed = self.rng.next_u64();
        let now = self.local(n);
        let peers = (0..self.replicas).filter(|peer| *peer != n).map(|peer| self.nodes[peer].name.clone()).collect();
        let name = self.nodes[n].name.clone();
        let mut config = ReplicaConfig::new(self.cluster, self.group.clone(), name, peers, self.volumes.clone());
        config.peer_timeout = self.topology.timings.peer_timeout;
        config.ack = if self.mix.durable { Ack::Durable } else { Ack::Memory };
        config.mutations = self.options.mutation.map(|mutation| mutation.volume).unwrap_or_default();
        config.grain = self.grain;
        (config.hot_max, config.hot_idle) = self.heat;
        let disk = self.nodes[n].disk.as_mut().expect("only nodes with a disk run a volume server");
        // One bad copy is survivable, if no crash has torn another one just before.
        let whole = disk.superblocks().iter().flatten().all(|copy| superblock::decode(copy).is_ok());
        if self.mix.rot && whole && self.rng.chance(1, 4) {
            disk.rot_superblock(&mut self.rng);
        }
        if self.mix.rot && self.rng.chance(1, 8) {
            disk.rot_memory(&mut self.rng);
        }
        let memory = disk.memory();
        let unreadable = |error| Violation::new("world", format!("node {n}: {error}"));
        let stored = match superblock::select(disk.superblocks()).map_err(unreadable)? {
            Selected::Fresh => None,
            Selected::Found { superblock, repair } => {
                let block = superblock::encode(&superblock);
                for index in (0..repair.len()).filter(|index| repair[*index]) {
                    disk.repair_superblock(index, &block);
                }
                superblock::check(&superblock, &config).map_err(unreadable)?;
                Some((superblock, memory))
            }
        };
        note!(self, "{}: volume server starts, open {open}, stored {stored:?}", self.nodes[n].name);
        let replica = Replica::start(config, stored, open, seed, now);
        self.nodes[n].server = Some(Server {
            run,
            replica,
            open,
            opened: None,
            serving: None,
            lease: tandem_base::Instant::ZERO,
            disk_ops: Default::default(),
            timer: Time::MAX,
            failed: false,
            to_agent: 0,
            from_agent: 0,
        });
        for peer in (0..self.replicas).filter(|peer| *peer != n) {
            let delay = self.rng.between(1, 50) * MS;
            self.after(delay, Event::Dial { a: n.min(peer), b: n.max(peer) });
        }
        self.server_drain(n)
    }

    /// The volume server's process is gone. `power`: with the machine, so that nobody is told.
    pub(crate) fn stop_server(&mut self, n: usize, power: bool) {
        let Some(server) = self.nodes[n].server.take() else { return };
        note!(self, "{}: volume server dies", self.nodes[n].name);
        let disk = self.nodes[n].disk.as_mut().expect("a volume server has a disk");
        for op in server.disk_ops.into_values() {
            match op {
                DiskOp::Write { volume, offset, data, .. } => {
                    let at = place(&self.volumes, volume.0, offset);
                    disk.write_partly(at, Some(&data), data.len(), &mut self.rng);
                }
                DiskOp::Zero { volume, offset, length, .. } => {
                    let at = place(&self.volumes, volume.0, offset);
                    disk.write_partly(at, None, length as usize, &mut self.rng);
                }
                DiskOp::StoreSuperblock { superblock, .. } => {
                    disk.store_superblock_partly(&superblock::encode(&superblock), &mut self.rng);
                }
                DiskOp::StoreActivity { activity, .. } => disk.store_activity_partly(&activity, &mut self.rng),
                DiskOp::StoreStamps { stamps, .. } => disk.store_stamps_partly(&stamps, &mut self.rng),
                DiskOp::Read { .. } | DiskOp::Sync { .. } => {}
            }
        }
        disk.process_died();
        let attached = self.nodes[n].attachment.is_some();
        self.close_attachments(n);
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let Some(side) = connection.nodes.iter().position(|node| *node == n) else { continue };
            if connection.up[side] == Some(false) {
                continue;
            }
            connection.up[side] = Some(false);
            for pipe in &mut connection.pipes {
                pipe.break_now(&mut self.rng);
            }
            let other = connection.nodes[1 - side];
            // A dead process's kernel says goodbye; a machine without power does not.
            let delay = if power || self.network.link(n, other).cut {
                self.rng.between(500, 4_000) * MS
            } else {
                self.network.link(n, other).delay(self.now, &mut self.rng)
            };
            self.after(delay, Event::PeerDown { connection: id, side: 1 - side });
        }
        self.check_losses();
        if !power {
            self.server_gone(n, attached, server.open);
        }
    }

    fn server_runs(&self, n: usize, run: u64) -> bool {
        self.nodes[n].server.as_ref().is_some_and(|server| server.run == run)
    }

    pub(crate) fn server_input(&mut self, n: usize, input: Input) -> Result<(), Violation> {
        let now = self.local(n);
        if let Some(server) = &mut self.nodes[n].server {
            server.replica.handle(now, input);
        }
        self.server_drain(n)
    }

    pub(crate) fn deliver_to_server(&mut self, n: usize, run: u64, input: Input) -> Result<(), Violation> {
        if self.server_runs(n, run) {
            note!(self, "{}: told {input:?}", self.nodes[n].name);
            if let (Input::LeaseGranted { until }, Some(server)) = (&input, &mut self.nodes[n].server) {
                server.lease = server.lease.max(*until);
            }
            self.server_input(n, input)?;
        }
        Ok(())
    }

    /// The agent says something over the socket: in order, soon.
    pub(crate) fn tell_server(&mut self, n: usize, input: Input) {
        let delay = self.rng.between(10_000, 2 * MS);
        let now = self.now;
        let Some(server) = &mut self.nodes[n].server else { return };
        let at = (now + delay).max(server.from_agent + 1);
        server.from_agent = at;
        let run = server.run;
        self.queue.push(at, Event::ToServer { node: n, run, input: Box::new(input) });
    }

    /// The volume server says something over the socket to the agent that is connected.
    pub(crate) fn tell_agent(&mut self, n: usize, message: FromServer) {
        let delay = self.rng.between(10_000, 2 * MS);
        let now = self.now;
        let node = &mut self.nodes[n];
        let agent = node.agent.run;
        let Some(server) = &mut node.server else { return };
        if !node.agent.up {
            return;
        }
        let at = (now + delay).max(server.to_agent + 1);
        server.to_agent = at;
        let server = server.run;
        self.queue.push(at, Event::FromServer { node: n, agent, server, message });
    }

    pub(crate) fn server_timer(&mut self, n: usize, run: u64) -> Result<(), Violation> {
        if !self.server_runs(n, run) {
            return Ok(());
        }
        let now = self.local(n);
        let server = self.nodes[n].server.as_mut().expect("it runs");
        server.timer = Time::MAX;
        if server.replica.poll_timeout().is_some_and(|at| at <= now) {
            server.replica.handle(now, Input::TimedOut);
        }
        self.server_drain(n)
    }

    /// Carries out everything the replica wants, then sets its timer.
    pub(crate) fn server_drain(&mut self, n: usize) -> Result<(), Violation> {
        let mut outputs = 0_u64;
        while let Some(output) = self.nodes[n].server.as_mut().and_then(|server| server.replica.poll_output()) {
            self.output(n, output)?;
            outputs += 1;
            if outputs > OUTPUTS_MAX {
                return Err(Violation::new(
                    "world",
                    format!("the replica of node {n} does not come to rest in one event"),
                ));
            }
        }
        let node = &mut self.nodes[n];
        if let Some(server) = &mut node.server
            && let Some(at) = server.replica.poll_timeout()
        {
            let at = node.clock.when(at).max(self.now + 1);
            if at < server.timer {
                server.timer = at;
                self.queue.push(at, Event::ServerTimer { node: n, run: server.run });
            }
        }
        Ok(())
    }

    fn output(&mut self, n: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Reply { request, result } => self.replied(n, request.0, result)?,
            Output::Disk(op) => self.disk_op(n, op)?,
            Output::Send { peer, connection, message } => {
                if self.options.trace && !matches!(message, Message::Ping { .. } | Message::Pong) {
                    let line = format!("{} -> {peer}: {}", self.nodes[n].name, shown(&message));
                    self.note(line);
                }
                self.send_peer(n, connection.0, message);
            }
            Output::Disconnect { peer, connection, why } => {
                note!(self, "{}: disconnects {peer}: {why}", self.nodes[n].name);
                self.drop_side(connection.0, n);
            }
            Output::Opened { open, previous } => {
                note!(self, "{}: opened {open}, before {previous:?}", self.nodes[n].name);
                if let Some(server) = &mut self.nodes[n].server {
                    server.opened = Some(previous.clone());
                }
                self.tell_agent(n, FromServer::Opened { open, previous });
            }
            Output::Propose(proposal) => {
                note!(self, "{}: proposes {:?} on {}", self.nodes[n].name, proposal.change, proposal.expected);
                self.tell_agent(n, FromServer::Propose(proposal));
            }
            Output::Serving { promotion, configuration } => {
                note!(self, "{}: serves {promotion}, {configuration:?}", self.nodes[n].name);
                if let Some(server) = &mut self.nodes[n].server {
                    server.serving = Some(promotion);
                }
                self.serving(n, promotion)?;
                self.tell_agent(n, FromServer::Serving { promotion });
            }
            Output::Ended { promotion, why } => {
                note!(self, "{}: {promotion} ended: {why}", self.nodes[n].name);
                if let Some(server) = &mut self.nodes[n].server
                    && server.serving == Some(promotion)
                {
                    server.serving = None;
                }
                self.tell_agent(n, FromServer::Ended { promotion, why });
            }
            Output::Note(event) => {
                note!(self, "{}: {event:?}", self.nodes[n].name);
                if let tandem_volume::Event::DiskFailed { why } = event {
                    if let Some(server) = &mut self.nodes[n].server {
                        server.failed = true;
                    }
                    self.nodes[n].spoiled = true;
                    self.check_losses();
                    self.tell_agent(n, FromServer::DiskFailed { why });
                    // Somebody looks after the disk, and starts the server again.
                    let delay = self.rng.between(500, 8_000) * MS;
                    let run = self.nodes[n].server.as_ref().map_or(0, |server| server.run);
                    self.after(delay, Event::End(crate::faults::Fault::DiskRepair { node: n, run }));
                }
            }
        }
        Ok(())
    }

    // --- the disk ---

    fn disk_op(&mut self, n: usize, op: DiskOp) -> Result<(), Violation> {
        let (id, range, reads) = described(&op, &self.volumes);
        let slow = self.nodes[n].disk_fault.slow;
        let Some(server) = &mut self.nodes[n].server else { return Ok(()) };
        if let Some((from, to)) = range {
            let clash = server.disk_ops.values().find(|other| {
                let (_, range, other_reads) = described(other, &self.volumes);
                !(reads && other_reads) && range.is_some_and(|(start, end)| start < to && from < end)
            });
            if let Some(other) = clash {
                let what = format!("node {n}: {} overlaps {} in flight", brief(&op), brief(other));
                return Err(Violation::new("world", what));
            }
            let size: usize = self.volumes.iter().map(|volume| volume.size as usize).sum();
            if to > size {
                return Err(Violation::new("world", format!("node {n}: {} is outside the volume", brief(&op))));
            }
        }
        let mut delay = if reads { self.rng.between(MS / 20, MS) } else { self.rng.between(MS / 20, 3 * MS) };
        let stores = matches!(op, DiskOp::StoreActivity { .. } | DiskOp::StoreStamps { .. });
        if stores || matches!(op, DiskOp::Sync { .. } | DiskOp::StoreSuperblock { .. }) {
            delay += self.rng.below(8 * MS);
        }
        if slow > 0 && self.rng.chance(1, 4) {
            delay += self.rng.below(slow);
        }
        if let DiskOp::Sync { op } = &op {
            let disk = self.nodes[n].disk.as_mut().expect("a volume server has a disk");
            disk.sync_begin(op.0);
        }
        let server = self.nodes[n].server.as_mut().expect("looked at above");
        let run = server.run;
        server.disk_ops.insert(id, op);
        self.after(delay, Event::DiskDone { node: n, run, op: id });
        Ok(())
    }

    pub(crate) fn disk_done(&mut self, n: usize, run: u64, id: u64) -> Result<(), Violation> {
        if !self.server_runs(n, run) {
            return Ok(());
        }
        // Pages that only look clean on the last disk of all are nobody's to survive.
        let another = self.another_holds(n);
        let node = &mut self.nodes[n];
        let server = node.server.as_mut().expect("it runs");
        let Some(op) = server.disk_ops.remove(&id) else { return Ok(()) };
        let (disk, fault, rng) =
            (node.disk.as_mut().expect("a volume server has a disk"), node.disk_fault, &mut self.rng);
        let fails = |share: u64, rng: &mut tandem_base::Rng| share > 0 && rng.chance(share, 1_000);
        let io = |what: &str| DiskOutcome::Failed(DiskError::Io(format!("{what}: Input/output error")));
        let outcome = match &op {
            DiskOp::Read { volume, offset, length, .. } => {
                if fails(fault.read_errors, rng) {
                    io("read")
                } else {
                    let at = place(&self.volumes, volume.0, *offset);
                    DiskOutcome::Data(Bytes::copy_from_slice(disk.read(at, *length as usize)))
                }
            }
            DiskOp::Write { volume, offset, data, durable, .. } => {
                let at = place(&self.volumes, volume.0, *offset);
                if fails(fault.no_space, rng) {
                    DiskOutcome::Failed(DiskError::NoSpace)
                } else if fails(fault.write_errors, rng) {
                    disk.write_partly(at, Some(data), data.len(), rng);
                    io("write")
                } else {
                    disk.write(at, Some(data), data.len(), *durable, rng);
                    DiskOutcome::Done
                }
            }
            DiskOp::Zero { volume, offset, length, durable, .. } => {
                let at = place(&self.volumes, volume.0, *offset);
                if fails(fault.write_errors, rng) {
                    disk.write_partly(at, None, *length as usize, rng);
                    io("zero")
                } else {
                    disk.write(at, None, *length as usize, *durable, rng);
                    DiskOutcome::Done
                }
            }
            DiskOp::Sync { op } => {
                if another && fails(fault.sync_errors, rng) {
                    disk.sync_fail(op.0, rng);
                    io("fdatasync")
                } else {
                    disk.sync_end(op.0, rng);
                    DiskOutcome::Done
                }
            }
            DiskOp::StoreActivity { activity, .. } => {
                if another && fails(fault.write_errors / 4, rng) {
                    disk.store_activity_partly(activity, rng);
                    io("record")
                } else {
                    disk.store_activity(activity);
                    DiskOutcome::Done
                }
            }
            DiskOp::StoreStamps { stamps, .. } => {
                if another && fails(fault.write_errors / 4, rng) {
                    disk.store_stamps_partly(stamps, rng);
                    io("stamps")
                } else {
                    disk.store_stamps(stamps);
                    DiskOutcome::Done
                }
            }
            DiskOp::StoreSuperblock { superblock, .. } => {
                if fails(fault.write_errors / 4, rng) {
                    disk.store_superblock_partly(&superblock::encode(superblock), rng);
                    io("superblock")
                } else {
                    disk.store_superblock(&superblock::encode(superblock));
                    DiskOutcome::Done
                }
            }
        };
        note!(
            self,
            "{}: disk {} {}",
            self.nodes[n].name,
            brief(&op),
            if let DiskOutcome::Failed(e) = &outcome { format!("{e:?}") } else { "done".into() }
        );
        self.server_input(n, Input::DiskCompleted { op: DiskOpId(id), outcome })
    }

    // --- connections ---

    /// Two volume servers that are not connected try to be.
    pub(crate) fn dial(&mut self, a: usize, b: usize) {
        let (Some(first), Some(second)) = (&self.nodes[a].server, &self.nodes[b].server) else { return };
        let runs = [first.run, second.run];
        let stands = self
            .connections
            .values()
            .any(|it| it.nodes == [a, b] && it.runs == runs && it.up[0] != Some(false) && it.up[1] != Some(false));
        if stands {
            return;
        }
        let paused = self.nodes[a].paused || self.nodes[b].paused;
        if paused || !self.network.joined(a, b) {
            let delay = self.rng.between(100, 400) * MS;
            return self.after(delay, Event::Dial { a, b });
        }
        let id = self.id();
        let there = self.network.link(a, b).delay(self.now, &mut self.rng);
        let back = there + self.network.link(b, a).delay(self.now, &mut self.rng);
        // Nothing arrives on a side before that side knows of the connection.
        let mut pipes = [Pipe::default(), Pipe::default()];
        pipes[0].open_at(self.now + back);
        pipes[1].open_at(self.now + there);
        self.connections.insert(id, Connection { nodes: [a, b], runs, up: [None, None], pipes });
        self.after(back, Event::PeerUp { connection: id, side: 0 });
        self.after(there, Event::PeerUp { connection: id, side: 1 });
    }

    /// Whether this side of the connection still belongs to a living process.
    fn side_lives(&self, id: u64, side: usize) -> bool {
        self.connections.get(&id).is_some_and(|it| self.server_runs(it.nodes[side], it.runs[side]))
    }

    pub(crate) fn peer_up(&mut self, id: u64, side: usize) -> Result<(), Violation> {
        if !self.side_lives(id, side) {
            return Ok(());
        }
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.up[side].is_some() {
            return Ok(());
        }
        connection.up[side] = Some(true);
        let (n, other) = (connection.nodes[side], connection.nodes[1 - side]);
        let peer = self.nodes[other].name.clone();
        self.server_input(n, Input::PeerConnected { peer, connection: ConnectionId(id) })
    }

    pub(crate) fn peer_down(&mut self, id: u64, side: usize) -> Result<(), Violation> {
        let lives = self.side_lives(id, side);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let was = connection.up[side].replace(false);
        let nodes = connection.nodes;
        if connection.up == [Some(false); 2] {
            self.connections.remove(&id);
        }
        let delay = self.rng.between(20, 300) * MS;
        self.after(delay, Event::Dial { a: nodes[0], b: nodes[1] });
        if was == Some(true) && lives {
            let peer = self.nodes[nodes[1 - side]].name.clone();
            note!(self, "{}: connection {id} to {peer} is lost", self.nodes[nodes[side]].name);
            return self.server_input(nodes[side], Input::PeerLost { peer, connection: ConnectionId(id) });
        }
        Ok(())
    }

    /// A side closes the connection itself: it is not told, the other one is.
    fn drop_side(&mut self, id: u64, n: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(side) = connection.nodes.iter().position(|node| *node == n) else { return };
        connection.up[side] = Some(false);
        for pipe in &mut connection.pipes {
            pipe.break_now(&mut self.rng);
        }
        let delay = self.rng.between(1, 200) * MS;
        self.after(delay, Event::PeerDown { connection: id, side: 1 - side });
    }

    /// The connection breaks: both sides learn of it, each in its own time.
    pub(crate) fn break_connection(&mut self, id: u64, slowest: Time) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        for pipe in &mut connection.pipes {
            pipe.break_now(&mut self.rng);
        }
        for side in 0..2 {
            let delay = self.rng.below(slowest) + 1;
            self.after(delay, Event::PeerDown { connection: id, side });
        }
    }

    fn send_peer(&mut self, n: usize, id: u64, message: Message) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(side) = connection.nodes.iter().position(|node| *node == n) else { return };
        if connection.up[side] != Some(true) {
            return;
        }
        let other = connection.nodes[1 - side];
        let was_broken = connection.pipes[1 - side].is_broken();
        match connection.pipes[1 - side].send(now, self.network.link(n, other), &mut self.rng) {
            Some((number, at)) => {
                let message = std::rc::Rc::new(message);
                self.queue.push(at, Event::Peer { connection: id, side: 1 - side, number, message });
            }
            // Nobody acknowledges: after a while the kernel gives the connection up.
            None if !was_broken => self.break_connection(id, 4_000 * MS),
            None => {}
        }
    }

    pub(crate) fn peer_said(&mut self, id: u64, side: usize, number: u64, message: &Message) -> Result<(), Violation> {
        if !self.side_lives(id, side) {
            return Ok(());
        }
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if !connection.pipes[side].arrives(number) || connection.up[side] != Some(true) {
            return Ok(());
        }
        let (n, other) = (connection.nodes[side], connection.nodes[1 - side]);
        let peer = self.nodes[other].name.clone();
        let input = Input::PeerSaid { peer, connection: ConnectionId(id), message: message.clone() };
        self.server_input(n, input)
    }

    fn replied(
        &mut self,
        n: usize,
        request: u64,
        result: Result<Reply, tandem_volume::RequestError>,
    ) -> Result<(), Violation> {
        note!(
            self,
            "{}: request {request} {}",
            self.nodes[n].name,
            match &result {
                Ok(_) => "answered".into(),
                Err(e) => format!("{e}"),
            }
        );
        // The runtime looks at the clock once more before the bytes leave; here no time has passed.
        match result {
            Ok(Reply::Done) => self.request_answered(n, request, None),
            Ok(Reply::Data(data)) => self.request_answered(n, request, Some(&data)),
            Err(error) => {
                self.request_refused(n, request, &error);
                Ok(())
            }
        }
    }
}

/// Where a byte of a volume lies in the node's image.
pub(crate) fn place(volumes: &[tandem_volume::VolumeSpec], volume: u16, offset: u64) -> usize {
    let before: u64 = volumes[..usize::from(volume)].iter().map(|volume| volume.size).sum();
    (before + offset) as usize
}

/// The operation's name, its range in the image, and whether it only reads.
fn described(op: &DiskOp, volumes: &[tandem_volume::VolumeSpec]) -> (u64, Option<(usize, usize)>, bool) {
    let range = |volume: u16, offset: u64, length: usize| {
        let from = place(volumes, volume, offset);
        Some((from, from + length))
    };
    match op {
        DiskOp::Read { op, volume, offset, length } => (op.0, range(volume.0, *offset, *length as usize), true),
        DiskOp::Write { op, volume, offset, data, .. } => (op.0, range(volume.0, *offset, data.len()), false),
        DiskOp::Zero { op, volume, offset, length, .. } => (op.0, range(volume.0, *offset, *length as usize), false),
        DiskOp::Sync { op }
        | DiskOp::StoreSuperblock { op, .. }
        | DiskOp::StoreActivity { op, .. }
        | DiskOp::StoreStamps { op, .. } => (op.0, None, false),
    }
}

/// The operation without its payload.
fn brief(op: &DiskOp) -> String {
    match op {
        DiskOp::Write { op, volume, offset, data, durable } => {
            let value = crate::ledger::value_of(&data[..data.len().min(crate::disk::SECTOR)]);
            format!("#{} write {}:{offset}+{} value {value:?} durable {durable}", op.0, volume.0, data.len())
        }
        DiskOp::StoreSuperblock { op, superblock } => format!(
            "#{} superblock {} promised {} open {} failed {}",
            op.0, superblock.sequence, superblock.promised, superblock.open, superblock.failed
        ),
        DiskOp::StoreStamps { op, stamps } => {
            let extents: Vec<_> = stamps.iter().map(|(extent, _)| (extent.volume.0, extent.index)).collect();
            format!("#{} stamps of {extents:?}", op.0)
        }
        other => format!("{other:?}"),
    }
}

/// The message without its payload.
fn shown(message: &Message) -> String {
    match message {
        Message::Write(write) => format!(
            "Write {}#{} committed {} {}:{}+{} durable {}",
            write.promotion,
            write.sequence,
            write.committed,
            write.volume.0,
            write.offset,
            write.content.length(),
            write.durable
        ),
        Message::Hashes { chunk, hashes, .. } => format!("Hashes {chunk} ({})", hashes.len()),
        other => format!("{other:?}"),
    }
}
