//! What replicas remember of their content: a resync looks at what can differ, at all of it, and at little else.

use tandem_base::Duration;
use tandem_volume::{DiskOp, Event, Input, Request, VolumeIndex};

use crate::world::{GRAIN, HOT_MAX, VOLUME, World, name};

const REGION: u64 = GRAIN.region as u64;
const EXTENT: u64 = REGION * GRAIN.regions as u64;

fn group(names: &[&str]) -> World {
    let mut world = World::new(1, names, |config| config.hot_idle = Duration::from_secs(10));
    world.serve("r1");
    world
}

/// Bytes that the last resync by `node` compared and sent.
fn resynced(world: &mut World, node: &str) -> (u64, u64) {
    let done = |event: &Event| match event {
        Event::ResyncDone { compared, sent, .. } => Some((*compared, *sent)),
        _ => None,
    };
    world.node(node).notes.iter().rev().find_map(done).expect("it has resynced")
}

fn hot(world: &mut World, node: &str) -> usize {
    world.node(node).activity.as_ref().expect("it was stored").hot.len()
}

/// Ends a replica's run in order.
fn end(world: &mut World, node: &str) {
    world.settle();
    let words = world.node(node).replica.as_mut().expect("it runs").last_words().expect("it may say them");
    world.crash(node);
    let state = world.node(node);
    state.stamps.extend(words.stamps);
    state.activity = Some(words.activity);
}

pub(crate) fn an_absence_costs_what_was_written_in_it() {
    let mut world = group(&["h1", "r1"]);
    for extent in 0..20 {
        world.write("r1", extent * EXTENT, 1, 512);
    }
    world.pass(20);
    world.cut("h1", "r1");
    for region in [0, 50, 51, 200] {
        world.write("r1", region * REGION + 100, 2, 300);
    }
    world.pass(3_000);
    assert_eq!(world.members(), ["r1"]);
    world.heal();
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
    assert_eq!(resynced(&mut world, "r1"), (4 * REGION, 4 * REGION));
}

pub(crate) fn a_run_that_ended_in_order_left_nothing_unknown() {
    let mut world = group(&["h1", "r1"]);
    for extent in 0..20 {
        world.write("r1", extent * EXTENT, 1, 512);
    }
    world.pass(20);
    end(&mut world, "h1");
    world.write("r1", 0, 3, 512);
    world.pass(3_000);
    world.start("h1");
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
    assert_eq!(resynced(&mut world, "r1"), (REGION, REGION));
}

pub(crate) fn a_crash_costs_the_extents_that_were_hot() {
    let mut world = group(&["h1", "r1"]);
    world.write("r1", 0, 1, 512);
    // Longer than anything stays hot.
    world.pass(16_000);
    assert_eq!((hot(&mut world, "h1"), hot(&mut world, "r1")), (0, 0));
    world.write("r1", 5 * EXTENT, 1, 512);
    world.pass(20);
    assert_eq!((hot(&mut world, "h1"), hot(&mut world, "r1")), (1, 1));
    world.crash("h1");
    world.pass(3_000);
    world.start("h1");
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert_eq!(resynced(&mut world, "r1"), (EXTENT, 0));
}

pub(crate) fn extents_cool_down_only_after_a_sync() {
    let mut world = group(&["h1", "r1"]);
    world.node("h1").syncs_held = true;
    world.write("r1", 0, 1, 512);
    world.pass(15_000);
    assert_eq!(hot(&mut world, "h1"), 1, "what it holds may not have reached its disk");
    world.node("h1").syncs_held = false;
    world.pass(1_000);
    assert_eq!(hot(&mut world, "h1"), 0);
}

pub(crate) fn what_a_crash_left_unknown_at_the_last_copy_is_looked_at() {
    let mut world = group(&["h1", "r1"]);
    world.write("r1", 0, 1, 512);
    world.pass(20);
    world.crash("h1");
    world.pass(3_500);
    assert_eq!(world.members(), ["r1"]);
    // On the disk, and in no stamp that survives.
    world.write("r1", 7 * EXTENT, 2, 512);
    world.pass(20);
    world.crash("r1");
    world.start("r1");
    world.serve("r1");
    world.start("h1");
    world.pass(3_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
}

pub(crate) fn stamps_outlive_a_crash() {
    let mut world = group(&["h1", "r1"]);
    world.write("r1", 0, 1, 512);
    world.pass(20);
    world.crash("h1");
    world.pass(3_500);
    world.write("r1", 7 * EXTENT, 2, 512);
    world.pass(16_000);
    assert_eq!(hot(&mut world, "r1"), 0);
    world.crash("r1");
    world.start("r1");
    world.serve("r1");
    world.start("h1");
    world.pass(3_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
    assert_eq!(resynced(&mut world, "r1"), (EXTENT + REGION, REGION), "with what h1's own crash left unknown");
}

pub(crate) fn what_only_the_old_primary_wrote_makes_way() {
    let mut world = group(&["h1", "r1"]);
    world.write("r1", 0, 1, 512);
    world.pass(20);
    world.node("r1").lease = false;
    world.cut("h1", "r1");
    world.pass(3_100);
    // Stored at r1 alone, acknowledged by nobody, and long enough ago to be hot no more.
    let late = world.write("r1", 9 * EXTENT, 66, 512);
    world.pass(16_000);
    assert_eq!((hot(&mut world, "r1"), world.byte("r1", 9 * EXTENT)), (0, 66));
    world.node("r1").expired = true;
    world.serve("h1");
    world.heal();
    world.pass(100);
    (world.node("r1").lease, world.node("r1").expired) = (true, false);
    world.pass(3_000);
    assert!(!world.done(late));
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
    assert_eq!(world.byte("r1", 9 * EXTENT), 0);
}

pub(crate) fn what_was_found_to_be_equal_counts_as_written_there() {
    let mut world = group(&["a1", "h1", "r1"]);
    world.write("r1", 0, 1, 512);
    world.pass(20);
    world.crash("a1");
    world.pass(3_000);
    world.write("r1", 7 * EXTENT, 2, 512);
    world.pass(20);
    // It holds the write, and no stamp of it; a resync finds it equal.
    world.crash("h1");
    world.pass(3_000);
    world.start("h1");
    world.pass(3_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    world.input(&name("r1"), Input::ReleaseOrdered);
    world.pass(100);
    world.serve("h1");
    world.start("a1");
    world.pass(3_000);
    assert_eq!(world.members(), ["a1", "h1", "r1"]);
    assert!(world.identical());
}

pub(crate) fn long_zeroes_are_carried_out_in_parts() {
    let mut world = group(&["h1", "r1"]);
    for offset in (0..VOLUME).step_by(100_000) {
        world.write("r1", offset, 7, 4_000);
    }
    world.settle();
    let what =
        Request::Zero { volume: VolumeIndex(0), offset: 100, length: VOLUME - 200, fua: false, keep_allocated: false };
    let zeroed = world.submit("r1", what);
    let mut longest = 0;
    while world.answer(zeroed).is_none() {
        assert!(world.step(), "it never ends");
        for node in ["h1", "r1"] {
            let lengths = world.node(node).pending.iter().map(|op| match op {
                DiskOp::Zero { length, .. } => *length,
                _ => 0,
            });
            longest = lengths.max().unwrap_or(0).max(longest);
            assert!(hot(&mut world, node) <= HOT_MAX);
        }
    }
    assert!(world.done(zeroed) && longest > 0 && longest <= HOT_MAX as u64 / 4 * EXTENT);
    world.settle();
    assert_eq!([99, 100, VOLUME - 101, VOLUME - 100].map(|at| world.byte("h1", at)), [7, 0, 0, 0]);
    assert!(world.identical());
}

pub(crate) fn more_extents_than_may_be_hot_take_turns() {
    let mut world = group(&["h1", "r1"]);
    let writes: Vec<_> = (0..VOLUME / EXTENT).map(|extent| world.write("r1", extent * EXTENT, 3, 512)).collect();
    world.pass(1_000);
    assert!(writes.iter().all(|write| world.done(*write)));
    assert!(hot(&mut world, "h1") <= HOT_MAX && hot(&mut world, "r1") <= HOT_MAX);
}

pub(crate) fn a_new_disk_gets_what_was_ever_written() {
    let mut world = group(&["h1", "r1"]);
    world.write("r1", 3 * EXTENT, 9, 512);
    world.pass(20);
    world.crash("h1");
    world.replace_disk("h1");
    world.pass(3_000);
    world.start("h1");
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
    assert_eq!(resynced(&mut world, "r1"), (REGION, REGION));
}

pub(crate) fn without_a_record_everything_is_looked_at() {
    let mut world = group(&["h1", "r1"]);
    world.write("r1", 3 * EXTENT, 9, 512);
    world.pass(20);
    world.crash("h1");
    world.node("h1").activity = None;
    world.pass(3_000);
    world.start("h1");
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert_eq!(resynced(&mut world, "r1"), (VOLUME, 0));
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        /// All of them, for the test that they notice mistakes.
        #[cfg(feature = "mutations")]
        pub(crate) const ALL: &[(&str, fn())] = &[$((stringify!($name), $name)),*];

        mod tests {
            $(#[test] fn $name() { super::$name(); })*
        }
    };
}

scenarios! {
    an_absence_costs_what_was_written_in_it,
    a_run_that_ended_in_order_left_nothing_unknown,
    a_crash_costs_the_extents_that_were_hot,
    extents_cool_down_only_after_a_sync,
    what_a_crash_left_unknown_at_the_last_copy_is_looked_at,
    stamps_outlive_a_crash,
    what_only_the_old_primary_wrote_makes_way,
    what_was_found_to_be_equal_counts_as_written_there,
    long_zeroes_are_carried_out_in_parts,
    more_extents_than_may_be_hot_take_turns,
    a_new_disk_gets_what_was_ever_written,
    without_a_record_everything_is_looked_at,
}
