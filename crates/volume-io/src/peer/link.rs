//! One connection to a peer: bytes of a socket, TLS, frames.

use bytes::{Bytes, BytesMut};
use rustix::net::sockopt;
use rustls::Connection;
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};
use tandem_base::{Instant, NodeName};
use tandem_volume::{Message, wire};

/// Plaintext that rustls holds encrypted before the socket takes it.
const TLS_BUFFER: usize = 1 << 20;
/// Bytes that may wait for a peer; then it is cut off, and comes back by a resync.
const WAITING_MAX: usize = 256 << 20;
/// How long the kernel retransmits before the connection counts as dead.
const USER_TIMEOUT_MS: u32 = 5_000;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Frame(#[from] wire::WireError),
    #[error("{0} bytes wait for the peer, more than fit into memory")]
    Backlog(usize),
}

/// One connection to a peer.
pub(crate) struct Link {
    socket: TcpStream,
    pub(crate) tls: Connection,
    /// Who must be at the other end, where we called.
    pub(crate) called: Option<NodeName>,
    /// Who is at the other end, once it is proved.
    pub(crate) peer: Option<NodeName>,
    pub(crate) since: Instant,
    /// The other end's address.
    pub(crate) from: String,
    decoder: wire::Decoder,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// The socket did not take everything.
    pub(crate) blocked: bool,
    /// Interest in writability is registered.
    pub(crate) watched: bool,
}

impl Link {
    /// Takes a connected socket over.
    pub(crate) fn new(
        socket: TcpStream,
        mut tls: Connection,
        called: Option<NodeName>,
        now: Instant,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(2))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(1))?;
        sockopt::set_tcp_keepcnt(&socket, 4)?;
        sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
        tls.set_buffer_limit(Some(TLS_BUFFER));
        let from = socket.peer_addr().map_or_else(|_| "somebody".into(), |address| address.to_string());
        Ok(Self {
            socket,
            from,
            tls,
            called,
            peer: None,
            since: now,
            decoder: wire::Decoder::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            blocked: false,
            watched: false,
        })
    }

    /// Reads once from the socket, through `scratch`; then take [`Link::next_message`] until it is `None`.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<(), LinkError> {
        let count = match (&self.socket).read(scratch) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let mut encrypted = &scratch[..count];
        let mut plain = BytesMut::with_capacity(count);
        while !encrypted.is_empty() {
            self.tls.read_tls(&mut encrypted)?;
            let state = self.tls.process_new_packets()?;
            let start = plain.len();
            let ready = state.plaintext_bytes_to_read();
            if ready > 0 {
                plain.resize(start + ready, 0);
                self.tls.reader().read_exact(&mut plain[start..])?;
            }
            if state.peer_has_closed() {
                return Err(LinkError::Closed);
            }
        }
        if !plain.is_empty() {
            self.decoder.feed(plain.freeze());
        }
        Ok(())
    }

    /// The next whole message that came.
    pub(crate) fn next_message(&mut self) -> Result<Option<Message>, LinkError> {
        Ok(self.decoder.next()?)
    }

    /// Queues a message; [`Link::flush`] sends it.
    pub(crate) fn queue(&mut self, message: &Message) -> Result<(), LinkError> {
        let (head, payload) = wire::encode(message);
        for part in [Some(Bytes::from(head)), payload].into_iter().flatten() {
            self.waiting_bytes += part.len();
            self.waiting.push_back(part);
        }
        if self.waiting_bytes > WAITING_MAX { Err(LinkError::Backlog(self.waiting_bytes)) } else { Ok(()) }
    }

    /// Whether [`Link::flush`] has something to do.
    pub(crate) fn has_output(&self) -> bool {
        self.tls.wants_write() || (!self.waiting.is_empty() && !self.tls.is_handshaking())
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        self.blocked = false;
        loop {
            if !self.tls.is_handshaking() {
                while let Some(front) = self.waiting.front_mut() {
                    let count = self.tls.writer().write(front)?;
                    self.waiting_bytes -= count;
                    let _ = front.split_to(count);
                    if !front.is_empty() {
                        break;
                    }
                    self.waiting.pop_front();
                }
            }
            if !self.tls.wants_write() {
                return Ok(());
            }
            match self.tls.write_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
