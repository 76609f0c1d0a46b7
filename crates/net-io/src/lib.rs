//! What a node does to its network: service addresses that end by themselves, their announcement to the neighbours, and
//! the few link operations that a network namespace needs.
//!
//! Everything acts in the network namespace of the calling thread at the time of [`Network::open`].

mod address;
mod announce;
mod cidr;
mod claim;
mod error;
mod frame;
mod link;
mod packet_socket;

pub use address::{Extended, Installed, ServiceAddress};
pub use announce::ANNOUNCE_AFTER_MS;
pub use cidr::{Cidr, CidrError};
pub use claim::{Claim, ClaimWatch};
pub use error::NetError;
pub use frame::MacAddress;
pub use link::{Interface, Network};
