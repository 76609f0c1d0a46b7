//! The superblock: round trips, damaged copies, and a vector that must never change.

use proptest::prelude::*;
use tandem_base::{ClusterId, Epoch, OpenId};
use tandem_volume::{
    ReplicaConfig, Superblock, VolumeSpec,
    superblock::{BLOCK_SIZE, CopyError, Selected, SuperblockError, check, decode, encode, select},
};

fn example(sequence: u64) -> Superblock {
    Superblock {
        cluster: ClusterId(0x0102),
        group: "ledger".parse().expect("a name"),
        node: "r1".parse().expect("a name"),
        sequence,
        promised: Epoch { number: 5, tag: 6 },
        open: OpenId(7),
        previous: vec![OpenId(8), OpenId(9)],
        member: true,
        clean: false,
        failed: true,
        volumes: vec![VolumeSpec { name: "ledger".parse().expect("a name"), size: 64 << 20 }],
    }
}

fn copy(sequence: u64) -> Option<Vec<u8>> {
    Some(encode(&example(sequence)).to_vec())
}

fn damaged(sequence: u64) -> Option<Vec<u8>> {
    copy(sequence).map(|mut copy| {
        copy[600] ^= 1;
        copy
    })
}

#[test]
fn the_layout_holds() {
    let block = encode(&example(9));
    assert_eq!(&block[0..8], b"TANDEMSB");
    assert_eq!(block[8..16], [1, 0, 6, 0, 1, 0, 0, 0]);
    assert_eq!(block[16..24], 9u64.to_le_bytes());
    assert_eq!(block[24..40], 0x0102u128.to_le_bytes());
    assert_eq!(
        block[40..72],
        [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(&block[72..80], b"\x06ledger\0");
    assert_eq!(&block[136..140], b"\x02r1\0");
    assert_eq!(block[512..528], [8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert!(block[200..512].iter().chain(&block[528..1024]).all(|byte| *byte == 0), "reserved or empty");
    assert_eq!(&block[1024..1031], b"\x06ledger");
    assert_eq!(block[1088..1096], (64u64 << 20).to_le_bytes());
    assert_eq!(u32::from_le_bytes(block[4092..].try_into().expect("4 bytes")), CHECKSUM);
    assert_eq!(decode(&block), Ok(example(9)));
}

/// Computed by another implementation.
const CHECKSUM: u32 = 782232545;

#[test]
fn the_newest_of_a_majority_counts_and_the_rest_is_repaired() {
    assert_eq!(select(&[None, None, None, None]), Ok(Selected::Fresh));
    assert_eq!(select(&[None, Some(vec![0; BLOCK_SIZE]), None, Some(vec![])]), Ok(Selected::Fresh));
    let found = |superblock, repair| Ok(Selected::Found { superblock: example(superblock), repair });
    assert_eq!(select(&[copy(4), copy(4), copy(4), copy(4)]), found(4, [false; 4]));
    assert_eq!(select(&[copy(5), copy(4), copy(4), copy(4)]), found(5, [false, true, true, true]));
    assert_eq!(select(&[damaged(5), copy(4), copy(4), copy(4)]), found(4, [true, false, false, false]));
    assert_eq!(select(&[None, copy(4), copy(5), copy(4)]), found(5, [true, true, false, true]));
}

#[test]
fn a_store_that_was_never_finished_is_fresh_but_losses_are_corruption() {
    assert_eq!(select(&[copy(1), copy(1), None, None]), Ok(Selected::Fresh));
    for copies in [
        [copy(2), copy(2), None, None],
        [damaged(1), None, None, None],
        [damaged(3), damaged(3), copy(3), copy(3)],
        [Some(b"something else".to_vec()), None, None, None],
        [Some(vec![9; BLOCK_SIZE]), copy(1), copy(1), None],
    ] {
        assert!(matches!(select(&copies), Err(SuperblockError::Corrupt { .. })), "{copies:?}");
    }
}

#[test]
fn a_newer_format_is_named() {
    let mut block = encode(&example(3));
    block[8] = 2;
    let checksum = crc32c::crc32c(&block[..4092]);
    block[4092..].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(decode(&block), Err(CopyError::Format(2)));
    let copies = [Some(block.to_vec()), copy(2), copy(2), copy(2)];
    assert_eq!(select(&copies), Err(SuperblockError::Newer(2)));
}

#[test]
fn a_foreign_superblock_is_refused_by_name_of_the_field() {
    let config = |cluster, size| {
        let volumes = vec![VolumeSpec { name: "ledger".parse().expect("a name"), size }];
        let (group, node) = ("ledger".parse().expect("a name"), "r1".parse().expect("a name"));
        ReplicaConfig::new(ClusterId(cluster), group, node, Default::default(), volumes)
    };
    assert_eq!(check(&example(1), &config(0x0102, 64 << 20)), Ok(()));
    let what = |result| match result {
        Err(SuperblockError::Foreign { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(check(&example(1), &config(0x0103, 64 << 20))), "cluster");
    assert_eq!(what(check(&example(1), &config(0x0102, 32 << 20))), "list of volumes");
}

proptest! {
    #[test]
    fn any_single_bit_matters(at in 0..BLOCK_SIZE, bit in 0..8u8) {
        let mut block = encode(&example(3));
        block[at] ^= 1 << bit;
        prop_assert!(decode(&block).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut block in prop::collection::vec(any::<u8>(), BLOCK_SIZE), sound in any::<bool>()) {
        if sound {
            block[..10].copy_from_slice(b"TANDEMSB\x01\0");
            block[10] &= 7;
            block[11] = 0;
            block[13..16].fill(0);
            let checksum = crc32c::crc32c(&block[..4092]);
            block[4092..].copy_from_slice(&checksum.to_le_bytes());
        }
        let _ = decode(&block);
    }

    #[test]
    fn what_is_stored_is_read(
        sequence: u64, cluster: u128, number: u64, tag: u64, open: u64, clean: bool, failed: bool,
        member: bool, previous in prop::collection::vec(any::<u64>(), 0..=64),
        sizes in prop::collection::vec(any::<u64>(), 0..=32),
    ) {
        let volume = |(index, size): (usize, &u64)| VolumeSpec {
            name: format!("v{index}{}", "x".repeat(60 - index)).parse().expect("a name"),
            size: *size,
        };
        let superblock = Superblock {
            cluster: ClusterId(cluster),
            sequence,
            promised: Epoch { number, tag },
            open: OpenId(open),
            previous: previous.into_iter().map(OpenId).collect(),
            member,
            clean,
            failed,
            volumes: sizes.iter().enumerate().map(volume).collect(),
            ..example(1)
        };
        prop_assert_eq!(decode(&encode(&superblock)), Ok(superblock));
    }
}
