//! Whatever one thing is lost, a majority of the voters is left.

use std::collections::BTreeSet;
use tandem_base::{NodeName, SiteName};

use super::{Checker, power::darkened};
use crate::Code;
use crate::nearest::among;

impl Checker<'_> {
    pub(super) fn majority(&mut self) {
        let plan = self.plan;
        let data_sites: BTreeSet<&SiteName> =
            plan.nodes.values().filter(|node| !node.witness).filter_map(|node| node.site.as_ref()).collect();
        if data_sites.is_empty() {
            let diagnostic = self
                .error(Code::NoMajority, "the plan has no node that holds data")
                .at(&self.key("node"), "")
                .help("declare one in each site: [node] r1 = { site = \"SITE\", address = \"10.1.0.11\" }");
            self.say(diagnostic);
            return;
        }
        let has_witness = plan.nodes.values().any(|node| node.witness);
        let voters: BTreeSet<NodeName> = plan.voters().map(|node| node.name.clone()).collect();
        if data_sites.len() == 2 && !has_witness {
            let names = among(data_sites.iter().map(|site| site.as_str()));
            let message = format!(
                "{names} have no witness: neither can know that the other is gone, so only a person could order the \
                 takeover, and that is not carried out yet"
            );
            let help =
                "add a witness on any small machine elsewhere: w1 = { witness = true, address = \"203.0.113.7\" }";
            let mut diagnostic = self.error(Code::NotYet, message).help(help);
            for site in data_sites {
                diagnostic = diagnostic.at(&self.key(&format!("site.{site}")), "");
            }
            self.say(diagnostic);
            return;
        }
        if data_sites.len() == 1
            && let Some(site) = data_sites.first()
        {
            let message = format!("every node that holds data stands in `{site}`: the plan does not survive its loss");
            let diagnostic = self
                .warning(Code::Weak, message)
                .at(&self.key(&format!("site.{site}")), "all of it")
                .help("add a node in a second site");
            self.say(diagnostic);
        }
        for (what, path, lost) in self.domains(data_sites.len() > 1) {
            let left: Vec<&str> = voters.difference(&lost).map(|name| name.as_str()).collect();
            if left.len() * 2 > voters.len() {
                continue;
            }
            let needed = voters.len() / 2 + 1;
            let message = format!(
                "without {what}, {} of {} voters are left, and a majority is {needed}: nothing could take over",
                left.len(),
                voters.len()
            );
            let all = among(voters.iter().map(|name| name.as_str()));
            let help = if voters.len() < 3 {
                "there must be at least 3 voters: add nodes, or a witness elsewhere: w1 = { witness = true, address = \
                 \"203.0.113.7\" }"
                    .to_owned()
            } else if has_witness {
                format!(
                    "spread the voters ({all}) so that no single loss takes half of them: see `voter` and `powered_by`"
                )
            } else {
                format!("add a witness elsewhere, or spread the voters ({all})")
            };
            let diagnostic = self.error(Code::NoMajority, message).at(&self.key(&path), "when this is lost").help(help);
            self.say(diagnostic);
        }
    }

    /// What can be lost at once: its title, its path, the nodes that go with it. A domain whose nodes are all in another,
    /// earlier one is left out, since it says nothing more.
    fn domains(&self, several_sites: bool) -> Vec<(String, String, BTreeSet<NodeName>)> {
        let plan = self.plan;
        let mut all: Vec<(String, String, BTreeSet<NodeName>)> = Vec::new();
        let mut add = |title: String, path: String, lost: BTreeSet<NodeName>| {
            if !lost.is_empty() && !all.iter().any(|(_, _, other)| lost.is_subset(other)) {
                all.push((title, path, lost));
            }
        };
        if several_sites {
            for site in plan.sites.keys() {
                let lost = plan.nodes_in(site).map(|node| node.name.clone()).collect();
                add(format!("site `{site}`"), format!("site.{site}"), lost);
            }
            for power in plan.power.keys() {
                add(format!("power `{power}`"), format!("power.{power}"), darkened(plan, power));
            }
        }
        for node in plan.nodes.keys() {
            add(format!("node `{node}`"), format!("node.{node}"), BTreeSet::from([node.clone()]));
        }
        all
    }
}
