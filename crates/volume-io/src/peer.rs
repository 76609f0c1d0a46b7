//! Connections to the other replicas: mutually authenticated TLS 1.3 over TCP, one per pair.

mod dialer;
mod identity;
mod link;

pub(crate) use dialer::{Dialer, Dialing};
pub(crate) use identity::Identity;
pub use identity::IdentityError;
pub(crate) use link::{Link, LinkError};
