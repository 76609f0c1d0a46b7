//! The volume server: one process per volume group and node that joins the pure engine (`tandem_volume::Replica`) to
//! disks, peers, NBD initiators and the agent; and the attach drivers that make a volume a file or a block device.
//!
//! * [`server::run`] is the whole life of a volume server.
//! * [`control`] is what the agent and the server say to each other, with the agent's side of the socket.
//! * [`attach`] is a process of its own per attachment.

pub mod attach;
mod clock;
pub mod control;
mod disk;
pub mod export;
pub mod nbd;
mod peer;
pub mod server;
mod signals;
