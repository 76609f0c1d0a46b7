//! A loop device that goes away by itself (loop(4)).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u32 = 7;
/// Between asking for a free device and taking it somebody else may have taken it.
const ATTEMPTS: usize = 64;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// An attached loop device.
///
/// It is set to clear itself at its last close, and a child process that holds nothing else keeps it open until this
/// process lets go or dies. The child matters: were it this process that closes the device, a kill could make the kernel
/// write back into a file whose server is already gone, and wait for ever.
pub(super) struct LoopDevice {
    path: PathBuf,
    keeper: libc::pid_t,
    /// The keeper lives until this is closed.
    hold: OwnedFd,
}

impl LoopDevice {
    pub(super) fn attach(file: &Path) -> io::Result<Self> {
        let backing = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(file)?;
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: this ioctl takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
            let path = node(number)?;
            let device = File::options().read(true).write(true).open(&path)?;
            match configure(&device, &backing, file) {
                Ok(()) => {
                    let (keeper, hold) = keep(&device)?;
                    return Ok(Self { path, keeper, hold });
                }
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("every free loop device was taken by somebody else"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets go, and waits at most `patience` for what is written back. False when that was not enough.
    pub(super) fn detach(self, patience: Duration) -> bool {
        drop(self.hold);
        let started = Instant::now();
        while started.elapsed() < patience {
            // SAFETY: waits for our own child, no status wanted.
            match unsafe { libc::waitpid(self.keeper, std::ptr::null_mut(), libc::WNOHANG) } {
                0 => std::thread::sleep(Duration::from_millis(10)),
                _ => return true,
            }
        }
        false
    }
}

/// `/dev/loop<number>`, made if a private `/dev` lacks it.
fn node(number: u32) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return Ok(path);
    }
    let mode = rustix::fs::Mode::from_raw_mode(0o660);
    let device = rustix::fs::makedev(LOOP_MAJOR, number);
    match rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::BlockDevice, mode, device) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
        Err(error) => Err(error.into()),
    }
}

/// With direct I/O, or without where the file below cannot do it.
fn configure(device: &File, backing: &File, name: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let mut file_name = [0; 64];
    for (to, from) in file_name[..63].iter_mut().zip(name.as_os_str().as_bytes()) {
        *to = *from;
    }
    let mut error = None;
    for flags in [LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO, LO_FLAGS_AUTOCLEAR] {
        let config = LoopConfig {
            fd: u32::try_from(backing.as_raw_fd()).expect("a descriptor is not negative"),
            block_size: 0,
            info: LoopInfo64 {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags,
                file_name,
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: the kernel reads one `struct loop_config`, which `config` is.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &config) } == 0 {
            return Ok(());
        }
        let refused = io::Error::last_os_error();
        let busy = refused.raw_os_error() == Some(libc::EBUSY);
        error = Some(refused);
        if busy {
            break;
        }
    }
    Err(error.unwrap_or_else(|| io::Error::other("no attempt was made")))
}

/// Starts the child that keeps `device` open; it ends when the returned descriptor is closed.
fn keep(device: &File) -> io::Result<(libc::pid_t, OwnedFd)> {
    let (wait, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (device, wait_fd) = (device.as_raw_fd(), wait.as_raw_fd());
    // SAFETY: other threads run, so the child only makes system calls that signal-safety(7) lists, or raw ones. It must
    // not keep /dev/fuse open, so it closes everything but the two descriptors it needs.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::setsid();
                let (low, high) = (device.min(wait_fd) as libc::c_uint, device.max(wait_fd) as libc::c_uint);
                for (first, last) in [(0, low.wrapping_sub(1)), (low + 1, high - 1), (high + 1, libc::c_uint::MAX)] {
                    if first <= last && !(first == 0 && low == 0) {
                        libc::syscall(libc::SYS_close_range, first, last, 0);
                    }
                }
                let mut byte = 0u8;
                loop {
                    let count = libc::read(wait_fd, (&raw mut byte).cast(), 1);
                    let interrupted = count == -1 && *libc::__errno_location() == libc::EINTR;
                    if !interrupted {
                        break;
                    }
                }
                libc::close(device);
                libc::_exit(0)
            }
            child => Ok((child, hold)),
        }
    }
}
