//! The register of a volume group: who may serve, who holds every acknowledged write.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};
use tandem_base::{Change, Configuration, Epoch, GroupName, NodeName, OpenId, Primary, Proposal, RunId, SessionId};

use crate::{
    Refusal, State, Subject,
    mutations::{self, Mutation},
};

/// The newest run of a replica's volume server that the log knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The run of the volume server.
    pub open: OpenId,
    /// The boot of the node that it belongs to.
    pub run: RunId,
    /// Why that run ended, once it is known to have.
    pub closed: Option<String>,
    /// Earlier runs, oldest first.
    past: VecDeque<OpenId>,
}

/// What the log says of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Group {
    /// The register itself, as the engine obeys it.
    pub config: Configuration,
    /// The newest run of every replica.
    pub replicas: BTreeMap<NodeName, Registered>,
    /// Who shall serve: where the group's service is placed. A primary elsewhere is to release.
    pub server: Option<NodeName>,
}

/// Past runs of a replica that are remembered, so that a late copy of an old `OpenReplica` is known for what it is.
const PAST_MAX: usize = 256;

impl Group {
    /// The newest run of `node`'s replica.
    #[must_use]
    pub fn registered(&self, node: &NodeName) -> Option<OpenId> {
        self.replicas.get(node).map(|registered| registered.open)
    }

    /// Whether the register has put another run of `node`'s volume server in the place of `open`. When that is the one
    /// that runs, a message of an earlier run came late and was taken for news: the volume server must be started again,
    /// since a run that is over never comes back.
    #[must_use]
    pub fn is_over(&self, node: &NodeName, open: OpenId) -> bool {
        self.replicas.get(node).is_some_and(|registered| registered.past.contains(&open))
    }

    /// Whether the group was ever served. Before that every replica is all zero, and all are alike.
    #[must_use]
    pub fn was_served(&self) -> bool {
        self.config.epoch.number > 0
    }

    /// The runs before are over, also those that were never registered: a message of theirs may still be on its way.
    fn register(&mut self, node: &NodeName, open: OpenId, run: RunId, previous: &[OpenId]) {
        let mut past = VecDeque::new();
        if let Some(before) = self.replicas.remove(node) {
            past = before.past;
            past.push_back(before.open);
        }
        for earlier in previous.iter().rev() {
            if !past.contains(earlier) {
                past.push_back(*earlier);
            }
        }
        while past.len() > PAST_MAX {
            past.pop_front();
        }
        self.replicas.insert(node.clone(), Registered { open, run, closed: None, past });
    }
}

/// The tag of an epoch that the log itself begins: SplitMix64's finalizer, so that it is as unlike others as a drawn one.
fn derived_tag(index: u64) -> u64 {
    let mut z = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl State {
    /// Whether the run `open` of `node`'s volume server is the newest, and of the boot of `node` that may act now.
    #[must_use]
    pub fn replica_live(&self, group: &GroupName, node: &NodeName, open: OpenId) -> bool {
        let registered = self.groups.get(group).and_then(|register| register.replicas.get(node));
        registered.is_some_and(|registered| {
            registered.open == open && registered.closed.is_none() && self.live_run(node) == Some(registered.run)
        })
    }

    /// Whether `node` holds every acknowledged write of the group, by a run that may act now.
    #[must_use]
    pub fn in_sync(&self, group: &GroupName, node: &NodeName) -> bool {
        let open = self.groups.get(group).and_then(|register| register.config.in_sync.get(node));
        open.is_some_and(|open| self.replica_live(group, node, *open))
    }

    pub(crate) fn open_replica(
        &mut self,
        group: &GroupName,
        node: &NodeName,
        session: SessionId,
        open: OpenId,
        previous: &[OpenId],
    ) -> Result<(), Refusal> {
        let spec = self.topology.groups.get(group).ok_or_else(|| Refusal::UnknownGroup(group.clone()))?;
        if !spec.replicas.contains(node) {
            return Err(Refusal::NotReplica { group: group.clone(), node: node.clone() });
        }
        let run = self.check_session(node, session)?;
        let index = self.applied;
        let register = self.groups.entry(group.clone()).or_default();
        let before = register.replicas.get(node);
        if let Some(before) = before {
            if before.open == open {
                let earlier = || Refusal::EarlierBoot { node: node.clone(), open };
                return if before.run == run && before.closed.is_none() { Ok(()) } else { Err(earlier()) };
            }
            if before.past.contains(&open) {
                let (group, node, registered) = (group.clone(), node.clone(), before.open);
                return Err(Refusal::OpenOver { group, node, open, registered });
            }
        }
        let registered = before.map(|before| before.open);
        let trusted = mutations::active(Mutation::TrustSwappedDisk);
        let known = registered.is_some_and(|registered| previous.contains(&registered));
        let swapped = registered.is_some() && !known && !trusted;
        let other_disk = match previous {
            [] => "its disk is new, or failed in an earlier run: nothing on it is believed",
            _ => "its disk was swapped or rolled back",
        };
        let subject = Subject::Group(group.clone(), Some(node.clone()));
        if !register.was_served() {
            register.register(node, open, run, previous);
            // Nothing was ever written, so all are alike, however often each was opened; a disk of another cluster is
            // refused by its superblock before it comes here.
            register.config.in_sync.insert(node.clone(), open);
            self.event(subject, "replica opened, in sync", "the group was never served: every replica is empty");
            return Ok(());
        }
        if !register.config.in_sync.contains_key(node) {
            register.register(node, open, run, previous);
            let why = if swapped { other_disk } else { "it was not in sync before" };
            self.event(subject, "replica opened, needs resync", why);
            return Ok(());
        }
        let keep = register.config.in_sync.len() == 1 || mutations::active(Mutation::KeepMemberWithNewOpen);
        if keep && swapped {
            let registered = registered.unwrap_or(open);
            let previous = previous.first().copied();
            let refusal = Refusal::WrongDisk { group: group.clone(), node: node.clone(), registered, previous };
            self.event_once(subject, "replica refused, the group cannot be served", &refusal.to_string());
            return Err(refusal);
        }
        register.register(node, open, run, previous);
        if keep {
            register.config.in_sync.insert(node.clone(), open);
        } else {
            register.config.in_sync.remove(node);
        }
        let was_primary = register.config.primary.as_ref().is_some_and(|primary| primary.node == *node);
        if was_primary {
            register.config.primary = None;
        }
        register.config.epoch = Epoch { number: register.config.epoch.number + 1, tag: derived_tag(index) };
        let what = if keep { "replica opened again, in sync" } else { "replica opened again, needs resync" };
        let why = match (keep, swapped, was_primary) {
            (true, ..) => "it is the last that holds every acknowledged write",
            (false, true, _) => other_disk,
            (false, false, true) => "its volume server restarted while it was primary",
            (false, false, false) => "its volume server restarted",
        };
        self.event(subject, what, why);
        if keep && let Some(service) = self.topology.service_of(group).cloned() {
            // Nobody else can run it, and somebody has looked after the disk: what failed on the run before is no reason to
            // leave it down.
            self.services.entry(service).or_default().failures.remove(node);
        }
        Ok(())
    }

    pub(crate) fn close_replica(
        &mut self,
        group: &GroupName,
        node: &NodeName,
        session: SessionId,
        open: OpenId,
        why: &str,
    ) -> Result<(), Refusal> {
        self.check_session(node, session)?;
        let index = self.applied;
        let register = self.groups.get_mut(group).ok_or_else(|| Refusal::UnknownGroup(group.clone()))?;
        let not_replica = || Refusal::NotReplica { group: group.clone(), node: node.clone() };
        let registered = register.replicas.get_mut(node).ok_or_else(not_replica)?;
        if registered.open != open {
            let (group, node, registered) = (group.clone(), node.clone(), registered.open);
            return Err(Refusal::OpenOver { group, node, open, registered });
        }
        if registered.closed.is_some() {
            return Ok(());
        }
        registered.closed = Some(why.into());
        let subject = Subject::Group(group.clone(), Some(node.clone()));
        let served = register.was_served();
        let config = &mut register.config;
        let leaves = served && config.in_sync.len() > 1 && config.in_sync.remove(node).is_some();
        let was_primary = config.primary.as_ref().is_some_and(|primary| primary.node == *node);
        if was_primary {
            config.primary = None;
        }
        if leaves || was_primary {
            config.epoch = Epoch { number: config.epoch.number + 1, tag: derived_tag(index) };
        }
        self.event(subject, if leaves { "replica ended, needs resync" } else { "replica ended" }, why);
        Ok(())
    }

    /// The run of `node`, if `session` is live.
    fn check_session(&self, node: &NodeName, session: SessionId) -> Result<RunId, Refusal> {
        let newest = self.sessions.get(node).ok_or_else(|| Refusal::NoSession(node.clone()))?;
        if newest.session != session {
            return Err(Refusal::SessionOver { node: node.clone(), session });
        }
        self.live_run(node).ok_or_else(|| Refusal::NoSession(node.clone()))
    }

    pub(crate) fn propose(&mut self, group: &GroupName, proposal: &Proposal) -> Result<(), Refusal> {
        let register = self.groups.get(group).ok_or_else(|| Refusal::UnknownGroup(group.clone()))?;
        let config = &register.config;
        if config.epoch == proposal.result() {
            return Ok(()); // It was this proposal that made the epoch: a copy of it.
        }
        if config.epoch != proposal.expected && !mutations::active(Mutation::IgnoreExpectedEpoch) {
            let (current, expected) = (config.epoch, proposal.expected);
            return Err(Refusal::EpochChanged { group: group.clone(), current, expected });
        }
        let changed = self.changed(group, register, proposal)?;
        let epoch = Epoch { number: config.epoch.number.max(proposal.expected.number) + 1, tag: proposal.tag };
        let (subject, what, why) = self.story(group, config, proposal, &changed);
        let register = self.groups.entry(group.clone()).or_default();
        register.config = Configuration { epoch, ..changed };
        self.event(subject, &what, why);
        Ok(())
    }

    /// The configuration that `proposal` leads to, its epoch aside.
    fn changed(&self, group: &GroupName, register: &Group, proposal: &Proposal) -> Result<Configuration, Refusal> {
        let Proposal { node, open, change, .. } = proposal;
        let mut next = register.config.clone();
        if matches!(change, Change::Release) {
            // A release only gives up a right, so it needs no session.
            self.check_primary(group, register, proposal)?;
            next.primary = None;
            return Ok(next);
        }
        if self.live_run(node).is_none() {
            return Err(Refusal::NoSession(node.clone()));
        }
        if register.registered(node) == Some(*open) && !self.replica_live(group, node, *open) {
            return Err(Refusal::EarlierBoot { node: node.clone(), open: *open });
        }
        match change {
            Change::Promote => {
                if !register.config.is_member(node, *open) || !self.replica_live(group, node, *open) {
                    return Err(Refusal::NotInSync { group: group.clone(), node: node.clone(), open: *open });
                }
                if let Some(primary) = &register.config.primary {
                    let live = self.replica_live(group, &primary.node, primary.open);
                    if live && !mutations::active(Mutation::PromoteWithoutWaitingForSession) {
                        return Err(Refusal::PrimaryLive { group: group.clone(), primary: primary.node.clone() });
                    }
                }
                // A wish from before the placement moved on must not take the group from whom it is placed on.
                if register.server.as_ref() != Some(node) {
                    return Err(Refusal::NotPlaced { group: group.clone(), node: node.clone() });
                }
                next.in_sync.retain(|member, open| self.replica_live(group, member, *open));
                next.primary = Some(Primary { node: node.clone(), open: *open, promotion: proposal.result() });
            }
            Change::Shrink(names) => {
                self.check_primary(group, register, proposal)?;
                if names.contains(node) {
                    return Err(Refusal::PrimaryStays(node.clone()));
                }
                next.in_sync.retain(|member, _| !names.contains(member));
            }
            Change::Grow { node: joiner, open: joined } => {
                self.check_primary(group, register, proposal)?;
                if !self.replica_live(group, joiner, *joined) {
                    return Err(match register.registered(joiner) {
                        Some(registered) if registered != *joined => {
                            let (group, node, open) = (group.clone(), joiner.clone(), *joined);
                            Refusal::OpenOver { group, node, open, registered }
                        }
                        None => Refusal::NotReplica { group: group.clone(), node: joiner.clone() },
                        Some(_) => Refusal::NoSession(joiner.clone()),
                    });
                }
                next.in_sync.insert(joiner.clone(), *joined);
            }
            Change::Release => unreachable!("handled above"),
        }
        Ok(next)
    }

    fn check_primary(&self, group: &GroupName, register: &Group, proposal: &Proposal) -> Result<(), Refusal> {
        let Proposal { node, open, .. } = proposal;
        if register.config.is_primary(node, *open) {
            return Ok(());
        }
        Err(Refusal::NotPrimary { group: group.clone(), node: node.clone(), open: *open })
    }

    /// The event that a change deserves.
    fn story(
        &self,
        group: &GroupName,
        before: &Configuration,
        proposal: &Proposal,
        after: &Configuration,
    ) -> (Subject, String, String) {
        let epoch = proposal.result();
        let node = &proposal.node;
        let names = |config: &Configuration| list(config.in_sync.keys());
        let (about, what, why) = match &proposal.change {
            Change::Promote => {
                let why = match &before.primary {
                    Some(old) if old.node == *node => format!("{node}'s volume server restarted"),
                    Some(old) => format!("{} is fenced: its session is over", old.node),
                    None => String::from("nobody served it"),
                };
                (node, format!("{node} became primary"), format!("{why}; epoch {epoch}, in sync: {}", names(after)))
            }
            Change::Shrink(_) => {
                let gone: Vec<&NodeName> = before.in_sync.keys().filter(|n| !after.in_sync.contains_key(*n)).collect();
                let what = match gone.is_empty() {
                    true => String::from("in-sync set confirmed"),
                    false => format!("{} left the in-sync set", list(gone.iter().copied())),
                };
                (gone.first().copied().unwrap_or(node), what, format!("{node} goes on as primary; epoch {epoch}"))
            }
            Change::Grow { node: joiner, .. } => {
                (joiner, format!("{joiner} is in sync"), format!("it holds every acknowledged write; epoch {epoch}"))
            }
            Change::Release => {
                (node, format!("{node} released the group"), format!("flushed everywhere; epoch {epoch}"))
            }
        };
        (Subject::Group(group.clone(), Some(about.clone())), what, why)
    }
}

/// `a, b and c`; `nobody` for none.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a NodeName>) -> String {
    let names: Vec<&str> = names.map(NodeName::as_str).collect();
    match names.split_last() {
        None => String::from("nobody"),
        Some((last, [])) => String::from(*last),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
