//! The group register: who may change it, and how.

use tandem_base::{Change, Epoch, OpenId};
use tandem_cluster::{Command, Outcome, Refusal};

use crate::world::{World, duo, group, node};

fn shrink(name: &str) -> Change {
    Change::Shrink([node(name)].into())
}

fn grow(name: &str, open: u64) -> Change {
    Change::Grow { node: node(name), open: OpenId(open) }
}

#[test]
fn fresh_replicas_are_in_sync_without_copying() {
    let mut world = World::new(duo());
    world.session("r1", 11, 11);
    world.session("h1", 21, 21);
    world.open("r1", 11, 11, None).into_result().expect("fresh");
    assert_eq!(world.in_sync(), ["r1"]);
    assert_eq!(world.place(), "nowhere", "the first promotion waits for the replica of a node that is there");
    assert!(world.why().contains("waits for the replica on h1"), "{}", world.why());
    world.open("h1", 21, 21, None).into_result().expect("fresh");
    world.open("h1", 21, 22, Some(21)).into_result().expect("opened again, still empty");
    assert_eq!(world.in_sync(), ["h1", "r1"]);
    assert_eq!(world.config().epoch, Epoch::default());
    assert_eq!(world.place(), "r1 starting");
    world.refused(world.open_command("w1", 31, 31, None), "holds no replica");
}

#[test]
fn a_replica_that_was_opened_in_vain_before_the_first_service_is_still_empty() {
    let mut world = World::new(duo());
    world.session("r1", 11, 11);
    world.open("r1", 11, 12, Some(5)).into_result().expect("the run before was never registered");
    assert_eq!(world.in_sync(), ["r1"]);
}

#[test]
fn a_promotion_makes_an_epoch_and_keeps_the_live_members() {
    let mut world = World::new(duo());
    world.up();
    assert_eq!(world.primary().as_deref(), Some("r1"));
    assert_eq!(world.in_sync(), ["h1", "r1"]);
    assert_eq!(world.config().epoch.number, 1);
    assert_eq!(world.config().primary.expect("r1").promotion, world.config().epoch);

    world.expire("r1");
    world.promote("h1", 21).into_result().expect("r1 is fenced");
    assert_eq!(world.in_sync(), ["h1"], "a member without a session is dropped");
}

#[test]
fn nobody_becomes_primary_beside_a_live_one() {
    let mut world = World::running();
    let command = world.proposal("h1", 21, Change::Promote);
    world.refused(command, "neither released it nor lost its session");
    let command = world.proposal("r1", 11, Change::Promote);
    world.refused(command, "neither released it");
    // The agent restarts, its volume server goes on: the primary stays one.
    world.session("r1", 11, 12);
    let command = world.proposal("h1", 21, Change::Promote);
    world.refused(command, "neither released it");
    // The session expires and the same boot is heard again before anybody promoted: the promotion is still current.
    world.expire("r1");
    world.session("r1", 11, 13);
    let command = world.proposal("h1", 21, Change::Promote);
    world.refused(command, "neither released it");
    // Another boot: the old volume server is gone.
    world.expire("r1");
    world.session("r1", 12, 14);
    world.promote("h1", 21).into_result().expect("the primary's boot is over");
    assert_eq!(world.in_sync(), ["h1"], "the member of the old boot is dropped though its node is live");
}

#[test]
fn a_node_that_the_group_is_not_placed_on_does_not_take_it() {
    let mut world = World::running();
    world.done(world.move_to("h1"));
    world.stopped("r1");
    let late = world.proposal("r1", 11, Change::Promote);
    world.change("r1", 11, Change::Release).into_result().expect("primary");
    world.refused(late, "is in epoch 2");
    let command = world.proposal("r1", 11, Change::Promote);
    world.refused(command, "not placed on r1");
    world.promote("h1", 21).into_result().expect("placed here");
}

#[test]
fn only_a_live_member_becomes_primary() {
    let mut world = World::running();
    world.change("r1", 11, shrink("h1")).into_result().expect("r1 is primary");
    assert_eq!(world.in_sync(), ["r1"]);
    world.expire("r1");
    let command = world.proposal("h1", 21, Change::Promote);
    world.refused(command, "not in sync");
    let command = world.proposal("r1", 11, Change::Promote);
    world.refused(command, "no live session");
    let command = world.proposal("w1", 11, Change::Promote);
    world.refused(command, "not in sync");
}

#[test]
fn the_compare_and_set_decides_between_two_proposals() {
    let mut world = World::running();
    let first = world.proposal("r1", 11, shrink("h1"));
    let second = world.proposal("r1", 11, Change::Shrink([].into()));
    world.done(second.clone());
    assert_eq!(world.in_sync(), ["h1", "r1"], "an empty shrink only kills the others");
    world.refused(first, "is in epoch 2");
    world.done(second);
    assert_eq!(world.config().epoch.number, 2, "a copy of the newest change is done, and changes nothing");
}

#[test]
fn shrink_and_grow_belong_to_the_primary() {
    let mut world = World::running();
    let command = world.proposal("h1", 21, shrink("r1"));
    world.refused(command, "not the primary");
    let command = world.proposal("r1", 10, shrink("h1"));
    world.refused(command, "not the primary");
    let command = world.proposal("r1", 11, shrink("r1"));
    world.refused(command, "hands over first");
    let both = Change::Shrink([node("h1"), node("w1")].into());
    world.change("r1", 11, both).into_result().expect("names that are no members are ignored");
    assert_eq!(world.in_sync(), ["r1"]);
    let command = world.proposal("h1", 21, grow("h1", 21));
    world.refused(command, "not the primary");
    let command = world.proposal("r1", 11, grow("h1", 20));
    world.refused(command, "came after it");
    let command = world.proposal("r1", 11, grow("w1", 20));
    world.refused(command, "holds no replica");
    world.expire("h1");
    let command = world.proposal("r1", 11, grow("h1", 21));
    world.refused(command, "no live session");
    world.session("h1", 21, 22);
    world.change("r1", 11, grow("h1", 21)).into_result().expect("live again");
    assert_eq!(world.in_sync(), ["h1", "r1"]);
    world.expire("r1");
    let command = world.proposal("r1", 11, shrink("h1"));
    world.refused(command, "no live session");
}

#[test]
fn a_release_needs_no_session_and_frees_the_group() {
    let mut world = World::running();
    world.expire("r1");
    world.change("r1", 11, Change::Release).into_result().expect("it only gives up a right");
    assert_eq!(world.primary(), None);
    assert_eq!(world.in_sync(), ["h1", "r1"]);
    let command = world.proposal("r1", 11, Change::Release);
    world.refused(command, "not the primary");
}

#[test]
fn a_restarted_member_is_out_of_sync_while_others_remain() {
    let mut world = World::running();
    world.open("h1", 21, 22, Some(21)).into_result().expect("registered");
    assert_eq!(world.in_sync(), ["r1"]);
    let epoch = world.config().epoch;
    assert_eq!(epoch.number, 2);
    assert_ne!(epoch.tag, 0);
    assert_eq!(world.primary().as_deref(), Some("r1"));
    let late = world.open_command("h1", 21, 21, None);
    world.refused(late, "came after it");
    world.done(world.open_command("h1", 21, 22, Some(21)));
    assert_eq!(world.config().epoch, epoch);
    world.change("r1", 11, grow("h1", 22)).into_result().expect("resynced");
    assert_eq!(world.in_sync(), ["h1", "r1"]);
}

#[test]
fn a_restarted_primary_is_primary_no_more() {
    let mut world = World::running();
    world.open("r1", 11, 12, Some(11)).into_result().expect("registered");
    assert_eq!((world.primary(), world.in_sync()), (None, vec!["h1".into()]));
    assert_eq!(world.place(), "r1 stopping to h1");
    let command = world.proposal("r1", 12, Change::Promote);
    world.refused(command, "not in sync");
}

#[test]
fn the_last_member_stays_with_its_own_disk_only() {
    let mut world = World::running();
    world.change("r1", 11, shrink("h1")).into_result().expect("r1 is primary");
    let wrong = world.open_command("r1", 11, 12, Some(9));
    let refusal = world.refused(wrong.clone(), "swapped or rolled back");
    assert!(refusal.to_string().contains("cannot be served until the right disk is back"));
    assert!(refusal.hint().is_some());
    world.refused(world.open_command("r1", 11, 13, None), "is new, or failed in an earlier run");
    let events = world.state.events().iter().len();
    world.refused(world.open_command("r1", 11, 14, None), "is new, or failed in an earlier run");
    assert_eq!(world.state.events().iter().len(), events, "what is tried again does not flood the journal");
    world.open("r1", 11, 15, Some(11)).into_result().expect("the right disk");
    assert_eq!((world.primary(), world.in_sync()), (None, vec!["r1".into()]));
    world.promote("r1", 15).into_result().expect("it holds every acknowledged write");
}

#[test]
fn a_swapped_disk_of_one_among_others_needs_resync() {
    let mut world = World::running();
    world.open("h1", 21, 22, Some(3)).into_result().expect("registered as empty");
    assert_eq!(world.in_sync(), ["r1"]);
    assert!(world.told("swapped or rolled back"));
}

#[test]
fn a_volume_server_that_ended_makes_way_at_once() {
    let mut world = World::running();
    let close = |open| Command::CloseReplica {
        group: group(),
        node: node("r1"),
        session: tandem_base::SessionId(11),
        open: OpenId(open),
        why: "killed by signal 9".into(),
    };
    world.refused(close(10), "came after it");
    world.done(close(11));
    world.done(close(11));
    assert_eq!((world.primary(), world.in_sync()), (None, vec!["h1".into()]));
    assert_eq!(world.config().epoch.number, 2);
    assert_eq!(world.place(), "r1 stopping to h1");
    world.refused(world.open_command("r1", 11, 11, None), "earlier boot");

    // The last one keeps its place, and is not live until it is opened again.
    let mut world = World::running();
    world.change("r1", 11, shrink("h1")).into_result().expect("r1 is primary");
    world.done(close(11));
    assert_eq!((world.primary(), world.in_sync()), (None, vec!["r1".into()]));
    let command = world.proposal("r1", 11, Change::Promote);
    world.refused(command, "earlier boot");
    world.open("r1", 11, 12, Some(11)).into_result().expect("its own disk");
    world.promote("r1", 12).into_result().expect("in sync");
}

#[test]
fn a_replica_of_an_earlier_boot_cannot_act() {
    let mut world = World::running();
    world.expire("h1");
    world.session("h1", 22, 22);
    world.expire("r1");
    let command = world.proposal("h1", 21, Change::Promote);
    world.refused(command, "earlier boot");
    let stale = world.open_command("h1", 21, 23, Some(21));
    assert!(matches!(world.apply(stale), Outcome::Refused(Refusal::SessionOver { .. })));
}
