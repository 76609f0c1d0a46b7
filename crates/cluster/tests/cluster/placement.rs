//! Where services run, and what nodes are told to do.

use tandem_base::{Change, OpenId, SiteName};
use tandem_cluster::{
    Command, Failback, ServiceIntent, ServiceSpec, explain,
    placement::{self, FAILURES_MAX},
};

use crate::world::{World, duo, group, named, node, service};

#[test]
fn a_service_starts_at_its_preferred_site() {
    let mut world = World::new(duo());
    world.up();
    assert_eq!(world.place(), "r1 running");
    assert!(world.why().contains("preferred site rouans"), "{}", world.why());
    assert!(world.runs("r1") && !world.runs("h1"));
    assert!(world.intents("r1").serve.contains(&group()) && world.intents("h1").serve.is_empty());
    assert!(world.intents("h1").replicas.contains(&group()));
    assert_eq!(world.intents("w1"), tandem_cluster::Intents::default());
    assert!(placement::decide(&world.state).is_empty(), "everything decided is carried out");
}

#[test]
fn a_lost_node_is_followed_at_once() {
    let mut world = World::running();
    let before = world.placement(&service());
    world.expire("r1");
    assert_eq!(world.place(), "h1 starting");
    assert_eq!(world.placement(&service()), before + 1);
    assert_eq!(world.why(), "session of r1 expired");
    assert!(world.told("failover to h1"));
    assert!(world.intents("h1").serve.contains(&group()));
    assert!(world.intents("r1").release.contains(&group()), "if r1 is heard again, it gives the group up");
    world.promote("h1", 21).into_result().expect("fenced");
    world.started("h1");
    // Back again, in sync again: it stays where it is.
    world.session("r1", 12, 12);
    world.open("r1", 12, 12, Some(11)).into_result().expect("registered");
    let join = Change::Grow { node: node("r1"), open: tandem_base::OpenId(12) };
    world.change("h1", 21, join).into_result().expect("resynced");
    assert_eq!(world.place(), "h1 running");
    assert!(matches!(world.intents("r1").services[&service()], ServiceIntent::Stop { placement: None, .. }));
}

#[test]
fn without_an_in_sync_replica_it_waits_for_the_lost_node() {
    let mut world = World::running();
    world.change("r1", 11, Change::Shrink([node("h1")].into())).into_result().expect("primary");
    let placement = world.placement(&service());
    world.expire("r1");
    assert_eq!(world.place(), "r1 running");
    let stranded = world.state.service(&service()).expect("there").stranded.clone().expect("nobody else can");
    assert_eq!(
        stranded,
        "session of r1 expired; nobody can run it: h1: its replica is not in sync; r1: it has no live session"
    );
    assert!(world.told("cannot fail over"));
    assert!(!world.state.is_running(&service()));
    // The same boot is heard again: the promotion is current, it goes on where it stopped.
    world.session("r1", 11, 12);
    assert_eq!((world.place().as_str(), world.placement(&service())), ("r1 running", placement));
    assert!(world.state.is_running(&service()));
    assert_eq!(world.state.service(&service()).expect("there").stranded, None, "and no reason of yesterday is shown");
    assert!(world.told("goes on, r1 is heard again"));
    // Another boot: it starts anew, once its volume server runs.
    world.expire("r1");
    world.session("r1", 12, 13);
    assert_eq!(world.place(), "nowhere");
    world.open("r1", 13, 12, Some(11)).into_result().expect("its own disk");
    assert_eq!(world.place(), "r1 starting");
    assert!(world.placement(&service()) > placement);
}

#[test]
fn a_move_stops_releases_and_starts() {
    let mut world = World::running();
    world.done(world.move_to("h1"));
    assert_eq!(world.place(), "r1 stopping to h1");
    let number = world.placement(&service());
    let intents = world.intents("r1");
    assert!(matches!(&intents.services[&service()], ServiceIntent::Stop { placement: Some(p), .. } if *p == number));
    assert!(
        intents.serve.contains(&group()) && intents.release.is_empty(),
        "the data stays until the service has stopped"
    );
    world.stopped("r1");
    assert_eq!(world.place(), "r1 releasing to h1");
    let intents = world.intents("r1");
    assert!(intents.serve.is_empty() && intents.release.contains(&group()));
    assert!(!world.runs("h1"));
    world.stopped("r1");
    world.change("r1", 11, Change::Release).into_result().expect("primary");
    assert_eq!(world.place(), "h1 starting");
    assert_eq!(world.why(), "anna moves it to h1");
    world.promote("h1", 21).into_result().expect("released");
    world.started("h1");
    assert_eq!(world.place(), "h1 running");
    let over = Command::ServiceStopped { service: service(), node: node("r1"), placement: number };
    world.refused(over, "not placed on r1");
}

#[test]
fn if_the_target_fails_the_source_takes_back() {
    let mut world = World::running();
    world.done(world.move_to("h1"));
    world.stopped("r1");
    world.change("r1", 11, Change::Release).into_result().expect("primary");
    world.promote("h1", 21).into_result().expect("released");
    world.failed("h1");
    assert_eq!(world.place(), "r1 starting");
    assert!(world.why().contains("failed on h1: it did not start"), "{}", world.why());
    assert!(world.intents("h1").release.contains(&group()));
    world.change("h1", 21, Change::Release).into_result().expect("primary");
    world.promote("r1", 11).into_result().expect("released");
    world.started("r1");
    assert_eq!(world.place(), "r1 running");
}

#[test]
fn a_target_that_is_lost_meanwhile_is_not_waited_for() {
    let mut world = World::running();
    world.done(world.move_to("h1"));
    world.stopped("r1");
    world.expire("h1");
    assert_eq!(world.place(), "r1 starting", "the source takes back what it has not released yet");
    let mut world = World::running();
    world.done(world.move_to("h1"));
    world.expire("r1");
    assert_eq!(world.place(), "h1 starting", "a lost source needs not be waited for");
}

#[test]
fn it_fails_everywhere_a_bounded_number_of_times() {
    let mut world = World::running();
    let mut pauses = Vec::new();
    for at in ["r1", "h1"].repeat(FAILURES_MAX as usize) {
        assert!(world.place().starts_with(at), "{} instead of {at}", world.place());
        let ServiceIntent::Run { pause, .. } = world.intents(at).services[&service()] else {
            panic!("it is placed there")
        };
        pauses.push(pause.as_secs());
        world.failed(at);
    }
    assert_eq!(pauses, [0, 0, 5, 5, 10, 10, 20, 20, 40, 40], "a trouble of a minute needs no person");
    assert_eq!(world.place(), "nowhere");
    let why = "failed on every node, 5 times on h1 and 5 times on r1, last: it did not start; once that is mended, `tandem \
               move ledger --to h1`";
    assert_eq!(world.why(), why);
    world.expire("h1");
    world.session("h1", 21, 22);
    assert_eq!(world.place(), "nowhere");
    world.done(world.move_to("r1"));
    assert_eq!(world.place(), "r1 starting");
    assert_eq!(world.why(), "somebody moved it to r1");
}

/// Both would wait for ever: one for a person, the other for somebody who brings it in sync.
#[test]
fn the_last_replica_in_sync_tries_again_until_another_one_can() {
    let mut world = World::running();
    world.open("h1", 21, 22, Some(21)).into_result().expect("out of sync now");
    for _ in 0..FAILURES_MAX + 2 {
        world.failed("r1");
        assert_eq!(world.place(), "r1 starting");
    }
    world.change("r1", 11, Change::Grow { node: node("h1"), open: OpenId(22) }).into_result().expect("primary");
    world.failed("r1");
    assert_eq!(world.place(), "h1 starting");
    // Whoever could be brought in sync failed as often, or does not run: nothing is gained by another try.
    for _ in 0..FAILURES_MAX {
        assert_eq!(world.place(), "h1 starting");
        world.failed("h1");
    }
    assert_eq!(world.place(), "nowhere");
    let mut world = World::running();
    world.open("h1", 21, 22, Some(21)).into_result().expect("out of sync now");
    world.expire("h1");
    for _ in 0..FAILURES_MAX {
        assert!(world.place().starts_with("r1"), "{}", world.place());
        world.failed("r1");
    }
    assert_eq!(world.place(), "nowhere");
    world.session("h1", 21, 23);
    assert_eq!(world.place(), "r1 starting");
}

#[test]
fn a_steady_service_is_forgiven() {
    let mut world = World::running();
    world.failed("r1");
    assert_eq!(world.place(), "h1 starting");
    world.started("h1");
    assert!(!world.state.service(&service()).expect("there").failures.is_empty());
    let placement = world.placement(&service());
    world.done(Command::ServiceSteady { service: service(), node: node("h1"), placement });
    assert!(world.state.service(&service()).expect("there").failures.is_empty());
}

#[test]
fn a_move_that_cannot_work_is_refused_with_the_reason() {
    let mut world = World::running();
    world.refused(world.move_to("w1"), "the plan does not let it run there");
    world.refused(world.move_to("x9"), "no node `x9`");
    world.done(world.move_to("r1"));
    assert_eq!(world.place(), "r1 running");
    world.change("r1", 11, Change::Shrink([node("h1")].into())).into_result().expect("primary");
    world.refused(world.move_to("h1"), "not in sync");
    world.expire("h1");
    world.refused(world.move_to("h1"), "no live session");
    world.done(Command::SetPaused { on: true });
    world.refused(world.move_to("r1"), "paused");
}

#[test]
fn maintenance_moves_away_and_back_only_when_asked() {
    let mut world = World::running();
    world.done(Command::SetMaintenance { node: node("r1"), on: true });
    assert_eq!(world.place(), "r1 stopping to h1");
    world.stopped("r1");
    world.change("r1", 11, Change::Release).into_result().expect("primary");
    assert_eq!(world.place(), "h1 starting");
    world.refused(world.move_to("r1"), "in maintenance");
    world.promote("h1", 21).into_result().expect("released");
    // It fails on the only other node, as often as it may: a node in maintenance does not take it back by itself.
    for _ in 0..FAILURES_MAX {
        assert_eq!(world.place(), "h1 starting");
        world.failed("h1");
    }
    assert_eq!(world.place(), "nowhere");
    world.done(Command::SetMaintenance { node: node("r1"), on: false });
    assert_eq!(world.place(), "r1 starting");
    // With nobody else to go to, it stays.
    world.expire("h1");
    world.done(Command::SetMaintenance { node: node("r1"), on: true });
    assert_eq!(world.place(), "r1 starting");
}

#[test]
fn paused_decides_nothing_new() {
    let mut world = World::running();
    world.done(Command::SetPaused { on: true });
    world.expire("r1");
    assert_eq!(world.place(), "r1 running");
    world.done(Command::SetPaused { on: false });
    assert_eq!(world.place(), "h1 starting");
}

#[test]
fn failback_goes_home_by_itself_unless_a_person_moved_it() {
    let mut topology = duo();
    topology.services.get_mut(&service()).expect("there").failback = Failback::Auto;
    let mut world = World::new(topology);
    world.up();
    world.expire("r1");
    world.promote("h1", 21).into_result().expect("fenced");
    world.started("h1");
    world.session("r1", 12, 12);
    world.open("r1", 12, 12, Some(11)).into_result().expect("registered");
    assert_eq!(world.place(), "h1 running");
    let join = Change::Grow { node: node("r1"), open: tandem_base::OpenId(12) };
    world.change("h1", 21, join).into_result().expect("resynced");
    assert_eq!(world.place(), "h1 stopping to r1");
    assert!(world.why().starts_with("failback: r1"), "{}", world.why());
    world.stopped("h1");
    world.change("h1", 21, Change::Release).into_result().expect("primary");
    world.promote("r1", 12).into_result().expect("released");
    world.started("r1");
    world.done(world.move_to("h1"));
    world.stopped("r1");
    world.change("r1", 12, Change::Release).into_result().expect("primary");
    world.promote("h1", 21).into_result().expect("released");
    world.started("h1");
    assert_eq!(world.place(), "h1 running", "anna wanted it there");
}

#[test]
fn a_service_waits_for_those_before_it() {
    let mut topology = duo();
    let dns = ServiceSpec { candidates: [node("r1"), node("h1"), node("w1")].into(), ..ServiceSpec::default() };
    topology.services.insert(named("dns"), dns);
    topology.services.get_mut(&service()).expect("there").after = [named("dns")].into();
    let mut world = World::new(topology);
    for (name, id) in [("r1", 11), ("h1", 21)] {
        world.session(name, id, id);
        world.open(name, id, id, None).into_result().expect("fresh");
    }
    assert_eq!(world.place(), "nowhere");
    assert_eq!(world.why(), "waits for `dns`");
    let at = world.state.service(&named("dns")).and_then(|it| it.assignment.clone()).expect("sessions suffice");
    world.done(Command::ServiceStarted { service: named("dns"), node: at.node, placement: at.placement });
    assert_eq!(world.place(), "r1 starting");
}

#[test]
fn services_without_a_preference_are_spread() {
    let mut topology = duo();
    topology.services.clear();
    for name in ["a", "b", "c", "d"] {
        let spec = ServiceSpec { candidates: [node("r1"), node("h1")].into(), ..ServiceSpec::default() };
        topology.services.insert(named(name), spec);
    }
    let mut world = World::new(topology);
    world.done(Command::SetPaused { on: true });
    world.session("r1", 1, 1);
    world.session("h1", 2, 2);
    world.done(Command::SetPaused { on: false });
    let places = ["a", "b", "c", "d"].map(|name| world.place_of(&named(name)));
    assert_eq!(places, ["h1 starting", "r1 starting", "h1 starting", "r1 starting"]);
    // A group without a service is served by somebody, for people and tools.
    world.open("r1", 1, 11, None).into_result().expect("fresh");
    world.open("h1", 2, 21, None).into_result().expect("fresh");
    assert!(world.intents("h1").serve.contains(&group()));
    world.promote("h1", 21).into_result().expect("nobody serves");
    world.expire("h1");
    assert!(world.intents("r1").serve.contains(&group()));
    world.session("h1", 2, 3);
    assert!(world.intents("h1").serve.contains(&group()), "nobody took over meanwhile: the primary keeps it");
}

#[test]
fn an_explanation_names_the_cause() {
    let mut world = World::running();
    world.expire("r1");
    let lines = explain(&world.state, &service());
    assert_eq!(lines[0], "`ledger` starts on h1: session of r1 expired");
    assert!(lines.iter().any(|line| line == "r1 could not run it: it has no live session"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("in sync h1 and r1")), "{lines:?}");
    assert!(explain(&world.state, &named("none")).is_empty());
    let _: SiteName = SiteName::new("rouans").expect("a name");
}
