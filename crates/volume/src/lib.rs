//! The replication engine: one [`Replica`] of a volume group as a state machine, with its wire and on-disk codecs.
//!
//! Pure: no I/O, no clock, no threads, no ambient randomness. It knows no plan and no cluster: it obeys the newest
//! [`tandem_base::Configuration`] it was shown and asks for changes with [`tandem_base::Proposal`]s.
#![no_std]
extern crate alloc;

mod ahead;
mod config;
mod disk;
mod input;
mod intervals;
mod message;
pub mod meta;
mod mutations;
mod output;
mod peers;
mod primary;
mod register;
mod remember;
mod replica;
mod secondary;
mod status;
pub mod superblock;
mod unsettled;
pub mod wire;

pub use config::{Ack, ReplicaConfig, VolumeSpec};
pub use input::{ConnectionId, DiskError, DiskOpId, DiskOutcome, Input, Request, RequestId, VolumeIndex};
pub use message::{BLOCK, CHUNK, Content, Hello, Message, SequencedWrite, Span, VERSION};
pub use mutations::Mutations;
pub use output::{DiskOp, Event, Output, Reply, RequestError};
pub use remember::LastWords;
pub use replica::Replica;
pub use status::{Counters, PeerStatus, ReplicaStatus, ResyncProgress, Role};
pub use superblock::Superblock;
