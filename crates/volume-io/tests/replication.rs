//! Volume servers as processes: replication, tools, faults.

mod world;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};
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
            "--verify_state_save=0",
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
    let joined =
        world.log("b").iter().any(|message| matches!(message, FromServer::Note { kind: NoteKind::ResyncDone, .. }));
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
    // Impossible requests are answered with errors, half of one with nothing, and the connection with the magic missing
    // ends.
    let mut raw = Raw::connect(&socket);
    assert_eq!(raw.ask(0, SIZE, 512, &[]), libc::EINVAL);
    assert_eq!(raw.ask(0, 0, 33 << 20, &[]), libc::EINVAL);
    assert_eq!(raw.ask(1, SIZE - 256, 512, &[1; 512]), libc::ENOSPC);
    assert_eq!(raw.ask(4, u64::MAX, 512, &[]), libc::EINVAL);
    assert_eq!(raw.ask(99, 0, 0, &[]), libc::EINVAL);
    assert_eq!(raw.ask(1, 0, 512, &[1; 512]), 0);
    raw.0.write_all(&[0x25, 0x60, 0x95, 0x13, 0]).unwrap();
    let mut broken = Raw::connect(&socket);
    broken.0.write_all(&[0; 28]).unwrap();
    assert_eq!(broken.0.read(&mut [0; 16]).unwrap(), 0);
    tool("qemu-io", &["-f", "raw", "-c", "read -P 1 0 512", &nbd_uri(&socket, VOLUME)]);
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
        let output = std::process::Command::new("qemu-img").arg("info").arg(nbd_uri(socket, &old)).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains("superseded"), "{words}");
    }
}

/// An initiator without manners.
struct Raw(UnixStream);

impl Raw {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(world::PATIENCE)).unwrap();
        // EXPORT_NAME without zeroes: size and flags come back.
        let name = VOLUME.as_bytes();
        let option = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 1, 0, 0, 0, name.len() as u8], name].concat();
        stream.write_all(&option).unwrap();
        stream.read_exact(&mut [0; 18 + 10]).unwrap();
        Self(stream)
    }

    /// The error number of the reply to one request, which is not a read that succeeds.
    fn ask(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> i32 {
        let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
        bytes.extend(kind.to_be_bytes());
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).unwrap();
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        i32::from_be_bytes(reply[4..8].try_into().unwrap())
    }
}

/// Not a check but a figure: `cargo test --release -- --ignored --nocapture throughput`.
#[test]
#[ignore = "prints figures, checks nothing"]
fn throughput() {
    let world = World::start(&["a", "b"]);
    let (_, socket) = world.serve("a");
    let uri = nbd_uri(&socket, VOLUME);
    for (name, rw, size, depth) in
        [("4k-1", "randwrite", "4k", "1"), ("4k-32", "randwrite", "4k", "32"), ("1m-8", "write", "1m", "8")]
    {
        let figures = tool(
            "fio",
            &[
                &format!("--name={name}"),
                "--ioengine=nbd",
                &format!("--uri={uri}"),
                &format!("--rw={rw}"),
                &format!("--bs={size}"),
                &format!("--iodepth={depth}"),
                "--time_based",
                "--runtime=3",
                "--size=32m",
            ],
        );
        println!(
            "{}",
            figures
                .lines()
                .filter(|line| line.contains("IOPS") || line.contains("50.00th"))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
}
