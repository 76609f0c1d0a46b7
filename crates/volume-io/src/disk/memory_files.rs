//! The files that hold what a replica remembers of its content: the record of what is hot, and the stamps.

use rustix::{
    fs::{SeekFrom, fdatasync, seek},
    io::{Errno, ReadWriteFlags, pwritev2},
};
use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tandem_volume::{
    ReplicaConfig, VolumeIndex,
    meta::{
        Activity, Extent, ExtentStamps, Memory,
        activity::{self, PLACES, RECORD_SIZE, STAMPS_SIZE, TWINS},
    },
};

/// `activity`, and `<volume>.stamps` for each volume, beside the images.
pub(crate) struct MemoryFiles {
    activity: (File, PathBuf),
    /// In the order of [`VolumeIndex`].
    stamps: Vec<(File, PathBuf)>,
}

/// Extents whose stamps are read at once.
const BATCH: usize = 1024;

impl MemoryFiles {
    /// Opens the files in `directory`, and makes those that are missing; `fresh` empties what an interrupted creation left.
    pub(super) fn open(directory: &Path, config: &ReplicaConfig, fresh: bool) -> Result<Self, (PathBuf, io::Error)> {
        let open = |path: PathBuf, size: u64| {
            let opened =
                File::options().read(true).write(true).create(true).truncate(fresh).open(&path).and_then(|file| {
                    if file.metadata()?.len() < size {
                        file.set_len(size)?;
                        file.sync_all()?;
                    }
                    Ok(file)
                });
            match opened {
                Ok(file) => Ok((file, path)),
                Err(error) => Err((path, error)),
            }
        };
        let activity = open(directory.join("activity"), (PLACES * TWINS * RECORD_SIZE) as u64)?;
        let extents = |size: u64| size.div_ceil(config.grain.extent()) * STAMPS_SIZE as u64;
        let stamps = config
            .volumes
            .iter()
            .map(|volume| open(directory.join(format!("{}.stamps", volume.name)), extents(volume.size)));
        Ok(Self { activity, stamps: stamps.collect::<Result<_, _>>()? })
    }

    /// What they hold. What cannot be understood is as good as nothing; what cannot be read is an error.
    pub(super) fn load(&self) -> Result<Memory, (PathBuf, io::Error)> {
        let (file, path) = &self.activity;
        let mut records = vec![0; PLACES * TWINS * RECORD_SIZE];
        file.read_exact_at(&mut records, 0).map_err(|error| (path.clone(), error))?;
        let mut stamps = Vec::new();
        for (index, (file, path)) in self.stamps.iter().enumerate() {
            load_stamps(file, VolumeIndex(index as u16), &mut stamps).map_err(|error| (path.clone(), error))?;
        }
        Ok(Memory { activity: activity::select(&records), stamps })
    }

    /// Makes the record durable, both copies in its place by one operation.
    pub(super) fn store_activity(&self, activity: &Activity) -> Result<(), Errno> {
        let (block, length) = (activity::encode(activity), TWINS * RECORD_SIZE);
        let offset = (activity.place() * length) as u64;
        match pwritev2(&self.activity.0, &[IoSlice::new(&block); TWINS], offset, ReadWriteFlags::DSYNC) {
            Ok(written) if written == length => Ok(()),
            Ok(_) => Err(Errno::NOSPC),
            Err(error) => Err(error),
        }
    }

    /// Makes the stamps durable.
    pub(super) fn store_stamps(&self, stamps: &[(Extent, ExtentStamps)]) -> Result<(), Errno> {
        let mut touched = vec![false; self.stamps.len()];
        for (extent, stamps) in stamps {
            let volume = usize::from(extent.volume.0);
            let block = activity::encode_stamps(*extent, stamps);
            let offset = u64::from(extent.index) * STAMPS_SIZE as u64;
            match pwritev2(&self.stamps[volume].0, &[IoSlice::new(&block)], offset, ReadWriteFlags::empty()) {
                Ok(STAMPS_SIZE) => touched[volume] = true,
                Ok(_) => return Err(Errno::NOSPC),
                Err(error) => return Err(error),
            }
        }
        self.stamps.iter().zip(touched).filter(|(_, touched)| *touched).try_for_each(|((file, _), _)| fdatasync(file))
    }

    /// Where the record is, for messages.
    pub(super) fn activity_path(&self) -> &Path {
        &self.activity.1
    }

    /// Where the stamps of a volume are, for messages.
    pub(super) fn stamps_path(&self, volume: VolumeIndex) -> &Path {
        &self.stamps[usize::from(volume.0)].1
    }
}

/// Reads the stamps of one volume, skipping holes.
fn load_stamps(
    file: &File,
    volume: VolumeIndex,
    into: &mut Vec<(Extent, Option<ExtentStamps>)>,
) -> Result<(), io::Error> {
    let length = file.metadata()?.len() / STAMPS_SIZE as u64 * STAMPS_SIZE as u64;
    let mut block = vec![0; BATCH * STAMPS_SIZE];
    let mut at = 0;
    while at < length {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data behind `at`.
            Err(Errno::NXIO) => break,
            // A file system without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        at = data / STAMPS_SIZE as u64 * STAMPS_SIZE as u64;
        let batch = &mut block[..(length - at).min((BATCH * STAMPS_SIZE) as u64) as usize];
        file.read_exact_at(batch, at)?;
        for (index, bytes) in (at / STAMPS_SIZE as u64..).zip(batch.chunks_exact(STAMPS_SIZE)) {
            let extent = Extent { volume, index: index as u32 };
            match activity::decode_stamps(extent.index, bytes) {
                Ok(None) => {}
                Ok(Some(stamps)) => into.push((extent, Some(stamps))),
                Err(_) => into.push((extent, None)),
            }
        }
        at += batch.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_base::{ClusterId, Epoch};
    use tandem_volume::{
        VolumeSpec,
        meta::{Chapter, REGIONS_MAX},
    };

    fn config() -> ReplicaConfig {
        let volume = |name: &str, size| VolumeSpec { name: name.try_into().expect("a name"), size };
        let volumes = vec![volume("big", 100 << 30), volume("small", 5 << 20)];
        let (group, node) = ("g".try_into().expect("a name"), "r1".try_into().expect("a name"));
        ReplicaConfig::new(ClusterId(1), group, node, [].into(), volumes)
    }

    fn extent(volume: u16, index: u32) -> Extent {
        Extent { volume: VolumeIndex(volume), index }
    }

    #[test]
    fn what_was_stored_comes_back_and_damage_makes_it_unknown() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = MemoryFiles::open(directory.path(), &config(), true).expect("it is writable");
        let fresh = files.load().expect("it is readable");
        assert!(fresh.activity.is_none() && fresh.stamps.is_empty());
        let chapter = Chapter { epoch: Epoch { number: 3, tag: 9 }, last: 77 };
        let record = |sequence| Activity {
            grain: config().grain,
            sequence,
            history: vec![chapter],
            hot: vec![extent(1, 1)],
            unknown: false,
        };
        for sequence in 1..=3 {
            files.store_activity(&record(sequence)).expect("there is room");
        }
        let stamps = |first: u64| {
            let mut stamps: ExtentStamps = Box::new([0; REGIONS_MAX]);
            stamps[5] = first;
            stamps
        };
        let stored = vec![(extent(0, 0), stamps(1)), (extent(0, 25_599), stamps(2)), (extent(1, 1), stamps(3))];
        files.store_stamps(&stored).expect("there is room");
        let disk = std::fs::metadata(directory.path().join("big.stamps")).expect("it is there");
        assert!(std::os::unix::fs::MetadataExt::blocks(&disk) * 512 < 1 << 20, "what was never written is a hole");
        drop(files);

        let files = MemoryFiles::open(directory.path(), &config(), false).expect("it is writable");
        let memory = files.load().expect("it is readable");
        assert_eq!(memory.activity, Some(record(3)));
        let expected: Vec<_> = stored.iter().map(|(extent, stamps)| (*extent, Some(stamps.clone()))).collect();
        assert_eq!(memory.stamps, expected);

        // A torn place, and torn stamps.
        let path = directory.path().join("activity");
        let mut bytes = std::fs::read(&path).expect("it is readable");
        bytes[TWINS * RECORD_SIZE..].iter_mut().step_by(512).for_each(|byte| *byte ^= 1);
        std::fs::write(&path, bytes).expect("it is writable");
        let path = directory.path().join("small.stamps");
        let mut bytes = std::fs::read(&path).expect("it is readable");
        bytes[STAMPS_SIZE + 600] ^= 1;
        std::fs::write(&path, bytes).expect("it is writable");
        let memory = MemoryFiles::open(directory.path(), &config(), false).and_then(|files| files.load());
        let memory = memory.expect("it is readable");
        assert_eq!(memory.activity, Some(record(2)));
        assert_eq!(memory.stamps[2], (extent(1, 1), None));
    }
}
