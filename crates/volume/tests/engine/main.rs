//! Scenarios of two or three replicas, and random histories of them.

mod history;
mod memory;
#[cfg(feature = "mutations")]
mod mistakes;
mod scenarios;
mod world;
