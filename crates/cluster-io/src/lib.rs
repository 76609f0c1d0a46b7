//! The control plane of a node: consensus over openraft, the cluster's own identities, sessions and leases, joining.
//!
//! What the log means is the pure `tandem_cluster`; this crate orders its entries, keeps them on disk, carries them
//! between nodes, and drives its two small machines: the table of sessions on the leader and the lease on every node.
//!
//! In the order of a day:
//!
//! - [`identity`]: the cluster's certificate authority, the files of a node's identity, TLS configurations.
//! - [`found`]: `tandem init`; writes the identity and the store of the first node and returns a [`JoinToken`].
//! - [`join`](join::join): `tandem join`; asks any node that is up, writes identity and store.
//! - [`ControlPlane::open`]: what the agent holds. It is handed the incoming connections that
//!   [`alpn::peek`] found to be for it, and gives out the state as it is applied.
//! - [`ControlPlane::hold_lease`]: opens a session for this run and renews it.

pub mod alpn;
mod asks;
pub mod clock;
mod config;
mod control;
mod error;
mod found;
mod holder;
pub mod identity;
pub mod join;
mod link;
mod links;
mod members;
mod network;
mod raft;
mod serve;
mod sessions;
mod store;
mod token;
mod wire;

pub use config::{Config, Paths};
pub use control::{Applied, Committed, ControlPlane, Lease};
pub use error::{ConfirmError, FoundError, OpenError, ProposeError};
pub use found::{Founded, Founding, found};
pub use store::StoreError;
pub use token::{JoinToken, TokenError};

/// ALPN of connections between agents; both sides show certificates of the cluster.
pub const ALPN_CONTROL: &[u8] = b"tandem-control/1";
/// ALPN of a joining node, which has no certificate yet.
pub const ALPN_JOIN: &[u8] = b"tandem-join/1";
/// The port on which nodes reach each other when an address names none.
pub const PORT: u16 = 7400;

#[cfg(test)]
mod tests;
