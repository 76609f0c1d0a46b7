//! The agent's connection, seen from the server.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    collections::VecDeque,
    io::{self, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use super::poller::{Poller, Token};
use crate::control::{FromServer, LINE_MAX, ToServer};

/// Notes that wait for an agent to come back; older ones are in the journal of the server only.
const BACKLOG: usize = 256;
/// Bytes that may wait for an agent that does not read; then it is cut off.
const WAITING_MAX: usize = 8 << 20;

struct Connection {
    number: u64,
    socket: UnixStream,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    output: Vec<u8>,
    watched: bool,
}

/// What the agent hears and says.
pub(super) struct Agent {
    listener: UnixListener,
    connection: Option<Connection>,
    next: u64,
    /// What every new agent hears first.
    opened: Option<FromServer>,
    serving: Option<FromServer>,
    backlog: VecDeque<FromServer>,
}

impl Agent {
    pub(super) fn new(listener: UnixListener, poller: &Poller) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        poller.add(&listener, Token::AgentListener, true, false)?;
        Ok(Self { listener, connection: None, next: 0, opened: None, serving: None, backlog: VecDeque::new() })
    }

    /// A new agent replaces an older one, and hears what is still open.
    pub(super) fn accept(&mut self, poller: &Poller) {
        let Ok((socket, _)) = self.listener.accept() else { return };
        self.next += 1;
        let number = self.next;
        if let Err(error) =
            socket.set_nonblocking(true).and_then(|()| poller.add(&socket, Token::Agent(number), true, false))
        {
            tracing::warn!(%error, "an agent's connection cannot be watched");
            return;
        }
        self.connection = Some(Connection {
            number,
            socket,
            input: Vec::new(),
            fds: VecDeque::new(),
            output: Vec::new(),
            watched: false,
        });
        let open: Vec<_> = self.opened.iter().chain(&self.serving).cloned().chain(self.backlog.drain(..)).collect();
        for message in open {
            self.say(message);
        }
    }

    /// Queues a message; what nobody hears now and matters later is kept.
    pub(super) fn say(&mut self, message: FromServer) {
        match &message {
            FromServer::Opened { .. } => self.opened = Some(message.clone()),
            FromServer::Serving { .. } => self.serving = Some(message.clone()),
            FromServer::Ended { .. } => self.serving = None,
            _ => {}
        }
        let Some(connection) = &mut self.connection else {
            if matches!(message, FromServer::Note { .. } | FromServer::Ended { .. }) {
                if self.backlog.len() == BACKLOG {
                    self.backlog.pop_front();
                }
                self.backlog.push_back(message);
            }
            return;
        };
        serde_json::to_writer(&mut connection.output, &message).expect("control messages have string keys only");
        connection.output.push(b'\n');
        if connection.output.len() > WAITING_MAX {
            tracing::warn!("the agent does not read; its connection is closed");
            self.connection = None;
        }
    }

    /// Reads what connection `number` says.
    pub(super) fn receive(&mut self, number: u64) -> Vec<(ToServer, Option<OwnedFd>)> {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.number == number) else {
            return Vec::new();
        };
        match read(connection) {
            Ok(messages) => messages,
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::warn!(%error, "the agent's connection failed");
                }
                self.connection = None;
                Vec::new()
            }
        }
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self, poller: &Poller) {
        let Some(connection) = &mut self.connection else { return };
        let result = (|| {
            while !connection.output.is_empty() {
                match connection.socket.write(&connection.output) {
                    Ok(count) => drop(connection.output.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let blocked = !connection.output.is_empty();
            if blocked != connection.watched {
                poller.change(&connection.socket, Token::Agent(connection.number), true, blocked)?;
                connection.watched = blocked;
            }
            Ok(())
        })();
        if let Err(error) = result {
            tracing::info!(%error, "the agent is gone");
            self.connection = None;
        }
    }
}

fn read(connection: &mut Connection) -> io::Result<Vec<(ToServer, Option<OwnedFd>)>> {
    let mut messages = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = match recvmsg(
        connection.socket.as_fd(),
        &mut [IoSliceMut::new(&mut buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    ) {
        Ok(got) => got,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(messages),
        Err(error) => return Err(error.into()),
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            connection.fds.extend(fds);
        }
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    connection.input.extend_from_slice(&buffer[..got.bytes]);
    let mut start = 0;
    while let Some(length) = connection.input[start..].iter().position(|byte| *byte == b'\n') {
        match serde_json::from_slice(&connection.input[start..start + length])? {
            ToServer::PeerSocket => {
                let fd = connection
                    .fds
                    .pop_front()
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a peer socket without a descriptor"))?;
                messages.push((ToServer::PeerSocket, Some(fd)));
            }
            message => messages.push((message, None)),
        }
        start += length + 1;
    }
    connection.input.drain(..start);
    if connection.input.len() > LINE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than any message"));
    }
    Ok(messages)
}
