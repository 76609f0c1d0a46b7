//! The lines between places.

use serde::Serialize;
use tandem_base::{BitRate, Duration, LinkName, NodeName, SiteName};

use super::{as_text, as_text_option};
use crate::Proportion;

/// One end of a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Inside a site.
    Site(SiteName),
    /// Where a witness stands that is in no site.
    Witness(NodeName),
    /// Everywhere else: the clients.
    Outside,
}

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Site(site) => site.fmt(f),
            Self::Witness(node) => node.fmt(f),
            Self::Outside => f.pad("outside"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a packet meets on its way from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// One way.
    pub latency: Duration,
    /// Each packet waits up to this much more.
    pub jitter: Duration,
    /// Packets that never arrive.
    pub loss: Proportion,
    /// What it carries in this direction; unlimited where absent.
    pub bandwidth: Option<BitRate>,
}

/// A declared line between two places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Link {
    /// Its name.
    #[serde(skip)]
    pub name: LinkName,
    /// Its ends, in the order they were written.
    pub between: [Place; 2],
    /// One way, the same in both directions.
    #[serde(serialize_with = "as_text")]
    pub latency: Duration,
    /// Each packet waits up to this much more.
    #[serde(serialize_with = "as_text")]
    pub jitter: Duration,
    /// Packets that never arrive, in each direction.
    #[serde(serialize_with = "as_text")]
    pub loss: Proportion,
    /// From the first end to the second and back.
    #[serde(skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// What a line carries in each direction; unlimited where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Bandwidth {
    /// From the first end to the second; on `outside`, from the site to the outside.
    #[serde(serialize_with = "as_text_option", skip_serializing_if = "Option::is_none")]
    pub up: Option<BitRate>,
    /// From the second end to the first; on `outside`, from the outside to the site.
    #[serde(serialize_with = "as_text_option", skip_serializing_if = "Option::is_none")]
    pub down: Option<BitRate>,
}

impl Bandwidth {
    /// Whether nothing was said of either direction.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.up.is_none() && self.down.is_none()
    }
}

/// The line by which a place reaches whatever no link of its own leads to: the clients, and a witness elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outside {
    /// One way.
    #[serde(serialize_with = "as_text")]
    pub latency: Duration,
    /// Each packet waits up to this much more.
    #[serde(serialize_with = "as_text")]
    pub jitter: Duration,
    /// Packets that never arrive, in each direction.
    #[serde(serialize_with = "as_text")]
    pub loss: Proportion,
    /// From the site to the outside and back.
    #[serde(skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}
