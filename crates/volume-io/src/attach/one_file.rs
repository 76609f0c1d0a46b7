//! A file system of one directory with one file: the volume.

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::{
    ffi::OsStr,
    io,
    time::{Duration, SystemTime},
};

use crate::nbd::client::{Ask, Client, Failure};

const ROOT: INodeNo = INodeNo::ROOT;
const FILE: INodeNo = INodeNo(2);
/// Nothing about the file ever changes but its content.
const TTL: Duration = Duration::from_secs(3600);
/// Bytes in one write or read: the kernel takes at most 256 pages unless its limit is raised.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel keeps in flight: enough for a deep queue of a loop device.
const MAX_BACKGROUND: u16 = 128;

/// The directory `/` with the file `/<name>`.
///
/// The page cache is bypassed (`FOPEN_DIRECT_IO`): a write is with the volume server when write(2) returns, and fsync(2)
/// is a flush of the volume, so that nothing is acknowledged that a dying attachment could lose.
pub(super) struct OneFile {
    client: Client,
    name: String,
    size: u64,
    uid: u32,
    gid: u32,
    created: SystemTime,
}

impl OneFile {
    pub(super) fn new(client: Client, name: String, size: u64) -> Self {
        Self {
            client,
            name,
            size,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            created: SystemTime::now(),
        }
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let directory = inode == ROOT;
        FileAttr {
            ino: inode,
            size: if directory { 0 } else { self.size },
            blocks: if directory { 0 } else { self.size.div_ceil(512) },
            atime: self.created,
            mtime: self.created,
            ctime: self.created,
            crtime: self.created,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o755 } else { 0o600 },
            nlink: if directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn zero(&self, mut offset: u64, mut length: u64, keep_allocated: bool, reply: ReplyEmpty) {
        // In pieces that fit the protocol's 32 bits, one after the other.
        let piece = length.min(1 << 30) as u32;
        let first = Ask::Zero { offset, length: piece, keep_allocated };
        offset += u64::from(piece);
        length -= u64::from(piece);
        let rest = Self { client: self.client.clone(), name: String::new(), ..*self };
        self.client.ask(
            first,
            Box::new(move |result| match result {
                // On a thread of its own: this one takes the replies. Rare, as a piece is a gibibyte.
                Ok(_) if length > 0 => {
                    std::thread::spawn(move || rest.zero(offset, length, keep_allocated, reply));
                }
                Ok(_) => reply.ok(),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }
}

fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::Over => Errno::EIO,
        Failure::Refused(22) => Errno::EINVAL,
        Failure::Refused(28) => Errno::ENOSPC,
        Failure::Refused(95) => Errno::EOPNOTSUPP,
        Failure::Refused(_) => Errno::EIO,
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What the kernel does not have only costs speed.
        let _ =
            config.add_capabilities(InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_MAX_PAGES | InitFlags::FUSE_ASYNC_READ);
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(MAX_WRITE) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == ROOT && name == OsStr::new(&self.name) {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let keeps_size = size.is_none_or(|size| inode == FILE && size == self.size);
        if keeps_size && mode.is_none() && uid.is_none() && gid.is_none() {
            reply.attr(&TTL, &self.attributes(inode));
        } else {
            reply.error(Errno::EPERM);
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if inode == FILE {
            let flags =
                FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH;
            reply.opened(FileHandle(0), flags);
        } else {
            reply.error(Errno::EISDIR);
        }
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = u64::from(size).min(self.size.saturating_sub(offset)) as u32;
        if length == 0 {
            return reply.data(&[]);
        }
        self.client.ask(
            Ask::Read { offset, length },
            Box::new(move |result| match result {
                Ok(data) => reply.data(&data),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The volume does not grow: a write over its end is cut, one behind it has no space.
        let length = (data.len() as u64).min(self.size.saturating_sub(offset)) as u32;
        if length == 0 {
            return if data.is_empty() { reply.written(0) } else { reply.error(Errno::ENOSPC) };
        }
        // O_SYNC contains O_DSYNC; with direct I/O the kernel does not follow up with an fsync.
        let fua = flags.0 & libc::O_DSYNC != 0;
        let data = Bytes::copy_from_slice(&data[..length as usize]);
        self.client.ask(
            Ask::Write { offset, data, fua },
            Box::new(move |result| match result {
                Ok(_) => reply.written(length),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // Nothing is cached here: close(2) has nothing to wait for.
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        self.client.ask(
            Ask::Flush,
            Box::new(move |result| match result {
                Ok(_) => reply.ok(),
                Err(failure) => reply.error(errno(failure)),
            }),
        );
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let punch = mode & libc::FALLOC_FL_PUNCH_HOLE != 0;
        let zero = mode & libc::FALLOC_FL_ZERO_RANGE != 0;
        let unknown = !(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE);
        if inode != FILE || mode & unknown != 0 || punch == zero {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let end = offset.saturating_add(length);
        if zero && mode & libc::FALLOC_FL_KEEP_SIZE == 0 && end > self.size {
            return reply.error(Errno::ENOSPC);
        }
        let length = end.min(self.size).saturating_sub(offset);
        if length == 0 {
            return reply.ok();
        }
        self.zero(offset, length, zero, reply);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (ROOT, FileType::Directory, "."),
            (ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, &self.name),
        ];
        for (place, (inode, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
            if reply.add(inode, place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        reply.statfs(self.size / 4096, 0, 0, 1, 0, 4096, 63, 4096);
    }
}
