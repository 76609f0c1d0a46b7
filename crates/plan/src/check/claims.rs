//! What only one can have: addresses, volumes, directories, group names.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::Checker;
use crate::Code;

impl Checker<'_> {
    pub(super) fn claims(&mut self) {
        self.addresses();
        self.volume_users();
        self.directories();
        self.group_names();
    }

    fn addresses(&mut self) {
        let plan = self.plan;
        let mut taken: BTreeMap<IpAddr, (String, String)> = BTreeMap::new();
        let nodes = plan.nodes.values().map(|node| (node.address, "node", node.name.as_str()));
        let services = plan.services.values();
        let services = services.filter_map(|service| Some((service.address?.ip, "service", service.name.as_str())));
        for (ip, kind, name) in nodes.chain(services) {
            let path = format!("{kind}.{name}.address");
            let title = format!("{kind} `{name}`");
            let Some((first_title, first_path)) = taken.get(&ip) else {
                taken.insert(ip, (title, path));
                continue;
            };
            let help = if kind == "service" {
                "give the service a free address of its own; it moves from node to node with it"
            } else {
                "give each its own address"
            };
            let (here, there) = (self.at(&path), self.at(first_path));
            let order = |spot: &crate::diagnostic::Spot| (spot.file, spot.span.start);
            let (first, again) = if order(&there) < order(&here) { (there, here) } else { (here, there) };
            let diagnostic = self
                .error(Code::Claimed, format!("{first_title} and {title} have the same address {ip}"))
                .at(&again, "again here")
                .at(&first, "first here")
                .help(help);
            self.say(diagnostic);
        }
    }

    fn volume_users(&mut self) {
        let plan = self.plan;
        let mut users: BTreeMap<&str, &str> = BTreeMap::new();
        for service in plan.services.values() {
            let path = |index: usize| match self.spots.has(&format!("service.{}.volume", service.name)) {
                true => format!("service.{}.volume", service.name),
                false => format!("service.{}.volumes.{index}", service.name),
            };
            let mut found = Vec::new();
            for (index, volume) in service.volumes.iter().enumerate() {
                match users.get(volume.as_str()) {
                    None => {
                        users.insert(volume.as_str(), service.name.as_str());
                    }
                    Some(first) => found.push((volume, path(index), *first)),
                }
            }
            for (volume, path, first) in found {
                let message = format!("services `{first}` and `{}` both use volume `{volume}`", service.name);
                let help = "a volume has one writer: give each service its own, or make them one service";
                let diagnostic = self
                    .error(Code::Claimed, message)
                    .at(&self.at(&path), "again here")
                    .at(&self.key(&format!("service.{first}")), "used by this one too")
                    .help(help);
                self.say(diagnostic);
            }
        }
    }

    fn directories(&mut self) {
        let plan = self.plan;
        let mut mounts = Vec::new();
        for service in plan.services.values() {
            for mount in &service.mounts {
                mounts.push((service.name.as_str(), mount.volume.as_str(), mount.path.as_str()));
            }
        }
        for (index, (service, volume, path)) in mounts.iter().enumerate() {
            let clash = mounts[..index].iter().find(|(other_service, _, other)| {
                let inside =
                    |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
                path == other || other_service != service && (inside(path, other) || inside(other, path))
            });
            let Some((other_service, other_volume, other)) = clash else { continue };
            let message = if path == other {
                format!("volumes `{other_volume}` and `{volume}` are both mounted on {path}")
            } else {
                format!("{path} and {other} lie in each other, and belong to different services")
            };
            let spot = |service: &str, volume: &str| match self.spots.has(&format!("service.{service}.mount.{volume}"))
            {
                true => self.at(&format!("service.{service}.mount.{volume}")),
                false => self.at(&format!("service.{service}.mount")),
            };
            let diagnostic = self
                .error(Code::Claimed, message)
                .at(&spot(service, volume), "here")
                .at(&spot(other_service, other_volume), "and here")
                .help("give each a directory of its own");
            self.say(diagnostic);
        }
    }

    /// A service of several volumes names its group; so does a volume that is alone in its own.
    fn group_names(&mut self) {
        let plan = self.plan;
        for service in plan.services.values().filter(|service| service.volumes.len() > 1) {
            let name = service.name.as_str();
            let grouped = service.volumes.iter().any(|volume| volume.as_str() == name);
            if grouped || !plan.volumes.keys().any(|volume| volume.as_str() == name) {
                continue;
            }
            let alone = plan
                .services
                .values()
                .all(|other| other.volumes.len() < 2 || other.volumes.iter().all(|volume| volume.as_str() != name));
            if alone {
                let message =
                    format!("the group of service `{name}` and the one of volume `{name}` have the same name");
                let diagnostic = self
                    .error(Code::Claimed, message)
                    .at(&self.key(&format!("service.{name}")), "its volumes form a group of this name")
                    .at(&self.key(&format!("volume.{name}")), "a group by itself")
                    .help("rename one of them");
                self.say(diagnostic);
            }
        }
    }
}
