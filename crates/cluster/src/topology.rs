//! What a plan means for the cluster.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use serde::{Deserialize, Serialize};
use tandem_base::{ByteSize, Duration, GroupName, NodeName, ServiceName, SiteName, VolumeName};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Where it stands; a witness may stand outside every site.
    pub site: Option<SiteName>,
    /// Votes and holds no data.
    pub witness: bool,
    /// Whether it votes in the consensus; otherwise it only learns.
    pub voter: bool,
}

/// A group of volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The nodes that hold a copy.
    pub replicas: BTreeSet<NodeName>,
    /// The volumes, in the order of their index.
    pub volumes: Vec<(VolumeName, ByteSize)>,
}

/// Whether a service goes back to its preferred site by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Failback {
    /// It stays where it is until a person moves it.
    #[default]
    Manual,
    /// It goes back once the preferred site can run it again.
    Auto,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The group that holds its data.
    pub group: Option<GroupName>,
    /// Where it runs when nothing speaks against.
    pub prefer: Option<SiteName>,
    /// Whether it goes back there by itself.
    pub failback: Failback,
    /// Services that must run before this one starts.
    pub after: BTreeSet<ServiceName>,
    /// The nodes that can run it.
    pub candidates: BTreeSet<NodeName>,
}

/// The times that safety rests on. All nodes share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Between two renewals of a session.
    pub heartbeat: Duration,
    /// How long a node may act after it sent a renewal that was granted.
    pub lease: Duration,
    /// By how many millionths two clocks' rates may differ from true time.
    pub drift_ppm: u64,
    /// In what time a node whose lease ended has fenced itself.
    pub grace: Duration,
    /// Between two heartbeats of the consensus leader.
    pub raft_heartbeat: Duration,
    /// The shortest silence after which a voter stands for election.
    pub election_timeout_min: Duration,
    /// The longest.
    pub election_timeout_max: Duration,
    /// How long a volume peer may be silent while a write waits for it.
    pub peer_timeout: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            lease: Duration::from_secs(3),
            drift_ppm: 10_000,
            grace: Duration::from_millis(500),
            raft_heartbeat: Duration::from_millis(150),
            election_timeout_min: Duration::from_millis(600),
            election_timeout_max: Duration::from_millis(1_200),
            peer_timeout: Duration::from_secs(1),
        }
    }
}

impl Timings {
    /// How long after receiving a node's last renewal the leader may take it for fenced:
    /// `lease × (1 + d) / (1 - d) + grace`, rounded up (the node's clock at its slowest, the leader's at its fastest).
    #[must_use]
    pub fn expiry(&self) -> Duration {
        let drift = u128::from(self.drift_ppm.min(999_999));
        let stretched = (u128::from(self.lease.as_nanos()) * (1_000_000 + drift)).div_ceil(1_000_000 - drift);
        Duration::from_nanos(u64::try_from(stretched).unwrap_or(u64::MAX)) + self.grace
    }
}

/// What a plan means for the cluster: names, places and rules, nothing of how a node carries them out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// The machines.
    pub nodes: BTreeMap<NodeName, NodeSpec>,
    /// The groups of volumes.
    pub groups: BTreeMap<GroupName, GroupSpec>,
    /// The services.
    pub services: BTreeMap<ServiceName, ServiceSpec>,
    /// The times.
    pub timings: Timings,
}

/// Why a topology contradicts itself. A checked plan never does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TopologyError {
    /// A name without a declaration.
    #[error("`{user}` names `{name}`, which the plan does not declare")]
    Unknown {
        /// Who names it.
        user: String,
        /// What is named.
        name: String,
    },
    /// A copy of data on a witness.
    #[error("group `{group}` has a replica on the witness `{node}`; a witness holds no data")]
    WitnessReplica {
        /// The group.
        group: GroupName,
        /// The witness.
        node: NodeName,
    },
    /// Two services on one group.
    #[error("group `{group}` belongs to `{first}` and `{second}`; a group moves with one service")]
    SharedGroup {
        /// The group.
        group: GroupName,
        /// A service.
        first: ServiceName,
        /// Another.
        second: ServiceName,
    },
    /// A service that waits for itself.
    #[error("service `{0}` waits for itself through `after`")]
    Circle(ServiceName),
}

impl Topology {
    /// Whether every name is declared, no witness holds data, no group has two services, and no service waits for
    /// itself.
    ///
    /// # Errors
    ///
    /// The first contradiction found, in the order of names.
    pub fn check(&self) -> Result<(), TopologyError> {
        let unknown = |user: &str, name: &str| Err(TopologyError::Unknown { user: user.into(), name: name.into() });
        for (group, spec) in &self.groups {
            for node in &spec.replicas {
                match self.nodes.get(node) {
                    None => return unknown(group.as_str(), node.as_str()),
                    Some(found) if found.witness => {
                        return Err(TopologyError::WitnessReplica { group: group.clone(), node: node.clone() });
                    }
                    Some(_) => {}
                }
            }
        }
        let mut owners: BTreeMap<&GroupName, &ServiceName> = BTreeMap::new();
        for (service, spec) in &self.services {
            for node in &spec.candidates {
                if !self.nodes.contains_key(node) {
                    return unknown(service.as_str(), node.as_str());
                }
            }
            for other in &spec.after {
                if !self.services.contains_key(other) {
                    return unknown(service.as_str(), other.as_str());
                }
            }
            let Some(group) = &spec.group else { continue };
            if !self.groups.contains_key(group) {
                return unknown(service.as_str(), group.as_str());
            }
            if let Some(first) = owners.insert(group, service) {
                let (first, second) = (first.clone(), service.clone());
                return Err(TopologyError::SharedGroup { group: group.clone(), first, second });
            }
        }
        self.check_circles()
    }

    /// Strikes out services whose predecessors are all struck out; what is left waits in a circle.
    fn check_circles(&self) -> Result<(), TopologyError> {
        let mut left: BTreeSet<&ServiceName> = self.services.keys().collect();
        loop {
            let free = left.iter().copied().find(|service| {
                self.services.get(*service).is_none_or(|spec| !spec.after.iter().any(|other| left.contains(other)))
            });
            match free {
                Some(service) => left.remove(service),
                None => return left.first().map_or(Ok(()), |service| Err(TopologyError::Circle((*service).clone()))),
            };
        }
    }

    /// The service that a group belongs to.
    #[must_use]
    pub fn service_of(&self, group: &GroupName) -> Option<&ServiceName> {
        self.services.iter().find(|(_, spec)| spec.group.as_ref() == Some(group)).map(|(name, _)| name)
    }
}
