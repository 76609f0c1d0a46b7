//! Calling a peer, again and again.

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt},
};
use std::{
    io,
    net::{SocketAddr, TcpStream},
};
use tandem_base::{Duration, Instant};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a call may ring: a host that is away does not even refuse.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// What a dialer is at.
pub(crate) enum Dialing {
    /// Nothing before then.
    Waiting(Instant),
    /// The call is out; writable once it is answered.
    Ringing(TcpStream, Instant),
    /// A connection was made of it.
    Connected,
}

/// Calls one peer.
pub(crate) struct Dialer {
    pub(crate) address: SocketAddr,
    pub(crate) state: Dialing,
    backoff: Duration,
    /// Why the last call failed, and whether that was said already.
    pub(crate) problem: Option<String>,
}

impl Dialer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, state: Dialing::Waiting(Instant::ZERO), backoff: BACKOFF_MIN, problem: None }
    }

    /// When there is something to do without an event.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.state {
            Dialing::Waiting(until) => Some(*until),
            Dialing::Ringing(_, since) => Some(*since + CONNECT_MAX),
            Dialing::Connected => None,
        }
    }

    /// Starts a call.
    pub(crate) fn dial(&mut self, now: Instant) -> io::Result<&TcpStream> {
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        match connect(&socket, &self.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.state = Dialing::Ringing(socket.into(), now);
        match &self.state {
            Dialing::Ringing(socket, _) => Ok(socket),
            _ => unreachable!("set in the line before"),
        }
    }

    /// The call was answered or refused: the connected socket, or why not.
    pub(crate) fn answered(&mut self) -> Option<io::Result<TcpStream>> {
        let Dialing::Ringing(socket, _) = std::mem::replace(&mut self.state, Dialing::Connected) else {
            return None;
        };
        Some(match sockopt::socket_error(&socket) {
            Ok(Ok(())) => Ok(socket),
            Ok(Err(error)) | Err(error) => Err(error.into()),
        })
    }

    /// The call, or the connection made of it, came to nothing.
    pub(crate) fn failed(&mut self, now: Instant, why: String) {
        self.state = Dialing::Waiting(now + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.problem = Some(why);
    }

    /// The peer proved who it is.
    pub(crate) fn succeeded(&mut self) {
        self.backoff = BACKOFF_MIN;
        self.problem = None;
    }
}
