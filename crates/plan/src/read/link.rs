//! `[link]` and `[outside]`.

use std::collections::BTreeMap;
use tandem_base::{BitRate, Duration, LinkName, NodeName};

use super::{Fields, Found, Reader, fields::Node as Written};
use crate::diagnostic::Diagnostic;
use crate::{Bandwidth, Code, Link, Node, Outside, Place, Proportion};

/// Keys of a link.
pub(crate) const LINK_KEYS: &[&str] = &["between", "latency", "jitter", "loss", "bandwidth"];
/// Keys of `[outside]`.
pub(crate) const OUTSIDE_KEYS: &[&str] = &["latency", "jitter", "loss", "bandwidth"];
/// Keys of a bandwidth that differs by direction.
pub(crate) const BANDWIDTH_KEYS: &[&str] = &["up", "down"];

/// Half of the round trip that an ordinary fibre line shows to a host in the same country.
const OUTSIDE_LATENCY: Duration = Duration::from_millis(10);

impl Reader {
    pub(super) fn links(
        &mut self,
        section: &[Found<'_>],
        nodes: &BTreeMap<NodeName, Node>,
    ) -> BTreeMap<LinkName, Link> {
        let mut links: BTreeMap<LinkName, Link> = BTreeMap::new();
        for found in self.entries(section) {
            let name = self.key_name::<LinkName>(&found);
            let Some(fields) = self.fields(&found, LINK_KEYS, &["cost", "medium"]) else { continue };
            let between = match fields.get("between") {
                Some(between) => self.between(between, nodes),
                None => {
                    self.missing(&fields, "between", "[\"SITE\", \"SITE\"]");
                    None
                }
            };
            let latency = match fields.get("latency") {
                Some(latency) => self.latency(latency),
                None => {
                    self.missing(&fields, "latency", "\"12 ms\", one way: half of what ping shows");
                    None
                }
            };
            let (jitter, loss, bandwidth) = self.quality(&fields);
            let (Some(name), Some(between), Some(latency)) = (name, between, latency) else { continue };
            let same = |other: &&Link| {
                let [a, b] = &other.between;
                other.between == between || [b, a] == between.each_ref()
            };
            if let Some(other) = links.values().find(same) {
                let message = format!("links `{}` and `{name}` join the same places", other.name);
                let mut diagnostic = Diagnostic::error(Code::Claimed, message).at(&found.key, "again here");
                if let Some(first) = self.spots.key(&format!("link.{}", other.name)) {
                    diagnostic = diagnostic.at(&first, "first here");
                }
                self.say(diagnostic.help("keep one; a doubled line is declared as the one that both make together"));
            }
            links.insert(name.clone(), Link { name, between, latency, jitter, loss, bandwidth });
        }
        links
    }

    pub(super) fn outside(&mut self, section: &[Found<'_>]) -> Outside {
        let fields = self.merged(section, "outside", OUTSIDE_KEYS);
        let latency = fields.get("latency").and_then(|latency| self.latency(latency)).unwrap_or(OUTSIDE_LATENCY);
        let (jitter, loss, bandwidth) = self.quality(&fields);
        Outside { latency, jitter, loss, bandwidth }
    }

    fn between(&mut self, found: &Found<'_>, nodes: &BTreeMap<NodeName, Node>) -> Option<[Place; 2]> {
        let ends = self.list(found, "[\"rouans\", \"sthilaire\"]")?;
        let [a, b] = ends.as_slice() else {
            let message = format!("`{}` names {} places, a link has two ends", found.path, ends.len());
            let help = "write two: between = [\"SITE\", \"SITE\"]";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "not two").help(help));
            return None;
        };
        let (a_place, b_place) = (self.end(a, nodes), self.end(b, nodes));
        let (a_place, b_place) = (a_place?, b_place?);
        if a_place == b_place {
            let message = format!("`{}` joins `{a_place}` with itself", found.path);
            let help = "name two places; inside a site the network is not shaped";
            self.say(Diagnostic::error(Code::Conflict, message).at(&b.value, "the same place").help(help));
            return None;
        }
        Some([a_place, b_place])
    }

    fn end(&mut self, found: &Found<'_>, nodes: &BTreeMap<NodeName, Node>) -> Option<Place> {
        let text = self.text(found, "\"rouans\"")?;
        if text == "outside" {
            return Some(Place::Outside);
        }
        if self.is_declared("site", text) {
            return text.parse().ok().map(Place::Site);
        }
        if !self.is_declared("node", text) {
            return self.refer(text, &found.value, "site").map(Place::Site);
        }
        match nodes.values().find(|node| node.name.as_str() == text) {
            Some(node) if node.site.is_none() => Some(Place::Witness(node.name.clone())),
            Some(Node { site: Some(site), .. }) => {
                let message = format!("a link joins places, and `{text}` is a node in site `{site}`");
                let help = format!("write the site: \"{site}\"");
                self.say(Diagnostic::error(Code::Conflict, message).at(&found.value, "a node in a site").help(help));
                None
            }
            _ => None,
        }
    }

    fn latency(&mut self, found: &Found<'_>) -> Option<Duration> {
        /// A link to the moon and back; anything longer is a slip, and would make the sums of the timings meaningless.
        const LONGEST: Duration = Duration::from_secs(3);
        let latency = self.duration(found)?;
        if latency > LONGEST {
            let message = format!("`{}` is {latency}, more than {LONGEST}", found.path);
            let help = "write the time of one way, half of what ping shows";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "too long").help(help));
            return None;
        }
        Some(latency)
    }

    fn quality(&mut self, fields: &Fields<'_>) -> (Duration, Proportion, Bandwidth) {
        let jitter = fields.get("jitter").and_then(|jitter| self.latency(jitter)).unwrap_or(Duration::ZERO);
        let loss = fields.get("loss").and_then(|loss| self.proportion(loss)).unwrap_or(Proportion::ZERO);
        if let Some(found) = fields.get("loss").filter(|_| loss.millionths() > Proportion::WHOLE / 2) {
            let message = format!("`{}` is {loss}: nothing works over such a line", found.path);
            let help = "write what it loses on an ordinary day, at most \"50 %\"";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "more than half").help(help));
        }
        let bandwidth = fields.get("bandwidth").map(|bandwidth| self.bandwidth(bandwidth)).unwrap_or_default();
        (jitter, loss, bandwidth)
    }

    fn bandwidth(&mut self, found: &Found<'_>) -> Bandwidth {
        if !matches!(found.node, Written::Table(_)) {
            let rate = self.rate(found);
            return Bandwidth { up: rate, down: rate };
        }
        let Some(fields) = self.fields(found, BANDWIDTH_KEYS, &[]) else { return Bandwidth::default() };
        let up = fields.get("up").and_then(|up| self.rate(up));
        let down = fields.get("down").and_then(|down| self.rate(down));
        Bandwidth { up, down }
    }

    fn rate(&mut self, found: &Found<'_>) -> Option<BitRate> {
        /// A dial-up modem; below it not even the heartbeats pass.
        const SLOWEST: BitRate = BitRate::from_bits_per_second(56_000);
        let rate: BitRate = self.parsed(found, "\"17 Mbit/s\"")?;
        if rate < SLOWEST {
            let message = format!("`{}` is {rate}, less than {SLOWEST}", found.path);
            let help = "leave `bandwidth` out for a line that is not shaped";
            self.say(Diagnostic::error(Code::BadValue, message).at(&found.value, "too little").help(help));
            return None;
        }
        Some(rate)
    }
}
