//! One rule of the engine per test, each under several orders of events.

use bytes::Bytes;
use tandem_base::{Change, Epoch};
use tandem_volume::{Ack, DiskError, DiskOp, Input, Message, Reply, Request, RequestError, Role, VolumeIndex};

use crate::world::{VOLUME, World, name};

const V: VolumeIndex = VolumeIndex(0);

fn pair(seed: u64) -> World {
    let mut world = World::new(seed, &["h1", "r1"], |_| ());
    world.serve("r1");
    world
}

fn seeds(test: impl Fn(u64)) {
    for seed in 0..25 {
        test(seed);
    }
}

#[test]
fn a_write_is_acknowledged_when_both_hold_it_and_reads_return_it() {
    seeds(|seed| {
        let mut world = pair(seed);
        let write = world.write("r1", 5_000, 7, 10_000);
        let read = world.read("r1", 4_999, 10_002);
        world.settle();
        assert!(world.done(write));
        let Some(Ok(Reply::Data(data))) = world.answer(read) else { panic!("no data") };
        assert_eq!((data[0], data[1], data[10_000], data[10_001]), (0, 7, 7, 0));
        assert_eq!((world.byte("h1", 5_000), world.byte("h1", 14_999)), (7, 7));
    });
}

#[test]
fn nothing_is_acknowledged_before_the_secondary_holds_it() {
    let mut world = pair(1);
    world.node("h1").disk_held = true;
    let write = world.write("r1", 0, 7, 512);
    let read = world.read("r1", 0, 512);
    world.settle();
    assert!(world.answer(write).is_none());
    assert!(world.answer(read).is_none(), "the read overlaps an uncommitted write");
    let elsewhere = world.read("r1", 4096, 512);
    world.settle();
    assert!(world.answer(elsewhere).is_some());
    world.node("h1").disk_held = false;
    world.settle();
    assert!(world.done(write) && world.answer(read).is_some());
}

#[test]
fn a_flush_reaches_every_replica_and_fua_is_durable() {
    let mut world = pair(1);
    // The takeover flushed; only later nobody expects a flush.
    world.pass(1_500);
    world.write("r1", 0, 7, 512);
    world.settle();
    world.node("h1").disk_held = true;
    let flush = world.submit("r1", Request::Flush);
    world.settle();
    assert!(world.answer(flush).is_none());
    assert!(matches!(world.node("h1").pending[..], [DiskOp::Sync { .. }]));
    world.node("h1").disk_held = false;
    world.settle();
    assert!(world.done(flush));
    world.node("h1").disk_held = true;
    world.node("r1").disk_held = true;
    let data = Bytes::from_static(&[1; 512]);
    world.submit("r1", Request::Write { volume: V, offset: 0, data, fua: true });
    world.settle();
    for node in ["h1", "r1"] {
        assert!(matches!(world.node(node).pending[..], [DiskOp::Write { durable: true, .. }]), "{node}");
    }
}

#[test]
fn a_flush_that_was_expected_waits_for_no_round_trip() {
    let mut world = pair(1);
    world.pass(1_500);
    world.submit("r1", Request::Flush);
    world.write("r1", 0, 7, 512);
    world.settle();
    // The follower has synced by itself, and what it syncs from now on does not matter.
    world.node("h1").disk_held = true;
    let covered = world.submit("r1", Request::Flush);
    world.settle();
    assert!(world.done(covered), "the write was durable there before it was asked for");
    world.node("h1").disk_held = false;
    world.settle();
    // One write is stored before a sync begins there, and another while it runs.
    world.node("h1").syncs_held = true;
    world.write("r1", 512, 7, 512);
    world.settle();
    let second = world.write("r1", 1024, 7, 512);
    world.settle();
    assert!(world.done(second));
    let early = world.submit("r1", Request::Flush);
    // The flush's own sync waits behind it.
    world.end_one_sync("h1");
    world.settle();
    assert!(world.answer(early).is_none(), "the sync that ended had begun before the second write was stored");
    world.node("h1").syncs_held = false;
    world.settle();
    assert!(world.done(early));
}

#[test]
fn ack_durable_makes_every_write_durable() {
    let mut world = World::new(1, &["h1", "r1"], |config| config.ack = Ack::Durable);
    world.serve("r1");
    world.write("r1", 0, 6, 512);
    world.settle();
    world.node("h1").disk_held = true;
    world.write("r1", 0, 7, 512);
    world.settle();
    assert!(matches!(world.node("h1").pending[..], [DiskOp::Write { durable: true, .. }]));
}

#[test]
fn overlapping_writes_end_alike_everywhere() {
    seeds(|seed| {
        let mut world = World::new(seed, &["a1", "h1", "r1"], |_| ());
        world.serve("r1");
        for fill in 1..60u8 {
            world.write("r1", u64::from(fill % 7) * 512, fill, 2048);
        }
        world.settle();
        assert!(world.identical());
        assert_eq!(world.byte("h1", 3 * 512), 59, "the last write that covers this sector");
    });
}

#[test]
fn bad_requests_get_clear_answers() {
    let mut world = pair(1);
    let over = world.read("r1", VOLUME - 1, 2);
    let wrap =
        world.submit("r1", Request::Zero { volume: V, offset: u64::MAX, length: 2, fua: false, keep_allocated: false });
    let unknown = world.submit("r1", Request::Read { volume: VolumeIndex(9), offset: 0, length: 0 });
    let empty = world.write("r1", VOLUME, 0, 0);
    let nothing = world.read("r1", VOLUME, 0);
    let old = world.submit_as("r1", Epoch { number: 77, tag: 0 }, Request::Flush);
    let elsewhere = world.read("h1", 0, 1);
    world.settle();
    for request in [over, wrap, unknown] {
        assert_eq!(world.answer(request), Some(&Err(RequestError::OutOfRange)));
    }
    for request in [old, elsewhere] {
        assert_eq!(world.answer(request), Some(&Err(RequestError::Superseded)));
    }
    assert!(world.done(empty));
    assert_eq!(world.answer(nothing), Some(&Ok(Reply::Data(Bytes::new()))));
}

#[test]
fn a_silent_secondary_is_shut_out_before_anything_is_acknowledged_alone() {
    seeds(|seed| {
        let mut world = pair(seed);
        world.register_down = true;
        world.cut("h1", "r1");
        let write = world.write("r1", 0, 9, 512);
        world.pass(1_500);
        assert!(world.answer(write).is_none(), "the register has not answered");
        let shrink = |change: &Change| matches!(change, Change::Shrink(names) if names.contains(&name("h1")));
        assert!(world.proposed.iter().any(|proposal| shrink(&proposal.change)));
        assert!(world.status("r1").frozen.is_some());
        world.register_down = false;
        world.commit_proposals();
        world.pass(100);
        assert!(world.done(write));
        assert_eq!(world.members(), ["r1"]);
        world.heal();
        world.pass(3_000);
        assert_eq!(world.members(), ["h1", "r1"]);
        assert!(world.identical());
    });
}

#[test]
fn an_unknown_shrink_lets_the_returned_member_count_again() {
    let mut world = pair(1);
    world.register_down = true;
    world.cut("h1", "r1");
    let write = world.write("r1", 0, 9, 512);
    world.pass(1_500);
    assert!(!world.proposed.is_empty() && world.answer(write).is_none());
    world.heal();
    world.pass(50);
    assert!(world.done(write), "the member holds it, in both possible configurations");
    // The shrink is committed late: it must still be obeyed, and the member comes back by a resync.
    world.register_down = false;
    world.commit_proposals();
    assert_eq!(world.members(), ["r1"]);
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
}

#[test]
fn an_idle_primary_notices_a_dead_member() {
    let mut world = pair(1);
    world.node("h1").paused = true;
    world.pass(3_500);
    assert_eq!(world.members(), ["r1"]);
    world.node("h1").paused = false;
    world.pass(4_000);
    assert_eq!(world.members(), ["h1", "r1"]);
}

#[test]
fn a_lost_connection_loses_no_write() {
    seeds(|seed| {
        let mut world = pair(seed);
        let writes: Vec<_> = (0..40u64).map(|at| world.write("r1", at * 512, at as u8 + 1, 1024)).collect();
        world.steps(seed * 3);
        world.cut("h1", "r1");
        world.steps(20);
        world.heal();
        world.pass(500);
        assert!(writes.iter().all(|write| world.done(*write)));
        assert!(world.identical());
        assert_eq!(world.members(), ["h1", "r1"]);
        assert_eq!(world.status("r1").counters.shrinks, 0);
    });
}

#[test]
fn a_joiner_grows_under_constant_load() {
    seeds(|seed| {
        let mut world = World::new(seed, &["h1", "r1"], |config| config.resync_window = 2);
        world.serve("r1");
        world.write("r1", 300_000, 5, 70_000);
        world.pass(20);
        world.crash("h1");
        world.replace_disk("h1");
        world.write("r1", 600_000, 6, 70_000);
        world.pass(1_500);
        assert_eq!(world.members(), ["r1"]);
        world.start("h1");
        let mut rounds = 0;
        let mut writes = Vec::new();
        while world.members() != ["h1", "r1"] {
            rounds += 1;
            assert!(rounds < 3_000, "the resync never ends: {:?}", world.status("r1"));
            for _ in 0..3 {
                let (offset, fill) = (world.rng.below(VOLUME - 9_000), world.rng.below(255) as u8);
                writes.push(world.write("r1", offset, fill, 8_192));
            }
            world.steps(20);
            if rounds % 10 == 0 {
                world.now += tandem_base::Duration::from_millis(60);
                world.input(&name("r1"), Input::TimedOut);
                world.show_register(&name("r1"));
            }
            if rounds == 1 {
                world.pass(10);
            }
        }
        world.pass(100);
        assert!(writes.iter().all(|write| world.done(*write)));
        assert!(world.identical());
        assert!(world.status("r1").counters.resync_bytes <= VOLUME);
    });
}

#[test]
fn a_joiner_with_an_unknown_growth_stays_required_until_the_register_decides() {
    seeds(|seed| {
        let mut world = pair(seed);
        world.crash("h1");
        world.write("r1", 0, 3, 512);
        world.pass(1_500);
        world.register_down = true;
        world.start("h1");
        world.pass(100);
        let grows = |world: &World| world.proposed.iter().any(|p| matches!(p.change, Change::Grow { .. }));
        assert!(grows(&world), "the resync runs into the silent register: {:?}", world.status("r1"));
        let grow = world.proposed.clone();
        world.cut("h1", "r1");
        let write = world.write("r1", 0, 4, 512);
        world.pass(1_500);
        assert!(world.answer(write).is_none(), "the joiner may be a member already");
        let kills = |change: &Change| matches!(change, Change::Shrink(names) if names.contains(&name("h1")));
        assert!(world.proposed.iter().any(|proposal| kills(&proposal.change) && proposal.expected == grow[0].expected));
        world.register_down = false;
        if seed % 2 == 0 {
            assert!(world.commit(&grow[0]), "the growth happens after all");
        }
        world.commit_proposals();
        world.pass(2_000);
        assert!(world.done(write));
        assert_eq!(world.members(), ["r1"]);
        world.heal();
        world.pass(2_000);
        assert_eq!(world.members(), ["h1", "r1"]);
        assert!(world.identical());
    });
}

/// What the old primary left at one member only is gone, or everywhere, after a takeover.
#[test]
fn a_takeover_reconciles_what_was_under_way() {
    seeds(|seed| {
        let mut world = World::new(seed, &["a1", "h1", "r1"], |_| ());
        world.serve("r1");
        let acked = world.write("r1", 100_000, 1, 4096);
        world.settle();
        assert!(world.done(acked));
        for at in 0..20u64 {
            world.write("r1", 98_000 + at * 700, 100 + at as u8, 2048);
        }
        world.steps(10 + seed * 2);
        world.crash("r1");
        world.node("r1").expired = true;
        world.serve("h1");
        assert_eq!(world.members(), ["a1", "h1"]);
        let (a, h) = (world.nodes[&name("a1")].data.clone(), world.nodes[&name("h1")].data.clone());
        assert!(a == h, "the members differ after the barrier");
        world.node("r1").expired = false;
        world.start("r1");
        world.pass(3_000);
        assert_eq!(world.members(), ["a1", "h1", "r1"]);
        assert!(world.identical());
    });
}

#[test]
fn a_takeover_shuts_out_a_member_that_does_not_answer() {
    let mut world = World::new(3, &["a1", "h1", "r1"], |_| ());
    world.serve("r1");
    world.write("r1", 0, 1, 512);
    world.settle();
    world.crash("r1");
    world.node("r1").expired = true;
    world.node("a1").paused = true;
    world.input(&name("h1"), Input::ServeOrdered);
    world.pass(500);
    assert_eq!(world.role("h1"), Role::TakingOver);
    world.pass(1_500);
    assert!(world.node("h1").serving.is_some());
    assert_eq!(world.members(), ["h1"]);
}

/// Its reason was that nobody served; somebody does since.
#[test]
fn an_order_to_serve_ends_with_a_promotion_elsewhere() {
    let mut world = World::new(1, &["a1", "h1", "r1"], |_| ());
    world.serve("r1");
    world.input(&name("h1"), Input::ServeOrdered);
    world.pass(100);
    world.node("h1").paused = true;
    world.input(&name("r1"), Input::ReleaseOrdered);
    world.pass(3_500);
    world.serve("a1");
    world.node("h1").paused = false;
    world.pass(3_000);
    assert_eq!(world.members(), ["a1", "h1", "r1"]);
    world.input(&name("a1"), Input::ReleaseOrdered);
    world.pass(1_000);
    assert_eq!((world.role("a1"), world.role("h1")), (Role::Secondary, Role::Secondary));
}

/// A stopped primary goes on, and its takeover with it.
#[test]
fn a_takeover_that_outlives_its_lease_is_announced_only_under_the_next_one() {
    for overtaken in [false, true] {
        let mut world = World::new(1, &["h1", "r1"], |_| ());
        world.node("r1").disk_held = true;
        world.input(&name("r1"), Input::ServeOrdered);
        world.pass(300);
        world.node("r1").lease = false;
        world.pass(3_100);
        world.node("r1").disk_held = false;
        world.pass(100);
        assert_eq!((world.node("r1").serving, world.role("r1")), (None, Role::TakingOver));
        if overtaken {
            world.node("r1").expired = true;
            world.serve("h1");
            assert_eq!(world.node("r1").serving, None);
        } else {
            world.node("r1").lease = true;
            world.pass(10);
            assert!(world.node("r1").serving.is_some());
        }
    }
}

/// The old primary goes on after the lease: it is resumed, or was only cut off.
#[test]
fn an_old_primary_acknowledges_nothing_after_its_lease() {
    seeds(|seed| {
        let mut world = pair(seed);
        let promotion = world.node("r1").serving.expect("it serves");
        world.node("r1").lease = false;
        world.cut("h1", "r1");
        world.pass(3_100);
        let late = world.write("r1", 0, 66, 512);
        let read = world.read("r1", 4096, 512);
        world.node("r1").expired = true;
        world.serve("h1");
        let new = world.write("h1", 0, 77, 512);
        world.pass(100);
        assert!(world.done(new));
        assert!(world.answer(late).is_none() && world.answer(read).is_none());
        world.heal();
        world.pass(100);
        assert!(world.answer(late).is_none() || world.answer(late) == Some(&Err(RequestError::Superseded)));
        world.node("r1").lease = true;
        world.node("r1").expired = false;
        world.pass(3_000);
        assert_eq!(world.answer(late), Some(&Err(RequestError::Superseded)));
        assert_eq!(world.answer(read), Some(&Err(RequestError::Superseded)));
        assert_eq!(world.node("r1").ended, [promotion]);
        assert_eq!(world.members(), ["h1", "r1"]);
        assert!(world.identical());
        assert_eq!(world.byte("r1", 0), 77);
    });
}

#[test]
fn a_write_of_an_earlier_promotion_is_refused_however_late_it_comes() {
    let mut world = World::new(1, &["a1", "h1", "r1"], |_| ());
    world.serve("r1");
    world.write("r1", 0, 1, 512);
    world.settle();
    // Writes that lie in the line to one of the members while the primary's node stands still.
    world.held = Some((name("r1"), name("a1")));
    for _ in 0..20 {
        world.write("r1", 4096, 66, 512);
    }
    world.settle();
    world.node("r1").paused = true;
    world.node("r1").lease = false;
    world.pass(3_100);
    world.node("r1").expired = true;
    world.serve("h1");
    world.pass(1_000);
    let new = world.write("h1", 4096, 77, 512);
    world.settle();
    assert!(world.done(new));
    // Their numbers are higher than any that the new primary has given out.
    world.held = None;
    world.settle();
    assert_eq!((world.byte("a1", 4096), world.byte("h1", 4096)), (77, 77));
}

#[test]
fn the_lease_is_checked_when_the_reply_leaves() {
    let mut world = pair(1);
    world.node("h1").disk_held = true;
    let write = world.write("r1", 0, 5, 512);
    world.pass(100);
    world.node("r1").lease = false;
    for _ in 0..40 {
        // The member answers pings, so nobody is shut out.
        world.pass(100);
    }
    world.node("h1").disk_held = false;
    world.pass(10);
    assert!(world.answer(write).is_none(), "the lease ended while the write was under way");
    world.node("r1").lease = true;
    world.pass(10);
    assert!(world.done(write));
}

#[test]
fn a_renewed_lease_thaws_what_waited() {
    let mut world = pair(1);
    world.node("r1").lease = false;
    world.pass(3_100);
    let write = world.write("r1", 0, 5, 512);
    world.pass(200);
    assert!(world.answer(write).is_none());
    assert!(world.status("r1").frozen.expect("it stands still").contains("lease"));
    world.node("r1").lease = true;
    world.pass(10);
    assert!(world.done(write));
    assert_eq!(world.status("r1").frozen, None);
}

#[test]
fn a_release_drains_flushes_and_hands_over() {
    seeds(|seed| {
        let mut world = pair(seed);
        let first = world.node("r1").serving.expect("it serves");
        let write = world.write("r1", 0, 5, 512);
        world.steps(seed);
        world.input(&name("r1"), Input::ReleaseOrdered);
        let late = world.write("r1", 0, 6, 512);
        world.pass(100);
        assert!(world.done(write));
        assert_eq!(world.answer(late), Some(&Err(RequestError::Superseded)));
        assert_eq!(world.node("r1").ended, [first]);
        assert_eq!(world.register.primary, None);
        world.serve("h1");
        let read = world.read("h1", 0, 1);
        world.settle();
        assert_eq!(world.answer(read), Some(&Ok(Reply::Data(Bytes::from_static(&[5])))));
        assert_eq!(world.members(), ["h1", "r1"]);
        let old = world.submit_as("r1", first, Request::Flush);
        assert_eq!(world.answer(old), Some(&Err(RequestError::Superseded)));
    });
}

#[test]
fn the_same_node_serves_again_in_a_new_epoch() {
    let mut world = pair(1);
    let first = world.node("r1").serving.expect("it serves");
    world.input(&name("r1"), Input::ReleaseOrdered);
    world.pass(100);
    world.serve("r1");
    assert!(world.node("r1").serving.expect("it serves").number > first.number);
    let write = world.write("r1", 0, 5, 512);
    world.settle();
    assert!(world.done(write));
    assert_eq!(world.byte("h1", 0), 5);
}

#[test]
fn a_secondary_whose_disk_fails_leaves_at_once() {
    let mut world = pair(1);
    world.node("h1").disk_error = Some(DiskError::NoSpace);
    let write = world.write("r1", 0, 5, 512);
    world.settle();
    assert_eq!(world.members(), ["r1"]);
    assert!(world.done(write), "no timeout is needed");
    world.node("h1").disk_error = None;
    world.pass(2_000);
    assert_eq!(world.members(), ["r1"], "the failed run never comes back");
    world.crash("h1");
    assert!(world.node("h1").superblock.as_ref().expect("it was stored").failed);
    world.start("h1");
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.identical());
}

#[test]
fn a_primary_whose_disk_fails_stands_still_and_hands_over() {
    let mut world = pair(1);
    let before = world.write("r1", 0, 5, 512);
    world.settle();
    world.node("r1").disk_error = Some(DiskError::Io("medium error".into()));
    let write = world.write("r1", 0, 6, 512);
    let read = world.read("r1", 8192, 512);
    world.pass(500);
    assert!(world.done(before) && world.answer(write).is_none() && world.answer(read).is_none());
    assert!(world.status("r1").disk_failed.is_some());
    world.input(&name("r1"), Input::ReleaseOrdered);
    world.pass(100);
    assert_eq!(world.answer(write), Some(&Err(RequestError::Superseded)));
    world.serve("h1");
    assert_eq!(world.members(), ["h1"]);
    world.input(&name("r1"), Input::ServeOrdered);
    world.pass(500);
    assert_ne!(world.role("r1"), Role::Promoting);
}

#[test]
fn the_last_member_hands_its_disk_errors_to_the_initiator() {
    let mut world = pair(1);
    world.crash("h1");
    world.pass(3_500);
    assert_eq!(world.members(), ["r1"]);
    world.node("r1").disk_error = Some(DiskError::NoSpace);
    let write = world.write("r1", 0, 6, 512);
    world.settle();
    assert!(matches!(world.answer(write), Some(Err(RequestError::Disk(why))) if why.contains("no space")));
    world.node("r1").disk_error = None;
    let write = world.write("r1", 0, 6, 512);
    world.settle();
    assert!(world.done(write));
    world.node("r1").sync_error = true;
    let flush = world.submit("r1", Request::Flush);
    world.settle();
    world.node("r1").sync_error = false;
    let again = world.submit("r1", Request::Flush);
    world.settle();
    for flush in [flush, again] {
        assert!(matches!(world.answer(flush), Some(Err(RequestError::Disk(_)))), "a failed sync is never retried");
    }
    // Once another one holds everything durably, the service moves there; what looks clean here is not to be trusted.
    world.start("h1");
    world.pass(2_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.status("r1").disk_failed.is_some());
    world.input(&name("r1"), Input::ReleaseOrdered);
    world.pass(100);
    world.serve("h1");
    world.crash("r1");
    world.start("r1");
    let before = world.status("h1").counters.resync_bytes;
    world.pass(3_000);
    assert_eq!(world.members(), ["h1", "r1"]);
    assert!(world.status("h1").counters.resync_bytes >= before + VOLUME, "all of it is written again");
}

#[test]
fn a_peer_that_breaks_the_rules_is_disconnected_and_the_volume_goes_on() {
    let promotion = |world: &mut World| world.node("r1").serving.expect("it serves");
    let mut world = pair(1);
    let epoch = promotion(&mut world);
    let bad: Vec<(&str, Message)> = vec![
        ("r1", Message::Stored { promotion: epoch, sequence: 1 << 40 }),
        ("r1", Message::Hashes { promotion: epoch, chunk: 3, hashes: vec![[0; 32]; 9] }),
        (
            "r1",
            Message::Promised {
                promotion: epoch,
                unsettled: vec![tandem_volume::Span { volume: VolumeIndex(9), offset: 0, length: 1 }],
                history: vec![],
            },
        ),
        ("r1", Message::Lead { promotion: epoch }),
        (
            "h1",
            Message::Compare {
                promotion: epoch,
                chunk: 0,
                span: tandem_volume::Span { volume: V, offset: u64::MAX, length: 4 },
                written: 1,
            },
        ),
        (
            "h1",
            Message::Write(tandem_volume::SequencedWrite {
                promotion: epoch,
                sequence: u64::MAX,
                committed: u64::MAX,
                volume: V,
                offset: 0,
                content: tandem_volume::Content::Data(Bytes::from_static(b"data")),
                checksum: 1,
                durable: false,
            }),
        ),
        ("h1", Message::NotYours { promised: epoch }),
        ("h1", Message::Flushed { promotion: epoch, flush: 9 }),
    ];
    for (to, message) in bad {
        let from = if to == "r1" { "h1" } else { "r1" };
        let connection = world.links[&(name(from), name(to))].0;
        world.input(&name(to), Input::PeerSaid { peer: name(from), connection, message });
        world.pass(100);
        let write = world.write("r1", 0, 5, 512);
        world.pass(100);
        assert!(world.done(write));
    }
    assert_eq!(world.members(), ["h1", "r1"]);
}

#[test]
fn a_hello_from_elsewhere_is_refused() {
    let mut world = pair(1);
    world.cut("h1", "r1");
    let hello = tandem_volume::Hello {
        version: tandem_volume::VERSION,
        cluster: tandem_base::ClusterId(7),
        generation: 1,
        group: "ledger".try_into().expect("a name"),
        node: name("r1"),
        open: tandem_base::OpenId(1),
        promised: Epoch::default(),
        volumes: vec![],
    };
    let elsewhere = tandem_volume::Hello { cluster: tandem_base::ClusterId(8), ..hello.clone() };
    let branched = tandem_volume::Hello { generation: 2, ..hello };
    for (number, hello, word) in [(77_777, elsewhere, "cluster"), (77_778, branched, "generation 2")] {
        let connection = tandem_volume::ConnectionId(number);
        world.input(&name("h1"), Input::PeerConnected { peer: name("r1"), connection });
        world.input(&name("h1"), Input::PeerSaid { peer: name("r1"), connection, message: Message::Hello(hello) });
        let refused = |event: &tandem_volume::Event| matches!(event, tandem_volume::Event::PeerRefused { why, .. } if why.contains(word));
        assert!(world.node("h1").notes.iter().any(refused), "{word}");
    }
}

#[test]
fn a_joiner_grows_only_after_it_has_stored_and_flushed_everything() {
    let mut world = pair(1);
    world.crash("h1");
    world.write("r1", 0, 3, 100_000);
    world.pass(1_500);
    world.start("h1");
    world.connect();
    for _ in 0..2_000 {
        // Whatever the disk of the joiner has not done, the register must not count on.
        let unfinished = world.node("h1").pending.iter().any(|op| {
            let remembers = matches!(op, DiskOp::StoreActivity { .. } | DiskOp::StoreStamps { .. });
            !remembers && !matches!(op, DiskOp::StoreSuperblock { .. })
        });
        if world.members().len() == 2 {
            assert!(!unfinished && world.identical(), "a member before it has everything");
            return;
        }
        if world.node("h1").pending.iter().any(|op| matches!(op, DiskOp::Sync { .. })) {
            world.node("h1").disk_held = true;
            world.pass(300);
            assert_eq!(world.members(), ["r1"], "a member before it has flushed");
            world.node("h1").disk_held = false;
        }
        if !world.step() {
            world.pass(10);
        }
    }
    panic!("it never joined: {:?}", world.status("r1"));
}

#[test]
fn a_member_that_runs_anew_answers_for_nothing_that_it_held_before() {
    let mut world = pair(1);
    world.write("r1", 0, 3, 512);
    world.settle();
    world.register_down = true;
    world.crash("h1");
    world.start("h1");
    let flush = world.submit("r1", Request::Flush);
    world.pass(500);
    assert!(world.answer(flush).is_none(), "its page cache is gone");
    world.register_down = false;
    world.commit_proposals();
    world.pass(1_000);
    assert!(world.done(flush));
    assert_eq!(world.members(), ["h1", "r1"]);
}

/// All of the above, for the test that they notice mistakes.
#[cfg(feature = "mutations")]
pub(crate) const ALL: &[(&str, fn())] = &[
    (
        "a_write_is_acknowledged_when_both_hold_it_and_reads_return_it",
        a_write_is_acknowledged_when_both_hold_it_and_reads_return_it,
    ),
    ("nothing_is_acknowledged_before_the_secondary_holds_it", nothing_is_acknowledged_before_the_secondary_holds_it),
    ("a_flush_reaches_every_replica_and_fua_is_durable", a_flush_reaches_every_replica_and_fua_is_durable),
    ("a_flush_that_was_expected_waits_for_no_round_trip", a_flush_that_was_expected_waits_for_no_round_trip),
    ("ack_durable_makes_every_write_durable", ack_durable_makes_every_write_durable),
    ("overlapping_writes_end_alike_everywhere", overlapping_writes_end_alike_everywhere),
    ("bad_requests_get_clear_answers", bad_requests_get_clear_answers),
    (
        "a_silent_secondary_is_shut_out_before_anything_is_acknowledged_alone",
        a_silent_secondary_is_shut_out_before_anything_is_acknowledged_alone,
    ),
    ("an_unknown_shrink_lets_the_returned_member_count_again", an_unknown_shrink_lets_the_returned_member_count_again),
    ("an_idle_primary_notices_a_dead_member", an_idle_primary_notices_a_dead_member),
    ("a_lost_connection_loses_no_write", a_lost_connection_loses_no_write),
    ("a_joiner_grows_under_constant_load", a_joiner_grows_under_constant_load),
    (
        "a_joiner_with_an_unknown_growth_stays_required_until_the_register_decides",
        a_joiner_with_an_unknown_growth_stays_required_until_the_register_decides,
    ),
    ("a_takeover_reconciles_what_was_under_way", a_takeover_reconciles_what_was_under_way),
    ("a_takeover_shuts_out_a_member_that_does_not_answer", a_takeover_shuts_out_a_member_that_does_not_answer),
    ("an_order_to_serve_ends_with_a_promotion_elsewhere", an_order_to_serve_ends_with_a_promotion_elsewhere),
    (
        "a_takeover_that_outlives_its_lease_is_announced_only_under_the_next_one",
        a_takeover_that_outlives_its_lease_is_announced_only_under_the_next_one,
    ),
    ("an_old_primary_acknowledges_nothing_after_its_lease", an_old_primary_acknowledges_nothing_after_its_lease),
    (
        "a_write_of_an_earlier_promotion_is_refused_however_late_it_comes",
        a_write_of_an_earlier_promotion_is_refused_however_late_it_comes,
    ),
    ("the_lease_is_checked_when_the_reply_leaves", the_lease_is_checked_when_the_reply_leaves),
    ("a_renewed_lease_thaws_what_waited", a_renewed_lease_thaws_what_waited),
    ("a_release_drains_flushes_and_hands_over", a_release_drains_flushes_and_hands_over),
    ("the_same_node_serves_again_in_a_new_epoch", the_same_node_serves_again_in_a_new_epoch),
    ("a_secondary_whose_disk_fails_leaves_at_once", a_secondary_whose_disk_fails_leaves_at_once),
    ("a_primary_whose_disk_fails_stands_still_and_hands_over", a_primary_whose_disk_fails_stands_still_and_hands_over),
    ("the_last_member_hands_its_disk_errors_to_the_initiator", the_last_member_hands_its_disk_errors_to_the_initiator),
    (
        "a_peer_that_breaks_the_rules_is_disconnected_and_the_volume_goes_on",
        a_peer_that_breaks_the_rules_is_disconnected_and_the_volume_goes_on,
    ),
    ("a_hello_from_elsewhere_is_refused", a_hello_from_elsewhere_is_refused),
    (
        "a_joiner_grows_only_after_it_has_stored_and_flushed_everything",
        a_joiner_grows_only_after_it_has_stored_and_flushed_everything,
    ),
    (
        "a_member_that_runs_anew_answers_for_nothing_that_it_held_before",
        a_member_that_runs_anew_answers_for_nothing_that_it_held_before,
    ),
];
