//! What the agent and the guard say to each other: one postcard value behind its length, 16 bits little endian.
//!
//! Both ends are the same binary or a neighbouring release: variants are only ever added at the end.

use serde::{Deserialize, Serialize};

/// The most bytes of one message, its length included.
pub(crate) const MESSAGE_MAX: usize = 1024;

/// From the agent. Each request gets one reply, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// Freeze this service too when the deadline comes; at once if it has passed. Replaces an earlier registration.
    RegisterCgroup { service: &'a str, path: &'a str },
    /// The same for a service without a cgroup.
    RegisterSession { service: &'a str, leader: u32, start_time: u64 },
    /// The lease holds until then, in nanoseconds of `CLOCK_BOOTTIME`; an earlier time than before is ignored.
    Extend { until: u64 },
    /// Let it run again.
    Thaw { service: &'a str },
    /// It is stopped for good, and nobody's business any more.
    Forget { service: &'a str },
    /// Who are you, and until when?
    Hello,
    /// What is in this slot?
    Slot { index: u16 },
    /// End. Refused while services are registered.
    End,
}

/// From the guard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply<'a> {
    Done,
    Refused(Refusal),
    Hello { pid: u32, deadline: u64, slots: u16, realtime: bool, locked: bool },
    Slot { service: &'a str, frozen: bool },
    EmptySlot,
}

/// Why the guard does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The lease is over.
    #[error("the lease is over")]
    LeaseOver,
    /// The guard has all the services it can hold.
    #[error("the guard holds as many services as it can")]
    Full,
    /// No such service.
    #[error("the service is not registered")]
    Unknown,
    /// The cgroup cannot be opened, or does not answer.
    #[error("the cgroup cannot be used")]
    Cgroup,
    /// A name or a message that is too long or malformed.
    #[error("the request is malformed")]
    Malformed,
    /// `End` while services are registered.
    #[error("services are registered")]
    Busy,
    /// The service could not be frozen or thawed.
    #[error("processes of the service could not be reached")]
    System,
}

/// Encodes with the length in front. `None` if it is too long.
pub(crate) fn encode<'b, T: Serialize>(message: &T, buffer: &'b mut [u8; MESSAGE_MAX]) -> Option<&'b [u8]> {
    let length = postcard::to_slice(message, &mut buffer[2..]).ok()?.len();
    buffer[..2].copy_from_slice(&(length as u16).to_le_bytes());
    Some(&buffer[..2 + length])
}

/// Length of the message that `bytes` begin with, and whether it can be one at all.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..2)?;
    Some(usize::from(u16::from_le_bytes([head[0], head[1]])))
}
