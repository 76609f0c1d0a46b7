//! The initiator's side, for the attach drivers: one connection that comes back by itself.

use bytes::{Buf, BufMut, Bytes};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::wire::{
    IHAVEOPT, NBDMAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, command, handshake_flag, info, option,
    reply,
};
use crate::export::Export;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A server that is stopped (SIGSTOP) in the middle of a handshake answers when it goes on; one that hangs is left.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How the server says that a promotion will never be served again.
const SUPERSEDED: &str = "superseded";

/// What is asked of the volume.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Read { offset: u64, length: u32 },
    Write { offset: u64, data: Bytes, fua: bool },
    Zero { offset: u64, length: u32, keep_allocated: bool },
    Flush,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The promotion is over: every request fails, for ever.
    Over,
    /// The server said so; the protocol's error number.
    Refused(u32),
}

/// Called once with the end of a request: the data of a read, nothing of others.
pub(crate) type Done = Box<dyn FnOnce(Result<Bytes, Failure>) + Send>;

struct Outstanding {
    ask: Ask,
    done: Done,
}

#[derive(Default)]
struct State {
    outstanding: BTreeMap<u64, Outstanding>,
    next: u64,
    over: bool,
}

struct Shared {
    socket_path: PathBuf,
    export: Export,
    state: Mutex<State>,
    /// Locked before `state`, and while a request is written; `None` between connections.
    writer: Mutex<Option<UnixStream>>,
}

/// A volume of one promotion, over NBD.
///
/// While the server is away or freezes, requests wait; a new connection is made for the same export, for ever, and what
/// was not answered is asked again: writes are idempotent as long as the initiator does not overlap its own. Once the
/// server says that the promotion is over, everything fails.
#[derive(Clone)]
pub(crate) struct Client(Arc<Shared>);

/// How a handshake failed.
#[derive(Debug)]
pub(crate) enum Unreached {
    /// Try again later.
    NotNow(String),
    /// The promotion is over.
    Over(String),
    /// The server knows no such export.
    Never(String),
}

impl Client {
    /// Connects once, and returns the client with the volume's size.
    pub(crate) fn connect(socket_path: PathBuf, export: Export) -> Result<(Self, u64), Unreached> {
        let (stream, size) = handshake(&socket_path, &export)?;
        let shared = Arc::new(Shared { socket_path, export, state: Mutex::default(), writer: Mutex::new(None) });
        let background = Arc::clone(&shared);
        thread::Builder::new()
            .name("nbd-replies".into())
            .spawn(move || background.run(stream, size))
            .map_err(|error| Unreached::NotNow(error.to_string()))?;
        Ok((Self(shared), size))
    }

    /// Asks; `done` is called from another thread, or from this one if the promotion is over. That thread is the one that
    /// takes replies: `done` must not ask by itself, as the server stops reading while nobody takes its replies.
    pub(crate) fn ask(&self, ask: Ask, done: Done) {
        let mut writer = lock(&self.0.writer);
        let cookie = {
            let mut state = lock(&self.0.state);
            if state.over {
                drop(state);
                drop(writer);
                return done(Err(Failure::Over));
            }
            let cookie = state.next;
            state.next += 1;
            state.outstanding.insert(cookie, Outstanding { ask: ask.clone(), done });
            cookie
        };
        // A connection that fails here is asked again by the thread that reads it.
        if let Some(stream) = writer.as_mut() {
            let _ = write_request(stream, cookie, &ask);
        }
    }
}

impl Shared {
    /// Reads replies, connects again, asks again; ends with the promotion.
    fn run(&self, mut stream: UnixStream, size: u64) {
        loop {
            if let Err(error) = self.serve(&stream) {
                tracing::warn!(export = %self.export, %error, "the volume server's connection ended; requests wait");
            }
            *lock(&self.writer) = None;
            if lock(&self.state).over {
                return self.fail_all();
            }
            let mut backoff = BACKOFF_MIN;
            stream = loop {
                match handshake(&self.socket_path, &self.export) {
                    Ok((stream, now)) if now == size => break stream,
                    Ok((_, now)) => {
                        tracing::error!(export = %self.export, size, now, "the volume changed its size under the attachment");
                        lock(&self.state).over = true;
                        return self.fail_all();
                    }
                    Err(Unreached::Over(why) | Unreached::Never(why)) => {
                        tracing::warn!(export = %self.export, "the attachment fails for ever: {why}");
                        lock(&self.state).over = true;
                        return self.fail_all();
                    }
                    Err(Unreached::NotNow(_)) => thread::sleep(backoff),
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            };
            tracing::info!(export = %self.export, "connected again");
        }
    }

    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        let writing = stream.try_clone()?;
        let again: Vec<(u64, Ask)> = {
            let mut writer = lock(&self.writer);
            *writer = Some(writing);
            lock(&self.state).outstanding.iter().map(|(cookie, one)| (*cookie, one.ask.clone())).collect()
        };
        thread::scope(|scope| {
            // On a thread of its own, because the server stops reading when nobody takes its replies.
            scope.spawn(move || {
                for (cookie, ask) in again {
                    let mut writer = lock(&self.writer);
                    let Some(stream) = writer.as_mut() else { break };
                    if write_request(stream, cookie, &ask).is_err() {
                        break;
                    }
                }
            });
            let result = self.read_replies(stream);
            // Ends a write that hangs.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            result
        })
    }

    fn read_replies(&self, stream: &UnixStream) -> io::Result<()> {
        let mut stream = io::BufReader::with_capacity(64 << 10, stream);
        loop {
            let mut head = [0; 16];
            stream.read_exact(&mut head)?;
            let mut head = &head[..];
            let (magic, error, cookie) = (head.get_u32(), head.get_u32(), head.get_u64());
            if magic != SIMPLE_REPLY_MAGIC {
                return Err(invalid("a reply without its magic"));
            }
            if error == super::Errno::Shutdown as u32 {
                tracing::warn!(export = %self.export, "the promotion is over; the attachment fails for ever");
                lock(&self.state).over = true;
                return Ok(());
            }
            let length = match lock(&self.state).outstanding.get(&cookie) {
                Some(Outstanding { ask: Ask::Read { length, .. }, .. }) if error == 0 => *length,
                Some(_) => 0,
                None => return Err(invalid("a reply to nothing that was asked")),
            };
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            // The lock ends with this statement: what is called may ask again.
            let answered = lock(&self.state).outstanding.remove(&cookie);
            if let Some(one) = answered {
                (one.done)(if error == 0 { Ok(data.into()) } else { Err(Failure::Refused(error)) });
            }
        }
    }

    fn fail_all(&self) {
        let all = std::mem::take(&mut lock(&self.state).outstanding);
        for one in all.into_values() {
            (one.done)(Err(Failure::Over));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn write_request(stream: &mut UnixStream, cookie: u64, ask: &Ask) -> io::Result<()> {
    let (kind, flags, offset, length, data) = match ask {
        Ask::Read { offset, length } => (command::READ, 0, *offset, *length, None),
        Ask::Write { offset, data, fua } => {
            let length = u32::try_from(data.len()).expect("FUSE writes are at most 16 MiB");
            (command::WRITE, u16::from(*fua), *offset, length, Some(data))
        }
        Ask::Zero { offset, length, keep_allocated } => {
            (command::WRITE_ZEROES, u16::from(*keep_allocated) << 1, *offset, *length, None)
        }
        Ask::Flush => (command::FLUSH, 0, 0, 0, None),
    };
    let mut head = Vec::with_capacity(28);
    head.put_u32(REQUEST_MAGIC);
    head.put_u16(flags);
    head.put_u16(kind);
    head.put_u64(cookie);
    head.put_u64(offset);
    head.put_u32(length);
    let Some(data) = data else { return stream.write_all(&head) };
    // One system call for both in nearly all cases.
    let sent = stream.write_vectored(&[io::IoSlice::new(&head), io::IoSlice::new(data)])?;
    match sent.checked_sub(head.len()) {
        Some(sent) => stream.write_all(&data[sent..]),
        None => {
            stream.write_all(&head[sent..])?;
            stream.write_all(data)
        }
    }
}

fn handshake(path: &std::path::Path, export: &Export) -> Result<(UnixStream, u64), Unreached> {
    let not_now = |error: io::Error| Unreached::NotNow(format!("{}: {error}", path.display()));
    let mut stream = UnixStream::connect(path).map_err(not_now)?;
    stream.set_read_timeout(Some(HANDSHAKE_MAX)).map_err(not_now)?;
    let size = negotiate(&mut stream, export).map_err(not_now)??;
    stream.set_read_timeout(None).map_err(not_now)?;
    Ok((stream, size))
}

fn negotiate(stream: &mut UnixStream, export: &Export) -> io::Result<Result<u64, Unreached>> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    let mut greeting = &greeting[..];
    if greeting.get_u64() != NBDMAGIC || greeting.get_u64() != IHAVEOPT {
        return Err(invalid("no NBD server"));
    }
    if greeting.get_u16() & handshake_flag::FIXED_NEWSTYLE == 0 {
        return Err(invalid("no fixed newstyle NBD server"));
    }
    let name = export.to_string();
    let length = u32::try_from(name.len()).expect("names are short");
    let mut out = Vec::new();
    out.put_u32(u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES));
    out.put_u64(IHAVEOPT);
    out.put_u32(option::GO);
    out.put_u32(length + 6);
    out.put_u32(length);
    out.put_slice(name.as_bytes());
    out.put_u16(0);
    stream.write_all(&out)?;
    let mut size = None;
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        let mut head = &head[..];
        let (magic, _option, kind, length) = (head.get_u64(), head.get_u32(), head.get_u32(), head.get_u32());
        if magic != OPTION_REPLY_MAGIC || length > 64 << 10 {
            return Err(invalid("a malformed option reply"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut info = &data[..];
        match kind {
            reply::ACK => {
                return size.map(Ok).ok_or_else(|| invalid("the server did not say the export's size"));
            }
            reply::INFO if info.len() >= 12 && info.get_u16() == info::EXPORT => size = Some(info.get_u64()),
            kind if kind & reply::ERROR != 0 => {
                let text = String::from_utf8_lossy(&data).into_owned();
                return Ok(Err(match kind {
                    reply::ERR_POLICY => Unreached::NotNow(text),
                    _ if text.starts_with(SUPERSEDED) => Unreached::Over(text),
                    _ => Unreached::Never(text),
                }));
            }
            _ => {}
        }
    }
}
