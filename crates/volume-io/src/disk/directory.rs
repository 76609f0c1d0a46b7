//! Opening a replica's directory: everything is checked before anything is written.

use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicI32},
};
use tandem_base::{ByteSize, VolumeName};
use tandem_volume::{
    ReplicaConfig, Superblock,
    meta::Memory,
    superblock::{self, Selected, SuperblockError},
};

use super::{
    SuperblockFile,
    memory_files::MemoryFiles,
    operation::{Image, Shared},
};

/// Why the disks of a replica cannot be opened. Nothing was overwritten. The cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskOpenError {
    /// Another server has it.
    #[error("{0} is in use by another volume server")]
    InUse(PathBuf),
    /// A system call failed.
    #[error("cannot {action} {path}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: io::Error,
    },
    /// An image's size is not its volume's.
    #[error("volume `{volume}`: {path} has {found} bytes, the plan says {expected} ({} bytes)", .expected.as_u64())]
    Size {
        /// The volume.
        volume: VolumeName,
        /// The image.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The plan's.
        expected: ByteSize,
    },
    /// The superblock is there and an image is not.
    #[error("volume `{volume}`: {path} is missing, though the directory was used before (its superblock is there)")]
    ImageMissing {
        /// The volume.
        volume: VolumeName,
        /// The image.
        path: PathBuf,
    },
    /// An image is there and the superblock is not.
    #[error("volume `{volume}`: {path} exists, but there is no superblock beside it, so nobody knows what it holds")]
    SuperblockMissing {
        /// The volume.
        volume: VolumeName,
        /// The image.
        path: PathBuf,
    },
    /// The superblock cannot be used.
    #[error("{path} cannot be used")]
    Superblock {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: SuperblockError,
    },
}

impl DiskOpenError {
    /// The way out.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse(_) => Some("stop the other volume server first; it may outlive the agent that started it"),
            Self::System { .. } => None,
            Self::Size { .. } => Some(
                "give the volume this size in the plan, or move the image away together with the superblock: an empty replica is then made and resynced",
            ),
            Self::ImageMissing { .. } => {
                Some("put the image back, or move the superblock away too: an empty replica is then made and resynced")
            }
            Self::SuperblockMissing { .. } => Some(
                "put the superblock back, or move the image away: an empty replica is then made and resynced from a good one",
            ),
            Self::Superblock { .. } => Some(
                "move the superblock and the images away: an empty replica is then made and resynced from a good one",
            ),
        }
    }
}

/// What a directory holds.
pub(crate) struct Opened {
    pub(crate) shared: Shared,
    /// `None` where nothing was ever stored.
    pub(crate) stored: Option<(Superblock, Memory)>,
    /// What was damaged, and what becomes of it.
    pub(crate) repaired: Option<String>,
}

/// A replica's directory, locked for as long as this lives.
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates it when missing and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, DiskOpenError> {
        fs::create_dir_all(path).map_err(system("create", path))?;
        let lock = path.join("lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&lock).map_err(system("open", &lock))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskOpenError::InUse(path.to_path_buf())),
            Err(error) => Err(system("lock", &lock)(error.into())),
        }
    }

    /// Opens images and superblock, or creates the images (sparse) where neither exists; the superblock follows with
    /// the engine's first store. A marker tells images of an interrupted creation, which were never used, from
    /// images that lost their superblock.
    pub(crate) fn open(&self, config: &ReplicaConfig) -> Result<Opened, DiskOpenError> {
        let superblock_path = self.path.join("superblock");
        let (file, stored) = self.read_superblock(&superblock_path, config)?;
        let marker = self.path.join("creating");
        let interrupted = marker.exists();
        let fresh = stored.is_none();
        let images: Vec<_> =
            config.volumes.iter().map(|volume| (volume, self.path.join(format!("{}.img", volume.name)))).collect();
        if fresh {
            if let Some((volume, path)) = images.iter().find(|(_, path)| path.exists() && !interrupted) {
                return Err(DiskOpenError::SuperblockMissing { volume: volume.name.clone(), path: path.clone() });
            }
            File::create(&marker).and_then(|file| file.sync_all()).map_err(system("create", &marker))?;
        }
        let mut opened = Vec::new();
        for (volume, path) in images {
            let file = match File::options().read(true).write(true).create(fresh).truncate(fresh).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(DiskOpenError::ImageMissing { volume: volume.name.clone(), path });
                }
                Err(error) => return Err(system("open", &path)(error)),
            };
            if fresh {
                file.set_len(volume.size).and_then(|()| file.sync_all()).map_err(system("create", &path))?;
            }
            let found = file.metadata().map_err(system("read", &path))?.len();
            if found != volume.size {
                let expected = ByteSize::new(volume.size);
                return Err(DiskOpenError::Size { volume: volume.name.clone(), path, found, expected });
            }
            if stored.as_ref().is_some_and(|(stored, _)| !stored.clean) {
                forget_cache(&file).map_err(system("write out", &path))?;
            }
            opened.push(Image { file, path });
        }
        let memory_files = MemoryFiles::open(&self.path, config, fresh)
            .map_err(|(path, cause)| DiskOpenError::System { action: "open", path, cause })?;
        let memory =
            memory_files.load().map_err(|(path, cause)| DiskOpenError::System { action: "read", path, cause })?;
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(system("sync", &self.path))?;
        let superblock = SuperblockFile::new(superblock_path, file);
        let mut repaired = None;
        if let Some((stored, repair)) = &stored {
            let bad = repair.iter().filter(|bad| **bad).count();
            if bad > 0 {
                let path = superblock.path().display();
                repaired = Some(format!(
                    "{path}: {bad} of {} copies of the superblock were damaged or old",
                    superblock::COPIES
                ));
            }
            if memory.activity.is_none() {
                let path = memory_files.activity_path().display();
                let why = format!("{path} holds no record that can be read: nothing is known of what the images hold");
                repaired = Some(repaired.map_or(why.clone(), |before| format!("{before}; {why}")));
            }
            superblock.repair(stored, *repair).map_err(|error| system("repair", superblock.path())(error.into()))?;
            self.settle()?;
        }
        let (fault, broken) = (AtomicI32::new(0), AtomicBool::new(false));
        let shared = Shared { images: opened, superblock, memory: memory_files, fault, broken };
        Ok(Opened { shared, stored: stored.map(|(stored, _)| (stored, memory)), repaired })
    }

    /// Call when a superblock is durable: from now on the images count.
    pub(crate) fn settle(&self) -> Result<(), DiskOpenError> {
        let marker = self.path.join("creating");
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", &marker)(error)),
            _ => Ok(()),
        }
    }

    #[allow(clippy::type_complexity)]
    fn read_superblock(
        &self,
        path: &Path,
        config: &ReplicaConfig,
    ) -> Result<(Option<File>, Option<(Superblock, [bool; superblock::COPIES])>), DiskOpenError> {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
            Err(error) => return Err(system("open", path)(error)),
        };
        let copies = SuperblockFile::read(&file).map_err(system("read", path))?;
        let unusable = |cause| DiskOpenError::Superblock { path: path.to_path_buf(), cause };
        match superblock::select(&copies).map_err(unusable)? {
            // An empty file is as good as none: the first store replaces it.
            Selected::Fresh => Ok((None, None)),
            Selected::Found { superblock, repair } => {
                superblock::check(&superblock, config).map_err(unusable)?;
                Ok((Some(file), Some((superblock, repair))))
            }
        }
    }
}

/// Has everything read from the device again. The run before may have met a page that did not reach the disk: the kernel
/// keeps it, marked clean, and a comparison with another replica would find what is not there (Rebello et al., "Can
/// Applications Recover from fsync Failures?", ATC 2020). What is still dirty is written first, since only clean pages go
/// (posix_fadvise(2)).
fn forget_cache(image: &File) -> io::Result<()> {
    image.sync_data()?;
    Ok(rustix::fs::fadvise(image, 0, None, rustix::fs::Advice::DontNeed)?)
}

fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskOpenError {
    let path = path.to_path_buf();
    move |cause| DiskOpenError::System { action, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    use std::io::IoSliceMut;

    #[test]
    fn what_the_cache_held_is_read_from_the_device_again() {
        // Beside the sources: where temporary files are kept in memory there is no device to read from.
        let place = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"));
        fs::create_dir_all(place).expect("a build directory");
        let directory = tempfile::tempdir_in(place).expect("it is writable");
        let path = directory.path().join("image");
        fs::write(&path, vec![7; 1 << 20]).expect("it is writable");
        let image = File::options().read(true).write(true).open(&path).expect("it was written");
        let cached = || {
            let mut byte = [0];
            preadv2(&image, &mut [IoSliceMut::new(&mut byte)], 512 << 10, ReadWriteFlags::NOWAIT).map(|_| byte[0])
        };
        assert_eq!(cached(), Ok(7));
        forget_cache(&image).expect("the disk works");
        assert_eq!(cached(), Err(Errno::AGAIN));
    }
}
