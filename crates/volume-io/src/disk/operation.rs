//! One disk operation, carried out by whichever thread has it.

use bytes::Bytes;
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, seek},
    io::{Errno, ReadWriteFlags, preadv2, pwritev2},
};
use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};
use tandem_volume::{DiskError, DiskOp, DiskOpId, DiskOutcome, LastWords, VolumeIndex};

use super::{SuperblockFile, memory_files::MemoryFiles};

/// A volume's raw image.
pub(crate) struct Image {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

/// What every thread that does disk operations sees.
pub(crate) struct Shared {
    /// In the order of [`VolumeIndex`].
    pub(crate) images: Vec<Image>,
    pub(crate) superblock: SuperblockFile,
    pub(crate) memory: MemoryFiles,
    /// An errno that every operation fails with; 0 for none.
    pub(crate) fault: AtomicI32,
    /// A write or sync failed: no later sync may succeed, because the kernel marks pages that failed to reach the disk
    /// clean (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
    pub(crate) broken: AtomicBool,
}

impl Shared {
    fn image(&self, volume: VolumeIndex) -> &Image {
        &self.images[usize::from(volume.0)]
    }

    fn injected(&self) -> Result<(), Errno> {
        match self.fault.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    /// Makes every image durable, at the end of the server. Where nothing is under way any more (`idle`), what is
    /// remembered is completed, and the superblock says that the run ended clean.
    ///
    /// # Errors
    ///
    /// Those of fdatasync(2) and of the stores, or the injected one.
    pub(crate) fn close(&self, idle: bool, last_words: impl FnOnce() -> Option<LastWords>) -> Result<(), Errno> {
        self.images.iter().try_for_each(|image| self.injected().and_then(|()| fdatasync(&image.file)))?;
        if !idle || self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(LastWords { stamps, activity }) = last_words() {
            self.memory.store_stamps(&stamps)?;
            self.memory.store_activity(&activity)?;
        }
        self.superblock.close()
    }

    /// The extents of a range: `(length, is_hole)` in order, at most `count`, covering at least one byte.
    ///
    /// # Errors
    ///
    /// Those of lseek(2) with `SEEK_DATA` and `SEEK_HOLE`.
    pub(crate) fn extents(
        &self,
        volume: VolumeIndex,
        offset: u64,
        length: u64,
        count: usize,
    ) -> Result<Vec<(u64, bool)>, Errno> {
        let file = &self.image(volume).file;
        let end = offset + length;
        let (mut at, mut extents) = (offset, Vec::new());
        while at < end && extents.len() < count {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                // No data behind `at`.
                Err(Errno::NXIO) => end,
                Err(error) => return Err(error),
            };
            let (until, is_hole) =
                if data > at { (data, true) } else { (seek(file, SeekFrom::Hole(at))?.min(end), false) };
            extents.push((until - at, is_hole));
            at = until;
        }
        Ok(extents)
    }
}

/// Reads what the page cache holds, without waiting for the device; `None` when it does not hold all of it.
pub(super) fn read_cached(shared: &Shared, volume: VolumeIndex, offset: u64, length: u32) -> Option<Bytes> {
    if shared.fault.load(Ordering::SeqCst) != 0 {
        return None;
    }
    let mut data = vec![0; length as usize];
    let count =
        preadv2(&shared.image(volume).file, &mut [IoSliceMut::new(&mut data)], offset, ReadWriteFlags::NOWAIT).ok()?;
    (count == data.len()).then(|| data.into())
}

/// Carries `op` out, however long the device takes.
pub(super) fn execute(shared: &Shared, op: DiskOp) -> (DiskOpId, DiskOutcome) {
    match op {
        DiskOp::Read { op, volume, offset, length } => {
            let image = shared.image(volume);
            let outcome = match shared.injected().and_then(|()| read(&image.file, offset, length)) {
                Ok(data) => DiskOutcome::Data(data),
                Err(errno) => failed("read", &image.path, offset, errno),
            };
            (op, outcome)
        }
        DiskOp::Write { op, volume, offset, data, durable } => {
            let image = shared.image(volume);
            let result = shared.injected().and_then(|()| write(&image.file, offset, &data, durable));
            (op, changed(shared, "write", &image.path, offset, result))
        }
        DiskOp::Zero { op, volume, offset, length, durable, keep_allocated } => {
            let image = shared.image(volume);
            let result = shared
                .injected()
                .and_then(|()| zero(&image.file, offset, length, keep_allocated))
                .and_then(|()| if durable { fdatasync(&image.file) } else { Ok(()) });
            (op, changed(shared, "zero", &image.path, offset, result))
        }
        DiskOp::Sync { op } => {
            for image in &shared.images {
                if shared.broken.load(Ordering::SeqCst) {
                    let why =
                        format!("{}: an earlier operation failed, nothing can be made durable", image.path.display());
                    return (op, DiskOutcome::Failed(DiskError::Io(why)));
                }
                let result = shared.injected().and_then(|()| fdatasync(&image.file));
                let outcome = changed(shared, "sync", &image.path, 0, result);
                if outcome != DiskOutcome::Done {
                    return (op, outcome);
                }
            }
            (op, DiskOutcome::Done)
        }
        DiskOp::StoreActivity { op, activity } => {
            let result = shared.injected().and_then(|()| shared.memory.store_activity(&activity));
            (op, changed(shared, "store", shared.memory.activity_path(), 0, result))
        }
        DiskOp::StoreStamps { op, stamps } => {
            let result = shared.injected().and_then(|()| shared.memory.store_stamps(&stamps));
            let volume = stamps.first().map_or(VolumeIndex(0), |(extent, _)| extent.volume);
            (op, changed(shared, "store", shared.memory.stamps_path(volume), 0, result))
        }
        DiskOp::StoreSuperblock { op, superblock } => {
            let outcome = match shared.injected().and_then(|()| shared.superblock.store(&superblock)) {
                Ok(()) => DiskOutcome::Done,
                Err(errno) => failed("store", shared.superblock.path(), 0, errno),
            };
            (op, outcome)
        }
    }
}

fn changed(shared: &Shared, action: &str, path: &Path, offset: u64, result: Result<(), Errno>) -> DiskOutcome {
    match result {
        Ok(()) => DiskOutcome::Done,
        Err(errno) => {
            shared.broken.store(true, Ordering::SeqCst);
            failed(action, path, offset, errno)
        }
    }
}

fn failed(action: &str, path: &Path, offset: u64, errno: Errno) -> DiskOutcome {
    // A full disk too: which one it is matters more than the number.
    DiskOutcome::Failed(DiskError::Io(format!("{}: {action} at byte {offset}: {errno}", path.display())))
}

fn read(file: &File, offset: u64, length: u32) -> Result<Bytes, Errno> {
    let mut data = vec![0; length as usize];
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pread(file, &mut data[done..], offset + done as u64) {
            // Somebody made the image shorter behind our back.
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(data.into())
}

fn write(file: &File, offset: u64, data: &[u8], durable: bool) -> Result<(), Errno> {
    let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    let mut done = 0;
    while done < data.len() {
        match pwritev2(file, &[IoSlice::new(&data[done..])], offset + done as u64, flags) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// fallocate(2) is exact to the byte: it zeroes the partial blocks at both ends itself.
fn zero(file: &File, offset: u64, length: u64, keep_allocated: bool) -> Result<(), Errno> {
    if length == 0 {
        return Ok(());
    }
    let how = if keep_allocated { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
    loop {
        match fallocate(file, how | FallocateFlags::KEEP_SIZE, offset, length) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return write_zeroes(file, offset, length),
            other => return other,
        }
    }
}

fn write_zeroes(file: &File, mut offset: u64, mut length: u64) -> Result<(), Errno> {
    let zeroes = vec![0; length.min(1 << 20) as usize];
    while length > 0 {
        let count = length.min(zeroes.len() as u64);
        write(file, offset, &zeroes[..count as usize], false)?;
        offset += count;
        length -= count;
    }
    Ok(())
}
