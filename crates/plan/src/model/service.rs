//! What users reach.

use core::{fmt, net::IpAddr, str::FromStr};
use serde::Serialize;
use std::collections::BTreeMap;
use tandem_base::{Duration, ServiceName, SiteName, VolumeName};

use super::{as_text, as_text_option};
use crate::Template;

/// One service: the resources that start together on one node, in the order volumes, mounts, process, address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Service {
    /// Its name.
    #[serde(skip)]
    pub name: ServiceName,
    /// What it keeps its data on; they form one group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeName>,
    /// One for each volume that attaches as a device, in the order of `volumes`.
    #[serde(skip)]
    pub mounts: Vec<Mount>,
    /// Where users reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<ServiceAddress>,
    /// What runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Process>,
    /// How it is seen to work, once it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Where it runs when there is a choice.
    pub prefer: SiteName,
    /// Whether it goes back by itself to where it is preferred.
    pub failback: Failback,
    /// How long it may be down; no target where absent.
    #[serde(serialize_with = "as_text_option", skip_serializing_if = "Option::is_none")]
    pub rto: Option<Duration>,
    /// What it may lose, in time before the fall; no target where absent.
    #[serde(serialize_with = "as_text_option", skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Duration>,
    /// Services that are up before this one starts; without cycles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ServiceName>,
    /// How long each step of its start may take.
    #[serde(serialize_with = "as_text")]
    pub start_timeout: Duration,
    /// How long each step of its stop may take; then it is killed.
    #[serde(serialize_with = "as_text")]
    pub stop_timeout: Duration,
}

/// A file system on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// On which volume.
    pub volume: VolumeName,
    /// Made on the volume when it is empty.
    pub filesystem: Filesystem,
    /// Absolute, without `..`; made when it is missing.
    pub path: String,
}

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Filesystem {
    /// ext4.
    Ext4,
}

impl Filesystem {
    /// As mount(8) and mkfs(8) call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
        }
    }
}

/// An address that moves with its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ServiceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network: at most 32 or 128.
    pub prefix_len: u8,
}

impl FromStr for ServiceAddress {
    type Err = &'static str;

    /// Reads `10.9.0.10/24` or `fd00::10/64`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "an address with its network's length, such as \"10.9.0.10/24\" or \"fd00::10/64\"";
        let (ip, prefix_len) = text.split_once('/').ok_or(EXPECTED)?;
        let ip: IpAddr = ip.parse().map_err(|_| EXPECTED)?;
        if prefix_len.is_empty() || !prefix_len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(EXPECTED);
        }
        let prefix_len: u8 = prefix_len.parse().map_err(|_| EXPECTED)?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix_len > longest { Err(EXPECTED) } else { Ok(Self { ip, prefix_len }) }
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

impl Serialize for ServiceAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A program that stays in the foreground while the service is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// The program and its arguments; never empty. The program `tandem` is the running binary itself.
    pub process: Vec<Template>,
    /// Run before the program is asked to stop, while it still serves: what shortens the stop, such as a checkpoint.
    /// Empty where absent. Its failure stops nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before_stop: Vec<Template>,
    /// Who it runs as; as the agent where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Added to a small fixed environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Template>,
    /// Its working directory; `/` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<Template>,
}

/// How a service is seen to work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What is tried.
    #[serde(flatten)]
    pub probe: Probe,
    /// From the start of one try to the start of the next.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// A try that takes longer has failed.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// The service is down after this many failures in a row; at least 1.
    pub failures: u32,
}

/// What a check tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Probe {
    /// Something accepts a TCP connection at this `address:port`.
    Tcp(Template),
    /// This program with its arguments, run on the service's node, exits with 0.
    Command(Vec<Template>),
}

/// Whether a service goes back to its preferred site when that is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failback {
    /// When a person says so.
    Manual,
    /// By itself, as a switchover.
    Auto,
}
