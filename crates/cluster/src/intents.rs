//! What one node has to do now.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
};
use serde::{Deserialize, Serialize};
use tandem_base::{Duration, GroupName, NodeName, ServiceName};

use crate::{Failure, Phase, State};

/// What a node does about a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceIntent {
    /// Run it, as this placement. A run of an earlier placement ends first.
    Run {
        /// To be named in every report.
        placement: u64,
        /// How long to wait before its start: it failed here before.
        pause: Duration,
    },
    /// Do not run it.
    Stop {
        /// The placement that waits for the report `ServiceStopped`; `None`: nobody waits.
        placement: Option<u64>,
        /// Why it must not run here.
        why: String,
    },
}

/// What a node has to do now. Level-triggered: it holds until the state says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Intents {
    /// Groups whose replica runs here.
    pub replicas: BTreeSet<GroupName>,
    /// Groups that this node's replica serves: order it to become primary.
    pub serve: BTreeSet<GroupName>,
    /// Groups of which this node's replica is primary and must not stay so: once their service is stopped and detached
    /// here, order the release.
    pub release: BTreeSet<GroupName>,
    /// Every service of the plan that this node could run.
    pub services: BTreeMap<ServiceName, ServiceIntent>,
}

/// What `node` has to do in this state. It does it only while it holds a lease.
#[must_use]
pub fn intents(state: &State, node: &NodeName) -> Intents {
    let mut intents = Intents::default();
    for (group, spec) in &state.topology().groups {
        if !spec.replicas.contains(node) {
            continue;
        }
        intents.replicas.insert(group.clone());
        let Some(register) = state.group(group) else { continue };
        let primary_here = register.config.primary.as_ref().is_some_and(|primary| primary.node == *node);
        let server = register.server.as_ref();
        if server == Some(node) {
            intents.serve.insert(group.clone());
        } else if primary_here {
            intents.release.insert(group.clone());
        }
    }
    for (service, spec) in &state.topology().services {
        let assignment = state.service(service).and_then(|placement| placement.assignment.as_ref());
        let intent = match assignment {
            Some(assignment) if assignment.node == *node => match &assignment.phase {
                Phase::Starting | Phase::Running => {
                    let failure = state.service(service).and_then(|placement| placement.failures.get(node));
                    let pause = failure.map_or(Duration::ZERO, Failure::pause);
                    ServiceIntent::Run { placement: assignment.placement, pause }
                }
                Phase::Stopping { why, .. } | Phase::Releasing { why, .. } => {
                    ServiceIntent::Stop { placement: Some(assignment.placement), why: why.clone() }
                }
            },
            Some(assignment) if spec.candidates.contains(node) => {
                ServiceIntent::Stop { placement: None, why: format!("it is placed on {}", assignment.node) }
            }
            None if spec.candidates.contains(node) => {
                let why = state.service(service).map(|placement| placement.why.clone()).unwrap_or_default();
                ServiceIntent::Stop { placement: None, why }
            }
            _ => continue,
        };
        intents.services.insert(service.clone(), intent);
    }
    intents
}
