//! Whether this user may build a lab, and if not, what is missing.

use std::path::Path;

use rustix::{
    fs::{Mode, OFlags, open},
    process::geteuid,
};

use crate::LabError;

/// Tries everything that a lab needs, without leaving anything.
pub(crate) fn check() -> Result<(), LabError> {
    let mut missing = Vec::new();
    for (device, why) in
        [("/dev/net/tun", "the hosts' network devices (module `tun`)"), ("/dev/fuse", "volumes that attach as a file")]
    {
        if let Err(cause) = open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            missing.push(format!("{device} cannot be opened ({cause}), needed for {why}"));
        }
    }
    if !geteuid().is_root() {
        for (path, allows) in
            [("/proc/sys/kernel/unprivileged_userns_clone", "1"), ("/proc/sys/user/max_user_namespaces", "more than 0")]
        {
            if read_number(Path::new(path)) == Some(0) {
                missing.push(format!("user namespaces are off for users: {path} is 0, it must be {allows}"));
            }
        }
        if read_number(Path::new("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")) == Some(1) {
            missing.push(
                "AppArmor keeps users from user namespaces: /proc/sys/kernel/apparmor_restrict_unprivileged_userns is 1"
                    .into(),
            );
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(LabError::Privileges { missing }) }
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
