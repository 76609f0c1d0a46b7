//! Disks that fail or are full: the replica leaves, the volume goes on, everybody is told, and the way back works.

use crate::machine::{
    cluster::{Cluster, SIZE},
    nbd::Nbd,
    run_tool, said, wait_for,
};
use std::path::Path;

const PIECE: usize = 64 << 10;

/// The content of piece `number`, in its `turn`.
fn content(number: u64, turn: u8) -> Vec<u8> {
    (0..PIECE).map(|at| (number as u8).wrapping_mul(31).wrapping_add(turn).wrapping_add((at >> 8) as u8)).collect()
}

/// After an error nothing can be made durable any more: a page that did not reach the disk may look clean.
fn write_all_but_the_flush(nbd: &mut Nbd, turn: u8) {
    for number in 0..SIZE / PIECE as u64 {
        nbd.write(number * PIECE as u64, &content(number, turn)).expect("the volume goes on");
    }
    nbd.flush().expect_err("it must not be believed");
}

fn write_all(nbd: &mut Nbd, turn: u8) {
    for number in 0..SIZE / PIECE as u64 {
        nbd.write(number * PIECE as u64, &content(number, turn)).expect("the volume goes on");
    }
    nbd.flush().expect("the volume goes on");
}

#[track_caller]
fn expect_all(nbd: &mut Nbd, turn: u8) {
    for number in 0..SIZE / PIECE as u64 {
        let data = nbd.read(number * PIECE as u64, PIECE as u32).expect("it is served");
        assert!(data == content(number, turn), "piece {number} is not what was acknowledged");
    }
}

#[test]
fn a_secondary_whose_disk_fails_is_left_behind_and_comes_back() {
    let cluster = Cluster::up(|_| ());
    let mut nbd = cluster.a1.initiator();
    write_all(&mut nbd, 1);
    cluster.b1.says(&["volume", "inject-disk-fault", "disk", "--errno", "5"]);
    write_all(&mut nbd, 2);
    cluster.wait_status(&cluster.a1, "group disk has a single copy, on a1; b1 is out of sync: its disk failed: ");
    let status = cluster.w1.says(&["status"]);
    let image = cluster.b1.replica().join("disk.img");
    assert!(status.contains(&format!("{}: write at byte 0: Input/output error", image.display())), "{status}");
    assert!(status.contains("degraded: 1 thing") && status.contains("running"), "{status}");
    // As long as the disk is bad it is tried, and not used.
    wait_for("the disk was tried again", || {
        let volumes = said(&cluster.b1.run(&["volume", "status"]));
        volumes.contains("does not run: its disk failed: ") && volumes.contains("still takes no writes")
    });
    assert!(!cluster.a1.is_well());
    write_all(&mut nbd, 3);
    cluster.b1.says(&["volume", "inject-disk-fault", "disk", "--errno", "0"]);
    cluster.wait_well();
    // What came back holds everything.
    cluster.a1.says(&["move", "disk", "--to", "b1"]);
    cluster.wait_served_on("b1");
    expect_all(&mut cluster.b1.initiator(), 3);
    let events = cluster.a1.says(&["events"]);
    for told in ["disk failed", "replica ended", "resync started (b1)", "b1 is in sync"] {
        assert!(events.contains(told), "{told}: {events}");
    }
}

#[test]
fn a_primary_whose_disk_fails_hands_over() {
    let cluster = Cluster::up(|_| ());
    let mut nbd = cluster.a1.initiator();
    write_all(&mut nbd, 1);
    cluster.a1.says(&["volume", "inject-disk-fault", "disk", "--errno", "5"]);
    // Its promotion is over: whoever was attached hears so, instead of an answer that is none.
    let error = nbd.write(0, &content(0, 9)).expect_err("the disk under it failed");
    let over = error.raw_os_error() == Some(108) || error.kind() == std::io::ErrorKind::UnexpectedEof;
    assert!(over, "ESHUTDOWN, or the end of the connection: {error:?}");
    cluster.wait_served_on("b1");
    let status = cluster.b1.says(&["status"]);
    assert!(status.contains("group disk has a single copy, on b1; a1 is out of sync: its disk failed: "), "{status}");
    assert!(status.contains("a1 cannot keep it: its replica is not in sync: its disk failed"), "{status}");
    let mut nbd = cluster.b1.initiator();
    // The first piece may hold the write that was not acknowledged.
    for number in 1..SIZE / PIECE as u64 {
        let data = nbd.read(number * PIECE as u64, PIECE as u32).expect("it is served");
        assert!(data == content(number, 1), "piece {number} is not what was acknowledged");
    }
    write_all(&mut nbd, 2);
    cluster.a1.says(&["volume", "inject-disk-fault", "disk", "--errno", "0"]);
    cluster.wait_well();
    drop(nbd);
    cluster.a1.says(&["move", "disk", "--to", "a1"]);
    cluster.wait_served_on("a1");
    expect_all(&mut cluster.a1.initiator(), 2);
}

#[test]
fn a_primary_whose_disk_hangs_is_ended() {
    let cluster = Cluster::up(|_| ());
    let mut nbd = cluster.a1.initiator();
    write_all(&mut nbd, 1);
    // A process that waits for a device that never answers does nothing at all; neither does a stopped one.
    let server = cluster.a1.volume_server();
    rustix::process::kill_process(server, rustix::process::Signal::STOP).expect("it is ours");
    cluster.wait_served_on("b1");
    let status = cluster.w1.says(&["status"]);
    assert!(status.contains("its disk failed: it hangs: the volume server has not answered for 5 s"), "{status}");
    expect_all(&mut cluster.b1.initiator(), 1);
    cluster.wait_well();
}

#[test]
fn the_last_copy_stays_and_its_errors_are_told() {
    let mut cluster = Cluster::up(|_| ());
    let mut nbd = cluster.a1.initiator();
    write_all(&mut nbd, 1);
    cluster.b1.power_off();
    cluster.wait_status(&cluster.a1, "group disk has a single copy, on a1");
    cluster.a1.says(&["volume", "inject-disk-fault", "disk", "--errno", "28"]);
    let error = nbd.write(0, &content(0, 2)).expect_err("there is nobody else to go to");
    assert!(matches!(error.raw_os_error(), Some(5 | 28)), "{error:?}");
    cluster.wait_status(&cluster.a1, "group disk: the disk under the last copy, on a1, fails: ");
    let status = cluster.a1.says(&["status"]);
    assert!(
        status.contains("No space left on device") && status.contains("whoever uses it gets the errors"),
        "{status}"
    );
    cluster.a1.says(&["volume", "inject-disk-fault", "disk", "--errno", "0"]);
    write_all_but_the_flush(&mut nbd, 3);
    // As soon as there is another copy, the service leaves the disk that nobody trusts, and that one is made anew.
    cluster.b1.start_lab_agent();
    cluster.wait_served_on("b1");
    cluster.wait_well();
    expect_all(&mut cluster.b1.initiator(), 3);
}

/// A file system of its own under `name`'s replica, with less room than the volume needs.
fn small_disk(folder: &Path, name: &str) {
    let volumes = folder.join(name).join("data/volumes");
    std::fs::create_dir_all(&volumes).expect("the folder is ours");
    run_tool("mount", &["-t", "tmpfs", "-o", "size=4m", "tandem-test", volumes.to_str().expect("it is text")]);
}

fn more_room(volumes: &Path) {
    run_tool("mount", &["-o", "remount,size=64m", volumes.to_str().expect("it is text")]);
}

#[test]
fn a_full_disk_under_the_secondary_costs_only_the_secondary() {
    // The images are sparse: it all fits until something is written.
    let cluster = Cluster::up(|folder| small_disk(folder, "b1"));
    let mut nbd = cluster.a1.initiator();
    write_all(&mut nbd, 1);
    cluster.wait_status(&cluster.a1, "No space left on device");
    let status = cluster.a1.says(&["status"]);
    assert!(status.contains("a single copy, on a1; b1 is out of sync: its disk failed: "), "{status}");
    write_all(&mut nbd, 2);
    more_room(&cluster.b1.data_dir().join("volumes"));
    cluster.wait_well();
    drop(nbd);
    cluster.a1.says(&["move", "disk", "--to", "b1"]);
    cluster.wait_served_on("b1");
    expect_all(&mut cluster.b1.initiator(), 2);
}

#[test]
fn a_full_disk_under_the_primary_moves_the_service() {
    let cluster = Cluster::up(|folder| small_disk(folder, "a1"));
    let mut nbd = cluster.a1.initiator();
    let mut acknowledged = 0;
    for number in 0..SIZE / PIECE as u64 {
        if nbd.write(number * PIECE as u64, &content(number, 1)).is_err() {
            break;
        }
        acknowledged = number + 1;
    }
    assert!(acknowledged > 0 && acknowledged < SIZE / PIECE as u64, "{acknowledged}: 4 MiB hold a part of it");
    cluster.wait_served_on("b1");
    let status = cluster.w1.says(&["status"]);
    assert!(status.contains("a1 is out of sync: its disk failed: ") && status.contains("No space left"), "{status}");
    let mut nbd = cluster.b1.initiator();
    for number in 0..acknowledged {
        let data = nbd.read(number * PIECE as u64, PIECE as u32).expect("it is served");
        assert!(data == content(number, 1), "piece {number} is not what was acknowledged");
    }
    write_all(&mut nbd, 2);
    more_room(&cluster.a1.data_dir().join("volumes"));
    cluster.wait_well();
    drop(nbd);
    cluster.a1.says(&["move", "disk", "--to", "a1"]);
    cluster.wait_served_on("a1");
    expect_all(&mut cluster.a1.initiator(), 2);
}
