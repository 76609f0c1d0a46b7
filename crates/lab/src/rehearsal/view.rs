//! What the agents say about the cluster.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use tandem_plan::Plan;

use crate::{HostState, Lab, LabError, error::Doing, rehearsal::bounded, root};

/// An agent that takes longer is asked in vain; the next one is asked instead.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// `tandem status --json`, as far as a rehearsal needs it; described in `docs/json.md`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<Group>,
    pub(crate) services: Vec<Service>,
    #[serde(default)]
    pub(crate) degraded: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) live: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) in_sync: Vec<String>,
    pub(crate) replicas: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) node: Option<String>,
    pub(crate) phase: String,
    #[serde(default)]
    pub(crate) why: String,
}

/// A line of `tandem events --json`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct EventLine {
    pub(crate) at_ms: u64,
    pub(crate) node: String,
    pub(crate) what: String,
    pub(crate) why: String,
}

impl Status {
    /// What keeps the cluster from being whole: every node live, every service running, every replica in sync. Empty
    /// when it is.
    pub(crate) fn missing(&self, plan: &Plan) -> Vec<String> {
        let mut missing = Vec::new();
        for node in plan.nodes.keys() {
            if !self.nodes.iter().any(|seen| seen.name == node.as_str() && seen.live) {
                missing.push(format!("node {node} is not live"));
            }
        }
        for name in plan.groups().keys() {
            match self.groups.iter().find(|group| group.name == name.as_str()) {
                None => missing.push(format!("group {name} is unknown")),
                Some(group) => {
                    let out = group.replicas.iter().filter(|replica| !group.in_sync.contains(replica));
                    missing.extend(out.map(|replica| format!("group {name}: {replica} is not in sync")));
                }
            }
        }
        for name in plan.services.keys() {
            match self.services.iter().find(|service| service.name == name.as_str()) {
                Some(service) if service.phase == "running" => {}
                Some(service) => missing.push(format!("service {name} is {}: {}", service.phase, service.why)),
                None => missing.push(format!("service {name} is unknown")),
            }
        }
        missing
    }
}

/// Asks the agent of each node that is up, in turn, until one answers.
fn ask<T: DeserializeOwned>(lab: &Lab, arguments: &[&str]) -> Result<T, LabError> {
    let status = lab.status()?;
    let mut last = LabError::Refused("no node is up".into());
    for (seen, host) in status.hosts.iter().zip(&status.topology.hosts) {
        if seen.state == HostState::Up && host.agent {
            match ask_node(lab, &seen.name, arguments) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// Asks the agent of `node`.
fn ask_node<T: DeserializeOwned>(lab: &Lab, node: &str, arguments: &[&str]) -> Result<T, LabError> {
    let command = || format!("tandem {}", arguments.join(" "));
    let output = bounded::output(lab.command(node, [root::BINARY].iter().chain(arguments)), ANSWER_WITHIN)
        .doing(format!("ask the agent of {node}"))?;
    let failed = |said: &[u8]| LabError::Command {
        node: node.into(),
        command: command(),
        ended: output.status.to_string(),
        output: String::from_utf8_lossy(said).trim().to_owned(),
    };
    if !output.status.success() {
        return Err(failed(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| failed(&output.stdout))
}

/// The cluster as the first node that answers sees it.
pub(crate) fn status(lab: &Lab) -> Result<Status, LabError> {
    ask(lab, &["status", "--json"])
}

/// The cluster's journal, as the first node that answers has it.
pub(crate) fn events(lab: &Lab) -> Result<Vec<EventLine>, LabError> {
    ask(lab, &["events", "--json"])
}
