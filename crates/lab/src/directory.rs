//! Where a lab keeps its things on this machine.

use std::{
    fs::File,
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use serde::{Deserialize, Serialize};

use crate::{LabError, Topology, error::Doing};

/// Before a lab's name, so that `list` finds it and two programs do not meet.
const PREFIX: &str = "tandem-lab-";

/// What the supervisor needs to know; written by `up`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    /// Run in each node instead of founding, joining and the agent.
    pub(crate) instead_of_agent: Option<Vec<String>>,
    /// End with the process that built the lab.
    pub(crate) tied: bool,
    pub(crate) topology: Topology,
}

/// A lab's directory. Its paths are short, as a Unix socket's has at most 108 bytes (unix(7)).
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn new(base: &Path, name: &str) -> Result<Self, LabError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(fits) {
            return Err(LabError::Name(name.into()));
        }
        Ok(Self { path: base.join(format!("{PREFIX}{name}")) })
    }

    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The directories of all labs in `base`, with their names; leftovers included.
    pub(crate) fn all(base: &Path) -> io::Result<Vec<(String, Self)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(base)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)) {
                found.push((name.to_owned(), Self { path: entry.path() }));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Makes it, for this user alone; it may exist if it is this user's.
    pub(crate) fn create(&self) -> Result<(), LabError> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.path);
        match made {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => self.own(),
            made => made.doing(format!("make {}", self.path.display())),
        }
    }

    /// Refuses a directory that another user made: in a shared base he could aim this lab's files elsewhere.
    fn own(&self) -> Result<(), LabError> {
        let meta = std::fs::symlink_metadata(&self.path).doing(format!("look at {}", self.path.display()))?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(LabError::Foreign { path: self.path.clone() });
        }
        Ok(())
    }

    /// The lock that a living lab holds; `None` while another process holds it.
    pub(crate) fn lock(&self) -> Result<Option<File>, LabError> {
        let path = self.path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = open(&path, flags, Mode::from_raw_mode(0o600)).doing(format!("open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file.into())),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(cause) => Err(cause).doing(format!("lock {}", path.display())),
        }
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("ctl")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// What every node gets as `/etc/tandem`.
    pub(crate) fn plan(&self) -> PathBuf {
        self.path.join("plan")
    }

    fn spec_path(&self) -> PathBuf {
        self.path.join("lab.json")
    }

    pub(crate) fn write_spec(&self, spec: &Spec) -> Result<(), LabError> {
        let text = serde_json::to_vec_pretty(spec).expect("the type has only text keys");
        std::fs::write(self.spec_path(), text).doing(format!("write {}", self.spec_path().display()))
    }

    pub(crate) fn read_spec(&self) -> Result<Spec, LabError> {
        let path = self.spec_path();
        let text = std::fs::read(&path).doing(format!("read {}", path.display()))?;
        serde_json::from_slice(&text).map_err(io::Error::other).doing(format!("understand {}", path.display()))
    }

    /// What one host keeps: `var` and `etc` for its Tandem, `root` to build its root on, `log`.
    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.path.join("n").join(name)
    }

    /// The end of a log, for an error message.
    pub(crate) fn log_end(path: &Path) -> String {
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused() {
        for name in ["", "..", "a/b", "Lab", "a b", &"x".repeat(33)] {
            assert!(matches!(Directory::new(Path::new("/tmp"), name), Err(LabError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_lock_excludes_a_second_one() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::new(base.path(), "x").expect("a good name");
        directory.create().expect("made");
        directory.create().expect("it is ours");
        let held = directory.lock().expect("can lock");
        assert!(held.is_some());
        assert!(directory.lock().expect("can try").is_none());
        drop(held);
        assert!(directory.lock().expect("can lock again").is_some());
    }
}
