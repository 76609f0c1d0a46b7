//! The NBD protocol, server side, as byte-in byte-out state machines (the client of the attach drivers is
//! [`client`]).
//!
//! Source: the NBD protocol, <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>. Fixed newstyle,
//! without TLS: the socket is a unix socket of the machine's own.

pub(crate) mod client;
mod handshake;
mod transmission;
mod wire;

pub use handshake::{ExportInfo, Exports, Handshake, HandshakeError, Progress, Session, Unavailable};
pub use transmission::{Command, CommandFlags, Reply, RequestHeader, TransmissionError, next_request};
pub use wire::Errno;
pub(crate) use wire::*;
