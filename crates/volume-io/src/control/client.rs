//! The agent's side of the control socket.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest},
    net::{UnixStream, unix::OwnedReadHalf},
    sync::mpsc,
};

use super::{FromServer, LINE_MAX, ToServer};

/// Why the control socket failed. The cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody answers at the path.
    #[error("cannot connect to the volume server at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
    /// The connection ended.
    #[error("the volume server at {path} closed the connection")]
    Closed {
        /// The socket.
        path: PathBuf,
    },
}

/// A connection to a volume server.
///
/// Sending never waits: the messages are few and small. When the connection ends, the receiver that came with
/// [`Client::connect`] returns `None` and sending fails; connect again then. Dropping the client closes the connection;
/// the server goes on.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    server: Option<i32>,
    queue: mpsc::UnboundedSender<(ToServer, Option<OwnedFd>)>,
}

impl Client {
    /// Connects to the server at `path`; call it inside a tokio runtime.
    ///
    /// The receiver gets what the server says, [`FromServer::Opened`] (or [`FromServer::Refused`]) first.
    ///
    /// # Errors
    ///
    /// [`ControlError::Connect`]; trying again helps while the server is starting.
    pub async fn connect(path: &Path) -> Result<(Self, mpsc::UnboundedReceiver<FromServer>), ControlError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|cause| ControlError::Connect { path: path.to_path_buf(), cause })?;
        let server = stream.peer_cred().ok().and_then(|cred| cred.pid());
        let (reading, writing) = stream.into_split();
        let (queue, mut queued) = mpsc::unbounded_channel::<(ToServer, Option<OwnedFd>)>();
        let (said, incoming) = mpsc::unbounded_channel();
        let name = path.to_path_buf();
        let mut reader = tokio::spawn(async move {
            if let Err(cause) = read_lines(reading, &said).await {
                tracing::warn!(path = %name.display(), %cause, "the control socket failed");
            }
        });
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = queued.recv() => {
                        let Some((message, fd)) = message else { break };
                        let mut line = serde_json::to_vec(&message).expect("control messages have string keys only");
                        line.push(b'\n');
                        if send(writing.as_ref(), &line, fd).await.is_err() {
                            // The server is gone; what it said before is still to be read.
                            let _ = (&mut reader).await;
                            return;
                        }
                    }
                    _ = &mut reader => break,
                }
            }
            // Ends the other half too, so that the receiver sees the end when the last client was dropped.
            reader.abort();
        });
        Ok((Self { path: path.to_path_buf(), server, queue }, incoming))
    }

    /// The server's process id, where it is in sight of this process.
    #[must_use]
    pub fn server(&self) -> Option<i32> {
        self.server.filter(|pid| *pid > 0)
    }

    /// Sends a message; [`ToServer::PeerSocket`] goes by [`Client::send_peer_socket`].
    ///
    /// # Errors
    ///
    /// [`ControlError::Closed`]: the connection is gone. A message queued just before that may be lost.
    pub fn send(&self, message: ToServer) -> Result<(), ControlError> {
        self.queue(message, None)
    }

    /// Hands over a peer's TCP connection, of which nothing has been consumed (`MSG_PEEK` only).
    ///
    /// # Errors
    ///
    /// [`ControlError::Closed`], and the connection is closed with it.
    pub fn send_peer_socket(&self, socket: OwnedFd) -> Result<(), ControlError> {
        self.queue(ToServer::PeerSocket, Some(socket))
    }

    fn queue(&self, message: ToServer, fd: Option<OwnedFd>) -> Result<(), ControlError> {
        self.queue.send((message, fd)).map_err(|_| ControlError::Closed { path: self.path.clone() })
    }
}

/// Writes all of `line`; the descriptor travels with its first byte.
async fn send(stream: &UnixStream, line: &[u8], mut fd: Option<OwnedFd>) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let fds = fd.as_ref().map(AsFd::as_fd);
            let fds = fds.as_slice();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(fds));
            }
            Ok(sendmsg(stream, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
        });
        match sent {
            Ok(count) => {
                fd = None;
                rest = &rest[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read_lines(reading: OwnedReadHalf, said: &mpsc::UnboundedSender<FromServer>) -> io::Result<()> {
    let mut reading = BufReader::new(reading);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reading).take(LINE_MAX as u64).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let message = serde_json::from_slice(&line)?;
        if said.send(message).is_err() {
            return Ok(());
        }
    }
}
