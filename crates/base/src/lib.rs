//! The words that every other crate of Tandem shares.
//!
//! Pure: no I/O, no clock, no threads, no ambient randomness. Time ([`Instant`]) and randomness ([`Rng`]) are numbers
//! that the caller hands in.
#![no_std]
extern crate alloc;

pub mod group;
mod ids;
mod names;
mod rng;
mod size;
mod time;

pub use group::{Change, Configuration, Epoch, Primary, Proposal};
pub use ids::{ClusterId, OpenId, RunId, SessionId};
pub use names::{GroupName, LinkName, NameError, NodeName, PlanName, PowerName, ServiceName, SiteName, VolumeName};
pub use rng::Rng;
pub use size::{BitRate, ByteSize, Rounded, UnitError};
pub use time::{Duration, Instant};
