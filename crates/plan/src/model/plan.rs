//! The whole plan.

use serde::Serialize;
use std::collections::BTreeMap;
use tandem_base::{Duration, GroupName, LinkName, NodeName, PlanName, PowerName, ServiceName, SiteName, VolumeName};

use super::{Line, Link, Node, Outside, Place, Power, Service, Site, Timing, Volume};
use crate::Proportion;

/// A continuity plan. Built only by [`crate::parse`], so it is valid: every name it uses is declared, every default is
/// filled in, and the rules of safety hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Its name.
    pub name: PlanName,
    /// Places whose machines can fall together.
    pub sites: BTreeMap<SiteName, Site>,
    /// Sources of power, and UPS.
    pub power: BTreeMap<PowerName, Power>,
    /// Machines that run the agent.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Declared lines between places; [`Plan::line`] knows the others too.
    pub links: BTreeMap<LinkName, Link>,
    /// Replicated virtual disks.
    pub volumes: BTreeMap<VolumeName, Volume>,
    /// What users reach.
    pub services: BTreeMap<ServiceName, Service>,
    /// The cluster's clocks.
    pub timing: Timing,
    /// The line to the clients, and to witnesses without a link.
    pub outside: Outside,
}

/// Volumes that share one epoch, one in-sync set and one order of writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Group {
    /// The volume's name where there is one volume, else the service's.
    pub name: GroupName,
    /// Its volumes; their order gives each its index on the wire.
    pub volumes: Vec<VolumeName>,
    /// The nodes that keep a copy of every one of them.
    pub replicas: Vec<NodeName>,
    /// Who uses it; nobody yet where absent.
    pub service: Option<ServiceName>,
}

impl Plan {
    /// The volume groups, by name: the volumes of one service form one, a volume that no service uses is its own.
    #[must_use]
    pub fn groups(&self) -> BTreeMap<GroupName, Group> {
        let mut groups = BTreeMap::new();
        let mut used = std::collections::BTreeSet::new();
        for service in self.services.values() {
            let Some(first) = service.volumes.first() else { continue };
            used.extend(&service.volumes);
            let name = if service.volumes.len() == 1 { first.as_str() } else { service.name.as_str() };
            let group = Group {
                name: GroupName::new(name).expect("every volume's and service's name is a name"),
                volumes: service.volumes.clone(),
                replicas: self.volumes.get(first).map(|volume| volume.replicas.clone()).unwrap_or_default(),
                service: Some(service.name.clone()),
            };
            groups.insert(group.name.clone(), group);
        }
        for volume in self.volumes.values().filter(|volume| !used.contains(&volume.name)) {
            let group = Group {
                name: GroupName::new(volume.name.as_str()).expect("every volume's name is a name"),
                volumes: vec![volume.name.clone()],
                replicas: volume.replicas.clone(),
                service: None,
            };
            groups.insert(group.name.clone(), group);
        }
        groups
    }

    /// The group of a service's volumes; `None` for a service without one.
    #[must_use]
    pub fn group_of(&self, service: &Service) -> Option<GroupName> {
        let name = match service.volumes.as_slice() {
            [] => return None,
            [volume] => volume.as_str(),
            _ => service.name.as_str(),
        };
        Some(GroupName::new(name).expect("every volume's and service's name is a name"))
    }

    /// The nodes that can run a service, best first: those of its preferred site, then the others, each in the order of
    /// its volumes' replicas (of the nodes' names for a service without a volume).
    #[must_use]
    pub fn candidates(&self, service: &Service) -> Vec<NodeName> {
        let mut nodes: Vec<NodeName> = match service.volumes.first().and_then(|name| self.volumes.get(name)) {
            Some(volume) => volume.replicas.clone(),
            None => self.nodes.values().filter(|node| !node.witness).map(|node| node.name.clone()).collect(),
        };
        nodes.sort_by_key(|name| self.nodes.get(name).and_then(|node| node.site.as_ref()) != Some(&service.prefer));
        nodes
    }

    /// The voters of the cluster's log, by name.
    pub fn voters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.voter)
    }

    /// The nodes of a site, by name.
    pub fn nodes_in<'plan>(&'plan self, site: &'plan SiteName) -> impl Iterator<Item = &'plan Node> {
        self.nodes.values().filter(move |node| node.site.as_ref() == Some(site))
    }

    /// Where a node stands on the map of lines.
    #[must_use]
    pub fn place(&self, node: &Node) -> Place {
        match &node.site {
            Some(site) => Place::Site(site.clone()),
            None => Place::Witness(node.name.clone()),
        }
    }

    /// The places of this plan that have a line to each other: its sites, its witnesses elsewhere, the outside.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let sites = self.sites.keys().cloned().map(Place::Site);
        let witnesses =
            self.nodes.values().filter(|node| node.site.is_none()).map(|node| Place::Witness(node.name.clone()));
        sites.chain(witnesses).chain([Place::Outside]).collect()
    }

    /// What a packet meets from `from` to `to`: the link between them if one is declared, else the `outside` line; inside
    /// one place, nothing.
    #[must_use]
    pub fn line(&self, from: &Place, to: &Place) -> Line {
        if from == to {
            let (latency, jitter, loss) = (Duration::ZERO, Duration::ZERO, Proportion::ZERO);
            return Line { latency, jitter, loss, bandwidth: None };
        }
        for link in self.links.values() {
            let forward = link.between == [from.clone(), to.clone()];
            if forward || link.between == [to.clone(), from.clone()] {
                let bandwidth = if forward { link.bandwidth.up } else { link.bandwidth.down };
                return Line { latency: link.latency, jitter: link.jitter, loss: link.loss, bandwidth };
            }
        }
        let outside = &self.outside;
        let bandwidth = match (from, to) {
            (Place::Site(_), Place::Site(_)) => match (outside.bandwidth.up, outside.bandwidth.down) {
                (Some(up), Some(down)) => Some(up.min(down)),
                (up, down) => up.or(down),
            },
            (Place::Site(_), _) => outside.bandwidth.up,
            (_, Place::Site(_)) => outside.bandwidth.down,
            _ => None,
        };
        Line { latency: outside.latency, jitter: outside.jitter, loss: outside.loss, bandwidth }
    }
}
