//! The lab's network: one switch whose ways between places have latency, jitter, loss and bandwidth.
//!
//! In user space over TAP devices, so that it needs neither `netem` nor any module, and works in a user namespace.
//!
//! Measured on two cores of a shared virtual machine: see `tests/lab.rs`, which prints round trip and throughput.

mod frame;
mod pipe;
mod quality;
mod switch;

pub use quality::{Quality, QualityChange};
pub(crate) use switch::Switch;
