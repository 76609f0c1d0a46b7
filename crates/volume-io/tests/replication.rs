//! Volume servers as processes: replication, tools, faults.

mod world;

use std::{io::Write, os::unix::net::UnixStream};
use tandem_volume_io::control::{FromServer, NoteKind, ToServer};
use world::{SIZE, VOLUME, World, nbd_uri, tool};

fn random_file(world: &World, file: &str) -> String {
    let path = world.dir.path().join(file);
    let mut rng = tandem_base::Rng::new(7);
    let bytes: Vec<u8> = (0..SIZE / 8).flat_map(|_| rng.next_u64().to_ne_bytes()).collect();
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn tools_copy_both_ways_and_replicas_are_alike() {
    let world = World::start(&["a", "b"]);
    let (_, socket) = world.serve("a");
    let uri = nbd_uri(&socket, VOLUME);
    let info = tool("nbdinfo", &[&uri]);
    for expected in ["export-size: 33554432", "can_multi_conn: true", "can_fua: true", "base:allocation"] {
        assert!(info.contains(expected), "{expected} in {info}");
    }
    let source = random_file(&world, "in");
    let copy = world.dir.path().join("out");
    tool("nbdcopy", &["--flush", &source, &uri]);
    tool("nbdcopy", &[&uri, copy.to_str().unwrap()]);
    tool("cmp", &[&source, copy.to_str().unwrap()]);
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source, &uri]);
    for node in ["a", "b"] {
        tool("cmp", &[&source, world.image(node).to_str().unwrap()]);
    }
    let map = tool("nbdinfo", &["--map", &uri]);
    assert!(map.contains("data"), "{map}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let world = World::start(&["a", "b"]);
    let (_, socket) = world.serve("a");
    tool(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={}", nbd_uri(&socket, VOLUME)),
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            "--size=8m",
            "--fsync=64",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
        ],
    );
    tool("cmp", &[world.image("a").to_str().unwrap(), world.image("b").to_str().unwrap()]);
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_by_a_resync() {
    let world = World::start(&["a", "b"]);
    let (first, socket) = world.serve("a");
    let source = random_file(&world, "in");
    tool("nbdcopy", &["--flush", &source, &nbd_uri(&socket, VOLUME)]);
    world.kill("a");
    world.expire("a");
    let (second, socket) = world.serve("b");
    assert!(second.number > first.number);
    let uri = nbd_uri(&socket, VOLUME);
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source, &uri]);
    // What the old primary misses, zeroes among it.
    tool("qemu-io", &["-f", "raw", "-c", "write -P 9 1M 64k", "-c", "write -z 2M 1M", "-c", "flush", &uri]);
    world.reach("a");
    world.spawn("a");
    world.wait_in_sync(&["a", "b"]);
    tool("cmp", &[world.image("a").to_str().unwrap(), world.image("b").to_str().unwrap()]);
    let joined = world.log("b").iter().any(
        |message| matches!(message, FromServer::Note { kind: NoteKind::ResyncDone, .. }),
    );
    assert!(joined, "{:?}", world.log("b"));
}

#[test]
fn a_silent_peer_is_dropped_and_writes_go_on() {
    let world = World::start(&["a", "b"]);
    let (_, socket) = world.serve("a");
    let uri = nbd_uri(&socket, VOLUME);
    world.kill("b");
    tool("qemu-io", &["-f", "raw", "-c", "write -P 5 0 64k", "-c", "flush", &uri]);
    world.wait_in_sync(&["a"]);
    world.spawn("b");
    world.wait_in_sync(&["a", "b"]);
    tool("cmp", &[world.image("a").to_str().unwrap(), world.image("b").to_str().unwrap()]);
}

#[test]
fn a_failing_disk_leaves_the_set_and_the_volume_goes_on() {
    for errno in [libc::ENOSPC, libc::EIO] {
        let world = World::start(&["a", "b"]);
        let (_, socket) = world.serve("a");
        let uri = nbd_uri(&socket, VOLUME);
        world.send("b", ToServer::InjectDiskFault { errno });
        tool("qemu-io", &["-f", "raw", "-c", "write -P 5 0 64k", "-c", "flush", &uri]);
        world.wait_in_sync(&["a"]);
        let status = world.status("b");
        assert!(status.disk_error.is_some(), "{status:?}");
        // Opened again with a good disk, it comes back.
        world.kill("b");
        world.spawn("b");
        world.wait_in_sync(&["a", "b"]);
        tool("cmp", &[world.image("a").to_str().unwrap(), world.image("b").to_str().unwrap()]);
    }
}

#[test]
fn garbage_ends_connections_and_nothing_else() {
    let world = World::start(&["a", "b"]);
    let (_, socket) = world.serve("a");
    let mut rng = tandem_base::Rng::new(3);
    for round in 0..20 {
        let garbage: Vec<u8> = (0..200).flat_map(|_| rng.next_u64().to_ne_bytes()).collect();
        // Whether the server closes before all is written is its own affair.
        let _ = UnixStream::connect(&socket).unwrap().write_all(&garbage);
        let node = if round % 2 == 0 { "a" } else { "b" };
        let _ = std::net::TcpStream::connect(world.node(node).peer_address).unwrap().write_all(&garbage);
    }
    let uri = nbd_uri(&socket, VOLUME);
    // Out of range, too long, and half a request.
    tool("nbdsh", &["-u", &uri, "-c", "
import nbd
for f in (lambda: h.pread(512, h.get_size()), lambda: h.pwrite(b'x' * 512, h.get_size() - 256),
          lambda: h.trim(1 << 20, h.get_size())):
    h.set_strict_mode(0)
    try:
        f()
        raise SystemExit('an impossible request was answered')
    except nbd.Error as e:
        assert e.errno in ('EINVAL', 'ENOSPC'), e.errno
h.pwrite(b'y' * 512, 0)
h.flush()
"]);
    world.wait("both peers' garbage to be refused", || {
        world.log("b").iter().any(|m| matches!(m, FromServer::Note { kind: NoteKind::PeerRefused, .. }))
    });
    world.wait_in_sync(&["a", "b"]);
    tool("cmp", &[world.image("a").to_str().unwrap(), world.image("b").to_str().unwrap()]);
}

#[test]
fn an_ended_promotion_fails_its_connections_for_ever() {
    let world = World::start(&["a", "b"]);
    let (first, socket) = world.serve("a");
    let old = format!("{VOLUME}@{}.{:016x}", first.number, first.tag);
    tool("nbdinfo", &["--size", &nbd_uri(&socket, &old)]);
    world.send("a", ToServer::Release);
    world.wait("the release", || world.configuration().primary.is_none());
    let (_, other) = world.serve("b");
    for socket in [&socket, &other] {
        let output = std::process::Command::new("nbdinfo").arg(nbd_uri(socket, &old)).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains("superseded"), "{words}");
    }
}
