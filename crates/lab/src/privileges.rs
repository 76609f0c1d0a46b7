//! Whether this user may build a lab, and if not, what is missing.

use std::path::Path;

use rustix::{
    fs::{Mode, OFlags, open},
    process::geteuid,
};

use tandem_plan::{Attach, Plan};

use crate::LabError;

/// What root lacks in a container or a jail: the bit of the capability, its name, and what needs it.
const CAPABILITIES: [(u32, &str, &str); 2] = [
    (21, "CAP_SYS_ADMIN", "the hosts' namespaces and mounts"),
    (12, "CAP_NET_ADMIN", "the hosts' network devices and addresses"),
];

/// Looks whether `plan` can run in a lab of this user: [`LabError::Privileges`] names what it lacks.
///
/// # Errors
///
/// [`LabError::Privileges`].
pub fn check_plan(plan: &Plan) -> Result<(), LabError> {
    let devices = plan.volumes.values().find(|volume| volume.attach == Attach::Device);
    match devices {
        Some(volume) if !geteuid().is_root() => {
            let why = format!(
                "volume `{}` attaches as a device, and loop devices need root of this machine: write attach = \"file\" \
                 or \"nbd\" in the plan, or be root",
                volume.name
            );
            Err(LabError::Privileges { missing: vec![why] })
        }
        _ => check(),
    }
}

/// Tries everything that every lab needs, without leaving anything.
pub(crate) fn check() -> Result<(), LabError> {
    let mut missing = Vec::new();
    if geteuid().is_root()
        && let Some(have) = effective_capabilities()
    {
        for (bit, name, why) in CAPABILITIES {
            if have & (1 << bit) == 0 {
                missing.push(format!("root lacks the capability {name}, needed for {why}"));
            }
        }
    }
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

/// The effective capabilities of this process (proc_pid_status(5)).
fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(field.trim(), 16).ok()
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
