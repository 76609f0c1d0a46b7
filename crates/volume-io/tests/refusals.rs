//! Disks that a server must not open: refused with the reason and the way out, and nothing is overwritten.

mod world;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};
use tandem_volume_io::{
    control::{FromServer, ToServer},
    server::Ack,
};
use world::{PATIENCE, VOLUME, World, program};

/// Starts a server that must refuse; what it says on the control socket and on stderr.
fn refused(world: &World) -> (String, String) {
    let config = &world.node("a").config;
    let child = Command::new(program())
        .args(["serve", &serde_json::to_string(config).unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(started.elapsed() < PATIENCE && !output.status.success());
    let said = || {
        world.log("a").iter().find_map(|message| match message {
            FromServer::Refused { why, hint } => Some(format!("{why} {}", hint.as_deref().expect("a way out"))),
            _ => None,
        })
    };
    world.wait("the agent to be told", || said().is_some());
    (said().expect("waited for"), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Everything in the directory but the lock.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}

/// A directory that was used once.
fn used() -> World {
    let world = World::prepare(&["a"], Ack::Memory);
    world.spawn("a");
    world.wait("the server to open", || world.log("a").iter().any(|m| matches!(m, FromServer::Opened { .. })));
    world.kill("a");
    world
}

#[test]
fn wrong_sizes_missing_files_and_corruption_are_refused() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("bytes, the plan says", |directory| {
            std::fs::OpenOptions::new()
                .write(true)
                .open(directory.join(format!("{VOLUME}.img")))
                .unwrap()
                .set_len(4096)
                .unwrap();
        }),
        ("is missing", |directory| std::fs::remove_file(directory.join(format!("{VOLUME}.img"))).unwrap()),
        ("there is no superblock", |directory| std::fs::remove_file(directory.join("superblock")).unwrap()),
        ("copies are valid", |directory| {
            let path = directory.join("superblock");
            let mut bytes = std::fs::read(&path).unwrap();
            for copy in [0, 1] {
                bytes[copy * 4096 + 100] ^= 1;
            }
            std::fs::write(path, bytes).unwrap();
        }),
    ];
    for (words, damage) in cases {
        let world = used();
        let directory = world.node("a").config.directory.clone();
        damage(&directory);
        let before = contents(&directory);
        let (said, printed) = refused(&world);
        assert!(said.contains(words), "{words}: {said}");
        assert!(printed.contains(words), "{words}: {printed}");
        assert!(contents(&directory) == before, "{words}: something was overwritten");
    }
}

#[test]
fn one_bad_copy_of_the_superblock_is_repaired() {
    let world = used();
    let path = world.node("a").config.directory.join("superblock");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * 4096 + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    world.spawn("a");
    world.wait("the server to open", || world.log("a").iter().any(|m| matches!(m, FromServer::Opened { .. })));
    world.kill("a");
    let bytes = std::fs::read(&path).unwrap();
    for copy in 0..4 {
        tandem_volume::superblock::decode(&bytes[copy * 4096..][..4096])
            .unwrap_or_else(|error| panic!("{copy}: {error}"));
    }
}

#[test]
fn a_run_that_ends_in_order_says_so_and_a_killed_one_does_not() {
    let world = World::prepare(&["a"], Ack::Memory);
    let path = world.node("a").config.directory.join("superblock");
    let clean = || {
        let bytes = std::fs::read(&path).unwrap();
        let copies = bytes.chunks(4096).map(|copy| tandem_volume::superblock::decode(copy).unwrap());
        copies.map(|superblock| superblock.clean).collect::<Vec<_>>()
    };
    let opened = || world.log("a").iter().any(|m| matches!(m, FromServer::Opened { .. }));
    world.spawn("a");
    world.wait("the server to open", opened);
    assert_eq!(clean(), [false; 4]);
    world.send("a", ToServer::Stop);
    let mut child = world.node("a").child.lock().unwrap().take().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(clean(), [true; 4]);
    world.spawn("a");
    world.wait("the server to open again", opened);
    assert_eq!(clean(), [false; 4], "a run that goes on is not clean");
    world.kill("a");
    assert_eq!(clean(), [false; 4]);
}

#[test]
fn an_interrupted_creation_begins_again() {
    let world = World::prepare(&["a"], Ack::Memory);
    let directory = &world.node("a").config.directory;
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("creating"), "").unwrap();
    std::fs::write(directory.join(format!("{VOLUME}.img")), "half").unwrap();
    world.spawn("a");
    world.wait("the server to open", || world.log("a").iter().any(|m| matches!(m, FromServer::Opened { .. })));
    assert!(!directory.join("creating").exists());
}

#[test]
fn two_servers_never_share_a_directory() {
    let world = used();
    world.spawn("a");
    world.wait("the server to open", || world.log("a").iter().any(|m| matches!(m, FromServer::Opened { .. })));
    let output = Command::new(program())
        .args(["serve", &serde_json::to_string(&world.node("a").config).unwrap()])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("in use by another"), "{words}");
    // The first one's sockets are still its own.
    world.status("a");
}
