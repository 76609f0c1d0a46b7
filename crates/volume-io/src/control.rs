//! What the agent and the volume server say to each other, over a unix stream socket.
//!
//! One JSON value per line, each way; [`ToServer::PeerSocket`] carries a file descriptor with its line (`SCM_RIGHTS`,
//! unix(7)). The server outlives agents: whenever one connects it hears [`FromServer::Opened`] first, then whatever is
//! still open ([`FromServer::Serving`], the last [`FromServer::Propose`] not yet overtaken), then news. A new agent
//! replaces an older one.

mod client;
mod message;
mod status;

pub use client::{Client, ControlError};
pub use message::{FromServer, LINE_MAX, NoteKind, ToServer};
pub use status::{Attachment, PeerStatus, Resync, Role, Status};
