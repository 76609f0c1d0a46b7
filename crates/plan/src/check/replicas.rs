//! Copies stand where the objectives and the services need them.

use std::collections::BTreeSet;
use tandem_base::SiteName;

use super::{Checker, power::shared};
use crate::nearest::among;
use crate::{Ack, Code, Service};

impl Checker<'_> {
    /// `whole`: every volume and service could be read, so that what is missing here is missing.
    pub(super) fn replicas(&mut self, whole: bool) {
        let plan = self.plan;
        for service in plan.services.values() {
            self.unlike_volumes(service);
            self.one_site(service);
            self.preferred(service);
        }
        if !whole {
            return;
        }
        for volume in plan.volumes.values() {
            let name = &volume.name;
            if plan.services.values().all(|service| !service.volumes.contains(name)) {
                let diagnostic = self
                    .warning(Code::Unused, format!("no service uses volume `{name}`: it is kept, but never served"))
                    .at(&self.key(&format!("volume.{name}")), "unused")
                    .help(format!("name it in a service: volume = \"{name}\"; or leave it out"));
                self.say(diagnostic);
            }
            if volume.replicas.len() == 1 {
                let diagnostic = self
                    .warning(Code::Weak, format!("volume `{name}` has one replica: its loss is final"))
                    .at(&self.at(&format!("volume.{name}.replicas")), "one copy")
                    .help("name a second node, in the other site");
                self.say(diagnostic);
            }
        }
        for site in plan.sites.keys() {
            if plan.nodes_in(site).next().is_none() {
                let diagnostic = self
                    .warning(Code::Unused, format!("no node stands in site `{site}`"))
                    .at(&self.key(&format!("site.{site}")), "unused")
                    .help("declare its nodes, or leave it out");
                self.say(diagnostic);
            }
        }
    }

    fn sites_of(&self, service: &Service) -> BTreeSet<SiteName> {
        let candidates = self.plan.candidates(service);
        candidates.iter().filter_map(|name| self.plan.nodes.get(name)?.site.clone()).collect()
    }

    fn one_site(&mut self, service: &Service) {
        let name = &service.name;
        let sites = self.sites_of(service);
        let objective = match (service.rpo, service.rto) {
            (Some(rpo), _) => ("rpo", format!("rpo = \"{rpo}\"")),
            (None, Some(rto)) => ("rto", format!("rto = \"{rto}\"")),
            (None, None) => return,
        };
        let (Some(site), true) = (sites.first(), sites.len() == 1) else { return };
        let mut diagnostic = match service.volumes.first() {
            Some(volume) => self
                .error(
                    Code::OneSite,
                    format!(
                        "service `{name}` promises {}, but every copy of volume `{volume}` stands in `{site}`: the loss of \
                         that site would lose all of it",
                        objective.1
                    ),
                )
                .at(&self.at(&format!("volume.{volume}.replicas")), format!("all in `{site}`")),
            None => self
                .error(
                    Code::OneSite,
                    format!("service `{name}` promises {}, but only site `{site}` can run it", objective.1),
                )
                .at(&self.key(&format!("site.{site}")), "the only site with nodes"),
        };
        diagnostic = diagnostic.at(&self.at(&format!("service.{name}.{}", objective.0)), "the promise");
        let elsewhere = self.plan.nodes.values().filter(|node| !node.witness && node.site.as_ref() != Some(site));
        let elsewhere: Vec<&str> = elsewhere.map(|node| node.name.as_str()).collect();
        let help = if elsewhere.is_empty() {
            "add a node in a second site and name it in `replicas`, or take the objectives out".to_owned()
        } else {
            format!("name a node of another site in `replicas` ({}), or take the objectives out", among(elsewhere))
        };
        self.say(diagnostic.help(help));
    }

    fn preferred(&mut self, service: &Service) {
        let (name, prefer) = (&service.name, &service.prefer);
        let sites = self.sites_of(service);
        if sites.is_empty() || sites.contains(prefer) {
            return;
        }
        let what = match service.volumes.first() {
            Some(volume) => format!("volume `{volume}` has no replica there"),
            None => "no node stands there".to_owned(),
        };
        let mut diagnostic = self
            .error(Code::NotRunnableThere, format!("service `{name}` is preferred in `{prefer}`, but {what}"))
            .at(&self.at(&format!("service.{name}.prefer")), "it cannot run there");
        if let Some(volume) = service.volumes.first() {
            let sites = among(sites.iter().map(|site| site.as_str()));
            diagnostic = diagnostic.at(&self.at(&format!("volume.{volume}.replicas")), format!("copies in {sites}"));
        }
        let first = sites.first().map_or("", |site| site.as_str());
        self.say(diagnostic.help(format!("write prefer = \"{first}\", or add a replica in `{prefer}`")));
    }

    fn unlike_volumes(&mut self, service: &Service) {
        let plan = self.plan;
        let mut volumes = service.volumes.iter().filter_map(|name| plan.volumes.get(name));
        let Some(first) = volumes.next() else { return };
        for other in volumes {
            let (key, reason) = if other.replicas.iter().collect::<BTreeSet<_>>() != first.replicas.iter().collect() {
                ("replicas", "are kept on different nodes")
            } else if other.replicas != first.replicas {
                ("replicas", "name their nodes in different orders")
            } else if other.ack != first.ack {
                ("ack", "acknowledge differently")
            } else {
                continue;
            };
            let message = format!(
                "volumes `{}` and `{}` of service `{}` {reason}: the volumes of one service form one group, with one \
                 order of writes",
                first.name, other.name, service.name
            );
            let diagnostic = self
                .error(Code::UnlikeVolumes, message)
                .at(&self.at(&format!("volume.{}.{key}", other.name)), "here")
                .at(&self.at(&format!("volume.{}.{key}", first.name)), "and here")
                .help(format!("write the same `{key}` in both"));
            self.say(diagnostic);
        }
    }

    /// A write held only in memory must not be able to vanish everywhere at once.
    pub(super) fn shared_power(&mut self) {
        let plan = self.plan;
        for volume in plan.volumes.values().filter(|volume| volume.ack == Ack::Memory) {
            let nodes: Vec<_> = volume.replicas.iter().filter_map(|name| plan.nodes.get(name)).collect();
            let pairs =
                nodes.iter().enumerate().flat_map(|(index, a)| nodes[index + 1..].iter().map(move |b| (*a, *b)));
            let Some((a, b, why)) = pairs.filter_map(|(a, b)| Some((a, b, shared(plan, a, b)?))).next() else {
                continue;
            };
            let message = format!(
                "volume `{}` acknowledges writes that are only in the memory of `{}` and `{}`, and {why}",
                volume.name, a.name, b.name
            );
            let diagnostic = self
                .error(Code::SharedPower, message)
                .at(&self.at(&format!("volume.{}.ack", volume.name)), "ack = \"memory\" (the default)")
                .at(&self.at(&format!("node.{}.powered_by", a.name)), format!("power of `{}`", a.name))
                .at(&self.at(&format!("node.{}.powered_by", b.name)), format!("power of `{}`", b.name))
                .help(
                    "write ack = \"durable\" in the volume, or say with `powered_by` that the nodes have different power",
                );
            self.say(diagnostic);
        }
    }
}
