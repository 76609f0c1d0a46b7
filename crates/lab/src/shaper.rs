//! The lab's network: one switch whose ways between places have latency, jitter, loss and bandwidth.
//!
//! In user space over TAP devices, so that it needs neither `netem` nor any module, and works in a user namespace.
//!
//! Measured on two cores of a shared virtual machine (Linux 6.18, debug build, `tests/lab.rs` prints them each time): a way
//! without latency answers a ping in 0.19 to 0.22 ms, one of 2 x 1 ms in 2.2 ms, one of 2 x 10 ms in 20.3 ms; one TCP
//! connection gets 89 to 91 of 100 Mbit/s over 2 x 10 ms, and without limits 8.6 Gbit/s on an idle machine (2 Gbit/s while
//! compilers fill both cores), as whole pieces of up to 64 KiB pass through unsegmented.

mod frame;
mod pipe;
mod quality;
mod switch;

pub use quality::{Quality, QualityChange};
pub(crate) use switch::Switch;
