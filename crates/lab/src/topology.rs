//! What a lab is made of: hosts, the places they stand in, and the ways between the places.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use tandem_plan::Plan;

use crate::shaper::Quality;

/// The host that stands for the users: in no site, reachable from all, with no agent.
pub const OUTSIDE: &str = "outside";

/// One host of the lab: a node of the plan, or [`OUTSIDE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The node's name.
    pub name: String,
    /// The site it stands in; a witness and [`OUTSIDE`] are places of their own, with their own name.
    pub place: String,
    /// Its address, alone on its network device: `/32` or `/128`.
    pub addresses: Vec<IpAddr>,
    /// Whether an agent runs here.
    pub agent: bool,
}

/// How one direction between two places carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where frames come from.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// How they are carried.
    pub quality: Quality,
}

/// The hosts and ways of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The plan's name, for people.
    pub plan: String,
    /// Every host.
    pub hosts: Vec<Host>,
    /// The host that founds the cluster; none where no agents run.
    pub founder: Option<String>,
    /// Directed ways; a pair of places without one has [`Quality::default`].
    pub ways: Vec<Way>,
    /// The plan's links by name, with the places they join.
    pub links: BTreeMap<String, [String; 2]>,
}

impl Topology {
    /// The hosts and ways of `plan`.
    ///
    /// The founder is the best candidate of the first service: the cluster's first leader then stands where the first
    /// promotion happens, and nothing waits for a far line.
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Self {
        let founder = plan
            .services
            .values()
            .find_map(|service| plan.candidates(service).into_iter().next())
            .or_else(|| plan.nodes.values().find(|node| !node.witness).map(|node| node.name.clone()));
        let hosts = plan.nodes.values().map(|node| Host {
            name: node.name.to_string(),
            place: plan.place(node).to_string(),
            addresses: vec![node.address],
            agent: true,
        });
        let mut topology = Self::new(plan.name.to_string(), hosts.collect());
        topology.founder = founder.map(|name| name.to_string());
        let places = plan.places();
        for from in &places {
            for to in places.iter().filter(|to| *to != from) {
                let quality = Quality::from(plan.line(from, to));
                topology.ways.push(Way { from: from.to_string(), to: to.to_string(), quality });
            }
        }
        let ends = |link: &tandem_plan::Link| link.between.clone().map(|place| place.to_string());
        topology.links = plan.links.values().map(|link| (link.name.to_string(), ends(link))).collect();
        topology
    }

    /// `hosts` and [`OUTSIDE`], with addresses that no other host has; no ways yet, no founder.
    #[must_use]
    pub fn new(plan: String, mut hosts: Vec<Host>) -> Self {
        let taken: BTreeSet<IpAddr> = hosts.iter().flat_map(|host| host.addresses.iter().copied()).collect();
        // TEST-NET-2 and the documentation prefix (RFC 5737, RFC 3849): nobody's addresses.
        let v4 = (10..250).map(|last| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))).find(|a| !taken.contains(a));
        let v6 = (10..250)
            .map(|last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, last)))
            .find(|a| !taken.contains(a));
        hosts.push(Host {
            name: OUTSIDE.into(),
            place: OUTSIDE.into(),
            addresses: v4.into_iter().chain(v6).collect(),
            agent: false,
        });
        Self { plan, hosts, founder: None, ways: Vec::new(), links: BTreeMap::new() }
    }

    /// The position of host `name`.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.name == name)
    }

    /// All places, in the order of their first host.
    #[must_use]
    pub fn places(&self) -> Vec<&str> {
        let mut places: Vec<&str> = Vec::new();
        for host in &self.hosts {
            if !places.contains(&host.place.as_str()) {
                places.push(&host.place);
            }
        }
        places
    }

    /// The hosts that `name` stands for: a host itself, or everything in a place.
    #[must_use]
    pub fn expand(&self, name: &str) -> Vec<usize> {
        let named = |of: fn(&Host) -> &String| -> Vec<usize> {
            self.hosts.iter().enumerate().filter(|(_, host)| of(host) == name).map(|(i, _)| i).collect()
        };
        let hosts = named(|host| &host.name);
        if hosts.is_empty() { named(|host| &host.place) } else { hosts }
    }

    /// How the way from one place to another carries.
    #[must_use]
    pub fn quality(&self, from: &str, to: &str) -> Quality {
        if from == to {
            return Quality::LOCAL;
        }
        let way = self.ways.iter().find(|way| way.from == from && way.to == to);
        way.map_or_else(Quality::default, |way| way.quality.clone())
    }

    /// The Ethernet address of the host at `index`: locally administered, and the same at every start.
    #[must_use]
    pub fn mac(index: usize) -> [u8; 6] {
        let [high, low] = u16::try_from(index + 1).unwrap_or(u16::MAX).to_be_bytes();
        [0x02, 0x74, 0x64, 0x6d, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, place: &str, last: u8) -> Host {
        Host {
            name: name.into(),
            place: place.into(),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))],
            agent: true,
        }
    }

    #[test]
    fn outside_gets_an_address_of_its_own() {
        let topology = Topology::new("p".into(), vec![host("a", "x", 10), host("b", "y", 11)]);
        let outside = &topology.hosts[topology.host(OUTSIDE).expect("just added")];
        assert_eq!(outside.addresses[0], IpAddr::V4(Ipv4Addr::new(198, 51, 100, 12)));
        assert!(!outside.agent);
    }

    #[test]
    fn a_name_is_a_host_or_a_whole_place() {
        let topology = Topology::new("p".into(), vec![host("a", "x", 1), host("b", "x", 2)]);
        assert_eq!(topology.expand("x"), [0, 1]);
        assert_eq!(topology.expand("b"), [1]);
        assert!(topology.expand("nowhere").is_empty());
        assert_eq!(topology.places(), ["x", OUTSIDE]);
    }
}
