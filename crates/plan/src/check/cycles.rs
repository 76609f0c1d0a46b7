//! Nothing waits for itself.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use crate::Code;

impl Checker<'_> {
    /// Whether the feeds of the power and the order of the services are without circles.
    pub(super) fn cycles(&mut self) -> bool {
        let feeds = self.plan.power.values();
        let feeds: BTreeMap<&str, Vec<&str>> =
            feeds.map(|power| (power.name.as_str(), power.fed_by.iter().map(|name| name.as_str()).collect())).collect();
        let orders = self.plan.services.values();
        let orders: BTreeMap<&str, Vec<&str>> = orders
            .map(|service| (service.name.as_str(), service.after.iter().map(|name| name.as_str()).collect()))
            .collect();
        let feeds = self.cycle("power", "fed_by", "feed each other", "is fed by", &feeds);
        let orders = self.cycle("service", "after", "wait for each other", "waits for", &orders);
        feeds && orders
    }

    fn cycle(&mut self, kind: &str, key: &str, verb: &str, link: &str, edges: &BTreeMap<&str, Vec<&str>>) -> bool {
        let Some(cycle) = find(edges) else { return true };
        let first = cycle[0];
        let message = match cycle.as_slice() {
            [one] => format!("{kind} `{one}` {link} itself"),
            _ => {
                let chain: Vec<String> = cycle.iter().chain([&first]).map(|name| format!("`{name}`")).collect();
                format!("these {verb}: {}", chain.join(&format!(" {link} ")))
            }
        };
        let mut diagnostic = self.error(Code::Cycle, message);
        for name in &cycle {
            diagnostic = diagnostic.at(&self.at(&format!("{kind}.{name}.{key}")), format!("`{name}` {link} this"));
        }
        self.say(diagnostic.help(format!("take one of them out of its `{key}`")));
        false
    }
}

/// The names on one circle, from its smallest on.
fn find<'n>(edges: &BTreeMap<&'n str, Vec<&'n str>>) -> Option<Vec<&'n str>> {
    let mut done = BTreeSet::new();
    for start in edges.keys() {
        // Depth first without recursion: a plan may chain thousands.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_path = BTreeSet::from([*start]);
        while let Some((name, next)) = path.last_mut() {
            let target = edges.get(name).and_then(|targets| targets.get(*next)).copied();
            *next += 1;
            match target {
                Some(target) if on_path.contains(target) => {
                    let begin = path.iter().position(|(name, _)| *name == target)?;
                    let mut cycle: Vec<&str> = path[begin..].iter().map(|(name, _)| *name).collect();
                    let smallest = (0..cycle.len()).min_by_key(|index| cycle[*index])?;
                    cycle.rotate_left(smallest);
                    return Some(cycle);
                }
                Some(target) if !done.contains(target) => {
                    on_path.insert(target);
                    path.push((target, 0));
                }
                Some(_) => {}
                None => {
                    on_path.remove(*name);
                    done.insert(*name);
                    path.pop();
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_and_chains_are_none() {
        let edges = |list: &[(&'static str, &[&'static str])]| -> BTreeMap<&str, Vec<&str>> {
            list.iter().map(|(name, targets)| (*name, targets.to_vec())).collect()
        };
        assert_eq!(find(&edges(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
        assert_eq!(find(&edges(&[("a", &["a"])])), Some(vec!["a"]));
        assert_eq!(
            find(&edges(&[("a", &["c"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])])),
            Some(vec!["b", "c", "d"])
        );
        assert_eq!(find(&edges(&[("a", &["nowhere"])])), None);
    }
}
