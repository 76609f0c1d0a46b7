//! Attach drivers: a volume as a file ([`file`]) or as a block device ([`device`]).
//!
//! Each attachment is a process of its own that belongs to one promotion: while the volume server is away or frozen its
//! requests wait; once the promotion is over every request fails with EIO, for ever. For initiators that speak NBD no
//! driver is needed: they use the server's socket.

pub mod device;
pub mod file;
mod loop_device;
mod mount;
mod one_file;

use std::{io, path::PathBuf};

use crate::export::Export;

/// Why a volume could not be attached here. The cause is in `source()`, never in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The volume server does not serve the export.
    #[error("export `{export}` at {socket}: {why}")]
    NotServed {
        /// What was asked for.
        export: Export,
        /// Of whom.
        socket: PathBuf,
        /// What it said.
        why: String,
    },
    /// A system call failed.
    #[error("cannot {action} {path}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
}

impl AttachError {
    /// One thing to try, printed as `hint:`.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotServed { .. } => Some("see `tandem volume status` for where the volume is served, and why"),
            Self::System { action: "mount", .. } => {
                Some("FUSE needs /dev/fuse, and either root (of a user namespace is enough) or the package fuse3")
            }
            Self::System { action: "make a loop device over", .. } => Some(
                "loop devices need root of the machine itself; without it write attach = \"file\" or \"nbd\" in the plan",
            ),
            Self::System { .. } => None,
        }
    }
}
