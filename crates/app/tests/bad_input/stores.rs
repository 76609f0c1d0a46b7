//! Images, superblocks and logs that are not what was written: refused with the reason, told to everybody, never
//! overwritten.

use crate::machine::{
    Machine,
    cluster::{Cluster, SIZE},
    said, wait_for,
};
use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("it is ours");
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).expect("it is ours");
}

fn bytes_at(path: &Path, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut file = fs::File::open(path).expect("it is ours");
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes)).expect("it is long enough");
    bytes
}

/// Everything of the replica but the lock.
fn contents(machine: &Machine) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(machine.replica()).expect("it is ours").map(|entry| entry.expect("it is ours"));
    let mut all: Vec<_> = entries
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| (entry.file_name().into_string().expect("text"), fs::read(entry.path()).expect("it is ours")))
        .collect();
    all.sort();
    all
}

#[test]
fn a_replica_that_is_not_what_was_written_is_refused_and_told_everywhere() {
    let mut cluster = Cluster::up(|_| ());
    let mut nbd = cluster.a1.initiator();
    let (image, superblock) = (cluster.b1.replica().join("disk.img"), cluster.b1.replica().join("superblock"));
    type Damage<'a> = &'a dyn Fn();
    let resize =
        |size| fs::OpenOptions::new().write(true).open(&image).and_then(|file| file.set_len(size)).expect("ours");
    let cases: [(&str, &str, Damage<'_>); 4] = [
        ("volume `disk`: ", "has 4096 bytes, the plan says 8 MiB (8388608 bytes)", &|| resize(4096)),
        ("volume `disk`: ", "has 8392704 bytes, the plan says 8 MiB (8388608 bytes)", &|| resize(SIZE + 4096)),
        ("superblock cannot be used: ", "of 4 copies are valid", &|| {
            for copy in 0..4 {
                overwrite(&superblock, copy * 4096 + 100, b"rot");
            }
        }),
        ("volume `disk`: ", "there is no superblock beside it", &|| fs::remove_file(&superblock).expect("it is ours")),
    ];
    for (number, (place, words, damage)) in cases.into_iter().enumerate() {
        cluster.b1.power_off();
        let good = contents(&cluster.b1);
        damage();
        let damaged = contents(&cluster.b1);
        cluster.b1.start_lab_agent();
        cluster.wait_status(&cluster.w1, words);
        let status = cluster.w1.says(&["status"]);
        let sentence = format!("group disk has a single copy, on a1; b1 is out of sync: {place}");
        assert!(status.contains(&sentence) || status.contains(place), "{status}");
        assert!(status.contains("move"), "the way out is told: {status}");
        wait_for("b1 says so itself", || {
            let volumes = said(&cluster.b1.run(&["volume", "status"]));
            volumes.contains("does not run: ") && volumes.contains(words)
        });
        assert!(contents(&cluster.b1) == damaged, "{words}: something was overwritten");
        nbd.write(number as u64 * 4096, &[number as u8 + 1; 4096]).expect("the volume goes on");
        // The way back: what was damaged is put back, and the server is tried again by itself.
        for (name, bytes) in good {
            fs::write(cluster.b1.replica().join(name), bytes).expect("it is ours");
        }
        cluster.wait_well();
    }
    // One bad copy of four is told in the journal, and mended.
    cluster.b1.power_off();
    let good = bytes_at(&superblock, 4096, 4096);
    overwrite(&superblock, 2 * 4096 + 100, b"rot");
    cluster.b1.start_lab_agent();
    cluster.wait_well();
    let events = cluster.a1.says(&["events"]);
    assert!(events.contains("metadata mended") && events.contains("1 of 4 copies of the superblock"), "{events}");
    cluster.b1.power_off();
    let mended = bytes_at(&superblock, 2 * 4096, 4096);
    assert_eq!(good[..8], mended[..8]);
    assert!(mended == bytes_at(&superblock, 4096, 4096), "all copies are alike again");
    cluster.b1.start_lab_agent();
    cluster.wait_well();
    // After all this the replica holds what the volume holds.
    cluster.a1.says(&["move", "disk", "--to", "b1"]);
    cluster.wait_served_on("b1");
    let mut nbd = cluster.b1.initiator();
    for number in 0..4u8 {
        let data = nbd.read(u64::from(number) * 4096, 4096).expect("it is served");
        assert!(data == [number + 1; 4096], "block {number}");
    }
}

#[test]
fn a_damaged_log_is_refused_and_the_node_comes_back_by_joining() {
    let mut cluster = Cluster::up(|_| ());
    let mut nbd = cluster.a1.initiator();
    nbd.write(0, &[7; 4096]).expect("it is served");
    cluster.b1.power_off();
    let store = cluster.b1.data_dir().join("cluster.redb");
    let whole = fs::read(&store).expect("it is ours");
    let flipped = {
        // Wherever the log lies: many bits of every page, since a page may be used in part.
        let mut bytes = whole.clone();
        bytes.iter_mut().skip(4096).step_by(24).for_each(|byte| *byte ^= 4);
        bytes
    };
    for (how, bytes) in [
        // In the first pages: the second half of a young log is room for more.
        ("cut", whole[..3 * 4096].to_vec()),
        ("bits flipped", flipped),
        ("zeroed", vec![0; whole.len()]),
        ("empty", Vec::new()),
    ] {
        fs::write(&store, &bytes).expect("it is ours");
        let agent = cluster.b1.run(&["agent"]);
        let text = said(&agent);
        assert!(
            !agent.status.success() && text.contains(&format!("{} is damaged: ", store.display())),
            "{how}: {text}"
        );
        assert!(text.contains("hint: move the file away, and run `tandem join` again"), "{how}: {text}");
        assert!(!text.contains("panicked"), "{how}: {text}");
        assert!(fs::read(&store).expect("it is ours") == bytes, "{how}: it was overwritten");
    }
    // The way out that was told.
    fs::rename(&store, store.with_extension("damaged")).expect("it is ours");
    let missing = cluster.b1.run(&["agent"]);
    let text = said(&missing);
    assert!(!missing.status.success() && text.contains("does not exist") && text.contains("tandem join"), "{text}");
    wait_for("its old session is over", || {
        let arguments = ["join", "--node", "b1", "--token", &cluster.token, "--address", "10.77.1.2"];
        cluster.b1.run(&arguments).status.success()
    });
    cluster.b1.start_lab_agent();
    cluster.wait_well();
    nbd.write(4096, &[8; 4096]).expect("the volume went on all the time");
}
