//! The rules of the cluster's log, one file per part.

mod leader;
mod lease;
#[cfg(feature = "mutations")]
mod mutations;
mod placement;
mod random;
mod register;
mod service;
mod sessions;
mod world;
