//! The replicated state machine.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    string::{String, ToString},
};
use serde::{Deserialize, Serialize};
use tandem_base::{ClusterId, GroupName, NodeName, ServiceName};

use crate::{
    Admission, CertificateAuthority, Command, Entry, Event, Events, Group, Outcome, Placement, Refusal, Session,
    Subject, Topology, placement,
};

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where peers reach it: `host:port`.
    pub address: String,
    /// Its name in the consensus.
    pub raft_id: u64,
}

/// What never changes after the first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Founding {
    cluster: ClusterId,
    ca: CertificateAuthority,
}

/// Everything durable about the cluster.
///
/// [`apply`](Self::apply) every entry of the log once, in order, from [`State::default`] or from a snapshot (any serde
/// format); the same entries always give the same state. Between entries ask the getters,
/// [`intents`](crate::intents()) and [`explain`](crate::explain()).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    pub(crate) applied: u64,
    pub(crate) at_ms: u64,
    founding: Option<Founding>,
    token_digest: Option<String>,
    plan: String,
    plan_revision: u64,
    pub(crate) topology: Topology,
    pub(crate) members: BTreeMap<NodeName, Member>,
    raft_ids_used: BTreeSet<u64>,
    pub(crate) sessions: BTreeMap<NodeName, Session>,
    pub(crate) groups: BTreeMap<GroupName, Group>,
    pub(crate) services: BTreeMap<ServiceName, Placement>,
    pub(crate) placements: u64,
    pub(crate) maintenance: BTreeSet<NodeName>,
    pub(crate) paused: bool,
    outcomes: VecDeque<(u64, Outcome)>,
    events: Events,
}

impl State {
    /// How many entries' ids are remembered with their outcomes.
    pub const REMEMBERED_IDS: usize = 512;

    /// Applies the entry at `index` of the log. Indexes rise; entries without a command of ours (consensus no-ops,
    /// membership) are left out.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Outcome {
        debug_assert!(index > self.applied, "an entry is applied once, in order");
        self.applied = index;
        self.at_ms = entry.at_ms;
        if let Some((_, outcome)) = self.outcomes.iter().find(|(id, _)| *id == entry.id && entry.id != 0) {
            return outcome.clone();
        }
        let outcome = Outcome::from(self.carry_out(entry));
        placement::settle(self);
        if entry.id != 0 {
            if self.outcomes.len() == Self::REMEMBERED_IDS {
                self.outcomes.pop_front();
            }
            self.outcomes.push_back((entry.id, outcome.clone()));
        }
        outcome
    }

    fn carry_out(&mut self, entry: &Entry) -> Result<(), Refusal> {
        if let Command::Found { cluster, plan, topology, ca, first, token_digest } = &entry.command {
            return self.found(*cluster, plan, topology, ca, first, token_digest);
        }
        if self.founding.is_none() {
            return Err(Refusal::NotFounded);
        }
        match &entry.command {
            Command::Found { .. } => unreachable!("handled above"),
            Command::AdoptPlan { revision, plan, topology } => self.adopt_plan(*revision, plan, topology),
            Command::SetToken { digest } => {
                self.token_digest.clone_from(digest);
                Ok(())
            }
            Command::Admit(admission) => self.admit(admission),
            Command::OpenSession { node, run, session } => self.open_session(node, *run, *session),
            Command::ExpireSession { node, session, why } => self.expire_session(node, *session, why),
            Command::OpenReplica { group, node, session, open, previous } => {
                self.open_replica(group, node, *session, *open, previous)
            }
            Command::CloseReplica { group, node, session, open, why } => {
                self.close_replica(group, node, *session, *open, why)
            }
            Command::Propose { group, proposal } => self.propose(group, proposal),
            Command::ServiceStarted { service, node, placement } => self.service_started(service, node, *placement),
            Command::ServiceSteady { service, node, placement } => self.service_steady(service, node, *placement),
            Command::ServiceStopped { service, node, placement } => self.service_stopped(service, node, *placement),
            Command::ServiceFailed { service, node, placement, why } => {
                self.service_failed(service, node, *placement, why)
            }
            Command::Move { service, to, by } => self.move_service(service, to, by),
            Command::SetMaintenance { node, on } => self.set_maintenance(node, *on, &entry.by),
            Command::SetPaused { on } => {
                if core::mem::replace(&mut self.paused, *on) != *on {
                    let what = if *on { "placement paused" } else { "placement goes on" };
                    self.event(Subject::Cluster, what, format!("asked on {}", entry.by));
                }
                Ok(())
            }
            Command::Note { node, what, why } => {
                self.event(Subject::Node(node.clone()), what, why.clone());
                Ok(())
            }
        }
    }

    fn found(
        &mut self,
        cluster: ClusterId,
        plan: &str,
        topology: &Topology,
        ca: &CertificateAuthority,
        first: &Admission,
        token_digest: &str,
    ) -> Result<(), Refusal> {
        if let Some(founding) = &self.founding {
            return if founding.cluster == cluster { Ok(()) } else { Err(Refusal::AlreadyFounded) };
        }
        topology.check().map_err(Refusal::Topology)?;
        if !topology.nodes.contains_key(&first.node) {
            return Err(Refusal::UnknownNode(first.node.clone()));
        }
        self.founding = Some(Founding { cluster, ca: ca.clone() });
        self.token_digest = Some(token_digest.to_string());
        self.adopt(plan, topology);
        self.event(Subject::Cluster, "cluster founded", format!("`tandem init` on {}", first.node));
        self.admit(first)
    }

    fn adopt_plan(&mut self, seen: u64, plan: &str, topology: &Topology) -> Result<(), Refusal> {
        if seen != self.plan_revision {
            return Err(Refusal::PlanChanged { current: self.plan_revision, seen });
        }
        topology.check().map_err(Refusal::Topology)?;
        self.adopt(plan, topology);
        self.event(Subject::Cluster, "plan adopted", format!("revision {}", self.plan_revision));
        Ok(())
    }

    /// Groups and services that the plan no longer names are kept out of sight, not forgotten: a register that came back
    /// empty would take old disks for new ones.
    fn adopt(&mut self, plan: &str, topology: &Topology) {
        self.plan = plan.to_string();
        self.plan_revision += 1;
        self.topology = topology.clone();
        for group in topology.groups.keys() {
            self.groups.entry(group.clone()).or_default();
        }
        for service in topology.services.keys() {
            self.services.entry(service.clone()).or_default().forgive();
        }
    }

    fn admit(&mut self, admission: &Admission) -> Result<(), Refusal> {
        let Admission { node, address, raft_id } = admission;
        self.known_node(node)?;
        let raft_id = *raft_id;
        let current = self.members.get(node);
        if current.is_some_and(|member| member.raft_id == raft_id && member.address == *address) {
            return Ok(());
        }
        if current.is_none_or(|member| member.raft_id != raft_id) && !self.raft_ids_used.insert(raft_id) {
            return Err(Refusal::RaftIdUsed { node: node.clone(), raft_id });
        }
        let why = match current {
            None => "it joined",
            Some(member) if member.raft_id == raft_id => "its address changed",
            Some(_) => "it came back with an empty store",
        };
        self.members.insert(node.clone(), Member { address: address.clone(), raft_id });
        self.event(Subject::Node(node.clone()), &format!("admitted at {address}"), why);
        Ok(())
    }

    fn set_maintenance(&mut self, node: &NodeName, on: bool, by: &NodeName) -> Result<(), Refusal> {
        self.known_node(node)?;
        let changed = if on { self.maintenance.insert(node.clone()) } else { self.maintenance.remove(node) };
        if changed {
            let what = if on { "maintenance began" } else { "maintenance ended" };
            self.event(Subject::Node(node.clone()), what, format!("asked on {by}"));
        }
        Ok(())
    }

    pub(crate) fn known_node(&self, node: &NodeName) -> Result<(), Refusal> {
        if self.topology.nodes.contains_key(node) { Ok(()) } else { Err(Refusal::UnknownNode(node.clone())) }
    }

    pub(crate) fn event(&mut self, subject: Subject, what: &str, why: impl Into<String>) {
        let (index, at_ms) = (self.applied, self.at_ms);
        self.events.push(Event { index, at_ms, subject, what: what.into(), why: why.into() });
    }

    /// As [`State::event`], unless the newest event about this subject says just the same: what is tried again and again
    /// must not push everything else out of the journal.
    pub(crate) fn event_once(&mut self, subject: Subject, what: &str, why: &str) {
        let newest = self.events.iter().rev().find(|event| event.subject == subject);
        if newest.is_none_or(|event| event.what != what || event.why != why) {
            self.event(subject, what, why);
        }
    }

    /// Index of the newest entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The cluster's name, once founded.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.founding.as_ref().map(|founding| founding.cluster)
    }

    /// The cluster's certificate authority, once founded.
    #[must_use]
    pub fn ca(&self) -> Option<&CertificateAuthority> {
        self.founding.as_ref().map(|founding| &founding.ca)
    }

    /// Digest of the token that lets a node join; `None`: nobody can.
    #[must_use]
    pub fn token_digest(&self) -> Option<&str> {
        self.token_digest.as_deref()
    }

    /// The plan's text.
    #[must_use]
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// Raised at every plan; 0 before the first.
    #[must_use]
    pub fn plan_revision(&self) -> u64 {
        self.plan_revision
    }

    /// What the plan means.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The nodes that joined.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeName, Member> {
        &self.members
    }

    /// The registers of all groups, also of those that the plan no longer names.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<GroupName, Group> {
        &self.groups
    }

    /// The register of a group.
    #[must_use]
    pub fn group(&self, group: &GroupName) -> Option<&Group> {
        self.groups.get(group)
    }

    /// Where every service is placed, also those that the plan no longer names.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ServiceName, Placement> {
        &self.services
    }

    /// Where a service is placed, and why.
    #[must_use]
    pub fn service(&self, service: &ServiceName) -> Option<&Placement> {
        self.services.get(service)
    }

    /// Whether services leave `node`.
    #[must_use]
    pub fn in_maintenance(&self, node: &NodeName) -> bool {
        self.maintenance.contains(node)
    }

    /// Whether nothing new is decided.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// What happened and why.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }
}
