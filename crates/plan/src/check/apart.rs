//! A witness must outlive what it decides about.

use super::{Checker, power::darkened};
use crate::Code;

impl Checker<'_> {
    /// Whether every witness stands apart from the nodes that hold data.
    pub(super) fn witness_apart(&mut self) -> bool {
        let plan = self.plan;
        let before = self.diagnostics.len();
        for witness in plan.nodes.values().filter(|node| node.witness) {
            let name = &witness.name;
            if let Some(site) = &witness.site
                && let Some(data) = plan.nodes_in(site).find(|node| !node.witness)
            {
                let message = format!(
                    "witness `{name}` stands in site `{site}`, which holds data: the loss of `{site}` would take two votes \
                     at once, and nobody could take over"
                );
                let help = format!(
                    "put it on any small machine elsewhere and leave `site` out: {name} = {{ witness = true, address = \
                     \"{}\" }}",
                    witness.address
                );
                let diagnostic = self
                    .error(Code::WitnessNotApart, message)
                    .at(&self.at(&format!("node.{name}.site")), "the witness stands here")
                    .at(&self.at(&format!("node.{}.site", data.name)), format!("and so does `{}`", data.name))
                    .help(help);
                self.say(diagnostic);
                continue;
            }
            let clash = plan.power.keys().find_map(|power| {
                let dark = darkened(plan, power);
                let data = dark.iter().filter_map(|dark| plan.nodes.get(dark)).find(|node| !node.witness)?;
                dark.contains(name).then_some((power, data))
            });
            if let Some((power, data)) = clash {
                let message =
                    format!("witness `{name}` and node `{}` lose their power together, with `{power}`", data.name);
                let diagnostic = self
                    .error(Code::WitnessNotApart, message)
                    .at(&self.at(&format!("node.{name}.powered_by")), "the witness")
                    .at(&self.at(&format!("node.{}.powered_by", data.name)), "a node that holds data")
                    .help("give the witness power that no site shares, or a second source: powered_by = [\"ONE\", \"OTHER\"]");
                self.say(diagnostic);
            }
        }
        before == self.diagnostics.len()
    }
}
