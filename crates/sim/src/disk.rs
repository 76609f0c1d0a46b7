//! A node's disk: a page cache over sectors, and the copies of the superblock.
//!
//! Faults, all of which a real disk under a page cache shows:
//! - a crash of the machine keeps any subset of the sectors that were not synced, each as of any write-back;
//! - an operation under way at a crash happened for any subset of its sectors;
//! - a failed write has written any subset of its sectors;
//! - a failed sync leaves the pages clean: the cache shows what the disk does not hold, and the next sync succeeds
//!   (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020);
//! - of the superblock's copies, which are written one after the other, one may be torn by a crash, those before it are
//!   new, those after it old;
//! - of the record of what is hot, the place that is being stored may be torn by a crash; of the stamps, any extent's that
//!   are being stored.

use std::{cmp::Reverse, collections::BTreeMap};

use tandem_base::Rng;
use tandem_volume::{
    meta::{Activity, Extent, ExtentStamps, Memory, activity::PLACES},
    superblock::{self, BLOCK_SIZE, COPIES},
};

/// Bytes that a disk writes or does not write, never in part.
pub(crate) const SECTOR: usize = 512;

/// What a sync promised, when it was issued.
#[derive(Clone)]
struct Sync {
    id: u64,
    /// Sectors to become durable; with the content of that instant where it was overwritten since.
    sectors: BTreeMap<usize, Option<Overwritten>>,
}

/// A sector as it was when a sync began, and which of its changes that was.
#[derive(Clone)]
struct Overwritten {
    version: u64,
    content: Box<[u8]>,
}

/// The image of every volume of the group, one after another, and the superblock's copies.
#[derive(Clone)]
pub(crate) struct Disk {
    cache: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<bool>,
    dirty_list: Vec<usize>,
    /// Counts the changes of each sector, in the cache and as of what is durable.
    version: Vec<u64>,
    durable_version: Vec<u64>,
    syncs: Vec<Sync>,
    copies: [Option<Vec<u8>>; COPIES],
    /// The places of the record; `None` is empty or torn.
    activity: [Option<Activity>; PLACES],
    /// The stamps of each extent; `None` is torn.
    stamps: BTreeMap<Extent, Option<ExtentStamps>>,
}

impl Disk {
    /// A fresh disk of `size` bytes, all zero.
    pub(crate) fn new(size: usize) -> Self {
        assert!(size.is_multiple_of(SECTOR), "an image is whole sectors");
        Self {
            cache: vec![0; size],
            durable: vec![0; size],
            dirty: vec![false; size / SECTOR],
            dirty_list: Vec::new(),
            version: vec![0; size / SECTOR],
            durable_version: vec![0; size / SECTOR],
            syncs: Vec::new(),
            copies: [const { None }; COPIES],
            activity: [const { None }; PLACES],
            stamps: BTreeMap::new(),
        }
    }

    /// What a reader of the image sees.
    pub(crate) fn cache(&self) -> &[u8] {
        &self.cache
    }

    /// What a crash would surely leave.
    pub(crate) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// Sectors in `offset..offset + length`, the last and first ones whole.
    fn sectors(offset: usize, length: usize) -> std::ops::Range<usize> {
        offset / SECTOR..(offset + length).div_ceil(SECTOR)
    }

    fn put(&mut self, sector: usize, from: usize, bytes: Option<&[u8]>, length: usize, rng: &mut Rng) {
        let range = sector * SECTOR..(sector + 1) * SECTOR;
        for sync in &mut self.syncs {
            if let Some(old @ None) = sync.sectors.get_mut(&sector) {
                let content = self.cache[range.clone()].into();
                *old = Some(Overwritten { version: self.version[sector], content });
            }
        }
        if self.dirty[sector] && rng.chance(1, 8) {
            // Written back just before it changes.
            self.durable[range.clone()].copy_from_slice(&self.cache[range]);
            self.durable_version[sector] = self.version[sector];
        }
        self.version[sector] += 1;
        match bytes {
            Some(bytes) => self.cache[from..from + length].copy_from_slice(&bytes[..length]),
            None => self.cache[from..from + length].fill(0),
        }
        if !self.dirty[sector] {
            self.dirty[sector] = true;
            self.dirty_list.push(sector);
        }
    }

    /// Writes `data`, or zeroes, as far as `keep` says for each sector.
    fn write_where(
        &mut self,
        offset: usize,
        data: Option<&[u8]>,
        length: usize,
        rng: &mut Rng,
        mut keep: impl FnMut(&mut Rng) -> bool,
    ) {
        for sector in Self::sectors(offset, length) {
            let from = (sector * SECTOR).max(offset);
            let to = ((sector + 1) * SECTOR).min(offset + length);
            if keep(rng) {
                self.put(sector, from, data.map(|data| &data[from - offset..]), to - from, rng);
            }
        }
    }

    /// A write of `data`, or of `length` zeroes, is done.
    pub(crate) fn write(&mut self, offset: usize, data: Option<&[u8]>, length: usize, durable: bool, rng: &mut Rng) {
        self.write_where(offset, data, length, rng, |_| true);
        if durable {
            for sector in Self::sectors(offset, length) {
                self.settle(sector);
            }
        }
    }

    /// A write failed, or was under way at a crash: any subset of its sectors is written.
    pub(crate) fn write_partly(&mut self, offset: usize, data: Option<&[u8]>, length: usize, rng: &mut Rng) {
        let share = rng.below(5);
        self.write_where(offset, data, length, rng, |rng| rng.below(4) < share);
    }

    pub(crate) fn read(&self, offset: usize, length: usize) -> &[u8] {
        &self.cache[offset..offset + length]
    }

    /// The cache of one sector reaches the disk.
    fn settle(&mut self, sector: usize) {
        let range = sector * SECTOR..(sector + 1) * SECTOR;
        self.durable[range.clone()].copy_from_slice(&self.cache[range]);
        self.durable_version[sector] = self.version[sector];
        self.clean(sector);
    }

    fn clean(&mut self, sector: usize) {
        if self.dirty[sector] {
            self.dirty[sector] = false;
            self.dirty_list.retain(|dirty| *dirty != sector);
        }
    }

    /// A sync begins: it will cover what is complete now.
    pub(crate) fn sync_begin(&mut self, id: u64) {
        let sectors = self.dirty_list.iter().map(|sector| (*sector, None)).collect();
        self.syncs.push(Sync { id, sectors });
    }

    /// The sync is done. A sector that was overwritten meanwhile reaches the disk as of either instant.
    pub(crate) fn sync_end(&mut self, id: u64, rng: &mut Rng) {
        let Some(sync) = self.take_sync(id) else { return };
        for (sector, old) in sync.sectors {
            match old {
                Some(Overwritten { version, content }) if rng.chance(1, 2) => {
                    if version > self.durable_version[sector] {
                        self.durable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&content);
                        self.durable_version[sector] = version;
                    }
                }
                _ => self.settle(sector),
            }
        }
    }

    /// The sync failed: its pages are clean, some without having reached the disk.
    pub(crate) fn sync_fail(&mut self, id: u64, rng: &mut Rng) {
        let Some(sync) = self.take_sync(id) else { return };
        for (sector, _) in sync.sectors {
            if rng.chance(1, 2) { self.settle(sector) } else { self.clean(sector) }
        }
    }

    fn take_sync(&mut self, id: u64) -> Option<Sync> {
        let at = self.syncs.iter().position(|sync| sync.id == id)?;
        Some(self.syncs.swap_remove(at))
    }

    /// The process that used the disk is gone; the page cache stays.
    pub(crate) fn process_died(&mut self) {
        self.syncs.clear();
    }

    /// Power is lost: of the dirty sectors any subset survives, and the cache is gone.
    pub(crate) fn power_lost(&mut self, rng: &mut Rng) {
        self.syncs.clear();
        let share = rng.below(5);
        for sector in std::mem::take(&mut self.dirty_list) {
            self.dirty[sector] = false;
            if rng.below(4) < share {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                self.durable[range.clone()].copy_from_slice(&self.cache[range]);
            }
        }
        self.cache.copy_from_slice(&self.durable);
        self.version.fill(0);
        self.durable_version.fill(0);
    }

    /// The copies of the superblock as they can be read.
    pub(crate) fn superblocks(&self) -> &[Option<Vec<u8>>; COPIES] {
        &self.copies
    }

    /// Every copy holds `block` durably.
    pub(crate) fn store_superblock(&mut self, block: &[u8; BLOCK_SIZE]) {
        self.copies = [const { None }; COPIES].map(|_: Option<()>| Some(block.to_vec()));
    }

    /// Copy `index` is written again.
    pub(crate) fn repair_superblock(&mut self, index: usize, block: &[u8; BLOCK_SIZE]) {
        self.copies[index] = Some(block.to_vec());
    }

    /// The store was under way at a crash. The very first one makes a file beside and renames it: all or nothing.
    pub(crate) fn store_superblock_partly(&mut self, block: &[u8; BLOCK_SIZE], rng: &mut Rng) {
        if self.copies[0].is_none() {
            if rng.chance(1, 2) {
                self.store_superblock(block);
            }
            return;
        }
        let reached = rng.below(COPIES as u64 + 1) as usize;
        // Two bad copies are nobody's to survive: while a later one is bad, this one is not torn.
        let bad = |copy: &Option<Vec<u8>>| copy.as_ref().is_some_and(|copy| superblock::decode(copy).is_err());
        let torn = !self.copies.iter().skip(reached + 1).any(bad);
        for (index, copy) in self.copies.iter_mut().enumerate().take(reached + 1) {
            let old = copy.get_or_insert_with(|| vec![0; BLOCK_SIZE]);
            for sector in 0..BLOCK_SIZE / SECTOR {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                if index < reached || (torn && rng.chance(1, 2)) {
                    old[range.clone()].copy_from_slice(&block[range]);
                }
            }
        }
    }

    /// What is remembered, as it can be read.
    pub(crate) fn memory(&self) -> Memory {
        let newest = self.activity.iter().flatten().min_by_key(|activity| Reverse(activity.sequence));
        let stamps = self.stamps.iter().map(|(extent, stamps)| (*extent, stamps.clone()));
        Memory { activity: newest.cloned(), stamps: stamps.collect() }
    }

    pub(crate) fn store_activity(&mut self, activity: &Activity) {
        self.activity[activity.place()] = Some(activity.clone());
    }

    /// The store was under way at a crash.
    pub(crate) fn store_activity_partly(&mut self, activity: &Activity, rng: &mut Rng) {
        match rng.below(3) {
            0 => {}
            1 => self.activity[activity.place()] = None,
            _ => self.store_activity(activity),
        }
    }

    pub(crate) fn store_stamps(&mut self, stamps: &[(Extent, ExtentStamps)]) {
        self.stamps.extend(stamps.iter().map(|(extent, stamps)| (*extent, Some(stamps.clone()))));
    }

    /// The store was under way at a crash.
    pub(crate) fn store_stamps_partly(&mut self, stamps: &[(Extent, ExtentStamps)], rng: &mut Rng) {
        for (extent, stamps) in stamps {
            match rng.below(5) {
                0 | 1 => {}
                2 => {
                    self.stamps.insert(*extent, None);
                }
                _ => {
                    self.stamps.insert(*extent, Some(stamps.clone()));
                }
            }
        }
    }

    /// The stamps of one extent, or the record, become unreadable.
    pub(crate) fn rot_memory(&mut self, rng: &mut Rng) {
        let count = self.stamps.len() as u64;
        if count > 0 && rng.chance(3, 4) {
            if let Some(stamps) = self.stamps.values_mut().nth(rng.below(count) as usize) {
                *stamps = None;
            }
        } else {
            self.activity = [const { None }; PLACES];
        }
    }

    /// One copy becomes unreadable.
    pub(crate) fn rot_superblock(&mut self, rng: &mut Rng) {
        if let Some(copy) = &mut self.copies[rng.below(COPIES as u64) as usize] {
            copy[rng.below(BLOCK_SIZE as u64) as usize] ^= 1 << rng.below(8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_sync_survives_a_crash_for_sure() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::new(4 * SECTOR);
            disk.write(0, Some(&[1; SECTOR]), SECTOR, false, &mut rng);
            disk.sync_begin(1);
            disk.write(SECTOR, Some(&[2; SECTOR]), SECTOR, false, &mut rng);
            disk.write(2 * SECTOR, Some(&[3; SECTOR]), SECTOR, true, &mut rng);
            disk.sync_end(1, &mut rng);
            disk.power_lost(&mut rng);
            assert_eq!(disk.read(0, 1), [1]);
            assert_eq!(disk.read(2 * SECTOR, 1), [3]);
            if disk.read(SECTOR, 1) == [2] { kept += 1 } else { lost += 1 }
        }
        assert!(lost > 20 && kept > 20, "{lost} {kept}");
    }

    #[test]
    fn a_failed_sync_leaves_pages_that_a_second_sync_does_not_write() {
        let lost = (0..100).any(|seed| {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::new(SECTOR);
            disk.write(0, Some(&[1; SECTOR]), SECTOR, false, &mut rng);
            disk.sync_begin(1);
            disk.sync_fail(1, &mut rng);
            disk.sync_begin(2);
            disk.sync_end(2, &mut rng);
            assert_eq!(disk.read(0, 1), [1]);
            disk.power_lost(&mut rng);
            disk.read(0, 1) == [0]
        });
        assert!(lost, "some seed must lose the page");
    }
}
