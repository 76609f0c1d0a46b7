//! The file that holds the copies of the superblock.

use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tandem_volume::{
    Superblock,
    superblock::{BLOCK_SIZE, COPIES, encode},
};

/// `superblock`: [`COPIES`] copies of [`BLOCK_SIZE`] bytes.
///
/// A store writes one copy after the other, each durable before the next is begun, so that a crash at any instant
/// leaves all copies but one whole. The very first store writes a new file beside and renames it.
pub(crate) struct SuperblockFile {
    path: PathBuf,
    /// The lock also keeps stores one after the other.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` before the first store.
    file: Option<File>,
    /// What this run stored last.
    last: Option<Superblock>,
    /// The run has ended in order: nothing is stored any more.
    closed: bool,
}

impl SuperblockFile {
    pub(super) fn new(path: PathBuf, file: Option<File>) -> Self {
        Self { path, state: Mutex::new(State { file, ..State::default() }) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the copies of `file`, as [`tandem_volume::superblock::select`] takes them.
    pub(super) fn read(file: &File) -> io::Result<[Option<Vec<u8>>; COPIES]> {
        let length = file.metadata()?.len();
        let mut copies = [const { None }; COPIES];
        for (index, copy) in copies.iter_mut().enumerate() {
            let start = (index * BLOCK_SIZE) as u64;
            let mut block = vec![0; length.saturating_sub(start).min(BLOCK_SIZE as u64) as usize];
            if !block.is_empty() {
                file.read_exact_at(&mut block, start)?;
                *copy = Some(block);
            }
        }
        Ok(copies)
    }

    /// Writes the copies that `which` names again.
    pub(super) fn repair(&self, superblock: &Superblock, which: [bool; COPIES]) -> Result<(), Errno> {
        let state = self.state();
        let file = state.file.as_ref().ok_or(Errno::NOENT)?;
        let block = encode(superblock);
        which
            .iter()
            .enumerate()
            .filter(|(_, repair)| **repair)
            .try_for_each(|(index, _)| write_copy(file, index, &block))
    }

    /// Makes a majority of the copies hold `superblock`, durably.
    pub(super) fn store(&self, superblock: &Superblock) -> Result<(), Errno> {
        let mut state = self.state();
        if state.closed {
            return Err(Errno::SHUTDOWN);
        }
        self.write(&mut state, superblock)?;
        state.last = Some(superblock.clone());
        Ok(())
    }

    /// The run ends in order, and everything of it is durable: says so, and stores nothing any more. A run whose disk
    /// failed says nothing.
    pub(crate) fn close(&self) -> Result<(), Errno> {
        let mut state = self.state();
        state.closed = true;
        let Some(last) = state.last.take().filter(|last| !last.failed) else { return Ok(()) };
        let clean = Superblock { clean: true, sequence: last.sequence + 1, ..last };
        self.write(&mut state, &clean)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, superblock: &Superblock) -> Result<(), Errno> {
        let block = encode(superblock);
        let Some(existing) = state.file.as_ref() else {
            state.file = Some(
                create(&self.path, &block)
                    .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?,
            );
            return Ok(());
        };
        let results: [_; COPIES] = std::array::from_fn(|index| write_copy(existing, index, &block));
        let good = results.iter().filter(|result| result.is_ok()).count();
        match results.into_iter().find_map(Result::err) {
            Some(error) if good <= COPIES / 2 => Err(error),
            Some(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a copy of the superblock cannot be written");
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn write_copy(file: &File, index: usize, block: &[u8; BLOCK_SIZE]) -> Result<(), Errno> {
    let offset = (index * BLOCK_SIZE) as u64;
    match pwritev2(file, &[IoSlice::new(block)], offset, ReadWriteFlags::DSYNC) {
        Ok(BLOCK_SIZE) => Ok(()),
        Ok(_) => Err(Errno::NOSPC),
        Err(error) => Err(error),
    }
}

fn create(path: &Path, block: &[u8; BLOCK_SIZE]) -> io::Result<File> {
    let beside = path.with_extension("new");
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&beside)?;
    for _ in 0..COPIES {
        file.write_all(block)?;
    }
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}
