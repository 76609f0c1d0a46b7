//! The initiators' connections: NBD on one side, requests to the engine on the other.

use bytes::{Bytes, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    os::unix::net::{UnixListener, UnixStream},
};
use tandem_base::{ByteSize, Configuration, Duration, Epoch, Instant, NodeName, OpenId, VolumeName};
use tandem_volume::{Input, Reply as EngineReply, Request, RequestError, RequestId, VolumeIndex};

use super::poller::{Poller, Token};
use crate::{
    clock::boottime,
    control::Attachment,
    disk::Shared,
    export::Export,
    nbd::{
        Command, CommandFlags, Errno, ExportInfo, Exports, Handshake, PAYLOAD_MAX, Progress, Reply, RequestHeader,
        Session, Unavailable, next_request,
    },
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
/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// Extents in one block status reply.
const EXTENTS_MAX: usize = 1024;

/// A volume as an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    volume: VolumeIndex,
    promotion: Epoch,
}

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

/// What decides which exports exist.
struct Served {
    node: NodeName,
    open: OpenId,
    volumes: Vec<(VolumeName, ByteSize)>,
    serving: Option<Epoch>,
    configuration: Option<Configuration>,
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

enum Step {
    Submit { what: Request, bytes: usize },
    Answer { reply: Reply, gated: bool },
    Close,
}

fn errno(error: &RequestError) -> Errno {
    match error {
        RequestError::Superseded => Errno::Shutdown,
        RequestError::OutOfRange => Errno::Invalid,
        _ => Errno::Io,
    }
}

/// What a request means for the engine, or its answer where the engine is not needed.
fn translate(session: &Session<Target>, request: RequestHeader, disk: &Shared) -> Step {
    use CommandFlags as Flag;
    let RequestHeader { command, flags, cookie, offset, length } = request;
    let volume = session.target.volume;
    let refuse =
        |errno, text: &str| Step::Answer { reply: Reply::error(session.structured, cookie, errno, text), gated: false };
    let known = match &command {
        Command::Read => Flag::DF | Flag::FUA,
        Command::WriteZeroes => Flag::FUA | Flag::NO_HOLE | Flag::FAST_ZERO,
        Command::BlockStatus => Flag::REQ_ONE | Flag::FUA,
        _ => Flag::FUA,
    };
    if flags.beyond(known) {
        return refuse(Errno::Invalid, "unknown flags");
    }
    let fua = flags.has(Flag::FUA);
    match command {
        Command::Disconnect => return Step::Close,
        Command::Flush => return Step::Submit { what: Request::Flush, bytes: 0 },
        Command::Unknown(kind) => return refuse(Errno::Invalid, &format!("unknown request {kind}")),
        _ => {}
    }
    let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= session.size);
    if length == 0 {
        return refuse(Errno::Invalid, "a request of no bytes");
    }
    if !inside {
        let errno =
            if matches!(command, Command::Write(_) | Command::WriteZeroes) { Errno::NoSpace } else { Errno::Invalid };
        return refuse(errno, "the range ends behind the volume");
    }
    match command {
        Command::Read if length > PAYLOAD_MAX => refuse(Errno::Overflow, "a read of more than 32 MiB"),
        Command::Read => Step::Submit { what: Request::Read { volume, offset, length }, bytes: length as usize },
        Command::Write(data) => {
            let bytes = data.len();
            Step::Submit { what: Request::Write { volume, offset, data, fua }, bytes }
        }
        Command::Trim | Command::WriteZeroes => {
            // Whether zeroing is faster than writing depends on every replica's file system: never promised.
            if flags.has(Flag::FAST_ZERO) {
                return refuse(Errno::NotSupported, "zeroing may be as slow as writing");
            }
            let keep_allocated = flags.has(Flag::NO_HOLE);
            let length = u64::from(length);
            Step::Submit { what: Request::Zero { volume, offset, length, fua, keep_allocated }, bytes: 0 }
        }
        Command::BlockStatus if !session.block_status => refuse(Errno::Invalid, "no metadata context was agreed"),
        Command::BlockStatus => {
            let count = if flags.has(Flag::REQ_ONE) { 1 } else { EXTENTS_MAX };
            match disk.extents(volume, offset, u64::from(length), count) {
                Ok(extents) => Step::Answer { reply: Reply::block_status(cookie, &extents), gated: true },
                Err(error) => refuse(Errno::Io, &format!("the image's extents: {error}")),
            }
        }
        Command::Disconnect | Command::Flush | Command::Unknown(_) => unreachable!("answered above"),
    }
}

impl Served {
    /// Whether `promotion` can never be served by this run again, as far as is known here.
    fn is_over(&self, promotion: Epoch) -> bool {
        let Some(configuration) = &self.configuration else { return false };
        let current = configuration.primary.as_ref().is_some_and(|primary| {
            primary.promotion == promotion && primary.node == self.node && primary.open == self.open
        });
        configuration.epoch.number >= promotion.number && !current
    }
}

impl Exports for Served {
    type Target = Target;

    fn list(&self) -> Vec<String> {
        if self.serving.is_none() {
            return Vec::new();
        }
        self.volumes.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn find(&self, name: &str) -> Result<ExportInfo<Target>, Unavailable> {
        // The nameless export is the first, as many servers have it.
        let export: Export = match (name, self.volumes.first()) {
            ("", Some((first, _))) => Export { volume: first.clone(), promotion: None },
            _ => name.parse().map_err(|error: crate::export::ExportError| Unavailable::Never(error.to_string()))?,
        };
        let index = self.volumes.iter().position(|(volume, _)| *volume == export.volume);
        let index = index.ok_or_else(|| Unavailable::Never(format!("no volume `{}` in this group", export.volume)))?;
        if let Some(promotion) = export.promotion.filter(|promotion| self.is_over(*promotion)) {
            return Err(Unavailable::Never(format!("superseded: promotion {promotion} is over")));
        }
        let Some(serving) = self.serving else {
            return Err(Unavailable::NotNow("not served here now".into()));
        };
        if let Some(promotion) = export.promotion.filter(|promotion| *promotion != serving) {
            return Err(Unavailable::NotNow(format!("promotion {promotion} is not served here now")));
        }
        let (volume, size) = &self.volumes[index];
        let volume_index = VolumeIndex(u16::try_from(index).expect("a group has at most 32 volumes"));
        Ok(ExportInfo {
            target: Target { volume: volume_index, promotion: serving },
            size: size.as_u64(),
            description: format!("tandem volume {volume}, promotion {serving}"),
        })
    }
}
