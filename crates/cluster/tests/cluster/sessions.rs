//! Sessions, admission, plans, and what comes twice.

use tandem_base::{ClusterId, NodeName, RunId, SessionId};
use tandem_cluster::{Admission, Command, Entry, Outcome, Refusal, State, Topology, TopologyError};

use crate::world::{World, duo, group, named, node, service};

fn open(session: u64, run: u64) -> Command {
    Command::OpenSession { node: node("r1"), run: RunId(run), session: SessionId(session) }
}

#[test]
fn nothing_is_done_before_the_cluster_is_founded() {
    let mut state = State::default();
    let entry = Entry { at_ms: 0, by: node("r1"), id: 1, command: open(1, 1) };
    assert_eq!(state.apply(1, &entry), Outcome::Refused(Refusal::NotFounded));
    assert_eq!(state.cluster(), None);
}

#[test]
fn a_second_founding_is_refused_and_the_same_one_is_harmless() {
    let mut world = World::new(duo());
    let Command::Found { plan, topology, ca, first, token_digest, .. } = world.log[0].1.command.clone() else {
        panic!("a log begins with it")
    };
    let again = |cluster| Command::Found {
        cluster,
        plan: plan.clone(),
        topology: topology.clone(),
        ca: ca.clone(),
        first: first.clone(),
        token_digest: token_digest.clone(),
    };
    world.done(again(ClusterId(7)));
    world.refused(again(ClusterId(8)), "already belongs");
    assert_eq!(world.state.plan_revision(), 1);
    assert_eq!(world.state.token_digest(), Some("digest"));
    assert!(!format!("{:?}", world.state).contains("key_pem"), "the private key is never printed");
}

#[test]
fn a_stranger_gets_no_session_and_a_used_consensus_id_does_not_come_back() {
    let mut world = World::new(duo());
    let open = |name: &str| Command::OpenSession { node: node(name), run: RunId(1), session: SessionId(1) };
    world.refused(open("x9"), "no node `x9`");
    let admit =
        |raft_id, address: &str| Command::Admit(Admission { node: node("h1"), address: address.into(), raft_id });
    world.done(admit(2, "h1:7400"));
    world.done(admit(4, "h1:7400"));
    world.refused(admit(2, "h1:7400"), "used before");
    world.refused(admit(1, "h1:7400"), "used before");
    world.done(admit(4, "10.2.0.12:7400"));
    assert_eq!(world.state.members()[&node("h1")].address, "10.2.0.12:7400");
    assert_eq!(world.state.members()[&node("h1")].raft_id, 4);
}

#[test]
fn an_agent_that_restarts_replaces_its_session_and_another_run_waits() {
    let mut world = World::new(duo());
    world.session("r1", 1, 1);
    world.session("r1", 1, 1);
    world.session("r1", 1, 2);
    world.refused(open(3, 9), "a second live run of r1");
    world.refused(open(2, 9), "a second live run of r1");
    world.refused(open(1, 1), "never comes back");
    assert!(world.told("a second live run was refused"));
    world.expire("r1");
    world.session("r1", 9, 3);
    assert_eq!(world.state.live_run(&node("r1")), Some(RunId(9)));
}

#[test]
fn an_expired_session_never_comes_back() {
    let mut world = World::new(duo());
    world.session("r1", 1, 1);
    world.expire("r1");
    world.expire("r1");
    assert_eq!(world.state.live_run(&node("r1")), None);
    world.refused(open(1, 1), "never comes back");
    world.session("r1", 1, 2);
    let late = Command::ExpireSession { node: node("r1"), session: SessionId(1), why: "late".into() };
    world.refused(late, "never comes back");
    assert_eq!(world.state.live_run(&node("r1")), Some(RunId(1)), "a late expiry of the old session changes nothing");
}

#[test]
fn a_plan_is_adopted_once_and_only_over_the_one_that_was_seen() {
    let mut world = World::running();
    let adopt =
        |revision, topology: Topology| Command::AdoptPlan { revision, plan: "b".into(), topology: topology.into() };
    world.done(adopt(1, duo()));
    world.refused(adopt(1, duo()), "revision 2, not 1");
    let mut circle = duo();
    circle.services.get_mut(&service()).expect("there").after = [service()].into();
    assert_eq!(circle.check(), Err(TopologyError::Circle(service())));
    world.refused(adopt(2, circle), "waits for itself");
    let mut shared = duo();
    let spec = shared.services[&service()].clone();
    shared.services.insert(named("mail"), spec);
    world.refused(adopt(2, shared), "moves with one service");
    let mut without = duo();
    without.groups.clear();
    world.refused(adopt(2, without.clone()), "does not declare");
    without.services.clear();
    world.done(adopt(2, without));
    assert_eq!(world.place(), "nowhere");
    assert!(world.intents("r1").services.is_empty() && world.intents("r1").replicas.is_empty());
    let epoch = world.config().epoch;
    assert!(epoch.number > 0, "a register outlives its place in the plan");
    world.done(adopt(3, duo()));
    assert_eq!(world.config().epoch, epoch);
    assert!(world.state.group(&group()).is_some());
}

#[test]
fn an_entry_that_comes_twice_is_answered_as_the_first_time() {
    let mut world = World::running();
    let entry = Entry { at_ms: 5, by: node("h1"), id: 77, command: world.move_to("h1") };
    assert!(world.append(entry.clone()).is_done());
    world.stopped("r1");
    world.change("r1", 11, tandem_base::Change::Release).into_result().expect("it is primary");
    world.promote("h1", 21).into_result().expect("released");
    world.started("h1");
    world.done(world.move_to("r1"));
    let before = world.place();
    assert_eq!(before, "h1 stopping to r1");
    assert!(world.append(entry).is_done(), "the first outcome again");
    assert_eq!(world.place(), before, "and nothing done");
}

#[test]
fn the_journal_is_bounded_and_in_order() {
    let mut world = World::new(duo());
    for number in 0..2_500u32 {
        world.done(Command::Note { node: node("r1"), what: format!("note {number}"), why: String::new() });
    }
    let events: Vec<_> = world.state.events().iter().collect();
    assert_eq!(events.len(), tandem_cluster::Events::MAX);
    assert_eq!(events.last().expect("full").what, "note 2499");
    let last = events.last().expect("full").index;
    assert_eq!(world.state.events().after(last - 3).count(), 3);
    assert!(events.is_sorted_by_key(|event| event.index));
    let _: Vec<NodeName> = world.state.live_sessions().map(|session| session.node).collect();
}
