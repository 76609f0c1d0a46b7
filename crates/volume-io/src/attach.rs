//! Attach drivers: a volume as a file ([`file`]) or as a block device ([`device`]).
//!
//! Each attachment is a process of its own that belongs to one promotion: while the volume server is away or frozen its
//! requests wait; once the promotion is over every request fails with EIO, for ever. For initiators that speak NBD no
//! driver is needed: they use the server's socket.

pub mod device;
pub mod file;

use std::{io, path::PathBuf};

/// Why a volume could not be attached here. The cause is in `source()`, never in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
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
