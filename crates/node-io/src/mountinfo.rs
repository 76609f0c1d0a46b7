//! What is mounted (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One mount of this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub target: PathBuf,
    /// The file system's type, as in `ext4`.
    pub file_system: String,
    /// What was mounted: a device, or the file system's own word.
    pub source: PathBuf,
}

/// What is mounted at `target`: the topmost mount, if several lie on one another.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn at(target: &Path) -> io::Result<Option<Mounted>> {
    Ok(parse(&read()?).into_iter().rev().find(|mount| mount.target == target))
}

fn read() -> io::Result<String> {
    // The thread's own: one that entered another mount namespace sees that one. Paths need not be UTF-8; one that is not becomes unlike any path we look for.
    fs::read("/proc/thread-self/mountinfo").map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads the file's lines, in mount order; a line it does not understand is left out.
pub(crate) fn parse(text: &str) -> Vec<Mounted> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let target = before.split(' ').nth(4)?;
            let mut after = after.split(' ');
            Some(Mounted {
                target: unescape(target),
                file_system: after.next()?.into(),
                source: unescape(after.next()?),
            })
        })
        .collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(value) = value {
            plain.push(value);
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_optional_fields_and_escapes() {
        let text = "36 35 98:0 / /mnt/a\\040b rw,noatime master:1 shared:2 - ext4 /dev/loop0 rw,errors=continue\n\
                    37 35 0:5 / /proc rw - proc proc rw\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/mnt/a b"));
        assert_eq!(mounts[0].file_system, "ext4");
        assert_eq!(mounts[0].source, Path::new("/dev/loop0"));
        assert_eq!(unescape("a\\9z\\"), Path::new("a\\9z\\"));
    }

    #[test]
    fn proc_is_mounted_and_nothing_else_is_at_a_fresh_path() {
        assert_eq!(at(Path::new("/proc")).expect("proc is readable").map(|m| m.file_system), Some("proc".into()));
        assert_eq!(at(Path::new("/no/such/place")).expect("proc is readable"), None);
    }
}
