//! The file systems of a service.

use super::{Steps, causes};
use std::path::Path;
use tandem_base::Duration;
use tandem_node_io::{MountSpec, mkfs, mount};

impl Steps {
    pub(super) async fn mount(&self) -> Result<(), String> {
        for planned in &self.spec.mounts {
            let device = self.path_of(Some(&planned.volume)).ok_or("the volume is not attached")?;
            let filesystem = match planned.filesystem {
                tandem_plan::Filesystem::Ext4 => mkfs::FileSystem::Ext4,
                other => return Err(format!("{} is not carried out yet", other.as_str())),
            };
            let prepared = mkfs::make_if_blank(&device, filesystem, self.spec.start_timeout).await.map_err(causes)?;
            if prepared == mkfs::Prepared::Made {
                let what = format!(
                    "service {}: {} made on volume {}",
                    self.name(),
                    planned.filesystem.as_str(),
                    planned.volume
                );
                self.context.proposer.note(what, "the volume was empty");
            }
            let spec = MountSpec {
                device,
                target: planned.path.as_str().into(),
                file_system: filesystem,
                options: Vec::new(),
                timeout: self.spec.start_timeout,
            };
            mount::mount(&spec).await.map_err(causes)?;
        }
        Ok(())
    }

    pub(super) async fn unmount(&self, force: bool) -> Result<(), String> {
        for planned in self.spec.mounts.iter().rev() {
            let within = if force { Duration::from_secs(1) } else { self.spec.stop_timeout };
            mount::unmount(Path::new(&planned.path), within, force).await.map_err(causes)?;
        }
        Ok(())
    }
}
