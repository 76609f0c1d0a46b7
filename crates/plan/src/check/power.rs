//! What a power source takes down with it.

use std::collections::BTreeSet;
use tandem_base::{NodeName, PowerName};

use crate::{Node, Plan};

/// The nodes that go dark when `lost` stops giving power, once every battery behind it is empty.
///
/// A UPS is dark when it fails itself or when nothing feeds it any more; a node when nothing of what powers it is left.
/// `plan.power` must be without circles. A node of which nothing was said never goes dark here.
pub(super) fn darkened(plan: &Plan, lost: &PowerName) -> BTreeSet<NodeName> {
    let mut dark = BTreeSet::from([lost]);
    loop {
        let before = dark.len();
        for power in plan.power.values() {
            if !power.fed_by.is_empty() && power.fed_by.iter().all(|feed| dark.contains(feed)) {
                dark.insert(&power.name);
            }
        }
        if dark.len() == before {
            break;
        }
    }
    let is_dark =
        |node: &&Node| !node.powered_by.is_empty() && node.powered_by.iter().all(|power| dark.contains(power));
    plan.nodes.values().filter(is_dark).map(|node| node.name.clone()).collect()
}

/// Why two nodes can lose their power at once; `None` if no single loss takes both.
pub(super) fn shared(plan: &Plan, a: &Node, b: &Node) -> Option<String> {
    for power in plan.power.keys() {
        let dark = darkened(plan, power);
        if dark.contains(&a.name) && dark.contains(&b.name) {
            return Some(format!("both go dark with `{power}`"));
        }
    }
    let unsaid = a.powered_by.is_empty() || b.powered_by.is_empty();
    match (&a.site, &b.site) {
        (Some(site), Some(other)) if site == other && unsaid => {
            Some(format!("both stand in `{site}`, and nothing says that they have different power"))
        }
        _ => None,
    }
}
