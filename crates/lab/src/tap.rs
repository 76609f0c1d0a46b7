//! A TAP device: one end is a host's network device, the other a file that the switch reads and writes.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags, open};

use crate::{LabError, error::Doing};

// linux/if_tun.h; `libc` has the ioctl numbers only on some targets.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;

/// Creates the TAP device `name` in the calling thread's network namespace, down and without address.
///
/// Frames are read and written with a `virtio_net_hdr` before them, so that a kernel hands over whole pieces of up to
/// 64 KiB with the checksum still to be made, and the other host's kernel takes them as they are: the wire between is
/// memory. Source: Documentation/networking/tuntap.rst, linux/virtio_net.h.
pub(crate) fn create(name: &str) -> Result<OwnedFd, LabError> {
    let tap = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .doing("open /dev/net/tun")?;
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("the three flags fit");
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error()).doing(format!("create the TAP device {name}"));
    }
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    if unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) } < 0 {
        return Err(io::Error::last_os_error()).doing(format!("switch the TAP device {name} to large pieces"));
    }
    Ok(tap)
}
