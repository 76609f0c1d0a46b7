//! Answers of the agent to the command line.

use super::{api::Oracle, group::Group, listener::Groups, node::UNPOISONED, proposer::Proposer};
use crate::{
    api::{Answer, Ask, EventLine, GroupLine, NodeLine, ServiceLine, Status, VolumeLine},
    paths::Paths,
    plan_files,
    utc::Utc,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tandem_base::{GroupName, NodeName, ServiceName};
use tandem_cluster::{Command, Event, Outcome, Phase, Refusal, State, Subject, explain};
use tandem_cluster_io::{ControlPlane, Lease, clock};
use tandem_volume_io::control::Resync;
use tokio::{sync::watch, task::JoinSet, time::timeout};

/// By group served here and peer: how far its resync is, if one runs.
type Resyncs = BTreeMap<GroupName, BTreeMap<NodeName, Option<Resync>>>;

/// How long `tandem status` waits for the volume servers, which add details to it.
const AT_ONCE: Duration = Duration::from_millis(300);
/// How many past events close an explanation.
const EVENTS_EXPLAINED: usize = 5;

/// What the agent knows.
pub(super) struct Agent {
    node: NodeName,
    control: ControlPlane,
    lease: watch::Receiver<Lease>,
    groups: Groups,
    paths: Paths,
    proposer: Proposer,
}

impl Agent {
    pub(super) fn new(
        node: NodeName,
        control: ControlPlane,
        lease: watch::Receiver<Lease>,
        groups: Groups,
        paths: Paths,
        proposer: Proposer,
    ) -> Self {
        Self { node, control, lease, groups, paths, proposer }
    }

    async fn status(&self) -> Status {
        let resyncs = self.resyncs().await;
        let applied = Arc::clone(&self.control.watch().borrow());
        let state = &applied.state;
        let topology = state.topology();
        let plan = plan_files::parse_joined(state.plan()).ok();
        let until = self.lease.borrow().until;
        let left = until.map_or(0, |until| until.since(clock::now()).as_millis());
        let leader = self.control.leader().borrow().clone();
        let address = |node: &NodeName| {
            let planned = plan.as_ref().and_then(|plan| plan.nodes.get(node)).map(|node| node.address.to_string());
            state.members().get(node).map(|member| member.address.clone()).or(planned).unwrap_or_default()
        };
        let nodes = topology.nodes.iter().map(|(name, spec)| NodeLine {
            name: name.to_string(),
            site: spec.site.as_ref().map(ToString::to_string),
            address: address(name),
            witness: spec.witness,
            admitted: state.members().contains_key(name),
            live: state.live_run(name).is_some(),
            trouble: self.control.trouble(name),
        });
        let groups = topology.groups.iter().map(|(name, spec)| {
            let config = state.group(name).map(|group| group.config.clone()).unwrap_or_default();
            GroupLine {
                name: name.to_string(),
                epoch: config.epoch.number,
                primary: config.primary.map(|primary| primary.node.to_string()),
                in_sync: config.in_sync.keys().map(ToString::to_string).collect(),
                replicas: spec.replicas.iter().map(ToString::to_string).collect(),
            }
        });
        let services = topology.services.keys().map(|name| {
            let planned = plan.as_ref().and_then(|plan| plan.services.get(name));
            service_line(state, name, planned.and_then(|service| service.address).map(|a| a.to_string()))
        });
        let (nodes, groups, services) = (nodes.collect(), groups.collect(), services.collect());
        let mut status = Status {
            cluster: state.cluster().map(|cluster| cluster.to_string()).unwrap_or_default(),
            plan: plan.map(|plan| plan.name.to_string()).unwrap_or_default(),
            node: self.node.to_string(),
            leader: leader.map(|leader| leader.to_string()),
            lease_ms: (left > 0).then_some(left),
            nodes,
            groups,
            services,
            degraded: Vec::new(),
        };
        status.degraded = degraded(&status, state, &resyncs);
        for (name, group) in self.groups.lock().expect(UNPOISONED).iter() {
            // A replica that does not run is told of by the log.
            if let Some(why) = group.ailing.borrow().as_ref().filter(|_| group.down.borrow().is_none()) {
                let node = &self.node;
                let last = format!(
                    "group {name}: the disk under the last copy, on {node}, fails: {why}; whoever uses it gets the errors"
                );
                status.degraded.insert(0, last);
            }
        }
        status
    }

    fn groups(&self) -> Vec<(GroupName, Arc<Group>)> {
        let groups = self.groups.lock().expect(UNPOISONED);
        groups.iter().map(|(name, group)| (name.clone(), Arc::clone(group))).collect()
    }

    /// What this node's volume servers bring in sync, as far as they say so at once.
    async fn resyncs(&self) -> Resyncs {
        let mut asked = JoinSet::new();
        for (name, group) in self.groups() {
            asked.spawn(async move { (name, timeout(AT_ONCE, group.status()).await.ok().flatten()) });
        }
        let mut resyncs = Resyncs::new();
        while let Some(answer) = asked.join_next().await {
            let Ok((name, Some(status))) = answer else { continue };
            if status.serving.is_some() {
                let peers = status.peers.into_iter().map(|peer| (peer.node, peer.resync)).collect();
                resyncs.insert(name, peers);
            }
        }
        resyncs
    }

    async fn volumes(&self) -> Vec<VolumeLine> {
        let mut lines = Vec::new();
        for (name, group) in self.groups() {
            let replica = group.status().await;
            lines.push(VolumeLine {
                nbd: self.paths.volume_run(&name).join("nbd.sock").display().to_string(),
                group: name.to_string(),
                replica: replica.map(|status| serde_json::to_value(status).expect("a status is plain data")),
                refused: group.down.borrow().clone(),
            });
        }
        lines
    }

    async fn relocate(&self, service: &str, to: &str) -> Answer {
        let (Ok(name), Ok(target)) = (ServiceName::new(service), NodeName::new(to)) else {
            return refused(format!("`{service}` or `{to}` is no name"), None);
        };
        let command = Command::Move { service: name, to: target, by: format!("an operator on {}", self.node) };
        match self.proposer.propose(command).await {
            Ok(Outcome::Done) => {
                Answer::Done { what: format!("{service} moves to {to}; `tandem explain {service}` follows it") }
            }
            Ok(Outcome::Refused(refusal)) => {
                let applied = Arc::clone(&self.control.watch().borrow());
                let topology = applied.state.topology();
                let known = match &refusal {
                    Refusal::UnknownService(_) => Some(it_has(topology.services.keys())),
                    Refusal::UnknownNode(_) => Some(it_has(topology.nodes.keys())),
                    _ => None,
                };
                refused(refusal.to_string(), known.as_deref().or(refusal.hint()))
            }
            Err(error) => refused(error.to_string(), Some("`tandem status` shows which nodes are live")),
        }
    }

    fn explain(&self, service: &str) -> Answer {
        let applied = Arc::clone(&self.control.watch().borrow());
        let known = applied.state.topology().services.keys().find(|name| name.as_str() == service);
        match known {
            Some(name) => {
                let mut lines = explain(&applied.state, name);
                let events = self.events(Some(service), None);
                let last = &events[events.len().saturating_sub(EVENTS_EXPLAINED)..];
                lines.extend(last.iter().map(|event| {
                    let what = event.what.strip_prefix(&format!("service {service}: ")).unwrap_or(&event.what);
                    format!("{} {what}: {}", Utc(event.at_ms), event.why)
                }));
                Answer::Explain { lines }
            }
            None => {
                let names = it_has(applied.state.topology().services.keys());
                refused(format!("the plan has no service `{service}`; {names}"), None)
            }
        }
    }

    fn events(&self, service: Option<&str>, since_ms: Option<u64>) -> Vec<EventLine> {
        let applied = Arc::clone(&self.control.watch().borrow());
        let events = applied.state.events();
        let line = |event: &Event| {
            let (node, service, group) = match &event.subject {
                Subject::Cluster => (None, None, None),
                Subject::Node(node) => (Some(node), None, None),
                Subject::Group(group, node) => (node.as_ref(), None, Some(group)),
                Subject::Service(service, node) => (node.as_ref(), Some(service), None),
            };
            let subject = match (service, group) {
                (Some(service), _) => format!("service {service}: "),
                (_, Some(group)) => format!("group {group}: "),
                _ => String::new(),
            };
            EventLine {
                at_ms: event.at_ms,
                node: node.map(ToString::to_string).unwrap_or_default(),
                what: format!("{subject}{}", event.what),
                why: event.why.clone(),
                service: service.map(ToString::to_string),
                group: group.map(ToString::to_string),
            }
        };
        events
            .iter()
            .map(line)
            .filter(|line| service.is_none_or(|service| is_about(line, service)))
            .filter(|line| since_ms.is_none_or(|since| line.at_ms >= since))
            .collect()
    }

    fn inject_disk_fault(&self, group: &str, errno: i32) -> Answer {
        let handle =
            GroupName::new(group).ok().and_then(|name| self.groups.lock().expect(UNPOISONED).get(&name).cloned());
        match handle {
            Some(handle) => {
                handle.inject_disk_fault(errno);
                let how = if errno == 0 { "works again".into() } else { format!("fails with error {errno}") };
                Answer::Done { what: format!("the disk under {group} on {} {how}", self.node) }
            }
            None => refused(format!("{} has no replica of group `{group}`", self.node), None),
        }
    }
}

impl Oracle for Agent {
    async fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Status => Answer::Status(Box::new(self.status().await)),
            Ask::Events { service, since_ms } => Answer::Events { events: self.events(service.as_deref(), since_ms) },
            Ask::Explain { service } => self.explain(&service),
            Ask::Move { service, to } => self.relocate(&service, &to).await,
            Ask::Volumes => Answer::Volumes { volumes: self.volumes().await },
            Ask::InjectDiskFault { group, errno } => self.inject_disk_fault(&group, errno),
        }
    }
}

/// Whether an event is about a service, also where a node only wrote it down in words.
fn is_about(line: &EventLine, service: &str) -> bool {
    line.service.as_deref() == Some(service)
        || line
            .what
            .strip_prefix("service ")
            .and_then(|what| what.strip_prefix(service))
            .is_some_and(|what| what.starts_with(": "))
}

/// The names that there are, for somebody who wrote another one.
fn it_has(names: impl Iterator<Item = impl ToString>) -> String {
    let names: Vec<_> = names.map(|name| name.to_string()).collect();
    format!("it has {}", names.join(", "))
}

fn refused(why: String, hint: Option<&str>) -> Answer {
    Answer::Refused { why, hint: hint.map(Into::into) }
}

fn service_line(state: &State, name: &ServiceName, address: Option<String>) -> ServiceLine {
    let placement = state.service(name);
    let assignment = placement.and_then(|placement| placement.assignment.as_ref());
    let failed = placement.is_some_and(|placement| !placement.failures.is_empty());
    // What is placed on a node that holds no lease does not run: the log waits for another node that can.
    let stranded = assignment.is_some_and(|assignment| state.live_run(&assignment.node).is_none());
    let phase = match assignment.map(|assignment| &assignment.phase) {
        Some(_) if stranded => "waiting",
        Some(Phase::Starting) => "starting",
        Some(Phase::Running) => "running",
        Some(Phase::Stopping { .. } | Phase::Releasing { .. }) => "stopping",
        None if failed => "failed",
        None => "waiting",
    };
    ServiceLine {
        name: name.to_string(),
        node: assignment.map(|assignment| assignment.node.to_string()),
        phase: phase.into(),
        why: placement
            .map(|placement| placement.stranded.as_ref().unwrap_or(&placement.why).clone())
            .unwrap_or_default(),
        address,
    }
}

/// Why the replica on `node` does not run, where the log was told.
fn ended<'a>(state: &'a State, group: &str, node: &str) -> Option<&'a str> {
    state.replica_ended(&GroupName::new(group).ok()?, &NodeName::new(node).ok()?)
}

/// Why a replica is not in sync, and what is done about it.
fn out_of_sync(state: &State, resyncs: &Resyncs, group: &str, node: &str) -> String {
    if let Some(why) = ended(state, group, node) {
        return format!("{node} is out of sync: {why}");
    }
    let (Ok(group), Ok(name)) = (GroupName::new(group), NodeName::new(node)) else { return String::new() };
    let register = state.group(&group);
    let runs = register
        .and_then(|register| register.registered(&name))
        .is_some_and(|open| state.replica_live(&group, &name, open));
    let primary = register.and_then(|register| register.config.primary.as_ref());
    match (primary, resyncs.get(&group).and_then(|peers| peers.get(&name))) {
        (_, Some(Some(resync))) => format!("{node} is out of sync, and is brought in sync: {} %", resync.percent()),
        (Some(_), Some(None)) if runs => format!("{node} is out of sync, and its resync does not run yet"),
        (Some(primary), None) if runs => {
            format!("{node} is out of sync; `tandem volume status` on {} shows its resync", primary.node)
        }
        (None, _) if runs => format!("{node} is out of sync, and nobody serves the group who could mend that"),
        _ => format!("{node} is out of sync"),
    }
}

/// What a person should know, a sentence each, the worst first.
fn degraded(status: &Status, state: &State, resyncs: &Resyncs) -> Vec<String> {
    let mut sentences = Vec::new();
    for service in &status.services {
        match service.phase.as_str() {
            "running" => {}
            phase => sentences.push(format!("service {} is {phase}: {}", service.name, service.why)),
        }
    }
    for group in &status.groups {
        let missing: Vec<String> = group
            .replicas
            .iter()
            .filter(|node| !group.in_sync.contains(node))
            .map(|node| out_of_sync(state, resyncs, &group.name, node))
            .collect();
        let missing = missing.join("; ");
        match (group.in_sync.as_slice(), missing.is_empty()) {
            (_, true) => {}
            ([], _) => sentences.push(format!("group {} has no copy that is in sync yet", group.name)),
            ([one], _) => sentences.push(format!("group {} has a single copy, on {one}; {missing}", group.name)),
            _ => sentences.push(format!("group {}: {missing}", group.name)),
        }
        for node in &group.in_sync {
            if let Some(why) = ended(state, &group.name, node) {
                sentences.push(format!("group {}: the replica on {node} does not run: {why}", group.name));
            }
        }
    }
    for node in &status.nodes {
        if !node.admitted {
            sentences.push(format!("node {} has never joined", node.name));
        } else if !node.live {
            sentences.push(match &node.trouble {
                Some(why) => format!(
                    "node {} is silent: it holds no lease ({} to {}: {why})",
                    node.name, status.node, node.address
                ),
                None => format!("node {} is silent: it holds no lease", node.name),
            });
        }
    }
    if status.lease_ms.is_none() {
        sentences
            .push(format!("{} itself holds no lease: nothing runs here, and what is shown may be old", status.node));
    }
    if state.paused() {
        sentences.push("placement is paused: nothing fails over".into());
    }
    sentences
}
