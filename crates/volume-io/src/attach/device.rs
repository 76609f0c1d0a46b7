//! A volume as a loop device over the file of [`super::file`].

use std::time::Duration;

use super::{
    AttachError,
    file::{FileAttach, Mounted, Ready, announce},
    loop_device::LoopDevice,
};
use crate::signals;

/// How long a detach may take to write back; then the volume is cut off, and what waits fails.
const DETACH_MAX: Duration = Duration::from_secs(10);

/// What to attach. The file is mounted too; the device lies over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceAttach {
    /// The file below.
    pub file: FileAttach,
}

/// Attaches, prints [`super::file::Ready`] with the device's path on stdout, serves until SIGTERM or SIGINT, then
/// detaches the device and unmounts.
///
/// Blocks; the process belongs to it: it takes the signals. Loop devices are global to the host. Unmount what lies on the
/// device before: a device in use stays until its last user is gone, and fails from then on.
///
/// # Errors
///
/// [`AttachError`] when the attachment cannot be made; afterwards as for [`super::file::run`].
pub fn run(attach: &DeviceAttach) -> Result<(), AttachError> {
    let path = attach.file.path();
    let system = |action, cause| AttachError::System { action, path: path.clone(), cause };
    let signals = signals::termination().map_err(|cause| system("take signals for", cause))?;
    let mounted = Mounted::new(&attach.file)?;
    let device = match LoopDevice::attach(&path) {
        Ok(device) => device,
        Err(cause) => {
            mounted.end();
            return Err(system("make a loop device over", cause));
        }
    };
    announce(&Ready { ready: true, path: device.path().to_path_buf(), size: mounted.size });
    signals::wait(&signals);
    if !device.detach(DETACH_MAX) {
        tracing::warn!("the device cannot be written back; what waits for it fails now");
        mounted.abort();
    }
    mounted.end();
    Ok(())
}
