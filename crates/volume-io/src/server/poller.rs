//! Readiness of everything the event loop waits for.

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tandem_base::Duration;

/// Who an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The disk pool has ended something.
    Disk,
    /// SIGTERM or SIGINT.
    Signal,
    /// The agent calls.
    AgentListener,
    /// The agent says something; which connection.
    Agent(u64),
    /// An initiator calls.
    InitiatorListener,
    /// An initiator says something.
    Initiator(u64),
    /// A peer says something.
    Peer(u64),
    /// A call to a peer is answered; the peer's place in the list.
    Dialer(u64),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Disk => (0, 0),
            Self::Signal => (1, 0),
            Self::AgentListener => (2, 0),
            Self::Agent(number) => (3, number),
            Self::InitiatorListener => (4, 0),
            Self::Initiator(number) => (5, number),
            Self::Peer(number) => (6, number),
            Self::Dialer(number) => (7, number),
        };
        number << 3 | kind
    }

    fn decode(data: u64) -> Self {
        let number = data >> 3;
        match data & 7 {
            0 => Self::Disk,
            1 => Self::Signal,
            2 => Self::AgentListener,
            3 => Self::Agent(number),
            4 => Self::InitiatorListener,
            5 => Self::Initiator(number),
            6 => Self::Peer(number),
            _ => Self::Dialer(number),
        }
    }
}

/// epoll(7), level-triggered. A descriptor leaves by being closed.
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for `fd` to become readable, and writable where `write`.
    pub(super) fn add(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.encode()), interest(read, write))?)
    }

    /// Changes what is waited for.
    pub(super) fn change(&self, fd: impl AsFd, token: Token, read: bool, write: bool) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(token.encode()), interest(read, write))?)
    }

    /// Waits for `fd` no longer, though it stays open.
    pub(super) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits at most `timeout`; `None` is for ever.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(timeout.as_nanos() % 1_000_000_000).expect("below 10^9"),
        });
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(events.iter().map(|event| Token::decode(event.data.u64())).collect()),
            Err(error) => Err(error.into()),
        }
    }
}

fn interest(read: bool, write: bool) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, read);
    flags.set(EventFlags::OUT, write);
    flags
}
