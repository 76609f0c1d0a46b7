//! Making a file system on a volume that has none; never over anything.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    str::FromStr,
};
use tandem_base::Duration;

use crate::mount::{MountError, tool};

/// What is read at each end of the device. Every file system, RAID member, LVM volume, LUKS header and partition table
/// that libblkid knows has a signature in the first MiB or the last (ZFS: 256 KiB from either end; MD 0.90: the last
/// 128 KiB; GPT's second table: the last 17 KiB).
const END: u64 = 1 << 20;

/// The file systems that volumes may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        })
    }
}

/// The text is no file system that a volume may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of ext4, xfs, btrfs")]
pub struct FileSystemError(String);

impl FromStr for FileSystem {
    type Err = FileSystemError;
    fn from_str(text: &str) -> Result<Self, FileSystemError> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            "btrfs" => Ok(Self::Btrfs),
            other => Err(FileSystemError(other.into())),
        }
    }
}

/// What [`make_if_blank`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// The file system was there.
    Present,
    /// The device was blank and has the file system now.
    Made,
}

/// Makes the file system on `device` if the device's first and last MiB are all zero; leaves it alone if it has that
/// file system already.
///
/// # Errors
///
/// [`MountError::NotBlank`] for anything else, known or not; [`MountError::Tool`], [`MountError::Damaged`],
/// [`MountError::TimedOut`] for what went wrong with mkfs.
pub async fn make_if_blank(device: &Path, file_system: FileSystem, timeout: Duration) -> Result<Prepared, MountError> {
    let path = device.to_owned();
    let found =
        tokio::task::spawn_blocking(move || probe(&path)).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    let found = found.map_err(|cause| MountError::Path { what: "read", path: device.to_owned(), cause })?;
    match found {
        Some(found) if found == file_system.to_string() => return Ok(Prepared::Present),
        Some(found) => return Err(MountError::NotBlank { device: device.to_owned(), found, wanted: file_system }),
        None => {}
    }
    let program = format!("mkfs.{file_system}");
    let quiet = match file_system {
        // No lazy initialization: it would write in the background for minutes, over the link.
        FileSystem::Ext4 => vec!["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        FileSystem::Xfs | FileSystem::Btrfs => vec!["-q"],
    };
    let mut arguments: Vec<OsString> = quiet.into_iter().map(OsString::from).collect();
    arguments.push(device.into());
    let (code, said) = tool(&program, &arguments, device, timeout).await?;
    if code == Some(0) {
        Ok(Prepared::Made)
    } else {
        Err(MountError::Damaged { program, device: device.to_owned(), code, said })
    }
}

/// What is on the device, in words; `None` if both its ends are zero.
fn probe(device: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(device)?;
    // A block device has no length in its metadata.
    let size = file.seek(SeekFrom::End(0))?;
    let head = read_at(&mut file, 0, END.min(size))?;
    for (offset, magic, name) in SIGNATURES {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Ok(Some((*name).into()));
        }
    }
    let tail = read_at(&mut file, size.saturating_sub(END), END.min(size))?;
    let strange = head
        .iter()
        .position(|byte| *byte != 0)
        .map(|at| at as u64)
        .or_else(|| tail.iter().position(|byte| *byte != 0).map(|at| size.saturating_sub(END) + at as u64));
    Ok(strange.map(|at| format!("unknown data from byte {at} on")))
}

fn read_at(file: &mut File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Where the commonest of them have their magic, to name them; all others are `unknown data`.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0x438, &[0x53, 0xef], "ext4"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"LUKS\xba\xbe", "a LUKS header"),
    (0x218, b"LVM2 001", "an LVM volume"),
    (0x200, b"EFI PART", "a GPT partition table"),
    (0x1000, &[0xfc, 0x4e, 0x2b, 0xa9], "an MD RAID member"),
    (0xff6, b"SWAPSPACE2", "a swap area"),
    (3, b"NTFS    ", "ntfs"),
    (510, &[0x55, 0xaa], "a partition table or a FAT file system"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn image(directory: &Path, write: &[(u64, &[u8])]) -> std::path::PathBuf {
        let path = directory.join("image");
        let file = File::create(&path).expect("it can be made");
        file.set_len(32 << 20).expect("there is space");
        for (offset, bytes) in write {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, *offset).expect("there is space");
        }
        path
    }

    #[tokio::test]
    async fn a_blank_image_is_made_once_and_then_left_alone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = image(directory.path(), &[]);
        let minute = Duration::from_secs(60);
        assert_eq!(make_if_blank(&path, FileSystem::Ext4, minute).await.expect("mkfs works"), Prepared::Made);
        let made = std::fs::read(&path).expect("it is there");
        assert_eq!(make_if_blank(&path, FileSystem::Ext4, minute).await.expect("it is there"), Prepared::Present);
        assert!(std::fs::read(&path).expect("it is there") == made, "not a byte changed");
        let other = make_if_blank(&path, FileSystem::Xfs, minute).await;
        assert!(matches!(other, Err(MountError::NotBlank { found, .. }) if found == "ext4"));
    }

    #[tokio::test]
    async fn anything_unknown_at_either_end_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for offset in [0, (1 << 20) - 1, 31 << 20, (32 << 20) - 1] {
            let path = image(directory.path(), &[(offset, &[1])]);
            let refused = make_if_blank(&path, FileSystem::Ext4, Duration::from_secs(60)).await;
            let Err(MountError::NotBlank { found, .. }) = refused else { panic!("{refused:?} at {offset}") };
            assert_eq!(found, format!("unknown data from byte {offset} on"));
        }
        let luks = image(directory.path(), &[(0, b"LUKS\xba\xbe")]);
        let refused = make_if_blank(&luks, FileSystem::Ext4, Duration::from_secs(60)).await;
        assert!(matches!(refused, Err(MountError::NotBlank { found, .. }) if found == "a LUKS header"));
    }
}
