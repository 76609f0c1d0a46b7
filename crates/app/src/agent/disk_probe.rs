//! Whether a disk that failed takes writes again.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::task::JoinHandle;

/// What is written to try.
const BYTES: usize = 1 << 20;
/// How long a disk may take for it.
const WITHIN: Duration = Duration::from_secs(5);

/// Tries the file system that holds a replica, one try at a time: a disk may hang.
#[derive(Default)]
pub(super) struct DiskProbe {
    under_way: Option<JoinHandle<io::Result<()>>>,
    /// An error to pretend, as the volume server was told to; 0 for none.
    pub(super) pretend: i32,
}

impl DiskProbe {
    /// Writes a file into `directory`, makes it durable, and removes it.
    ///
    /// # Errors
    ///
    /// In words: what the disk said, or that it is silent.
    pub(super) async fn try_out(&mut self, directory: &Path) -> Result<(), String> {
        if self.pretend != 0 {
            return Err(io::Error::from_raw_os_error(self.pretend).to_string());
        }
        let path = directory.join("probe");
        let mut probe = self.under_way.take().unwrap_or_else(|| tokio::task::spawn_blocking(move || write(path)));
        match tokio::time::timeout(WITHIN, &mut probe).await {
            Ok(Ok(result)) => result.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                self.under_way = Some(probe);
                Err("a write to it does not end".into())
            }
        }
    }
}

fn write(path: PathBuf) -> io::Result<()> {
    let written = std::fs::File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0x5a; BYTES])?;
        file.sync_all()
    });
    // Also what was written of it: it is in the way of whoever makes room.
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_takes_writes_passes_and_keeps_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut probe = DiskProbe::default();
        assert_eq!(probe.try_out(directory.path()).await, Ok(()));
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is readable").count(), 0);
        probe.pretend = 28;
        let why = probe.try_out(directory.path()).await.expect_err("as it was told");
        assert!(why.contains("No space left"), "{why}");
        probe.pretend = 0;
        assert!(probe.try_out(&directory.path().join("gone")).await.is_err());
    }
}
