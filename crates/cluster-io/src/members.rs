//! Who takes part in the consensus: every node keeps its links to the members, the leader makes the members what the
//! state says, and hands its office to a node that serves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{ChangeMembers, RaftMetrics, ServerState, async_runtime::watch::WatchReceiver};
use tandem_base::NodeName;
use tandem_cluster::Command;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    control::{Applied, Core},
    network::Alarm,
    raft::{Peer, Types},
};

/// Between two looks at what could be better.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A follower with at most so many entries missing is taken for caught up.
const BEHIND_MAX: u64 = 16;
/// Between two tries to hand the office over, and from its beginning to the first.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);
/// How long one change of the members may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);

/// What the leader knows about the members.
struct View {
    own: u64,
    nodes: BTreeMap<u64, Peer>,
    voters: BTreeSet<u64>,
    joint: bool,
    /// Members that have almost all of the log.
    caught_up: BTreeSet<u64>,
}

/// What the leader does next about the members.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    AddLearner(u64, Peer),
    SetAddress(u64, Peer),
    SetVoters(BTreeSet<u64>),
    Remove(u64),
}

/// The next step from what is towards what the state says; `None` when they agree, or a node has to catch up first.
///
/// The voters change only to all voters of the plan, or, while some of them are missing, to a larger odd number of
/// them: two voters would stand still when either is lost.
fn next_step(view: &View, applied: &Applied) -> Option<Step> {
    let wanted: BTreeMap<u64, Peer> = applied
        .state
        .members()
        .iter()
        .map(|(node, member)| (member.raft_id, Peer { node: node.clone(), address: member.address.clone() }))
        .collect();
    for (id, peer) in &wanted {
        match view.nodes.get(id) {
            None => return Some(Step::AddLearner(*id, peer.clone())),
            Some(found) if found != peer => return Some(Step::SetAddress(*id, peer.clone())),
            Some(_) => {}
        }
    }
    let planned: BTreeSet<&NodeName> =
        applied.state.topology().nodes.iter().filter(|(_, spec)| spec.voter).map(|(name, _)| name).collect();
    let ready: BTreeSet<u64> = wanted
        .iter()
        .filter(|(id, peer)| planned.contains(&peer.node) && view.caught_up.contains(id))
        .map(|(id, _)| *id)
        .collect();
    let complete = ready.len() == planned.len() && !planned.is_empty();
    let better = ready.len() % 2 == 1 && ready.len() > view.voters.len();
    if (complete || better) && (ready != view.voters || view.joint) {
        return Some(Step::SetVoters(ready));
    }
    // A store that was replaced leaves once it does not vote any more.
    view.nodes.keys().find(|id| !wanted.contains_key(id) && !view.voters.contains(id)).map(|id| Step::Remove(*id))
}

/// How unfit a node is to lead: the witness is fittest, then who serves nothing. Leading costs the disk and the time of
/// whoever does it, and losing a site must not cost a primary and the leader at once.
fn unfitness(applied: &Applied, node: &NodeName) -> u8 {
    let serves = applied
        .state
        .groups()
        .values()
        .any(|group| group.config.primary.as_ref().is_some_and(|primary| primary.node == *node));
    let witness = applied.state.topology().nodes.get(node).is_some_and(|spec| spec.witness);
    match (witness, serves) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    }
}

/// The member that should lead instead of this one, if there is a better one that answers and has the log.
fn successor(view: &View, applied: &Applied, answers: impl Fn(u64) -> bool) -> Option<u64> {
    let own = unfitness(applied, &view.nodes.get(&view.own)?.node);
    view.voters
        .iter()
        .filter(|id| **id != view.own && view.caught_up.contains(id) && answers(**id))
        .filter_map(|id| Some((unfitness(applied, &view.nodes.get(id)?.node), *id)))
        .min()
        .filter(|(unfitness, _)| *unfitness < own)
        .map(|(_, id)| id)
}

/// Whether every node with a live session answers. A new leader waits the whole expiry time for every session: a hand-over
/// while a node is silent would let that node's services wait for as long again.
fn nobody_is_silent(view: &View, applied: &Applied, answers: impl Fn(u64) -> bool) -> bool {
    let live = |node: &NodeName| applied.state.live_run(node).is_some();
    view.nodes.iter().all(|(id, peer)| *id == view.own || !live(&peer.node) || answers(*id))
}

/// What openraft shows of the members; `own` is caught up with itself.
fn view(own: u64, metrics: &RaftMetrics<Types>) -> View {
    let members = &metrics.membership_config;
    let last = metrics.last_log_index.unwrap_or(0);
    let caught_up = metrics
        .replication
        .iter()
        .flatten()
        .filter(|(_, matched)| matched.as_ref().is_some_and(|matched| matched.index() + BEHIND_MAX >= last))
        .map(|(id, _)| *id)
        .chain([own]);
    View {
        own,
        nodes: members.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        voters: members.voter_ids().collect(),
        joint: members.get_joint_config().len() > 1,
        caught_up: caught_up.collect(),
    }
}

/// Runs until it is dropped. `leader` is told whom this node takes for the leader.
pub(crate) async fn run(core: Arc<Core>, leader: watch::Sender<Option<NodeName>>) {
    let mut metrics = core.raft.metrics();
    let mut applied = core.applied.clone();
    let mut known = BTreeMap::new();
    let mut handed_over = Instant::now();
    let mut looked = Instant::now();
    loop {
        let (leads, leading, view) = {
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader, metrics.current_leader, view(core.about.raft_id, &metrics))
        };
        let leading = leading.and_then(|id| view.nodes.get(&id)).map(|peer| peer.node.clone());
        leader.send_if_modified(|shown| {
            let changed = *shown != leading;
            *shown = leading;
            changed
        });
        // A node that is not a member yet knows nobody, and must not forget whom it was told of.
        if !view.nodes.is_empty() && view.nodes != known {
            known.clone_from(&view.nodes);
            core.links.learn(&known);
        }
        if !leads {
            handed_over = Instant::now();
        } else if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            let state = Arc::clone(&applied.borrow_and_update());
            if let Some(step) = next_step(&view, &state) {
                take(&core, step).await;
            } else if handed_over.elapsed() >= HAND_OVER_EVERY
                && nobody_is_silent(&view, &state, |id| core.links.is_answering(id))
                && let Some(to) = successor(&view, &state, |id| core.links.is_answering(id))
            {
                handed_over = Instant::now();
                tracing::info!(to = %view.nodes[&to].node, "handing the leader's office over");
                if let Err(error) = core.raft.trigger().transfer_leader(to).await {
                    tracing::warn!(%error, "the leader's office was not handed over");
                }
            }
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Writes alarms down among the cluster's events; runs until it is dropped.
pub(crate) async fn report(core: Arc<Core>, mut alarms: mpsc::UnboundedReceiver<Alarm>) {
    while let Some(Alarm { node, why }) = alarms.recv().await {
        let what = "its store is an older copy: it is not listened to until it joins again with an empty one".into();
        let note = Command::Note { node, what, why };
        // It is raised once: until a quorum has written it down it is said again.
        while let Err(error) = core.propose(note.clone(), CHANGE_WITHIN).await {
            tracing::warn!(%error, "an alarm is not written down yet");
            tokio::time::sleep(CHANGE_WITHIN).await;
        }
    }
}

async fn take(core: &Core, step: Step) {
    tracing::info!(?step, "changing the members of the consensus");
    let raft = &core.raft;
    let change = async {
        match step.clone() {
            Step::AddLearner(id, peer) => raft.add_learner(id, peer, false).await,
            Step::SetAddress(id, peer) => {
                raft.change_membership(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true).await
            }
            Step::SetVoters(voters) => raft.change_membership(voters, true).await,
            Step::Remove(id) => raft.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), true).await,
        }
    };
    match tokio::time::timeout(CHANGE_WITHIN, change).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(?step, %error, "the members were not changed"),
        Err(_) => tracing::warn!(?step, "the members were not changed within {CHANGE_WITHIN:?}"),
    }
}

#[cfg(test)]
mod tests;
