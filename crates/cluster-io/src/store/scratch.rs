//! A store's file as redb sees it, without a byte of it being changed: redb repairs and marks what it opens, also what it
//! then refuses.

use std::{
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

/// A copy of a file, in memory.
#[derive(Debug)]
pub(super) struct Scratch(Mutex<Vec<u8>>);

impl Scratch {
    /// Copies the file at `path`; `None` while another process has it open.
    pub(super) fn copy(path: &Path) -> io::Result<Option<Self>> {
        let file = std::fs::File::open(path)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut &file, &mut bytes)?;
        Ok(Some(Self(Mutex::new(bytes))))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The range that a call means, where the copy has it.
fn range(length: usize, offset: u64, count: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(count).filter(|end| *end <= length);
    end.map(|end| start..end).ok_or(io::ErrorKind::UnexpectedEof.into())
}

impl StorageBackend for Scratch {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        out.copy_from_slice(&bytes[range(bytes.len(), offset, out.len())?]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = self.bytes();
        // A damaged head may ask for anything.
        if let Some(more) = length.checked_sub(bytes.len()) {
            bytes.try_reserve(more).map_err(io::Error::other)?;
        }
        bytes.resize(length, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let range = range(bytes.len(), offset, data.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }
}
