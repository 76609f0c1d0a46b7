//! What a plan says once it is read: every reference checked, every default filled in.

mod link;
mod node;
mod plan;
mod service;
mod timing;
mod volume;

pub use link::{Bandwidth, Line, Link, Outside, Place};
pub use node::{Node, Power, Site};
pub use plan::{Group, Plan};
pub use service::{Check, Failback, Filesystem, Mount, Probe, Process, Service, ServiceAddress};
pub use timing::Timing;
pub use volume::{Ack, Attach, Mode, Volume};

use core::fmt::Display;

/// Serializes what prints as the plan writes it (`"12 ms"`, `"20 GiB"`), as that text.
pub(crate) fn as_text<T: Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// [`as_text`] for a value that may be absent; such a field is skipped when it is.
pub(crate) fn as_text_option<T: Display, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
