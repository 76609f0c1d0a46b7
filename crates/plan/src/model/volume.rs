//! Replicated virtual disks.

use serde::Serialize;
use tandem_base::{ByteSize, NodeName, VolumeName};

use super::as_text;

/// How one volume is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Volume {
    /// Its name.
    #[serde(skip)]
    pub name: VolumeName,
    /// A multiple of 4 KiB, never 0.
    #[serde(serialize_with = "as_text")]
    pub size: ByteSize,
    /// The nodes that keep a copy, as written; at least one, none twice, none a witness.
    pub replicas: Vec<NodeName>,
    /// When the other site has a write.
    pub mode: Mode,
    /// What a replica has done with a write before it counts as held.
    pub ack: Ack,
    /// How the service reaches it.
    pub attach: Attach,
}

/// When the other replicas have a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mode {
    /// Before it is acknowledged.
    Sync,
}

/// What a replica has done with a write before it counts as held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ack {
    /// Its kernel has accepted it. A flush still makes it durable everywhere.
    Memory,
    /// It is on stable storage.
    Durable,
}

/// How a service reaches a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// An NBD server on a unix socket.
    Nbd,
    /// A file of the volume's size.
    File,
    /// A block device, with a file system on it.
    Device,
}
