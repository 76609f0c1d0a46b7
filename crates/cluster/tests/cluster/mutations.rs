//! That each deliberate fault breaks the rule it names, so that the simulator plays something.

use tandem_base::Change;
use tandem_cluster::mutations::{Mutation, set};

use crate::world::World;

/// Plays `story` with and without the fault.
fn both(mutation: Mutation, story: impl Fn() -> bool) {
    assert!(!story(), "{}: the rule holds", mutation.name());
    set(Some(mutation));
    assert!(story(), "{}: the fault breaks it", mutation.name());
    set(None);
}

#[test]
fn the_log_breaks_the_rules_that_it_is_told_to_break() {
    both(Mutation::PromoteWithoutWaitingForSession, || {
        let mut world = World::running();
        world.expire("r1");
        world.session("r1", 11, 12);
        world.promote("h1", 21).is_done()
    });
    both(Mutation::TrustSwappedDisk, || {
        let mut world = World::running();
        world.change("r1", 11, Change::Shrink([crate::world::node("h1")].into())).into_result().expect("primary");
        world.open("r1", 11, 12, Some(9)).is_done()
    });
    both(Mutation::KeepMemberWithNewOpen, || {
        let mut world = World::running();
        world.open("h1", 21, 22, Some(21)).into_result().expect("registered");
        world.in_sync().len() == 2
    });
    both(Mutation::IgnoreExpectedEpoch, || {
        let mut world = World::running();
        let late = world.proposal("r1", 11, Change::Shrink([crate::world::node("h1")].into()));
        world.change("r1", 11, Change::Shrink([].into())).into_result().expect("primary");
        world.apply(late).is_done()
    });
    both(Mutation::ReviveExpiredSession, || {
        let mut world = World::running();
        world.expire("r1");
        let again = tandem_cluster::Command::OpenSession {
            node: crate::world::node("r1"),
            run: tandem_base::RunId(11),
            session: tandem_base::SessionId(11),
        };
        world.apply(again).is_done()
    });
}
