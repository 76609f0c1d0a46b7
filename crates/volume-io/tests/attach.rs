//! A volume as a file and as a block device. Needs root, /dev/fuse and loop devices, as the product does.

mod world;

use serde::Deserialize;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use tandem_base::Epoch;
use tandem_volume_io::control::ToServer;
use world::{PATIENCE, SIZE, VOLUME, World, name, program, tool};

#[derive(Deserialize)]
struct Ready {
    path: PathBuf,
    size: u64,
}

struct Attachment {
    child: Child,
    ready: Ready,
    mountpoint: PathBuf,
}

impl Attachment {
    fn new(kind: &str, world: &World, socket: &Path, promotion: Epoch) -> Self {
        let mountpoint = world.dir.path().join(format!("mnt-{}", promotion.number));
        let export = format!("{VOLUME}@{}.{:016x}", promotion.number, promotion.tag);
        let mut child = Command::new(program())
            .args([kind, socket.to_str().unwrap(), &export, mountpoint.to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = BufReader::new(stdout).read_line(&mut text);
            let _ = line.send(text);
        });
        let text = lines.recv_timeout(PATIENCE).expect("a readiness line");
        let ready = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        Self { child, ready, mountpoint }
    }

    fn end(mut self) {
        tool("kill", &[&self.child.id().to_string()]);
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the attachment does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(self.mountpoint.to_str().unwrap()), "{mounts}");
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A failed test leaves its mount.
        let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_file_reads_what_was_written_and_zeroed() {
    let world = World::start(&["a", "b"]);
    let (promotion, socket) = world.serve("a");
    let attachment = Attachment::new("attach-file", &world, &socket, promotion);
    assert_eq!((attachment.ready.size, attachment.ready.path.file_name().unwrap().to_str()), (SIZE, Some(VOLUME)));
    let file = File::options().read(true).write(true).open(&attachment.ready.path).unwrap();
    let data: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    file.write_all_at(&data, 777).unwrap();
    file.sync_data().unwrap();
    let path = attachment.ready.path.to_str().unwrap();
    tool("fallocate", &["--punch-hole", "--keep-size", "--offset", "1000000", "--length", "500001", path]);
    let mut expected = data;
    expected[1_000_000 - 777..][..500_001].fill(0);
    let mut found = vec![1; expected.len()];
    file.read_exact_at(&mut found, 777).unwrap();
    assert!(found == expected);
    assert_eq!(file.read_at(&mut [0; 10], SIZE - 4).unwrap(), 4);
    assert_eq!(file.write_at(&[0; 10], SIZE).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert!(file.set_len(SIZE * 2).is_err());
    drop(file);
    for node in ["a", "b"] {
        let mut image = vec![1; expected.len()];
        File::open(world.image(node)).unwrap().read_exact_at(&mut image, 777).unwrap();
        assert!(image == expected, "{node}");
    }
    attachment.end();
}

/// A lease that ends stalls writes; one that comes back lets them go on; a takeover makes them fail.
#[test]
fn a_file_stalls_without_a_lease_and_fails_after_a_takeover() {
    let world = World::start(&["a", "b"]);
    let (promotion, socket) = world.serve("a");
    let attachment = Attachment::new("attach-file", &world, &socket, promotion);
    let path = attachment.ready.path.clone();
    let write = move || {
        let (done, result) = mpsc::channel();
        let path = path.clone();
        std::thread::spawn(move || {
            let file = File::options().write(true).open(path).unwrap();
            let _ = done.send(file.write_all_at(b"x", 0).and_then(|()| file.sync_data()));
        });
        result
    };
    write().recv_timeout(PATIENCE).unwrap().unwrap();
    world.cut("a");
    world.wait("the freeze", || world.status("a").frozen.is_some());
    let stalled = write();
    assert!(stalled.recv_timeout(Duration::from_secs(1)).is_err(), "it was answered without a lease");
    world.reach("a");
    stalled.recv_timeout(PATIENCE).unwrap().unwrap();

    world.cut("a");
    world.wait("the freeze", || world.status("a").frozen.is_some());
    let lost = write();
    world.expire("a");
    world.serve("b");
    world.reach("a");
    let error = lost.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let error = write().recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_ne!(world.configuration().primary.unwrap().node, name("a"));
    attachment.end();
}

#[test]
fn a_device_carries_a_file_system_and_goes_away() {
    let world = World::start(&["a", "b"]);
    let (promotion, socket) = world.serve("a");
    let attachment = Attachment::new("attach-device", &world, &socket, promotion);
    let device = attachment.ready.path.to_str().unwrap().to_string();
    tool("mkfs.ext4", &["-q", "-F", &device]);
    let at = world.dir.path().join("fs");
    std::fs::create_dir(&at).unwrap();
    tool("mount", &[&device, at.to_str().unwrap()]);
    std::fs::write(at.join("hello"), "world").unwrap();
    tool("sync", &["-f", at.to_str().unwrap()]);
    tool("umount", &[at.to_str().unwrap()]);
    attachment.end();
    let backing = format!("/sys/block/{}/loop/backing_file", device.trim_start_matches("/dev/"));
    world.wait("the device to be free", || !Path::new(&backing).exists());
    // At the other replica the file system is whole.
    world.send("a", ToServer::Release);
    world.wait("the release", || world.configuration().primary.is_none());
    let (promotion, socket) = world.serve("b");
    let attachment = Attachment::new("attach-device", &world, &socket, promotion);
    tool("mount", &[attachment.ready.path.to_str().unwrap(), at.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(at.join("hello")).unwrap(), "world");
    tool("umount", &[at.to_str().unwrap()]);
    attachment.end();
}

#[test]
fn a_killed_device_driver_leaves_no_device() {
    let world = World::start(&["a", "b"]);
    let (promotion, socket) = world.serve("a");
    let mut attachment = Attachment::new("attach-device", &world, &socket, promotion);
    let device = attachment.ready.path.to_str().unwrap().to_string();
    // Dirty pages that nobody can write back any more.
    tool("dd", &["if=/dev/urandom", &format!("of={device}"), "bs=1M", "count=4", "conv=notrunc", "status=none"]);
    attachment.child.kill().unwrap();
    attachment.child.wait().unwrap();
    let backing = format!("/sys/block/{}/loop/backing_file", device.trim_start_matches("/dev/"));
    world.wait("the device to be free", || !Path::new(&backing).exists());
    // The next attachment takes the dead mount away.
    let again = Attachment::new("attach-file", &world, &socket, promotion);
    again.end();
}
