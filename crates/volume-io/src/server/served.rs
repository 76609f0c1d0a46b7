//! Which exports exist.

use tandem_base::{ByteSize, Configuration, Epoch, NodeName, OpenId, VolumeName};
use tandem_volume::VolumeIndex;

use crate::{
    export::Export,
    nbd::{ExportInfo, Exports, Unavailable},
};

/// A volume as an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) volume: VolumeIndex,
    pub(super) promotion: Epoch,
}

/// What decides which exports exist.
pub(super) struct Served {
    pub(super) node: NodeName,
    pub(super) open: OpenId,
    pub(super) volumes: Vec<(VolumeName, ByteSize)>,
    pub(super) serving: Option<Epoch>,
    pub(super) configuration: Option<Configuration>,
}

impl Served {
    /// Whether `promotion` can never be served by this run again, as far as is known here.
    fn is_over(&self, promotion: Epoch) -> bool {
        let Some(configuration) = &self.configuration else { return false };
        let current = configuration.primary.as_ref().is_some_and(|primary| {
            primary.promotion == promotion && primary.node == self.node && primary.open == self.open
        });
        configuration.epoch.number >= promotion.number && !current
    }
}

impl Exports for Served {
    type Target = Target;

    fn list(&self) -> Vec<String> {
        if self.serving.is_none() {
            return Vec::new();
        }
        self.volumes.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn find(&self, name: &str) -> Result<ExportInfo<Target>, Unavailable> {
        // The nameless export is the first, as many servers have it.
        let export: Export = match (name, self.volumes.first()) {
            ("", Some((first, _))) => Export { volume: first.clone(), promotion: None },
            _ => name.parse().map_err(|error: crate::export::ExportError| Unavailable::Never(error.to_string()))?,
        };
        let index = self.volumes.iter().position(|(volume, _)| *volume == export.volume);
        let index = index.ok_or_else(|| Unavailable::Never(format!("no volume `{}` in this group", export.volume)))?;
        if let Some(promotion) = export.promotion.filter(|promotion| self.is_over(*promotion)) {
            return Err(Unavailable::Never(format!("superseded: promotion {promotion} is over")));
        }
        let Some(serving) = self.serving else {
            return Err(Unavailable::NotNow("not served here now".into()));
        };
        if let Some(promotion) = export.promotion.filter(|promotion| *promotion != serving) {
            return Err(Unavailable::NotNow(format!("promotion {promotion} is not served here now")));
        }
        let (volume, size) = &self.volumes[index];
        let volume_index = VolumeIndex(u16::try_from(index).expect("a group has at most 32 volumes"));
        Ok(ExportInfo {
            target: Target { volume: volume_index, promotion: serving },
            size: size.as_u64(),
            description: format!("tandem volume {volume}, promotion {serving}"),
        })
    }
}
