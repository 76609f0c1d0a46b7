//! The initiators' connections: NBD on one side, requests to the engine on the other.

use bytes::{Bytes, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    os::unix::net::{UnixListener, UnixStream},
};
use tandem_base::{ByteSize, Configuration, Duration, Epoch, Instant, NodeName, OpenId, VolumeName};
use tandem_volume::{Input, Reply as EngineReply, RequestError, RequestId};

use super::{
    poller::{Poller, Token},
    served::{Served, Target},
    translate::{Step, errno, translate},
};
use crate::{
    clock::boottime,
    control::Attachment,
    disk::Shared,
    nbd::{Errno, Handshake, Progress, Reply, Session, next_request},
};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 128;
/// Bytes of requests and replies of one connection in memory; then it is not read until some have left.
const WINDOW_BYTES: usize = 64 << 20;
/// Requests of one connection in the engine.
const WINDOW_REQUESTS: usize = 1024;
/// Bytes of requests of all connections, living and dead, in the engine.
const ENGINE_BYTES: usize = 512 << 20;
/// Bytes of a buffer for requests.
const READ_BYTES: usize = 512 << 10;
/// The least that is read from a socket at once.
const READ_BYTES_MIN: usize = 64 << 10;
/// Of these, connections that have not chosen an export; for one more the oldest is closed.
const HANDSHAKES_MAX: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

enum Phase {
    Handshake(Handshake),
    Transmission(Session<Target>),
}

struct Outgoing {
    reply: Reply,
    /// Leaves only under the lease; the cookie is answered with an error if the promotion ends first.
    gated: Option<u64>,
}

struct Initiator {
    socket: UnixStream,
    phase: Phase,
    since: Instant,
    input: BytesMut,
    /// Bytes that the next request still needs.
    missing: usize,
    output: VecDeque<Outgoing>,
    /// Bytes of the front of `output` that left.
    sent: usize,
    output_bytes: usize,
    requests: usize,
    request_bytes: usize,
    /// No more requests are taken; it ends when everything is answered.
    closing: bool,
    /// It ends at once: what was sent cannot be made whole.
    cut: bool,
    /// Requests that came whole wait for the window.
    stalled: bool,
    /// Interest that is registered: (read, write).
    watched: (bool, bool),
    blocked: bool,
}

struct Pending {
    initiator: u64,
    cookie: u64,
    offset: u64,
    structured: bool,
    bytes: usize,
}

/// All initiators of the group.
pub(super) struct Initiators {
    listener: UnixListener,
    listening: bool,
    served: Served,
    list: HashMap<u64, Initiator>,
    pending: HashMap<RequestId, Pending>,
    pending_bytes: usize,
    next_initiator: u64,
    next_request: u64,
}

impl Initiators {
    pub(super) fn new(
        listener: UnixListener,
        poller: &Poller,
        node: NodeName,
        open: OpenId,
        volumes: Vec<(VolumeName, ByteSize)>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        poller.add(&listener, Token::InitiatorListener, true, false)?;
        Ok(Self {
            listener,
            listening: true,
            served: Served { node, open, volumes, serving: None, configuration: None },
            list: HashMap::new(),
            pending: HashMap::new(),
            pending_bytes: 0,
            next_initiator: 0,
            next_request: 0,
        })
    }

    /// What the register says decides which promotions are over.
    pub(super) fn configured(&mut self, configuration: &Configuration) {
        let older = |known: &Configuration| known.epoch.number <= configuration.epoch.number;
        if self.served.configuration.as_ref().is_none_or(older) {
            self.served.configuration = Some(configuration.clone());
        }
    }

    /// Attachments of `promotion` may be made.
    pub(super) fn serve(&mut self, promotion: Epoch) {
        self.served.serving = Some(promotion);
    }

    /// The promotion being served.
    pub(super) fn serving(&self) -> Option<Epoch> {
        self.served.serving
    }

    /// The attachments of `promotion` fail for ever: whatever is unanswered gets an error, then the connections end.
    pub(super) fn end(&mut self, promotion: Epoch, why: &str) {
        if self.served.serving == Some(promotion) {
            self.served.serving = None;
        }
        let mut ended = Vec::new();
        for (number, initiator) in &mut self.list {
            let Phase::Transmission(session) = &initiator.phase else { continue };
            if session.target.promotion != promotion {
                continue;
            }
            let structured = session.structured;
            // A reply of which some bytes left cannot be turned into an error any more; the end of the connection is one.
            if initiator.sent > 0 && initiator.output.front().is_some_and(|front| front.gated.is_some()) {
                initiator.cut = true;
            }
            for outgoing in &mut initiator.output {
                if let Some(cookie) = outgoing.gated.take() {
                    initiator.output_bytes -= outgoing.reply.len();
                    outgoing.reply = Reply::error(structured, cookie, Errno::Shutdown, why);
                    initiator.output_bytes += outgoing.reply.len();
                }
            }
            initiator.closing = true;
            ended.push(*number);
        }
        let unanswered: Vec<_> =
            self.pending.iter().filter(|(_, pending)| ended.contains(&pending.initiator)).map(|(id, _)| *id).collect();
        for request in unanswered {
            self.answer(request, Err(RequestError::Superseded));
        }
    }

    /// Whether answers wait to be sent.
    pub(super) fn has_output(&self) -> bool {
        self.list.values().any(|initiator| !initiator.output.is_empty())
    }

    /// The connections, for the status.
    pub(super) fn attachments(&self) -> Vec<Attachment> {
        let attachment = |initiator: &Initiator| match &initiator.phase {
            Phase::Handshake(_) => None,
            Phase::Transmission(session) => Some(Attachment {
                volume: self.served.volumes[usize::from(session.target.volume.0)].0.clone(),
                promotion: session.target.promotion,
                in_flight: u32::try_from(initiator.requests).unwrap_or(u32::MAX),
            }),
        };
        self.list.values().filter_map(attachment).collect()
    }

    /// Takes new connections.
    pub(super) fn accept(&mut self, poller: &Poller, now: Instant) {
        while self.list.len() < CONNECTIONS_MAX {
            let Ok((socket, _)) = self.listener.accept() else { break };
            self.drop_oldest_handshake();
            let number = self.next_initiator;
            self.next_initiator += 1;
            let watching =
                socket.set_nonblocking(true).and_then(|()| poller.add(&socket, Token::Initiator(number), true, false));
            if let Err(error) = watching {
                tracing::warn!(%error, "an initiator's connection cannot be watched");
                continue;
            }
            let mut greeting = Vec::new();
            let handshake = Handshake::new(&mut greeting);
            let mut initiator = Initiator {
                socket,
                phase: Phase::Handshake(handshake),
                since: now,
                input: BytesMut::new(),
                missing: 0,
                output: VecDeque::new(),
                sent: 0,
                output_bytes: 0,
                requests: 0,
                request_bytes: 0,
                closing: false,
                cut: false,
                stalled: false,
                watched: (true, false),
                blocked: false,
            };
            initiator.push(Reply { head: greeting, data: Bytes::new() }, None);
            self.list.insert(number, initiator);
        }
        self.listen(poller);
    }

    /// Makes room for a connection that may choose an export at once.
    fn drop_oldest_handshake(&mut self) {
        let handshakes = || self.list.iter().filter(|(_, initiator)| matches!(initiator.phase, Phase::Handshake(_)));
        if handshakes().count() >= HANDSHAKES_MAX
            && let Some(oldest) = handshakes().map(|(number, _)| *number).min()
        {
            self.list.remove(&oldest);
        }
    }

    fn listen(&mut self, poller: &Poller) {
        let wanted = self.list.len() < CONNECTIONS_MAX;
        if wanted != self.listening && poller.change(&self.listener, Token::InitiatorListener, wanted, false).is_ok() {
            self.listening = wanted;
        }
    }

    /// Reads from connection `number` and hands the engine what came.
    pub(super) fn receive(&mut self, number: u64, disk: &Shared) -> Vec<Input> {
        let Some(initiator) = self.list.get_mut(&number) else { return Vec::new() };
        if initiator.closing || !initiator.may_read(self.pending_bytes) {
            return Vec::new();
        }
        match initiator.read() {
            Ok(true) => self.advance(number, disk),
            Ok(false) => {
                self.list.remove(&number);
                Vec::new()
            }
            Err(error) => {
                tracing::debug!(%error, "an initiator's connection failed");
                self.list.remove(&number);
                Vec::new()
            }
        }
    }

    /// Takes requests off the input of `number`, while its window lets it.
    fn advance(&mut self, number: u64, disk: &Shared) -> Vec<Input> {
        let mut inputs = Vec::new();
        let Some(initiator) = self.list.get_mut(&number) else { return inputs };
        loop {
            match &mut initiator.phase {
                Phase::Handshake(handshake) => {
                    let mut out = Vec::new();
                    let progress = handshake.advance(&mut initiator.input, &self.served, &mut out);
                    initiator.push(Reply { head: out, data: Bytes::new() }, None);
                    match progress {
                        Ok(Progress::Waiting) => break,
                        Ok(Progress::Chosen(session)) => initiator.phase = Phase::Transmission(session),
                        Ok(Progress::Aborted) => {
                            initiator.closing = true;
                            break;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "an initiator's handshake failed");
                            initiator.closing = true;
                            break;
                        }
                    }
                }
                Phase::Transmission(session) => {
                    let session = *session;
                    initiator.stalled = !initiator.may_read(self.pending_bytes);
                    if initiator.closing || initiator.stalled {
                        break;
                    }
                    let request = match next_request(&mut initiator.input) {
                        Ok(Ok(request)) => request,
                        Ok(Err(missing)) => {
                            initiator.missing = missing;
                            break;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "an initiator broke the protocol; its connection ends");
                            initiator.closing = true;
                            break;
                        }
                    };
                    initiator.missing = 0;
                    let (cookie, offset) = (request.cookie, request.offset);
                    match translate(&session, request, disk) {
                        Step::Submit { what, bytes } => {
                            let id = RequestId(self.next_request);
                            self.next_request += 1;
                            initiator.requests += 1;
                            initiator.request_bytes += bytes;
                            self.pending_bytes += bytes;
                            let structured = session.structured;
                            self.pending.insert(id, Pending { initiator: number, cookie, offset, structured, bytes });
                            let promotion = session.target.promotion;
                            inputs.push(Input::Submitted { request: id, promotion, what });
                        }
                        Step::Answer { reply, gated } => initiator.push(reply, gated.then_some(cookie)),
                        Step::Close => initiator.closing = true,
                    }
                }
            }
        }
        inputs
    }

    /// Queues the engine's answer.
    pub(super) fn answer(&mut self, request: RequestId, result: Result<EngineReply, RequestError>) {
        let Some(pending) = self.pending.remove(&request) else { return };
        self.pending_bytes -= pending.bytes;
        let Some(initiator) = self.list.get_mut(&pending.initiator) else { return };
        initiator.requests -= 1;
        initiator.request_bytes -= pending.bytes;
        let Pending { structured, cookie, offset, .. } = pending;
        let (reply, gated) = match result {
            Ok(EngineReply::Done) => (Reply::done(structured, cookie), true),
            Ok(EngineReply::Data(data)) => (Reply::data(structured, cookie, offset, data), true),
            Err(error) => (Reply::error(structured, cookie, errno(&error), &error.to_string()), false),
        };
        initiator.push(reply, gated.then_some(cookie));
    }

    /// Sends what may leave, resumes connections whose window opened again, ends those that are done. What the resumed
    /// connections ask comes back.
    pub(super) fn flush(&mut self, poller: &Poller, lease_until: Instant, now: Instant, disk: &Shared) -> Vec<Input> {
        let mut inputs = Vec::new();
        let mut ended = Vec::new();
        let mut resumed = Vec::new();
        for (number, initiator) in &mut self.list {
            let late = matches!(initiator.phase, Phase::Handshake(_)) && now >= initiator.since + HANDSHAKE_MAX;
            let result = if initiator.cut { Ok(()) } else { initiator.send(lease_until) };
            let done = initiator.closing && initiator.output.is_empty() && initiator.requests == 0;
            if result.is_err() || done || late || initiator.cut {
                ended.push(*number);
                continue;
            }
            let read = !initiator.closing && initiator.may_read(self.pending_bytes);
            if read && initiator.stalled {
                resumed.push(*number);
            }
            // A connection that ends is not read, but its hang-up still wakes us (epoll(7) reports it always).
            let wanted = (read, initiator.blocked);
            if wanted != initiator.watched {
                match poller.change(&initiator.socket, Token::Initiator(*number), wanted.0, wanted.1) {
                    Ok(()) => initiator.watched = wanted,
                    Err(_) => ended.push(*number),
                }
            }
        }
        for number in ended {
            self.list.remove(&number);
        }
        for number in resumed {
            inputs.extend(self.advance(number, disk));
        }
        self.listen(poller);
        inputs
    }

    /// A hang-up of a connection that is not read.
    pub(super) fn hung_up(&mut self, number: u64) {
        if self.list.get(&number).is_some_and(|initiator| !initiator.watched.0 && !initiator.watched.1) {
            self.list.remove(&number);
        }
    }

    /// When a handshake is too late.
    pub(super) fn due(&self) -> Option<Instant> {
        let handshakes = self.list.values().filter(|initiator| matches!(initiator.phase, Phase::Handshake(_)));
        handshakes.map(|initiator| initiator.since + HANDSHAKE_MAX).min()
    }
}

impl Initiator {
    fn may_read(&self, pending_bytes: usize) -> bool {
        self.request_bytes + self.output_bytes < WINDOW_BYTES
            && self.requests < WINDOW_REQUESTS
            && self.output.len() < WINDOW_REQUESTS
            && pending_bytes < ENGINE_BYTES
    }

    fn push(&mut self, reply: Reply, gated: Option<u64>) {
        if reply.len() > 0 {
            self.output_bytes += reply.len();
            self.output.push_back(Outgoing { reply, gated });
        }
    }

    /// Reads once; false at the end.
    fn read(&mut self) -> io::Result<bool> {
        // Payloads are slices of this buffer and keep it alive, so a new one is taken only when little is left.
        if self.input.capacity() - self.input.len() < self.missing.max(READ_BYTES_MIN) {
            self.input.reserve(self.missing.max(READ_BYTES));
        }
        let count = match rustix::io::read(&self.socket, self.input.spare_capacity_mut()) {
            Ok((read, _)) => read.len(),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        // SAFETY: the system call has initialised `count` bytes behind the ones that were there.
        unsafe { self.input.set_len(self.input.len() + count) };
        Ok(count > 0)
    }

    /// Sends what the socket takes; replies that need the lease only while it holds, read anew before each call.
    fn send(&mut self, lease_until: Instant) -> io::Result<()> {
        self.blocked = false;
        while !self.output.is_empty() {
            let leased = boottime() < lease_until;
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(64);
            let mut skip = self.sent;
            for outgoing in &self.output {
                if (outgoing.gated.is_some() && !leased) || slices.len() > 62 {
                    break;
                }
                for part in [outgoing.reply.head.as_slice(), &outgoing.reply.data] {
                    let start = skip.min(part.len());
                    skip -= start;
                    if start < part.len() {
                        slices.push(IoSlice::new(&part[start..]));
                    }
                }
            }
            if slices.is_empty() {
                return Ok(());
            }
            let mut count = match rustix::io::writev(&self.socket, &slices) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            self.output_bytes -= count;
            count += self.sent;
            self.sent = 0;
            while let Some(front) = self.output.front() {
                if count < front.reply.len() {
                    self.sent = count;
                    break;
                }
                count -= front.reply.len();
                self.output.pop_front();
            }
        }
        Ok(())
    }
}
