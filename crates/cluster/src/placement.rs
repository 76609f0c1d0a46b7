//! Where each service runs, and why: a pure function of the log.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use tandem_base::{Duration, GroupName, NodeName, RunId, ServiceName};

use crate::{Failback, ServiceSpec, State, Subject};

/// How far an assignment has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The node is to start it.
    Starting,
    /// The node reported that it runs.
    Running,
    /// The node is to stop it.
    Stopping {
        /// Where it goes next; `None`: to be chosen when it has stopped.
        to: Option<NodeName>,
        /// In words.
        why: String,
    },
    /// It has stopped; the node's replica flushes everywhere and releases the group.
    Releasing {
        /// Where it goes next.
        to: Option<NodeName>,
        /// In words.
        why: String,
    },
}

/// A service on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Where.
    pub node: NodeName,
    /// The boot of that node that it was given to.
    pub run: RunId,
    /// Numbers every assignment of every service, never twice.
    pub placement: u64,
    /// How far it has come.
    pub phase: Phase,
}

/// What went wrong on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How often, since the service was last steady or a person moved it.
    pub count: u32,
    /// The last reason.
    pub why: String,
}

/// Where a service is placed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// Where; `None`: it waits, for the reason in `why`.
    pub assignment: Option<Assignment>,
    /// The reason, in one line.
    pub why: String,
    /// Its node may not act, and nobody else can run it, for this reason. Should the node be heard again first, the
    /// service goes on there.
    pub stranded: Option<String>,
    /// What went wrong, by node.
    pub failures: BTreeMap<NodeName, Failure>,
    /// Where a person moved it: stronger than the preferred site, until it has to leave.
    pub moved_to: Option<NodeName>,
}

/// How often a service may fail on one node until it is steady again or a person moves it. The nodes' own restarts come
/// before a failure is reported.
pub const FAILURES_MAX: u32 = 5;
/// How long a node waits before it starts a service that failed there once. Twice as long after each further failure: a
/// trouble that passes within a minute or two needs no person, and one that stays does not wear out the machines.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The longest of these pauses.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(40);

/// What changes about a service's placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub service: ServiceName,
    /// Where it is placed from now on.
    pub assignment: Option<Assignment>,
    /// The reason.
    pub why: String,
    /// Why it can neither go on there nor move ([`Placement::stranded`]).
    pub stranded: Option<String>,
    /// What to call it among the events; `None`: only the reason changed.
    pub what: Option<String>,
}

/// What the state calls for, service by service. [`State::apply`] carries it out at the end of every entry; outside, it
/// is empty.
#[must_use]
pub fn decide(state: &State) -> Vec<Decision> {
    state.services.keys().filter_map(|service| step(state, service)).collect()
}

/// Decides until nothing is left to decide.
pub(crate) fn settle(state: &mut State) {
    let services: Vec<ServiceName> = state.services.keys().cloned().collect();
    for service in &services {
        // Heard again, stopped, released, started elsewhere: four steps at most follow from one entry.
        for _ in 0..5 {
            let Some(decision) = step(state, service) else { break };
            carry_out(state, decision);
        }
        debug_assert!(step(state, service).is_none(), "`{service}`: placement comes to rest");
    }
    let groups: Vec<GroupName> = state.groups.keys().cloned().collect();
    for group in groups {
        let server = server(state, &group);
        if let Some(register) = state.groups.get_mut(&group) {
            register.server = server;
        }
    }
}

fn carry_out(state: &mut State, decision: Decision) {
    let Decision { service, assignment, why, stranded, what } = decision;
    let Some(placement) = state.services.get_mut(&service) else { return };
    if let Some(assignment) = &assignment {
        state.placements = state.placements.max(assignment.placement);
        if assignment.phase == Phase::Starting && placement.moved_to.as_ref() != Some(&assignment.node) {
            placement.moved_to = None;
        }
    }
    let about = assignment.as_ref().or(placement.assignment.as_ref()).map(|assignment| assignment.node.clone());
    placement.assignment = assignment;
    placement.why.clone_from(&why);
    placement.stranded.clone_from(&stranded);
    if let Some(what) = what {
        state.event(Subject::Service(service, about), &what, stranded.unwrap_or(why));
    }
}

/// The next change of one service's placement.
fn step(state: &State, service: &ServiceName) -> Option<Decision> {
    let placement = state.services.get(service)?;
    let current = placement.assignment.as_ref();
    let decision = |assignment, why: String, what: Option<String>| {
        let changed = assignment != placement.assignment || why != placement.why || placement.stranded.is_some();
        changed.then(|| Decision { service: service.clone(), assignment, why, stranded: None, what })
    };
    let Some(spec) = state.topology.services.get(service) else {
        let what = current.map(|_| String::from("taken out"));
        return decision(None, String::from("the plan does not have it any more"), what);
    };
    let Some(current) = current else {
        if state.paused {
            return decision(None, String::from("placement is paused"), None);
        }
        return match next(state, service, spec, None) {
            Ok(node) => {
                let what = format!("starts on {node}");
                let why = reason(state, placement, spec, &node);
                decision(Some(start(state, node)?), why, Some(what))
            }
            Err(why) => decision(None, why, None),
        };
    };
    let from = &current.node;
    if state.live_run(from) != Some(current.run) {
        return match lost(state, service, spec, placement, current)? {
            Fate::Goes(assignment, why, what) => decision(assignment, why, Some(what)),
            Fate::Stranded(why) if placement.stranded.as_ref() == Some(&why) => None,
            Fate::Stranded(why) => Some(Decision {
                service: service.clone(),
                assignment: Some(current.clone()),
                why: placement.why.clone(),
                stranded: Some(why),
                what: Some(String::from("cannot fail over")),
            }),
        };
    }
    if placement.stranded.is_some() {
        let what = format!("goes on, {from} is heard again");
        return decision(Some(current.clone()), placement.why.clone(), Some(what));
    }
    match &current.phase {
        Phase::Starting | Phase::Running => {
            if state.paused {
                return None;
            }
            let (to, why) = leave(state, service, spec, placement, current)?;
            let what = match &to {
                Some(to) => format!("moves from {from} to {to}"),
                None => format!("stops on {from}"),
            };
            let phase = Phase::Stopping { to, why: why.clone() };
            decision(Some(Assignment { phase, ..current.clone() }), why, Some(what))
        }
        Phase::Stopping { .. } => None,
        Phase::Releasing { to, why } => {
            let primary = spec.group.as_ref().and_then(|group| state.groups.get(group)?.config.primary.as_ref());
            let held = primary.is_some_and(|primary| primary.node == *from);
            let target = to.clone().filter(|to| state.obstacle(service, to).is_none());
            let chosen = target.clone().map_or_else(|| next(state, service, spec, Some(from)), Ok);
            match chosen {
                Ok(node) if !held || node == *from => {
                    let why = if target.is_some() { why.clone() } else { reason(state, placement, spec, &node) };
                    let what = format!("starts on {node}");
                    decision(Some(start(state, node)?), why, Some(what))
                }
                Err(why) if !held => decision(None, why, Some(String::from("waits"))),
                _ => None,
            }
        }
    }
}

/// What becomes of a service whose node is lost.
enum Fate {
    /// It is placed anew, or waits: where, why, and what to call that.
    Goes(Option<Assignment>, String, String),
    /// Nobody else can run it.
    Stranded(String),
}

/// The assignment's node may not act any more, or was booted anew: whatever ran there is fenced or gone.
fn lost(
    state: &State,
    service: &ServiceName,
    spec: &ServiceSpec,
    placement: &Placement,
    current: &Assignment,
) -> Option<Fate> {
    let from = &current.node;
    if state.paused {
        return None;
    }
    let rebooted = state.live_run(from).is_some();
    let cause = if rebooted { format!("{from} was booted anew") } else { format!("session of {from} expired") };
    let target = match &current.phase {
        Phase::Stopping { to, .. } | Phase::Releasing { to, .. } => to.clone(),
        _ => placement.moved_to.clone(),
    };
    let target = target.filter(|to| state.obstacle(service, to).is_none() && waits(state, spec).is_none());
    match target.map_or_else(|| next(state, service, spec, Some(from)), Ok) {
        Ok(node) => {
            let what = if node == *from { format!("starts again on {node}") } else { format!("failover to {node}") };
            let assignment = start(state, node)?;
            Some(Fate::Goes(Some(assignment), cause, what))
        }
        // Nothing of a former boot is left to wait for.
        Err(why) if rebooted => Some(Fate::Goes(None, format!("{cause}; {why}"), String::from("waits"))),
        // If the node is heard again first, the service goes on where it is.
        Err(why) => Some(Fate::Stranded(format!("{cause}; {why}"))),
    }
}

/// Whether the service has to leave a node that may act: where to, and why.
fn leave(
    state: &State,
    service: &ServiceName,
    spec: &ServiceSpec,
    placement: &Placement,
    current: &Assignment,
) -> Option<(Option<NodeName>, String)> {
    let from = &current.node;
    let elsewhere = || best(state, service, spec, |node| node != from);
    if let Some(why) = state.hard_obstacle(service, from) {
        return Some((elsewhere(), format!("{from} cannot keep it: {why}")));
    }
    if state.maintenance.contains(from) {
        return elsewhere().map(|to| (Some(to), format!("{from} is in maintenance")));
    }
    let site = spec.prefer.as_ref()?;
    let at_home = |node: &NodeName| state.topology.nodes.get(node).and_then(|node| node.site.as_ref()) == Some(site);
    let stay = spec.failback == Failback::Manual
        || current.phase != Phase::Running
        || at_home(from)
        || placement.moved_to.as_ref() == Some(from);
    if stay {
        return None;
    }
    let home = best(state, service, spec, |node| at_home(node) && !placement.failures.contains_key(node))?;
    let why = format!("failback: {home}, at the preferred site {site}, can run it again");
    Some((Some(home), why))
}

/// Where to start the service, or what it waits for. `from`, where it just ran, takes it back even in maintenance when
/// nobody else can.
fn next(state: &State, service: &ServiceName, spec: &ServiceSpec, from: Option<&NodeName>) -> Result<NodeName, String> {
    if let Some(why) = waits(state, spec) {
        return Err(why);
    }
    if let Some(node) = best(state, service, spec, |_| true) {
        return Ok(node);
    }
    let able = |from: &&NodeName| {
        state.live_run(from).is_some()
            && state.hard_obstacle(service, from).is_none()
            && state.tired(service, from).is_none()
    };
    if let Some(from) = from.filter(able) {
        return Ok(from.clone());
    }
    if let Some(node) = last_resort(state, service, spec) {
        return Ok(node);
    }
    let obstacles: Vec<String> = spec
        .candidates
        .iter()
        .filter_map(|node| state.obstacle(service, node).map(|why| format!("{node}: {why}")))
        .collect();
    let failed = !spec.candidates.is_empty() && spec.candidates.iter().all(|node| state.tired(service, node).is_some());
    Err(match failed {
        true => {
            let failures = placement_failures(state, service);
            let first = spec.candidates.iter().next().map_or("NODE", NodeName::as_str);
            format!("failed on every node, {failures}; once that is mended, `tandem move {service} --to {first}`")
        }
        false => format!("nobody can run it: {}", obstacles.join("; ")),
    })
}

/// How often a service failed where, and why: once, where the reason is the same everywhere.
fn placement_failures(state: &State, service: &ServiceName) -> String {
    let Some(placement) = state.services.get(service) else { return String::new() };
    let same = placement.failures.values().all(|failure| placement.failures.values().all(|it| it.why == failure.why));
    let line = |(node, failure): (&NodeName, &Failure)| match same {
        true => format!("{} on {node}", times(failure.count)),
        false => format!("{} on {node}, last: {}", times(failure.count), failure.why),
    };
    let lines: Vec<String> = placement.failures.iter().map(line).collect();
    match placement.failures.values().next().filter(|_| same) {
        Some(failure) => format!("{}, last: {}", lines.join(" and "), failure.why),
        None => lines.join("; "),
    }
}

/// A count in words.
pub(crate) fn times(count: u32) -> String {
    if count == 1 { String::from("once") } else { format!("{count} times") }
}

/// What must be there before the service starts anywhere.
fn waits(state: &State, spec: &ServiceSpec) -> Option<String> {
    for other in &spec.after {
        if !state.is_running(other) {
            return Some(format!("waits for `{other}`"));
        }
    }
    waits_for_replicas(state, spec.group.as_ref()?)
}

/// A group's first promotion waits for the replicas of all nodes that are there, since later ones have to compare.
fn waits_for_replicas(state: &State, group: &GroupName) -> Option<String> {
    let register = state.groups.get(group).filter(|register| !register.was_served())?;
    let missing = state.topology.groups.get(group)?.replicas.iter().find(|node| {
        state.live_run(node).is_some()
            && !register.registered(node).is_some_and(|open| state.replica_live(group, node, open))
    })?;
    Some(format!("waits for the replica on {missing} to open"))
}

/// The best of the nodes that can run the service: fewest failures, where a person moved it, the preferred site, the
/// least busy, the first by name.
fn best(
    state: &State,
    service: &ServiceName,
    spec: &ServiceSpec,
    filter: impl Fn(&NodeName) -> bool,
) -> Option<NodeName> {
    let placement = state.services.get(service)?;
    let rank = |node: &NodeName| {
        let failures = placement.failures.get(node).map_or(0, |failure| failure.count);
        let moved = placement.moved_to.as_ref() != Some(node);
        let site = state.topology.nodes.get(node).and_then(|node| node.site.as_ref());
        let away = spec.prefer.is_some() && spec.prefer.as_ref() != site;
        let busy = state
            .services
            .iter()
            .filter(|(other, placement)| {
                *other != service && placement.assignment.as_ref().is_some_and(|other| other.node == *node)
            })
            .count();
        (failures, moved, away, busy)
    };
    let able = spec.candidates.iter().filter(|node| filter(node) && state.obstacle(service, node).is_none());
    able.min_by_key(|node| (rank(node), *node)).cloned()
}

/// Who tries again although the service failed there as often as it may: a replica in sync, as long as another candidate
/// lacks nothing but that. Nobody is brought in sync while the group is not served, so that both would wait for ever. Once
/// the other one is, it takes over, or fails as often, and then a person is needed.
fn last_resort(state: &State, service: &ServiceName, spec: &ServiceSpec) -> Option<NodeName> {
    let group = spec.group.as_ref()?;
    let up = |node: &NodeName| state.live_run(node).is_some() && !state.maintenance.contains(node);
    let register = state.groups.get(group)?;
    let joins = |node: &NodeName| {
        let runs = register.registered(node).is_some_and(|open| state.replica_live(group, node, open));
        up(node) && runs && !state.in_sync(group, node) && state.tired(service, node).is_none()
    };
    let failures = &state.services.get(service)?.failures;
    let serves = |node: &&NodeName| up(node) && state.in_sync(group, node);
    let candidates = || spec.candidates.iter();
    let able = candidates().any(joins).then(|| candidates().filter(serves))?;
    able.min_by_key(|node| (failures.get(*node).map_or(0, |failure| failure.count), *node)).cloned()
}

fn reason(state: &State, placement: &Placement, spec: &ServiceSpec, node: &NodeName) -> String {
    if let Some((failed, failure)) = placement.failures.iter().next_back() {
        return match failed == node {
            true => format!("another try, in {}, after: {}", failure.pause(), failure.why),
            false => format!("failed on {failed}: {}", failure.why),
        };
    }
    if placement.moved_to.as_ref() == Some(node) {
        return format!("somebody moved it to {node}");
    }
    let site = state.topology.nodes.get(node).and_then(|node| node.site.as_ref());
    match &spec.prefer {
        Some(prefer) if site == Some(prefer) => format!("{node} is at the preferred site {prefer}"),
        Some(prefer) => format!("nobody at the preferred site {prefer} can run it"),
        None => format!("{node} is the first of the least busy nodes that can run it"),
    }
}

fn start(state: &State, node: NodeName) -> Option<Assignment> {
    let run = state.live_run(&node)?;
    Some(Assignment { node, run, placement: state.placements + 1, phase: Phase::Starting })
}

/// Who shall serve a group: where its service is placed; without a service, the primary as long as it can.
fn server(state: &State, group: &GroupName) -> Option<NodeName> {
    let spec = state.topology.groups.get(group)?;
    let register = state.groups.get(group)?;
    if let Some(service) = state.topology.service_of(group) {
        let assignment = state.services.get(service)?.assignment.as_ref()?;
        return (!matches!(assignment.phase, Phase::Releasing { .. })).then(|| assignment.node.clone());
    }
    if state.paused || waits_for_replicas(state, group).is_some() {
        return register.server.clone();
    }
    let able = |node: &&NodeName| state.in_sync(group, node);
    let primary = register.config.primary.as_ref().map(|primary| &primary.node);
    let order = || primary.into_iter().chain(&register.server).chain(&spec.replicas).filter(able);
    order().find(|node| !state.maintenance.contains(*node)).or_else(|| order().next()).cloned()
}

impl State {
    /// Why `service` could not run on `node` now; `None` if it could.
    #[must_use]
    pub fn obstacle(&self, service: &ServiceName, node: &NodeName) -> Option<String> {
        if self.live_run(node).is_none() {
            return Some(String::from(if self.members.contains_key(node) {
                "it has no live session"
            } else {
                "it has not joined"
            }));
        }
        if self.maintenance.contains(node) {
            return Some(String::from("it is in maintenance"));
        }
        self.hard_obstacle(service, node).or_else(|| self.tired(service, node))
    }

    /// What no wish overcomes, on a node that may act.
    fn hard_obstacle(&self, service: &ServiceName, node: &NodeName) -> Option<String> {
        let Some(spec) = self.topology.services.get(service) else {
            return Some(String::from("the plan does not have it"));
        };
        if !spec.candidates.contains(node) {
            return Some(String::from("the plan does not let it run there"));
        }
        let group = spec.group.as_ref()?;
        if self.in_sync(group, node) {
            return None;
        }
        let register = self.groups.get(group);
        let member = register.is_some_and(|register| register.config.in_sync.contains_key(node));
        let what = if member { "its replica is not running" } else { "its replica is not in sync" };
        Some(match self.replica_ended(group, node) {
            Some(why) => format!("{what}: {why}"),
            None => String::from(what),
        })
    }

    /// Why `node`'s replica of the group does not run, where the log was told.
    #[must_use]
    pub fn replica_ended(&self, group: &GroupName, node: &NodeName) -> Option<&str> {
        self.groups.get(group)?.replicas.get(node)?.closed.as_deref()
    }

    /// Whether the service failed on `node` as often as it may.
    pub(crate) fn tired(&self, service: &ServiceName, node: &NodeName) -> Option<String> {
        let failure = self.services.get(service)?.failures.get(node)?;
        (failure.count >= FAILURES_MAX).then(|| format!("it failed {}, last: {}", times(failure.count), failure.why))
    }

    /// Whether a service runs, on a node that may act.
    #[must_use]
    pub fn is_running(&self, service: &ServiceName) -> bool {
        let assignment = self.services.get(service).and_then(|placement| placement.assignment.as_ref());
        assignment.is_some_and(|a| a.phase == Phase::Running && self.live_run(&a.node) == Some(a.run))
    }
}

impl Failure {
    /// How long the node waits before it tries again.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let doubled = 1 << self.count.saturating_sub(1).min(16);
        Duration::from_nanos(RETRY_PAUSE.as_nanos() * doubled).min(RETRY_PAUSE_MAX)
    }
}

impl Placement {
    /// Forgets what failed.
    pub(crate) fn forgive(&mut self) {
        self.failures.clear();
    }
}
