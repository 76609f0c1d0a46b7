//! Where a service runs, why, and what it waits for, in lines for a person.

use alloc::{format, string::String, vec::Vec};
use tandem_base::ServiceName;

use crate::{Phase, State, group::list, placement::times};

/// Where `service` runs, why, what it waits for, and who could take over. Empty if the plan does not have it.
#[must_use]
pub fn explain(state: &State, service: &ServiceName) -> Vec<String> {
    let mut lines = Vec::new();
    let (Some(spec), Some(placement)) = (state.topology().services.get(service), state.service(service)) else {
        return lines;
    };
    match &placement.assignment {
        None => lines.push(format!("`{service}` does not run: {}", placement.why)),
        Some(assignment) => {
            let node = &assignment.node;
            let to = |to: &Option<_>| match to {
                Some(to) => format!(", to run on {to}"),
                None => String::new(),
            };
            let lost = if state.live_run(node) == Some(assignment.run) { "" } else { ", and the node is lost" };
            let phase = match &assignment.phase {
                Phase::Starting => format!("starts on {node}"),
                Phase::Running => format!("runs on {node}"),
                Phase::Stopping { to: target, .. } => format!("stops on {node}{}", to(target)),
                Phase::Releasing { to: target, .. } => {
                    format!("has stopped on {node} and hands over its data{}", to(target))
                }
            };
            lines.push(format!("`{service}` {phase}{lost}: {}", placement.why));
            if let Some(why) = &placement.stranded {
                lines.push(format!("it cannot fail over: {why}"));
            }
        }
    }
    for (node, failure) in &placement.failures {
        lines.push(format!("failed on {node} {}, last: {}", times(failure.count), failure.why));
    }
    if let Some(register) = spec.group.as_ref().and_then(|group| state.group(group)) {
        let primary = register.config.primary.as_ref().map_or("nobody", |primary| primary.node.as_str());
        let in_sync = list(register.config.in_sync.keys());
        lines.push(format!("data: primary {primary}, in sync {in_sync}, epoch {}", register.config.epoch));
    }
    for node in &spec.candidates {
        if placement.assignment.as_ref().is_some_and(|assignment| assignment.node == *node) {
            continue;
        }
        match state.obstacle(service, node) {
            None => lines.push(format!("{node} could run it")),
            Some(why) => lines.push(format!("{node} could not run it: {why}")),
        }
    }
    if state.paused() {
        lines.push(String::from("placement is paused: nothing new is decided"));
    }
    lines
}
