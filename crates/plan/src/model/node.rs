//! Sites, their power, and the machines in them.

use core::net::IpAddr;
use serde::Serialize;
use tandem_base::{Duration, NodeName, PowerName, SiteName};

use super::as_text_option;

/// A place whose machines can fall together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Site {
    /// Its name.
    #[serde(skip)]
    pub name: SiteName,
}

/// A source of power, or a UPS when something feeds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Power {
    /// Its name.
    #[serde(skip)]
    pub name: PowerName,
    /// Where it stands.
    pub site: SiteName,
    /// What feeds it; any one is enough. Empty: it is a source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fed_by: Vec<PowerName>,
    /// How long it holds without being fed; a source has none.
    #[serde(serialize_with = "as_text_option", skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Duration>,
}

/// A machine that runs the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Node {
    /// Its name.
    #[serde(skip)]
    pub name: NodeName,
    /// Where it stands. Only a witness may stand outside every site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// Where its peers reach it, on port 7400/tcp.
    pub address: IpAddr,
    /// Whether it votes and holds no data.
    pub witness: bool,
    /// Whether it is a voter of the cluster's log. By default the same number of nodes in every site, and the witness.
    pub voter: bool,
    /// What feeds it; any one is enough. Empty: nothing was said, and the checks assume one source for its whole site.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub powered_by: Vec<PowerName>,
}
