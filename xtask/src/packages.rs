//! The Debian packages that tests and benchmarks use.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// A package and one file it brings: the package counts as present when the file is.
pub(crate) struct Package(&'static str, &'static str);

/// What `cargo xtask test` needs.
pub(crate) const TEST: &[Package] = &[
    Package("iproute2", "/usr/sbin/ip"),
    Package("fio", "/usr/bin/fio"),
    Package("libnbd-bin", "/usr/bin/nbdcopy"),
    Package("qemu-utils", "/usr/bin/qemu-img"),
    Package("fuse3", "/usr/bin/fusermount3"),
    Package("e2fsprogs", "/usr/sbin/mkfs.ext4"),
    Package("util-linux", "/usr/bin/unshare"),
    Package("procps", "/usr/bin/pkill"),
    Package("postgresql-15", "/usr/lib/postgresql/15/bin/postgres"),
    Package("postgresql-client-15", "/usr/lib/postgresql/15/bin/pgbench"),
];

/// What `cargo xtask bench volume` needs.
pub(crate) const BENCH: &[Package] =
    &[Package("fio", "/usr/bin/fio"), Package("nbdkit", "/usr/sbin/nbdkit"), Package("iproute2", "/usr/sbin/ip")];

/// Installs the missing ones when root; otherwise names them.
///
/// # Errors
///
/// What to install by hand, or what `apt-get` answered.
pub(crate) fn ensure(packages: &[Package]) -> Result<(), String> {
    let present = |path: &str| Path::new(path).exists() || Path::new(&path.replacen("/sbin/", "/bin/", 1)).exists();
    let missing: Vec<&str> = packages.iter().filter(|p| !present(p.1)).map(|p| p.0).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n");
    if !root {
        return Err(format!("these packages are missing; install them and try again:\n  sudo apt-get install {names}"));
    }
    eprintln!("installing {names}");
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    if apt(&["update", "-qq"]) && apt(&install) { Ok(()) } else { Err(format!("apt-get could not install {names}")) }
}
