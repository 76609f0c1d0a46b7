//! `[site]`, `[power]`, `[node]`.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use tandem_base::{NodeName, PowerName, SiteName};

use super::{Found, Reader};
use crate::diagnostic::Diagnostic;
use crate::{Code, Node, Power, Site};

/// Keys of a site: none yet.
pub(crate) const SITE_KEYS: &[&str] = &[];
/// Keys of a source of power or a UPS.
pub(crate) const POWER_KEYS: &[&str] = &["site", "fed_by", "runtime"];
/// Keys of a node.
pub(crate) const NODE_KEYS: &[&str] = &["site", "address", "witness", "voter", "powered_by"];

impl Reader {
    pub(super) fn sites(&mut self, section: &[Found<'_>]) -> BTreeMap<SiteName, Site> {
        let mut sites = BTreeMap::new();
        for found in self.entries(section) {
            let fields = self.fields(&found, SITE_KEYS, &["zone", "mirror"]);
            let Some(name) = self.key_name::<SiteName>(&found) else { continue };
            if name.as_str() == "outside" {
                let message = "`outside` means everything that is in no site, it cannot be a site's name";
                self.say(
                    Diagnostic::error(Code::BadName, message).at(&found.key, "reserved").help("choose another name"),
                );
            }
            if fields.is_some() {
                sites.insert(name.clone(), Site { name });
            }
        }
        sites
    }

    pub(super) fn power(&mut self, section: &[Found<'_>]) -> BTreeMap<PowerName, Power> {
        let mut all = BTreeMap::new();
        for found in self.entries(section) {
            let name = self.key_name::<PowerName>(&found);
            let Some(fields) = self.fields(&found, POWER_KEYS, &["nut"]) else { continue };
            let site = match fields.get("site") {
                Some(site) => self.reference::<SiteName>(site, "site"),
                None => {
                    self.missing(&fields, "site", "\"NAME\"");
                    None
                }
            };
            let fed_by = match fields.get("fed_by") {
                Some(fed_by) => self.references::<PowerName>(fed_by, "power"),
                None => Some(Vec::new()),
            };
            let runtime = fields.get("runtime").map(|runtime| self.duration(runtime));
            let is_source = fed_by.as_ref().is_some_and(Vec::is_empty);
            if let Some(runtime) = fields.get("runtime").filter(|_| is_source) {
                let message = format!("{} has a runtime, but nothing feeds it", fields.title());
                let help = "a UPS says what feeds it: fed_by = [\"SOURCE\"]; a source has no runtime";
                self.say(Diagnostic::error(Code::Conflict, message).at(&runtime.key, "only a UPS has one").help(help));
            }
            if let (Some(name), Some(site), Some(fed_by)) = (name, site, fed_by) {
                all.insert(name.clone(), Power { name, site, fed_by, runtime: runtime.flatten() });
            }
        }
        all
    }

    pub(super) fn nodes(&mut self, section: &[Found<'_>]) -> BTreeMap<NodeName, Node> {
        let mut nodes = BTreeMap::new();
        let mut stated = BTreeMap::new();
        for found in self.entries(section) {
            let name = self.key_name::<NodeName>(&found);
            let Some(fields) = self.fields(&found, NODE_KEYS, &["fence", "zone", "volume_group"]) else { continue };
            let witness = fields.get("witness").map_or(Some(false), |witness| self.boolean(witness));
            let site = match fields.get("site") {
                Some(site) => self.reference::<SiteName>(site, "site").map(Some),
                None if fields.is_misspelt("site") => None,
                None if witness == Some(false) => {
                    let known: Vec<&str> = self.declared_names("site");
                    let example = format!("{:?}", known.first().copied().unwrap_or("NAME"));
                    let message = format!("{} has no `site`", fields.title());
                    let mut diagnostic = Diagnostic::error(Code::MissingKey, message);
                    if let Some(spot) = fields.spot() {
                        diagnostic = diagnostic.at(spot, "stands nowhere");
                    }
                    let help = format!("add: site = {example}; only a witness may stand outside every site");
                    self.say(diagnostic.help(help));
                    None
                }
                None => Some(None),
            };
            let address = match fields.get("address") {
                Some(address) => self.node_address(address),
                None => {
                    self.missing(&fields, "address", "\"10.1.0.11\"");
                    None
                }
            };
            let powered_by = match fields.get("powered_by") {
                Some(powered_by) => self.references::<PowerName>(powered_by, "power"),
                None => Some(Vec::new()),
            };
            let voter = fields.get("voter").and_then(|voter| self.boolean(voter));
            if let (Some(true), Some(false), Some(key)) = (witness, voter, fields.get("voter")) {
                let message = format!("{} is a witness that does not vote: it would do nothing", fields.title());
                let help = "leave `voter` out, or leave the node out";
                self.say(Diagnostic::error(Code::Conflict, message).at(&key.value, "a witness votes").help(help));
            }
            if let (Some(name), Some(witness), Some(site), Some(address), Some(powered_by)) =
                (name, witness, site, address, powered_by)
            {
                if let Some(voter) = voter {
                    stated.insert(name.clone(), voter);
                }
                nodes.insert(name.clone(), Node { name, site, address, witness, voter: witness, powered_by });
            }
        }
        resolve_voters(&mut nodes, &stated);
        nodes
    }

    fn node_address(&mut self, found: &Found<'_>) -> Option<IpAddr> {
        let text = self.text(found, "\"10.1.0.11\"")?;
        let problem = match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() => {
                "no other machine can reach a node there"
            }
            Ok(ip) => return Some(ip),
            Err(_) => "not an address",
        };
        let bare = text.split_once('/').map(|(ip, _)| ip).filter(|ip| ip.parse::<IpAddr>().is_ok());
        let help = match bare {
            Some(ip) => format!("write it without its network: \"{ip}\""),
            None => "write the IPv4 or IPv6 address where the other nodes reach it, such as \"10.1.0.11\"".to_owned(),
        };
        let message = format!("`{}` cannot be {text:?}", found.path);
        self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, problem).help(help));
        None
    }
}

/// Fills in who votes where nothing was said: the same number of nodes in every site that holds data (that of the
/// smallest), first by name, and every witness.
fn resolve_voters(nodes: &mut BTreeMap<NodeName, Node>, stated: &BTreeMap<NodeName, bool>) {
    let data_sites: BTreeSet<SiteName> =
        nodes.values().filter(|node| !node.witness).filter_map(|node| node.site.clone()).collect();
    let in_site = |nodes: &BTreeMap<NodeName, Node>, site: &SiteName| -> Vec<NodeName> {
        let inside = nodes.values().filter(|node| !node.witness && node.site.as_ref() == Some(site));
        inside.map(|node| node.name.clone()).collect()
    };
    let each = data_sites.iter().map(|site| in_site(nodes, site).len()).min().unwrap_or(0);
    for site in &data_sites {
        let names = in_site(nodes, site);
        let mut left = each.saturating_sub(names.iter().filter(|name| stated.get(*name) == Some(&true)).count());
        for name in names {
            let voter = match stated.get(&name) {
                Some(voter) => *voter,
                None if left > 0 => {
                    left -= 1;
                    true
                }
                None => false,
            };
            if let Some(node) = nodes.get_mut(&name) {
                node.voter = voter;
            }
        }
    }
}
