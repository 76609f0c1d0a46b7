//! What a service says on its standard outputs: a bounded file that the service writes itself, so that it outlives the
//! agent, and that the agent reads along.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the agent looks for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A line longer than this is cut into several.
const LINE_MAX: usize = 8 << 10;

/// Opens the file for a service to append to. Every write goes to the end as it then is (`O_APPEND`), so the file can
/// be truncated under a writer.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// Follows the file from `from` on: each line goes to `tracing`, and the file is kept below `size_max` bytes, with one
/// earlier file beside it (`.1`). Runs until it is aborted, and a last time when `ended` resolves.
///
/// Lines written between the copy and the truncation are lost; a service that must lose none writes its own log.
pub(crate) async fn follow(name: String, path: PathBuf, from: u64, size_max: u64, ended: impl Future<Output = ()>) {
    let mut follower = Follower { name, path, position: from, partial: Vec::new(), size_max };
    tokio::pin!(ended);
    loop {
        let last = tokio::select! {
            () = &mut ended => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        if let Err(error) = follower.look() {
            tracing::warn!(service = follower.name, path = %follower.path.display(), %error, "cannot follow the log");
        }
        if last {
            follower.say_partial();
            return;
        }
    }
}

struct Follower {
    name: String,
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
    size_max: u64,
}

impl Follower {
    /// Reads what is new; bounded by the file's size, which `size_max` bounds.
    fn look(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let size = file.metadata()?.len();
        if size < self.position {
            self.position = 0; // Somebody truncated it.
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut chunk = vec![0; 16 << 10];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            self.position += length as u64;
            self.take(&chunk[..length]);
        }
        if self.position > self.size_max {
            let mut earlier = self.path.clone().into_os_string();
            earlier.push(".1");
            std::fs::copy(&self.path, earlier)?;
            file.set_len(0)?;
            self.position = 0;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
            if *byte == b'\n' || self.partial.len() >= LINE_MAX {
                self.say_partial();
            }
        }
    }

    fn say_partial(&mut self) {
        if !self.partial.is_empty() {
            tracing::info!(target: "service", service = self.name, "{}", String::from_utf8_lossy(&self.partial));
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn the_file_stays_bounded_and_keeps_the_earlier_part() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log");
        let mut log = open(&path).expect("it can be made");
        log.write_all(&[b'x'; 3_000]).expect("there is space");
        follow("test".into(), path.clone(), 0, 1_000, async {}).await;
        assert_eq!(std::fs::metadata(&path).expect("it is there").len(), 0);
        assert_eq!(std::fs::metadata(directory.path().join("log.1")).expect("it is there").len(), 3_000);
        log.write_all(b"after\n").expect("there is space");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"after\n");
    }
}
